//! Whether a manifest is whole: everything it references, down to the last child, is in its repository.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;

use super::contents::{open_content, stat};
use super::damage::Verdict;
use super::layout::Membership;
use super::{Inner, StoreError, StoredManifest};
use crate::oci::{Descriptor, Digest, RepoName};

/// Most missing digests that are listed.
const LISTED: usize = 100;

/// Most manifests that one walk looks into. An index of more is not refused, what lies behind is taken for missing.
const MANIFESTS: usize = 10_000;

/// A blob whose length is not its descriptor's is hashed at once up to this length; a longer one when it is read.
const EXAMINED: u64 = 64 << 20;

impl Inner {
    /// What the manifest references and the repository lacks; blocking.
    pub(super) fn missing_references(
        &self,
        repo: &RepoName,
        stored: &StoredManifest,
    ) -> Result<Vec<Digest>, StoreError> {
        let deletions = self.memory.deletions_at_rest(repo);
        let mut walk = Walk { store: self, repo, seen: HashSet::new(), missing: Vec::new(), waiting: Vec::new() };
        walk.look_into(stored)?;
        while let Some(digest) = walk.waiting.pop() {
            if walk.missing.len() >= LISTED {
                break;
            }
            match self.find_manifest(repo, digest)? {
                Some(child) => walk.look_into(&child)?,
                // An index may list content of any kind; what was pushed as a blob is there.
                None if walk.has(&digest)? => {}
                None => walk.missing.push(digest),
            }
        }
        if walk.missing.is_empty() {
            self.memory.note_whole(repo, &stored.digest, deletions);
        }
        Ok(walk.missing)
    }
}

struct Walk<'a> {
    store: &'a Inner,
    repo: &'a RepoName,
    seen: HashSet<Digest>,
    missing: Vec<Digest>,
    /// Children whose own references are still to be looked at.
    waiting: Vec<Digest>,
}

impl Walk<'_> {
    fn look_into(&mut self, stored: &StoredManifest) -> Result<(), StoreError> {
        // So that a file of another length is looked at.
        self.store.damage.learn(&stored.manifest);
        for Descriptor { digest, .. } in stored.manifest.required_blobs() {
            if self.missing.len() < LISTED && self.seen.insert(*digest) && !self.has(digest)? {
                self.missing.push(*digest);
            }
        }
        for Descriptor { digest, .. } in &stored.manifest.manifests {
            if self.seen.len() < MANIFESTS {
                if self.seen.insert(*digest) {
                    self.waiting.push(*digest);
                }
            } else if !self.seen.contains(digest) && self.missing.len() < LISTED {
                self.missing.push(*digest);
            }
        }
        Ok(())
    }

    /// Whether the repository has the content, as a blob or, where a manifest is used as a layer, as a manifest.
    fn has(&self, digest: &Digest) -> Result<bool, StoreError> {
        for kind in [Membership::Blob, Membership::Manifest] {
            let path = self.store.layout.member(self.repo, kind, digest);
            let Some(facts) = stat(&path)? else { continue };
            if self.store.damage.is_listed(digest, facts.ino()) {
                if self.store.mend(self.repo, kind, digest)? {
                    return Ok(true);
                }
                continue;
            }
            if facts.len() > EXAMINED || !self.store.damage.is_length_odd(digest, &facts) {
                return Ok(true);
            }
            let Some(file) = open_content(&path)? else { continue };
            if self.store.shelf().examine(digest, &file, &path) != Verdict::Absent {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
