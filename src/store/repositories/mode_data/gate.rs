//! Which data is used: said by who knows the modes, and held against at each removal.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// Keeps removals from data that is used. Nobody waits for the disk here but who asks for it: [`Gate::settled`].
#[derive(Debug, Default)]
pub(in crate::store) struct Gate {
    state: Mutex<State>,
    /// A removal has ended.
    ended: Notify,
    /// Other data is used.
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: nobody has said it, so all is used.
    used: Option<UsedData>,
    /// Removals that have begun, over all.
    begun: u64,
    /// The numbers of those that have not ended.
    running: BTreeSet<u64>,
}

/// A removal that goes on; it ends when this is dropped.
struct Removing<'a>(&'a Gate, u64);

impl Drop for Removing<'_> {
    fn drop(&mut self) {
        self.0.state().running.remove(&self.1);
        self.0.ended.notify_waiters();
    }
}

impl Gate {
    /// Says what is used from now on: no removal of that begins. One that goes on may be of it until [`Self::settled`].
    pub(in crate::store) fn set(&self, used: UsedData) {
        let mut state = self.state();
        if state.used.as_ref() != Some(&used) {
            state.used = Some(used);
            self.changed.notify_one();
        }
    }

    /// The same, beside what was used before.
    pub(in crate::store) fn add(&self, used: &UsedData) {
        let Some(mut all) = self.state().used.clone() else { return };
        all.pushed |= used.pushed;
        all.upstreams.extend(&used.upstreams);
        all.switching |= used.switching;
        self.set(all);
    }

    /// Ends when each removal has ended that began before. Safe to drop.
    pub(in crate::store) async fn settled(&self) {
        let before = self.state().begun;
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            // One that ends behind the look is not missed.
            ended.as_mut().enable();
            if self.state().running.first().is_none_or(|oldest| *oldest > before) {
                return;
            }
            ended.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether data of the mode has to stay, or nobody has said that it is not.
    pub(in crate::store) fn is_used(&self, mode: StoringMode) -> bool {
        self.state().used.as_ref().is_none_or(|used| used.has(mode))
    }

    /// Whether a mode has that repository.
    pub(super) fn is_used_repository(&self, repo: &RepoName) -> bool {
        self.state().used.as_ref().is_none_or(|used| used.has_repository(repo))
    }

    /// Removes something of the mode's data while none of that is used; `None`: it is. Blocking, as `remove`.
    pub(super) fn unless_used<T>(&self, mode: StoringMode, remove: impl FnOnce() -> T) -> Option<T> {
        let removing = {
            let mut state = self.state();
            if state.used.as_ref().is_none_or(|used| used.has(mode)) {
                return None;
            }
            state.begun += 1;
            let number = state.begun;
            state.running.insert(number);
            Removing(self, number)
        };
        let removed = remove();
        drop(removing);
        Some(removed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;

    #[tokio::test]
    async fn who_says_what_is_used_waits_for_no_removal_and_can_wait_for_its_end() {
        let gate = Arc::new(Gate::default());
        gate.set(UsedData::default());
        let (removing, (begin, begun), (end, ended)) = (Arc::clone(&gate), mpsc::channel(), mpsc::channel::<()>());
        let removal = std::thread::spawn(move || {
            removing.unless_used(StoringMode::Local, || {
                begin.send(()).unwrap();
                let _ = ended.recv();
            })
        });
        begun.recv().unwrap();
        gate.add(&UsedData { pushed: true, ..UsedData::default() });
        assert!(gate.is_used(StoringMode::Local) && !gate.is_used(StoringMode::Proxy));
        assert!(gate.unless_used(StoringMode::Local, || panic!("it is used")).is_none());
        let mut settled = std::pin::pin!(gate.settled());
        assert!(futures_util::poll!(settled.as_mut()).is_pending(), "the removal goes on");
        // One that began later is not waited for.
        let later = gate.unless_used(StoringMode::Proxy, || {
            drop(end);
            removal.join().unwrap()
        });
        assert!(later.is_some());
        settled.await;
        gate.settled().await;
    }
}
