//! The one door to the wall clock. Pure code takes a [`Timestamp`] as an argument.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest time for which a client is kept waiting for the head of its answer: by a queue here (`limits.queueWait`) and
/// by an upstream (`mode`, `fetch`). containerd gives an answer's head up after 30 s, and ours is promised within 25 s.
pub const CLIENT_PATIENCE: Duration = Duration::from_secs(20);

/// A moment by the wall clock, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment `millis` milliseconds after 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// How long `earlier` is past; `None` if it lies ahead (a clock that went back).
    #[must_use]
    pub const fn since(self, earlier: Self) -> Option<Duration> {
        match self.0.checked_sub(earlier.0) {
            Some(millis) => Some(Duration::from_millis(millis)),
            None => None,
        }
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Now, by the wall clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn now() -> Timestamp {
    SystemTime::now().into()
}

/// Now, or up to a tick of the system (1 to 10 ms) ago: reads `CLOCK_REALTIME_COARSE`, which is cheaper than the clock
/// itself. For times that are told in seconds.
#[must_use]
pub fn tick() -> Timestamp {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    let [seconds, nanos] = [now.tv_sec, now.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
    Timestamp::from_millis(seconds * 1000 + nanos / 1_000_000)
}

/// How long the machine has been running, up to a tick of the system (1 to 10 ms) ago. Never goes back, whoever sets the
/// clock.
#[must_use]
pub fn running() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_never_ahead_and_comes_up_with_the_clock() {
        let patience = std::time::Instant::now() + Duration::from_secs(60);
        for _ in 0..10 {
            let before = now();
            // How long a tick takes is the system's affair, and that of who shares its machine.
            while tick() < before {
                assert!(std::time::Instant::now() < patience, "{:?} does not come up to {before:?}", tick());
            }
            assert!(tick() <= now());
        }
    }
}
