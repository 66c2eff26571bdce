//! When repositories changed last, so that nothing read before or beside a write is believed after it.

use std::sync::atomic::{AtomicU64, Ordering};

/// No clock stands here: a write ran while it was read, or nothing was read yet.
pub(super) const NEVER: u64 = u64::MAX;

/// When a repository changed last.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Moves with every write of a manifest or tag.
    pub(super) changes: Hand,
    /// Moves with every delete, of blobs too.
    pub(super) deletions: Hand,
    /// Moves with every content that comes, of blobs too.
    pub(super) additions: Hand,
}

#[derive(Debug, Default)]
pub(super) struct Hand {
    at: AtomicU64,
    /// Writes that have begun and not ended.
    moving: AtomicU64,
}

/// A write that has begun; it ends when this is dropped.
#[derive(Debug)]
#[must_use = "the write lasts as long as this lives"]
pub(super) struct Moving<'a>(&'a Hand);

impl Hand {
    pub(super) fn at(&self) -> u64 {
        self.at.load(Ordering::SeqCst)
    }

    /// Where it stands, for what is read from now on; [`NEVER`] while a write runs.
    pub(super) fn at_rest(&self) -> u64 {
        // In this order: a write that begins after the first look has moved the hand on before it touches the tree.
        let at = self.at();
        if self.moving.load(Ordering::SeqCst) == 0 { at } else { NEVER }
    }

    pub(super) fn begin(&self) -> Moving<'_> {
        self.moving.fetch_add(1, Ordering::SeqCst);
        self.at.fetch_add(1, Ordering::SeqCst);
        Moving(self)
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.0.at.fetch_add(1, Ordering::SeqCst);
        self.0.moving.fetch_sub(1, Ordering::SeqCst);
    }
}
