//! Removing what was learnt from upstreams: the least recently used first, or all that was not used for too long.
//!
//! Only memberships of cached repositories go; bytes that a pushed repository has too stay. Nothing that is being read
//! goes, and, if so asked, nothing that a stored tag or a pin reaches. For what can't fit nothing goes at all: what could be freed is
//! added up before anything is removed. Blocking, from a walk over the tree: rare, and never on a reader's way.

use std::collections::{BinaryHeap, HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use super::manifests::Manifests;
use super::tags::read_tag;
use super::walk::{Members, Repositories, SkippedEntries, Tags};
use crate::clock::Timestamp;
use crate::fs::stat;
use crate::oci::{Digest, Reference, RepoName};
use crate::store::contents::fills::Fills;
use crate::store::contents::uses::Uses;
use crate::store::error::StoreError;
use crate::store::layout::Membership;
use crate::telemetry::DamageCause;

/// Most contents that one walk keeps in mind, about 200 bytes each; the walk is repeated for more.
const CANDIDATES: usize = 100_000;

/// Contents to remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Eviction {
    /// Bytes to free: the least recently used goes until they are freed, or, where fewer can be, all that may go.
    pub need: u64,
    /// Number of contents to remove at least: what lacks may be inodes.
    pub contents: u64,
    /// Bytes that can be freed at least; else nothing is removed at all.
    pub goal: u64,
    /// Remove what was not used for longer than this.
    pub idle: Option<Duration>,
    /// What stays whatever is wanted.
    pub spare: Spare,
}

/// What an eviction leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spare {
    /// Nothing: all could be fetched again, or nobody is to have it.
    #[default]
    Nothing,
    /// What a stored tag reaches: it can't be fetched again now.
    Tagged,
    /// What a pin names, with all that it names in turn.
    Pinned,
}

/// Contents that were removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Contents that are gone from all cached repositories.
    pub contents: u64,
    /// Bytes that they freed.
    pub bytes: u64,
    /// Fewer bytes could be freed than [`Eviction::goal`], so nothing was removed.
    pub hopeless: bool,
}

impl Eviction {
    const fn is_for_room(&self) -> bool {
        self.need > 0 || self.contents > 0 || self.goal > 0
    }

    /// Whether more is to be removed for room.
    const fn goes_on(&self, evicted: &Evicted) -> bool {
        evicted.bytes < self.need || evicted.contents < self.contents
    }
}

/// The memberships of each content.
type Memberships = HashMap<Digest, Vec<(RepoName, Membership)>>;

/// A content of cached repositories, ordered by its last use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    used: Timestamp,
    is_manifest: bool,
    digest: Digest,
    size: u64,
    /// Names of its file in repositories of whatever kind, and in snapshots: each of them keeps its bytes.
    links: u64,
}

/// Contents that may go.
struct Candidates {
    /// The least recently used first.
    oldest: Vec<Candidate>,
    memberships: Memberships,
    /// Bytes of those that were too many to be kept in mind.
    beyond: u64,
}

/// The parts that an eviction looks at and removes from.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct EvictionWalk<'a> {
    pub(in crate::store) manifests: &'a Manifests,
    pub(in crate::store) fills: &'a Fills,
    pub(in crate::store) uses: &'a Uses,
}

