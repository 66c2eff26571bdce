//! Writing an upload.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::Bytes;
use fail::fail_point;

use super::state::State;
use super::{Hold, Upload};
use crate::fs::Temporary;
use crate::oci::{Digest, Hasher, UploadId};
use crate::store::contents::ContentOps;
use crate::store::growth::Growth;
use crate::store::layout::Membership;
use crate::store::pace::{TAIL_BYTES, TURN_BYTES, Turn};
use crate::store::{Inner, StoreError, blocking, change};

/// After so many bytes the hash is noted beside the data: what a restart hashes again at most.
const NOTE_EVERY: u64 = 16 << 20;

/// Bytes read at once when content is hashed again.
const REREAD_BYTES: usize = 1 << 20;

/// What is handed over at once: each time costs a change of threads, and each byte waits in memory until then.
const MOST_BATCH_BYTES: usize = TURN_BYTES as usize;
const LEAST_BATCH_BYTES: usize = 256 << 10;

/// What all uploads gather together, until batches can't be smaller.
const GATHERED_BYTES: usize = 8 << 20;

/// The file and the hash of an upload.
#[derive(Debug)]
pub(super) struct Writer {
    /// Open while the upload is held.
    file: Option<File>,
    growth: Growth,
    noted: u64,
}

impl Writer {
    pub(super) const fn new(file: File, hasher: Hasher, offset: u64) -> Self {
        Self { file: Some(file), growth: Growth::new(hasher, offset), noted: offset }
    }

    /// Lets go of the file.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    fn file(&mut self, path: &Path) -> Result<&File, StoreError> {
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

    fn append(&mut self, path: &Path, content: &[Bytes]) -> Result<(), StoreError> {
        let (file, growth) = self.file_and_growth(path)?;
        growth.append(file, path, content)
    }

    fn cut(&mut self, path: &Path) -> Result<(), StoreError> {
        let (file, growth) = self.file_and_growth(path)?;
        growth.cut(file, path)
    }

