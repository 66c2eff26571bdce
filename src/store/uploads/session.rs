//! Writing an upload.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::Bytes;
use fail::fail_point;

use super::state::State;
use super::{Hold, Upload};
use crate::oci::{Digest, Hasher, UploadId};
use crate::store::contents::Shelf;
use crate::store::durable::Temporary;
use crate::store::layout::Membership;
use crate::store::{Inner, Refusal, StoreError, blocking};

/// After so many bytes the hash is noted beside the data: what a restart hashes again at most.
const NOTE_EVERY: u64 = 16 << 20;

/// Bytes read at once when content is hashed again.
const REREAD_BYTES: usize = 1 << 20;

/// The file and the hash of an upload.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    hasher: Hasher,
    offset: u64,
    noted: u64,
}

impl Writer {
    pub(super) const fn new(file: File, hasher: Hasher, offset: u64) -> Self {
        Self { file, hasher, offset, noted: offset }
    }

    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes up what an earlier process left: hashes what the note has not seen, or all of it.
    pub(super) fn load(path: &Path, state: &State) -> Result<Self, StoreError> {
        let failed = |operation| StoreError::io(operation, path);
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed("open"))?;
        let length = file.metadata().map_err(failed("stat"))?.len();
        let (hashed, hasher) = match &state.hash {
            Some((hashed, hasher)) if *hashed <= length => (*hashed, hasher.clone()),
            _ => (0, Hasher::new(state.algorithm)),
        };
        let mut writer = Self { file, hasher, offset: length, noted: hashed };
        hash_range(&writer.file, path, &mut writer.hasher, hashed, length)?;
        Ok(writer)
    }

    /// Writes all of it and hashes it, or leaves everything as it was.
    fn append(&mut self, path: &Path, content: &[Bytes]) -> Result<(), StoreError> {
        let mut at = self.offset;
        for piece in content {
            if let Err(error) = self.file.write_all_at(piece, at) {
                // What stands behind the offset is written over by the next attempt; cutting it off frees the room.
                let _ = self.file.set_len(self.offset);
                return Err(StoreError::io("write", path)(error));
            }
            at += piece.len() as u64;
        }
        for piece in content {
            self.hasher.update(piece);
        }
        self.offset = at;
        Ok(())
    }

    fn digest(&self, path: &Path, like: &Digest) -> Result<Digest, StoreError> {
        if like.algorithm() == self.hasher.algorithm() {
            return Ok(self.hasher.clone().finish());
        }
        let mut hasher = Hasher::new(like.algorithm());
        hash_range(&self.file, path, &mut hasher, 0, self.offset)?;
        Ok(hasher.finish())
    }
}