impl EvictionWalk<'_> {
    /// Removes what `wanted` names; blocking.
    pub(in crate::store) fn evict(&self, wanted: &Eviction, now: Timestamp) -> Result<Evicted, StoreError> {
        let mut evicted = Evicted::default();
        // Fills that nobody goes on with go before contents that can be served.
        let fills = if wanted.is_for_room() { self.fills.unheld_bytes(&self.manifests.contents.layout)? } else { 0 };
        if fills > 0 && fills >= wanted.need.max(wanted.goal) && wanted.contents == 0 {
            if wanted.need > 0 {
                evicted.bytes = self.fills.reap(&self.manifests.contents, None, now)?.1;
            }
            return Ok(evicted);
        }
        let skipped = SkippedEntries::default();
        let repositories: Vec<RepoName> =
            Repositories::new(&self.manifests.contents.layout, &skipped).filter(RepoName::is_cached).collect();
        let spared = self.spared(&repositories, wanted.spare);
        let candidates = self.candidates(&repositories, &spared, now)?;
        if wanted.goal > 0 && fills.saturating_add(self.can_be_freed(&candidates)) < wanted.goal {
            evicted.hopeless = true;
            return Ok(evicted);
        }
        if fills > 0 && (wanted.need > 0 || wanted.contents > 0) {
            evicted.bytes += self.fills.reap(&self.manifests.contents, None, now)?.1;
        }
        let Candidates { oldest, memberships, .. } = candidates;
        // For room the blobs go first: a manifest frees next to nothing, and its tags go with it.
        let (manifests, blobs): (Vec<_>, Vec<_>) = oldest.into_iter().partition(|candidate| candidate.is_manifest);
        for group in [blobs, manifests] {
            self.evict_oldest(&group, &memberships, wanted, now, &mut evicted)?;
        }
        Ok(evicted)
    }

    /// Bytes that the removal of all candidates would free: of those that nobody reads and no other repository has.
    fn can_be_freed(&self, Candidates { oldest, memberships, beyond }: &Candidates) -> u64 {
        let freed = oldest.iter().filter(|candidate| {
            let here = memberships.get(&candidate.digest).map_or(0, |memberships| memberships.len() as u64);
            here >= candidate.links && !self.uses.is_read(&candidate.digest)
        });
        freed.map(|candidate| candidate.size).sum::<u64>().saturating_add(*beyond)
    }

    /// Removes from the front of `candidates` what `wanted` names.
    fn evict_oldest(
        &self,
        candidates: &[Candidate],
        memberships: &Memberships,
        wanted: &Eviction,
        now: Timestamp,
        evicted: &mut Evicted,
    ) -> Result<(), StoreError> {
        let mut failed = None;
        for candidate in candidates {
            let unused = now.since(candidate.used);
            let too_old = wanted.idle.is_some_and(|idle| unused.is_some_and(|unused| unused > idle));
            if !too_old && !wanted.goes_on(evicted) {
                // The rest was used later.
                break;
            }
            if self.uses.is_read(&candidate.digest) {
                continue;
            }
            match self.remove_everywhere(candidate, memberships.get(&candidate.digest).map_or(&[], Vec::as_slice)) {
                Ok(freed) => {
                    crate::telemetry::disk_moved();
                    evicted.contents += 1;
                    evicted.bytes += freed;
                }
                // One that can't be removed must not keep others from it.
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if evicted.contents == 0 => Err(error),
            Some(error) => {
                tracing::warn!(error = %crate::telemetry::with_causes(&error), "some of what may go can't be removed");
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Everything that may go, least recently used first, and in which repositories it is.
    fn candidates(
        &self,
        repositories: &[RepoName],
        spared: &HashSet<Digest>,
        now: Timestamp,
    ) -> Result<Candidates, StoreError> {
        let skipped = SkippedEntries::default();
        let mut heap: BinaryHeap<Candidate> = BinaryHeap::new();
        let mut memberships = Memberships::new();
        let mut beyond: u64 = 0;
        for repo in repositories {
            for kind in [Membership::Blob, Membership::Manifest] {
                for digest in Members::new(&self.manifests.contents.layout, repo, kind, &skipped) {
                    // A damaged one is of no use to anybody.
                    if spared.contains(&digest) && !self.manifests.contents.damage.has(&digest) {
                        continue;
                    }
                    let path = self.manifests.contents.layout.member(repo, kind, &digest);
                    let facts = match stat(&path) {
                        Ok(Some(facts)) => facts,
                        Ok(None) => continue,
                        Err(error) => {
                            skipped.note(&path, &crate::telemetry::with_causes(&error));
                            continue;
                        }
                    };
                    let is_damaged = self.manifests.contents.damage.is_listed(&digest, facts.ino());
                    if spared.contains(&digest) && !is_damaged {
                        continue;
                    }
                    crate::telemetry::disk_moved();
                    let known = memberships.entry(digest).or_default();
                    known.push((repo.clone(), kind));
                    if known.len() > 1 {
                        continue;
                    }
                    // A content that was read since the last writing down is younger than its file says.
                    let used = match facts.modified() {
                        Ok(_) if is_damaged => Timestamp::from_millis(0),
                        Ok(written) => self.uses.noted(&digest).unwrap_or_else(|| written.into()),
                        Err(_) => now,
                    };
                    let is_manifest = kind == Membership::Manifest;
                    // One name is the content's own.
                    let links = facts.nlink().saturating_sub(1);
                    heap.push(Candidate { used, is_manifest, digest, size: facts.len(), links });
                    if heap.len() > CANDIDATES
                        && let Some(youngest) = heap.pop()
                    {
                        let known =
                            memberships.remove(&youngest.digest).map_or(0, |memberships| memberships.len() as u64);
                        // Its other names are met again: each counts for its part.
                        beyond = beyond.saturating_add(youngest.size / youngest.links.max(1) * known);
                    }
                }
            }
        }
        Ok(Candidates { oldest: heap.into_sorted_vec(), memberships, beyond })
    }

    /// Takes a content out of its cached repositories; says how many bytes that freed.
    fn remove_everywhere(
        &self,
        candidate: &Candidate,
        memberships: &[(RepoName, Membership)],
    ) -> Result<u64, StoreError> {
        for (repo, kind) in memberships {
            match kind {
                Membership::Blob => {
                    let writing = self.manifests.memory.deleting(repo);
                    let name = self.manifests.contents.layout.member(repo, Membership::Blob, &candidate.digest);
                    let removed = self.manifests.contents.remove(&name, &candidate.digest);
                    drop(writing);
                    removed?;
                }
                Membership::Manifest => {
                    match self.manifests.delete_manifest(repo, &Reference::Digest(candidate.digest)) {
                        Ok(()) | Err(StoreError::ManifestUnknown) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        let kept = stat(&self.manifests.contents.layout.content(&candidate.digest))?.is_some()
            || self.manifests.contents.damage.has(&candidate.digest)
            || candidate.links > memberships.len() as u64;
        Ok(if kept { 0 } else { candidate.size })
    }

    /// What stays of `repositories`, down to the last layer.
    fn spared(&self, repositories: &[RepoName], spare: Spare) -> HashSet<Digest> {
        let mut reached = HashSet::new();
        let pins = self.manifests.ledger.settings.pins();
        let roots: &dyn Fn(&RepoName) -> Vec<Digest> = match spare {
            Spare::Nothing => return reached,
            Spare::Tagged => &|repo| self.tagged(repo),
            Spare::Pinned => {
                reached.extend(pins.iter().copied());
                &|repo| self.pinned(repo, &pins)
            }
        };
        let mut walked = HashSet::new();
        for repo in repositories {
            let mut waiting = roots(repo);
            while let Some(digest) = waiting.pop() {
                reached.insert(digest);
                if walked.contains(&digest) {
                    continue;
                }
                // A damaged one reaches nothing that could be served; another repository may have a whole one.
                if let Ok(Some(stored)) = self.manifests.read_manifest(repo, digest) {
                    walked.insert(digest);
                    reached.extend(stored.manifest.required_blobs().map(|blob| blob.digest));
                    waiting.extend(stored.manifest.manifests.iter().map(|child| child.digest));
                }
            }
        }
        reached
    }

    /// What the tags of a repository lead to.
    fn tagged(&self, repo: &RepoName) -> Vec<Digest> {
        let (layout, skipped) = (&self.manifests.contents.layout, SkippedEntries::default());
        let mut targets = Vec::new();
        for tag in Tags::new(layout, repo, &skipped) {
            match read_tag(layout, repo, &tag) {
                Ok(target) => targets.extend(target),
                // It leads nowhere, and must not keep others from being removed.
                Err(error) => self.manifests.contents.damage.note(DamageCause::Tag, &error),
            }
        }
        targets
    }

    /// The manifests of a repository that are pinned.
    fn pinned(&self, repo: &RepoName, pins: &HashSet<Digest>) -> Vec<Digest> {
        let skipped = SkippedEntries::default();
        Members::manifests(&self.manifests.contents.layout, repo, &skipped)
            .filter(|digest| pins.contains(digest))
            .collect()
    }
}
