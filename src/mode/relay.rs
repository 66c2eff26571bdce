//! A blob straight from the upstream: all of mode Direct's blobs, and Proxy's where the store takes none.

use tokio::time::Instant;

use super::{BlobContent, ModeError, ServedBlob, Want};
use crate::fetch::{Feed, Source};
use crate::oci::{Digest, RangeSpec};
use crate::store::StoreError;
use crate::telemetry::UpstreamCause;
use crate::upstream::{BlobRange, UpstreamError};

/// Range Not Satisfiable.
const UNSATISFIABLE: u16 = 416;

/// Asks for the part that is wanted and waits for its first bytes: an answer that has begun can't become an error.
pub(super) async fn relay(
    source: &Source,
    digest: &Digest,
    want: Want,
    deadline: Instant,
) -> Result<ServedBlob, ModeError> {
    let Source { upstream, child } = source;
    let facts = async || {
        let size = upstream.blob_size(child, digest, deadline).await.map_err(blob_error)?;
        Ok(ServedBlob { size, content: BlobContent::None })
    };
    if want.head {
        return facts().await;
    }
    let mut range = match want.range {
        None | Some(RangeSpec::From(0)) => None,
        Some(RangeSpec::From(from)) => Some(BlobRange { from, to: None }),
        Some(RangeSpec::Closed { first, last }) if first <= last => Some(BlobRange { from: first, to: Some(last) }),
        Some(RangeSpec::Closed { .. }) => {
            let known = facts().await?;
            if known.size.is_some() {
                return Ok(known);
            }
            None
        }
        Some(RangeSpec::Suffix(length)) => {
            let known = facts().await?;
            match known.size {
                // Nothing of it, or nothing in it: the answer needs no bytes.
                Some(size) if size == 0 || length == 0 => return Ok(known),
                Some(size) => Some(BlobRange { from: size.saturating_sub(length), to: None }),
                None => None,
            }
        }
    };
    loop {
        let blob = match upstream.blob(child, digest, range, deadline).await {
            Ok(blob) => blob,
            Err(error) if error.status() == Some(UNSATISFIABLE) && range.is_some() => {
                let known = facts().await?;
                match known.size.map(|size| want.range.map(|range| range.resolve(size))) {
                    // Some of it is in there all the same: the part is cut out of the whole.
                    Some(Some(Ok(Some(_)))) => {
                        range = None;
                        continue;
                    }
                    Some(_) => return Ok(known),
                    None => return Err(blob_error(error)),
                }
            }
            Err(error) => return Err(blob_error(error)),
        };
        if blob.status_partial && blob.length.is_none() {
            // A part of nobody knows how much can't be named in an answer: it is given whole.
            range = None;
            continue;
        }
        let mut feed = Feed::new(blob.body);
        let first = tokio::time::timeout_at(deadline, feed.peek()).await;
        first.map_err(|_| ModeError::UpstreamTimeout)?.map_err(blob_error)?;
        let content = BlobContent::Relay { feed: Box::new(feed), offset: blob.offset };
        return Ok(ServedBlob { size: blob.length, content });
    }
}

/// What the upstream says of a blob, in our words.
pub(super) fn blob_error(error: UpstreamError) -> ModeError {
    if error.cause() == UpstreamCause::NotFound { StoreError::BlobUnknown.into() } else { error.into() }
}

/// What the upstream says of a manifest or tag, in our words.
pub(super) fn manifest_error(error: UpstreamError) -> ModeError {
    if error.cause() == UpstreamCause::NotFound { StoreError::ManifestUnknown.into() } else { error.into() }
}

/// What the upstream says of a repository, in our words.
pub(super) fn repository_error(error: UpstreamError) -> ModeError {
    if error.cause() == UpstreamCause::NotFound { ModeError::RepositoryUnknown } else { error.into() }
}

/// The same of something that is cached: only a registry's own 404 takes it away.
pub(super) fn cached_error(error: UpstreamError, own: impl FnOnce(UpstreamError) -> ModeError) -> ModeError {
    if error.cause() == UpstreamCause::NotFound && !error.is_registrys_own() {
        return error.disbelieved().into();
    }
    own(error)
}
