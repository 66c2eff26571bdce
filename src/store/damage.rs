//! Contents that are known to be damaged. Damage is a property of the digest, because every repository that has a content
//! links the same file: renaming one name mends nothing, and a stored content is never opened for writing.
//!
//! The list says which file of a digest is damaged, by its inode. What is on it is absent everywhere; a name that leads to
//! another inode is whole. On the list comes what failed its hash, and what could not be read twice, [`AGAIN`] apart, while
//! other files could. A length that differs from a descriptor is a reason to hash, no more ([`examine`]). More than
//! [`MOST_FOUND`] files within [`WINDOW`] are a fault of the disk, not of digests: nothing more goes on the list then.
//!
//! On disk the list is the folder `damaged/` itself ([`directory`]): an entry is a further name of the damaged file, so it is
//! durable without a format that could be misread, an inode on it can't become another file's, and a backup that keeps
//! links keeps it. Repair is a new content under the digest's name ([`super::contents`]); [`mend`] links the other
//! repositories to it, and the entry goes after the last.

mod directory;
mod examine;
mod mend;

use std::collections::{HashMap, VecDeque};
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use tokio::sync::Notify;

pub(super) use examine::{Found, Verdict, is_sound};
pub(super) use mend::LookAfterDamage;

use super::StoreError;
use super::contents::ContentOps;
use crate::fs::stat;
use crate::oci::{Digest, Manifest};
use crate::telemetry::{DamageCause, DamageSample};

/// How long after the first failure a file is read once more.
pub(super) const AGAIN: Duration = Duration::from_secs(10);

/// More files than this within [`WINDOW`] are a fault of the disk.
const MOST_FOUND: usize = 16;
const WINDOW: Duration = Duration::from_secs(600);

/// Most entries, about 200 bytes each; a store with more has no disk.
const MOST_LISTED: usize = 10_000;

/// Lengths of blobs that are remembered from descriptors, about 150 bytes each.
const LENGTHS: usize = 8192;

/// Files that could not be read once and wait for the second time; each is an open file.
const MOST_SUSPECTS: usize = 64;

/// Files that were hashed and are not what a descriptor says of their length.
const MOST_SOUND: usize = 256;

/// The list and what leads to it.
#[derive(Debug)]
pub(super) struct Damage {
    /// Entries. Zero on the hot path, where nothing else is looked at.
    listed: AtomicUsize,
    list: RwLock<HashMap<Digest, Vec<Entry>>>,
    finds: Mutex<Finds>,
    lengths: Cache<Digest, u64>,
    sound: Mutex<VecDeque<(Digest, u64, u64)>>,
    suspects: Mutex<Vec<Suspect>>,
    /// One content is hashed because of its length at a time.
    examining: Arc<tokio::sync::Mutex<()>>,
    /// There is something to mend, or a suspect to come back to.
    wake: Notify,
    found: [AtomicU64; DamageCause::ALL.len()],
    /// Something was found since the start: what is counted as used may be off by what a file lost.
    doubtful: AtomicBool,
}

/// A damaged file.
#[derive(Clone, Debug)]
struct Entry {
    inode: u64,
    bytes: u64,
    /// Its name in the folder; `None`: it could not be given one yet.
    name: Option<PathBuf>,
    /// While it has no name of ours: one that it was found under, and the file, so that its inode becomes no other's.
    unnamed: Option<(PathBuf, Option<Arc<File>>)>,
    /// Its bytes are still charged as the digest's content.
    charged: bool,
}

/// A file that could not be read once.
#[derive(Debug)]
struct Suspect {
    digest: Digest,
    path: PathBuf,
    file: File,
    inode: u64,
    next: Instant,
    tries: u32,
}

/// What was found lately.
#[derive(Debug, Default)]
struct Finds {
    recent: VecDeque<(Instant, u64)>,
    /// When the last one came that was too many.
    fault: Option<Instant>,
}

impl Finds {
    fn in_fault(&self, now: Instant) -> bool {
        self.fault.is_some_and(|at| now.saturating_duration_since(at) < WINDOW)
    }

    /// Whether one more goes on the list.
    fn admit(&mut self, inode: u64, now: Instant) -> bool {
        while self.recent.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW) {
            self.recent.pop_front();
        }
        if self.in_fault(now) || self.recent.len() >= MOST_FOUND {
            self.fault = Some(now);
            return false;
        }
        self.recent.push_back((now, inode));
        true
    }
}

