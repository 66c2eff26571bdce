//! Room: what the store uses, what it may use, what stays free on the file system.
//!
//! Bytes are charged before they are written and given back when they go, so a refusal comes before the disk is full
//! and a broken upload is never counted twice. After an unclean stop the contents are counted again in the background,
//! one folder of 256 at a time: what is committed to a folder whose count has not begun is left to it; while it runs,
//! the names that it has seen tell what is charged already.

use std::collections::HashSet;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::audit::{Audit, Change, subtract};
use super::free_space::{FULL_SLACK, Sample};
use crate::oci::Digest;
use crate::store::error::{Refusal, StoreError, Unwritable};
use crate::store::options::{StoreLimits, Usage};

/// Bytes that an upload is charged beside its content: a block for its directory, and one for its note.
pub(in crate::store) const FOOTPRINT: u64 = 8 * 1024;

/// Folders of contents: one for each first byte of a digest.
pub(in crate::store) const FOLDERS: usize = 256;

#[derive(Debug)]
pub(in crate::store) struct Capacity {
    /// The data folder.
    root: File,
    limits: Mutex<StoreLimits>,
    contents: AtomicU64,
    uploads: AtomicU64,
    /// Those of `uploads` that are a [`Charge`], by their number. Raised before the bytes are.
    charges: AtomicUsize,
    index: AtomicU64,
    /// Bytes of damaged contents whose digest's place is another's, or nobody's.
    damaged: AtomicU64,
    /// Bytes of files that snapshots link and that are not in `blobs/`, nor on the list of damaged contents.
    held: AtomicU64,
    /// Which contents of a folder are in `contents`. Changed and read under the folder's lock.
    counts: Box<[Mutex<Count>]>,
    all_counted: AtomicBool,
    /// Holds `contents` against the tree, when somebody wants to know.
    audit: Audit,
    sample: Mutex<Sample>,
    /// The system's reason when it last wrote nothing, and what was free then: the only sign of it where there is no
    /// reserve, a quota, no inode, or a read-only file system that does not say so.
    refused: Mutex<Option<(Refusal, u64)>>,
}

/// How far the count of a folder is.
#[derive(Debug)]
enum Count {
    /// Nothing of it is charged.
    Waiting,
    /// These are charged.
    Running(HashSet<Digest>),
    /// All of it is.
    Done,
}

/// What is used, as it was noted when the store was closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Noted {
    /// Bytes of all contents in `blobs/`.
    pub(in crate::store) contents: u64,
    /// Bytes that only snapshots have.
    pub(in crate::store) held: u64,
}

