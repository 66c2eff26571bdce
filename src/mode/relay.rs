//! A blob straight from the upstream: all of mode Direct's blobs, and Proxy's where the store takes none.

use tokio::time::Instant;

use super::{Absence, BlobContent, BlobRequest, ModeError, ServedBlob};
use crate::fetch::{Feed, Part, PartAnswer, Proof, Source};
use crate::oci::{Digest, RangeSpec};
use crate::store::StoreError;
use crate::telemetry::UpstreamCause;
use crate::upstream::{BlobRange, UpstreamBlob, UpstreamError};

/// Longest blob in bytes that is passed on only when all of it is there and verified: its end is held back anyway.
const SMALL_BYTES: usize = 64 * 1024;

/// Asks for the part that is wanted and waits for its first bytes: an answer that has begun can't become an error. A whole
/// blob is held against its digest; of a part the length and the place are.
pub(super) async fn relay(
    source: &Source,
    digest: &Digest,
    request: BlobRequest,
    deadline: Instant,
) -> Result<ServedBlob, ModeError> {
    let Source { upstream, child } = source;
    let facts = async || {
        let size = upstream.blob_size(child, digest, deadline).await.map_err(blob_error)?;
        Ok(ServedBlob { size, content: BlobContent::None })
    };
    if request.head {
        return facts().await;
    }
    let whole = BlobRange { from: 0, to: None };
    let range = match request.range {
        None => whole,
        Some(RangeSpec::From(from)) => BlobRange { from, to: None },
        Some(RangeSpec::Closed { first, last }) if first <= last => BlobRange { from: first, to: Some(last) },
        Some(RangeSpec::Closed { .. }) => {
            let known = facts().await?;
            if known.size.is_some() {
                return Ok(known);
            }
            whole
        }
        Some(RangeSpec::Suffix(length)) => {
            let known = facts().await?;
            match known.size {
                // Nothing of it, or nothing in it: the answer needs no bytes.
                Some(size) if size == 0 || length == 0 => return Ok(known),
                Some(size) => BlobRange { from: size.saturating_sub(length), to: None },
                None => whole,
            }
        }
    };
    let blob = match source.part(digest, Part::of(range), deadline).await.map_err(blob_error)? {
        PartAnswer::Blob(blob) => blob,
        PartAnswer::Behind(size) => return Ok(ServedBlob { size: Some(size), content: BlobContent::None }),
    };
    let UpstreamBlob { status_partial, offset, end, length, body } = blob;
    let is_whole = offset == 0 && (!status_partial || end.is_some() && end == length);
    if offset == 0 && range == whole && !is_whole {
        return Err(ModeError::UpstreamContradiction("it sends a part where the whole was asked for"));
    }
    let mut feed = Feed::new(body);
    let mut proof = is_whole.then(|| Proof::new(*digest, source.clone()));
    if is_whole && length.is_none_or(|length| length <= SMALL_BYTES as u64) {
        match tokio::time::timeout_at(deadline, feed.whole(SMALL_BYTES)).await {
            Ok(Ok(Some(bytes))) => {
                if let Some(mut proof) = proof.take() {
                    proof.update(&bytes);
                    let right = proof.check();
                    right.map_err(|_| ModeError::UpstreamContradiction("the content it gave is not the digest's"))?;
                }
                return Ok(bytes.into());
            }
            Ok(Err(error)) => return Err(blob_error(error)),
            Err(_) if !feed.has_begun() => return Err(ModeError::UpstreamTimeout),
            // More than that, or so slow that the client would wait for the head too long.
            Ok(Ok(None)) | Err(_) => {}
        }
    }
    let first = tokio::time::timeout_at(deadline.max(Instant::now()), feed.peek()).await;
    first.map_err(|_| ModeError::UpstreamTimeout)?.map_err(blob_error)?;
    Ok(ServedBlob { size: length, content: BlobContent::Relay { feed: Box::new(feed), offset, proof } })
}

/// The upstream's error about a blob, in our words.
pub(super) fn blob_error(error: UpstreamError) -> ModeError {
    absent_or(error, Absence::Blob, || StoreError::BlobUnknown.into())
}

/// The upstream's error about a manifest or tag, in our words.
pub(super) fn manifest_error(error: UpstreamError) -> ModeError {
    absent_or(error, Absence::Manifest, || StoreError::ManifestUnknown.into())
}

/// The upstream's error about a repository, in our words.
pub(super) fn repository_error(error: UpstreamError) -> ModeError {
    absent_or(error, Absence::Repository, || ModeError::RepositoryUnknown)
}

/// A 404 is `unknown` if the registry itself said it. Of what is not cached nobody knows better than whoever answers, but
/// that is not remembered as the registry's word.
fn absent_or(error: UpstreamError, what: Absence, unknown: impl FnOnce() -> ModeError) -> ModeError {
    match error.cause() {
        UpstreamCause::NotFound if error.is_registrys_own() => unknown(),
        UpstreamCause::NotFound => ModeError::Absent { what, age: None },
        _ => error.into(),
    }
}

/// The same of something that is cached: only a registry's own 404 takes it away.
pub(super) fn cached_error(error: UpstreamError, own: impl FnOnce(UpstreamError) -> ModeError) -> ModeError {
    if error.cause() == UpstreamCause::NotFound && !error.is_registrys_own() {
        return error.disbelieved().into();
    }
    own(error)
}
