//! Uploads in progress: which there are, who holds one, what is left when one ends.
//!
//! An upload is a folder with the bytes so far (`data`) and a note (`state`) of the hash at some earlier offset. The
//! length of `data` is the truth: after a restart the note saves hashing again what lies before it. One request at a
//! time holds an upload; the hold lasts as long as any work for it, also on a blocking thread after the request is gone.

mod session;
mod state;

use std::any::Any;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;

pub(super) use session::hash_range;
pub use session::{UploadSession, most_batch_bytes};

use self::session::Writer;
use self::state::State;
use super::StoreError;
use super::contents::ContentOps;
use super::layout::Layout;
use crate::clock::Timestamp;
use crate::fs::{create, is_absence, stat};
use crate::oci::{Algorithm, Hasher, RepoName, UploadId};

/// Uploads that are open at once, those that an earlier process left counted in: each takes three inodes.
pub const MOST_UPLOADS: usize = 4096;

/// Bytes that an upload is charged beside its content: a block for its folder, and one for its note.
pub(super) const FOOTPRINT: u64 = 8 * 1024;

/// What is kept as long as an upload is open, whatever it is: somebody's place among those who may have one.
pub struct UploadPlace(#[expect(dead_code, reason = "held for its drop")] Box<dyn Any + Send + Sync>);

impl UploadPlace {
    /// Keeps `held`.
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self(Box::new(held))
    }
}

impl std::fmt::Debug for UploadPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UploadPlace").finish_non_exhaustive()
    }
}

/// Uploads that this process has touched; others are on disk only.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    open: DashMap<UploadId, Arc<Upload>>,
    /// Held while an upload of an earlier process is loaded, or removed without being loaded: so that nobody holds one
    /// that has ended, whose file may be a stored content by now.
    loading: Mutex<()>,
    /// Shared by all sessions, to count them.
    sessions: Arc<()>,
    /// Uploads on disk.
    count: AtomicUsize,
}

/// One upload.
#[derive(Debug)]
pub(super) struct Upload {
    id: UploadId,
    repo: RepoName,
    held: AtomicBool,
    /// Bytes written and hashed.
    offset: AtomicU64,
    /// Where what was not sent to the disk yet begins.
    on_disk: AtomicU64,
    writer: Mutex<Writer>,
    /// Of who began it, if it was in this process.
    _place: Option<UploadPlace>,
}

/// The right to write an upload; ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub(super) struct Hold(#[expect(dead_code, reason = "held for its drop")] Arc<Release>);

#[derive(Debug)]
struct Release(Arc<Upload>);

impl Drop for Release {
    fn drop(&mut self) {
        // An upload that waits for its client costs no descriptor.
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).close();
        self.0.held.store(false, Ordering::Release);
    }
}

impl Upload {
    fn hold(self: &Arc<Self>) -> Option<Hold> {
        self.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Hold(Arc::new(Release(Arc::clone(self)))))
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Acquire)
    }

    /// What was not sent to the disk yet, in whole units of so many bytes: what is left goes with the next.
    fn behind(&self, unit: u64) -> Range<u64> {
        let from = self.on_disk.load(Ordering::Acquire);
        from..from + self.offset().saturating_sub(from) / unit * unit
    }
}

impl Uploads {
    /// `count`: uploads that are on disk.
    pub(super) fn new(count: usize) -> Self {
        Self { count: AtomicUsize::new(count), ..Self::default() }
    }

    /// Uploads that are open.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts and charges one more.
    fn charge(&self, ops: ContentOps<'_>) -> Result<(), StoreError> {
        let charged = if self.count.fetch_add(1, Ordering::Relaxed) < MOST_UPLOADS {
            ops.capacity.charge_upload(FOOTPRINT)
        } else {
            Err(StoreError::TooManyUploads)
        };
        if charged.is_err() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        charged
    }

    /// One is gone that had so many bytes.
    fn refund(&self, ops: ContentOps<'_>, bytes: u64) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        ops.capacity.refund_upload(bytes + FOOTPRINT);
    }

    /// Begins an upload and holds it; blocking.
    ///
    /// # Errors
    /// [`StoreError::TooManyUploads`], [`StoreError::Full`], or of the disk.
    pub(super) fn begin(
        &self,
        ops: ContentOps<'_>,
        repo: &RepoName,
        algorithm: Algorithm,
        place: Option<UploadPlace>,
    ) -> Result<(Arc<Upload>, Hold), StoreError> {
        self.charge(ops)?;
        self.make(ops, repo, algorithm, place).inspect_err(|_| self.refund(ops, 0))
    }

    fn make(
        &self,
        ops: ContentOps<'_>,
        repo: &RepoName,
        algorithm: Algorithm,
        place: Option<UploadPlace>,
    ) -> Result<(Arc<Upload>, Hold), StoreError> {
        let id = UploadId::random();
        ops.disk.make_directory(&ops.layout.upload(id))?;
        let hasher = Hasher::new(algorithm);
        let made = create(&ops.layout.upload_data(id)).map_err(StoreError::from).and_then(|file| {
            State::of(repo, 0, &hasher).write(ops.layout, ops.disk, id)?;
            Ok(file)
        });
        let file = made.inspect_err(|_| remove_directory(&ops.layout.upload(id)))?;
        let upload = Arc::new(Upload {
            id,
            repo: repo.clone(),
            held: AtomicBool::new(false),
            offset: AtomicU64::new(0),
            on_disk: AtomicU64::new(0),
            writer: Mutex::new(Writer::new(file, hasher, 0)),
            _place: place,
        });
        self.open.insert(id, Arc::clone(&upload));
        let hold = upload.hold().ok_or(StoreError::UploadBusy(id))?;
        Ok((upload, hold))
    }

