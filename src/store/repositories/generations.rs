//! Counts the writes of repositories, so that nothing read before or beside a write is believed after it.

use std::sync::atomic::{AtomicU64, Ordering};

/// The number of no generation: a write ran while the tree was read, or nothing was read yet.
pub(in crate::store) const NO_GENERATION: u64 = u64::MAX;

/// The generations of the repositories that share them.
#[derive(Debug, Default)]
pub(in crate::store) struct Generations {
    /// Ends with every write of a manifest or tag.
    pub(in crate::store) changes: Generation,
    /// Ends with every delete, of blobs too.
    pub(in crate::store) deletions: Generation,
    /// Ends with every content that comes, of blobs too.
    pub(in crate::store) additions: Generation,
}

/// A counter that every write moves on twice, when it begins and when it ends: a sequence lock for several writers.
#[derive(Debug, Default)]
pub(in crate::store) struct Generation {
    number: AtomicU64,
    /// Writes that have begun and not ended.
    writes: AtomicU64,
}

/// A write that has begun; it ends when this is dropped.
#[derive(Debug)]
#[must_use = "the write lasts as long as this lives"]
pub(in crate::store) struct WriteGuard<'a>(&'a Generation);

impl Generation {
    /// The number as it stands, also while a write runs.
    pub(in crate::store) fn current(&self) -> u64 {
        self.number.load(Ordering::SeqCst)
    }

    /// The number under which what is read from now on may be remembered; [`NO_GENERATION`] while a write runs.
    pub(in crate::store) fn stable(&self) -> u64 {
        // The number first: a write that begins behind this load counts itself in `writes`, moves the number on and only
        // then touches the tree. So either the second load sees the write, or what is read belongs to a number that is
        // past before the write changes anything.
        let number = self.current();
        if self.writes.load(Ordering::SeqCst) == 0 { number } else { NO_GENERATION }
    }

    /// Begins a write; called before the tree is touched.
    pub(in crate::store) fn begin(&self) -> WriteGuard<'_> {
        self.enter();
        WriteGuard(self)
    }

    /// Begins a write that ends with [`Self::leave`], for who keeps a guard of his own.
    pub(in crate::store) fn enter(&self) {
        // Counted before the number moves: whoever sees the new number sees the write too, until it ends.
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.number.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends the write that [`Self::enter`] began.
    pub(in crate::store) fn leave(&self) {
        // The number moves before the write is uncounted: what was read beside it has a number that is past.
        self.number.fetch_add(1, Ordering::SeqCst);
        self.writes.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}
