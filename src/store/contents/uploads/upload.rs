//! One upload: its file, its hash, and who may write it.

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::state::State;
use crate::oci::{Digest, Hasher, RepoName, UploadId};
use crate::store::contents::growth::Growth;
use crate::store::contents::hashing::hash_range;
use crate::store::error::StoreError;

/// Something that is kept as long as an upload is open: a place among those who may have one.
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

/// One upload.
#[derive(Debug)]
pub(in crate::store) struct Upload {
    pub(super) id: UploadId,
    pub(super) repo: RepoName,
    pub(super) held: AtomicBool,
    /// Bytes written and hashed.
    pub(super) offset: AtomicU64,
    /// Offset of the first byte that was not sent to the disk yet.
    pub(super) on_disk: AtomicU64,
    pub(super) writer: Mutex<Writer>,
    /// Of who began it, if it was in this process.
    pub(super) _place: Option<UploadPlace>,
}

/// The right to write an upload; ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub(in crate::store) struct Hold(#[expect(dead_code, reason = "held for its drop")] Arc<Release>);

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
    /// The upload's name.
    pub(in crate::store) const fn id(&self) -> UploadId {
        self.id
    }

    /// The repository that it is for.
    pub(in crate::store) const fn repo(&self) -> &RepoName {
        &self.repo
    }

    /// Waits for a write that still runs although its request is gone.
    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hold(self: &Arc<Self>) -> Option<Hold> {
        self.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Hold(Arc::new(Release(Arc::clone(self)))))
    }

    /// Bytes written and hashed.
    pub(in crate::store) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Acquire)
    }

    /// The bytes that were not sent to the disk yet, in whole units of `unit` bytes: what is left goes with the next.
    pub(in crate::store) fn behind(&self, unit: u64) -> Range<u64> {
        let from = self.on_disk.load(Ordering::Acquire);
        from..from + self.offset().saturating_sub(from) / unit * unit
    }
}

/// The file and the hash of an upload.
#[derive(Debug)]
pub(super) struct Writer {
    /// Open while the upload is held.
    file: Option<File>,
    pub(super) growth: Growth,
    /// Offset of the hash in the note: a restart goes on from there.
    pub(super) noted: u64,
}

impl Writer {
    pub(super) const fn new(file: File, hasher: Hasher, offset: u64) -> Self {
        Self { file: Some(file), growth: Growth::new(hasher, offset), noted: offset }
    }

    /// Lets go of the file.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    pub(super) fn file(&mut self, path: &Path) -> Result<&File, StoreError> {
        Ok(self.file_and_growth(path)?.0)
    }

    pub(super) const fn offset(&self) -> u64 {
        self.growth.end()
    }

    /// Takes up what an earlier process left: hashes what the note has not seen, or all of it.
    pub(super) fn load(path: &Path, state: &State) -> Result<Self, StoreError> {
        let file = open(path)?;
        let length = file.metadata().map_err(StoreError::io("stat", path))?.len();
        let (hashed, mut hasher) = match &state.hash {
            Some((hashed, hasher)) if *hashed <= length => (*hashed, hasher.clone()),
            _ => (0, Hasher::new(state.algorithm)),
        };
        hash_range(&file, path, &mut hasher, hashed, length)?;
        Ok(Self { file: None, growth: Growth::new(hasher, length), noted: hashed })
    }

    fn file_and_growth(&mut self, path: &Path) -> Result<(&File, &mut Growth), StoreError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => open(path)?,
        };
        Ok((self.file.insert(file), &mut self.growth))
    }

    pub(super) fn append(&mut self, path: &Path, content: &[Bytes]) -> Result<(), StoreError> {
        let (file, growth) = self.file_and_growth(path)?;
        growth.append(file, path, content)
    }

    pub(super) fn cut(&mut self, path: &Path) -> Result<(), StoreError> {
        let (file, growth) = self.file_and_growth(path)?;
        growth.cut(file, path)
    }

    pub(super) fn digest(&mut self, path: &Path, like: &Digest) -> Result<Digest, StoreError> {
        if like.algorithm() == self.growth.hasher().algorithm() {
            return Ok(self.growth.hasher().clone().finish());
        }
        let mut hasher = Hasher::new(like.algorithm());
        let end = self.growth.end();
        hash_range(self.file(path)?, path, &mut hasher, 0, end)?;
        Ok(hasher.finish())
    }
}

fn open(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(StoreError::io("open", path))
}
