//! Write-back a piece at a time, so that others who sync on the same disk don't wait behind what is stored here.
//!
//! Left to the system, what was written gathers in memory until the sync at the end throws all of it at the disk, and who
//! then syncs a small append (etcd) waits for it. Here every [`TURN_BYTES`] go to the disk as soon as they are written, one
//! turn at a time in the whole store, at no more than `limits.writeBytesPerSecond`. An upload waits for its turn, so it is
//! two turns ahead of the disk at most; a fill is 8 MiB ahead at most.
//!
//! A disk that takes long for a turn gets it in two pieces, so that etcd waits for half of it only. On a fast one that would
//! be CPU for nothing: in a virtual machine each piece begins with an exit to the host.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

use crate::fs::write_back;

/// Bytes that are written back in one turn: a turn costs a change of threads.
pub const TURN_BYTES: u64 = 1 << 20;

/// Bytes that a slow disk gets at once.
const PIECE_BYTES: u64 = TURN_BYTES / 2;

/// A disk that takes longer than this for a turn is slow.
const FAST_TURN: Duration = Duration::from_millis(4);

/// Bytes at the end that are not written back in turn: the sync takes them.
pub(in crate::store) const TAIL_BYTES: u64 = 64 << 10;

/// A turn that comes later than this after it might have is not made up for.
const SLACK: Duration = Duration::from_millis(20);

const NANOS_A_SECOND: u128 = 1_000_000_000;

/// The order in which turns go to the disk.
#[derive(Debug, Default)]
pub(in crate::store) struct Pace(Arc<Mutex<Clock>>);

/// The right to write back; the next one waits until this is dropped.
#[derive(Debug)]
#[must_use = "the turn ends when this is dropped"]
pub(in crate::store) struct Turn(OwnedMutexGuard<Clock>);

impl Pace {
    /// Waits for the turn to write `bytes` back, in the order of asking, at no more than `rate` bytes a second. Safe to
    /// drop: the turn is the next one's.
    pub(in crate::store) async fn turn(&self, bytes: u64, rate: Option<u64>) -> Turn {
        let mut clock = Arc::clone(&self.0).lock_owned().await;
        if let Some(due) = clock.due {
            tokio::time::sleep_until(due).await;
        }
        clock.go(Instant::now(), bytes, rate);
        Turn(clock)
    }

    /// The turn, if nobody has it and it is due.
    pub(in crate::store) fn turn_now(&self, bytes: u64, rate: Option<u64>) -> Option<Turn> {
        let mut clock = Arc::clone(&self.0).try_lock_owned().ok()?;
        let now = Instant::now();
        if clock.due.is_some_and(|due| due > now) {
            return None;
        }
        clock.go(now, bytes, rate);
        Some(Turn(clock))
    }
}

impl Turn {
    /// Writes the changed pages of that part of a file to the disk and waits for them. Blocking.
    ///
    /// # Errors
    /// As [`write_back()`]; how much was written is not known then.
    pub(in crate::store) fn write_back(mut self, file: &File, part: Range<u64>) -> io::Result<()> {
        let begun = Instant::now();
        for piece in pieces(part.clone(), self.0.is_fast) {
            write_back(file, piece.start, piece.end - piece.start)?;
        }
        if let Some(is_fast) = is_fast(part.end - part.start, begun.elapsed()) {
            self.0.is_fast = is_fast;
        }
        Ok(())
    }
}

/// Whether a disk that took `time` for `bytes` is fast; `None`: so few bytes say nothing.
fn is_fast(bytes: u64, time: Duration) -> Option<bool> {
    (bytes >= TURN_BYTES).then(|| time.as_nanos() * u128::from(TURN_BYTES) <= FAST_TURN.as_nanos() * u128::from(bytes))
}

/// The pieces of a part that go to the disk at once.
fn pieces(part: Range<u64>, is_fast: bool) -> impl Iterator<Item = Range<u64>> {
    let length = if is_fast { TURN_BYTES } else { PIECE_BYTES };
    let end = part.end;
    part.step_by(usize::try_from(length).unwrap_or(usize::MAX)).map(move |from| from..end.min(from + length))
}

/// When the next turn may begin, and how the last one went.
#[derive(Debug, Default)]
struct Clock {
    due: Option<Instant>,
    /// The last turn took the disk a short time. Until that is known a disk is slow.
    is_fast: bool,
}

