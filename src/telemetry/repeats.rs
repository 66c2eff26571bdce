//! Equal lines, once per ten seconds with a count. Pure: the time is an argument.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// How long equal lines are held back after the first.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Different lines that are remembered; more are let through unlimited.
const MOST: usize = 512;

/// Remembers lines of the last ten seconds, and for each the `T` that is needed to report its repeats.
#[derive(Debug)]
pub struct Repeats<T> {
    seen: HashMap<u64, Seen<T>>,
}

#[derive(Debug)]
struct Seen<T> {
    since: Instant,
    repeated: u64,
    line: T,
}

/// What to do with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Write it; `held_back` equal ones came before it and were not written.
    Write {
        /// Held back since the last one that was written.
        held_back: u64,
    },
    /// An equal one was written a moment ago; it is counted.
    HoldBack,
}

impl<T> Default for Repeats<T> {
    fn default() -> Self {
        Self { seen: HashMap::new() }
    }
}

impl<T> Repeats<T> {
    /// Judges a line. `key`: equal for equal lines; `line`: only called for one that begins a window.
    pub fn judge(&mut self, key: &impl Hash, now: Instant, line: impl FnOnce() -> T) -> Verdict {
        let key = {
            let mut hasher = DefaultHasher::new();
            key.hash(&mut hasher);
            hasher.finish()
        };
        if let Some(seen) = self.seen.get_mut(&key) {
            if now.saturating_duration_since(seen.since) < WINDOW {
                seen.repeated += 1;
                return Verdict::HoldBack;
            }
            let held_back = std::mem::take(&mut seen.repeated);
            seen.since = now;
            return Verdict::Write { held_back };
        }
        if self.seen.len() >= MOST {
            self.seen.retain(|_, seen| seen.repeated > 0 || now.saturating_duration_since(seen.since) < WINDOW);
        }
        if self.seen.len() < MOST {
            self.seen.insert(key, Seen { since: now, repeated: 0, line: line() });
        }
        Verdict::Write { held_back: 0 }
    }

    /// Forgets windows that are over, and returns those that held something back, with how many.
    pub fn over(&mut self, now: Instant) -> Vec<(T, u64)> {
        self.take(|seen| now.saturating_duration_since(seen.since) >= WINDOW)
    }

    /// Forgets everything, and returns what held something back: for the end of the process.
    pub fn drain(&mut self) -> Vec<(T, u64)> {
        self.take(|_| true)
    }

    fn take(&mut self, over: impl Fn(&Seen<T>) -> bool) -> Vec<(T, u64)> {
        let ended = self.seen.extract_if(|_, seen| over(seen));
        ended.map(|(_, seen)| (seen.line, seen.repeated)).filter(|(_, repeated)| *repeated > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lines_once_per_window_and_none_is_lost_from_the_count() {
        let mut repeats = Repeats::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(repeats.judge(&"a", at(0), || "a"), Verdict::Write { held_back: 0 });
        assert_eq!(repeats.judge(&"b", at(0), || "b"), Verdict::Write { held_back: 0 });
        for second in 1..10 {
            assert_eq!(repeats.judge(&"a", at(second), || "a"), Verdict::HoldBack);
        }
        assert_eq!(repeats.judge(&"a", at(10), || "a"), Verdict::Write { held_back: 9 });
        assert_eq!(repeats.judge(&"a", at(11), || "a"), Verdict::HoldBack);
        assert_eq!(repeats.over(at(12)), [], "b held nothing back, a's window is not over");
        assert_eq!(repeats.over(at(20)), [("a", 1)]);
        assert_eq!(repeats.drain(), []);
    }

    #[test]
    fn memory_is_bounded_and_what_does_not_fit_is_written() {
        let mut repeats = Repeats::default();
        let now = Instant::now();
        for line in 0..10_000 {
            assert_eq!(repeats.judge(&line, now, || line), Verdict::Write { held_back: 0 });
        }
        assert_eq!(repeats.seen.len(), MOST);
        repeats.judge(&0, now, || 0);
        let later = now + WINDOW;
        repeats.judge(&"new", later, || -1);
        assert_eq!(repeats.seen.len(), 2, "old windows make room, but not one whose count is still owed");
    }
}
