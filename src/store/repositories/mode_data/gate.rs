//! Which data is used: said by who knows the modes, and held against at each removal.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use tokio::sync::Notify;

use crate::oci::{RepoName, UpstreamId};
use crate::values::StoringMode;

/// The data that the modes in force, coming and before use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsedData {
    /// What clients pushed.
    pub pushed: bool,
    /// What was learnt from these upstreams.
    pub upstreams: HashSet<UpstreamId>,
    /// A switch is not over: nothing is dropped, whosever it is.
    pub switching: bool,
}

impl UsedData {
    /// Whether the mode's data has to stay.
    #[must_use]
    pub fn has(&self, mode: StoringMode) -> bool {
        let is_used = match mode {
            StoringMode::Local => self.pushed,
            StoringMode::Proxy => !self.upstreams.is_empty(),
        };
        is_used || self.switching
    }

    fn has_repository(&self, repo: &RepoName) -> bool {
        repo.upstream().map_or(self.pushed, |upstream| self.upstreams.contains(&upstream))
    }
}

/// The mode whose data a repository is.
pub(super) fn mode_of(repo: &RepoName) -> StoringMode {
    if repo.is_cached() { StoringMode::Proxy } else { StoringMode::Local }
}

/// Keeps removals from data that is used.
#[derive(Debug, Default)]
pub(in crate::store) struct Gate {
    /// `None`: nobody has said it, so all is used.
    used: RwLock<Option<UsedData>>,
    /// Other data is used.
    pub(super) changed: Notify,
}

impl Gate {
    /// Says what is used from now on. Waits for the end of a removal that is under way; behind it none of that data goes.
    pub(in crate::store) fn set(&self, used: UsedData) {
        if self.read().as_ref() == Some(&used) {
            return;
        }
        *self.used.write().unwrap_or_else(PoisonError::into_inner) = Some(used);
        self.changed.notify_one();
    }

    /// The same, beside what was used before.
    pub(in crate::store) fn add(&self, used: &UsedData) {
        let Some(mut all) = self.read().clone() else { return };
        all.pushed |= used.pushed;
        all.upstreams.extend(&used.upstreams);
        all.switching |= used.switching;
        self.set(all);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Option<UsedData>> {
        self.used.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether data of the mode has to stay, or nobody has said that it is not.
    pub(in crate::store) fn is_used(&self, mode: StoringMode) -> bool {
        self.read().as_ref().is_none_or(|used| used.has(mode))
    }

    /// Whether a mode has that repository.
    pub(super) fn is_used_repository(&self, repo: &RepoName) -> bool {
        self.read().as_ref().is_none_or(|used| used.has_repository(repo))
    }

    /// Removes something of the mode's data while none of that is used; `None`: it is.
    pub(super) fn unless_used<T>(&self, mode: StoringMode, remove: impl FnOnce() -> T) -> Option<T> {
        let used = self.read();
        let is_unused = used.as_ref().is_some_and(|used| !used.has(mode));
        is_unused.then(remove)
    }
}
