//! A repository is taken into a snapshot beside pushes and deletes, without a lock.
//!
//! Tags are read first, then manifests, then blobs: a push goes the other way, so what a tag leads to was there before the tag.
//! A delete goes against that, and so a repository from which something was deleted meanwhile is taken once more. A tag whose
//! manifest is not taken is not taken either.

use std::collections::HashSet;

use super::catalog::{Entry, ListWriter};
use super::keeper::Snapshots;
use super::report::{SnapshotError, SnapshotSummary};
use crate::fs::stat;
use crate::oci::{Digest, RepoName, Tag};
use crate::store::contents::snapshots::Kept;
use crate::store::error::StoreError;
use crate::store::layout::{Membership, SnapshotFolder};
use crate::store::repositories::generations::NO_GENERATION;
use crate::store::repositories::tags::read_tag;
use crate::store::repositories::walk::{Members, SkippedEntries, Tags};

/// Times that a repository is taken from which something is deleted meanwhile, before it is given up: one of 100,000 blobs that
/// was linked before is through again in a second.
pub(super) const ATTEMPTS: usize = 64;

impl Snapshots {
    /// Takes a repository; what it holds is added to the sums.
    ///
    /// # Errors
    /// [`SnapshotError::Restless`]: a manifest might be in it without a blob that was deleted in that moment.
    pub(super) fn take(
        &self,
        folder: &SnapshotFolder,
        repo: &RepoName,
        list: &mut ListWriter,
        sums: &mut SnapshotSummary,
    ) -> Result<(), SnapshotError> {
        let memory = &self.manifests.memory;
        for _ in 0..ATTEMPTS {
            let (place, before) = (list.place(), sums.clone());
            let seen = memory.stable_deletions(repo);
            self.take_once(folder, repo, list, sums)?;
            if seen != NO_GENERATION && memory.stable_deletions(repo) == seen {
                return Ok(());
            }
            list.back_to(place)?;
            // The links stay, and count.
            *sums = SnapshotSummary { contents: sums.contents, bytes: sums.bytes, ..before };
        }
        Err(SnapshotError::Restless { repository: repo.clone(), attempts: ATTEMPTS })
    }

    fn take_once(
        &self,
        folder: &SnapshotFolder,
        repo: &RepoName,
        list: &mut ListWriter,
        sums: &mut SnapshotSummary,
    ) -> Result<(), SnapshotError> {
        let (layout, place) = (&self.manifests.contents.layout, list.place());
        let skipped = SkippedEntries::default();
        let mut tags = Vec::new();
        for tag in Tags::new(layout, repo, &skipped) {
            self.go_on()?;
            match self.tag(repo, &tag) {
                Ok(found) => tags.extend(found.map(|(digest, time)| Entry::Tag(tag, digest, time))),
                Err(error) => skipped.note(&layout.tag(repo, &tag), &crate::telemetry::with_causes(&error)),
            }
        }
        list.entry(&Entry::Repository(repo.clone()))?;
        let empty = list.place();
        let mut manifests = HashSet::new();
        for kind in [Membership::Manifest, Membership::Blob] {
            for digest in Members::new(layout, repo, kind, &skipped) {
                self.go_on()?;
                match self.manifests.contents.keep(folder, &layout.member(repo, kind, &digest), &digest)? {
                    Kept::Linked(bytes) => {
                        sums.contents += 1;
                        sums.bytes += bytes;
                    }
                    Kept::Known => {}
                    Kept::Gone => continue,
                    Kept::Damaged => sums.damaged += 1,
                }
                list.entry(&Entry::Member(kind, digest))?;
                match kind {
                    Membership::Manifest => {
                        sums.manifests += 1;
                        manifests.insert(digest);
                    }
                    Membership::Blob => sums.blobs += 1,
                }
            }
        }
        for entry in &tags {
            match entry {
                Entry::Tag(_, digest, _) if manifests.contains(digest) => {
                    list.entry(entry)?;
                    sums.tags += 1;
                }
                _ => sums.left_out += 1,
            }
        }
        sums.left_out += skipped.count();
        if list.place() == empty {
            list.back_to(place)?;
        } else {
            sums.repositories += 1;
        }
        Ok(())
    }

    fn tag(&self, repo: &RepoName, tag: &Tag) -> Result<Option<(Digest, crate::clock::Timestamp)>, StoreError> {
        let layout = &self.manifests.contents.layout;
        let Some(digest) = read_tag(layout, repo, tag)? else { return Ok(None) };
        let path = layout.tag(repo, tag);
        let Some(facts) = stat(&path)? else { return Ok(None) };
        Ok(Some((digest, facts.modified().map_err(StoreError::io("stat", &path))?.into())))
    }
}
