//! A manifest of another master, brought here with all that it references: contents before what names them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::{Duration, Instant};

use super::Local;
use super::read_through::{Purpose, ReadThrough, followed};
use crate::mode::ModeError;
use crate::mode::relay::manifest_error;
use crate::oci::{Digest, Manifest, Reference, RepoName};
use crate::store::{Record, StoreError, StoredManifest};
use crate::telemetry::UpstreamCause;
use crate::upstream::{Upstream, UpstreamError};

/// Longest wait for a manifest.
const MANIFEST_PATIENCE: Duration = Duration::from_secs(20);

/// Longest manifest in bytes that is taken from another master: above every accepted `manifests.maxBytes` that makes sense.
const MANIFEST_BYTES: usize = 64 << 20;

/// Deepest index within an index that is followed.
const DEEPEST: usize = 8;

/// Bytes that came, for who waits for them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Moved(Arc<AtomicU64>);

impl Moved {
    /// How many.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts more.
    pub fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A manifest to be brought.
#[derive(Clone, Copy, Debug)]
pub struct Closure<'a> {
    /// Its repository.
    pub repo: &'a RepoName,
    /// Its digest.
    pub digest: Digest,
    /// What the other master said of it, or of a tag that leads to it.
    pub said: Option<&'a Record>,
    /// The master that said it.
    pub from: &'a Upstream,
}

impl Local {
    /// Fetches what this store lacks of a manifest and all that it references, and last the manifest. What the master that it is
    /// of lacks itself is left out. `false`: that master has the manifest no more. Bytes that come are counted in `moved`. Safe
    /// to drop: what has come stays.
    ///
    /// # Errors
    /// Why something did not come.
    pub async fn bring_image(&self, closure: Closure<'_>, moved: &Moved) -> Result<bool, ModeError> {
        let Some(through) = self.beyond() else { return Ok(false) };
        let bringing = Bringing { local: self, through, closure, moved };
        bringing.manifest(closure.digest, closure.said, DEEPEST, &mut HashSet::new()).await
    }
}

struct Bringing<'a> {
    local: &'a Local,
    through: &'a ReadThrough,
    closure: Closure<'a>,
    moved: &'a Moved,
}

impl Bringing<'_> {
    fn manifest<'b>(
        &'b self,
        digest: Digest,
        said: Option<&'b Record>,
        depth: usize,
        seen: &'b mut HashSet<Digest>,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<bool, ModeError>> + Send + 'b>> {
        Box::pin(async move {
            let Closure { repo, .. } = self.closure;
            if !seen.insert(digest) {
                return Ok(true);
            }
            let reference = Reference::Digest(digest);
            let (stored, is_new) = match self.local.store.manifest(repo, &reference).await {
                Ok(stored) => (stored, false),
                Err(StoreError::ManifestUnknown | StoreError::Io { .. }) => match self.fetched(digest).await? {
                    Some(stored) => (stored, true),
                    None => return Ok(false),
                },
                Err(error) => return Err(error.into()),
            };
            for blob in stored.manifest.required_blobs() {
                if seen.insert(blob.digest) {
                    self.blob(blob.digest).await?;
                }
            }
            for child in stored.manifest.manifests.iter().filter(|_| depth > 0) {
                self.manifest(child.digest, None, depth - 1, seen).await?;
            }
            if is_new {
                match self.local.store.put_fetched_manifest(repo, stored, said.cloned()).await {
                    // Deleted here, and later than what the other one said.
                    Err(StoreError::ManifestUnknown) => return Ok(false),
                    outcome => outcome?,
                }
            }
            Ok(true)
        })
    }

    async fn fetched(&self, digest: Digest) -> Result<Option<StoredManifest>, ModeError> {
        let path = format!("/v2/{}/records/manifest/{digest}", self.closure.repo);
        let told = self.closure.from.told(&path, MANIFEST_BYTES, Instant::now() + MANIFEST_PATIENCE).await;
        let bytes = match told {
            Ok(told) => told.bytes,
            Err(error) if is_no(&error) => return Ok(None),
            Err(error) => return Err(manifest_error(error)),
        };
        if digest.algorithm().digest(&bytes) != digest {
            return Err(ModeError::UpstreamContradiction("the manifest it gave is another one"));
        }
        self.moved.add(bytes.len() as u64);
        let manifest = Manifest::kept(&bytes)
            .map_err(|_| ModeError::UpstreamContradiction("the manifest it gave can't be read"))?;
        Ok(Some(StoredManifest { digest, bytes, manifest: Arc::new(manifest) }))
    }

    async fn blob(&self, digest: Digest) -> Result<(), ModeError> {
        let Closure { repo, from, .. } = self.closure;
        let lack = match self.local.store.blob(repo, digest).await {
            Ok(_) => return Ok(()),
            Err(lack) => lack,
        };
        let served = match self.through.blob(repo, digest, Purpose::Stored, lack).await {
            Ok(served) => served,
            Err(error @ ModeError::Store(StoreError::BlobUnknown)) => {
                let size = from.blob_size(repo.as_str(), &digest, Instant::now() + MANIFEST_PATIENCE).await;
                // It is not whole there either.
                return if size.is_err_and(|error| is_no(&error)) { Ok(()) } else { Err(error) };
            }
            Err(error) => return Err(error),
        };
        followed(served.value, |bytes| self.moved.add(bytes)).await?;
        self.local.store.blob(repo, digest).await.map(drop).map_err(ModeError::from)
    }
}

/// A registry's own word that it is not there.
fn is_no(error: &UpstreamError) -> bool {
    error.cause() == UpstreamCause::NotFound && error.is_registrys_own()
}
