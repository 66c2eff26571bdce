//! Contents on their way in from an upstream: one file per digest, which survives a restart and grows from where it was.
//!
//! The file's length is the truth; taken up again it is hashed anew, so a torn write of a killed server can't hide. One
//! holder at a time writes a fill; readers read the same file beside it, and go on reading it after it was committed.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashSet;
use fail::fail_point;
use rustix::fs::{OFlags, fcntl_setfl};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::changes::blocking;
use super::files::Contents;
use super::growth::Growth;
use super::hashing::hash_range;
use super::pace::{TAIL_BYTES, TURN_BYTES};
use super::uploads::table::older;
use crate::clock::Timestamp;
use crate::fs::{Temporary, is_absence, stat};
use crate::oci::{Algorithm, Digest, Hasher};
use crate::store::error::StoreError;
use crate::store::layout::Layout;

/// How long a fill that somebody else holds is waited for: an eviction that removes it is through with it long before on any
/// disk that works.
pub(in crate::store) const BUSY: Duration = Duration::from_secs(5);

/// The digests that are being written, or removed, by somebody.
#[derive(Debug, Default)]
pub(in crate::store) struct Fills {
    held: DashSet<Digest>,
    freed: Notify,
}

/// A content that is not whole yet, held by one writer.
///
/// Safe to drop at any point: what was appended stays, and `Store::begin_fill` takes it up again.
#[derive(Debug)]
pub struct PartialBlob(Arc<Partial>);

#[derive(Debug)]
struct Partial {
    contents: Arc<Contents>,
    fills: Arc<Fills>,
    digest: Digest,
    path: PathBuf,
    file: Arc<File>,
    written: AtomicU64,
    growth: Mutex<Growth>,
    /// Offset of the first byte that was not sent to the disk yet.
    on_disk: AtomicU64,
    /// Held while something is sent to the disk.
    writing: tokio::sync::Mutex<()>,
    /// Nothing more is to be sent: the fill has failed.
    failed: CancellationToken,
    /// Why bytes could not be written: the system tells that once, and a later sync might say yes. Set under the lock of
    /// `growth`; nothing is appended afterwards.
    lost: OnceLock<StoreError>,
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.fills.let_go(&self.digest);
    }
}

impl Fills {
    /// Completes when somebody lets go of a fill after this call.
    pub(in crate::store) fn freed(&self) -> impl Future<Output = ()> {
        let mut freed = Box::pin(self.freed.notified());
        freed.as_mut().enable();
        freed
    }

    /// Bytes of the fills that nobody holds. Blocking.
    pub(in crate::store) fn unheld_bytes(&self, layout: &Layout) -> Result<u64, StoreError> {
        let mut bytes = 0;
        for (digest, path) in on_disk(layout)? {
            if !self.held.contains(&digest) {
                bytes += stat(&path)?.map_or(0, |facts| facts.len());
            }
        }
        Ok(bytes)
    }

    fn let_go(&self, digest: &Digest) {
        self.held.remove(digest);
        self.freed.notify_waiters();
    }

    /// Removes fills that nobody holds and that got no byte for longer than `idle`, or all of them; says how many and
    /// how many bytes. Blocking.
    pub(in crate::store) fn reap(
        &self,
        contents: &Contents,
        idle: Option<Duration>,
        now: Timestamp,
    ) -> Result<(usize, u64), StoreError> {
        let (mut reaped, mut bytes) = (0, 0);
        for (digest, path) in on_disk(&contents.layout)? {
            let Some(facts) = stat(&path)? else { continue };
            let length = facts.len();
            if idle.is_some_and(|idle| !older(Some(facts), idle, now)) || !self.held.insert(digest) {
                continue;
            }
            let removed = contents.disk.unlink(&path);
            self.let_go(&digest);
            if removed? {
                contents.capacity.refund_upload(length);
                reaped += 1;
                bytes += length;
            }
        }
        Ok((reaped, bytes))
    }
}

