//! Write-back a piece at a time, so that others who sync on the same disk don't wait behind what is stored here.
//!
//! Left to the system, what was written gathers in memory until the sync at the end throws all of it at the disk, and who
//! then syncs a small append (etcd) waits for it. Here every [`PIECE_BYTES`] go to the disk as soon as they are written,
//! one piece at a time in the whole store, at no more than `limits.writeBytesPerSecond`; the writer waits for its piece,
//! so no more than a piece of each writer is ahead of the disk.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

/// What is written back at once, in bytes.
pub const PIECE_BYTES: u64 = 512 << 10;

/// What a fill writes back in one turn at most, a piece after the other: a turn costs a change of threads.
pub(super) const TURN_BYTES: u64 = 2 * PIECE_BYTES;

/// What is left at the end is written back in turn too, unless it is as little as this.
pub(super) const TAIL_BYTES: u64 = 64 << 10;

/// A piece that comes later than this after it might have is not made up for.
const SLACK: Duration = Duration::from_millis(20);

const NANOS_A_SECOND: u128 = 1_000_000_000;

/// The order in which pieces go to the disk.
#[derive(Debug, Default)]
pub(super) struct Pace(Arc<Mutex<Clock>>);

/// The right to write one piece back; the next one waits until this is dropped.
#[derive(Debug)]
#[must_use = "the turn ends when this is dropped"]
pub(super) struct Turn(#[expect(dead_code, reason = "held for its drop")] OwnedMutexGuard<Clock>);

impl Pace {
    /// Waits for the turn to write `bytes` back, in the order of asking, at no more than `rate` bytes a second. Safe to
    /// drop: the turn is the next one's.
    pub(super) async fn turn(&self, bytes: u64, rate: Option<u64>) -> Turn {
        let mut clock = Arc::clone(&self.0).lock_owned().await;
        if let Some(due) = clock.due {
            tokio::time::sleep_until(due).await;
        }
        clock.go(Instant::now(), bytes, rate);
        Turn(clock)
    }

    /// The turn, if nobody has it and it is due.
    pub(super) fn turn_now(&self, bytes: u64, rate: Option<u64>) -> Option<Turn> {
        let mut clock = Arc::clone(&self.0).try_lock_owned().ok()?;
        let now = Instant::now();
        if clock.due.is_some_and(|due| due > now) {
            return None;
        }
        clock.go(now, bytes, rate);
        Some(Turn(clock))
    }
}

/// When the next piece may go.
#[derive(Debug, Default)]
struct Clock {
    due: Option<Instant>,
}

impl Clock {
    /// A piece goes `now`.
    fn go(&mut self, now: Instant, bytes: u64, rate: Option<u64>) {
        self.due = rate.filter(|rate| *rate > 0).map(|rate| {
            // Counted from when this piece was due, so that late timers don't lower the rate.
            let begin = self.due.filter(|due| now.saturating_duration_since(*due) < SLACK).unwrap_or(now);
            let nanos = u128::from(bytes) * NANOS_A_SECOND / u128::from(rate);
            begin + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Option<u64> = Some(10 * PIECE_BYTES);
    const TENTH: Duration = Duration::from_millis(100);

    #[test]
    fn pieces_go_at_the_rate_although_timers_are_late() {
        let (begin, mut clock) = (Instant::now(), Clock::default());
        let mut now = begin;
        for piece in 1..=20 {
            clock.go(now, PIECE_BYTES, RATE);
            assert_eq!(clock.due, Some(begin + TENTH * piece));
            now = begin + TENTH * piece + Duration::from_millis(3);
        }
    }

    #[test]
    fn time_in_which_nothing_was_written_is_not_saved_up() {
        let (begin, mut clock) = (Instant::now(), Clock::default());
        clock.go(begin, PIECE_BYTES, RATE);
        let later = begin + Duration::from_secs(60);
        clock.go(later, PIECE_BYTES, RATE);
        assert_eq!(clock.due, Some(later + TENTH));
    }

    #[test]
    fn without_a_rate_the_next_piece_is_due_at_once() {
        let mut clock = Clock::default();
        clock.go(Instant::now(), PIECE_BYTES, RATE);
        clock.go(Instant::now(), PIECE_BYTES, None);
        assert_eq!(clock.due, None);
    }

    #[tokio::test]
    async fn one_piece_at_a_time_and_a_turn_given_up_is_the_next_ones() {
        let pace = Pace::default();
        let first = pace.turn(PIECE_BYTES, None).await;
        {
            let mut given_up = std::pin::pin!(pace.turn(PIECE_BYTES, None));
            assert!(futures_util::poll!(given_up.as_mut()).is_pending(), "two pieces at once");
        }
        assert!(pace.turn_now(PIECE_BYTES, None).is_none(), "two pieces at once");
        drop(first);
        drop(pace.turn(PIECE_BYTES, None).await);
    }

    #[tokio::test]
    async fn a_turn_that_is_not_due_is_not_had_at_once() {
        let pace = Pace::default();
        assert!(pace.turn_now(PIECE_BYTES, Some(1)).is_some());
        assert!(pace.turn_now(PIECE_BYTES, Some(1)).is_none());
    }
}
