//! Whether the disk moves: operations that wait for it, and when one last ended. One count for the process, as there is one
//! pool of threads that wait.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A disk stands still when operations wait and none has ended for 10 s.
pub const STANDSTILL: Duration = Duration::from_secs(10);

static PROCESS: Operations = Operations::new();

/// Operations on one disk.
#[derive(Debug)]
struct Operations {
    waiting: AtomicUsize,
    /// When one last ended, or the first of those that wait began, in milliseconds since the first look.
    moved: AtomicU64,
}

/// An operation that waits for the disk, until this is dropped: also while it waits for a thread.
#[derive(Debug)]
#[must_use = "the operation waits as long as this lives"]
pub struct DiskOperation {
    operations: &'static Operations,
    /// Its end says that the disk moves.
    tells: bool,
}

/// A disk that stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standstill {
    /// For how long no operation has ended.
    pub since: Duration,
    /// How many wait.
    pub waiting: usize,
}

impl Operations {
    const fn new() -> Self {
        Self { waiting: AtomicUsize::new(0), moved: AtomicU64::new(0) }
    }

    fn begin(&'static self, tells: bool, now: u64) -> DiskOperation {
        if self.waiting.fetch_add(1, Ordering::AcqRel) == 0 {
            self.moved.store(now, Ordering::Release);
        }
        DiskOperation { operations: self, tells }
    }

    fn standstill(&self, now: u64) -> Option<Standstill> {
        let waiting = self.waiting.load(Ordering::Acquire);
        let since = Duration::from_millis(now.saturating_sub(self.moved.load(Ordering::Acquire)));
        (waiting > 0 && since >= STANDSTILL).then_some(Standstill { since, waiting })
    }
}

impl Drop for DiskOperation {
    fn drop(&mut self) {
        if self.tells {
            self.operations.moved.store(now(), Ordering::Release);
        }
        self.operations.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

fn now() -> u64 {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    u64::try_from(BEGIN.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// An operation begins to wait for the disk.
pub fn disk_operation() -> DiskOperation {
    PROCESS.begin(true, now())
}

/// The same for one that may be answered from memory, so that its end says nothing of the disk.
pub fn disk_look() -> DiskOperation {
    PROCESS.begin(false, now())
}

/// A long operation has come on.
pub fn disk_moved() {
    PROCESS.moved.store(now(), Ordering::Release);
}

/// Whether operations wait and none has ended for [`STANDSTILL`].
#[must_use]
pub fn disk_standstill() -> Option<Standstill> {
    PROCESS.standstill(now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_stands_still_while_operations_wait_and_none_ends() {
        static DISK: Operations = Operations::new();
        let limit = u64::try_from(STANDSTILL.as_millis()).unwrap();
        assert_eq!(DISK.standstill(u64::MAX), None, "nobody waits");
        // What this process has not lived to: an end, which takes the time of its clock, is told from it.
        let begun = 1 << 40;
        let first = DISK.begin(true, begun);
        let look = DISK.begin(false, begun + limit);
        assert_eq!(DISK.standstill(begun + limit - 1), None);
        let found = DISK.standstill(begun + limit).unwrap();
        assert_eq!((found.since, found.waiting), (STANDSTILL, 2));
        // A look that was answered from memory is no sign of life.
        drop(look);
        assert!(DISK.standstill(begun + limit).is_some());
        let second = DISK.begin(true, begun + limit);
        drop(first);
        let ended = DISK.moved.load(Ordering::Acquire);
        assert!(ended < begun, "one has ended now");
        assert_eq!(DISK.standstill(ended + limit - 1), None);
        assert!(DISK.standstill(ended + limit).is_some());
        drop(second);
        assert_eq!(DISK.standstill(u64::MAX), None);
    }
}