/// Takes up the fill of `digest`, or begins it, and holds it. While another holds it, the eviction that removes it for one,
/// this waits, [`BUSY`] at most.
///
/// # Errors
/// [`StoreError::FillBusy`], or of the disk.
pub(in crate::store) async fn begin(
    fills: &Arc<Fills>,
    contents: &Arc<Contents>,
    digest: Digest,
) -> Result<PartialBlob, StoreError> {
    let deadline = tokio::time::Instant::now() + BUSY;
    loop {
        // Before the look: who lets go in between is heard.
        let freed = fills.freed();
        let (holding, opening) = (Arc::clone(fills), Arc::clone(contents));
        let begun = contents.change(move || begin_now(&holding, &opening, digest)).await;
        if !matches!(begun, Err(StoreError::FillBusy(_))) || tokio::time::timeout_at(deadline, freed).await.is_err() {
            return begun;
        }
    }
}

/// As [`begin`], without a wait. Blocking.
pub(in crate::store) fn begin_now(
    fills: &Arc<Fills>,
    contents: &Arc<Contents>,
    digest: Digest,
) -> Result<PartialBlob, StoreError> {
    if !fills.held.insert(digest) {
        return Err(StoreError::FillBusy(Box::new(digest)));
    }
    let opened = open(fills, contents, digest);
    if opened.is_err() {
        fills.let_go(&digest);
    }
    opened
}

fn open(fills: &Arc<Fills>, contents: &Arc<Contents>, digest: Digest) -> Result<PartialBlob, StoreError> {
    let path = contents.layout.fill(&digest);
    let file = match open_file(&path) {
        Err(StoreError::Io { source, .. }) if is_absence(&source) => {
            contents.disk.make_directory(&contents.layout.fills_of(digest.algorithm()))?;
            open_file(&path)?
        }
        opened => opened?,
    };
    let written = file.metadata().map_err(StoreError::io("stat", &path))?.len();
    // Bytes of an earlier process are on the disk but for the last ones.
    if written > 0
        && let Err(error) = contents.disk.sync(&file, &path)
    {
        if contents.disk.unlink(&path)? {
            contents.capacity.refund_upload(written);
        }
        return Err(error.into());
    }
    let mut hasher = Hasher::new(digest.algorithm());
    if let Err(error) = hash_range(&file, &path, &mut hasher, 0, written) {
        // A file that can't be read is of no use: it goes, so that the next fill begins anew.
        tracing::warn!(path = %path.display(), error = %crate::telemetry::with_causes(&error), "what was left of a fill can't be read and is removed");
        if contents.disk.unlink(&path)? {
            contents.capacity.refund_upload(written);
        }
        return open(fills, contents, digest);
    }
    Ok(PartialBlob(Arc::new(Partial {
        contents: Arc::clone(contents),
        fills: Arc::clone(fills),
        digest,
        path,
        file: Arc::new(file),
        written: AtomicU64::new(written),
        growth: Mutex::new(Growth::new(hasher, written)),
        on_disk: AtomicU64::new(written),
        writing: tokio::sync::Mutex::default(),
        failed: CancellationToken::new(),
        lost: OnceLock::new(),
    })))
}

fn open_file(path: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .open(path)
        .map_err(StoreError::io("open", path))?;
    // As of whole contents, see `untouched` in `open`; refused for another user's file, which is then read as ever.
    let _ = fcntl_setfl(&file, OFlags::NOATIME);
    Ok(file)
}

