//! The index: sorted tag pages, the catalog, referrers. The only file that names sled.
//!
//! Owns one sled folder and the meaning of its keys. Never reads the tree, never decides when to rebuild and never
//! answers for what the tree holds: that is [`super::listings`] and [`super::rebuild`].
//!
//! sled 0.34 panics on damaged files instead of returning an error, so every call into it stands behind
//! [`guarded`]. After any [`IndexError`] but [`IndexError::NotReady`] the index is to be thrown away and rebuilt.
//! Its crash recovery is not relied on: an index whose stamp does not match was not closed by us and is rebuilt.
//! Keys are written one by one: batches are slower in sled and keep memory (1,000 keys a batch: seven times as much).

mod keys;
mod look;
mod referrer;

use std::ops::Bound;
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

pub(crate) use self::referrer::IndexedReferrer;
pub use self::referrer::Referrer;
use self::referrer::artifact_type;
use crate::oci::{Digest, RepoName, Tag, UpstreamId};
use crate::store::error::StoreError;
use crate::store::stored::{Page, StoredManifest};

/// Version of the keys and values; another one means a rebuild.
const FORMAT: u8 = 1;

/// sled's page cache. Its default is a gigabyte; a page of 100 tags touches a few pages of some kilobytes.
pub(in crate::store) const CACHE_BYTES: u64 = 8 << 20;

/// Longest descriptor that is kept in the index. Annotations may fill a manifest of megabytes; the few that do are
/// read from the tree when asked for, so the index stays small whatever is pushed.
const MAX_DESCRIPTOR: usize = 2048;

/// Below this size an index is never rebuilt for being large: sled needs some segments to breathe.
const COMPACT_ABOVE: u64 = 64 << 20;

/// Bytes on disk that a key may cost before the index counts as grown. A fresh one needs about 300.
const COMPACT_BYTES_PER_KEY: u64 = 1024;

/// An index that was closed is free again after this time at the latest.
const RELEASE: Duration = Duration::from_secs(2);

/// What the index is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexState {
    /// Not opened yet.
    Closed,
    /// Being rebuilt.
    Rebuilding {
        /// Manifests and tags read so far.
        done: u64,
    },
    /// Answers.
    Ready,
}

