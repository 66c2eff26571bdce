//! The list of damaged contents, and what leads to it.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use tokio::sync::Notify;

use crate::oci::{Digest, Manifest};
use crate::store::contents::blob::Blob;
use crate::store::error::StoreError;
use crate::telemetry::{DamageCause, DamageSample};

/// How long after the first failure a file is read once more.
pub(in crate::store) const AGAIN: Duration = Duration::from_secs(10);

/// More files than this within [`WINDOW`] are a fault of the disk.
pub(super) const MOST_FOUND: usize = 16;
pub(super) const WINDOW: Duration = Duration::from_secs(600);

/// Most entries, about 200 bytes each; a store with more has no disk.
pub(super) const MOST_LISTED: usize = 10_000;

/// Lengths of blobs that are remembered from descriptors, about 150 bytes each.
const LENGTHS: usize = 8192;

/// Contents that could not be read once and wait for the second time; each is an open file.
pub(super) const MOST_SUSPECTS: usize = 64;

/// Files that were hashed and are not what a descriptor says of their length.
const MOST_SOUND: usize = 256;

/// The list and what leads to it.
#[derive(Debug)]
pub(in crate::store) struct Damage {
    /// Entries. Zero on the hot path, where nothing else is looked at.
    pub(super) listed: AtomicUsize,
    pub(super) list: RwLock<HashMap<Digest, Vec<Entry>>>,
    pub(super) finds: Mutex<Finds>,
    lengths: Cache<Digest, u64>,
    sound: Mutex<VecDeque<(Digest, u64, u64)>>,
    pub(super) suspects: Mutex<Vec<Suspect>>,
    /// One content is hashed because of its length at a time.
    examining: Arc<tokio::sync::Mutex<()>>,
    /// There is something to mend, or a suspect to come back to.
    pub(super) wake: Notify,
    found: [AtomicU64; DamageCause::ALL.len()],
    /// Something was found since the start: what is counted as used may be off by what a file lost.
    pub(super) doubtful: AtomicBool,
}

/// A damaged file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) inode: u64,
    pub(super) bytes: u64,
    /// Its name in the folder; `None`: it could not be given one yet.
    pub(super) name: Option<PathBuf>,
    /// While it has no name of ours: one that it was found under, and the file, so that its inode becomes no other's.
    pub(super) unnamed: Option<(PathBuf, Option<Arc<File>>)>,
    /// Its bytes are still charged as the digest's content.
    pub(super) charged: bool,
}

/// A content that could not be read once.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) digest: Digest,
    pub(super) path: PathBuf,
    /// Without a lease: what is looked at again may be evicted.
    pub(super) blob: Blob,
    pub(super) inode: u64,
    pub(super) next: Instant,
    pub(super) tries: u32,
}

/// Files found damaged lately.
#[derive(Debug, Default)]
pub(super) struct Finds {
    pub(super) recent: VecDeque<(Instant, u64)>,
    /// When the last one came that was too many.
    fault: Option<Instant>,
}

impl Finds {
    fn in_fault(&self, now: Instant) -> bool {
        self.fault.is_some_and(|at| now.saturating_duration_since(at) < WINDOW)
    }

    fn forget_old(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW) {
            self.recent.pop_front();
        }
    }

    /// Whether one more goes on the list.
    pub(super) fn admit(&mut self, inode: u64, now: Instant) -> bool {
        self.forget_old(now);
        if self.in_fault(now) || self.recent.len() >= MOST_FOUND {
            self.fault = Some(now);
            return false;
        }
        self.recent.push_back((now, inode));
        true
    }
}

/// The fate of a file that was found to be damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Condemned {
    /// It counts as absent from now on.
    Listed,
    /// No name leads to it any more: another content, or nothing, is there.
    Gone,
    /// So many were found that the disk is at fault; nothing goes on the list.
    DiskFault,
}

