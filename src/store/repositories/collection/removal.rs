//! Takes one content out of its repository, behind a verdict that still counts; and what a mark does not reach, from the tree.
//! All of it blocks.

use std::os::unix::fs::MetadataExt as _;

use fail::fail_point;

use super::agreement::Agreed;
use super::ledger::Touch;
use super::mark::{Judgement, Mark};
use super::report::CollectedContent;
use super::suspects::Suspect;
use crate::fs::stat;
use crate::oci::{Reference, RepoName};
use crate::store::contents::beside::GiveWay;
use crate::store::error::StoreError;
use crate::store::layout::Membership;
use crate::store::repositories::manifests::Manifests;
use crate::store::repositories::walk::{Members, SkippedEntries};

/// Suspects that are put on the list with one sync.
const BATCH: usize = 1000;

/// What came of the removal of one suspect.
pub(in crate::store) enum Removal {
    Gone(Option<CollectedContent>),
    /// The repository was touched: it has to be marked again.
    Touched,
}

impl Manifests {
    /// What a suspect is on the disk; `None`: its repository does not have it. Blocking.
    pub(in crate::store) fn content_of(&self, suspect: &Suspect) -> Result<Option<CollectedContent>, StoreError> {
        let found = stat(&self.contents.layout.member(&suspect.repo, suspect.kind, &suspect.digest))?;
        Ok(found.map(|found| CollectedContent {
            repository: suspect.repo.to_string(),
            kind: suspect.kind.word(),
            digest: suspect.digest.to_string(),
            // Its own name and this one.
            bytes: if found.nlink() <= 2 { found.len() } else { 0 },
        }))
    }

    /// Hands over what the mark does not reach, some at a time, until `each` says `false`; says whether it never did.
    /// Blocking.
    pub(in crate::store) fn unreached(
        &self,
        repo: &RepoName,
        mark: &Mark,
        mut each: impl FnMut(Vec<Suspect>) -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        let skipped = SkippedEntries::default();
        let (mut found, mut give_way) = (Vec::new(), GiveWay::new());
        for kind in [Membership::Manifest, Membership::Blob] {
            for digest in Members::new(&self.contents.layout, repo, kind, &skipped) {
                give_way.now_and_then();
                if mark.judge(kind, &digest) != Judgement::Unreached {
                    continue;
                }
                found.push(Suspect { repo: repo.clone(), kind, digest });
                if found.len() >= BATCH && !each(std::mem::take(&mut found))? {
                    return Ok(false);
                }
            }
        }
        each(found)
    }

    /// Takes a suspect out of its repository, if nothing touched that since `seen`: tags, name, and at the last name the bytes.
    /// A manifest goes on all masters, which have `agreed`.
    /// Blocking.
    pub(in crate::store) fn remove_suspect(
        &self,
        suspect: &Suspect,
        seen: u64,
        agreed: &Agreed,
    ) -> Result<Removal, StoreError> {
        let Suspect { repo, kind, digest } = suspect;
        let Some(taken) = self.ledger.take(suspect) else { return Ok(Removal::Gone(None)) };
        let content = self.content_of(suspect)?;
        fail_point!("store::collection::before_unlink");
        let went = match kind {
            _ if content.is_none() => true,
            Membership::Blob => {
                // Counted before the look at the touches: who touches from now on believes no verdict of before.
                let _deleting = self.memory.deleting(repo);
                if self.ledger.is_untouched(repo, seen) {
                    self.contents.remove(&self.contents.layout.member(repo, *kind, digest), digest)?;
                    true
                } else {
                    false
                }
            }
            Membership::Manifest => {
                // What it named has a verdict of its own then.
                self.ledger.make_dirty(repo)?;
                let goes = || Ok(self.ledger.is_untouched(repo, seen).then(Touch::none));
                match self.delete_if(repo, &Reference::Digest(*digest), agreed, goes) {
                    Err(StoreError::ManifestUnknown) => true,
                    went => went?,
                }
            }
        };
        if !went {
            return Ok(Removal::Touched);
        }
        fail_point!("store::collection::after_unlink");
        taken.gone();
        Ok(Removal::Gone(content))
    }
}
