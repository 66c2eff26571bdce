//! Disk space ahead of a growing file's end.
//!
//! Without it the file system looks for space at every page, which is a fifth of what writing costs. The file's length
//! does not change; space taken too much is given back by cutting the file to its length when it is whole. Until then,
//! also over a restart, it is the file's.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::FsError;

/// Bytes that are taken ahead of the end in one step.
pub(crate) const STEP_BYTES: u64 = 2 << 20;

/// A file that ends before this gets its space as it is written.
const LONG_BYTES: u64 = 1 << 20;

/// How far a file's space was asked for.
#[derive(Debug)]
pub(crate) struct Preallocation {
    /// The first byte that no space was asked for.
    to: u64,
}

impl Preallocation {
    /// Of a file that ends at `end`.
    pub(crate) const fn up_to(end: u64) -> Self {
        Self { to: end }
    }

    /// Takes space for a file that ends at `end` and is about to grow to `target`. Blocking.
    pub(crate) fn make_room(&mut self, file: &File, end: u64, target: u64) {
        if target < LONG_BYTES || target <= self.to {
            return;
        }
        let (from, to) = (self.to.max(end), target + STEP_BYTES);
        // A file system that can't do it, or has no space left, tells whoever writes.
        let _ = fallocate(file, FallocateFlags::KEEP_SIZE, from, to - from);
        self.to = to;
    }

    /// Cuts the file at `path` to `end`: space behind it is given back, and so are bytes there that a write which broke
    /// off has left. Blocking.
    ///
    /// # Errors
    /// [`FsError`] of the cut.
    pub(crate) fn cut(&mut self, file: &File, path: &Path, end: u64) -> Result<(), FsError> {
        file.set_len(end).map_err(FsError::on("cut", path))?;
        self.to = end;
        Ok(())
    }
}