/// The outcome of a look at a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Verdict {
    /// It is what its name says.
    Sound,
    /// It is damaged and counts as absent, or is gone.
    Absent,
    /// It is damaged, and so are too many others: see [`Condemned::DiskFault`].
    DiskFault,
    /// It could not be read, or not this time.
    Unread,
}

impl From<Condemned> for Verdict {
    fn from(condemned: Condemned) -> Self {
        match condemned {
            Condemned::Listed | Condemned::Gone => Self::Absent,
            Condemned::DiskFault => Self::DiskFault,
        }
    }
}

/// The file under a content's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Found {
    /// Nothing that could be believed.
    Nothing,
    /// A file that was hashed and is the content.
    Sound(u64),
    /// A file that is not, or could not be read.
    Bad(u64),
}

impl Default for Damage {
    fn default() -> Self {
        Self {
            listed: AtomicUsize::new(0),
            list: RwLock::default(),
            finds: Mutex::default(),
            lengths: Cache::new(LENGTHS),
            sound: Mutex::default(),
            suspects: Mutex::default(),
            examining: Arc::default(),
            wake: Notify::new(),
            found: std::array::from_fn(|_| AtomicU64::new(0)),
            doubtful: AtomicBool::new(false),
        }
    }
}

impl Damage {
    /// Whether that file of the digest is damaged. One atomic load while the list is empty.
    pub(in crate::store) fn is_listed(&self, digest: &Digest, inode: u64) -> bool {
        !self.is_empty() && self.entries(digest, |entries| entries.iter().any(|entry| entry.inode == inode))
    }

    /// As [`Self::is_listed`], for an open file: it is not even asked for its inode while nothing of the digest is listed.
    pub(in crate::store) fn is_listed_file(&self, digest: &Digest, file: &File) -> bool {
        self.has(digest) && file.metadata().is_ok_and(|facts| self.is_listed(digest, facts.ino()))
    }

    /// Whether any file of the digest is damaged.
    pub(in crate::store) fn has(&self, digest: &Digest) -> bool {
        !self.is_empty() && self.entries(digest, |entries| !entries.is_empty())
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.listed.load(Ordering::Acquire) == 0
    }

    pub(super) fn entries<T>(&self, digest: &Digest, look: impl FnOnce(&[Entry]) -> T) -> T {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        look(list.get(digest).map_or(&[], Vec::as_slice))
    }

    pub(super) fn change<T>(&self, digest: &Digest, change: impl FnOnce(&mut Vec<Entry>) -> T) -> T {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let entries = list.entry(*digest).or_default();
        let outcome = change(entries);
        if entries.is_empty() {
            list.remove(digest);
        }
        self.listed.store(list.values().map(Vec::len).sum(), Ordering::Release);
        outcome
    }

    /// Notes what a manifest says of the lengths of its blobs.
    pub(in crate::store) fn learn(&self, manifest: &Manifest) {
        for blob in manifest.required_blobs() {
            self.lengths.insert(blob.digest, blob.size);
        }
    }

    /// Whether a descriptor says another length than the file has, and it was not hashed for that yet.
    pub(in crate::store) fn is_length_odd(&self, digest: &Digest, facts: &Metadata) -> bool {
        self.lengths.get(digest).is_some_and(|length| length != facts.len())
            && !lock(&self.sound).contains(&(*digest, facts.ino(), facts.len()))
    }

    pub(super) fn note_sound(&self, digest: &Digest, facts: &Metadata) {
        let mut sound = lock(&self.sound);
        if sound.len() >= MOST_SOUND {
            sound.pop_front();
        }
        sound.push_back((*digest, facts.ino(), facts.len()));
    }

    /// Counts what was found damaged and is no content (a tag, a list), and says so.
    pub(in crate::store) fn note(&self, cause: DamageCause, error: &StoreError) {
        self.count(cause);
        tracing::warn!(
            cause = cause.as_str(),
            error = %crate::telemetry::with_causes(error),
            "a file of the store is damaged"
        );
    }

