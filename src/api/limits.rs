//! How much goes on at once. A permit lives until the answer's body has ended.
//!
//! A pull over the limit waits in a bounded queue and gets 503 when it waited too long: containerd repeats a 429 at
//! once, five times, and then gives the pull up. Uploads and lists get 429 with `Retry-After`, which their clients heed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::error::ApiError;
use crate::oci::ErrorCode;

/// The limits' sizes (`limits.pulls`, `.uploads`, `.listings`, `.queueWait`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateSizes {
    /// Blob and manifest downloads at once.
    pub pulls: usize,
    /// Uploads of blobs and manifests at once.
    pub uploads: usize,
    /// Tag lists, catalogs and referrers lists at once.
    pub listings: usize,
    /// Longest wait of a pull for its turn.
    pub queue_wait: Duration,
}

/// Which limit a request counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// None: it costs next to nothing.
    Free,
    Pull,
    Upload,
    Listing,
}

/// Held while a request goes on.
#[derive(Debug)]
pub(super) struct Permit {
    _held: Option<OwnedSemaphorePermit>,
}

/// One set of limits. A change of sizes makes a new set; requests in flight keep their permit of the old one.
#[derive(Debug)]
pub(super) struct Gates {
    pulls: Arc<Semaphore>,
    /// Pulls that wait: bounds the queue to four times the limit.
    waiting: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    listings: Arc<Semaphore>,
    queue_wait: Duration,
}

impl Gates {
    pub(super) fn new(sizes: GateSizes) -> Self {
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Self {
            pulls: semaphore(sizes.pulls),
            waiting: semaphore(sizes.pulls.saturating_mul(4)),
            uploads: semaphore(sizes.uploads),
            listings: semaphore(sizes.listings),
            queue_wait: sizes.queue_wait,
        }
    }

    /// A permit, after waiting for it if the request is a pull. Safe to drop: the place in the queue is given up.
    ///
    /// # Errors
    /// 503 or 429, with `Retry-After`.
    pub(super) async fn enter(&self, gate: Gate) -> Result<Permit, ApiError> {
        match gate {
            Gate::Free => Ok(Permit { _held: None }),
            Gate::Pull => self.enter_pull().await,
            Gate::Upload => at_once(&self.uploads, "uploads"),
            Gate::Listing => at_once(&self.listings, "lists"),
        }
    }

    async fn enter_pull(&self) -> Result<Permit, ApiError> {
        if let Ok(permit) = Arc::clone(&self.pulls).try_acquire_owned() {
            return Ok(Permit { _held: Some(permit) });
        }
        let busy = || ApiError::new(ErrorCode::Unavailable, "too many pulls at once (limits.pulls)").retry_after(5);
        // Counts the waiters only: it is let go as soon as the turn has come.
        let _waiting = self.waiting.try_acquire().map_err(|_| busy())?;
        match tokio::time::timeout(self.queue_wait, Arc::clone(&self.pulls).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Permit { _held: Some(permit) }),
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }
}

fn at_once(semaphore: &Arc<Semaphore>, what: &'static str) -> Result<Permit, ApiError> {
    match Arc::clone(semaphore).try_acquire_owned() {
        Ok(permit) => Ok(Permit { _held: Some(permit) }),
        Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
            Err(ApiError::new(ErrorCode::TooManyRequests, format!("too many {what} at once (limits.{what})"))
                .retry_after(2))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gates(pulls: usize, queue_wait: Duration) -> Gates {
        Gates::new(GateSizes { pulls, uploads: 1, listings: 1, queue_wait })
    }

    #[tokio::test]
    async fn a_pull_gets_its_turn_when_another_ends() {
        let gates = gates(1, Duration::from_secs(20));
        let held = gates.enter(Gate::Pull).await.unwrap();
        let (taken, ()) = tokio::join!(gates.enter(Gate::Pull), async move { drop(held) });
        assert!(taken.is_ok());
    }

    #[tokio::test]
    async fn a_pull_that_waited_too_long_gets_503() {
        let gates = gates(1, Duration::ZERO);
        let _held = gates.enter(Gate::Pull).await.unwrap();
        assert_eq!(gates.enter(Gate::Pull).await.unwrap_err().status(), 503);
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let gates = gates(0, Duration::from_secs(20));
        assert_eq!(gates.enter(Gate::Pull).await.unwrap_err().status(), 503);
    }

    #[tokio::test]
    async fn uploads_and_lists_are_refused_at_once() {
        let gates = gates(1, Duration::ZERO);
        let _upload = gates.enter(Gate::Upload).await.unwrap();
        let _list = gates.enter(Gate::Listing).await.unwrap();
        for gate in [Gate::Upload, Gate::Listing] {
            assert_eq!(gates.enter(gate).await.unwrap_err().status(), 429);
        }
        assert!(gates.enter(Gate::Free).await.is_ok());
    }
}
