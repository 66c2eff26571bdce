//! What the roots of one repository reach. Pure: it is given names, tags and manifests, and reads nothing.
//!
//! Roots are tags, pins and, unless untagged manifests are judged, every manifest that is there and was not given up: one of which
//! a rule of retention took the tags. What only such a one leads to (its children, what refers to it) is no root either. Edges lead from a manifest
//! to its configuration, layers and children, between a manifest and its subject both ways, and from a subject to what a tag
//! `sha256-<hex>…` of it names. A manifest's blobs are reached as long as the manifest is there, tagged or not: it goes first,
//! and they have a verdict of their own afterwards. Those of a manifest that was given up have theirs with it.
//!
//! # Decisions
//!
//! A name is kept as 64 bits of a hash whose key is drawn anew for each marking: 8 bytes in the place of 65. Two names of one
//! hash are judged as one, so that a clash keeps a content, until the next marking, and never loses one.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

use crate::oci::{Digest, Manifest, Tag};
use crate::store::layout::Membership;

/// Most edges between manifests that are kept in mind, 8 bytes each. A repository with more has its untagged manifests kept.
const MOST_EDGES: usize = 1 << 20;

/// What is found of one content of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Judgement {
    /// A root leads to it.
    Reached,
    /// A blob that no manifest names, or a manifest that no tag and no pin leads to.
    Unreached,
    /// It came or went while names were gathered: nothing is said of it.
    Unknown,
}

/// Names of one kind, and which of them are reached.
#[derive(Debug, Default)]
struct Names {
    /// In order, each once.
    prints: Vec<u64>,
    reached: Vec<u64>,
}

impl Names {
    fn seal(&mut self) {
        self.prints.sort_unstable();
        self.prints.dedup();
        self.reached = vec![0; self.prints.len().div_ceil(64)];
    }

    fn place(&self, print: u64) -> Option<usize> {
        self.prints.binary_search(&print).ok()
    }

    fn is_reached(&self, place: usize) -> bool {
        self.reached[place / 64] >> (place % 64) & 1 == 1
    }

    /// `true`: it was not reached before.
    fn reach(&mut self, place: usize) -> bool {
        let fresh = !self.is_reached(place);
        self.reached[place / 64] |= 1 << (place % 64);
        fresh
    }

    fn judge(&self, print: u64) -> Judgement {
        match self.place(print) {
            None => Judgement::Unknown,
            Some(place) if self.is_reached(place) => Judgement::Reached,
            Some(_) => Judgement::Unreached,
        }
    }
}

/// The marking of one repository, in this order: [`Mark::add`] each name, [`Mark::seal`], [`Mark::tag`] and [`Mark::pin`] each
/// root, [`Mark::read`] each manifest once, [`Mark::close`], [`Mark::judge`].
#[derive(Debug)]
pub(in crate::store) struct Mark {
    hasher: RandomState,
    blobs: Names,
    manifests: Names,
    /// Whether a manifest without tag is no root.
    judges_untagged: bool,
    /// Manifests that are no roots for being there, and do not hold their blobs.
    given_up: HashSet<Digest>,
    /// From manifest to manifest, by their places.
    edges: Vec<(u32, u32)>,
    /// Those of them that lead to what would not be there without the first: its children, and what refers to it.
    down: Vec<(u32, u32)>,
    /// From a manifest that was given up to a blob.
    holds: Vec<(u32, u32)>,
    /// Reached manifests whose edges were not followed.
    waiting: Vec<u32>,
}

impl Mark {
    /// Of a repository of which nothing is known yet.
    pub(in crate::store) fn new(judges_untagged: bool, given_up: HashSet<Digest>) -> Self {
        Self {
            hasher: RandomState::new(),
            blobs: Names::default(),
            manifests: Names::default(),
            judges_untagged,
            given_up,
            edges: Vec::new(),
            down: Vec::new(),
            holds: Vec::new(),
            waiting: Vec::new(),
        }
    }

    fn print(&self, digest: &Digest) -> u64 {
        self.hasher.hash_one(digest)
    }

    /// The repository has this content.
    pub(in crate::store) fn add(&mut self, kind: Membership, digest: &Digest) {
        let print = self.print(digest);
        match kind {
            Membership::Blob => self.blobs.prints.push(print),
            Membership::Manifest => self.manifests.prints.push(print),
        }
    }

    /// All names were added.
    pub(in crate::store) fn seal(&mut self) {
        self.blobs.seal();
        self.manifests.seal();
    }

    /// The repository has this tag. `false`: it leads to no manifest that is there.
    pub(in crate::store) fn tag(&mut self, tag: &Tag, target: &Digest) -> bool {
        let Some(to) = self.manifests.place(self.print(target)) else { return false };
        match tag.subject() {
            // The subject's, or nobody's: no root.
            Some(subject) if self.judges_untagged => {
                if let Some(from) = self.manifests.place(self.print(&subject)) {
                    self.edge(from, to);
                }
            }
            _ => self.reach_manifest(to),
        }
        true
    }

    /// The content stays, whatever it is stored as.
    pub(in crate::store) fn pin(&mut self, digest: &Digest) {
        let print = self.print(digest);
        if let Some(place) = self.blobs.place(print) {
            self.blobs.reach(place);
        }
        if let Some(place) = self.manifests.place(print) {
            self.reach_manifest(place);
        }
    }

