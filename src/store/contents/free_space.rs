//! What the file system has left: bytes and inodes, as it said a moment ago. Charges nothing; that is `capacity`'s.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::fs::{StatVfsMountFlags, fstatvfs};

use crate::store::error::Refusal;
use crate::store::options::StoreLimits;

/// A look at the file system's free space is believed for this time, or until these bytes were written.
const SAMPLE_LIFE: Duration = Duration::from_millis(200);
const SAMPLE_BYTES: u64 = 64 << 20;

/// A disk that was called full is believed to be so until this much more is free; files of our own come and go.
pub(super) const FULL_SLACK: u64 = 1 << 20;

/// A file system with so few inodes free lacks them: what found none has given some back until anybody looks.
const FEW_INODES: u64 = 64;

/// A look at the file system, and what was written since.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    taken: Option<Instant>,
    free: u64,
    pub(super) total: u64,
    /// Inodes that this process may use; `None`: the file system makes them as it needs them.
    inodes: Option<u64>,
    pub(super) read_only: bool,
    pub(super) written_since: u64,
}

impl Sample {
    pub(super) fn left(&self) -> u64 {
        self.free.saturating_sub(self.written_since)
    }

    /// Why `bytes` more are not taken, if they are not.
    pub(super) fn refusal(&self, limits: &StoreLimits, bytes: u64) -> Option<Refusal> {
        if self.read_only {
            return Some(Refusal::ReadOnly);
        }
        let (reserve, free) = (limits.reserve.bytes(self.total), self.left());
        (free < reserve.saturating_add(bytes)).then_some(Refusal::ReserveExhausted { reserve, free, wanted: bytes })
    }

    /// Whether it is inodes that the file system lacks, and not bytes.
    pub(super) fn lacks_inodes(&self) -> bool {
        self.inodes.is_some_and(|inodes| inodes < FEW_INODES) && self.free >= FULL_SLACK
    }

    /// Looks again if this is old, or `now`. A file system that says nothing is as it was.
    pub(super) fn refresh(&mut self, root: &File, now: bool) {
        let fresh = self.taken.is_some_and(|taken| taken.elapsed() < SAMPLE_LIFE) && self.written_since < SAMPLE_BYTES;
        if (now || !fresh)
            && let Ok(facts) = fstatvfs(root)
        {
            *self = Self {
                taken: Some(Instant::now()),
                free: facts.f_bavail.saturating_mul(facts.f_frsize),
                total: facts.f_blocks.saturating_mul(facts.f_frsize),
                inodes: (facts.f_files > 0).then_some(facts.f_favail),
                read_only: facts.f_flag.contains(StatVfsMountFlags::RDONLY),
                written_since: 0,
            };
        }
    }
}