    /// Finds an upload of `repo`, on disk if need be; blocking.
    pub(super) fn find(&self, layout: &Layout, repo: &RepoName, id: UploadId) -> Result<Arc<Upload>, StoreError> {
        let known = self.open.get(&id).map(|upload| Arc::clone(upload.value()));
        let upload = match known {
            Some(upload) => upload,
            None => self.take_up(layout, id)?,
        };
        if upload.repo == *repo { Ok(upload) } else { Err(StoreError::UploadUnknown) }
    }

    /// As [`Uploads::find`], and holds it.
    pub(super) fn resume(
        &self,
        layout: &Layout,
        repo: &RepoName,
        id: UploadId,
    ) -> Result<(Arc<Upload>, Hold), StoreError> {
        let upload = self.find(layout, repo, id)?;
        let hold = upload.hold().ok_or(StoreError::UploadBusy(id))?;
        // It may have ended between being found and being held.
        if self.open.contains_key(&id) { Ok((upload, hold)) } else { Err(StoreError::UploadUnknown) }
    }

    fn take_up(&self, layout: &Layout, id: UploadId) -> Result<Arc<Upload>, StoreError> {
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.open.get(&id).map(|upload| Arc::clone(upload.value()));
        if let Some(upload) = known {
            return Ok(upload);
        }
        let loaded = Arc::new(Self::load(layout, id)?);
        self.open.insert(id, Arc::clone(&loaded));
        Ok(loaded)
    }

    /// Reads an upload that an earlier process left.
    fn load(layout: &Layout, id: UploadId) -> Result<Upload, StoreError> {
        let path = layout.upload_data(id);
        if stat(&path)?.is_none() {
            return Err(StoreError::UploadUnknown);
        }
        let Some(state) = State::read(&layout.upload_state(id))? else {
            return Err(StoreError::UploadUnknown);
        };
        let writer = Writer::load(&path, &state)?;
        Ok(Upload {
            id,
            repo: state.repo,
            held: AtomicBool::new(false),
            offset: AtomicU64::new(writer.offset()),
            on_disk: AtomicU64::new(writer.offset()),
            writer: Mutex::new(writer),
            _place: None,
        })
    }

    /// Ends a held upload: what is left of its folder goes, its bytes are given back. Blocking.
    pub(super) fn end(&self, ops: ContentOps<'_>, upload: &Upload, _hold: &Hold) {
        remove_directory(&ops.layout.upload(upload.id));
        if self.open.remove(&upload.id).is_some() {
            self.refund(ops, upload.offset());
        }
    }

    /// Removes uploads that nobody holds and that got no byte for longer than `idle`; says how many. Blocking.
    pub(super) fn reap(&self, ops: ContentOps<'_>, idle: Duration, now: Timestamp) -> Result<usize, StoreError> {
        let mut reaped = 0;
        for id in on_disk(ops.layout)? {
            let Some(facts) = stat(&ops.layout.upload_data(id))? else {
                // A begin that failed half-way, or one that is just happening: age tells.
                if older(stat(&ops.layout.upload(id))?, idle, now) {
                    remove_directory(&ops.layout.upload(id));
                }
                continue;
            };
            let bytes = facts.len();
            if !older(Some(facts), idle, now) {
                continue;
            }
            let known = self.open.get(&id).map(|upload| Arc::clone(upload.value()));
            match known {
                Some(upload) => {
                    let Some(hold) = upload.hold() else { continue };
                    self.end(ops, &upload, &hold);
                }
                None => {
                    let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
                    if self.open.contains_key(&id) {
                        continue;
                    }
                    remove_directory(&ops.layout.upload(id));
                    self.refund(ops, bytes);
                }
            }
            reaped += 1;
        }
        Ok(reaped)
    }

    /// Whether no upload is in this process's memory.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

pub(super) fn older(facts: Option<std::fs::Metadata>, idle: Duration, now: Timestamp) -> bool {
    let written = facts.and_then(|facts| facts.modified().ok()).map(Timestamp::from);
    written.and_then(|written| now.since(written)).is_some_and(|age| age > idle)
}

/// The uploads that have a folder.
fn on_disk(layout: &Layout) -> Result<Vec<UploadId>, StoreError> {
    let path = layout.uploads();
    let entries = std::fs::read_dir(&path).map_err(StoreError::io("read", &path))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// How many uploads are on disk, and what they are charged; for the start. What is left of one that a killed server had
/// ended goes.
pub(super) fn at_start(layout: &Layout) -> Result<(usize, u64), StoreError> {
    let (mut count, mut bytes) = (0, 0);
    for id in on_disk(layout)? {
        match stat(&layout.upload_data(id))? {
            Some(facts) => {
                count += 1;
                bytes += facts.len() + FOOTPRINT;
            }
            None => remove_directory(&layout.upload(id)),
        }
    }
    Ok((count, bytes))
}

fn remove_directory(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path)
        && !is_absence(&error)
    {
        tracing::warn!(path = %path.display(), %error, "an upload's folder can't be removed");
    }
}