/// What came back from an operation of the index instead of an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    /// There is none yet.
    #[error("the index is being rebuilt")]
    NotReady,
    /// sled said no.
    #[error("index: {operation}")]
    Storage {
        /// The operation that was tried.
        operation: &'static str,
        /// What sled said.
        #[source]
        source: Box<sled::Error>,
    },
    /// sled panicked, which is what it does on damaged files.
    #[error("index: {operation} panicked: {message}")]
    Panicked {
        /// The operation that was tried.
        operation: &'static str,
        /// The panic's text.
        message: String,
    },
    /// An entry that we never write.
    #[error("index: an entry of {0} can't be read")]
    Entry(&'static str),
    /// Not the index that was closed last, or of another format.
    #[error("index: {0}")]
    Stale(&'static str),
    /// The disk failed beside sled.
    #[error(transparent)]
    Disk(#[from] StoreError),
    /// The rebuild was told to stop.
    #[error("the rebuild of the index was stopped")]
    Cancelled,
}

/// An open index. All calls block (memory mostly, disk at times): not for runtime threads.
pub(crate) struct Index {
    /// `Some` until drop: closing sled may panic too, so it is done behind [`guarded`].
    db: Option<sled::Db>,
    dir: PathBuf,
    keys: AtomicU64,
    /// Size on disk when it was built; 0 for one that was opened.
    built_size: AtomicU64,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("dir", &self.dir).field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        let db = self.db.take();
        if let Err(error) = guarded("close", move || {
            drop(db);
            Ok(())
        }) {
            tracing::warn!(%error, dir = %self.dir.display(), "the index was not closed well");
        }
    }
}

impl Index {
    /// Makes an empty index in `dir`, which must not exist.
    ///
    /// # Errors
    /// [`IndexError`] of the folder or of sled.
    pub(crate) fn create(dir: &Path) -> Result<Self, IndexError> {
        std::fs::create_dir(dir).map_err(StoreError::io("make folder", dir))?;
        Self::open_db(dir)
    }

    /// Opens the index in `dir` if it is the one that was sealed with `stamp`.
    ///
    /// # Errors
    /// [`IndexError::Stale`] for any other; [`IndexError`] for one that can't be read.
    pub(crate) fn open(dir: &Path, stamp: &[u8]) -> Result<Self, IndexError> {
        await_release(dir).map_err(StoreError::io("open", dir))?;
        let index = Self::open_db(dir)?;
        let meta = index.call("read the stamp", |db| db.get(keys::META))?.ok_or(IndexError::Stale("never sealed"))?;
        let (&format, rest) = meta.split_first().ok_or(IndexError::Entry("the stamp"))?;
        if format != FORMAT {
            return Err(IndexError::Stale("of another format"));
        }
        let (count, sealed) = rest.split_first_chunk::<8>().ok_or(IndexError::Entry("the stamp"))?;
        if sealed != stamp {
            return Err(IndexError::Stale("not the one that was in use last"));
        }
        index.keys.store(u64::from_be_bytes(*count), Ordering::Relaxed);
        Ok(index)
    }

    fn open_db(dir: &Path) -> Result<Self, IndexError> {
        let db = guarded("open", || {
            sled::Config::new()
                .path(dir)
                .cache_capacity(CACHE_BYTES)
                // An index that was not sealed is rebuilt, so syncing in between buys nothing but disk traffic.
                .flush_every_ms(None)
                .open()
        })?;
        Ok(Self { db: Some(db), dir: dir.to_owned(), keys: AtomicU64::new(0), built_size: AtomicU64::new(0) })
    }

    /// Puts everything on disk and remembers `stamp`: this state can be opened again with it. The stamp is the last
    /// entry of sled's log, so where it can be read, all that was written before it can be.
    ///
    /// # Errors
    /// [`IndexError`] of sled.
    pub(crate) fn seal(&self, stamp: &[u8]) -> Result<(), IndexError> {
        let mut meta = vec![FORMAT];
        meta.extend_from_slice(&self.keys.load(Ordering::Relaxed).to_be_bytes());
        meta.extend_from_slice(stamp);
        self.call("seal", |db| {
            db.flush()?;
            db.insert(keys::META, meta)?;
            db.flush()
        })?;
        Ok(())
    }

    /// Notes that `repo` has `tag`.
    ///
    /// # Errors
    /// [`IndexError`] of sled.
    pub(crate) fn put_tag(&self, repo: &RepoName, tag: &Tag) -> Result<(), IndexError> {
        self.put(&keys::joined(&keys::tags_of(repo), tag.as_str().as_bytes()), &[])
    }

    /// Forgets a tag; it need not be known.
    ///
    /// # Errors
    /// [`IndexError`] of sled.
    pub(crate) fn remove_tag(&self, repo: &RepoName, tag: &Tag) -> Result<(), IndexError> {
        self.remove(&keys::joined(&keys::tags_of(repo), tag.as_str().as_bytes()))
    }

    /// Notes that `repo` holds a manifest.
    ///
    /// # Errors
    /// [`IndexError`] of sled.
    pub(crate) fn put_repository(&self, repo: &RepoName) -> Result<(), IndexError> {
        self.put(&keys::repository(repo), &[])
    }

    /// Takes `repo` out of the catalog: its last manifest is gone.
    ///
    /// # Errors
    /// [`IndexError`] of sled.
    pub(crate) fn remove_repository(&self, repo: &RepoName) -> Result<(), IndexError> {
        self.remove(&keys::repository(repo))
    }

    /// Notes that `repo` holds `stored`: the catalog has the repository, its subject has a referrer.
    ///
    /// # Errors
    /// [`IndexError`] of sled.
    pub(crate) fn put_manifest(&self, repo: &RepoName, stored: &StoredManifest) -> Result<(), IndexError> {
        self.put_repository(repo)?;
        let Some(subject) = &stored.manifest.subject else { return Ok(()) };
        let Referrer { descriptor, .. } = Referrer::of(stored);
        let value = if descriptor.len() > MAX_DESCRIPTOR { &[][..] } else { &descriptor };
        self.put(&keys::referrer(repo, subject.digest, stored.digest), value)
    }

    /// Forgets a manifest that named `subject`; the repository stays in the catalog.
    ///
    /// # Errors
    /// [`IndexError`] of sled.
    pub(crate) fn remove_manifest(
        &self,
        repo: &RepoName,
        digest: Digest,
        subject: Option<Digest>,
    ) -> Result<(), IndexError> {
        let Some(subject) = subject else { return Ok(()) };
        self.remove(&keys::referrer(repo, subject, digest))
    }

    /// The tags of `repo` after `last` in byte order, at most `limit`. `last` need not be a tag.
    ///
    /// # Errors
    /// [`IndexError`] of sled.
    pub(crate) fn tags(&self, repo: &RepoName, last: Option<&str>, limit: usize) -> Result<Page, IndexError> {
        self.page("tags", &keys::tags_of(repo), last, limit)
    }

    /// The repositories after `last` in byte order, at most `limit`, without those learnt from an upstream. `last` need
    /// not be a name.
    ///
    /// # Errors
    /// [`IndexError`] of sled.
    pub(crate) fn repositories(&self, last: Option<&str>, limit: usize) -> Result<Page, IndexError> {
        let mut page = self.page("repositories", &keys::repositories(), last, limit)?;
        // The sign of a cached name sorts behind all others: the first one ends the list.
        if let Some(cached) = page.entries.iter().position(|name| name.starts_with(UpstreamId::SIGN)) {
            page.entries.truncate(cached);
            page.more = false;
        }
        Ok(page)
    }

    /// The repositories learnt from an upstream, as children of its own one (`""` for itself), after `last` in byte
    /// order, at most `limit`.
    ///
    /// # Errors
    /// [`IndexError`] of sled.
    pub(crate) fn cached_repositories(
        &self,
        upstream: UpstreamId,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Page, IndexError> {
        let prefix = keys::joined(&keys::repositories(), upstream.to_string().as_bytes());
        let last = last.map(|child| if child.is_empty() { String::new() } else { format!("/{child}") });
        let mut page = self.page("repositories", &prefix, last.as_deref(), limit)?;
        for entry in &mut page.entries {
            *entry = entry.trim_start_matches('/').to_owned();
        }
        Ok(page)
    }

    /// The manifests of `repo` whose subject is `subject`, in order of digest, after `last`, at most `limit`.
    ///
    /// # Errors
    /// [`IndexError`] of sled.
    pub(crate) fn referrers(
        &self,
        repo: &RepoName,
        subject: Digest,
        last: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<IndexedReferrer>, IndexError> {
        let prefix = keys::referrers_of(repo, subject);
        let mut after = Vec::new();
        if let Some(last) = last {
            keys::push_digest(&mut after, last);
        }
        self.scan("referrers", &prefix, last.map(|_| after.as_slice()), limit, |rest, value| {
            let (digest, _) = keys::split_digest(rest)?;
            if value.is_empty() {
                return Some(IndexedReferrer::DigestOnly(digest));
            }
            let artifact_type = artifact_type(value)?;
            let descriptor = Bytes::copy_from_slice(value);
            Some(IndexedReferrer::Whole(Referrer { digest, descriptor, artifact_type }))
        })
    }

    /// All pairs of subject and referrer known of `repo`, after `last`, at most `limit`.
    ///
    /// # Errors
    /// [`IndexError`] of sled.
    pub(crate) fn referrer_pairs(
        &self,
        repo: &RepoName,
        last: Option<(Digest, Digest)>,
        limit: usize,
    ) -> Result<Vec<(Digest, Digest)>, IndexError> {
        let mut after = Vec::new();
        if let Some((subject, referrer)) = last {
            keys::push_digest(&mut after, subject);
            keys::push_digest(&mut after, referrer);
        }
        self.scan("referrers", &keys::referrers_in(repo), last.map(|_| after.as_slice()), limit, |rest, _| {
            let (subject, rest) = keys::split_digest(rest)?;
            Some((subject, keys::split_digest(rest)?.0))
        })
    }

    /// Bytes that the index takes on disk; what can't be read counts as nothing.
    pub(crate) fn size_on_disk(&self) -> u64 {
        folder_size(&self.dir)
    }

    /// Whether the index has grown so far beyond its content that a fresh one is due. One that was built in this
    /// process must have doubled since, so an index of unusual entries is not rebuilt again and again.
    pub(crate) fn needs_compaction(&self) -> bool {
        let size = self.size_on_disk();
        let allowed = COMPACT_ABOVE.max(self.keys.load(Ordering::Relaxed).saturating_mul(COMPACT_BYTES_PER_KEY));
        size > allowed && size / 2 >= self.built_size.load(Ordering::Relaxed)
    }

    /// Remembers the size from which growth is counted.
    pub(crate) fn note_built(&self) {
        self.built_size.store(self.size_on_disk(), Ordering::Relaxed);
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), IndexError> {
        let new = self.call("put", |db| {
            // A tag that moves has its key already; sled would write it to its log once more.
            if db.get(key)?.is_some_and(|known| known == value) {
                Ok(false)
            } else {
                Ok(db.insert(key, value)?.is_none())
            }
        })?;
        if new {
            self.keys.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn remove(&self, key: &[u8]) -> Result<(), IndexError> {
        if self.call("remove", |db| db.remove(key))?.is_some() {
            self.keys.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn page(&self, what: &'static str, prefix: &[u8], last: Option<&str>, limit: usize) -> Result<Page, IndexError> {
        let mut entries = self.scan(what, prefix, last.map(str::as_bytes), limit.saturating_add(1), |rest, _| {
            std::str::from_utf8(rest).ok().map(str::to_owned)
        })?;
        let more = entries.len() > limit;
        entries.truncate(limit);
        Ok(Page { entries, more })
    }

    /// Reads up to `limit` entries whose keys begin with `prefix` and whose rest comes after `last`.
    fn scan<T>(
        &self,
        what: &'static str,
        prefix: &[u8],
        last: Option<&[u8]>,
        limit: usize,
        read: impl Fn(&[u8], &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, IndexError> {
        let start = match last {
            Some(last) => Bound::Excluded(keys::joined(prefix, last)),
            None => Bound::Included(prefix.to_vec()),
        };
        let range = (start, Bound::Excluded(keys::end_of(prefix)));
        let found = self.call("scan", |db| {
            let mut found = Vec::new();
            for entry in db.range::<Vec<u8>, _>(range).take(limit) {
                let (key, value) = entry?;
                found.push(read(&key[prefix.len()..], &value));
            }
            Ok(found)
        })?;
        found.into_iter().collect::<Option<Vec<T>>>().ok_or(IndexError::Entry(what))
    }

    fn call<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&sled::Db) -> Result<T, sled::Error>,
    ) -> Result<T, IndexError> {
        let Some(db) = &self.db else { return Err(IndexError::NotReady) };
        guarded(operation, || work(db))
    }
}

/// Calls into sled and turns a panic into an error. What sled leaves behind when it panics is never used again:
/// the caller throws the index away.
fn guarded<T>(operation: &'static str, work: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, IndexError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|source| IndexError::Storage { operation, source: Box::new(source) }),
        Err(panic) => {
            let message = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            Err(IndexError::Panicked { operation, message })
        }
    }
}

/// Waits a moment for an index of this process that was closed just now: sled's threads let go of its file a little
/// later than the value that is dropped. Fails if there is no index, where sled would make one.
fn await_release(dir: &Path) -> std::io::Result<()> {
    let file = std::fs::File::open(dir.join("db"))?;
    let asked = Instant::now();
    while file.try_lock().is_err() && asked.elapsed() < RELEASE {
        std::thread::sleep(Duration::from_millis(1));
    }
    // Dropping the file unlocks it. Whatever still holds it after that time, sled will say.
    Ok(())
}

/// Bytes that the files below `dir` take on disk; sled's file has holes, so their length is not it.
pub(in crate::store) fn folder_size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let mut size = 0;
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        size += if metadata.is_dir() { folder_size(&entry.path()) } else { metadata.blocks() * 512 };
    }
    size
}

#[cfg(test)]
mod tests;
