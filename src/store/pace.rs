//! Write-back a piece at a time, so that others who sync on the same disk don't wait behind what is stored here.
//!
//! Left to the system, what was written gathers in memory until the sync at the end throws all of it at the disk, and who
//! then syncs a small append (etcd) waits for it. Here a piece goes to the disk as soon as it is written, one piece at a
//! time in the whole store, at no more than `limits.writeBytesPerSecond`; the writer waits for its piece, so no more than a
//! piece of each writer is ahead of the disk.
//!
//! A piece is as long as what the disk took in [`PIECE_TIME`] before: etcd waits no longer behind it than that, and on a
//! fast disk fewer pieces cost less CPU, which matters where each begins with an exit to a virtual machine's host. With a
//! limit it is [`LEAST_BYTES`], so that it is even.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

use crate::sys::write_back::write_back;

/// A piece on a slow disk, in bytes.
const LEAST_BYTES: u64 = 512 << 10;

/// A piece on a fast one.
const MOST_BYTES: u64 = 2 << 20;

/// What a piece should take at most.
const PIECE_TIME: Duration = Duration::from_millis(2);

/// What a fill writes back in one turn at least, if there is so much, a piece after the other: a turn costs a change of
/// threads.
pub(super) const TURN_BYTES: u64 = 2 * LEAST_BYTES;

/// What is left at the end is written back in turn too, unless it is as little as this.
pub(super) const TAIL_BYTES: u64 = 64 << 10;

/// A piece that comes later than this after it might have is not made up for.
const SLACK: Duration = Duration::from_millis(20);

const NANOS_A_SECOND: u128 = 1_000_000_000;

/// The order in which pieces go to the disk.
#[derive(Debug, Default)]
pub(super) struct Pace {
    clock: Arc<Mutex<Clock>>,
    piece: Arc<Piece>,
}

/// The right to write back; the next one waits until this is dropped.
#[derive(Debug)]
#[must_use = "the turn ends when this is dropped"]
pub(super) struct Turn {
    piece: Arc<Piece>,
    _clock: OwnedMutexGuard<Clock>,
}

impl Turn {
    /// Sends so many bytes of a file to the disk, as one piece. Blocking; see [`write_back()`].
    pub(super) fn write_back(&self, file: &File, from: u64, length: u64) -> io::Result<()> {
        let begun = Instant::now();
        write_back(file, from, length)?;
        self.piece.took(length, begun.elapsed());
        Ok(())
    }
}

impl Pace {
    /// How long a piece is now, in bytes.
    pub(super) fn piece(&self, rate: Option<u64>) -> u64 {
        if rate.is_some_and(|rate| rate > 0) { LEAST_BYTES } else { self.piece.0.load(Ordering::Relaxed) }
    }

    /// Waits for the turn to write `bytes` back, in the order of asking, at no more than `rate` bytes a second. Safe to
    /// drop: the turn is the next one's.
    pub(super) async fn turn(&self, bytes: u64, rate: Option<u64>) -> Turn {
        let mut clock = Arc::clone(&self.clock).lock_owned().await;
        if let Some(due) = clock.due {
            tokio::time::sleep_until(due).await;
        }
        clock.go(Instant::now(), bytes, rate);
        self.begin(clock)
    }

    /// The turn, if nobody has it and it is due.
    pub(super) fn turn_now(&self, bytes: u64, rate: Option<u64>) -> Option<Turn> {
        let mut clock = Arc::clone(&self.clock).try_lock_owned().ok()?;
        let now = Instant::now();
        if clock.due.is_some_and(|due| due > now) {
            return None;
        }
        clock.go(now, bytes, rate);
        Some(self.begin(clock))
    }

    fn begin(&self, clock: OwnedMutexGuard<Clock>) -> Turn {
        Turn { piece: Arc::clone(&self.piece), _clock: clock }
    }
}

/// How long the next piece is.
#[derive(Debug)]
struct Piece(AtomicU64);

impl Default for Piece {
    fn default() -> Self {
        Self(AtomicU64::new(LEAST_BYTES))
    }
}

