//! How much goes on at once. A place lives until the answer's body has ended.
//!
//! There is a pool for each kind of work, shared fairly between users and addresses (`pool`). Large blobs have one,
//! whatever answers with little another, so that slow downloads never keep a manifest back. A pull that gets no place
//! waits in a bounded queue and gets 503 when it waited too long: containerd repeats a 429 at once, five times, and then
//! gives the pull up. Uploads and lists get 429 with `Retry-After`, which their clients heed.

mod pool;

use std::sync::Arc;
use std::time::Duration;

pub(super) use self::pool::{Holder, Place, Pool};
use super::error::ApiError;
use crate::oci::ErrorCode;
use crate::serve::Stream;

/// Uploads that are open at once and anybody's, whether or not a request writes them; some more are for those who have few.
pub const OPEN_UPLOADS: usize = 2048;

/// The pool of open uploads. A change of the limits leaves it as it is: uploads outlive requests.
pub(super) fn open_uploads() -> Pool {
    Pool::new(OPEN_UPLOADS, 0, Duration::ZERO)
}

/// For each place of a pool of pulls so many wait.
const QUEUE_PER_PLACE: usize = 4;

/// The limits' sizes (`limits.pulls`, `.uploads`, `.listings`, `.queueWait`). A quarter more of each, at least 8, is
/// given to those who hold few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateSizes {
    /// Downloads of large blobs at once; of all other reads as many.
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
    /// None: it costs next to nothing, or its handler asks for a place once it knows what it costs.
    Free,
    /// The download of a large blob.
    Blob,
    /// What is answered with little: manifests, small blobs, facts.
    Little,
    Upload,
    Listing,
}

/// Most requests of each kind that run at once under these sizes, for who adds up what they cost.
#[must_use]
pub const fn most_at_once(limit: usize) -> usize {
    pool::most_places(limit)
}

/// One set of limits. A change of sizes makes a new set; requests in flight keep their place of the old one.
#[derive(Debug)]
pub(super) struct Gates {
    blobs: Pool,
    little: Pool,
    uploads: Pool,
    listings: Pool,
}

impl Gates {
    pub(super) fn new(sizes: GateSizes) -> Self {
        let pulls = || Pool::new(sizes.pulls, sizes.pulls.saturating_mul(QUEUE_PER_PLACE), sizes.queue_wait);
        Self {
            blobs: pulls(),
            little: pulls(),
            uploads: Pool::new(sizes.uploads, 0, Duration::ZERO),
            listings: Pool::new(sizes.listings, 0, Duration::ZERO),
        }
    }

    /// A place that is to be had at once.
    pub(super) fn try_enter(&self, gate: Gate, holder: &Holder, stream: &Arc<Stream>) -> Option<Place> {
        let pool = match gate {
            Gate::Free => return None,
            Gate::Blob => &self.blobs,
            Gate::Little => &self.little,
            Gate::Upload => &self.uploads,
            Gate::Listing => &self.listings,
        };
        pool.try_enter(holder, stream)
    }

    /// A place, after waiting for it if the request is a pull; none where none is needed. Safe to drop: the place in the
    /// queue is given up.
    ///
    /// # Errors
    /// 503 or 429, with `Retry-After`.
    pub(super) async fn enter(
        &self,
        gate: Gate,
        holder: &Holder,
        stream: &Arc<Stream>,
    ) -> Result<Option<Place>, ApiError> {
        let refuse = |what: &'static str| {
            ApiError::new(ErrorCode::TooManyRequests, format!("too many {what} at once (limits.{what})")).retry_after(2)
        };
        let pulls = match gate {
            Gate::Free => return Ok(None),
            Gate::Upload => return Ok(Some(self.try_enter(gate, holder, stream).ok_or_else(|| refuse("uploads"))?)),
            Gate::Listing => return Ok(Some(self.try_enter(gate, holder, stream).ok_or_else(|| refuse("listings"))?)),
            Gate::Blob => &self.blobs,
            Gate::Little => &self.little,
        };
        match pulls.enter(holder, stream).await {
            Ok(place) => Ok(Some(place)),
            Err(pool::Refused) => {
                Err(ApiError::new(ErrorCode::Unavailable, "too many pulls at once (limits.pulls)").retry_after(5))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gates(pulls: usize, queue_wait: Duration) -> Gates {
        Gates::new(GateSizes { pulls, uploads: 1, listings: 1, queue_wait })
    }

    fn holder() -> Holder {
        Holder::new(None, [127, 0, 0, 1].into())
    }

    async fn enter(gates: &Gates, gate: Gate) -> Result<Option<Place>, ApiError> {
        gates.enter(gate, &holder(), &Arc::default()).await
    }

    #[tokio::test]
    async fn a_pull_gets_its_turn_when_another_ends() {
        let gates = gates(1, Duration::from_secs(20));
        let held = enter(&gates, Gate::Blob).await.unwrap();
        let (taken, ()) = tokio::join!(enter(&gates, Gate::Blob), async move { drop(held) });
        assert!(taken.is_ok());
    }

    #[tokio::test]
    async fn a_pull_that_waited_too_long_gets_503() {
        let gates = gates(1, Duration::ZERO);
        let _held = enter(&gates, Gate::Blob).await.unwrap();
        assert_eq!(enter(&gates, Gate::Blob).await.unwrap_err().status(), 503);
    }

    #[tokio::test]
    async fn large_blobs_leave_the_place_of_what_is_little_alone() {
        let gates = gates(1, Duration::ZERO);
        let _held = enter(&gates, Gate::Blob).await.unwrap();
        let _little = enter(&gates, Gate::Little).await.unwrap();
        assert_eq!(enter(&gates, Gate::Little).await.unwrap_err().status(), 503);
    }

    #[tokio::test]
    async fn uploads_and_lists_are_refused_at_once() {
        let gates = gates(1, Duration::ZERO);
        let _upload = enter(&gates, Gate::Upload).await.unwrap();
        let _list = enter(&gates, Gate::Listing).await.unwrap();
        for gate in [Gate::Upload, Gate::Listing] {
            assert_eq!(enter(&gates, gate).await.unwrap_err().status(), 429);
        }
        assert!(enter(&gates, Gate::Free).await.unwrap().is_none());
    }
}
