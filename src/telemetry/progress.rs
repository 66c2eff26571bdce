//! A line in the log now and then about work that takes long.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Work that takes less says nothing.
const QUIET: Duration = Duration::from_secs(2);
/// Between two lines.
const PAUSE: Duration = Duration::from_secs(5);

/// Reports on one piece of work: nothing for its first two seconds, then a line every five. Can be shared by threads.
#[derive(Debug)]
pub struct ProgressLog {
    what: &'static str,
    begun: Instant,
    /// Milliseconds after `begun` at which the next line is due.
    next: AtomicU64,
}

impl ProgressLog {
    /// Begins. `what`: the work in a few words, as in "rebuilding the index".
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        Self { what, begun: Instant::now(), next: AtomicU64::new(millis(QUIET)) }
    }

    /// Says how far the work is. Cheap: to be called for every object. `total`: `None` if it isn't known.
    pub fn tick(&self, done: u64, total: Option<u64>) {
        let elapsed = self.begun.elapsed();
        if self.is_due(elapsed) {
            tracing::info!(done, total, seconds = elapsed.as_secs(), "{}", self.what);
        }
    }

    /// Says that it is done; a line only if there was one before.
    pub fn finish(self, done: u64) {
        if self.has_spoken() {
            tracing::info!(done, seconds = self.begun.elapsed().as_secs(), "{}: done", self.what);
        }
    }

    fn has_spoken(&self) -> bool {
        self.next.load(Ordering::Relaxed) > millis(QUIET)
    }

    fn is_due(&self, elapsed: Duration) -> bool {
        let next = self.next.load(Ordering::Relaxed);
        let now = millis(elapsed);
        // Of several threads that see it due, one speaks.
        now >= next
            && self.next.compare_exchange(next, now + millis(PAUSE), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_for_two_seconds_then_every_five() {
        let progress = ProgressLog::new("counting");
        let due: Vec<u64> =
            (0..=20_000).step_by(100).filter(|at| progress.is_due(Duration::from_millis(*at))).collect();
        assert_eq!(due, [2_000, 7_000, 12_000, 17_000]);
        assert!(progress.has_spoken());
        assert!(!ProgressLog::new("short").has_spoken());
    }
}
