//! The servers in force, and which of them gets the next connection.

use std::sync::{Arc, Mutex, PoisonError};

use super::backend::{Backend, Lease};
use super::health::{CheckHealth, Prober};
use crate::jobs::Runner;
use crate::values::Target;

/// The list. Its lock is held for a walk over a few entries, never across an await.
#[derive(Debug)]
pub(super) struct Pool {
    list: Mutex<List>,
    prober: Prober,
    jobs: Runner,
}

#[derive(Debug, Default)]
struct List {
    backends: Vec<Arc<Backend>>,
    /// Start of the next walk, so that equals take turns.
    turn: usize,
}

impl Pool {
    /// An empty list. Health checks are `jobs`.
    pub(super) fn new(prober: Prober, jobs: Runner) -> Self {
        Self { list: Mutex::default(), prober, jobs }
    }

    /// Another list: who stays keeps its state and its count, who goes keeps its connections. One named twice is one.
    pub(super) fn replace(&self, targets: Vec<Target>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next: Vec<Arc<Backend>> = Vec::with_capacity(targets.len());
        for target in targets {
            if next.iter().any(|backend| *backend.target() == target) {
                continue;
            }
            let kept = list.backends.iter().find(|backend| *backend.target() == target).cloned();
            next.push(kept.unwrap_or_else(|| {
                let backend = Arc::new(Backend::new(target, self.jobs.stop().child_token()));
                let jobs = self.jobs.until(backend.removed().clone());
                jobs.start(CheckHealth::new(backend.clone(), self.prober.clone()));
                backend
            }));
        }
        for backend in &list.backends {
            if !next.iter().any(|other| Arc::ptr_eq(other, backend)) {
                backend.remove();
            }
        }
        list.backends = next;
    }

    /// The servers in force, in the list's order.
    pub(super) fn backends(&self) -> Vec<Arc<Backend>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).backends.clone()
    }

    /// The server with the fewest connections that was not tried; one that is down only if no other is left, as a health
    /// check may be behind the times. Choosing and counting is one step, or a burst would all go to the same server.
    pub(super) fn pick(&self, tried: &[Arc<Backend>]) -> Option<Lease> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let count = list.backends.len();
        let begin = list.turn;
        list.turn = list.turn.wrapping_add(1);
        let best = (0..count)
            .map(|step| &list.backends[begin.wrapping_add(step) % count])
            .filter(|backend| !tried.iter().any(|other| Arc::ptr_eq(other, backend)))
            .min_by_key(|backend| (backend.is_down(), backend.connections()))?;
        Some(Lease::new(best.clone()))
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::*;

    fn pool() -> Pool {
        let jobs = Runner::new(TaskTracker::new(), CancellationToken::new());
        Pool::new(Prober::new().unwrap(), jobs)
    }

    fn targets(names: &[&str]) -> Vec<Target> {
        names.iter().map(|name| format!("{name}.invalid:1").parse().unwrap()).collect()
    }

    fn host(lease: &Lease) -> String {
        lease.backend().target().host().to_owned()
    }

    #[tokio::test]
    async fn the_fewest_connections_win_and_equals_take_turns() {
        let pool = pool();
        pool.replace(targets(&["a", "b", "c"]));
        let mut leases: Vec<_> = (0..9).map(|_| pool.pick(&[]).unwrap()).collect();
        for name in ["a", "b", "c"] {
            assert_eq!(leases.iter().filter(|lease| host(lease).starts_with(name)).count(), 3);
        }
        leases.retain(|lease| !host(lease).starts_with('b'));
        for _ in 0..3 {
            let lease = pool.pick(&[]).unwrap();
            assert!(host(&lease).starts_with('b'));
            leases.push(lease);
        }
    }

    #[tokio::test]
    async fn who_is_down_comes_last_and_who_was_tried_never() {
        let pool = pool();
        pool.replace(targets(&["a", "b"]));
        let first = pool.pick(&[]).unwrap();
        first.backend().down(&"a test");
        let leases: Vec<_> = (0..4).map(|_| pool.pick(&[]).unwrap()).collect();
        assert!(leases.iter().all(|lease| host(lease) != host(&first)));
        let other = leases[0].backend().clone();
        assert_eq!(host(&pool.pick(std::slice::from_ref(&other)).unwrap()), host(&first));
        assert!(pool.pick(&[other, first.backend().clone()]).is_none());
    }

    #[tokio::test]
    async fn who_stays_in_the_list_keeps_its_count() {
        let pool = pool();
        pool.replace(targets(&["a", "b"]));
        let leases: Vec<_> = (0..4).map(|_| pool.pick(&[]).unwrap()).collect();
        pool.replace(targets(&["b", "c", "c"]));
        // c catches up with the two of b.
        let more: Vec<_> = (0..2).map(|_| pool.pick(&[]).unwrap()).collect();
        assert!(more.iter().all(|lease| host(lease).starts_with('c')));
        drop(leases);
        assert!(host(&pool.pick(&[]).unwrap()).starts_with('b'));
        pool.replace(Vec::new());
        assert!(pool.pick(&[]).is_none());
    }
}
