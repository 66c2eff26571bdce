//! Reading whole files beside others who use the disk: a piece at a time, each in turn with what is written, and a pause behind
//! it in which the disk is theirs. Blocking; inside a tokio runtime, on a thread that may block.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::files::Contents;
use super::uncached::read_beside;

/// A pause that is owed is made when it is this long.
const LEAST_PAUSE: Duration = Duration::from_millis(4);

/// Most bytes a second that are read while somebody waits for the end, as by an order.
pub(in crate::store) const ORDERED_RATE: u64 = 64 << 20;

/// Reads pieces in turn with others.
#[derive(Debug)]
pub struct Beside<'a> {
    contents: &'a Contents,
    /// Bytes a second; `None`: nobody needs the disk beside.
    rate: Option<u64>,
    owed: Duration,
}

impl<'a> Beside<'a> {
    /// At no more than `rate` bytes a second, and with as much time for others as for this; `None`: without a pause.
    pub(in crate::store) const fn new(contents: &'a Contents, rate: Option<u64>) -> Self {
        Self { contents, rate, owed: Duration::ZERO }
    }

    /// Waits for a turn, has `read` read a piece, and makes the pause that is owed then. `None`: `stop` was cancelled before.
    pub(in crate::store) fn piece(
        &mut self,
        stop: &CancellationToken,
        read: impl FnOnce() -> io::Result<usize>,
    ) -> Option<io::Result<usize>> {
        let turn = Handle::current().block_on(async {
            tokio::select! {
                biased;
                () = stop.cancelled() => None,
                turn = self.contents.turn(0) => Some(turn),
            }
        })?;
        let begun = Instant::now();
        let read = read();
        drop(turn);
        if let (Some(rate), Ok(bytes)) = (self.rate, &read) {
            self.owed += pause(*bytes as u64, begun.elapsed(), rate);
            if self.owed >= LEAST_PAUSE {
                std::thread::sleep(std::mem::take(&mut self.owed));
            }
        }
        Some(read)
    }

    /// Reads from `at` on into `buffer`, of a file that is not a content of the store: from memory if it is there, else from the
    /// disk, and leaves it in memory only if it was there. 0: the file has ended. `None`: `stop` was cancelled before.
    pub fn read(
        &mut self,
        file: &File,
        at: u64,
        buffer: &mut [u8],
        stop: &CancellationToken,
    ) -> Option<io::Result<usize>> {
        if at == 0 {
            // Nothing is read ahead that would have to be dropped.
            let _ = fadvise(file, 0, None, Advice::Random);
        }
        self.piece(stop, || {
            loop {
                match read_beside(file, at, buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read,
                }
            }
        })
    }
}

/// What is owed to others behind a piece of `bytes` that took `taken`: as long as it took, and as the rate wants.
pub(in crate::store) fn pause(bytes: u64, taken: Duration, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    let least = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    least.saturating_sub(taken).max(taken)
}

/// Behind this time a thread with long work lets others of its core go first. Linux, left alone, gives it some ms at a time, and a
/// request that comes meanwhile waits for them.
const GIVE_WAY_EVERY: Duration = Duration::from_micros(500);

/// Has a thread with long work give way to others, in the middle of it.
#[derive(Debug)]
pub(in crate::store) struct GiveWay {
    last: Instant,
}

impl GiveWay {
    pub(in crate::store) fn new() -> Self {
        Self { last: Instant::now() }
    }

    /// To be called for each small piece of the work; costs a look at the clock where it is not time.
    pub(in crate::store) fn now_and_then(&mut self) {
        if self.last.elapsed() >= GIVE_WAY_EVERY {
            std::thread::yield_now();
            self.last = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{quick_dir, store};

    #[test]
    fn the_disk_has_half_of_the_time_for_others_and_no_rate_is_passed() {
        let ms = Duration::from_millis;
        assert_eq!(pause(1 << 20, ms(2), 16 << 20), ms(62) + Duration::from_micros(500) - ms(2));
        assert_eq!(pause(1 << 20, ms(100), 16 << 20), ms(100));
        assert_eq!(pause(0, ms(3), 16 << 20), ms(3));
    }

    #[test]
    fn a_piece_is_read_in_a_turn_and_a_stop_waits_for_none() {
        let (dir, runtime) = (quick_dir(), tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
        let opened = store(dir.path());
        let contents = &opened.0.contents;
        let _entered = runtime.enter();
        let (stop, mut beside) = (CancellationToken::new(), Beside::new(contents, Some(ORDERED_RATE)));
        let read = beside.piece(&stop, || {
            assert!(contents.turn_now(0).is_none(), "somebody else has a turn meanwhile");
            Ok(7)
        });
        assert_eq!(read.unwrap().unwrap(), 7);
        let held = contents.turn_now(0).expect("the turn is over behind the piece");
        stop.cancel();
        assert!(beside.piece(&stop, || panic!("it is read without a turn")).is_none());
        drop(held);
    }
}
