//! The disk: a directory tree that is the truth, and an index that can be rebuilt from it.
//!
//! In reading order: `layout` (every path), `durable` (every rename and sync), `opening`, `contents` (bytes and who has
//! them), `blob` (one as it is read), `damage` (which of them are not what they should be), `reads`, `uploads`, `manifests`, `references` (is it whole?), `capacity` (is there room?), `pace` (when it goes to the
//! disk), `maintenance` (what runs beside requests); for what an upstream taught: `cached` (what Proxy asks), `fills`,
//! `lists`, `uses`, `eviction`; then the index: `index` (sled), `listings` (its life), `walk` and `rebuild`.

mod blob;
mod cached;
mod capacity;
mod contents;
mod damage;
mod error;
mod eviction;
mod fills;
mod generations;
mod growth;
mod index;
mod large;
mod layout;
mod listings;
mod lists;
mod locks;
mod maintenance;
mod manifests;
mod opening;
mod options;
mod pace;
mod reads;
mod rebuild;
mod references;
mod stored;
mod uploads;
mod uses;
mod verdicts;
mod walk;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio_util::task::TaskTracker;

pub use blob::Blob;
pub use error::{Refusal, StoreError};
pub use eviction::{Evicted, Eviction};
pub use fills::PartialBlob;
pub use index::{IndexState, Referrer};
pub use large::LARGE_MANIFEST_BYTES;
pub use listings::rebuild_index;
pub use lists::{KeptList, ListKind, VerifiedTag};
pub use options::{Reserve, StoreLimits, StoreOptions, Usage};
pub use pace::TURN_BYTES;
pub use references::LONG_WALKS;
pub use stored::{Page, StoredContent, StoredManifest};
pub use uploads::{MOST_UPLOADS, UploadPlace, UploadSession, most_batch_bytes};
pub use uses::Lease;

use self::capacity::Capacity;
use self::contents::{ContentOps, Contents};
use self::damage::{Damage, LookAfterDamage};
use self::fills::Fills;
use self::index::{IndexError, IndexedReferrer};
use self::large::LargeManifests;
use self::layout::{Layout, Membership};
use self::listings::{KeepIndex, Listings};
use self::locks::RepositoryLocks;
use self::maintenance::Maintenance;
use self::manifests::Memory;
use self::opening::{LayOut, Noted};
use self::pace::{Pace, Turn};
use self::rebuild::Tree;
use self::references::Walks;
use self::uploads::Uploads;
use self::uses::Uses;
use crate::fs::Disk;
use crate::jobs::Runner;
use crate::oci::{Algorithm, Digest, Reference, RepoName, Tag, UploadId};
use crate::telemetry::{DiskOperation, disk_look, disk_operation};

/// A client that hears that the index is being rebuilt asks again after so many seconds.
const INDEX_RETRY: u64 = 5;

/// What the store keeps in memory: the index's pages with what sled needs beside them, manifests with their parsed form, and
/// verdicts.
pub const CACHED_BYTES: u64 = index::CACHE_BYTES + (16 << 20) + 2 * manifests::CACHE_BYTES + verdicts::VERDICT_BYTES;

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

struct Inner {
    layout: Layout,
    disk: Disk,
    contents: Contents,
    damage: Damage,
    capacity: Capacity,
    locks: RepositoryLocks,
    memory: Memory,
    large: LargeManifests,
    walks: Walks,
    uploads: Uploads,
    fills: Fills,
    uses: Uses,
    pace: Pace,
    /// What ends although its caller is gone, and waits for its turn on the disk before.
    tasks: TaskTracker,
    listings: Listings,
    /// Keeps a second server out.
    lock: File,
    /// Read while a change is made; `true` once the store is closed.
    closed: RwLock<bool>,
    noted: Noted,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.layout.root()).finish_non_exhaustive()
    }
}

impl Inner {
    fn ops(&self) -> ContentOps<'_> {
        let Self { layout, disk, capacity, contents, damage, memory, .. } = self;
        ContentOps { layout, disk, capacity, contents, damage, memory }
    }

    /// Waits for the turn to send `bytes` to the disk.
    async fn turn(&self, bytes: u64) -> Turn {
        self.pace.turn(bytes, self.capacity.limits().write_rate).await
    }

    /// The turn, if it need not be waited for.
    fn turn_now(&self, bytes: u64) -> Option<Turn> {
        self.pace.turn_now(bytes, self.capacity.limits().write_rate)
    }

    fn tree(&self) -> Tree<'_> {
        Tree { layout: &self.layout, locks: &self.locks }
    }
}

