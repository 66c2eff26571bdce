//! Whether the bytes that are charged for contents are those that are there, while contents come and go.
//!
//! The tree is added up a directory at a time, under the directory's lock. What changes in a directory that was added up changes
//! the sum too, in the same moment as the charge. So both are of one instant when the last directory is through.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A change of what is charged.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Added(u64),
    Removed(u64),
}

/// Goes on beside changes when somebody compares; costs a load otherwise.
#[derive(Debug, Default)]
pub(super) struct Audit {
    /// One comparison at a time.
    turn: Mutex<()>,
    is_running: AtomicBool,
    sums: Mutex<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    /// Directories that were added up.
    through: Vec<bool>,
    bytes: i128,
}

impl Audit {
    /// A content of a directory was charged or is charged no more. Called under the directory's lock.
    pub(super) fn change(&self, folder: usize, change: Change, charged: &AtomicU64) {
        // Set before the first directory's lock is taken to add it up: who reads `false` under a lock is met by the sum.
        let mut sums = self.is_running.load(Ordering::SeqCst).then(|| lock(&self.sums));
        if let Some(sums) = sums.as_mut().filter(|sums| sums.through.get(folder) == Some(&true)) {
            sums.bytes += match change {
                Change::Added(bytes) => i128::from(bytes),
                Change::Removed(bytes) => -i128::from(bytes),
            };
        }
        match change {
            Change::Added(bytes) => {
                charged.fetch_add(bytes, Ordering::Relaxed);
            }
            Change::Removed(bytes) => subtract(charged, bytes),
        }
    }

    /// What is charged, and what is there, at one instant. `sum` adds a directory up and calls nothing of this under its lock
    /// but what it is given; it says its bytes, and whether to go on. `None`: it did not.
    pub(super) fn compare<E>(
        &self,
        charged: &AtomicU64,
        folders: usize,
        mut sum: impl FnMut(usize, &dyn Fn(u64)) -> Result<bool, E>,
    ) -> Result<Option<(u64, u64)>, E> {
        let _turn = lock(&self.turn);
        *lock(&self.sums) = Sums { through: vec![false; folders], bytes: 0 };
        self.is_running.store(true, Ordering::SeqCst);
        let _ended = Ended(self);
        for folder in 0..folders {
            let through = |bytes: u64| {
                let mut sums = lock(&self.sums);
                sums.bytes += i128::from(bytes);
                sums.through[folder] = true;
            };
            if !sum(folder, &through)? {
                return Ok(None);
            }
        }
        let sums = lock(&self.sums);
        let there = u64::try_from(sums.bytes).unwrap_or(0);
        Ok(Some((charged.load(Ordering::Relaxed), there)))
    }
}

struct Ended<'a>(&'a Audit);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::SeqCst);
    }
}

pub(super) fn subtract(counter: &AtomicU64, bytes: u64) {
    // Never below zero: a count that is off by a lost file must not wrap.
    let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| Some(held.saturating_sub(bytes)));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
