//! A manifest of another master, brought here with all that it references: contents before what names them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::{Duration, Instant};

use super::Local;
use super::latest::latest_of;
use super::read_through::ReadThrough;
use super::room::{Held, LITTLE, ManifestRoom, NoRoom, Place};
use crate::mode::ModeError;
use crate::mode::relay::manifest_error;
use crate::oci::{Descriptor, Digest, Manifest, Reference, RepoName};
use crate::store::{Record, StoreError, StoredManifest};
use crate::telemetry::UpstreamCause;
use crate::upstream::{Upstream, UpstreamError};

/// Longest wait for a manifest.
const MANIFEST_PATIENCE: Duration = Duration::from_secs(20);

/// Longest manifest in bytes that is taken from another master: above every accepted `manifests.maxBytes` that makes sense.
const MANIFEST_BYTES: usize = 64 << 20;

/// Longest record in bytes.
const RECORD_BYTES: usize = 1024;

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

/// What is here of an image that was brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brought {
    /// All that its own master has.
    Whole,
    /// The same without something that was deleted here, later than it was pushed there.
    Partly,
    /// No manifest: its own master has it no more, or it was deleted here, and later.
    Nothing,
}

impl Local {
    /// Fetches what this store lacks of a manifest and all that it references, and last the manifest. What the master that it is
    /// of lacks itself is left out. Manifests are held in `room`. Bytes that come are counted in `moved`. Safe to drop: what has come
    /// stays.
    ///
    /// # Errors
    /// Why something did not come; [`ModeError::UpstreamTimeout`] also where others had all the room for 20 s.
    pub async fn bring_image(
        &self,
        closure: Closure<'_>,
        room: &ManifestRoom,
        moved: &Moved,
    ) -> Result<Brought, ModeError> {
        let Some(through) = self.beyond() else { return Ok(Brought::Nothing) };
        let mut wanted = None;
        loop {
            let Some(held) = room.enter(wanted).await else {
                tracing::info!(digest = %closure.digest, repository = %closure.repo, "too many images are being fetched at once from other masters");
                return Err(ModeError::UpstreamTimeout);
            };
            let bringing = Bringing { local: self, through, closure, moved, held: &held };
            let (expected, mut seen) = (held.free(), HashSet::new());
            match bringing.manifest(closure.digest, closure.said, DEEPEST, expected, &mut seen).await {
                Ok(brought) => return Ok(brought),
                Err(Halt::NoRoom(NoRoom { bytes })) => wanted = Some(bytes),
                Err(Halt::Failed(error)) => return Err(error),
            }
        }
    }
}

struct Bringing<'a> {
    local: &'a Local,
    through: &'a ReadThrough,
    closure: Closure<'a>,
    moved: &'a Moved,
    held: &'a Held<'a>,
}

/// Why an image does not come now.
enum Halt {
    Failed(ModeError),
    /// It has to begin again.
    NoRoom(NoRoom),
}

impl From<ModeError> for Halt {
    fn from(error: ModeError) -> Self {
        Self::Failed(error)
    }
}

impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<NoRoom> for Halt {
    fn from(error: NoRoom) -> Self {
        Self::NoRoom(error)
    }
}

