//! The disk: a directory tree that is the truth, and an index that can be rebuilt from it.

mod error;
mod index;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use error::{Refusal, StoreError};
pub use index::{IndexState, Referrer};

use crate::oci::{Algorithm, Digest, Manifest, Reference, RepoName, Tag, UploadId};

/// How much of the file system stays free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// So many bytes.
    Bytes(u64),
    /// So many percent of the file system's size.
    Percent(u8),
}

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The data folder.
    pub dir: PathBuf,
    /// Most bytes the store may use, index and uploads counted in; `None`: no budget.
    pub max_bytes: Option<u64>,
    /// What every write leaves free on the file system.
    pub reserve: Reserve,
    /// Refuse a folder without marker instead of laying it out.
    pub must_exist: bool,
    /// An upload that got no byte for so long is reaped.
    pub upload_idle: Duration,
}

/// What may be changed while the store is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// As [`StoreOptions::max_bytes`].
    pub max_bytes: Option<u64>,
    /// As [`StoreOptions::reserve`].
    pub reserve: Reserve,
    /// As [`StoreOptions::upload_idle`].
    pub upload_idle: Duration,
}

/// The store's room, for `/status` and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use: blobs, uploads and index. `None` until the first count after an unclean stop is through.
    pub used: Option<u64>,
    /// The budget, if one is set.
    pub budget: Option<u64>,
    /// Free bytes of the file system.
    pub free: u64,
    /// Bytes of it that stay free.
    pub reserve: u64,
    /// Whether a write of one byte would be taken now.
    pub writable: bool,
}

/// An open, immutable piece of content that belongs to the repository it was asked under.
///
/// It can be read to its end even if it is deleted meanwhile: the descriptor keeps the bytes.
#[derive(Debug)]
pub struct StoredBlob {
    /// The file, open for reading.
    pub file: File,
    /// Its length in bytes.
    pub size: u64,
    /// Its digest.
    pub digest: Digest,
}

/// A manifest as stored.
#[derive(Clone, Debug)]
pub struct StoredManifest {
    /// Digest of the bytes.
    pub digest: Digest,
    /// The bytes as they were pushed.
    pub bytes: Bytes,
    /// What they say.
    pub manifest: Arc<Manifest>,
}

/// One page of a sorted list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The entries, in byte order.
    pub entries: Vec<String>,
    /// Whether more follow.
    pub more: bool,
}

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {}

/// An upload in progress, held by this request alone.
///
/// Safe to drop at any point: what was appended stays, and the upload can be taken up again.
#[derive(Debug)]
pub struct UploadSession {}

impl Store {
    /// Lays out `dir` (made if missing). Says `false` if it was a store already.
    ///
    /// # Errors
    /// [`StoreError`] if the folder holds something else or can't be written.
    pub fn init(dir: &Path) -> Result<bool, StoreError> {
        let _ = dir;
        todo!()
    }

