//! Mode Local from a bundle: what its files hold is served from where it lies. Read only; the store is not looked at.
//!
//! Nobody vouches for the files. A content is hashed when it is first asked for, once for all who ask, and sent when its bytes are known to
//! be its digest's. What is not counts as absent, as damaged contents of a store do.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use dashmap::DashMap;
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::task::TaskTracker;

use super::{BlobContent, BlobRequest, FileParts, ModeError, Provenance, Served, ServedBlob, ServedManifest};
use crate::bundle::{self, Catalog, Found, Places};
use crate::oci::{Digest, Hasher, Manifest, Reference, RepoName};
use crate::store::{Page, Referrer, StoreError, StoredManifest};
use crate::telemetry;

/// Contents that are hashed at once: more make no disk faster.
const HASHED_AT_ONCE: usize = 2;
/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// A bundle as a registry. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bundled(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    catalog: Catalog,
    /// By digest the place whose bytes are its; `None`: no place has them.
    judged: DashMap<Digest, Arc<OnceCell<Option<Found>>>>,
    hashing: Semaphore,
    tasks: TaskTracker,
}

impl Bundled {
    /// Serves `catalog`. What is hashed for clients that have left goes on among `tasks`.
    #[must_use]
    pub fn new(catalog: Catalog, tasks: TaskTracker) -> Self {
        Self(Arc::new(Inner { catalog, judged: DashMap::new(), hashing: Semaphore::new(HASHED_AT_ONCE), tasks }))
    }

    /// What is served.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.0.catalog
    }

    pub(super) async fn blob(
        &self,
        repo: &RepoName,
        digest: Digest,
        request: BlobRequest,
    ) -> Result<Served<ServedBlob>, ModeError> {
        let places = match self.0.catalog.blob(repo, &digest).ok_or(StoreError::BlobUnknown)? {
            bundle::Bytes::Made(bytes) => return Ok(served(Bytes::copy_from_slice(bytes).into())),
            bundle::Bytes::Carried(places) => places,
        };
        let found = self.judge(digest, places).await?.ok_or(StoreError::BlobUnknown)?;
        if request.head {
            return Ok(served(ServedBlob { size: Some(found.length), content: BlobContent::None }));
        }
        if found.length == 0 {
            return Ok(served(Bytes::new().into()));
        }
        let name = found.stream.name().to_owned();
        let parts = FileParts(found);
        let (parts, first) = reading(name, move || parts.part_at(0).map(|first| (parts, first))).await?;
        let size = parts.length();
        // The first file is opened here, so that one that is gone is an answer and no broken body; more are opened when their turn comes.
        if first.length() == size {
            return Ok(served(first.into()));
        }
        Ok(served(ServedBlob { size: Some(size), content: BlobContent::Files(parts) }))
    }

    /// The place that has the bytes of a digest; `None`: none of `places` has, which are looked up if nobody knows yet. Safe to drop:
    /// others wait for the same.
    async fn judge(&self, digest: Digest, places: Places<'_>) -> Result<Option<Found>, ModeError> {
        let known = self.0.judged.get(&digest).and_then(|cell| cell.get().cloned());
        if let Some(known) = known {
            return Ok(known);
        }
        let (places, cell) = (places.all(), Arc::clone(&self.0.judged.entry(digest).or_default()));
        let inner = Arc::clone(&self.0);
        let judging =
            self.0.tasks.spawn(async move { cell.get_or_try_init(|| inner.hash(digest, places)).await.cloned() });
        judging.await.map_err(|_| ModeError::Stopping)?
    }

    pub(super) async fn manifest(
        &self,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<Served<ServedManifest>, ModeError> {
        let catalog = &self.0.catalog;
        let digest = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(tag) => catalog.tag(repo, tag.as_str()),
        };
        let digest = digest.ok_or(StoreError::ManifestUnknown)?;
        Ok(served(self.stored(repo, digest).await?.into()))
    }

    async fn stored(&self, repo: &RepoName, digest: Digest) -> Result<StoredManifest, ModeError> {
        let bytes = match self.0.catalog.manifest(repo, &digest).ok_or(StoreError::ManifestUnknown)? {
            bundle::Bytes::Made(bytes) => bytes.to_vec(),
            bundle::Bytes::Carried(places) => {
                let places = places.all();
                let read = reading(name(&places), move || bundle::read_manifest(&places, &digest)).await?;
                read.ok_or_else(|| damaged(digest)).map_err(|()| StoreError::ManifestUnknown)?
            }
        };
        let manifest = Manifest::parse(None, &bytes).map_err(|_| StoreError::ManifestUnknown)?;
        Ok(StoredManifest { digest, bytes: bytes.into(), manifest: Arc::new(manifest) })
    }

    pub(super) fn stored_length(&self, repo: &RepoName, digest: &Digest) -> Option<u64> {
        match self.0.catalog.blob(repo, digest)? {
            bundle::Bytes::Made(bytes) => Some(bytes.len() as u64),
            bundle::Bytes::Carried(places) => places.all().first().map(|place| place.length),
        }
    }

    pub(super) fn tags(&self, repo: &RepoName, last: Option<&str>, limit: usize) -> Result<Served<Page>, ModeError> {
        let (entries, more) = self.0.catalog.tags(repo, last, limit).ok_or(ModeError::RepositoryUnknown)?;
        Ok(served(Page { entries, more }))
    }

    pub(super) fn repositories(&self, last: Option<&str>, limit: usize) -> Page {
        let (entries, more) = self.0.catalog.repositories(last, limit);
        Page { entries, more }
    }

    pub(super) async fn referrers(
        &self,
        repo: &RepoName,
        subject: Digest,
        last: Option<Digest>,
        limit: usize,
    ) -> Result<Served<Vec<Referrer>>, ModeError> {
        let mut referrers = Vec::new();
        for digest in self.0.catalog.referrers(repo, &subject, last, limit) {
            referrers.push(Referrer::of(&self.stored(repo, digest).await?));
        }
        Ok(served(referrers))
    }
}

