//! Pushes and deletes: blobs, uploads of them, manifests and tags.

use std::sync::Arc;

use super::contents::changes::blocking;
use super::contents::uploads::upload::UploadPlace;
use super::error::StoreError;
use super::face::Store;
use super::repositories::collection::ledger::Touch;
use super::repositories::manifests::Origin;
use super::repositories::records::Record;
use super::repositories::upload_session::UploadSession;
use super::stored::StoredManifest;
use crate::oci::{Algorithm, Digest, Reference, RepoName, Tag, UploadId};

impl Store {
    /// Makes a blob of `from` (or, without it, of any repository) one of `to`; durable when it says `true`.
    /// `false`: the source has no such blob. Runs to its end even if the caller is dropped.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn mount_blob(&self, from: Option<&RepoName>, to: &RepoName, digest: Digest) -> Result<bool, StoreError> {
        let (blobs, from, to) = (self.0.blobs.clone(), from.cloned(), to.clone());
        self.0.contents.change(move || blobs.mount(from.as_ref(), &to, &digest)).await
    }

    /// Takes a blob out of a repository; the bytes go when no repository has them. Runs to its end even if the caller
    /// is dropped.
    ///
    /// # Errors
    /// [`StoreError::BlobUnknown`], or of the disk.
    pub async fn delete_blob(&self, repo: &RepoName, digest: Digest) -> Result<(), StoreError> {
        let (blobs, repo) = (self.0.blobs.clone(), repo.clone());
        let deleted = self.0.contents.change(move || blobs.delete(&repo, &digest)).await?;
        if deleted { Ok(()) } else { Err(StoreError::BlobUnknown) }
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
        self.0.blob_uploads.clone().begin(place, repo.clone(), algorithm, expected).await
    }

    /// Takes up an upload; waits for no one.
    ///
    /// # Errors
    /// [`StoreError::UploadUnknown`], or [`StoreError::UploadBusy`] while another request writes it.
    pub async fn resume_upload(&self, repo: &RepoName, id: UploadId) -> Result<UploadSession, StoreError> {
        self.0.blob_uploads.clone().resume(repo.clone(), id).await
    }

    /// Bytes of the upload that are stored, also while another request writes it.
    ///
    /// # Errors
    /// [`StoreError::UploadUnknown`].
    pub async fn upload_offset(&self, repo: &RepoName, id: UploadId) -> Result<u64, StoreError> {
        let (store, repo) = (Arc::clone(&self.0), repo.clone());
        blocking(move || Ok(store.uploads.find(&store.contents.layout, &repo, id)?.offset())).await
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
        self.put(repo, stored, tags, Origin::Pushed).await
    }

    /// Stores a manifest that another master has, durable before it answers. `said`: what that one said of it. Runs to its end
    /// even if the caller is dropped.
    ///
    /// # Errors
    /// [`StoreError::ManifestUnknown`]: it was deleted here, and that is later. [`StoreError::Full`], or of the disk.
    pub async fn put_fetched_manifest(
        &self,
        repo: &RepoName,
        stored: StoredManifest,
        said: Option<Record>,
    ) -> Result<(), StoreError> {
        self.put(repo, stored, Vec::new(), Origin::Fetched(said)).await
    }

    async fn put(
        &self,
        repo: &RepoName,
        stored: StoredManifest,
        tags: Vec<Tag>,
        origin: Origin,
    ) -> Result<(), StoreError> {
        let (manifests, repo) = (Arc::clone(&self.0.manifests), repo.clone());
        let naming = self.naming(&repo);
        let put = move || {
            let _naming = naming;
            manifests.put_manifest(&repo, &stored, &tags, &origin)
        };
        self.0.contents.change(put).await
    }

    /// From now on, and as long as the answer lives, nothing of the repository is collected: for a look whether all is there
    /// that a manifest names, before it is put. Waits for nothing.
    pub fn naming(&self, repo: &RepoName) -> Touch {
        self.0.manifests.ledger.begin(repo)
    }

    /// Removes a manifest and the tags that point at it, or, for a tag, the tag alone. Runs to its end even if the
    /// caller is dropped.
    ///
    /// # Errors
    /// [`StoreError::ManifestUnknown`], or of the disk. With [`StoreError::Full`] it may be gone here and unknown to the other masters:
    /// it then comes back from one of them.
    pub async fn delete_manifest(&self, repo: &RepoName, reference: &Reference) -> Result<(), StoreError> {
        let (manifests, repo, reference) = (Arc::clone(&self.0.manifests), repo.clone(), reference.clone());
        self.0.contents.change(move || manifests.delete_manifest(&repo, &reference)).await
    }

    /// Says that what another master has `told` of is deleted, later than that: a tag, or a manifest with the tags that lead to it,
    /// which is not here. Durable when it answers. Runs to its end even if the caller is dropped.
    ///
    /// # Errors
    /// [`StoreError::ManifestUnknown`]: something later is known of it, or no records are kept. Of the disk.
    pub async fn delete_told(&self, repo: &RepoName, told: Record) -> Result<(), StoreError> {
        let (manifests, repo) = (Arc::clone(&self.0.manifests), repo.clone());
        self.0.contents.change(move || manifests.delete_told(&repo, &told)).await
    }
}
