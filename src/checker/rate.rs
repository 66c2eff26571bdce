//! Bytes that are fetched of a registry: counted, and held back to a rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How fast contents are fetched, on average, and how many bytes were. A content that has begun comes as fast as it can: a cache
/// fetches it to its end whoever reads.
#[derive(Debug, Default)]
pub struct Rate {
    /// Bytes in a second; `None`: no bound.
    most: Option<u64>,
    fetched: AtomicU64,
    /// When the next content may begin.
    next: Mutex<Option<Instant>>,
}

impl Rate {
    /// At most `most` bytes in a second, on average; `None` or 0: as fast as they come.
    #[must_use]
    pub fn new(most: Option<u64>) -> Self {
        Self { most: most.filter(|most| *most > 0), ..Self::default() }
    }

    /// Bytes that were fetched so far.
    #[must_use]
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Waits until a content of `bytes` may begin. Safe to drop: its time is used up then.
    pub(super) async fn begin(&self, bytes: u64) {
        tokio::time::sleep_until(self.reserve(bytes, Instant::now())).await;
    }

    /// When a content of `bytes` may begin, which the next one waits for.
    fn reserve(&self, bytes: u64, now: Instant) -> Instant {
        let Some(most) = self.most else { return now };
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = next.map_or(now, |next| next.max(now));
        *next = at.checked_add(time(bytes, most));
        at
    }

    /// Counts bytes that came.
    pub(super) fn came(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// How long `bytes` take at `most` bytes in a second.
fn time(bytes: u64, most: u64) -> Duration {
    let (seconds, rest) = (bytes / most, bytes % most);
    let nanos = u128::from(rest) * 1_000_000_000 / u128::from(most);
    Duration::new(seconds, u32::try_from(nanos).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_begin_so_that_their_bytes_take_their_time() {
        let (rate, begin) = (Rate::new(Some(1000)), Instant::now());
        let after = |millis| begin + Duration::from_millis(millis);
        for (bytes, at) in [(500, 0), (2_000, 500), (1, 2_500), (0, 2_501), (10, 2_501)] {
            assert_eq!(rate.reserve(bytes, begin), after(at), "{bytes}");
        }
        // What was not used is not saved up.
        assert_eq!(rate.reserve(1000, after(100_000)), after(100_000));
        assert_eq!(rate.reserve(1, after(100_000)), after(101_000));
        for unbound in [Rate::new(None), Rate::new(Some(0))] {
            assert_eq!((unbound.reserve(u64::MAX, begin), unbound.reserve(u64::MAX, begin)), (begin, begin));
        }
    }
}
