//! `/v2/<name>/blobs/<digest>`: GET, HEAD, DELETE.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures_util::future::join_all;
use http::StatusCode;
use tokio::time::Instant;

use super::body::{Reading, blob_body, parts_body};
use super::call::Call;
use super::conditions::Conditions;
use super::content::{Content, Piece};
use super::error::ApiError;
use super::exchange::AnsweredBy;
use super::headers::OCTETS;
use super::limits::Gate;
use crate::mode::{Answer, BlobContent, Local, Served, ServedBlob};
use crate::oci::{Digest, RepoName};
use crate::replicas::Replicas;
use crate::serve::BodyTransport;
use crate::store::StoreError;
use crate::telemetry::with_causes;

/// Stored blobs up to this many bytes are not kept back by slow downloads: an image's configuration is smaller.
pub(super) const LITTLE_BYTES: u64 = 128 * 1024;

/// Longest wait of a delete for the blob to come from another master first; that master's own answer is waited for twice as long.
const DELETE_PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn read(call: &Call<'_>, repo: &RepoName, digest: Digest) -> Result<Response, ApiError> {
    let conditions = Conditions::of(call.method, call.headers, &digest);
    let request = conditions.blob_request();
    let Answer { by, served: Served { value: blob, provenance } } = match call.view.blob_in_memory(repo, &digest) {
        Some(Answer { by, served }) => Answer { by, served: served.map(ServedBlob::from) },
        None => {
            enter(call, repo, digest, request.head).await?;
            call.view.blob(repo, digest, request).await?
        }
    };
    let mode = AnsweredBy::of(&by);
    let reading = Reading::new(by, call.metrics.clone(), repo.clone(), digest);
    let mut response = respond(blob, &conditions, call.body_transport, &reading)?;
    response.extensions_mut().insert(provenance);
    response.extensions_mut().insert(mode);
    response.extensions_mut().insert(reading);
    Ok(response)
}

/// The answer with what `conditions` ask of a blob. `transport`: how the connection takes files. `reading`: hears that the file
/// can't be read.
///
/// # Errors
/// 416 for a range behind the blob's end.
fn respond(
    blob: ServedBlob,
    conditions: &Conditions,
    transport: BodyTransport,
    reading: &Arc<Reading>,
) -> Result<Response, ApiError> {
    let ServedBlob { size, content: bytes } = blob;
    let stored = matches!(bytes, BlobContent::Memory(_) | BlobContent::File(_));
    let content = Content { size, media_type: OCTETS, stored };
    content.respond(conditions, |piece| match piece {
        Piece::One(range) => blob_body(bytes, size, range, transport, reading),
        Piece::Several(parts) => parts_body(bytes, parts, transport, reading),
    })
}

/// Takes a place. One for large blobs is good for any; where none is free, a small one that is stored needs none of them.
async fn enter(call: &Call<'_>, repo: &RepoName, digest: Digest, head: bool) -> Result<(), ApiError> {
    let entrance = &call.entrance;
    if head {
        return entrance.enter(Gate::Little).await;
    }
    if entrance.try_enter(Gate::Blob) {
        return Ok(());
    }
    let is_little = call.view.stored_length(repo, digest).await.is_some_and(|length| length <= LITTLE_BYTES);
    entrance.enter(if is_little { Gate::Little } else { Gate::Blob }).await
}

/// Deletes at every master that answers: what one of them keeps, all would go on to answer. Blobs have no records, so a master that
/// is away keeps its own.
pub(super) async fn delete(call: &Call<'_>, repo: &RepoName, digest: Digest) -> Result<Response, ApiError> {
    let own = delete_own(call.view.writable()?, repo, digest).await;
    let is_elsewhere = match (&own, &call.elsewhere) {
        (Ok(()) | Err(StoreError::BlobUnknown), Some(way)) => delete_elsewhere(way.replicas, repo, digest).await,
        _ => false,
    };
    if is_elsewhere { Ok(accepted()) } else { Ok(own.map(|()| accepted())?) }
}

/// Deletes in the own store alone.
pub(super) async fn delete_own(local: &Local, repo: &RepoName, digest: Digest) -> Result<(), StoreError> {
    local.delete_blob(repo, digest, Instant::now() + DELETE_PATIENCE).await
}

/// Deletes at all other masters at once; gives whether one of them had it. Best effort: who gives no answer keeps it.
async fn delete_elsewhere(replicas: &Replicas, repo: &RepoName, digest: Digest) -> bool {
    let (masters, deadline) = (replicas.peers(), Instant::now() + 2 * DELETE_PATIENCE);
    let asked = masters.iter().map(async |master| match master.delete_blob(repo, &digest, deadline).await {
        Ok(had_it) => had_it,
        Err(error) => {
            let error = with_causes(&error);
            tracing::warn!(%digest, repository = %repo, master = master.host(), error, "a blob is deleted, and a master that gives no answer may keep it");
            false
        }
    });
    join_all(asked).await.contains(&true)
}

/// 202 without a body, the answer to every delete.
pub(super) fn accepted() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

#[cfg(test)]
mod tests;
