//! What the roots of one repository reach. Pure: it is given names, tags and manifests, and reads nothing.
//!
//! Roots are tags, pins and, unless untagged manifests are judged, every manifest that is there. Edges lead from a manifest
//! to its configuration, layers and children, between a manifest and its subject both ways, and from a subject to what a tag
//! `sha256-<hex>…` of it names. A manifest's blobs are reached as long as the manifest is there, tagged or not: it goes first,
//! and they have a verdict of their own afterwards.
//!
//! # Decisions
//!
//! A name is kept as 64 bits of a hash whose key is drawn anew for each marking: 8 bytes in the place of 65. Two names of one
//! hash are judged as one, so that a clash keeps a content, until the next marking, and never loses one.

use std::hash::{BuildHasher as _, RandomState};

use crate::oci::{Algorithm, Digest, Manifest, Tag};
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
    /// From manifest to manifest, by their places.
    edges: Vec<(u32, u32)>,
    /// Reached manifests whose edges were not followed.
    waiting: Vec<u32>,
}

impl Mark {
    /// Of a repository of which nothing is known yet.
    pub(in crate::store) fn new(judges_untagged: bool) -> Self {
        Self {
            hasher: RandomState::new(),
            blobs: Names::default(),
            manifests: Names::default(),
            judges_untagged,
            edges: Vec::new(),
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
        match subject_of(tag) {
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
        if !self.judges_untagged {
            self.reach_manifest(from);
        }
        for named in manifest.config.iter().chain(&manifest.layers).chain(&manifest.manifests) {
            let print = self.print(&named.digest);
            // An index may name what was pushed as a blob, and an artifact a manifest as its layer.
            if let Some(place) = self.blobs.place(print) {
                self.blobs.reach(place);
            }
            if let Some(to) = self.manifests.place(print) {
                self.edge(from, to);
            }
        }
        if let Some(to) =
            manifest.subject.as_ref().and_then(|subject| self.manifests.place(self.print(&subject.digest)))
        {
            self.edge(from, to);
            self.edge(to, from);
        }
    }

    /// Everything was said: follows the edges, each once.
    pub(in crate::store) fn close(&mut self) {
        self.edges.sort_unstable();
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
        self.edges = Vec::new();
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
        if self.manifests.reach(place) && self.judges_untagged {
            self.waiting.push(u32::try_from(place).unwrap_or(u32::MAX));
        }
    }

    fn edge(&mut self, from: usize, to: usize) {
        if !self.judges_untagged {
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
        let place = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        self.edges.push((place(from), place(to)));
    }

    /// There are more edges than can be kept in mind: every manifest is a root.
    fn keep_untagged(&mut self) {
        tracing::warn!(
            edges = MOST_EDGES,
            "a repository has too many references between manifests: all of them are kept"
        );
        self.judges_untagged = false;
        (self.edges, self.waiting) = (Vec::new(), Vec::new());
        self.manifests.reached.fill(u64::MAX);
    }
}

/// The manifest that a tag of the scheme `sha256-<hex>`, with whatever follows, says something about (cosign's signatures; the
/// distribution specification's "referrers tag schema").
fn subject_of(tag: &Tag) -> Option<Digest> {
    Algorithm::ALL.into_iter().find_map(|algorithm| {
        let rest = tag.as_str().strip_prefix(algorithm.as_str())?.strip_prefix('-')?;
        let hex = rest.get(..algorithm.digest_len() * 2)?;
        let behind = &rest[hex.len()..];
        if behind.is_empty() || behind.starts_with(['.', '-']) { Digest::from_hex(algorithm, hex).ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use testkit::media_type::{CONFIG, LAYER};

    use super::*;

    fn digest(number: u32) -> Digest {
        Algorithm::Sha256.digest(&number.to_le_bytes())
    }

    fn descriptor(number: u32, media_type: &str) -> serde_json::Value {
        json!({ "mediaType": media_type, "digest": digest(number).to_string(), "size": 4 })
    }

    /// A manifest of these blobs and children; `subject` is named if it is one.
    fn manifest(blobs: &[u32], children: &[u32], subject: Option<u32>) -> Manifest {
        let mut manifest = if children.is_empty() {
            let layers: Vec<_> = blobs.iter().skip(1).map(|blob| descriptor(*blob, LAYER)).collect();
            testkit::image(&descriptor(blobs.first().copied().unwrap_or(0), CONFIG), &layers)
        } else {
            let image = "application/vnd.oci.image.manifest.v1+json";
            testkit::index(&children.iter().map(|child| descriptor(*child, image)).collect::<Vec<_>>())
        };
        if let Some(subject) = subject {
            manifest["subject"] = descriptor(subject, "application/vnd.oci.image.manifest.v1+json");
        }
        Manifest::parse(None, &serde_json::to_vec(&manifest).unwrap()).unwrap()
    }

    type Given<'a> = (u32, &'a [u32], &'a [u32], Option<u32>);

    /// Marks a repository of `blobs` and manifests (its number, blobs, children, subject).
    fn mark(judges_untagged: bool, blobs: &[u32], manifests: &[Given<'_>], tags: &[(&str, u32)], pins: &[u32]) -> Mark {
        let mut mark = Mark::new(judges_untagged);
        blobs.iter().for_each(|blob| mark.add(Membership::Blob, &digest(*blob)));
        manifests.iter().for_each(|given| mark.add(Membership::Manifest, &digest(given.0)));
        mark.seal();
        for (tag, target) in tags {
            assert!(mark.tag(&tag.parse().unwrap(), &digest(*target)), "{tag} leads to nothing");
        }
        pins.iter().for_each(|pin| mark.pin(&digest(*pin)));
        for (number, blobs, children, subject) in manifests {
            mark.read(&digest(*number), &manifest(blobs, children, *subject));
        }
        mark.close();
        mark
    }

    fn unreached(mark: &Mark, kind: Membership, numbers: impl IntoIterator<Item = u32>) -> Vec<u32> {
        numbers.into_iter().filter(|number| mark.judge(kind, &digest(*number)) == Judgement::Unreached).collect()
    }

    #[test]
    fn what_no_manifest_names_is_unreached_and_untagged_manifests_hold_what_they_name() {
        let manifests: &[Given<'_>] =
            &[(100, &[1, 2], &[], None), (101, &[3, 4], &[], None), (102, &[], &[101, 5], None)];
        let kept = mark(false, &[1, 2, 3, 4, 5, 6], manifests, &[("v1", 100)], &[]);
        assert_eq!(unreached(&kept, Membership::Blob, 1..=6), [6]);
        assert_eq!(unreached(&kept, Membership::Manifest, 100..=102), [0; 0]);
        assert_eq!(kept.judge(Membership::Blob, &digest(7)), Judgement::Unknown);
        assert_eq!(kept.judge(Membership::Blob, &digest(100)), Judgement::Unknown, "a manifest is no blob");

        let judged = mark(true, &[1, 2, 3, 4, 5, 6], manifests, &[("v1", 100)], &[]);
        assert_eq!(unreached(&judged, Membership::Manifest, 100..=102), [101, 102]);
        assert_eq!(unreached(&judged, Membership::Blob, 1..=6), [6], "they go behind their manifests");
    }

    #[test]
    fn pins_hold_contents_of_either_kind_with_all_below() {
        let manifests: &[Given<'_>] = &[(100, &[1], &[], None), (101, &[], &[100], None), (102, &[2], &[], None)];
        let pinned = mark(true, &[1, 2, 3], manifests, &[], &[101, 3, 9]);
        assert_eq!(unreached(&pinned, Membership::Manifest, 100..=102), [102]);
        assert_eq!(unreached(&pinned, Membership::Blob, 1..=3), [0; 0]);
    }

    #[test]
    fn subjects_hold_their_referrers_and_are_held_by_them() {
        // 101 says something about 100, 102 about 101, 104 about 103; 106 about what is not there.
        let manifests: &[Given<'_>] = &[
            (100, &[1], &[], None),
            (101, &[2], &[], Some(100)),
            (102, &[3], &[], Some(101)),
            (103, &[4], &[], None),
            (104, &[5], &[], Some(103)),
            (105, &[6], &[], None),
            (106, &[7], &[], Some(999)),
        ];
        let of_subject = mark(true, &[], manifests, &[("v1", 100)], &[]);
        assert_eq!(unreached(&of_subject, Membership::Manifest, 100..=106), [103, 104, 105, 106]);
        let of_referrer = mark(true, &[], manifests, &[("attestation", 104)], &[]);
        assert_eq!(unreached(&of_referrer, Membership::Manifest, 100..=106), [100, 101, 102, 105, 106]);
    }

    #[test]
    fn a_tag_of_the_referrers_scheme_is_its_subject_s() {
        let manifests: &[Given<'_>] = &[(100, &[1], &[], None), (101, &[2], &[], None), (102, &[3], &[], None)];
        let (of_100, of_none) = (format!("sha256-{}.sig", digest(100).hex()), format!("sha256-{}", digest(7).hex()));
        let tags = [("v1", 100), (&*of_100, 101), (&*of_none, 102)];
        let judged = mark(true, &[], manifests, &tags, &[]);
        assert_eq!(unreached(&judged, Membership::Manifest, 100..=102), [102]);
        let untagged = mark(true, &[], manifests, &tags[1..], &[]);
        assert_eq!(unreached(&untagged, Membership::Manifest, 100..=102), [100, 101, 102]);
        for (tag, is) in [
            ("v1".to_owned(), false),
            (digest(1).hex(), false),
            (format!("sha256-{}", digest(1).hex()), true),
            (format!("sha256-{}.att", digest(1).hex()), true),
            (format!("sha256-{}a", digest(1).hex()), false),
            (format!("sha256-{}", &digest(1).hex()[1..]), false),
            (format!("sha512-{}", Algorithm::Sha512.digest(b"").hex()), false),
        ] {
            // A tag has 128 characters at most: none of SHA-512 fits whole.
            let Ok(tag) = tag.parse::<Tag>() else { continue };
            assert_eq!(subject_of(&tag).is_some(), is, "{tag}");
        }
    }

    #[test]
    fn a_tag_that_leads_to_nothing_is_told() {
        let mut mark = Mark::new(false);
        mark.seal();
        assert!(!mark.tag(&"v1".parse().unwrap(), &digest(1)));
    }

    /// Law (k). A chain of indexes, each of which names the next one, all before it, itself and one blob: each edge is
    /// followed once, so that a thousand times a thousand of them are done.
    #[test]
    fn nested_and_cyclic_indexes_are_linear() {
        const DEEP: u32 = 1000;
        let children: Vec<Vec<u32>> =
            (0..DEEP).map(|number| (0..=(number + 1).min(DEEP - 1)).chain([DEEP + number]).collect()).collect();
        let manifests: Vec<Given<'_>> =
            children.iter().zip(0..).map(|(children, number)| (number, &[][..], &children[..], None)).collect();
        let blobs: Vec<u32> = (DEEP..2 * DEEP).collect();
        let all = mark(true, &blobs, &manifests, &[("root", 0)], &[]);
        assert_eq!(unreached(&all, Membership::Manifest, 0..DEEP), [0; 0]);
        assert_eq!(unreached(&all, Membership::Blob, DEEP..2 * DEEP), [0; 0]);
        let none = mark(true, &blobs, &manifests, &[], &[]);
        assert_eq!(unreached(&none, Membership::Manifest, 0..DEEP).len(), DEEP as usize, "a circle holds nothing");
    }

    #[test]
    fn more_edges_than_can_be_kept_in_mind_keep_every_manifest() {
        const INDEXES: u32 = 1100;
        let mut mark = Mark::new(true);
        (0..INDEXES).for_each(|number| mark.add(Membership::Manifest, &digest(number)));
        mark.add(Membership::Blob, &digest(9999));
        mark.seal();
        let all = manifest(&[], &(0..INDEXES).collect::<Vec<_>>(), None);
        (0..INDEXES).for_each(|number| mark.read(&digest(number), &all));
        mark.close();
        assert_eq!(unreached(&mark, Membership::Manifest, 0..INDEXES), [0; 0]);
        assert_eq!(unreached(&mark, Membership::Blob, [9999]), [9999]);
    }
}
