//! Deletions that all masters know of are dropped: nobody has anything left that they would count against. All of it blocks.
//!
//! What is under way from another master may have been asked for before that one knew of a deletion. So whoever fetches a
//! manifest or takes records says so first (`Arriving`), and nothing of the repository is dropped meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::log::Log;
use super::{Records, Sum, lock};
use crate::clock::Timestamp;
use crate::oci::{Reference, RepoName};
use crate::store::contents::files::Contents;
use crate::store::error::StoreError;

/// What is under way, by repository.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals(Arc<Mutex<HashMap<RepoName, usize>>>);

/// Something of another master is under way into a repository; until this is dropped.
#[derive(Debug)]
#[must_use = "it is under way as long as this lives"]
pub struct Arriving {
    arrivals: Arrivals,
    repo: RepoName,
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let mut all = self.arrivals.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.repo) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.repo);
            }
        }
    }
}

impl Records {
    /// Something of another master is under way into a repository from now on. Waits for nothing.
    pub(in crate::store) fn arriving(&self, repo: &RepoName) -> Arriving {
        let mut all = self.arrivals.0.lock().unwrap_or_else(PoisonError::into_inner);
        *all.entry(repo.clone()).or_default() += 1;
        Arriving { arrivals: self.arrivals.clone(), repo: repo.clone() }
    }

    fn is_arriving(&self, repo: &RepoName) -> bool {
        self.arrivals.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(repo)
    }

    /// Repositories whose records say of something that it was deleted.
    pub(in crate::store) fn with_deletions(&self) -> Vec<RepoName> {
        self.lock_known().with_deletions.iter().cloned().collect()
    }

    /// Drops the deletions that were said before `moment`, if the sum over all records of the repository is still `sum` and
    /// nothing is under way into it; says how many. `None`: it is another one, or something is; or what was deleted is still here,
    /// which `is_there` says: then the repository is held against its tree again.
    pub(in crate::store::repositories) fn drop_deletions(
        &self,
        repo: &RepoName,
        log: &Mutex<Log>,
        (sum, moment): (Sum, Timestamp),
        is_there: impl Fn(&Reference) -> Result<bool, StoreError>,
    ) -> Result<Option<usize>, StoreError> {
        let mut log = lock(log);
        if log.registers.sum() != sum || log.is_stale() || self.is_arriving(repo) {
            return Ok(None);
        }
        let old = log.registers.deleted_before(moment);
        if old.is_empty() {
            return Ok(Some(0));
        }
        for of in &old {
            if is_there(of)? {
                drop(log);
                self.forget(repo);
                return Ok(None);
            }
        }
        for of in &old {
            log.change().remove(of);
        }
        let Contents { layout, disk, .. } = &*self.contents;
        let written = if log.registers.len() == 0 { log.remove(layout, disk) } else { log.write(layout, disk) };
        self.note(repo, &log);
        let is_empty = log.registers.len() == 0;
        drop(log);
        if let Err(error) = written {
            // The file says what it said before.
            self.forget(repo);
            return Err(error);
        }
        if is_empty {
            self.forget_nothing(repo);
        }
        Ok(Some(old.len()))
    }

    /// Forgets a repository of which nothing is said: that makes no other sum.
    fn forget_nothing(&self, repo: &RepoName) {
        self.loaded().remove(repo);
        let mut known = self.lock_known();
        known.of.remove(repo);
        known.unwritten.remove(repo);
    }
}
