//! Removing what was learnt from upstreams: the least recently used first, or all that was not used for too long.
//!
//! Only memberships of cached repositories go; bytes that a pushed repository has too stay. Nothing that is being read
//! goes, and, if so asked, nothing that a stored tag reaches. Blocking, from a walk over the tree: rare, and never on a
//! reader's way.

use std::collections::{BinaryHeap, HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use super::contents::stat;
use super::layout::Membership;
use super::walk::{Members, Oddities, Repositories, Tags};
use super::{Inner, StoreError};
use crate::clock::Timestamp;
use crate::oci::{Digest, Reference, RepoName};
use crate::telemetry::DamageCause;

/// Most contents that one walk keeps in mind, about 200 bytes each; the walk is repeated for more.
const CANDIDATES: usize = 100_000;

/// What to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Remove the least recently used until so many bytes are free.
    pub need: u64,
    /// Remove what was not used for so long.
    pub idle: Option<Duration>,
    /// Leave what a stored tag reaches: it can't be fetched again now.
    pub spare_tagged: bool,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Contents that are gone from all cached repositories.
    pub contents: u64,
    /// Bytes that they freed.
    pub bytes: u64,
}

/// Where each content is.
type Homes = HashMap<Digest, Vec<(RepoName, Membership)>>;

/// A content of cached repositories, ordered by its last use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    used: Timestamp,
    is_manifest: bool,
    digest: Digest,
    size: u64,
}

impl Inner {
    /// Removes what `wanted` names; blocking.
    pub(super) fn evict(&self, wanted: &Eviction, now: Timestamp) -> Result<Evicted, StoreError> {
        let mut evicted = Evicted::default();
        if wanted.need > 0 {
            // What nobody fills any more comes before what can be served.
            evicted.bytes += self.fills.reap(self.shelf(), None, now)?.1;
            if evicted.bytes >= wanted.need {
                return Ok(evicted);
            }
        }
        let oddities = Oddities::default();
        let repositories: Vec<RepoName> =
            Repositories::new(&self.layout, &oddities).filter(RepoName::is_cached).collect();
        let spared = if wanted.spare_tagged { self.reached_by_tags(&repositories)? } else { HashSet::new() };
        let (candidates, homes) = self.candidates(&repositories, &spared, now)?;
        // For room the blobs go first: a manifest frees next to nothing, and its tags go with it.
        let (manifests, blobs): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|candidate| candidate.is_manifest);
        for group in [blobs, manifests] {
            self.evict_oldest(&group, &homes, wanted, now, &mut evicted)?;
        }
        Ok(evicted)
    }

    /// Removes from the front of `candidates` what `wanted` names.
    fn evict_oldest(
        &self,
        candidates: &[Candidate],
        homes: &Homes,
        wanted: &Eviction,
        now: Timestamp,
        evicted: &mut Evicted,
    ) -> Result<(), StoreError> {
        let mut failed = None;
        for candidate in candidates {
            let unused = now.since(candidate.used);
            let too_old = wanted.idle.is_some_and(|idle| unused.is_some_and(|unused| unused > idle));
            let for_room = evicted.bytes < wanted.need;
            if !too_old && !for_room {
                // The rest was used later.
                break;
            }
            if self.uses.is_read(&candidate.digest) {
                continue;
            }
            match self.remove_everywhere(candidate, homes.get(&candidate.digest).map_or(&[], Vec::as_slice)) {
                Ok(freed) => {
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
    ) -> Result<(Vec<Candidate>, Homes), StoreError> {
        let oddities = Oddities::default();
        let mut heap = BinaryHeap::new();
        let mut homes = Homes::new();
        for repo in repositories {
            for kind in [Membership::Blob, Membership::Manifest] {
                for digest in Members::new(&self.layout, repo, kind, &oddities) {
                    // A damaged one is of no use to anybody.
                    if spared.contains(&digest) && !self.damage.has(&digest) {
                        continue;
                    }
                    let path = self.layout.member(repo, kind, &digest);
                    let facts = match stat(&path) {
                        Ok(Some(facts)) => facts,
                        Ok(None) => continue,
                        Err(error) => {
                            oddities.note(&path, &crate::telemetry::with_causes(&error));
                            continue;
                        }
                    };
                    let is_damaged = self.damage.is_listed(&digest, facts.ino());
                    if spared.contains(&digest) && !is_damaged {
                        continue;
                    }
                    let known = homes.entry(digest).or_default();
                    known.push((repo.clone(), kind));
                    if known.len() > 1 {
                        continue;
                    }
                    // What was read since the last writing down is younger than its file says.
                    let used = match facts.modified() {
                        Ok(_) if is_damaged => Timestamp::from_millis(0),
                        Ok(written) => self.uses.noted(&digest).unwrap_or_else(|| written.into()),
                        Err(_) => now,
                    };
                    let is_manifest = kind == Membership::Manifest;
                    heap.push(Candidate { used, is_manifest, digest, size: facts.len() });
                    if heap.len() > CANDIDATES
                        && let Some(youngest) = heap.pop()
                    {
                        homes.remove(&youngest.digest);
                    }
                }
            }
        }
        Ok((heap.into_sorted_vec(), homes))
    }

    /// Takes a content out of its cached repositories; says how many bytes that freed.
    fn remove_everywhere(&self, candidate: &Candidate, homes: &[(RepoName, Membership)]) -> Result<u64, StoreError> {
        for (repo, kind) in homes {
            match kind {
                Membership::Blob => {
                    let moving = self.memory.deleting(repo);
                    let removed = self.shelf().remove(repo, Membership::Blob, &candidate.digest);
                    drop(moving);
                    removed?;
                }
                Membership::Manifest => match self.delete_manifest(repo, &Reference::Digest(candidate.digest)) {
                    Ok(()) | Err(StoreError::ManifestUnknown) => {}
                    Err(error) => return Err(error),
                },
            }
        }
        let kept = stat(&self.layout.content(&candidate.digest))?.is_some() || self.damage.has(&candidate.digest);
        Ok(if kept { 0 } else { candidate.size })
    }

    /// All that the tags of `repositories` lead to, down to the last layer.
    fn reached_by_tags(&self, repositories: &[RepoName]) -> Result<HashSet<Digest>, StoreError> {
        let oddities = Oddities::default();
        let mut reached = HashSet::new();
        for repo in repositories {
            let mut waiting = Vec::new();
            for tag in Tags::new(&self.layout, repo, &oddities) {
                match super::manifests::read_tag(&self.layout, repo, &tag) {
                    Ok(target) => waiting.extend(target),
                    // It leads nowhere, and must not keep others from being removed.
                    Err(error) => self.damage.note(DamageCause::Tag, &error),
                }
            }
            while let Some(digest) = waiting.pop() {
                if !reached.insert(digest) {
                    continue;
                }
                // A damaged one reaches nothing that could be served.
                if let Ok(Some(stored)) = self.read_manifest(repo, digest) {
                    reached.extend(stored.manifest.required_blobs().map(|blob| blob.digest));
                    waiting.extend(stored.manifest.manifests.iter().map(|child| child.digest));
                }
            }
        }
        Ok(reached)
    }

    /// Whether a manifest stored in the repository names the content; blocking, reads them all.
    pub(super) fn is_named(&self, repo: &RepoName, digest: &Digest) -> Result<bool, StoreError> {
        let oddities = Oddities::default();
        for manifest in Members::manifests(&self.layout, repo, &oddities) {
            // A damaged one names nothing that could be believed.
            if let Ok(Some(stored)) = self.read_manifest(repo, manifest)
                && stored.manifest.required_blobs().any(|blob| blob.digest == *digest)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