impl PartialBlob {
    /// Bytes stored so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.0.written.load(Ordering::Acquire)
    }

    /// The file, for reading what was written; it stays readable whatever becomes of the fill.
    #[must_use]
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.0.file)
    }

    /// Whether `bytes` more would be taken now.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub async fn admit(&self, bytes: u64) -> Result<(), StoreError> {
        let contents = Arc::clone(&self.0.contents);
        blocking(move || contents.capacity.admit(bytes)).await
    }

    /// Appends content. When it answers, the bytes can be read from [`PartialBlob::file`] (not yet synced).
    /// Cancelled: the bytes handed over are appended all the same.
    ///
    /// # Errors
    /// [`StoreError::Full`] (what was appended before stays), or of the disk.
    pub async fn append(&self, content: Vec<Bytes>) -> Result<(), StoreError> {
        let partial = Arc::clone(&self.0);
        self.0.contents.change(move || partial.append(&content)).await
    }

    /// Bytes that were appended and not sent to the disk yet.
    #[must_use]
    pub fn behind(&self) -> u64 {
        self.0.behind()
    }

    /// Sends what was appended to the disk, turn by turn with others, until less than a turn or less than `least` bytes
    /// are left; also what is appended meanwhile. May run beside appends. Safe to drop.
    ///
    /// # Errors
    /// Of the disk; what was stored is gone then.
    pub fn write_back(&self, least: u64) -> impl Future<Output = Result<(), StoreError>> + Send + 'static {
        let partial = Arc::clone(&self.0);
        async move { write_back(&partial, least.max(TURN_BYTES)).await }
    }

    /// Ends [`PartialBlob::write_back`] after its present turn: the fill has failed.
    pub fn stop_write_back(&self) {
        self.0.failed.cancel();
    }

    /// Throws away what was stored, to begin at the first byte again.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn restart(&self) -> Result<(), StoreError> {
        let _writing = self.0.writing.lock().await;
        let partial = Arc::clone(&self.0);
        let restarted = self.0.contents.change(move || {
            let mut growth = lock(&partial.growth);
            let mut anew = Growth::new(Hasher::new(partial.digest.algorithm()), 0);
            anew.cut(&partial.file, &partial.path)?;
            *growth = anew;
            partial.contents.capacity.refund_upload(partial.written.swap(0, Ordering::AcqRel));
            partial.on_disk.store(0, Ordering::Release);
            Ok(())
        });
        restarted.await
    }

    /// Whether what was stored is the content of the digest.
    ///
    /// # Errors
    /// [`StoreError::DigestMismatch`].
    pub fn verify(&self) -> Result<(), StoreError> {
        let actual = lock(&self.0.growth).hasher().clone().finish();
        if actual == self.0.digest {
            return Ok(());
        }
        Err(StoreError::DigestMismatch { expected: Box::new(self.0.digest), actual: Box::new(actual) })
    }

    /// A hasher that has seen what was appended, to go on with elsewhere; `None` if bytes were lost on their way to the
    /// disk, so that what is read may be something else.
    #[must_use]
    pub fn hasher(&self) -> Option<Hasher> {
        let growth = lock(&self.0.growth);
        self.0.lost.get().is_none().then(|| growth.hasher().clone())
    }

    /// The digest of the content that is being filled.
    pub(in crate::store) fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Makes the verified content one under the names that `under` hands on, durably; `under` sets what has to hold meanwhile. The rest of it waits for its turn on the
    /// disk unless `hurry` is cancelled. Dropped meanwhile, the fill stays and can be taken up; later it runs to its end.
    ///
    /// # Errors
    /// Of the disk; the fill is gone then.
    pub(in crate::store) async fn commit_under(
        self,
        under: impl FnOnce(&dyn Fn(&[PathBuf]) -> Result<(), StoreError>) -> Result<(), StoreError> + Send + 'static,
        hurry: &CancellationToken,
    ) -> Result<(), StoreError> {
        let partial = self.0;
        if let Some(written) = hurry.run_until_cancelled(write_back(&partial, TAIL_BYTES)).await {
            written?;
        }
        let contents = Arc::clone(&partial.contents);
        contents.change(move || under(&|names| partial.commit(names))).await
    }

    /// Ends the fill and removes what it stored.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn discard(self) -> Result<(), StoreError> {
        let partial = self.0;
        let contents = Arc::clone(&partial.contents);
        contents.change(move || partial.remove()).await
    }
}

/// Sends what was not sent yet to the disk, turn by turn, as long as it is at least `least` bytes. One turn at a time.
async fn write_back(partial: &Arc<Partial>, least: u64) -> Result<(), StoreError> {
    loop {
        let _writing = partial.writing.lock().await;
        if let Some(error) = partial.lost.get() {
            return Err(error.clone());
        }
        let left = partial.behind();
        if left < least {
            return Ok(());
        }
        let from = partial.on_disk.load(Ordering::Acquire);
        let to = from + left.min(TURN_BYTES);
        let Some(turn) = partial.failed.run_until_cancelled(partial.contents.turn(to - from)).await else {
            return Ok(());
        };
        let writing = Arc::clone(partial);
        let written = partial.contents.change(move || {
            turn.write_back(&writing.file, from..to)
                .map_err(|error| writing.lose(StoreError::io("write", &writing.path)(error)))?;
            writing.on_disk.store(to, Ordering::Release);
            Ok(())
        });
        written.await?;
    }
}

