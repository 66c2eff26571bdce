//! When a job runs.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// When a job runs, apart from calls and orders, which are heard in every pause but one behind a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Between the end of a run and the beginning of the next; `None`: only calls and orders begin one.
    pause: Option<Duration>,
    /// Most that is added to a pause, by chance.
    jitter: Duration,
    /// Whether the first run begins at once.
    at_start: bool,
    /// The first pause behind a failure, and the longest.
    retry: Option<(Duration, Duration)>,
}

impl Schedule {
    /// At the start, then `pause` after the end of each run.
    #[must_use]
    pub const fn every(pause: Duration) -> Self {
        Self { pause: Some(pause), jitter: Duration::ZERO, at_start: true, retry: None }
    }

    /// At the start, then one run behind the other. A run has to wait for something, or it takes a thread for itself.
    #[must_use]
    pub const fn continuous() -> Self {
        Self::every(Duration::ZERO)
    }

    /// Only when it is called or ordered.
    #[must_use]
    pub const fn when_called() -> Self {
        Self { pause: None, jitter: Duration::ZERO, at_start: false, retry: None }
    }

    /// The first run comes after a pause too.
    #[must_use]
    pub const fn not_at_start(self) -> Self {
        Self { at_start: false, ..self }
    }

    /// Adds up to `most` to each pause, by chance, so that many servers that were started together spread.
    #[must_use]
    pub const fn jitter(self, most: Duration) -> Self {
        Self { jitter: most, ..self }
    }

    /// Behind a failure the pause is `first`, twice as long behind each further one, `longest` at most; calls wait for its
    /// end. Without it a failure changes nothing.
    #[must_use]
    pub const fn retry(self, first: Duration, longest: Duration) -> Self {
        Self { retry: Some((first, longest)), ..self }
    }

    pub(super) const fn starts_at_once(&self) -> bool {
        self.at_start
    }

    /// The pause that comes after `failures` failed runs in a row; `chance` chooses its jitter.
    pub(super) fn pause(&self, failures: u32, chance: u64) -> Pause {
        match self.retry.filter(|_| failures > 0) {
            Some((first, longest)) => {
                let doubled = first.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX));
                Pause { length: Some(doubled.min(longest)), hears_calls: false }
            }
            None => Pause { length: self.pause.map(|pause| pause + self.chosen(chance)), hears_calls: true },
        }
    }

    fn chosen(&self, chance: u64) -> Duration {
        let most = u64::try_from(self.jitter.as_nanos()).unwrap_or(u64::MAX);
        match most.checked_add(1) {
            Some(values) => Duration::from_nanos(chance % values),
            None => Duration::from_nanos(chance),
        }
    }
}

/// As it stands in the status.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pause {
            None => f.write_str("when called"),
            Some(Duration::ZERO) => f.write_str("continuous"),
            Some(pause) => write!(f, "every {}", humantime::format_duration(pause)),
        }
    }
}

/// What lies between two runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    /// `None`: until a call or an order.
    pub(super) length: Option<Duration>,
    pub(super) hears_calls: bool,
}

/// Any number, another one at each call. Not for secrets.
pub(super) fn chance() -> u64 {
    // The standard library's keys are random for each thread, and others at each call.
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn failures_double_the_pause_up_to_its_longest_and_calls_wait() {
        let schedule = Schedule::every(60 * SECOND).retry(5 * SECOND, 600 * SECOND);
        let pauses = [0, 1, 2, 3, 7, 8, 9, 40, u32::MAX].map(|failures| schedule.pause(failures, 0));
        let lengths = pauses.map(|pause| pause.length.unwrap().as_secs());
        assert_eq!(lengths, [60, 5, 10, 20, 320, 600, 600, 600, 600]);
        assert!(pauses[0].hears_calls && pauses[1..].iter().all(|pause| !pause.hears_calls));
        let patient = Schedule::every(SECOND).pause(9, 0);
        assert_eq!(patient, Pause { length: Some(SECOND), hears_calls: true });
    }

    #[test]
    fn a_job_that_waits_for_calls_has_no_time() {
        assert_eq!(Schedule::when_called().pause(0, 7), Pause { length: None, hears_calls: true });
        assert!(!Schedule::when_called().starts_at_once() && Schedule::continuous().starts_at_once());
        assert!(!Schedule::every(SECOND).not_at_start().starts_at_once());
    }

    #[test]
    fn the_status_says_it_in_words() {
        let texts = [Schedule::every(300 * SECOND), Schedule::when_called(), Schedule::continuous()];
        assert_eq!(texts.map(|schedule| schedule.to_string()), ["every 5m", "when called", "continuous"]);
    }

    #[test]
    fn chance_is_not_the_same_twice() {
        let numbers: std::collections::HashSet<u64> = (0..100).map(|_| chance()).collect();
        assert!(numbers.len() > 90);
    }

    proptest! {
        #[test]
        fn jitter_only_adds_and_never_more_than_it_may(chance: u64, most in 0..5_000_u64) {
            let most = Duration::from_millis(most);
            let pause = Schedule::every(SECOND).jitter(most).pause(0, chance).length.unwrap();
            prop_assert!((SECOND..=SECOND + most).contains(&pause));
        }
    }
}