impl Clock {
    /// A turn begins `now`.
    fn go(&mut self, now: Instant, bytes: u64, rate: Option<u64>) {
        self.due = rate.filter(|rate| *rate > 0).map(|rate| {
            // Counted from when this turn was due, so that late timers don't lower the rate.
            let begin = self.due.filter(|due| now.saturating_duration_since(*due) < SLACK).unwrap_or(now);
            let nanos = u128::from(bytes) * NANOS_A_SECOND / u128::from(rate);
            begin + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Option<u64> = Some(10 * TURN_BYTES);
    const TENTH: Duration = Duration::from_millis(100);

    #[test]
    fn turns_come_at_the_rate_although_timers_are_late() {
        let (begin, mut clock) = (Instant::now(), Clock::default());
        let mut now = begin;
        for turn in 1..=20 {
            clock.go(now, TURN_BYTES, RATE);
            assert_eq!(clock.due, Some(begin + TENTH * turn));
            now = begin + TENTH * turn + Duration::from_millis(3);
        }
    }

    #[test]
    fn time_in_which_nothing_was_written_is_not_saved_up() {
        let (begin, mut clock) = (Instant::now(), Clock::default());
        clock.go(begin, TURN_BYTES, RATE);
        let later = begin + Duration::from_secs(60);
        clock.go(later, TURN_BYTES, RATE);
        assert_eq!(clock.due, Some(later + TENTH));
    }

    #[test]
    fn without_a_rate_the_next_turn_is_due_at_once() {
        let mut clock = Clock::default();
        clock.go(Instant::now(), TURN_BYTES, RATE);
        clock.go(Instant::now(), TURN_BYTES, None);
        assert_eq!(clock.due, None);
    }

    #[tokio::test]
    async fn one_turn_at_a_time_and_one_given_up_is_the_next_ones() {
        let pace = Pace::default();
        let first = pace.turn(TURN_BYTES, None).await;
        {
            let mut given_up = std::pin::pin!(pace.turn(TURN_BYTES, None));
            assert!(futures_util::poll!(given_up.as_mut()).is_pending(), "two turns at once");
        }
        assert!(pace.turn_now(TURN_BYTES, None).is_none(), "two turns at once");
        drop(first);
        drop(pace.turn(TURN_BYTES, None).await);
    }

    #[tokio::test]
    async fn a_turn_that_is_not_due_is_not_had_at_once() {
        let pace = Pace::default();
        assert!(pace.turn_now(TURN_BYTES, Some(1)).is_some());
        assert!(pace.turn_now(TURN_BYTES, Some(1)).is_none());
    }

    #[test]
    fn a_slow_disk_gets_half_a_turn_at_once() {
        let all = |part, is_fast| pieces(part, is_fast).map(|piece| (piece.start, piece.end)).collect::<Vec<_>>();
        let end = 7 + TURN_BYTES;
        assert_eq!(all(7..end, true), [(7, end)]);
        assert_eq!(all(7..end, false), [(7, 7 + PIECE_BYTES), (7 + PIECE_BYTES, end)]);
        assert_eq!(all(7..PIECE_BYTES, false), [(7, PIECE_BYTES)]);
        assert_eq!(all(7..end + 1, true), [(7, end), (end, end + 1)]);
        assert!(all(7..7, true).is_empty());
    }

    #[test]
    fn a_disk_is_as_fast_as_it_takes_a_turns_bytes() {
        assert_eq!(is_fast(TURN_BYTES, FAST_TURN), Some(true));
        assert_eq!(is_fast(TURN_BYTES, FAST_TURN * 2), Some(false));
        assert_eq!(is_fast(2 * TURN_BYTES, FAST_TURN * 2), Some(true));
        assert_eq!(is_fast(TURN_BYTES - 1, Duration::ZERO), None);
    }

    #[tokio::test]
    async fn the_next_turn_knows_how_fast_the_last_was() {
        let (pace, file) = (Pace::default(), tempfile::tempfile().unwrap());
        file.set_len(TURN_BYTES).unwrap();
        assert!(!pace.turn(0, None).await.0.is_fast, "until it is known a disk is slow");
        // Nothing is to be written, which no disk takes long for; a machine that is busy elsewhere may.
        for _ in 0..100 {
            pace.turn(TURN_BYTES, None).await.write_back(&file, 0..TURN_BYTES).unwrap();
            if pace.turn(0, None).await.0.is_fast {
                return;
            }
        }
        panic!("no turn was fast");
    }
}