/// Bytes charged until this is dropped.
#[derive(Debug)]
#[must_use = "the bytes are charged as long as this lives"]
pub(in crate::store) struct Charge<'a> {
    capacity: &'a Capacity,
    bytes: u64,
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.capacity.refund_upload(self.bytes);
        self.capacity.charges.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Capacity {
    /// `noted`: bytes of all contents, known from the last clean stop; `uploads`: bytes of uploads in progress.
    pub(in crate::store) fn new(root: File, limits: StoreLimits, noted: Option<Noted>, uploads: u64) -> Self {
        let (contents, held) = (noted.map(|noted| noted.contents), noted.map_or(0, |noted| noted.held));
        Self {
            root,
            limits: Mutex::new(limits),
            contents: AtomicU64::new(contents.unwrap_or(0)),
            held: AtomicU64::new(held),
            uploads: AtomicU64::new(uploads),
            charges: AtomicUsize::new(0),
            index: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            counts: (0..FOLDERS)
                .map(|_| Mutex::new(if contents.is_some() { Count::Done } else { Count::Waiting }))
                .collect(),
            all_counted: AtomicBool::new(contents.is_some()),
            audit: Audit::default(),
            sample: Mutex::default(),
            refused: Mutex::new(None),
        }
    }

    pub(in crate::store) fn limits(&self) -> StoreLimits {
        *lock(&self.limits)
    }

    pub(in crate::store) fn set_limits(&self, limits: StoreLimits) {
        *lock(&self.limits) = limits;
    }

    pub(in crate::store) fn set_index_bytes(&self, bytes: u64) {
        self.index.store(bytes, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(in crate::store) fn index_bytes(&self) -> u64 {
        self.index.load(Ordering::Relaxed)
    }

    /// Whether `bytes` more would be taken now.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub(in crate::store) fn admit(&self, bytes: u64) -> Result<(), StoreError> {
        let limits = self.limits();
        self.admit_to_budget(&limits, bytes, 0)?;
        let mut sample = lock(&self.sample);
        sample.refresh(&self.root, false);
        if sample.refusal(&limits, bytes).is_some() {
            // Something may have been deleted since the look: nobody is refused on old news.
            sample.refresh(&self.root, true);
        }
        sample.refusal(&limits, bytes).map_or(Ok(()), |refusal| Err(StoreError::Full(refusal)))
    }

    /// Whether the budget takes `bytes` more, of which `charged` are counted as used already.
    fn admit_to_budget(&self, limits: &StoreLimits, bytes: u64, charged: u64) -> Result<(), StoreError> {
        let used = self.used().saturating_sub(charged);
        match limits.max_bytes {
            Some(budget) if used.saturating_add(bytes) > budget => {
                Err(StoreError::Full(Refusal::BudgetExhausted { budget, used, wanted: bytes }))
            }
            _ => Ok(()),
        }
    }

    /// Bytes that have to go before `bytes` more are taken; 0: none. If no byte would be taken however many went, as on a
    /// read-only file system, it is as if all had to.
    pub(in crate::store) fn shortfall(&self, bytes: u64) -> u64 {
        let limits = self.limits();
        let over_budget = limits.max_bytes.map_or(0, |budget| self.used().saturating_add(bytes).saturating_sub(budget));
        let mut sample = lock(&self.sample);
        sample.refresh(&self.root, true);
        if sample.read_only {
            return u64::MAX;
        }
        let reserve = limits.reserve.bytes(sample.total);
        over_budget.max(reserve.saturating_add(bytes).saturating_sub(sample.left()))
    }

    /// Bytes that a share of the cache is measured by: the budget, or without one all that is stored.
    pub(in crate::store) fn measure(&self) -> u64 {
        self.limits().max_bytes.unwrap_or_else(|| self.used())
    }

    /// Charges bytes of an upload before they are written.
    ///
    /// # Errors
    /// [`StoreError::Full`]; nothing is charged then.
    pub(in crate::store) fn charge_upload(&self, bytes: u64) -> Result<(), StoreError> {
        // Charged first and checked with all others' charges: many at once can't pass the limit together.
        self.uploads.fetch_add(bytes, Ordering::Relaxed);
        let limits = self.limits();
        if let Err(error) = self.admit_to_budget(&limits, bytes, bytes) {
            self.refund_upload(bytes);
            return Err(error);
        }
        let mut sample = lock(&self.sample);
        sample.refresh(&self.root, false);
        if sample.refusal(&limits, bytes).is_some() {
            sample.refresh(&self.root, true);
        }
        if let Some(refusal) = sample.refusal(&limits, bytes) {
            drop(sample);
            self.refund_upload(bytes);
            return Err(StoreError::Full(refusal));
        }
        sample.written_since = sample.written_since.saturating_add(bytes);
        Ok(())
    }

    /// Charges bytes for as long as the answer lives, for what is no upload and is charged as a content in the end.
    ///
    /// # Errors
    /// [`StoreError::Full`]; nothing is charged then.
    pub(in crate::store) fn charge(&self, bytes: u64) -> Result<Charge<'_>, StoreError> {
        let mut charge = self.begin_charge();
        self.charge_upload(bytes)?;
        charge.bytes = bytes;
        Ok(charge)
    }

    /// As [`Capacity::charge`], for bytes that are on this file system already: only the budget can be exceeded.
    ///
    /// # Errors
    /// [`StoreError::Full`]; nothing is charged then.
    pub(in crate::store) fn charge_moved(&self, bytes: u64) -> Result<Charge<'_>, StoreError> {
        let mut charge = self.begin_charge();
        self.uploads.fetch_add(bytes, Ordering::Relaxed);
        charge.bytes = bytes;
        self.admit_to_budget(&self.limits(), bytes, bytes)?;
        Ok(charge)
    }

    fn begin_charge(&self) -> Charge<'_> {
        self.charges.fetch_add(1, Ordering::SeqCst);
        Charge { capacity: self, bytes: 0 }
    }

    /// How many live.
    pub(in crate::store) fn charges(&self) -> usize {
        self.charges.load(Ordering::SeqCst)
    }

    /// Turns what the system says of why it writes nothing into the refusal that it is.
    pub(in crate::store) fn explain(&self, error: StoreError) -> StoreError {
        let Some(why) = error.unwritable() else { return error };
        let mut sample = lock(&self.sample);
        sample.refresh(&self.root, true);
        let free = sample.left();
        let refusal = match why {
            Unwritable::Full if sample.lacks_inodes() => Refusal::InodesExhausted { free },
            Unwritable::Full => {
                Refusal::ReserveExhausted { reserve: self.limits().reserve.bytes(sample.total), free, wanted: 0 }
            }
            Unwritable::Quota => Refusal::QuotaExhausted,
            Unwritable::TooLong => Refusal::FileTooLong,
            Unwritable::ReadOnly => Refusal::ReadOnly,
        };
        // Another file may be short enough; and what a look at the file system tells need not be remembered.
        if refusal != Refusal::FileTooLong && !(refusal == Refusal::ReadOnly && sample.read_only) {
            *lock(&self.refused) = Some((refusal, free));
        }
        StoreError::Full(refusal)
    }

    /// Whether the file system is read-only now, as far as it says so.
    pub(in crate::store) fn is_read_only(&self) -> bool {
        let mut sample = lock(&self.sample);
        sample.refresh(&self.root, false);
        sample.read_only
    }

    /// Something was written: what the system said before is over.
    pub(in crate::store) fn note_written(&self) {
        *lock(&self.refused) = None;
    }

    /// A try to write went well; it says nothing of room.
    pub(in crate::store) fn note_tried(&self) {
        if self.is_to_be_tried() {
            self.note_written();
        }
    }

    /// Whether the system wrote nothing when it was asked last, for a reason that only another try can tell the end of.
    pub(in crate::store) fn is_to_be_tried(&self) -> bool {
        let refused = *lock(&self.refused);
        matches!(refused, Some((Refusal::ReadOnly | Refusal::QuotaExhausted | Refusal::InodesExhausted { .. }, _)))
            && !self.is_read_only()
    }

    /// Gives back bytes of an upload that are gone.
    pub(in crate::store) fn refund_upload(&self, bytes: u64) {
        subtract(&self.uploads, bytes);
    }

    /// A content was added. Called under its folder's lock.
    pub(in crate::store) fn add_content(&self, digest: &Digest, bytes: u64) {
        let is_new = match &mut *lock(&self.counts[folder_of(digest)]) {
            Count::Waiting => false,
            Count::Running(charged) => charged.insert(*digest),
            Count::Done => true,
        };
        if is_new {
            self.audit.change(folder_of(digest), Change::Added(bytes), &self.contents);
        }
        self.note_written();
    }

    /// A content was met by the count of its folder, or takes its own place. Called under its folder's lock.
    pub(in crate::store) fn see_content(&self, digest: &Digest, bytes: u64) {
        if let Count::Running(charged) = &mut *lock(&self.counts[folder_of(digest)])
            && charged.insert(*digest)
        {
            self.audit.change(folder_of(digest), Change::Added(bytes), &self.contents);
        }
    }

    /// A content is gone. Called under its folder's lock.
    pub(in crate::store) fn remove_content(&self, digest: &Digest, bytes: u64) {
        let was_charged = match &mut *lock(&self.counts[folder_of(digest)]) {
            Count::Waiting => false,
            Count::Running(charged) => charged.remove(digest),
            Count::Done => true,
        };
        if was_charged {
            self.audit.change(folder_of(digest), Change::Removed(bytes), &self.contents);
        }
    }

    /// Whether the content is in the sum. Called under its folder's lock.
    pub(in crate::store) fn is_charged(&self, digest: &Digest) -> bool {
        match &*lock(&self.counts[folder_of(digest)]) {
            Count::Waiting => false,
            Count::Running(charged) => charged.contains(digest),
            Count::Done => true,
        }
    }

    /// Charges a damaged content beside all others.
    pub(in crate::store) fn charge_damaged(&self, bytes: u64) {
        self.damaged.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives back what [`Self::charge_damaged`] charged.
    pub(in crate::store) fn refund_damaged(&self, bytes: u64) {
        subtract(&self.damaged, bytes);
    }

    /// A file of the digest that a snapshot links lost its place in `blobs/`, or is off the list of damaged ones: the snapshot
    /// keeps its bytes. While the folder is not counted that is left to the count. Called under the folder's lock.
    pub(in crate::store) fn hold(&self, digest: &Digest, bytes: u64) {
        if matches!(*lock(&self.counts[folder_of(digest)]), Count::Done) {
            self.held.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Such a file is gone, or has a place again. Called under the folder's lock.
    pub(in crate::store) fn release(&self, digest: &Digest, bytes: u64) {
        if matches!(*lock(&self.counts[folder_of(digest)]), Count::Done) {
            subtract(&self.held, bytes);
        }
    }

    /// The count of a folder begins, or goes on. `false`: it is through. Called under the folder's lock.
    pub(in crate::store) fn begin_count(&self, folder: usize) -> bool {
        let mut count = lock(&self.counts[folder]);
        if matches!(*count, Count::Waiting) {
            *count = Count::Running(HashSet::new());
        }
        !matches!(*count, Count::Done)
    }

    /// All contents of a folder were met; only snapshots have `held` bytes of it beside. Called under its lock.
    pub(in crate::store) fn end_count(&self, folder: usize, held: u64) {
        self.held.fetch_add(held, Ordering::Relaxed);
        *lock(&self.counts[folder]) = Count::Done;
    }

    pub(in crate::store) fn set_all_counted(&self) {
        self.all_counted.store(true, Ordering::Relaxed);
    }

    pub(in crate::store) fn all_counted(&self) -> bool {
        self.all_counted.load(Ordering::Relaxed)
    }

    /// Bytes of all contents and what only snapshots have; `None` while they are being counted.
    pub(in crate::store) fn counted(&self) -> Option<Noted> {
        self.all_counted()
            .then(|| Noted { contents: self.contents.load(Ordering::Relaxed), held: self.held.load(Ordering::Relaxed) })
    }

    /// Bytes that uploads and fills are charged.
    pub(in crate::store) fn uploads(&self) -> u64 {
        self.uploads.load(Ordering::Relaxed)
    }

    /// Holds what is charged for contents against the tree; see [`Audit::compare`].
    ///
    /// # Errors
    /// Those of `sum`.
    pub(in crate::store) fn compare_contents<E>(
        &self,
        sum: impl FnMut(usize, &dyn Fn(u64)) -> Result<bool, E>,
    ) -> Result<Option<(u64, u64)>, E> {
        self.audit.compare(&self.contents, FOLDERS, sum)
    }

    /// Room used and left. Looks at the file system.
    pub(in crate::store) fn usage(&self) -> Usage {
        let limits = self.limits();
        let (free, total) = self.free();
        Usage {
            used: self.all_counted().then(|| self.used()),
            held: self.counted().map(|counted| counted.held),
            snapshots: 0,
            budget: limits.max_bytes,
            free,
            reserve: limits.reserve.bytes(total),
            uploads: 0,
            refusal: self.refusal(free),
        }
    }

    /// Why an upload of one byte would not be taken now.
    fn refusal(&self, free: u64) -> Option<Refusal> {
        match self.admit(FOOTPRINT + 1) {
            Err(StoreError::Full(refusal)) => Some(refusal),
            _ => self.refused_still(free),
        }
    }

    fn used(&self) -> u64 {
        [&self.contents, &self.uploads, &self.index, &self.damaged, &self.held]
            .iter()
            .map(|bytes| bytes.load(Ordering::Relaxed))
            .sum()
    }

    /// The system's reason when it last wrote nothing, if since then nothing was stored nor more than a little freed.
    fn refused_still(&self, free: u64) -> Option<Refusal> {
        let mut refused = lock(&self.refused);
        *refused = refused.filter(|(refusal, at)| match refusal {
            Refusal::InodesExhausted { .. } => lock(&self.sample).lacks_inodes(),
            Refusal::ReadOnly => true,
            _ => free.saturating_sub(*at) < FULL_SLACK,
        });
        refused.map(|(refusal, _)| refusal)
    }

    /// Free bytes (those that this process may use) and size of the file system.
    fn free(&self) -> (u64, u64) {
        let mut sample = lock(&self.sample);
        sample.refresh(&self.root, false);
        (sample.left(), sample.total)
    }
}

/// Which of the 256 folders a content is in.
pub(in crate::store) fn folder_of(digest: &Digest) -> usize {
    usize::from(digest.as_bytes()[0])
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