    /// The repository has this manifest.
    pub(in crate::store) fn read(&mut self, digest: &Digest, manifest: &Manifest) {
        let Some(from) = self.manifests.place(self.print(digest)) else { return };
        let is_given_up = self.given_up.contains(digest);
        if !self.follows() {
            self.reach_manifest(from);
        }
        for named in manifest.config.iter().chain(&manifest.layers).chain(&manifest.manifests) {
            let print = self.print(&named.digest);
            // An index may name what was pushed as a blob, and an artifact a manifest as its layer.
            if let Some(place) = self.blobs.place(print) {
                self.hold(from, place, is_given_up);
            }
            if let Some(to) = self.manifests.place(print) {
                self.edge(from, to);
                self.edge_down(from, to);
            }
        }
        if let Some(to) =
            manifest.subject.as_ref().and_then(|subject| self.manifests.place(self.print(&subject.digest)))
        {
            self.edge(from, to);
            self.edge(to, from);
            self.edge_down(to, from);
        }
    }

    /// Everything was said: follows the edges, each once.
    pub(in crate::store) fn close(&mut self) {
        self.edges.sort_unstable();
        self.follow();
        if self.follows() && !self.judges_untagged {
            let hanging = self.hanging();
            for place in 0..self.manifests.prints.len() {
                if !hanging.is_reached(place) {
                    self.reach_manifest(place);
                }
            }
            self.follow();
        }
        for (manifest, blob) in std::mem::take(&mut self.holds) {
            if self.manifests.is_reached(manifest as usize) {
                self.blobs.reach(blob as usize);
            }
        }
        (self.edges, self.down) = (Vec::new(), Vec::new());
    }

    fn follow(&mut self) {
        while let Some(from) = self.waiting.pop() {
            let first = self.edges.partition_point(|edge| edge.0 < from);
            for at in first..self.edges.len() {
                let (of, to) = self.edges[at];
                if of != from {
                    break;
                }
                self.reach_manifest(to as usize);
            }
        }
    }

    /// The manifests that were given up and not reached so far, with all that hangs on them.
    fn hanging(&mut self) -> Names {
        self.down.sort_unstable();
        let mut hanging = Names { prints: Vec::new(), reached: vec![0; self.manifests.reached.len()] };
        let given_up = self.given_up.iter().filter_map(|digest| self.manifests.place(self.print(digest)));
        let mut waiting: Vec<usize> = given_up.filter(|place| !self.manifests.is_reached(*place)).collect();
        waiting.retain(|place| hanging.reach(*place));
        while let Some(from) = waiting.pop() {
            let first = self.down.partition_point(|edge| (edge.0 as usize) < from);
            for (_, to) in self.down[first..].iter().take_while(|edge| edge.0 as usize == from) {
                let to = *to as usize;
                if !self.manifests.is_reached(to) && hanging.reach(to) {
                    waiting.push(to);
                }
            }
        }
        hanging
    }

    /// Whether every manifest that is there was a root but those that were given up.
    pub(in crate::store) const fn keeps_untagged(&self) -> bool {
        !self.judges_untagged
    }

    /// What is found of the content of that name.
    pub(in crate::store) fn judge(&self, kind: Membership, digest: &Digest) -> Judgement {
        let names = match kind {
            Membership::Blob => &self.blobs,
            Membership::Manifest => &self.manifests,
        };
        names.judge(self.print(digest))
    }

    fn reach_manifest(&mut self, place: usize) {
        // Where all are roots no edge has to be followed.
        if self.manifests.reach(place) && self.follows() {
            self.waiting.push(edge_end(place));
        }
    }

    /// Whether some manifest is no root for being there, so that edges count.
    fn follows(&self) -> bool {
        self.judges_untagged || !self.given_up.is_empty()
    }

    fn hold(&mut self, from: usize, blob: usize, is_given_up: bool) {
        if is_given_up && self.holds.len() < MOST_EDGES {
            self.holds.push((edge_end(from), edge_end(blob)));
        } else {
            self.blobs.reach(blob);
        }
    }

    fn edge_down(&mut self, from: usize, to: usize) {
        if self.follows() && !self.judges_untagged && self.down.len() < MOST_EDGES {
            self.down.push((edge_end(from), edge_end(to)));
        }
    }

    fn edge(&mut self, from: usize, to: usize) {
        if !self.follows() {
            return;
        }
        if self.edges.len() == MOST_EDGES {
            self.edges.sort_unstable();
            self.edges.dedup();
            if self.edges.len() > MOST_EDGES / 2 {
                self.keep_untagged();
                return;
            }
        }
        self.edges.push((edge_end(from), edge_end(to)));
    }

    /// There are more edges than can be kept in mind: every manifest is a root.
    fn keep_untagged(&mut self) {
        tracing::warn!(
            edges = MOST_EDGES,
            "a repository has too many references between manifests: all of them are kept"
        );
        self.judges_untagged = false;
        self.given_up = HashSet::new();
        (self.edges, self.down, self.waiting) = (Vec::new(), Vec::new(), Vec::new());
        self.manifests.reached.fill(u64::MAX);
    }
}

fn edge_end(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