impl Partial {
    fn behind(&self) -> u64 {
        self.written.load(Ordering::Acquire).saturating_sub(self.on_disk.load(Ordering::Acquire))
    }

    /// Bytes were lost on their way to the disk: what was stored goes, so that nobody takes it up.
    fn lose(&self, error: StoreError) -> StoreError {
        let error = self.contents.capacity.explain(error);
        let _growth = lock(&self.growth);
        if self.lost.set(error.clone()).is_ok()
            && let Err(left) = self.remove()
        {
            // Better nothing under this name than bytes that are in memory only.
            let _ = self.file.set_len(0);
            tracing::error!(digest = %self.digest, error = %left, "a fill whose bytes were lost can't be removed");
        }
        error
    }

    fn remove(&self) -> Result<(), StoreError> {
        if self.contents.disk.unlink(&self.path)? {
            self.contents.capacity.refund_upload(self.written.load(Ordering::Acquire));
        }
        Ok(())
    }

    fn append(&self, content: &[Bytes]) -> Result<(), StoreError> {
        let length = content.iter().map(|piece| piece.len() as u64).sum();
        let mut growth = lock(&self.growth);
        if let Some(error) = self.lost.get() {
            return Err(error.clone());
        }
        self.contents.capacity.charge_upload(length)?;
        if let Err(error) = growth.append(&self.file, &self.path, content) {
            self.contents.capacity.refund_upload(length);
            return Err(error);
        }
        self.written.store(growth.end(), Ordering::Release);
        fail_point!("store::fill::after_append");
        Ok(())
    }

    fn commit(&self, names: &[PathBuf]) -> Result<(), StoreError> {
        let Some((first, others)) = names.split_first() else {
            return Err(StoreError::Bug("a content for no repository".into()));
        };
        let size = self.written.load(Ordering::Acquire);
        fail_point!("store::fill::before_sync");
        if let Some(error) = self.lost.get() {
            return Err(error.clone());
        }
        let cut = lock(&self.growth).cut(&self.file, &self.path);
        cut.and_then(|()| Ok(self.contents.disk.sync(&self.file, &self.path)?)).map_err(|error| self.lose(error))?;
        let stored = (|| {
            self.contents.add(Temporary::adopt(self.path.clone()), size, &self.digest, first)?;
            for other in others {
                self.contents.mount(Some(first), other, &self.digest)?;
            }
            Ok(())
        })();
        // Renamed, or gone with the temporary: its bytes are the content's now.
        if stat(&self.path)?.is_none() {
            self.contents.capacity.refund_upload(size);
        }
        stored
    }
}

/// The fills that have a file.
fn on_disk(layout: &Layout) -> Result<Vec<(Digest, PathBuf)>, StoreError> {
    let mut found = Vec::new();
    for algorithm in Algorithm::ALL {
        let folder = layout.fills_of(algorithm);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if is_absence(&error) => continue,
            Err(error) => return Err(StoreError::io("read", &folder)(error)),
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if let Some(digest) = name.to_str().and_then(|hex| Digest::from_hex(algorithm, hex).ok()) {
                found.push((digest, entry.path()));
            }
        }
    }
    Ok(found)
}

/// Bytes of all fills on disk; for the start.
pub(in crate::store) fn bytes_on_disk(layout: &Layout) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for (_, path) in on_disk(layout)? {
        bytes += stat(&path)?.map_or(0, |facts| facts.len());
    }
    Ok(bytes)
}

fn lock(growth: &Mutex<Growth>) -> std::sync::MutexGuard<'_, Growth> {
    growth.lock().unwrap_or_else(PoisonError::into_inner)
}