impl Inner {
    async fn hash(&self, digest: Digest, places: Vec<Found>) -> Result<Option<Found>, ModeError> {
        // It is never closed.
        let _place = self.hashing.acquire().await;
        let sound = reading(name(&places), move || {
            let mut failed = None;
            for place in places {
                match hash(&place, digest) {
                    Ok(found) if found == digest => return Ok(Some(place)),
                    Ok(_) => {}
                    Err(error) => failed = Some(error),
                }
            }
            failed.map_or(Ok(None), Err)
        });
        let sound = sound.await?;
        if sound.is_none() {
            damaged(digest);
        }
        Ok(sound)
    }
}

fn hash(place: &Found, digest: Digest) -> std::io::Result<Digest> {
    let (mut hasher, mut buffer) = (Hasher::new(digest.algorithm()), vec![0; READ_BYTES]);
    let mut reader = place.reader();
    loop {
        match std::io::Read::read(&mut reader, &mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
        telemetry::disk_moved();
    }
}

fn damaged(digest: Digest) {
    tracing::error!(%digest, "the bundle has other bytes than the digest's: it is answered as absent");
}

fn served<T>(value: T) -> Served<T> {
    Served::new(value, Provenance::default())
}

/// Reads something of the archive `name`, on a blocking thread.
async fn reading<T: Send + 'static>(
    name: String,
    read: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, ModeError> {
    let operation = telemetry::disk_operation();
    let done = tokio::task::spawn_blocking(move || {
        let _operation = operation;
        read().map_err(StoreError::io("read", Path::new(&name)))
    });
    Ok(done.await.map_err(|_| ModeError::Stopping)??)
}

/// The archive that is read first.
fn name(places: &[Found]) -> String {
    places.first().map(|place| place.stream.name().to_owned()).unwrap_or_default()
}