fn hash_range(file: &File, path: &Path, hasher: &mut Hasher, from: u64, to: u64) -> Result<(), StoreError> {
    let mut buffer = vec![0; REREAD_BYTES.min(usize::try_from(to - from).unwrap_or(REREAD_BYTES))];
    let mut at = from;
    while at < to {
        let want = usize::try_from(to - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        file.read_exact_at(&mut buffer[..want], at).map_err(StoreError::io("read", path))?;
        hasher.update(&buffer[..want]);
        at += want as u64;
    }
    Ok(())
}

/// An upload in progress, held by this request alone.
///
/// Safe to drop at any point: what was appended stays, and the upload can be taken up again.
#[derive(Debug)]
pub struct UploadSession {
    store: Arc<Inner>,
    upload: Arc<Upload>,
    hold: Hold,
}

impl UploadSession {
    pub(in crate::store) const fn new(store: Arc<Inner>, upload: Arc<Upload>, hold: Hold) -> Self {
        Self { store, upload, hold }
    }

    /// The upload's name.
    #[must_use]
    pub fn id(&self) -> UploadId {
        self.upload.id
    }

    /// Bytes stored so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.upload.offset()
    }

    /// Whether `bytes` more would be taken now, so that a push can be refused before its body is read.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub fn admit(&self, bytes: u64) -> Result<(), StoreError> {
        self.store.space.admit(bytes)
    }

    /// Appends content. When it answers, the bytes are written and hashed (not yet synced).
    /// Cancelled: the bytes handed over are appended all the same; `offset` is true again when the upload can be
    /// taken up.
    ///
    /// # Errors
    /// [`StoreError::Full`] (what was appended before stays), or of the disk.
    pub async fn append(&mut self, content: Vec<Bytes>) -> Result<(), StoreError> {
        if content.is_empty() {
            return Ok(());
        }
        let (store, upload, hold) = (Arc::clone(&self.store), Arc::clone(&self.upload), self.hold.clone());
        blocking(move || {
            let _hold = hold;
            append(&store, &upload, &content)
        })
        .await
    }

    /// Ends the upload: verifies the digest, syncs, makes the content a blob of the repository. Runs to its end even
    /// if the caller is dropped.
    ///
    /// # Errors
    /// [`StoreError::DigestMismatch`] (the upload is gone then), or of the disk (the upload stays).
    pub async fn finish(self, expected: Digest) -> Result<(), StoreError> {
        blocking(move || finish(&self.store, &self.upload, &self.hold, &expected)).await
    }

    /// Ends the upload and removes what it stored. Runs to its end even if the caller is dropped.
    ///
    /// # Errors
    /// [`StoreError::Bug`] only.
    pub async fn cancel(self) -> Result<(), StoreError> {
        blocking(move || {
            self.store.uploads.end(self.store.shelf(), &self.upload, &self.hold);
            Ok(())
        })
        .await
    }
}

fn append(store: &Inner, upload: &Upload, content: &[Bytes]) -> Result<(), StoreError> {
    let length = content.iter().map(|piece| piece.len() as u64).sum();
    let mut writer = lock(upload);
    store.space.charge_upload(length)?;
    let path = store.layout.upload_data(upload.id);
    if let Err(error) = writer.append(&path, content) {
        store.space.refund_upload(length);
        return Err(full_if_full(store, error));
    }
    upload.offset.store(writer.offset, Ordering::Release);
    if writer.offset - writer.noted >= NOTE_EVERY {
        State::of(&upload.repo, writer.offset, &writer.hasher).write(&store.layout.upload_state(upload.id))?;
        writer.noted = writer.offset;
    }
    Ok(())
}

fn finish(store: &Inner, upload: &Upload, hold: &Hold, expected: &Digest) -> Result<(), StoreError> {
    let shelf: Shelf<'_> = store.shelf();
    let path = store.layout.upload_data(upload.id);
    let writer = lock(upload);
    let actual = writer.digest(&path, expected)?;
    if actual != *expected {
        drop(writer);
        store.uploads.end(shelf, upload, hold);
        return Err(StoreError::DigestMismatch { expected: Box::new(*expected), actual: Box::new(actual) });
    }
    // Appends that were cut off may have left bytes behind the offset.
    writer.file.set_len(writer.offset).map_err(StoreError::io("cut", &path))?;
    fail_point!("store::upload::before_sync");
    store.disk.sync(&writer.file, &path)?;
    shelf.add(Temporary::adopt(path), writer.offset, &upload.repo, Membership::Blob, expected)?;
    drop(writer);
    store.uploads.end(shelf, upload, hold);
    Ok(())
}

/// A write that the system refused for lack of room is our 507 too.
fn full_if_full(store: &Inner, error: StoreError) -> StoreError {
    if !error.is_disk_full() {
        return error;
    }
    let usage = store.space.usage();
    StoreError::Full(Refusal::ReserveExhausted { reserve: usage.reserve, free: usage.free })
}

fn lock(upload: &Upload) -> MutexGuard<'_, Writer> {
    upload.writer.lock().unwrap_or_else(PoisonError::into_inner)
}
