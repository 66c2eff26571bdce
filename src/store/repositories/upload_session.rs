//! Uploads of blobs into repositories.

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::task::TaskTracker;

use super::manifests::Manifests;
use super::memory::Memory;
use crate::oci::{Algorithm, Digest, RepoName, UploadId};
use crate::store::contents::changes::blocking;
use crate::store::contents::files::Contents;
use crate::store::contents::pace::{TAIL_BYTES, TURN_BYTES};
use crate::store::contents::uploads::table::Uploads;
use crate::store::contents::uploads::upload::{Hold, Upload, UploadPlace};
use crate::store::error::StoreError;
use crate::store::layout::Membership;

/// Bytes that are handed over at once: each time costs a change of threads, and each byte waits in memory until then.
const MOST_BATCH_BYTES: usize = TURN_BYTES as usize;
const LEAST_BATCH_BYTES: usize = 256 << 10;

/// Bytes that all uploads gather together, until batches can't be smaller.
const GATHERED_BYTES: usize = 8 << 20;

/// The parts that an upload into a repository needs.
#[derive(Clone, Debug)]
pub(in crate::store) struct BlobUploads {
    pub(in crate::store) contents: Arc<Contents>,
    pub(in crate::store) memory: Arc<Memory>,
    /// Asked for what has to stay because a blob is pushed.
    pub(in crate::store) manifests: Arc<Manifests>,
    pub(in crate::store) uploads: Arc<Uploads>,
    /// Ends of uploads go on although their callers are gone.
    pub(in crate::store) tasks: TaskTracker,
}

impl BlobUploads {
    /// Begins an upload.
    pub(in crate::store) async fn begin(
        self,
        place: Option<UploadPlace>,
        repo: RepoName,
        algorithm: Option<Algorithm>,
        expected: Option<u64>,
    ) -> Result<UploadSession, StoreError> {
        let contents = Arc::clone(&self.contents);
        let begun = contents.change(move || {
            self.contents.capacity.admit(expected.unwrap_or(0))?;
            let algorithm = algorithm.unwrap_or(Algorithm::Sha256);
            let held = self.uploads.begin(&self.contents, &repo, algorithm, place)?;
            Ok(UploadSession::new(self, held))
        });
        begun.await
    }

    /// Takes up an upload; waits for no one.
    pub(in crate::store) async fn resume(self, repo: RepoName, id: UploadId) -> Result<UploadSession, StoreError> {
        blocking(move || {
            let resumed = self.uploads.resume(&self.contents.layout, &repo, id);
            let held = resumed.map_err(|error| self.contents.capacity.explain(error))?;
            Ok(UploadSession::new(self, held))
        })
        .await
    }

    /// Makes the content of a held upload a blob of its repository. Blocking.
    fn finish(&self, upload: &Upload, hold: &Hold, expected: &Digest) -> Result<(), StoreError> {
        self.uploads.finish(&self.contents, (upload, hold), expected, |temporary, size| {
            let _touch = self.manifests.ledger.touch(upload.repo())?;
            self.manifests.save(upload.repo(), expected);
            let _adding = self.memory.adding(upload.repo());
            let name = self.contents.layout.member(upload.repo(), Membership::Blob, expected);
            self.contents.add(temporary, size, expected, &name).map(drop)
        })
    }
}

/// An upload in progress, held by this request alone.
///
/// Safe to drop at any point: what was appended stays, and the upload can be taken up again.
#[derive(Debug)]
pub struct UploadSession {
    parts: BlobUploads,
    upload: Arc<Upload>,
    hold: Hold,
    /// As many of these are there as sessions.
    present: Arc<()>,
}

impl UploadSession {
    fn new(parts: BlobUploads, (upload, hold): (Arc<Upload>, Hold)) -> Self {
        let present = Arc::clone(&parts.uploads.sessions);
        Self { parts, upload, hold, present }
    }

    /// The upload's name.
    #[must_use]
    pub fn id(&self) -> UploadId {
        self.upload.id()
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
        let contents = Arc::clone(&self.parts.contents);
        blocking(move || contents.capacity.admit(bytes)).await
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
        let (parts, upload, hold) = (self.parts.clone(), Arc::clone(&self.upload), self.hold.clone());
        let appended = self.parts.contents.change(move || {
            upload.append(&parts.contents, &content)?;
            // On this thread, if it is this upload's turn.
            let part = upload.behind(TURN_BYTES);
            if !part.is_empty()
                && let Some(turn) = parts.contents.turn_now(part.end - part.start)
            {
                return parts.uploads.write_back(&parts.contents, (&upload, &hold), turn, part);
            }
            Ok(())
        });
        appended.await?;
        self.write_back(TURN_BYTES).await
    }

    /// Sends what was appended to the disk in turn with others, in units of `unit` bytes.
    async fn write_back(&self, unit: u64) -> Result<(), StoreError> {
        let part = self.upload.behind(unit);
        if part.is_empty() {
            return Ok(());
        }
        let turn = self.parts.contents.turn(part.end - part.start).await;
        let (parts, upload, hold) = (self.parts.clone(), Arc::clone(&self.upload), self.hold.clone());
        let written = move || parts.uploads.write_back(&parts.contents, (&upload, &hold), turn, part);
        self.parts.contents.change(written).await
    }

    /// Ends the upload: verifies the digest, syncs, makes the content a blob of the repository. Runs to its end even
    /// if the caller is dropped.
    ///
    /// # Errors
    /// [`StoreError::DigestMismatch`], or of the disk: the upload is gone then. It stays only if the disk failed before
    /// the digest was known to be right, without losing bytes.
    pub async fn finish(self, expected: Digest) -> Result<(), StoreError> {
        let tasks = self.parts.tasks.clone();
        let finished = tasks.spawn(async move {
            self.write_back(TAIL_BYTES).await?;
            let Self { parts, upload, hold, .. } = self;
            let contents = Arc::clone(&parts.contents);
            contents.change(move || parts.finish(&upload, &hold, &expected)).await
        });
        finished.await.unwrap_or_else(|error| Err(StoreError::Bug(error.to_string())))
    }

    /// Ends the upload and removes what it stored. Runs to its end even if the caller is dropped.
    ///
    /// # Errors
    /// [`StoreError::Bug`] only.
    pub async fn cancel(self) -> Result<(), StoreError> {
        let Self { parts, upload, hold, .. } = self;
        let contents = Arc::clone(&parts.contents);
        let ended = contents.change(move || {
            parts.uploads.end(&parts.contents, &upload, &hold);
            Ok(())
        });
        ended.await
    }
}

/// Bytes that `sessions` uploads gather together at most.
#[must_use]
pub const fn most_batch_bytes(sessions: u64) -> u64 {
    let least = sessions.saturating_mul(LEAST_BATCH_BYTES as u64);
    if least > GATHERED_BYTES as u64 { least } else { GATHERED_BYTES as u64 }
}

fn batch_bytes(sessions: usize) -> usize {
    (GATHERED_BYTES / sessions.max(1)).clamp(LEAST_BATCH_BYTES, MOST_BATCH_BYTES)
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
