//! The uploads in progress: which there are, and what is left when one ends.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;

use super::state::State;
use super::upload::{Hold, Upload, UploadPlace, Writer};
use crate::clock::Timestamp;
use crate::fs::{create, is_absence, stat};
use crate::oci::{Algorithm, Hasher, RepoName, UploadId};
use crate::store::contents::capacity::FOOTPRINT;
use crate::store::contents::files::Contents;
use crate::store::error::StoreError;
use crate::store::layout::Layout;

/// Number of uploads that may be open at once, those that an earlier process left counted in: each takes three inodes.
pub const MOST_UPLOADS: usize = 4096;

/// Uploads that this process has touched; others are on disk only.
#[derive(Debug, Default)]
pub(in crate::store) struct Uploads {
    open: DashMap<UploadId, Arc<Upload>>,
    /// Held while an upload of an earlier process is loaded, or removed without being loaded: so that nobody holds one
    /// that has ended, whose file may be a stored content by now.
    loading: Mutex<()>,
    /// Shared by all sessions, to count them.
    pub(in crate::store) sessions: Arc<()>,
    /// Uploads on disk.
    count: AtomicUsize,
}

impl Uploads {
    /// `count`: uploads that are on disk.
    pub(in crate::store) fn new(count: usize) -> Self {
        Self { count: AtomicUsize::new(count), ..Self::default() }
    }

    /// Uploads that are open.
    pub(in crate::store) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts and charges one more.
    fn charge(&self, contents: &Contents) -> Result<(), StoreError> {
        let charged = if self.count.fetch_add(1, Ordering::Relaxed) < MOST_UPLOADS {
            contents.capacity.charge_upload(FOOTPRINT)
        } else {
            Err(StoreError::TooManyUploads)
        };
        if charged.is_err() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        charged
    }

    /// Gives back what one is charged that is gone and had `bytes` bytes.
    fn refund(&self, contents: &Contents, bytes: u64) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        contents.capacity.refund_upload(bytes + FOOTPRINT);
    }

    /// Begins an upload and holds it; blocking.
    ///
    /// # Errors
    /// [`StoreError::TooManyUploads`], [`StoreError::Full`], or of the disk.
    pub(in crate::store) fn begin(
        &self,
        contents: &Contents,
        repo: &RepoName,
        algorithm: Algorithm,
        place: Option<UploadPlace>,
    ) -> Result<(Arc<Upload>, Hold), StoreError> {
        self.charge(contents)?;
        self.make(contents, repo, algorithm, place).inspect_err(|_| self.refund(contents, 0))
    }

    fn make(
        &self,
        contents: &Contents,
        repo: &RepoName,
        algorithm: Algorithm,
        place: Option<UploadPlace>,
    ) -> Result<(Arc<Upload>, Hold), StoreError> {
        let id = UploadId::random();
        contents.disk.make_directory(&contents.layout.upload(id))?;
        let hasher = Hasher::new(algorithm);
        let made = create(&contents.layout.upload_data(id)).map_err(StoreError::from).and_then(|file| {
            State::of(repo, 0, &hasher).write(&contents.layout, &contents.disk, id)?;
            Ok(file)
        });
        let file = made.inspect_err(|_| remove_directory(&contents.layout.upload(id)))?;
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
    pub(in crate::store) fn find(
        &self,
        layout: &Layout,
        repo: &RepoName,
        id: UploadId,
    ) -> Result<Arc<Upload>, StoreError> {
        let known = self.open.get(&id).map(|upload| Arc::clone(upload.value()));
        let upload = match known {
            Some(upload) => upload,
            None => self.take_up(layout, id)?,
        };
        if upload.repo == *repo { Ok(upload) } else { Err(StoreError::UploadUnknown) }
    }

    /// As [`Uploads::find`], and holds it.
    pub(in crate::store) fn resume(
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
    pub(in crate::store) fn end(&self, contents: &Contents, upload: &Upload, _hold: &Hold) {
        remove_directory(&contents.layout.upload(upload.id));
        if self.open.remove(&upload.id).is_some() {
            self.refund(contents, upload.offset());
        }
    }

    /// Removes uploads that nobody holds and that got no byte for longer than `idle`; says how many. Blocking.
    pub(in crate::store) fn reap(
        &self,
        contents: &Contents,
        idle: Duration,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        let mut reaped = 0;
        for id in on_disk(&contents.layout)? {
            let Some(facts) = stat(&contents.layout.upload_data(id))? else {
                // A begin that failed half-way, or one that is just happening: age tells.
                if older(stat(&contents.layout.upload(id))?, idle, now) {
                    remove_directory(&contents.layout.upload(id));
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
                    self.end(contents, &upload, &hold);
                }
                None => {
                    let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
                    if self.open.contains_key(&id) {
                        continue;
                    }
                    remove_directory(&contents.layout.upload(id));
                    self.refund(contents, bytes);
                }
            }
            reaped += 1;
        }
        Ok(reaped)
    }

    /// Whether no upload is in this process's memory.
    #[cfg(test)]
    pub(in crate::store) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

pub(in crate::store) fn older(facts: Option<std::fs::Metadata>, idle: Duration, now: Timestamp) -> bool {
    let written = facts.and_then(|facts| facts.modified().ok()).map(Timestamp::from);
    written.and_then(|written| now.since(written)).is_some_and(|age| age > idle)
}

/// Whether what is left of an upload can be gone on with. Blocking.
pub(in crate::store) fn can_go_on(layout: &Layout, id: UploadId) -> bool {
    let has_note = matches!(State::read(&layout.upload_state(id)), Ok(Some(_)));
    has_note && matches!(stat(&layout.upload_data(id)), Ok(Some(_)))
}

/// The uploads that have a folder.
fn on_disk(layout: &Layout) -> Result<Vec<UploadId>, StoreError> {
    let path = layout.uploads();
    let entries = std::fs::read_dir(&path).map_err(StoreError::io("read", &path))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// The number of uploads on disk, and the bytes they are charged; for the start. Remains of one that a killed server had
/// ended or begun go: without bytes or without a note nobody can go on with it.
pub(in crate::store) fn at_start(layout: &Layout) -> Result<(usize, u64), StoreError> {
    let (mut count, mut bytes) = (0, 0);
    for id in on_disk(layout)? {
        match stat(&layout.upload_data(id))? {
            // A note that can't be read now may be readable later.
            Some(facts) if !matches!(State::read(&layout.upload_state(id)), Ok(None)) => {
                count += 1;
                bytes += facts.len() + FOOTPRINT;
            }
            Some(_) | None => remove_directory(&layout.upload(id)),
        }
    }
    Ok((count, bytes))
}

/// Bytes that the uploads on disk are charged. Blocking.
pub(in crate::store) fn bytes_charged(layout: &Layout) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for id in on_disk(layout)? {
        bytes += stat(&layout.upload_data(id))?.map_or(0, |facts| facts.len() + FOOTPRINT);
    }
    Ok(bytes)
}

fn remove_directory(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path)
        && !is_absence(&error)
    {
        tracing::warn!(path = %path.display(), %error, "an upload's folder can't be removed");
    }
}
