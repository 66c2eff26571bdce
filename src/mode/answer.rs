//! Answers of a mode, before HTTP makes answers of them.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use bytes::Bytes;

use crate::bundle::Found;
use crate::fetch::{Feed, FillReader, Proof};
use crate::oci::{Digest, RangeSpec};
use crate::store::{Blob, StoredManifest};
use crate::telemetry::CacheOutcome;

/// The origin of an answer. Mode Local has nothing to say of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// From cache, upstream or both.
    pub outcome: Option<CacheOutcome>,
    /// Age of the upstream's word, if it could not be asked now.
    pub age: Option<Duration>,
}

impl From<CacheOutcome> for Provenance {
    fn from(outcome: CacheOutcome) -> Self {
        Self { outcome: Some(outcome), age: None }
    }
}

/// An answer and its origin.
#[derive(Clone, Debug)]
pub struct Served<T> {
    /// The answer.
    pub value: T,
    /// Its origin.
    pub provenance: Provenance,
}

impl<T> Served<T> {
    /// An answer.
    pub fn new(value: T, provenance: impl Into<Provenance>) -> Self {
        Self { value, provenance: provenance.into() }
    }

    /// The same, with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Served<U> {
        Served { value: change(self.value), provenance: self.provenance }
    }
}

/// A manifest to be served.
#[derive(Clone, Debug)]
pub struct ServedManifest {
    /// Digest of the bytes.
    pub digest: Digest,
    /// The bytes.
    pub bytes: Bytes,
    /// Their media type.
    pub media_type: Cow<'static, str>,
}

impl From<StoredManifest> for ServedManifest {
    fn from(stored: StoredManifest) -> Self {
        Self { digest: stored.digest, bytes: stored.bytes, media_type: stored.manifest.media_type() }
    }
}

/// The facts that a HEAD of a manifest tells.
#[derive(Clone, Debug)]
pub struct ServedManifestFacts {
    /// Digest of the bytes.
    pub digest: Digest,
    /// Their length.
    pub size: u64,
    /// Their media type.
    pub media_type: Cow<'static, str>,
}

impl From<ServedManifest> for ServedManifestFacts {
    fn from(served: ServedManifest) -> Self {
        Self { digest: served.digest, size: served.bytes.len() as u64, media_type: served.media_type }
    }
}

/// A read of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRequest {
    /// Only the facts are wanted, no bytes.
    pub head: bool,
    /// Only this part is wanted; a mode may save the rest.
    pub range: Option<RangeSpec>,
}

/// A blob to be served.
#[derive(Debug)]
pub struct ServedBlob {
    /// Its length in bytes; `None`: the upstream did not say it.
    pub size: Option<u64>,
    /// Its bytes.
    pub content: BlobContent,
}

impl From<Bytes> for ServedBlob {
    fn from(bytes: Bytes) -> Self {
        Self { size: Some(bytes.len() as u64), content: BlobContent::Memory(bytes) }
    }
}

impl From<Blob> for ServedBlob {
    fn from(blob: Blob) -> Self {
        Self { size: Some(blob.length()), content: BlobContent::File(blob) }
    }
}

/// A blob whose bytes lie in several files, one behind the other. Each is opened when its turn comes: a bundle may have a thousand.
#[derive(Clone, Debug)]
pub struct FileParts(pub(super) Found);

impl FileParts {
    /// Bytes of the whole blob.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.0.length
    }

    /// What lies in one file from the blob's byte `at` on, opened now. Blocking.
    ///
    /// # Errors
    /// Of the disk, or `UnexpectedEof` behind the last byte.
    pub fn part_at(&self, at: u64) -> io::Result<Blob> {
        let piece = self.0.stream.first_piece(self.0.at.saturating_add(at), self.0.length.saturating_sub(at))?;
        Blob::part_of(piece.file, piece.at, piece.length).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// The bytes of a blob, wherever they are.
#[derive(Debug)]
pub enum BlobContent {
    /// None were wanted.
    None,
    /// In memory.
    Memory(Bytes),
    /// In a file, perhaps among other contents.
    File(Blob),
    /// In several files, a part in each.
    Files(FileParts),
    /// In a file that grows.
    Filling(FillReader),
    /// On their way from the upstream, beginning at `offset`.
    Relay {
        /// The bytes. The first of them are there.
        feed: Box<Feed>,
        /// Offset in the blob of the first of them.
        offset: u64,
        /// Compares them with the digest, if they go from the blob's first byte to its last.
        proof: Option<Proof>,
    },
}
