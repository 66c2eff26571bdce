//! Whether the bytes of a blob are those that its digest names: fetched piece by piece, hashed, and let go.

use std::time::Duration;

use tokio::time::Instant;

use crate::oci::{Descriptor, Hasher};
use crate::upstream::{BlobRange, Upstream, UpstreamBlob, UpstreamError};

/// How long the head of an answer is waited for; a registry may have to fetch the blob itself first.
const PATIENCE: Duration = Duration::from_secs(60);

/// Requests that may end early one after the other without a byte between them.
const BREAKS: usize = 3;

/// Why a blob does not count as there.
#[derive(Debug)]
pub(super) enum Fault {
    /// The registry did not give it, or not to its end.
    Upstream(UpstreamError),
    /// It gave something else; a sentence.
    Content(String),
}

/// Fetches a blob and hashes it. Holds a piece of it at a time, and reads at most one piece more than the descriptor says.
/// An answer that breaks off is gone on with. Safe to drop: ends the request.
///
/// # Errors
/// [`Fault`].
pub(super) async fn hash(upstream: &Upstream, child: &str, blob: &Descriptor) -> Result<(), Fault> {
    let mut hasher = Hasher::new(blob.digest.algorithm());
    let (mut read, mut breaks) = (0, 0);
    loop {
        let before = read;
        match read_on(upstream, child, blob, &mut hasher, &mut read).await {
            Ok(()) => break,
            Err(Fault::Upstream(error)) => {
                breaks = if read > before { 1 } else { breaks + 1 };
                // A range behind what is there: the stored file is shorter than its descriptor.
                if error.status() == Some(416) && read > 0 {
                    break;
                }
                if breaks >= BREAKS || error.status().is_some_and(|status| status < 500) {
                    return Err(Fault::Upstream(error));
                }
            }
            Err(fault) => return Err(fault),
        }
    }
    if read != blob.size {
        let end = if read > blob.size { " or more" } else { "" };
        let said = format!("the blob {} has {read} bytes{end}, where its manifest says {}", blob.digest, blob.size);
        return Err(Fault::Content(said));
    }
    let found = hasher.finish();
    if found == blob.digest {
        return Ok(());
    }
    Err(Fault::Content(format!("the blob {} is damaged: its bytes have digest {found}", blob.digest)))
}

/// Hashes from byte `read` on, to the end of one answer, or until there is more than there should be.
async fn read_on(
    upstream: &Upstream,
    child: &str,
    blob: &Descriptor,
    hasher: &mut Hasher,
    read: &mut u64,
) -> Result<(), Fault> {
    let range = (*read > 0).then_some(BlobRange { from: *read, to: None });
    let answer = upstream.blob(child, &blob.digest, range, Instant::now() + PATIENCE).await.map_err(Fault::Upstream)?;
    let UpstreamBlob { offset, mut body, .. } = answer;
    // A range that was ignored: what was hashed already is passed over.
    let mut passed = read.saturating_sub(offset);
    while let Some(bytes) = body.chunk().await.map_err(Fault::Upstream)? {
        let known = usize::try_from(passed).unwrap_or(usize::MAX).min(bytes.len());
        passed -= known as u64;
        let fresh = &bytes[known..];
        hasher.update(fresh);
        *read += fresh.len() as u64;
        if *read > blob.size {
            return Ok(());
        }
    }
    Ok(())
}
