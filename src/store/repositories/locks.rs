//! One lock per repository, sharded.

use std::hash::BuildHasher as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::oci::RepoName;

/// The locks.
#[derive(Debug)]
pub(crate) struct RepositoryLocks {
    shards: Box<[Mutex<()>]>,
    hasher: std::hash::RandomState,
}

impl Default for RepositoryLocks {
    fn default() -> Self {
        Self { shards: (0..256).map(|_| Mutex::new(())).collect(), hasher: std::hash::RandomState::new() }
    }
}

impl RepositoryLocks {
    pub(crate) fn lock(&self, repo: &RepoName) -> MutexGuard<'_, ()> {
        let shard = usize::try_from(self.hasher.hash_one(repo)).unwrap_or(0) % self.shards.len();
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
