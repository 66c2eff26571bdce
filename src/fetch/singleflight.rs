//! One piece of work at a time per key, and everyone who asks meanwhile gets its outcome.

use std::hash::Hash;
use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Work in progress by key. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SingleFlight<K: Eq + Hash, V> {
    running: Arc<DashMap<K, watch::Receiver<Option<V>>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl<K, V> SingleFlight<K, V>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Work is spawned on `tasks` and dropped when `stop` is cancelled.
    #[must_use]
    pub fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { running: Arc::new(DashMap::new()), tasks, stop }
    }

    /// The outcome of the work for `key`: of the work that runs, or of `work`, which then begins. Says whether this caller
    /// began it. `None`: the work panicked, or the server is shutting down. Safe to drop: the work runs to its end.
    pub async fn join<F>(&self, key: K, work: impl FnOnce() -> F) -> (Option<V>, bool)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (mut outcome, began) = match self.running.entry(key.clone()) {
            Entry::Occupied(running) => (running.get().clone(), false),
            Entry::Vacant(free) => {
                let (sender, receiver) = watch::channel(None);
                free.insert(receiver.clone());
                let guard = FlightGuard { running: Arc::clone(&self.running), key };
                let work = work();
                let stop = self.stop.clone();
                self.tasks.spawn(async move {
                    let Some(value) = stop.run_until_cancelled(work).await else { return };
                    // Off the list first: a caller from now on begins anew and sees what the work has stored.
                    drop(guard);
                    sender.send_replace(Some(value));
                });
                (receiver, true)
            }
        };
        let value = outcome.wait_for(Option::is_some).await.ok().and_then(|value| value.clone());
        (value, began)
    }
}

/// Takes its work off the list, however that ends.
struct FlightGuard<K: Eq + Hash, V> {
    running: Arc<DashMap<K, watch::Receiver<Option<V>>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for FlightGuard<K, V> {
    fn drop(&mut self) {
        self.running.remove(&self.key);
    }
}
