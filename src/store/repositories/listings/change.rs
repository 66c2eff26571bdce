//! The hold of a writer that changes the tree, through which the index hears of it.

use std::time::Instant;

use super::Listings;
use crate::oci::{Digest, RepoName, Tag};
use crate::store::error::StoreError;
use crate::store::repositories::index::{Index, IndexError};
use crate::store::stored::StoredManifest;

/// A change of one repository's part of the tree, from before it begins until the index has heard of it.
///
/// Dropped without [`Change::done`]: the repository is read again by the worker. To be held inside the repository's
/// lock, from before the tree is touched.
#[derive(Debug)]
#[must_use = "a change that is not ended with done() has its repository read again"]
pub(crate) struct Change<'a> {
    listings: &'a Listings,
    repo: &'a RepoName,
    done: bool,
}

impl Listings {
    /// Announces a change of `repo`. Called inside the repository's lock, before the tree is touched. Blocks for a
    /// sync of the data folder when it is the first change since the index was sealed.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the stamp can't be removed; the tree must not be changed then.
    pub(crate) fn begin<'a>(&'a self, repo: &'a RepoName) -> Result<Change<'a>, StoreError> {
        let mut slot = self.slot();
        self.take_stamp_off(&mut slot)?;
        slot.changes += 1;
        Ok(Change { listings: self, repo, done: false })
    }
}

impl Change<'_> {
    /// The repository has the tag now.
    pub(crate) fn put_tag(&self, tag: &Tag) {
        self.tell(|index| index.put_tag(self.repo, tag));
    }

    /// The tag is gone.
    pub(crate) fn remove_tag(&self, tag: &Tag) {
        self.tell(|index| index.remove_tag(self.repo, tag));
    }

    /// The repository has the manifest now.
    pub(crate) fn put_manifest(&self, stored: &StoredManifest) {
        self.tell(|index| index.put_manifest(self.repo, stored));
    }

    /// The manifest, whose subject was `subject`, is gone.
    pub(crate) fn remove_manifest(&self, digest: Digest, subject: Option<Digest>) {
        self.tell(|index| index.remove_manifest(self.repo, digest, subject));
    }

    /// The repository holds no manifest any more.
    pub(crate) fn remove_repository(&self) {
        self.tell(|index| index.remove_repository(self.repo));
    }

    /// The change is through and the index was told all of it.
    pub(crate) fn done(mut self) {
        self.done = true;
    }

    /// An index that fails is replaced; the change itself is in the tree and stands.
    fn tell(&self, what: impl Fn(&Index) -> Result<(), IndexError>) {
        let (serving, building) = {
            let mut slot = self.listings.slot();
            if slot.serving.is_none() && slot.building.is_none() {
                slot.unheard.insert(self.repo.clone());
            }
            (slot.serving.clone(), slot.building.clone())
        };
        for index in [serving, building].into_iter().flatten() {
            if let Err(error) = what(&index) {
                self.listings.fail(&index, &error);
            }
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let mut slot = self.listings.slot();
        slot.changes -= 1;
        slot.last_change = Instant::now();
        if !self.done {
            slot.unheard.insert(self.repo.clone());
            drop(slot);
            self.listings.wake.notify_one();
        }
    }
}
