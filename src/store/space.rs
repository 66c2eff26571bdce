//! Room: what the store uses, what it may use, what stays free on the file system.
//!
//! Bytes are charged before they are written and given back when they go, so a refusal comes before the disk is full
//! and a broken upload is never counted twice. After an unclean stop the contents are counted again in the background,
//! one folder of 256 at a time under that folder's lock: what is committed to a folder not yet counted is left to the
//! count.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::fstatvfs;

use super::options::{StoreLimits, Usage};
use super::{Refusal, StoreError};
use crate::oci::Digest;

/// A look at the file system's free space is believed for so long, or until so much was written.
const SAMPLE_LIFE: Duration = Duration::from_millis(200);
const SAMPLE_BYTES: u64 = 64 << 20;

/// Folders of contents: one for each first byte of a digest.
pub(super) const FOLDERS: usize = 256;

#[derive(Debug)]
pub(super) struct Space {
    /// The data folder.
    root: File,
    limits: Mutex<StoreLimits>,
    contents: AtomicU64,
    uploads: AtomicU64,
    index: AtomicU64,
    /// Whether the contents of a folder are in `contents`. Changed and read under the folder's lock.
    counted: Box<[AtomicBool]>,
    all_counted: AtomicBool,
    sample: Mutex<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    taken: Option<Instant>,
    free: u64,
    total: u64,
    written_since: u64,
}

impl Sample {
    fn left(&self) -> u64 {
        self.free.saturating_sub(self.written_since)
    }

    fn refusal(&self, limits: &StoreLimits, bytes: u64) -> Option<Refusal> {
        let (reserve, free) = (limits.reserve.bytes(self.total), self.left());
        (free < reserve.saturating_add(bytes)).then_some(Refusal::ReserveExhausted { reserve, free })
    }
}

impl Space {
    /// `contents`: bytes of all contents, known from the last clean stop; `uploads`: bytes of uploads in progress.
    pub(super) fn new(root: File, limits: StoreLimits, contents: Option<u64>, uploads: u64) -> Self {
        Self {
            root,
            limits: Mutex::new(limits),
            contents: AtomicU64::new(contents.unwrap_or(0)),
            uploads: AtomicU64::new(uploads),
            index: AtomicU64::new(0),
            counted: (0..FOLDERS).map(|_| AtomicBool::new(contents.is_some())).collect(),
            all_counted: AtomicBool::new(contents.is_some()),
            sample: Mutex::new(Sample { taken: None, free: 0, total: 0, written_since: 0 }),
        }
    }

    pub(super) fn limits(&self) -> StoreLimits {
        *lock(&self.limits)
    }

    pub(super) fn set_limits(&self, limits: StoreLimits) {
        *lock(&self.limits) = limits;
    }