impl Piece {
    /// So many bytes took so long, in turn with others.
    fn took(&self, bytes: u64, time: Duration) {
        let now = self.0.load(Ordering::Relaxed);
        let next = if time > PIECE_TIME {
            now / 2
        } else if bytes >= now && time < PIECE_TIME / 2 {
            now * 2
        } else {
            now
        };
        self.0.store(next.clamp(LEAST_BYTES, MOST_BYTES), Ordering::Relaxed);
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

    const RATE: Option<u64> = Some(10 * LEAST_BYTES);
    const TENTH: Duration = Duration::from_millis(100);

    #[test]
    fn pieces_go_at_the_rate_although_timers_are_late() {
        let (begin, mut clock) = (Instant::now(), Clock::default());
        let mut now = begin;
        for piece in 1..=20 {
            clock.go(now, LEAST_BYTES, RATE);
            assert_eq!(clock.due, Some(begin + TENTH * piece));
            now = begin + TENTH * piece + Duration::from_millis(3);
        }
    }

    #[test]
    fn time_in_which_nothing_was_written_is_not_saved_up() {
        let (begin, mut clock) = (Instant::now(), Clock::default());
        clock.go(begin, LEAST_BYTES, RATE);
        let later = begin + Duration::from_secs(60);
        clock.go(later, LEAST_BYTES, RATE);
        assert_eq!(clock.due, Some(later + TENTH));
    }

    #[test]
    fn without_a_rate_the_next_piece_is_due_at_once() {
        let mut clock = Clock::default();
        clock.go(Instant::now(), LEAST_BYTES, RATE);
        clock.go(Instant::now(), LEAST_BYTES, None);
        assert_eq!(clock.due, None);
    }

    #[tokio::test]
    async fn one_piece_at_a_time_and_a_turn_given_up_is_the_next_ones() {
        let pace = Pace::default();
        let first = pace.turn(LEAST_BYTES, None).await;
        {
            let mut given_up = std::pin::pin!(pace.turn(LEAST_BYTES, None));
            assert!(futures_util::poll!(given_up.as_mut()).is_pending(), "two pieces at once");
        }
        assert!(pace.turn_now(LEAST_BYTES, None).is_none(), "two pieces at once");
        drop(first);
        drop(pace.turn(LEAST_BYTES, None).await);
    }

    #[tokio::test]
    async fn a_turn_that_is_not_due_is_not_had_at_once() {
        let pace = Pace::default();
        assert!(pace.turn_now(LEAST_BYTES, Some(1)).is_some());
        assert!(pace.turn_now(LEAST_BYTES, Some(1)).is_none());
    }

    /// What a piece is after a hundred on a disk that takes so many bytes in a millisecond, and 100 us for each piece.
    fn piece_on(disk: u64) -> u64 {
        let piece = Piece::default();
        for _ in 0..100 {
            let length = piece.0.load(Ordering::Relaxed);
            piece.took(length, Duration::from_micros(100 + length * 1000 / disk));
        }
        piece.0.load(Ordering::Relaxed)
    }

    #[test]
    fn a_piece_is_what_the_disk_takes_in_its_time() {
        for (megabytes_a_second, expected) in
            [(50, LEAST_BYTES), (200, LEAST_BYTES), (800, 2 * LEAST_BYTES), (3000, MOST_BYTES)]
        {
            assert_eq!(piece_on(megabytes_a_second * 1000), expected, "{megabytes_a_second} MB/s");
        }
    }

    #[test]
    fn a_disk_that_becomes_slow_gets_short_pieces_again() {
        let piece = Piece(AtomicU64::new(MOST_BYTES));
        for _ in 0..2 {
            piece.took(MOST_BYTES, PIECE_TIME * 2);
        }
        assert_eq!(piece.0.load(Ordering::Relaxed), LEAST_BYTES);
    }

    #[test]
    fn the_little_that_is_left_at_an_end_makes_pieces_no_longer() {
        let piece = Piece::default();
        piece.took(TAIL_BYTES, Duration::ZERO);
        assert_eq!(piece.0.load(Ordering::Relaxed), LEAST_BYTES);
    }

    #[test]
    fn with_a_rate_pieces_are_short() {
        let pace = Pace::default();
        pace.piece.took(LEAST_BYTES, Duration::ZERO);
        assert!(pace.piece(None) > LEAST_BYTES && pace.piece(Some(0)) > LEAST_BYTES);
        assert_eq!(pace.piece(RATE), LEAST_BYTES);
    }
}