    fn digest(&mut self, path: &Path, like: &Digest) -> Result<Digest, StoreError> {
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

pub(in crate::store) fn hash_range(
    file: &File,
    path: &Path,
    hasher: &mut Hasher,
    from: u64,
    to: u64,
) -> Result<(), StoreError> {
    let mut buffer = vec![0; REREAD_BYTES.min(usize::try_from(to - from).unwrap_or(REREAD_BYTES))];
    let mut at = from;
    while at < to {
        let want = usize::try_from(to - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        file.read_exact_at(&mut buffer[..want], at).map_err(StoreError::io("read", path))?;
        hasher.update(&buffer[..want]);
        at += want as u64;
        crate::telemetry::disk_moved();
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
    /// As many of these are there as sessions.
    present: Arc<()>,
}

impl UploadSession {
    pub(in crate::store) fn new(store: Arc<Inner>, upload: Arc<Upload>, hold: Hold) -> Self {
        let present = Arc::clone(&store.uploads.sessions);
        Self { store, upload, hold, present }
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

    /// How many bytes to gather for one [`UploadSession::append`]: what goes to the disk in one turn, or less, so that all
    /// sessions together hold little memory.
    #[must_use]
    pub fn batch_bytes(&self) -> usize {
        batch_bytes(Arc::strong_count(&self.present) - 1)
    }

    /// Whether `bytes` more would be taken now, so that a push can be refused before its body is read.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub async fn admit(&self, bytes: u64) -> Result<(), StoreError> {
        let store = Arc::clone(&self.store);
        blocking(move || store.capacity.admit(bytes)).await
    }

    /// Appends content. When it answers, the bytes are written and hashed and on their way to the disk (not yet synced).
    /// Cancelled: the bytes handed over are appended all the same; `offset` is true again when the upload can be
    /// taken up.
    ///
    /// # Errors
    /// [`StoreError::Full`] (what was appended before stays), or of the disk; the upload is gone if that lost bytes.
    pub async fn append(&mut self, content: Vec<Bytes>) -> Result<(), StoreError> {
        if content.is_empty() {
            return Ok(());
        }
        let (store, upload, hold) = (Arc::clone(&self.store), Arc::clone(&self.upload), self.hold.clone());
        change(store, move |store| {
            append(store, &upload, &content)?;
            // On this thread, if it is this upload's turn.
            let part = upload.behind(TURN_BYTES);
            if !part.is_empty()
                && let Some(turn) = store.turn_now(part.end - part.start)
            {
                return write_back(store, &upload, &hold, turn, part);
            }
            Ok(())
        })
        .await?;
        self.write_back(TURN_BYTES).await
    }

    /// Sends what was appended to the disk in turn with others, in units of `unit` bytes.
    async fn write_back(&self, unit: u64) -> Result<(), StoreError> {
        let part = self.upload.behind(unit);
        if part.is_empty() {
            return Ok(());
        }
        let turn = self.store.turn(part.end - part.start).await;
        let (store, upload, hold) = (Arc::clone(&self.store), Arc::clone(&self.upload), self.hold.clone());
        change(store, move |store| write_back(store, &upload, &hold, turn, part)).await
    }

    /// Ends the upload: verifies the digest, syncs, makes the content a blob of the repository. Runs to its end even
    /// if the caller is dropped.
    ///
    /// # Errors
    /// [`StoreError::DigestMismatch`], or of the disk: the upload is gone then. It stays only if the disk failed before
    /// the digest was known to be right, without losing bytes.
    pub async fn finish(self, expected: Digest) -> Result<(), StoreError> {
        let tasks = self.store.tasks.clone();
        let finished = tasks.spawn(async move {
            self.write_back(TAIL_BYTES).await?;
            let Self { store, upload, hold, .. } = self;
            change(store, move |store| finish(store, &upload, &hold, &expected)).await
        });
        finished.await.unwrap_or_else(|error| Err(StoreError::Bug(error.to_string())))
    }

    /// Ends the upload and removes what it stored. Runs to its end even if the caller is dropped.
    ///
    /// # Errors
    /// [`StoreError::Bug`] only.
    pub async fn cancel(self) -> Result<(), StoreError> {
        let Self { store, upload, hold, .. } = self;
        change(store, move |store| {
            store.uploads.end(store.ops(), &upload, &hold);
            Ok(())
        })
        .await
    }
}

/// What so many uploads gather together at most, in bytes.
#[must_use]
pub const fn most_batch_bytes(sessions: u64) -> u64 {
    let least = sessions.saturating_mul(LEAST_BATCH_BYTES as u64);
    if least > GATHERED_BYTES as u64 { least } else { GATHERED_BYTES as u64 }
}

fn batch_bytes(sessions: usize) -> usize {
    (GATHERED_BYTES / sessions.max(1)).clamp(LEAST_BATCH_BYTES, MOST_BATCH_BYTES)
}

fn append(store: &Inner, upload: &Upload, content: &[Bytes]) -> Result<(), StoreError> {
    let length = content.iter().map(|piece| piece.len() as u64).sum();
    let mut writer = lock(upload);
    store.capacity.charge_upload(length)?;
    let path = store.layout.upload_data(upload.id);
    if let Err(error) = writer.append(&path, content) {
        store.capacity.refund_upload(length);
        return Err(error);
    }
    let end = writer.offset();
    upload.offset.store(end, Ordering::Release);
    if end - writer.noted >= NOTE_EVERY {
        State::of(&upload.repo, end, writer.growth.hasher()).write(&store.layout, &store.disk, upload.id)?;
        writer.noted = end;
    }
    Ok(())
}

fn write_back(store: &Inner, upload: &Upload, hold: &Hold, turn: Turn, part: Range<u64>) -> Result<(), StoreError> {
    let path = store.layout.upload_data(upload.id);
    let mut writer = lock(upload);
    let file = writer.file(&path)?;
    let to = part.end;
    let failed = match turn.write_back(file, part) {
        Ok(()) => {
            upload.on_disk.store(to, Ordering::Release);
            return Ok(());
        }
        Err(error) => StoreError::io("write", &path)(error),
    };
    // Should the folder stay, nobody takes up bytes that are in memory only.
    let _ = file.set_len(0);
    drop(writer);
    // The system tells such an error once: a sync might say yes to bytes that never reached the disk.
    store.uploads.end(store.ops(), upload, hold);
    Err(failed)
}

fn finish(store: &Inner, upload: &Upload, hold: &Hold, expected: &Digest) -> Result<(), StoreError> {
    let ops: ContentOps<'_> = store.ops();
    let path = store.layout.upload_data(upload.id);
    let mut writer = lock(upload);
    let actual = writer.digest(&path, expected)?;
    if actual != *expected {
        drop(writer);
        store.uploads.end(ops, upload, hold);
        return Err(StoreError::DigestMismatch { expected: Box::new(*expected), actual: Box::new(actual) });
    }
    let size = writer.offset();
    writer.cut(&path)?;
    fail_point!("store::upload::before_sync");
    let stored = store.disk.sync(writer.file(&path)?, &path).map_err(StoreError::from).and_then(|()| {
        let _adding = store.memory.adding(&upload.repo);
        ops.add(Temporary::adopt(path), size, &upload.repo, Membership::Blob, expected)?;
        Ok(())
    });
    drop(writer);
    // Also if it failed: the file may be a stored content by now, which nobody may write to, and a sync that failed
    // once says nothing true the second time.
    store.uploads.end(ops, upload, hold);
    stored
}

fn lock(upload: &Upload) -> MutexGuard<'_, Writer> {
    upload.writer.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_sessions_gather_no_more_than_few_until_batches_are_small() {
        assert_eq!([0, 1, 8].map(batch_bytes), [MOST_BATCH_BYTES; 3]);
        assert_eq!(batch_bytes(16) * 16, GATHERED_BYTES);
        assert_eq!([32, 1000].map(batch_bytes), [LEAST_BATCH_BYTES; 2]);
    }
}
