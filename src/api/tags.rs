//! Sorted lists, page by page: `/v2/<name>/tags/list` and `/v2/_catalog`.

use axum::response::Response;
use http::header::LINK;
use serde_json::json;

use super::call::Call;
use super::error::ApiError;
use super::headers::text;
use super::manifests::json_response;
use crate::mode::Served;
use crate::oci::{ErrorCode, RepoName};
use crate::store::Page;

/// Most entries in one page, whatever `n` says; the rest is behind `Link`, which clients follow.
const MAX_PAGE: usize = 10_000;

pub(super) async fn list(call: &Call<'_>, repo: &RepoName) -> Result<Response, ApiError> {
    let limit = page_size(call)?;
    let last = call.query("last");
    let Served { value: page, provenance } = call.view.tags(repo, last.as_deref(), limit).await?;
    let body = json!({ "name": repo.as_str(), "tags": page.entries });
    let mut response = answer(&body, &format!("/v2/{repo}/tags/list"), &page, limit);
    response.extensions_mut().insert(provenance);
    Ok(response)
}

pub(super) async fn catalog(call: &Call<'_>) -> Result<Response, ApiError> {
    let limit = page_size(call)?;
    let last = call.query("last");
    let page = call.view.repositories(last.as_deref(), limit).await?;
    let body = json!({ "repositories": page.entries });
    Ok(answer(&body, "/v2/_catalog", &page, limit))
}

fn answer(body: &serde_json::Value, path: &str, page: &Page, limit: usize) -> Response {
    let mut response = json_response("application/json", body);
    // With n=0 there is no last entry to go on from.
    if let Some(last) = page.entries.last().filter(|_| page.more) {
        let last: String = form_urlencoded::byte_serialize(last.as_bytes()).collect();
        response.headers_mut().insert(LINK, text(&format!("<{path}?n={limit}&last={last}>; rel=\"next\"")));
    }
    response
}

/// The page's size: `n` where it is given, never more than [`MAX_PAGE`].
fn page_size(call: &Call<'_>) -> Result<usize, ApiError> {
    let Some(n) = call.query("n") else {
        return Ok(MAX_PAGE);
    };
    if n.is_empty() || !n.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ApiError::new(ErrorCode::PaginationNumberInvalid, "n is not a number"));
    }
    // More digits than fit a number are a huge n, which is bounded like any other.
    Ok(n.parse().unwrap_or(usize::MAX).min(MAX_PAGE))
}
