//! Lists on their way from an upstream: fetched once for all who ask, and on when they have left.
//!
//! A list of many pages, or one that the upstream has to put together first, may take longer than any client waits. Were
//! it given up with its client, each further client would begin it anew and none would ever get it.

use std::fmt::Debug;
use std::hash::Hash;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{BUDGET, ModeError, Served};
use crate::fetch::SingleFlight;
use crate::upstream::Patience;

/// Longest time for a list, whoever waits.
const LIST_PATIENCE: Duration = Duration::from_secs(300);

/// Lists that may take longer than a client waits, at once: fewer than there is room for, so that others are fetched
/// meanwhile.
const MOST_LONG: usize = 2;

/// Time that a client waits longer than the upstream is asked: the cause of a failure says more than the time.
const MARGIN: Duration = Duration::from_secs(2);

/// Time that a list is kept which came after its clients had left, for those who ask again.
const LATE_TTL: Duration = Duration::from_secs(60);
/// Most of such lists.
const MOST_LATE: usize = 4;
/// Most bytes of one of them.
const LATE_BYTES: usize = 8 << 20;

/// Most bytes of all of them.
pub const LATE_LIST_BYTES: usize = MOST_LATE * LATE_BYTES;

type Outcome = Result<Served<Bytes>, ModeError>;

/// Times of lists.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// Places of lists that take longer.
    usual: Duration,
    margin: Duration,
    late: Duration,
}

/// Lists that are being fetched. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Listing<K: Eq + Hash> {
    times: Times,
    single_flight: SingleFlight<K, Outcome>,
    long: Arc<Semaphore>,
    late: Arc<Mutex<Vec<Late<K>>>>,
}

/// A list that came late.
#[derive(Debug)]
struct Late<K> {
    key: K,
    list: Served<Bytes>,
    came: Instant,
}

/// Deadlines of a list: until when the upstream is asked, and until when it may answer. `budget`: the wait of a client.
pub(super) fn patience(budget: Duration) -> Patience {
    let now = Instant::now();
    Patience { asking: now + budget, answer: now + LIST_PATIENCE }
}

impl<K> Listing<K>
where
    K: Debug + Eq + Hash + Clone + Send + Sync + 'static,
{
    /// Work is spawned on `tasks` and dropped when `stop` is cancelled.
    pub(super) fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self {
            times: Times { usual: BUDGET + MARGIN, margin: MARGIN, late: LATE_TTL },
            single_flight: SingleFlight::new(tasks, stop),
            long: Arc::new(Semaphore::new(MOST_LONG)),
            late: Arc::default(),
        }
    }

    /// The list that `work` fetches, by whoever began it, and whether this caller did; waited for `budget` and a little
    /// more. The work goes on behind that, up to 5 minutes, and 2 at once. Safe to drop: the work goes on.
    ///
    /// # Errors
    /// Of the work; [`ModeError::UpstreamTimeout`]: it goes on, or was one too many.
    pub(super) async fn join<F>(
        &self,
        key: K,
        budget: Duration,
        work: impl FnOnce() -> F,
    ) -> Result<(Served<Bytes>, bool), ModeError>
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let Times { usual, margin, late: ttl } = self.times;
        let (long, late, name) = (Arc::clone(&self.long), Arc::clone(&self.late), key.clone());
        let bounded = || {
            let work = work();
            async move {
                let mut work = pin!(work);
                if let Ok(outcome) = timeout(usual, work.as_mut()).await {
                    return outcome;
                }
                let Ok(_place) = long.try_acquire() else { return Err(ModeError::UpstreamTimeout) };
                let outcome = work.await;
                if let Ok(list) = &outcome {
                    note(&late, ttl, name, list);
                }
                outcome
            }
        };
        match timeout(budget + margin, self.single_flight.join(key, bounded)).await {
            Ok((Some(outcome), began)) => outcome.map(|list| (list, began)),
            Ok((None, _)) => Err(ModeError::Stopping),
            Err(_) => Err(ModeError::UpstreamTimeout),
        }
    }

    /// The list if it came after its clients had left, within the last minute.
    pub(super) fn late(&self, key: &K) -> Option<Served<Bytes>> {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.retain(|late| late.came.elapsed() < self.times.late);
        late.iter().find(|late| late.key == *key).map(|late| late.list.clone())
    }
}

fn note<K: PartialEq>(late: &Mutex<Vec<Late<K>>>, ttl: Duration, key: K, list: &Served<Bytes>) {
    if list.value.len() > LATE_BYTES {
        return;
    }
    let mut late = late.lock().unwrap_or_else(PoisonError::into_inner);
    late.retain(|late| late.key != key && late.came.elapsed() < ttl);
    if late.len() >= MOST_LATE {
        late.remove(0);
    }
    late.push(Late { key, list: list.clone(), came: Instant::now() });
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::telemetry::CacheOutcome;

    fn list(number: u8) -> Outcome {
        Ok(Served::new(Bytes::from(vec![number]), CacheOutcome::Relayed))
    }

    #[tokio::test]
    async fn a_list_goes_on_without_its_clients_and_so_many_do_at_once() {
        let tasks = TaskTracker::new();
        let mut listing: Listing<u8> = Listing::new(tasks.clone(), CancellationToken::new());
        // Nobody waits.
        listing.times = Times { usual: Duration::ZERO, margin: Duration::ZERO, ..listing.times };
        let (go, gate) = watch::channel(false);
        let ask = |key: u8, budget: Duration| {
            let (mut gate, listing) = (gate.clone(), listing.clone());
            let work = move || async move {
                let _ = gate.wait_for(|open| *open).await;
                list(key)
            };
            async move { listing.join(key, budget, work).await }
        };
        let last = u8::try_from(MOST_LONG).unwrap();
        for key in 0..=last {
            let left = ask(key, Duration::ZERO).await;
            assert!(matches!(left, Err(ModeError::UpstreamTimeout)));
        }
        // The one too many ends.
        while tasks.len() > MOST_LONG || listing.long.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(listing.late(&0).is_none());
        let again = futures_util::future::join_all((0..last).map(|key| ask(key, BUDGET)));
        let (again, _) = tokio::join!(again, async { go.send(true) });
        assert!(again.into_iter().all(|outcome| !outcome.unwrap().1), "begun anew");
        // Those that came late are there for a while.
        assert_eq!((0..last).filter(|key| listing.late(key).is_some()).count(), MOST_LATE.min(MOST_LONG));
        listing.times.late = Duration::ZERO;
        assert!((0..last).all(|key| listing.late(&key).is_none()));
    }
}