    /// Opens the tree; blocking. The index is not opened: see [`Store::start_workers`].
    ///
    /// # Errors
    /// [`StoreError`] with a sentence for the administrator.
    pub fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let _ = options;
        todo!()
    }

    /// Starts what runs beside requests: opening or rebuilding the index, reaping of uploads, the sample of
    /// free space. All end when `stop` is cancelled.
    pub fn start_workers(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        let _ = (tasks, stop);
        todo!()
    }

    /// Flushes and marks the index clean. Called once, when no request runs any more; blocking.
    pub fn close(&self) {
        todo!()
    }

    /// Puts changed limits into force.
    pub fn set_limits(&self, limits: StoreLimits) {
        let _ = limits;
        todo!()
    }

    /// Room used and left.
    #[must_use]
    pub fn usage(&self) -> Usage {
        todo!()
    }

    /// What the index is doing.
    #[must_use]
    pub fn index_state(&self) -> IndexState {
        todo!()
    }

    /// Whether the data folder can be read now; for readiness.
    pub async fn check(&self) -> Result<(), StoreError> {
        todo!()
    }

    /// Opens a blob of a repository.
    ///
    /// # Errors
    /// [`StoreError::BlobUnknown`] if it is not the repository's.
    pub async fn blob(&self, repo: &RepoName, digest: Digest) -> Result<StoredBlob, StoreError> {
        let _ = (repo, digest);
        todo!()
    }

    /// Makes a blob of `from` (or, without it, of any repository) one of `to`; durable when it says `true`.
    /// `false`: the source has no such blob.
    ///
    /// # Errors
    /// [`StoreError`] of the disk.
    pub async fn mount_blob(&self, from: Option<&RepoName>, to: &RepoName, digest: Digest) -> Result<bool, StoreError> {
        let _ = (from, to, digest);
        todo!()
    }

    /// Takes a blob out of a repository; the bytes go when no repository has them.
    ///
    /// # Errors
    /// [`StoreError::BlobUnknown`].
    pub async fn delete_blob(&self, repo: &RepoName, digest: Digest) -> Result<(), StoreError> {
        let _ = (repo, digest);
        todo!()
    }

    /// Begins an upload. `algorithm`: what the client says it will name the content by; SHA-256 if it doesn't.
    /// `expected`: bytes the client announced, checked against the room left.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub async fn begin_upload(
        &self,
        repo: &RepoName,
        algorithm: Option<Algorithm>,
        expected: Option<u64>,
    ) -> Result<UploadSession, StoreError> {
        let _ = (repo, algorithm, expected);
        todo!()
    }

    /// Takes up an upload; waits for no one.
    ///
    /// # Errors
    /// [`StoreError::UploadUnknown`], or [`StoreError::UploadBusy`] while another request writes it.
    pub async fn resume_upload(&self, repo: &RepoName, id: UploadId) -> Result<UploadSession, StoreError> {
        let _ = (repo, id);
        todo!()
    }

    /// Bytes of the upload that are stored, also while another request writes it.
    ///
    /// # Errors
    /// [`StoreError::UploadUnknown`].
    pub async fn upload_offset(&self, repo: &RepoName, id: UploadId) -> Result<u64, StoreError> {
        let _ = (repo, id);
        todo!()
    }

    /// Ends an upload and removes what it stored.
    ///
    /// # Errors
    /// [`StoreError::UploadUnknown`], [`StoreError::UploadBusy`].
    pub async fn cancel_upload(&self, repo: &RepoName, id: UploadId) -> Result<(), StoreError> {
        let _ = (repo, id);
        todo!()
    }

    /// The manifest behind a reference, whether or not what it names is there.
    ///
    /// # Errors
    /// [`StoreError::ManifestUnknown`].
    pub async fn manifest(&self, repo: &RepoName, reference: &Reference) -> Result<StoredManifest, StoreError> {
        let _ = (repo, reference);
        todo!()
    }

    /// What the manifest references, down to the last child, and the repository lacks; empty when it is whole.
    /// At most 100 digests are listed. A positive answer is remembered until something in the repository is deleted.
    ///
    /// # Errors
    /// [`StoreError`] of the disk.
    pub async fn missing_references(
        &self,
        repo: &RepoName,
        stored: &StoredManifest,
    ) -> Result<Vec<Digest>, StoreError> {
        let _ = (repo, stored);
        todo!()
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
        let _ = (repo, stored, tags);
        todo!()
    }

    /// Removes a manifest and the tags that point at it, or, for a tag, the tag alone.
    ///
    /// # Errors
    /// [`StoreError::ManifestUnknown`].
    pub async fn delete_manifest(&self, repo: &RepoName, reference: &Reference) -> Result<(), StoreError> {
        let _ = (repo, reference);
        todo!()
    }

    /// Whether the repository holds anything.
    pub async fn repository_exists(&self, repo: &RepoName) -> Result<bool, StoreError> {
        let _ = repo;
        todo!()
    }

    /// A page of the repository's tags in byte order, after `last`, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::IndexNotReady`].
    pub async fn tags(&self, repo: &RepoName, last: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let _ = (repo, last, limit);
        todo!()
    }

    /// A page of the repositories that hold a manifest, in byte order.
    ///
    /// # Errors
    /// [`StoreError::IndexNotReady`].
    pub async fn repositories(&self, last: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let _ = (last, limit);
        todo!()
    }

    /// The manifests of the repository whose subject is `subject`, in order of digest.
    ///
    /// # Errors
    /// [`StoreError::IndexNotReady`].
    pub async fn referrers(&self, repo: &RepoName, subject: Digest) -> Result<Vec<Referrer>, StoreError> {
        let _ = (repo, subject);
        todo!()
    }
}

impl UploadSession {
    /// The upload's name.
    #[must_use]
    pub fn id(&self) -> UploadId {
        todo!()
    }

    /// Bytes stored so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        todo!()
    }

    /// Appends content. When it answers, the bytes are written and hashed (not yet synced).
    /// Cancelled: the bytes handed over may or may not be appended; `offset` is true again afterwards.
    ///
    /// # Errors
    /// [`StoreError::Full`] (what was appended before stays), or of the disk.
    pub async fn append(&mut self, content: Vec<Bytes>) -> Result<(), StoreError> {
        let _ = content;
        todo!()
    }

    /// Ends the upload: verifies the digest, syncs, makes the content a blob of the repository. Runs to its end even
    /// if the caller is dropped.
    ///
    /// # Errors
    /// [`StoreError::DigestMismatch`] (the upload is gone then), or of the disk.
    pub async fn finish(self, expected: Digest) -> Result<(), StoreError> {
        let _ = expected;
        todo!()
    }
}
