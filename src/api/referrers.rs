//! `/v2/<name>/referrers/<digest>`: what names a manifest as its subject.

use axum::response::Response;
use http::HeaderName;
use http::HeaderValue;
use http::header::LINK;
use serde_json::json;
use serde_json::value::RawValue;

use super::call::Call;
use super::error::ApiError;
use super::headers::text;
use super::manifests::json_response;
use crate::mode::Served;
use crate::oci::{Digest, ManifestKind, RepoName};
use crate::store::Referrer;

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Referrers looked at for one page.
const PAGE_ENTRIES: usize = 1000;

/// Bytes of descriptors in one page: the index stays below the 4 MiB that clients read.
const PAGE_BYTES: usize = 3 * 1024 * 1024;

/// An unknown subject has no referrers: 200 and an empty index (distribution-spec, "Listing Referrers").
pub(super) async fn list(call: &Call<'_>, repo: &RepoName, subject: Digest) -> Result<Response, ApiError> {
    // A media type has no blanks: one here was a plus that the client forgot to encode.
    let filter = call.query("artifactType").filter(|text| !text.is_empty()).map(|text| text.replace(' ', "+"));
    let last: Option<Digest> = call.query("last").and_then(|text| text.parse().ok());
    let Served { value: referrers, provenance } = call.view.referrers(repo, subject, last, PAGE_ENTRIES).await?;
    let taken = fitting(&referrers);
    let more = taken < referrers.len() || referrers.len() == PAGE_ENTRIES;
    let wanted = |referrer: &&Referrer| filter.is_none() || referrer.artifact_type == filter;
    let manifests: Vec<&RawValue> = referrers[..taken]
        .iter()
        .filter(wanted)
        .filter_map(|referrer| serde_json::from_slice(&referrer.descriptor).ok())
        .collect();
    let media_type = ManifestKind::OciIndex.as_str();
    let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
    let mut response = json_response(media_type, &index);
    response.extensions_mut().insert(provenance);
    if filter.is_some() {
        response.headers_mut().insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    if let Some(last) = referrers[..taken].last().filter(|_| more) {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(filter) = &filter {
            query.append_pair("artifactType", filter);
        }
        query.append_pair("last", &last.digest.to_string());
        let link = format!("</v2/{repo}/referrers/{subject}?{}>; rel=\"next\"", query.finish());
        response.headers_mut().insert(LINK, text(&link));
    }
    Ok(response)
}

/// How many of them go into a page; at least one, so that a reader always gets on.
fn fitting(referrers: &[Referrer]) -> usize {
    let mut bytes = 0;
    let fitting = referrers.iter().take_while(|referrer| {
        bytes += referrer.descriptor.len();
        bytes <= PAGE_BYTES
    });
    fitting.count().max(1).min(referrers.len())
}