/// Runs work that waits for the disk; it ends by itself even if the caller is dropped.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    waiting(disk_operation(), work).await
}

/// As [`blocking`], as the operation of the disk that it is.
async fn waiting<T: Send + 'static>(
    operation: DiskOperation,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let work = move || {
        let outcome = work();
        drop(operation);
        outcome
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(StoreError::Bug(error.to_string())),
    }
}

/// As [`blocking`], for work that changes the tree: [`Store::close`] waits for it, and why the system writes nothing is
/// called by its name.
async fn change<T: Send + 'static>(
    store: Arc<Inner>,
    work: impl FnOnce(&Arc<Inner>) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    blocking(move || {
        let closed = store.closed.read().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            return Err(StoreError::Bug("the store is closed".into()));
        }
        store
            .noted
            .forget(&store.layout, &store.disk)
            .and_then(|()| work(&store))
            .map_err(|error| store.capacity.explain(error))
    })
    .await
}

impl Store {
    /// Lays out `dir` (made if missing). Says `false` if it was a store already. Blocking.
    ///
    /// # Errors
    /// [`StoreError`] if the folder holds something else, can't be written or is in use.
    pub fn init(dir: &Path) -> Result<bool, StoreError> {
        let (layout, disk) = (Layout::new(dir), Disk::default());
        let fresh = opening::open(&layout, &disk, LayOut::BesideOthers)?.fresh;
        if fresh {
            // Nothing is in it: the first start has nothing to count.
            disk.replace(layout.temporary(), &layout.usage(), b"0\n")?;
        }
        Ok(fresh)
    }

    /// Opens the tree; blocking. The index is not opened: see [`Store::start_jobs`].
    ///
    /// # Errors
    /// [`StoreError`] with a sentence for the administrator.
    pub fn open(options: &StoreOptions) -> Result<Self, StoreError> {
        let (layout, disk) = (Layout::new(&options.dir), Disk::default());
        let lay_out = if options.must_exist { LayOut::Never } else { LayOut::WhereEmpty };
        let opened = opening::open(&layout, &disk, lay_out)?;
        let root = || File::open(layout.root()).map_err(StoreError::io("open", layout.root()));
        // A folder that was laid out just now holds nothing.
        let contents = opening::usage(&layout).or(opened.fresh.then_some(0));
        let noted = Noted::new(&layout);
        let (open, uploaded) = uploads::at_start(&layout)?;
        let coming = uploaded + fills::bytes_on_disk(&layout)?;
        let capacity = Capacity::new(root()?, options.limits(), contents, coming);
        let store = Self(Arc::new(Inner {
            contents: Contents::new(OwnedFd::from(root()?)),
            damage: Damage::default(),
            capacity,
            locks: RepositoryLocks::default(),
            memory: Memory::default(),
            large: LargeManifests::default(),
            walks: Walks::default(),
            uploads: Uploads::new(open),
            fills: Fills::default(),
            uses: Uses::default(),
            pace: Pace::default(),
            tasks: TaskTracker::new(),
            listings: Listings::new(&layout),
            lock: opened.lock,
            closed: RwLock::new(false),
            noted,
            layout,
            disk,
        }));
        store.0.ops().load_damaged();
        Ok(store)
    }

    /// The folder for keys that the server makes itself, readable by nobody else; blocking.
    ///
    /// # Errors
    /// Of the disk.
    pub fn key_folder(&self) -> Result<PathBuf, StoreError> {
        opening::keys(&self.0.layout, &self.0.disk)
    }

    /// Starts what runs beside requests: opening or rebuilding the index, looking after damage, counting after an unclean
    /// stop, reaping of uploads.
    pub fn start_jobs(&self, jobs: &Runner) {
        let store = &self.0;
        jobs.start(KeepIndex::new(Arc::clone(store), |store| (&store.listings, store.tree())));
        jobs.start(LookAfterDamage(Arc::clone(store)));
        jobs.start(Maintenance::new(Arc::clone(store)));
    }