    pub(super) fn set_index_bytes(&self, bytes: u64) {
        self.index.store(bytes, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn index_bytes(&self) -> u64 {
        self.index.load(Ordering::Relaxed)
    }

    /// Whether `bytes` more would be taken now.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub(super) fn admit(&self, bytes: u64) -> Result<(), StoreError> {
        let limits = self.limits();
        let used = self.used();
        if let Some(budget) = limits.max_bytes
            && used.saturating_add(bytes) > budget
        {
            return Err(StoreError::Full(Refusal::BudgetExhausted { budget, used }));
        }
        let mut sample = lock(&self.sample);
        self.refresh(&mut sample, false);
        if sample.refusal(&limits, bytes).is_some() {
            // Something may have been deleted since the look: nobody is refused on old news.
            self.refresh(&mut sample, true);
        }
        sample.refusal(&limits, bytes).map_or(Ok(()), |refusal| Err(StoreError::Full(refusal)))
    }

    /// Charges bytes of an upload before they are written.
    ///
    /// # Errors
    /// [`StoreError::Full`]; nothing is charged then.
    pub(super) fn charge_upload(&self, bytes: u64) -> Result<(), StoreError> {
        // Charged first and checked with all others' charges: many at once can't pass the limit together.
        self.uploads.fetch_add(bytes, Ordering::Relaxed);
        if let Err(error) = self.admit(0) {
            self.refund_upload(bytes);
            return Err(error);
        }
        let limits = self.limits();
        let mut sample = lock(&self.sample);
        if sample.refusal(&limits, bytes).is_some() {
            self.refresh(&mut sample, true);
        }
        if let Some(refusal) = sample.refusal(&limits, bytes) {
            drop(sample);
            self.refund_upload(bytes);
            return Err(StoreError::Full(refusal));
        }
        sample.written_since = sample.written_since.saturating_add(bytes);
        Ok(())
    }

    /// Turns what the system says of a full disk or an exhausted quota into the refusal that it is.
    pub(super) fn explain(&self, error: StoreError) -> StoreError {
        if !error.is_disk_full() {
            return error;
        }
        let mut sample = lock(&self.sample);
        self.refresh(&mut sample, true);
        StoreError::Full(Refusal::ReserveExhausted {
            reserve: self.limits().reserve.bytes(sample.total),
            free: sample.left(),
        })
    }

    /// Gives back bytes of an upload that are gone.
    pub(super) fn refund_upload(&self, bytes: u64) {
        subtract(&self.uploads, bytes);
    }

    /// A content was added. Called under its folder's lock.
    pub(super) fn add_content(&self, digest: &Digest, bytes: u64) {
        if self.is_counted(digest) {
            self.contents.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// A content is gone. Called under its folder's lock.
    pub(super) fn remove_content(&self, digest: &Digest, bytes: u64) {
        if self.is_counted(digest) {
            subtract(&self.contents, bytes);
        }
    }

    /// A folder's contents were counted under its lock.
    pub(super) fn count_folder(&self, folder: usize, bytes: u64) {
        self.contents.fetch_add(bytes, Ordering::Relaxed);
        self.counted[folder].store(true, Ordering::Relaxed);
    }

    /// Whether the folder was counted. To be asked under its lock.
    pub(super) fn is_folder_counted(&self, folder: usize) -> bool {
        self.counted[folder].load(Ordering::Relaxed)
    }

    pub(super) fn set_all_counted(&self) {
        self.all_counted.store(true, Ordering::Relaxed);
    }

    pub(super) fn all_counted(&self) -> bool {
        self.all_counted.load(Ordering::Relaxed)
    }

    /// Bytes of all contents; `None` while they are being counted.
    pub(super) fn contents(&self) -> Option<u64> {
        self.all_counted().then(|| self.contents.load(Ordering::Relaxed))
    }

    pub(super) fn usage(&self) -> Usage {
        let limits = self.limits();
        let (free, total) = self.free();
        Usage {
            used: self.all_counted().then(|| self.used()),
            budget: limits.max_bytes,
            free,
            reserve: limits.reserve.bytes(total),
            writable: self.admit(1).is_ok(),
        }
    }

    fn used(&self) -> u64 {
        [&self.contents, &self.uploads, &self.index].iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum()
    }

    fn is_counted(&self, digest: &Digest) -> bool {
        self.is_folder_counted(folder_of(digest))
    }

    /// Free bytes (those that this process may use) and size of the file system.
    fn free(&self) -> (u64, u64) {
        let mut sample = lock(&self.sample);
        self.refresh(&mut sample, false);
        (sample.left(), sample.total)
    }

    /// Looks again if the sample is old, or `now`.
    fn refresh(&self, sample: &mut Sample, now: bool) {
        let fresh =
            sample.taken.is_some_and(|taken| taken.elapsed() < SAMPLE_LIFE) && sample.written_since < SAMPLE_BYTES;
        if (now || !fresh)
            && let Ok(facts) = fstatvfs(&self.root)
        {
            *sample = Sample {
                taken: Some(Instant::now()),
                free: facts.f_bavail.saturating_mul(facts.f_frsize),
                total: facts.f_blocks.saturating_mul(facts.f_frsize),
                written_since: 0,
            };
        }
    }
}

/// Which of the 256 folders a content is in.
pub(super) fn folder_of(digest: &Digest) -> usize {
    usize::from(digest.as_bytes()[0])
}

fn subtract(counter: &AtomicU64, bytes: u64) {
    // Never below zero: a count that is off by a lost file must not wrap.
    let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| Some(held.saturating_sub(bytes)));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