    /// As [`Self::note`], for what can be done without.
    ///
    /// # Errors
    /// An error that says nothing of the file: no descriptor was left to open it.
    pub(in crate::store) fn overlook(&self, cause: DamageCause, error: StoreError) -> Result<(), StoreError> {
        if !matches!(error, StoreError::Io { .. }) {
            return Err(error);
        }
        self.note(cause, &error);
        Ok(())
    }

    pub(super) fn count(&self, cause: DamageCause) {
        self.found[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Whether what is counted as used has to be counted again at the next start.
    pub(in crate::store) fn is_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::Relaxed)
    }

    /// Whether the disk is at fault now, rather than single files.
    fn is_disk_fault(&self) -> bool {
        lock(&self.finds).in_fault(Instant::now())
    }

    /// Whether so few files were found lately that one who looks for them may find another: half of what is a fault of the disk
    /// is left to those who have to read.
    pub(in crate::store) fn leaves_finds_to_readers(&self, now: Instant) -> bool {
        let mut finds = lock(&self.finds);
        finds.forget_old(now);
        !finds.in_fault(now) && finds.recent.len() < MOST_FOUND / 2
    }

    /// For readiness.
    ///
    /// # Errors
    /// [`StoreError::Layout`] with a sentence while the disk is at fault.
    pub(in crate::store) fn check(&self) -> Result<(), StoreError> {
        if !self.is_disk_fault() {
            return Ok(());
        }
        Err(StoreError::Layout(format!(
            "more than {MOST_FOUND} stored files were found damaged within ten minutes: the disk is at fault; look at it and \
             at the log, which names the files"
        )))
    }

    /// Every digest that has an entry.
    pub(super) fn digests(&self) -> Vec<Digest> {
        if self.is_empty() {
            return Vec::new();
        }
        self.list.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// The damaged files of a digest.
    pub(super) fn inodes(&self, digest: &Digest) -> Vec<u64> {
        self.entries(digest, |entries| entries.iter().map(|entry| entry.inode).collect())
    }

    /// There may be something to mend.
    pub(in crate::store) fn call(&self) {
        self.wake.notify_one();
    }

    /// As [`Self::call`], if others may still have a damaged file of the digest.
    pub(in crate::store) fn call_for(&self, digest: &Digest) {
        if self.has(digest) {
            self.call();
        }
    }

    /// Waits for a call. Safe to drop.
    pub(in crate::store) async fn called(&self) {
        self.wake.notified().await;
    }

    /// When the next file that could not be read is due.
    pub(in crate::store) fn next_due(&self) -> Option<Instant> {
        lock(&self.suspects).iter().map(|suspect| suspect.next).min()
    }

    /// The turn to hash a content whose length is odd.
    pub(in crate::store) async fn turn(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.examining).lock_owned().await
    }

    /// For metrics and status.
    pub(in crate::store) fn sample(&self) -> DamageSample {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let entries = || list.values().flatten();
        DamageSample {
            contents: entries().count() as u64,
            bytes: entries().map(|entry| entry.bytes).sum(),
            disk_fault: self.is_disk_fault(),
            found: std::array::from_fn(|cause| self.found[cause].load(Ordering::Relaxed)),
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_sixteen_files_within_ten_minutes_are_the_disks_fault_until_none_came_for_as_long() {
        let (mut finds, start) = (Finds::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        // As many as may be, again and again.
        for round in 0..3 {
            for inode in 0..MOST_FOUND as u64 {
                assert!(finds.admit(inode, at(round * 600 + inode)));
            }
        }
        assert!(!finds.in_fault(at(1215)));
        assert!(!finds.admit(99, at(1216)));
        // Each that comes meanwhile begins the time anew.
        assert!(!finds.admit(100, at(1800)));
        assert!(finds.in_fault(at(2399)) && !finds.in_fault(at(2400)));
        assert!(finds.admit(101, at(2400)));
    }
}
