//! How much an endpoint is asked at once: clients without number must not become requests without number.
//!
//! Probes and token requests don't pass here: however many wait, whether the upstream is well is found out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::error::{Facts, UpstreamError};
use super::failure::seconds;
use super::options::UpstreamLimits;
use crate::telemetry::UpstreamCause;

/// A request that is turned away is told to come back after this.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The places of an endpoint, and the queue before them.
pub(super) struct Gate {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    size: usize,
    queue: usize,
    patience: Duration,
}

impl Gate {
    pub(super) fn new(limits: &UpstreamLimits) -> Self {
        let size = limits.requests.max(1);
        Self {
            places: Arc::new(Semaphore::new(size)),
            waiting: AtomicUsize::new(0),
            size,
            queue: limits.queued,
            patience: limits.queue_patience,
        }
    }

    /// A place, first come, first served. Safe to drop: gives up the wait.
    ///
    /// # Errors
    /// The queue is full, or no place became free in time.
    pub(super) async fn enter(&self, host: &str, deadline: Instant) -> Result<OwnedSemaphorePermit, UpstreamError> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(permit);
        }
        let busy = |what: String| {
            let mut facts = Facts::new(UpstreamCause::Timeout, host, what);
            (facts.busy, facts.retry_after) = (true, Some(RETRY_AFTER));
            Err(facts.into())
        };
        let Some(_waiting) = Waiting::begin(&self.waiting, self.queue) else {
            return busy(format!("was not asked: {} requests to it are running and {} wait", self.size, self.queue));
        };
        let began = Instant::now();
        let until = deadline.min(began + self.patience);
        match timeout_at(until, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => busy(format!(
                "was not asked: {} requests to it are running and none of them ended in time ({})",
                self.size,
                seconds(began.elapsed())
            )),
        }
    }
}

/// A place in the queue.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let more = |now: usize| (now < most).then_some(now + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self(waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, poll};

    use super::*;

    #[tokio::test]
    async fn places_are_given_in_turn_and_the_queue_has_an_end() {
        let limits = UpstreamLimits { requests: 1, queued: 2, ..UpstreamLimits::default() };
        let gate = Gate::new(&limits);
        let soon = || Instant::now() + Duration::from_secs(20);
        let first = gate.enter("h", soon()).await.unwrap();
        let mut second = gate.enter("h", soon()).boxed();
        let mut third = gate.enter("h", soon()).boxed();
        assert!(poll!(&mut second).is_pending() && poll!(&mut third).is_pending());
        let error = gate.enter("h", soon()).await.unwrap_err();
        assert!(error.is_busy() && error.retry_after().is_some(), "{error}");
        assert_eq!(error.cause(), UpstreamCause::Timeout);
        drop(first);
        let place = second.await.unwrap();
        assert!(poll!(&mut third).is_pending());
        // Who leaves gives up both.
        drop(third);
        assert_eq!(gate.waiting.load(Ordering::Relaxed), 0);
        let late = gate.enter("h", Instant::now()).await.unwrap_err();
        assert!(late.is_busy(), "{late}");
        drop(place);
        assert!(gate.enter("h", soon()).await.is_ok());
    }
}
