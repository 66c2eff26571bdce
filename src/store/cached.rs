//! The store for mode Proxy, beside what every mode asks: fills, leases, eviction, times of tags, kept lists.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::contents::blob::Blob;
use super::contents::changes::blocking;
use super::contents::fills::{self, PartialBlob};
use super::contents::open::open_content;
use super::contents::uses::Lease;
use super::error::StoreError;
use super::face::Store;
use super::repositories::eviction::{Evicted, Eviction, EvictionWalk};
use super::repositories::lists::{self, KeptList};
use super::repositories::tags::{self, VerifiedTag};
use super::stored::{ListKind, Page};
use crate::fs::stat;
use crate::oci::{Digest, RepoName, Tag, UpstreamId};

impl Store {
    /// A page of the repositories learnt from an upstream, as children of its own one (`""` for itself), in byte order.
    ///
    /// # Errors
    /// [`StoreError::IndexNotReady`].
    pub async fn cached_repositories(
        &self,
        upstream: UpstreamId,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let last = last.map(str::to_owned);
        self.ask(move |listings| listings.cached_repositories(upstream, last.as_deref(), limit)).await
    }

    /// Takes up the fill of a content, or begins it, and holds it. Reads and hashes what an earlier process left. While
    /// another holds it, the eviction that removes it for one, this waits, 5 s at most.
    ///
    /// # Errors
    /// [`StoreError::FillBusy`], or of the disk.
    pub async fn begin_fill(&self, digest: Digest) -> Result<PartialBlob, StoreError> {
        fills::begin(&self.0.fills, &self.0.contents, digest).await
    }

    /// Makes a verified content a blob of `repositories`, durably. The rest of it waits for its turn on the disk unless `hurry` is
    /// cancelled. Dropped meanwhile, the fill stays and can be taken up; later it runs to its end.
    ///
    /// # Errors
    /// Of the disk; the fill is gone then, unless the repositories could not be noted as changed.
    pub async fn commit_fill(
        &self,
        partial: PartialBlob,
        repositories: Vec<RepoName>,
        hurry: &CancellationToken,
    ) -> Result<(), StoreError> {
        self.0.blobs.commit(partial, repositories, hurry).await
    }

    /// Whether `bytes` more would be taken now.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub async fn admit(&self, bytes: u64) -> Result<(), StoreError> {
        let contents = Arc::clone(&self.0.contents);
        blocking(move || contents.capacity.admit(bytes)).await
    }

    /// Bytes that have to go before `bytes` more are taken; 0: none.
    ///
    /// # Errors
    /// [`StoreError::Bug`] only.
    pub async fn shortfall(&self, bytes: u64) -> Result<u64, StoreError> {
        let contents = Arc::clone(&self.0.contents);
        blocking(move || Ok(contents.capacity.shortfall(bytes))).await
    }

    /// Bytes that a share of the cache is measured by: the budget, or without one all that is stored.
    #[must_use]
    pub fn measure(&self) -> u64 {
        self.0.contents.capacity.measure()
    }

    /// The lengths that manifests stored in the repository give for a blob. Reads all of them: for the rare case.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn named_lengths(&self, repo: &RepoName, digest: Digest) -> Result<Vec<u64>, StoreError> {
        let (manifests, repo) = (Arc::clone(&self.0.manifests), repo.clone());
        blocking(move || manifests.named_lengths(&repo, &digest)).await
    }

    /// Opens a content that is stored in some repository. The caller has made sure that the client's repository may have it:
    /// for when that can't be written down.
    ///
    /// # Errors
    /// [`StoreError::BlobUnknown`] if no repository has it, or of the disk.
    pub async fn content(&self, digest: Digest) -> Result<Blob, StoreError> {
        let contents = Arc::clone(&self.0.contents);
        blocking(move || {
            let path = contents.layout.content(&digest);
            let file = open_content(&path)?.ok_or(StoreError::BlobUnknown)?;
            let facts = file.metadata().map_err(StoreError::io("stat", &path))?;
            if !facts.is_file() || contents.damage.is_listed(&digest, facts.ino()) {
                return Err(StoreError::BlobUnknown);
            }
            Ok(Blob::whole(file, facts.len()))
        })
        .await
    }

    /// Whether the content is stored, in whichever repository, and not known to be damaged.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn has_content(&self, digest: Digest) -> Result<bool, StoreError> {
        let contents = Arc::clone(&self.0.contents);
        blocking(move || {
            let found = stat(&contents.layout.content(&digest))?;
            Ok(found.is_some_and(|found| !contents.damage.is_listed(&digest, found.ino())))
        })
        .await
    }

    /// Whether a manifest stored in the repository names the content. Reads all of them: for the rare case.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn is_named(&self, repo: &RepoName, digest: Digest) -> Result<bool, StoreError> {
        let (manifests, repo) = (Arc::clone(&self.0.manifests), repo.clone());
        blocking(move || manifests.is_named(&repo, &digest)).await
    }

    /// Notes that the content is used now, and keeps it from eviction until the lease is dropped. Waits for nothing.
    #[must_use]
    pub fn lease(&self, digest: Digest) -> Lease {
        Lease::take(&self.0.uses, digest)
    }

    /// Notes that the content is used now. Waits for nothing.
    pub fn note_use(&self, digest: Digest) {
        self.0.uses.note(digest);
    }

    /// Removes what was learnt from upstreams and not used for long; see [`Eviction`]. Walks the tree. Runs to its end
    /// even if the caller is dropped.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn evict(&self, wanted: Eviction) -> Result<Evicted, StoreError> {
        let store = Arc::clone(&self.0);
        let evict = move || {
            let walk = EvictionWalk { manifests: &store.manifests, fills: &store.fills, uses: &store.uses };
            walk.evict(&wanted, crate::clock::now())
        };
        self.0.contents.change(evict).await
    }

    /// The digest that a tag points at, and when that was last known to be true.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn verified_tag(&self, repo: &RepoName, tag: &Tag) -> Result<Option<VerifiedTag>, StoreError> {
        let (contents, repo, tag) = (Arc::clone(&self.0.contents), repo.clone(), tag.clone());
        blocking(move || tags::verified_tag(&contents, &repo, &tag)).await
    }

    /// Notes that a tag was found to be true now.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn verify_tag(&self, repo: &RepoName, tag: &Tag) -> Result<(), StoreError> {
        let (contents, repo, tag) = (Arc::clone(&self.0.contents), repo.clone(), tag.clone());
        let verify = move || tags::verify_tag(&contents.layout, &repo, &tag, crate::clock::now());
        self.0.contents.change(verify).await
    }

    /// Keeps a list as the upstream gave it.
    ///
    /// # Errors
    /// [`StoreError::Full`], or of the disk.
    pub async fn keep_list(&self, repo: &RepoName, kind: ListKind, bytes: Bytes) -> Result<(), StoreError> {
        let (contents, repo) = (Arc::clone(&self.0.contents), repo.clone());
        self.0.contents.change(move || lists::keep(&contents, &repo, kind, &bytes)).await
    }

    /// A list that was kept.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn kept_list(&self, repo: &RepoName, kind: ListKind) -> Result<Option<KeptList>, StoreError> {
        let (contents, repo) = (Arc::clone(&self.0.contents), repo.clone());
        blocking(move || lists::kept(&contents, &repo, kind)).await
    }

    /// Forgets a kept list.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn drop_list(&self, repo: &RepoName, kind: ListKind) -> Result<(), StoreError> {
        let (contents, repo) = (Arc::clone(&self.0.contents), repo.clone());
        self.0.contents.change(move || lists::forget(&contents, &repo, kind)).await
    }
}