/// What became of a file that was found to be damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condemned {
    /// It counts as absent from now on.
    Listed,
    /// No name leads to it any more: another content, or nothing, is there.
    Gone,
    /// So many were found that the disk is at fault; nothing goes on the list.
    DiskFault,
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
    pub(super) fn is_listed(&self, digest: &Digest, inode: u64) -> bool {
        !self.is_empty() && self.entries(digest, |entries| entries.iter().any(|entry| entry.inode == inode))
    }

    /// As [`Self::is_listed`], for an open file: it is not even asked for its inode while nothing of the digest is listed.
    pub(super) fn is_listed_file(&self, digest: &Digest, file: &File) -> bool {
        self.has(digest) && file.metadata().is_ok_and(|facts| self.is_listed(digest, facts.ino()))
    }

    /// Whether any file of the digest is damaged.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        !self.is_empty() && self.entries(digest, |entries| !entries.is_empty())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.listed.load(Ordering::Acquire) == 0
    }

    fn entries<T>(&self, digest: &Digest, look: impl FnOnce(&[Entry]) -> T) -> T {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        look(list.get(digest).map_or(&[], Vec::as_slice))
    }

    fn change<T>(&self, digest: &Digest, change: impl FnOnce(&mut Vec<Entry>) -> T) -> T {
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
    pub(super) fn learn(&self, manifest: &Manifest) {
        for blob in manifest.required_blobs() {
            self.lengths.insert(blob.digest, blob.size);
        }
    }

    /// Whether a descriptor says another length than the file has, and it was not hashed for that yet.
    pub(super) fn is_length_odd(&self, digest: &Digest, facts: &Metadata) -> bool {
        self.lengths.get(digest).is_some_and(|length| length != facts.len())
            && !lock(&self.sound).contains(&(*digest, facts.ino(), facts.len()))
    }

    fn note_sound(&self, digest: &Digest, facts: &Metadata) {
        let mut sound = lock(&self.sound);
        if sound.len() >= MOST_SOUND {
            sound.pop_front();
        }
        sound.push_back((*digest, facts.ino(), facts.len()));
    }

    /// Counts what was found damaged and is no content (a tag, a list), and says so.
    pub(super) fn note(&self, cause: DamageCause, error: &StoreError) {
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
    /// What says nothing of the file: no descriptor was left to open it.
    pub(super) fn overlook(&self, cause: DamageCause, error: StoreError) -> Result<(), StoreError> {
        if !matches!(error, StoreError::Io { .. }) {
            return Err(error);
        }
        self.note(cause, &error);
        Ok(())
    }

    fn count(&self, cause: DamageCause) {
        self.found[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Whether what is counted as used has to be counted again at the next start.
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::Relaxed)
    }

    /// Whether the disk is at fault now, rather than single files.
    fn is_disk_fault(&self) -> bool {
        lock(&self.finds).in_fault(Instant::now())
    }

    /// For readiness.
    ///
    /// # Errors
    /// [`StoreError::Layout`] with a sentence while the disk is at fault.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if !self.is_disk_fault() {
            return Ok(());
        }
        Err(StoreError::Layout(format!(
            "more than {MOST_FOUND} stored files were found damaged within ten minutes: the disk is at fault; look at it and \
             at the log, which names the files"
        )))
    }

    /// The turn to hash a content whose length is odd.
    pub(super) async fn turn(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.examining).lock_owned().await
    }

    /// For metrics and status.
    pub(super) fn sample(&self) -> DamageSample {
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

impl ContentOps<'_> {
    /// Puts the file with these `facts`, which was found under the name `path`, on the list. When it answers
    /// [`Condemned::Listed`], nobody finds it any more: what was in memory is forgotten, and an entry that could not be
    /// written down yet counts all the same. Not to be called with the digest's lock held.
    pub(super) fn condemn(&self, digest: &Digest, facts: &Metadata, path: &Path, cause: DamageCause) -> Condemned {
        let _locked = self.contents.lock(digest);
        self.condemn_locked(digest, facts, path, cause)
    }

    /// As [`Self::condemn`], with the digest's lock held.
    pub(super) fn condemn_locked(
        &self,
        digest: &Digest,
        facts: &Metadata,
        path: &Path,
        cause: DamageCause,
    ) -> Condemned {
        let inode = facts.ino();
        if self.damage.is_listed(digest, inode) {
            return Condemned::Listed;
        }
        let content = self.layout.content(digest);
        let leads = |name: &Path| stat(name).is_ok_and(|at| at.is_some_and(|at| at.ino() == inode));
        let is_content = leads(&content);
        let name = match (is_content, leads(path)) {
            (true, _) => &content,
            (false, true) => path,
            (false, false) => return Condemned::Gone,
        };
        self.damage.count(cause);
        let full = self.damage.listed.load(Ordering::Relaxed) >= MOST_LISTED;
        if full || !lock(&self.damage.finds).admit(inode, Instant::now()) {
            tracing::error!(
                path = %path.display(), %digest, cause = cause.as_str(),
                "a stored content is damaged, and so many were found within ten minutes that the disk is at fault: it stays as it is"
            );
            return Condemned::DiskFault;
        }
        let entry = Entry {
            inode,
            bytes: facts.len(),
            name: None,
            unnamed: Some((name.to_path_buf(), File::open(name).ok().map(Arc::new))),
            charged: is_content && self.capacity.is_charged(digest),
        };
        if !entry.charged {
            self.capacity.charge_damaged(entry.bytes);
        }
        self.damage.doubtful.store(true, Ordering::Relaxed);
        // First the list, then the memory: what is read in between is not believed.
        self.damage.change(digest, |entries| entries.push(entry));
        self.memory.forget_all();
        tracing::error!(
            path = %path.display(), %digest, bytes = facts.len(), cause = cause.as_str(),
            "a stored content is damaged and counts as absent until it is pushed or fetched again"
        );
        if let Err(error) = self.write_down(digest, inode, name) {
            tracing::warn!(
                %digest, error = %crate::telemetry::with_causes(&error),
                "a damaged content can't be noted on the disk yet; a restart would have to find it again"
            );
        }
        Condemned::Listed
    }

    /// What is charged for a damaged content of the digest as the digest's is charged as damaged from now on, because a new
    /// one takes its place. Says whether there was any. The digest's lock is held.
    pub(super) fn recharge_damaged(&self, digest: &Digest) -> bool {
        if !self.damage.has(digest) {
            return false;
        }
        self.damage.change(digest, |entries| {
            let mut any = false;
            for entry in entries.iter_mut().filter(|entry| entry.charged) {
                entry.charged = false;
                any = true;
                self.capacity.charge_damaged(entry.bytes);
            }
            any
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
