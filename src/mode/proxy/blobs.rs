//! Blobs through the cache.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{NegativeKey, Proxy, missed, unwritten};
use crate::fetch::{Beyond, FillError, Opened, Source};
use crate::mode::mapping::Home;
use crate::mode::relay::{blob_error, relay};
use crate::mode::{BUDGET, BlobContent, BlobRequest, ModeError, Served, ServedBlob};
use crate::oci::{Digest, Reference, RepoName};
use crate::store::{Blob, StoreError, StoredContent};
use crate::telemetry::CacheOutcome;

/// Least time for an answer without the store, after the store was tried: both together stay within 25 s.
const BYPASS: Duration = Duration::from_secs(4);

impl Proxy {
    pub(in crate::mode) async fn blob(
        &self,
        repo: &RepoName,
        digest: Digest,
        request: BlobRequest,
    ) -> Result<Served<ServedBlob>, ModeError> {
        let home = self.0.mapping.home(repo)?;
        if let Some(hit) = self.stored_blob(&home, digest).await? {
            return Ok(hit);
        }
        let asked = NegativeKey::Blob(home.cached.clone(), digest);
        self.refuse_unknown(&asked)?;
        let source = self.source(&home);
        let fetched = self.fetch_blob(&home, &source, digest, request).await;
        self.settle(asked, fetched)
    }

    pub(in crate::mode) fn blob_in_memory(&self, repo: &RepoName, digest: &Digest) -> Option<Served<Bytes>> {
        let home = self.0.mapping.home(repo).ok()?;
        let bytes = self.store().blob_in_memory(&home.cached, digest)?;
        self.store().note_use(*digest);
        Some(Served::new(bytes, CacheOutcome::Hit))
    }

    pub(in crate::mode) fn note_unreadable(&self, repo: &RepoName, digest: &Digest, blob: &Blob, error: &io::Error) {
        if let Ok(home) = self.0.mapping.home(repo) {
            self.store().note_unreadable(&home.cached, digest, blob, error);
        }
    }

    pub(in crate::mode) async fn stored_length(&self, repo: &RepoName, digest: Digest) -> Option<u64> {
        let home = self.0.mapping.home(repo).ok()?;
        self.store().blob(&home.cached, digest).await.ok().map(|blob| blob.length())
    }

    async fn stored_blob(&self, home: &Home<'_>, digest: Digest) -> Result<Option<Served<ServedBlob>>, ModeError> {
        match self.store().blob_content(&home.cached, digest).await {
            Ok(StoredContent::Memory(bytes)) => {
                self.store().note_use(digest);
                Ok(Some(Served::new(bytes.into(), CacheOutcome::Hit)))
            }
            Ok(StoredContent::File(blob)) => {
                // Evicted just before the lease, it can still be read to its end: the open file keeps the bytes.
                let leased = blob.leased(self.store().lease(digest));
                Ok(Some(Served::new(leased.into(), CacheOutcome::Hit)))
            }
            Err(StoreError::BlobUnknown) => Ok(None),
            Err(error) => missed(&error).map_err(ModeError::from),
        }
    }

    /// A content of another repository's that somebody vouched for.
    async fn unlinked_blob(&self, digest: Digest) -> Option<Served<ServedBlob>> {
        // The lease first: the content has no membership here, so eviction could remove it before it is opened.
        let lease = self.store().lease(digest);
        let blob = self.store().content(digest).await.ok()?;
        Some(Served::new(blob.leased(lease).into(), CacheOutcome::Hit))
    }

    async fn fetch_blob(
        &self,
        home: &Home<'_>,
        source: &Source,
        digest: Digest,
        request: BlobRequest,
    ) -> Result<Served<ServedBlob>, ModeError> {
        let deadline = Instant::now() + BUDGET;
        let mut vouched = false;
        if self.store().has_content(digest).await.or_else(|error| missed(&error).map(|_: Option<()>| false))? {
            // Another repository has it; this one may have it if somebody says that it belongs here.
            self.vouch(home, source, digest, deadline).await?;
            vouched = true;
            let hit = match self.store().mount_blob(None, &home.cached, digest).await {
                Ok(true) => self.stored_blob(home, digest).await?,
                Ok(false) => None,
                Err(error) => {
                    unwritten(&error, "a blob's membership could not be written; it is served all the same");
                    self.unlinked_blob(digest).await
                }
            };
            if let Some(hit) = hit {
                return Ok(hit);
            }
        }
        if request.head {
            if let Some(size) = self.0.fills.length(&home.cached, &digest) {
                let facts = ServedBlob { size: Some(size), content: BlobContent::None };
                return Ok(Served::new(facts, CacheOutcome::Joined));
            }
            return Ok(Served::new(relay(source, &digest, request, deadline).await?, CacheOutcome::Relayed));
        }
        loop {
            match self.0.fills.open(source, &home.cached, digest, vouched, deadline).await {
                Ok(Opened::Stored(blob)) => return Ok(Served::new(blob.into(), CacheOutcome::Joined)),
                Ok(Opened::Filling { reader, length, began }) => {
                    let outcome = if began { CacheOutcome::Filled } else { CacheOutcome::Joined };
                    let served = ServedBlob { size: length, content: BlobContent::Filling(reader) };
                    return Ok(Served::new(served, outcome));
                }
                Err(FillError::Unvouched(_)) => {
                    self.vouch(home, source, digest, deadline).await?;
                    vouched = true;
                }
                Err(error @ FillError::Store(StoreError::DigestMismatch { .. })) => return Err(error.into()),
                // The store takes nothing: pulls go on without it.
                Err(FillError::Busy | FillError::Store(_)) => {
                    let deadline = deadline.max(Instant::now() + BYPASS);
                    let served = relay(source, &digest, request, deadline).await?;
                    return Ok(Served::new(served, CacheOutcome::Bypassed));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Fetches a content again that was stored under a cached name and counts as absent; ends when it is stored or has failed.
    /// `false`: no name of a client's leads there.
    pub(in crate::mode) async fn fetch_again(
        &self,
        cached: &RepoName,
        digest: Digest,
        is_manifest: bool,
    ) -> Result<bool, ModeError> {
        let Some(name) = self.0.mapping.name_of(cached) else { return Ok(false) };
        if is_manifest {
            self.manifest(&name, &Reference::Digest(digest)).await?;
            return Ok(true);
        }
        let served = self.blob(&name, digest, BlobRequest { head: false, range: None }).await?;
        if let BlobContent::Filling(mut reader) = served.value.content {
            let mut offset = 0;
            // Followed, so that one content comes behind the other.
            while let Beyond::Upto(end) = reader.beyond(offset, None).await? {
                offset = end;
            }
        }
        Ok(true)
    }

    /// Makes sure that the digest is the repository's: a manifest stored there names it, or the upstream has it there.
    async fn vouch(
        &self,
        home: &Home<'_>,
        source: &Source,
        digest: Digest,
        deadline: Instant,
    ) -> Result<(), ModeError> {
        if !self.store().is_named(&home.cached, digest).await? {
            source.upstream.blob_size(&home.child, &digest, deadline).await.map_err(blob_error)?;
        }
        Ok(())
    }
}
