//! The index for who compares it with the tree, and changes nothing.

use std::sync::Arc;

use super::Listings;
use crate::oci::RepoName;
use crate::store::repositories::index::{Index, IndexError};

impl Listings {
    /// The index that answers.
    pub(in crate::store) fn serving(&self) -> Option<Arc<Index>> {
        self.slot().serving.clone()
    }

    /// Whether that index answers and has heard of every change of the repository. True as long as the repository's lock is
    /// held, in which this is called.
    pub(in crate::store) fn has_heard(&self, index: &Arc<Index>, repo: &RepoName) -> bool {
        let slot = self.slot();
        let is_serving = slot.serving.as_ref().is_some_and(|serving| Arc::ptr_eq(serving, index));
        is_serving && !slot.unheard.contains(repo)
    }

    /// The index of a store that no server has; `None`: it was not closed well, or its file system is read-only. Blocking.
    ///
    /// # Errors
    /// [`IndexError`]: the one that the stamp names can't be used.
    pub(in crate::store) fn open_sealed(&self) -> Result<Option<Arc<Index>>, IndexError> {
        let Some(stamp) = self.directory.stamp_at_start().filter(|_| !self.directory.is_read_only()) else {
            return Ok(None);
        };
        Index::open(&self.directory.index(stamp.number), &stamp.value).map(|index| Some(Arc::new(index)))
    }
}