    /// Seals the index and notes what is used. Called once, when no request runs any more; blocking. Waits for changes
    /// that outlived their requests; none is made afterwards.
    pub fn close(&self) {
        *self.0.closed.write().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.listings.close();
        if self.0.capacity.is_read_only() {
            return;
        }
        self.0.forget_doubtful();
        self.0.write_uses();
        if let Some(bytes) = self.0.capacity.contents()
            && !self.0.damage.is_doubtful()
        {
            let (disk, layout) = (&self.0.disk, &self.0.layout);
            if let Err(error) = disk.replace(layout.temporary(), &layout.usage(), format!("{bytes}\n").as_bytes()) {
                tracing::warn!(%error, "what the store uses can't be noted and will be counted at the next start");
            }
        }
    }

    /// Puts changed limits into force.
    pub fn set_limits(&self, limits: StoreLimits) {
        self.0.capacity.set_limits(limits);
    }

    /// Room used and left.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage { uploads: self.0.uploads.count(), ..self.0.capacity.usage() }
    }

    /// What the index is doing.
    #[must_use]
    pub fn index_state(&self) -> IndexState {
        self.0.listings.state()
    }

    /// Whether the data folder can be read now and is the one that was opened; for readiness.
    ///
    /// # Errors
    /// [`StoreError::Layout`] if the folder is gone or another was put over it, or if so much of it was found damaged that
    /// the disk is at fault; or of the disk.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.0.damage.check()?;
        let store = Arc::clone(&self.0);
        // What it reads may be in memory: its end is no sign of the disk's life.
        waiting(disk_look(), move || opening::check(&store.layout, &store.lock)).await
    }

    /// Makes a blob of `from` (or, without it, of any repository) one of `to`; durable when it says `true`.
    /// `false`: the source has no such blob. Runs to its end even if the caller is dropped.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn mount_blob(&self, from: Option<&RepoName>, to: &RepoName, digest: Digest) -> Result<bool, StoreError> {
        let (store, from, to) = (Arc::clone(&self.0), from.cloned(), to.clone());
        change(store, move |store| {
            let _adding = store.memory.adding(&to);
            store.ops().mount(from.as_ref(), &to, &digest)
        })
        .await
    }

    /// Takes a blob out of a repository; the bytes go when no repository has them. Runs to its end even if the caller
    /// is dropped.
    ///
    /// # Errors
    /// [`StoreError::BlobUnknown`], or of the disk.
    pub async fn delete_blob(&self, repo: &RepoName, digest: Digest) -> Result<(), StoreError> {
        let (store, repo) = (Arc::clone(&self.0), repo.clone());
        change(store, move |store| {
            let writing = store.memory.deleting(&repo);
            let removed = store.ops().remove(&repo, Membership::Blob, &digest);
            drop(writing);
            if removed? { Ok(()) } else { Err(StoreError::BlobUnknown) }
        })
        .await
    }

    /// Begins an upload. `algorithm`: what the client says it will name the content by; SHA-256 if it doesn't.
    /// `expected`: bytes the client announced, checked against the room left.
    ///
    /// # Errors
    /// [`StoreError::TooManyUploads`], [`StoreError::Full`], or of the disk.
    pub async fn begin_upload(
        &self,
        repo: &RepoName,
        algorithm: Option<Algorithm>,
        expected: Option<u64>,
    ) -> Result<UploadSession, StoreError> {
        self.begin_upload_at(None, repo, algorithm, expected).await
    }

    /// As [`Store::begin_upload`]; `place` is dropped when the upload is over, or the process.
    ///
    /// # Errors
    /// As there.
    pub async fn begin_upload_at(
        &self,
        place: Option<UploadPlace>,
        repo: &RepoName,
        algorithm: Option<Algorithm>,
        expected: Option<u64>,
    ) -> Result<UploadSession, StoreError> {
        let (store, repo) = (Arc::clone(&self.0), repo.clone());
        change(store, move |store| {
            store.capacity.admit(expected.unwrap_or(0))?;
            let algorithm = algorithm.unwrap_or(Algorithm::Sha256);
            let (upload, hold) = store.uploads.begin(store.ops(), &repo, algorithm, place)?;
            Ok(UploadSession::new(Arc::clone(store), upload, hold))
        })
        .await
    }

    /// Takes up an upload; waits for no one.
    ///
    /// # Errors
    /// [`StoreError::UploadUnknown`], or [`StoreError::UploadBusy`] while another request writes it.
    pub async fn resume_upload(&self, repo: &RepoName, id: UploadId) -> Result<UploadSession, StoreError> {
        let (store, repo) = (Arc::clone(&self.0), repo.clone());
        blocking(move || {
            let resumed = store.uploads.resume(&store.layout, &repo, id);
            let (upload, hold) = resumed.map_err(|error| store.capacity.explain(error))?;
            Ok(UploadSession::new(store, upload, hold))
        })
        .await
    }

    /// Bytes of the upload that are stored, also while another request writes it.
    ///
    /// # Errors
    /// [`StoreError::UploadUnknown`].
    pub async fn upload_offset(&self, repo: &RepoName, id: UploadId) -> Result<u64, StoreError> {
        let (store, repo) = (Arc::clone(&self.0), repo.clone());
        blocking(move || Ok(store.uploads.find(&store.layout, &repo, id)?.offset())).await
    }

    /// Ends an upload and removes what it stored.
    ///
    /// # Errors
    /// [`StoreError::UploadUnknown`], [`StoreError::UploadBusy`].
    pub async fn cancel_upload(&self, repo: &RepoName, id: UploadId) -> Result<(), StoreError> {
        self.resume_upload(repo, id).await?.cancel().await
    }

    /// Stores a manifest under its digest and moves `tags` to it, all durable before it answers.
    /// Runs to its end even if the caller is dropped.
    ///
    /// # Errors
    /// [`StoreError::Full`], or of the disk.
    pub async fn put_manifest(
        &self,
        repo: &RepoName,
        stored: StoredManifest,
        tags: Vec<Tag>,
    ) -> Result<(), StoreError> {
        let (store, repo) = (Arc::clone(&self.0), repo.clone());
        change(store, move |store| store.put_manifest(&repo, &stored, &tags)).await
    }

    /// Removes a manifest and the tags that point at it, or, for a tag, the tag alone. Runs to its end even if the
    /// caller is dropped.
    ///
    /// # Errors
    /// [`StoreError::ManifestUnknown`], or of the disk.
    pub async fn delete_manifest(&self, repo: &RepoName, reference: &Reference) -> Result<(), StoreError> {
        let (store, repo, reference) = (Arc::clone(&self.0), repo.clone(), reference.clone());
        change(store, move |store| store.delete_manifest(&repo, &reference)).await
    }

    /// Whether the repository holds a manifest, a tag or a blob.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn repository_exists(&self, repo: &RepoName) -> Result<bool, StoreError> {
        let (store, repo) = (Arc::clone(&self.0), repo.clone());
        blocking(move || Ok(walk::holds_anything(&store.layout, &repo))).await
    }

    /// A page of the repository's tags in byte order, after `last`, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::IndexNotReady`].
    pub async fn tags(&self, repo: &RepoName, last: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let (repo, last) = (repo.clone(), last.map(str::to_owned));
        self.ask(move |store| store.listings.tags(&repo, last.as_deref(), limit)).await
    }

    /// A page of the repositories that hold a manifest, in byte order, without those learnt from an upstream.
    ///
    /// # Errors
    /// [`StoreError::IndexNotReady`].
    pub async fn repositories(&self, last: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let last = last.map(str::to_owned);
        self.ask(move |store| store.listings.repositories(last.as_deref(), limit)).await
    }

    /// The manifests of the repository whose subject is `subject`, in order of digest, after `last`, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::IndexNotReady`].
    pub async fn referrers(
        &self,
        repo: &RepoName,
        subject: Digest,
        last: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<Referrer>, StoreError> {
        let asked = repo.clone();
        let found = self.ask(move |store| store.listings.referrers(&asked, subject, last, limit)).await?;
        let (store, repo) = (Arc::clone(&self.0), repo.clone());
        blocking(move || {
            let mut referrers = Vec::with_capacity(found.len());
            for entry in found {
                match entry {
                    IndexedReferrer::Whole(referrer) if store.is_damaged_manifest(&repo, &referrer.digest)? => {}
                    IndexedReferrer::Whole(referrer) => referrers.push(referrer),
                    IndexedReferrer::DigestOnly(digest) => {
                        referrers.extend(store.find_manifest(&repo, digest)?.as_ref().map(Referrer::of));
                    }
                }
            }
            Ok(referrers)
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Inner) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = Arc::clone(&self.0);
        // The index logs its own failures and is rebuilt; to the client there just is none now.
        blocking(move || question(&store).map_err(|_| StoreError::IndexNotReady { retry_after: INDEX_RETRY })).await
    }
}

#[cfg(test)]
mod tests;
