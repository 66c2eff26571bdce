//! `/v2/<name>/blobs/<digest>`: GET, HEAD, DELETE.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;

use super::body::blob_body;
use super::call::Call;
use super::content::{Content, OCTETS, want};
use super::error::ApiError;
use crate::mode::Served;
use crate::oci::{Digest, RepoName};

pub(super) async fn read(call: &Call<'_>, repo: &RepoName, digest: Digest) -> Result<Response, ApiError> {
    let want = want(call.method, call.headers, &digest);
    let Served { value: blob, how } = call.mode.blob(repo, digest, want).await?;
    let content = Content { digest, size: blob.size, media_type: OCTETS };
    let mut response =
        content.respond(call.method, call.headers, |range| blob_body(blob.content, range, call.file_way))?;
    response.extensions_mut().insert(how);
    Ok(response)
}

pub(super) async fn delete(call: &Call<'_>, repo: &RepoName, digest: Digest) -> Result<Response, ApiError> {
    call.mode.writable()?.store().delete_blob(repo, digest).await?;
    Ok(accepted())
}

/// 202 without a body, the answer to every delete.
pub(super) fn accepted() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}
