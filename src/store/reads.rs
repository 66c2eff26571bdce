//! Reads: blobs, manifests, lists.

use std::sync::Arc;

use bytes::Bytes;

use super::contents::blob::Blob;
use super::contents::changes::blocking;
use super::error::StoreError;
use super::face::Store;
use super::repositories::blobs::StoredContent;
use super::repositories::index::{IndexError, IndexedReferrer, Referrer};
use super::repositories::listings::Listings;
use super::repositories::manifests::Found;
use super::repositories::memory::CACHED_MANIFEST;
use super::repositories::walk::holds_anything;
use super::stored::{Page, StoredManifest};
use crate::oci::{Digest, Reference, RepoName};

/// Seconds after which a client that hears that the index is being rebuilt asks again.
const INDEX_RETRY: u64 = 5;

impl Store {
    /// A blob of a repository: small ones from memory, others opened.
    ///
    /// # Errors
    /// [`StoreError::BlobUnknown`] if it is not the repository's, or is damaged; of the disk.
    pub async fn blob_content(&self, repo: &RepoName, digest: Digest) -> Result<StoredContent, StoreError> {
        self.0.blobs.content(repo, digest).await
    }

    /// A small blob of a repository if it is in memory. Waits for nothing.
    #[must_use]
    pub fn blob_in_memory(&self, repo: &RepoName, digest: &Digest) -> Option<Bytes> {
        if self.0.manifests.ledger.may_list(repo, digest) {
            return None;
        }
        self.0.manifests.memory.blob(repo, digest)
    }

    /// Opens a blob of a repository. One whose length is not that of its descriptor is hashed first, for up to 15 s.
    ///
    /// # Errors
    /// [`StoreError::BlobUnknown`] if it is not the repository's, or is damaged; of the disk.
    pub async fn blob(&self, repo: &RepoName, digest: Digest) -> Result<Blob, StoreError> {
        self.0.blobs.open(repo, digest).await
    }

    /// Notes that a stored blob could not be read while it was sent. Waits for nothing; its bytes are read again 10 s later. It
    /// is let go then if no name of the store leads to its file any more.
    pub fn note_unreadable(&self, repo: &RepoName, digest: &Digest, blob: &Blob, error: &std::io::Error) {
        self.0.blobs.note_unreadable(repo, digest, blob, error);
    }

    /// The manifest behind a reference if it is in memory, and whether it is known to be whole as
    /// [`Store::missing_references`] means it. Waits for nothing.
    #[must_use]
    pub fn manifest_in_memory(&self, repo: &RepoName, reference: &Reference) -> Option<(StoredManifest, bool)> {
        self.0.manifests.manifest_now(repo, reference)
    }

    /// The manifest behind a reference, whether or not what it names is there.
    ///
    /// # Errors
    /// [`StoreError::ManifestUnknown`], or of the disk.
    pub async fn manifest(&self, repo: &RepoName, reference: &Reference) -> Result<StoredManifest, StoreError> {
        if let Some((stored, _)) = self.0.manifests.manifest_now(repo, reference) {
            return Ok(stored);
        }
        let (manifests, asked, reference) = (Arc::clone(&self.0.manifests), repo.clone(), reference.clone());
        match blocking(move || manifests.manifest(&asked, &reference)).await? {
            Found::Here(stored) => Ok(stored),
            Found::Large(digest, size) => self.0.large.manifest(&self.0.manifests, repo, digest, size).await,
        }
    }

    /// Opens the file of a manifest, whose bytes [`Store::manifest`] has held against its digest. For large ones: whoever
    /// reads slowly holds no memory then.
    ///
    /// # Errors
    /// [`StoreError::ManifestUnknown`], or of the disk.
    pub async fn manifest_file(&self, repo: &RepoName, digest: Digest) -> Result<Blob, StoreError> {
        let (manifests, repo) = (Arc::clone(&self.0.manifests), repo.clone());
        blocking(move || {
            let (file, path) = manifests.open_manifest(&repo, digest)?.ok_or(StoreError::ManifestUnknown)?;
            let length = file.metadata().map_err(StoreError::io("stat", &path))?.len();
            Ok(Blob::whole(file, length))
        })
        .await
    }

    /// Whether a manifest of `bytes` bytes is too large to be kept in memory; such a one is better sent from its file.
    #[must_use]
    pub const fn is_large_manifest(bytes: usize) -> bool {
        bytes > CACHED_MANIFEST
    }

    /// The digests that the manifest references, down to the last child, and the repository lacks; empty when it is whole.
    /// At most 100 digests are listed. Those who ask at once share one walk, and a verdict is remembered: that it is whole
    /// until something in the repository is deleted, that it is not until something is added. Safe to drop: the walk goes
    /// on for who asks next.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn missing_references(
        &self,
        repo: &RepoName,
        stored: &StoredManifest,
    ) -> Result<Vec<Digest>, StoreError> {
        Ok(self.0.references.missing(repo, stored).await?.to_vec())
    }

    /// Whether the repository holds a manifest, a tag or a blob.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn repository_exists(&self, repo: &RepoName) -> Result<bool, StoreError> {
        let (contents, repo) = (Arc::clone(&self.0.contents), repo.clone());
        blocking(move || Ok(holds_anything(&contents.layout, &repo))).await
    }

    /// A page of the repository's tags in byte order, after `last`, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::IndexNotReady`].
    pub async fn tags(&self, repo: &RepoName, last: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let (repo, last) = (repo.clone(), last.map(str::to_owned));
        self.ask(move |listings| listings.tags(&repo, last.as_deref(), limit)).await
    }

    /// A page of the repositories that hold a manifest, in byte order, without those learnt from an upstream.
    ///
    /// # Errors
    /// [`StoreError::IndexNotReady`].
    pub async fn repositories(&self, last: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let last = last.map(str::to_owned);
        self.ask(move |listings| listings.repositories(last.as_deref(), limit)).await
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
        let found = self.ask(move |listings| listings.referrers(&asked, subject, last, limit)).await?;
        let (manifests, repo) = (Arc::clone(&self.0.manifests), repo.clone());
        blocking(move || {
            let mut referrers = Vec::with_capacity(found.len());
            for entry in found {
                match entry {
                    IndexedReferrer::Whole(referrer) if manifests.is_damaged(&repo, &referrer.digest)? => {}
                    IndexedReferrer::Whole(referrer) => referrers.push(referrer),
                    IndexedReferrer::DigestOnly(digest) => {
                        referrers.extend(manifests.find_manifest(&repo, digest)?.as_ref().map(Referrer::of));
                    }
                }
            }
            Ok(referrers)
        })
        .await
    }

    /// Asks the index on a blocking thread.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Listings) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let manifests = Arc::clone(&self.0.manifests);
        // The index logs its own failures and is rebuilt; to the client there just is none now.
        blocking(move || {
            question(&manifests.listings).map_err(|_| StoreError::IndexNotReady { retry_after: INDEX_RETRY })
        })
        .await
    }
}