impl Bringing<'_> {
    /// `expected`: the bytes that it has, as far as that is known.
    fn manifest<'b>(
        &'b self,
        digest: Digest,
        said: Option<&'b Record>,
        depth: usize,
        expected: u64,
        seen: &'b mut HashSet<Digest>,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Brought, Halt>> + Send + 'b>> {
        Box::pin(async move {
            let Closure { repo, .. } = self.closure;
            if !seen.insert(digest) {
                return Ok(Brought::Whole);
            }
            let reference = Reference::Digest(digest);
            // Its length first: it is read when there is room for it.
            let length = self.local.store.manifest_file(repo, digest).await.map_or(0, |file| file.length());
            let mut place = self.held.place(length)?;
            let (stored, is_new) = match self.local.store.manifest(repo, &reference).await {
                Ok(stored) => (stored, false),
                Err(StoreError::ManifestUnknown | StoreError::Io { .. }) => {
                    place.resize(expected)?;
                    match self.fetched(digest, &mut place).await? {
                        Some(stored) => (stored, true),
                        None => return Ok(Brought::Nothing),
                    }
                }
                Err(error) => return Err(error.into()),
            };
            place.resize(stored.bytes.len() as u64)?;
            self.held.fit();
            let brought = self.bring_references(&stored.manifest, depth, seen).await?;
            if is_new {
                match self.local.store.put_fetched_manifest(repo, stored, said.cloned()).await {
                    // Deleted here, and later than what the other one said.
                    Err(StoreError::ManifestUnknown) => return Ok(Brought::Nothing),
                    outcome => outcome?,
                }
            }
            Ok(brought)
        })
    }

    /// What a manifest references, whole or without what was deleted here.
    async fn bring_references(
        &self,
        manifest: &Manifest,
        depth: usize,
        seen: &mut HashSet<Digest>,
    ) -> Result<Brought, Halt> {
        for blob in manifest.required_blobs() {
            if seen.insert(blob.digest) {
                self.blob(blob.digest).await?;
            }
        }
        let mut brought = Brought::Whole;
        for child in manifest.manifests.iter().filter(|_| depth > 0) {
            if self.child(child, depth - 1, seen).await? == Brought::Partly {
                brought = Brought::Partly;
            }
        }
        Ok(brought)
    }

    /// A manifest that an index lists. One that was deleted here counts if its master has said it later.
    async fn child(&self, child: &Descriptor, depth: usize, seen: &mut HashSet<Digest>) -> Result<Brought, Halt> {
        let (Closure { repo, from, .. }, digest) = (self.closure, child.digest);
        // A large one has the length that its master says it has.
        let expected = child.size.min(LITTLE);
        if seen.contains(&digest) || !self.local.store.is_deleted(repo, digest).await? {
            return self.manifest(digest, None, depth, expected, seen).await;
        }
        let of = Reference::Digest(digest);
        let path = format!("/v2/{repo}/records/of/{of}");
        let line = match from.told(&path, RECORD_BYTES, Instant::now() + MANIFEST_PATIENCE).await {
            Ok(told) => String::from_utf8_lossy(&told.bytes).trim_end().to_owned(),
            Err(error) if is_no(&error) => String::new(),
            Err(error) => return Err(manifest_error(error).into()),
        };
        let said = latest_of([line.as_str()], &of, crate::clock::now()).filter(|said| said.target().is_some());
        self.local.store.hear(said.as_slice()).await;
        let brought = self.manifest(digest, said.as_ref(), depth, expected, seen).await?;
        if brought == Brought::Nothing {
            return Ok(Brought::Partly);
        }
        // It counts from now on, or the deletion would be done again.
        if let Some(said) = said {
            self.local.store.take_records(repo, vec![said]).await?;
        }
        Ok(brought)
    }

    /// A manifest of the other master, read when there is room for it; `place` is as large as it then.
    async fn fetched(&self, digest: Digest, place: &mut Place<'_>) -> Result<Option<StoredManifest>, Halt> {
        let path = format!("/v2/{}/records/manifest/{digest}", self.closure.repo);
        let bytes = loop {
            let room = usize::try_from(place.bytes()).unwrap_or(MANIFEST_BYTES);
            let deadline = Instant::now() + MANIFEST_PATIENCE;
            match self.closure.from.told_within(&path, (room, MANIFEST_BYTES), deadline).await {
                Ok(Ok(told)) => break told.bytes,
                Ok(Err(length)) => place.resize(length)?,
                Err(error) if is_no(&error) => return Ok(None),
                Err(error) => return Err(manifest_error(error).into()),
            }
        };
        if digest.algorithm().digest(&bytes) != digest {
            return Err(ModeError::UpstreamContradiction("the manifest it gave is another one").into());
        }
        self.moved.add(bytes.len() as u64);
        let manifest = Manifest::kept(&bytes)
            .map_err(|_| ModeError::UpstreamContradiction("the manifest it gave can't be read"))?;
        Ok(Some(StoredManifest { digest, bytes, manifest: Arc::new(manifest) }))
    }

    async fn blob(&self, digest: Digest) -> Result<(), ModeError> {
        let Closure { repo, from, .. } = self.closure;
        match self.through.store_blob(repo, digest, |bytes| self.moved.add(bytes)).await {
            Err(error @ ModeError::Store(StoreError::BlobUnknown)) => {
                let size = from.blob_size(repo.as_str(), &digest, Instant::now() + MANIFEST_PATIENCE).await;
                // It is not whole there either.
                if size.is_err_and(|error| is_no(&error)) { Ok(()) } else { Err(error) }
            }
            outcome => outcome,
        }
    }
}

/// A registry's own word that it is not there.
fn is_no(error: &UpstreamError) -> bool {
    error.cause() == UpstreamCause::NotFound && error.is_registrys_own()
}
