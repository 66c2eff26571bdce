//! `/v2/<name>/manifests/<reference>`: GET, HEAD, PUT, DELETE.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, WARNING};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::blobs::accepted;
use super::body::{CountedBody, Reading, blob_body, parts_body};
use super::call::Call;
use super::conditions::Conditions;
use super::content::{Content, Piece};
use super::copies;
use super::error::ApiError;
use super::exception::Exception;
use super::exchange::AnsweredBy;
use super::headers::{CONTENT_DIGEST, text};
use super::limits::Gate;
use crate::mode::{Answer, BlobContent, Mode, ModeError, Served, ServedManifest, ServedManifestFacts};
use crate::oci::{Algorithm, ByteRange, Digest, ErrorCode, Manifest, ManifestKind, Reference, RepoName, Tag};
use crate::store::{Store, StoredManifest};

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");

/// Most tags in one push by digest; the spec asks for at least ten.
const MAX_TAGS: usize = 100;

pub(super) async fn read(call: &Call<'_>, repo: &RepoName, reference: &Reference) -> Result<Response, ApiError> {
    let in_memory = call.view.manifest_in_memory(repo, reference);
    if in_memory.is_none() {
        call.entrance.enter(Gate::Little).await?;
        if *call.method == Method::HEAD {
            return read_facts(call, repo, reference).await;
        }
    }
    let Answer { by, served } = match in_memory {
        Some(answer) => answer,
        None => call.view.manifest(repo, reference).await?,
    };
    let Served { value: ServedManifest { digest, bytes, media_type }, provenance } = served;
    if *call.method == Method::GET {
        by.note_pull(digest);
    }
    let (size, stored) = (bytes.len() as u64, by.stores());
    let content = Content { size: Some(size), media_type: &media_type, stored };
    let conditions = Conditions::of(call.method, call.headers, &digest);
    let source = source(call, &by, repo, digest, bytes).await?;
    let mode = AnsweredBy::of(&by);
    let reading = Reading::new(by, call.metrics.clone(), repo.clone(), digest);
    let mut response = content.respond(&conditions, |piece| match piece {
        Piece::One(range) => {
            blob_body(source, Some(size), Some(range.unwrap_or(ByteRange::whole(size))), call.body_transport, &reading)
        }
        Piece::Several(parts) => parts_body(source, parts, call.body_transport, &reading),
    })?;
    response.extensions_mut().insert(provenance);
    response.extensions_mut().insert(mode);
    response.extensions_mut().insert(reading);
    Ok(response)
}

/// Answers a HEAD: Direct has no bytes to answer from.
async fn read_facts(call: &Call<'_>, repo: &RepoName, reference: &Reference) -> Result<Response, ApiError> {
    let Answer { by, served } = call.view.manifest_facts(repo, reference).await?;
    let Served { value: ServedManifestFacts { digest, size, media_type }, provenance } = served;
    let content = Content { size: Some(size), media_type: &media_type, stored: false };
    let conditions = Conditions::of(call.method, call.headers, &digest);
    let mut response = content.respond(&conditions, |_| Body::empty())?;
    response.extensions_mut().insert(provenance);
    response.extensions_mut().insert(AnsweredBy::of(&by));
    Ok(response)
}

/// The bytes to be sent: those in memory, or the file of a large manifest, so that a slow reader holds no memory.
async fn source(
    call: &Call<'_>,
    by: &Mode,
    repo: &RepoName,
    digest: Digest,
    bytes: Bytes,
) -> Result<BlobContent, ApiError> {
    if call.method == Method::HEAD {
        return Ok(BlobContent::None);
    }
    if Store::is_large_manifest(bytes.len())
        && let Some(blob) = by.manifest_file(repo, digest).await
    {
        return Ok(BlobContent::File(blob));
    }
    Ok(BlobContent::Memory(call.large.share(digest, bytes)?))
}

pub(super) async fn delete(call: &Call<'_>, repo: &RepoName, reference: &Reference) -> Result<Response, ApiError> {
    call.view.writable()?.delete_manifest(repo, reference).await?;
    copies::deleted(call, repo, reference).await;
    Ok(accepted())
}

pub(super) async fn put(
    call: &Call<'_>,
    body: &mut CountedBody,
    repo: &RepoName,
    reference: &Reference,
) -> Result<Response, ApiError> {
    let tags = tags_to_move(call, reference)?;
    // The room is held until it is stored.
    let (bytes, _room) = read_whole(call, body).await?;
    let algorithm = match reference {
        Reference::Digest(digest) => digest.algorithm(),
        Reference::Tag(_) => Algorithm::Sha256,
    };
    let digest = algorithm.digest(&bytes);
    if let Reference::Digest(expected) = reference
        && *expected != digest
    {
        return Err(ApiError::digest_mismatch(expected, &digest));
    }
    let manifest = parse(call, &bytes)?;
    let subject = manifest.subject.as_ref().map(|subject| subject.digest);
    let kind = manifest.kind;
    let stored = StoredManifest { digest, bytes, manifest: Arc::new(manifest) };
    let missing = call.view.writable()?.put_manifest(repo, stored, tags.clone()).await.map_err(refused)?;
    // The manifest is named too: where its record is lacking it is no copy, whatever is said of its tags.
    let said: Vec<Reference> =
        std::iter::once(Reference::Digest(digest)).chain(tags.iter().cloned().map(Reference::Tag)).collect();
    let short = copies::taken(call, repo, &said).await?;

    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::CREATED;
    let out = response.headers_mut();
    out.insert(LOCATION, text(&format!("/v2/{repo}/manifests/{digest}")));
    out.insert(CONTENT_DIGEST.name, text(&digest.to_string()));
    if let Some(subject) = subject {
        out.insert(OCI_SUBJECT, text(&subject.to_string()));
    }
    if matches!(reference, Reference::Digest(_)) {
        for tag in &tags {
            out.append(OCI_TAG, text(tag.as_str()));
        }
    }
    for warning in warning(kind, &missing).into_iter().chain(short) {
        out.append(WARNING, text(&format!("299 - \"{warning}\"")));
    }
    Ok(response)
}

/// The tag in the path, or those in the query of a push by digest.
fn tags_to_move(call: &Call<'_>, reference: &Reference) -> Result<Vec<Tag>, ApiError> {
    match reference {
        Reference::Tag(tag) => Ok(vec![tag.clone()]),
        Reference::Digest(_) => {
            let mut tags: Vec<Tag> = Vec::new();
            for value in call.query_all("tag") {
                let tag = value
                    .parse()
                    .map_err(|e: crate::oci::InvalidTag| ApiError::new(ErrorCode::TagInvalid, e.to_string()))?;
                if !tags.contains(&tag) {
                    tags.push(tag);
                }
                if tags.len() > MAX_TAGS {
                    return Err(ApiError::exception(Exception::TooManyTags, "more than 100 tags in one push"));
                }
            }
            Ok(tags)
        }
    }
}

/// The whole body, and the room that it has if it is large.
async fn read_whole(
    call: &Call<'_>,
    body: &mut CountedBody,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
    let limit = call.settings.manifest_max_bytes;
    let too_large = || {
        let message = format!("the manifest is larger than {limit} bytes (manifests.maxBytes)");
        ApiError::exception(Exception::ManifestTooLarge, message)
    };
    let announced =
        call.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut room = None;
    if announced.is_none_or(Store::is_large_manifest) {
        room = Some(call.large.admit(announced.unwrap_or(limit)).await?);
    }
    let mut bytes = BytesMut::with_capacity(announced.unwrap_or(4096));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ApiError::broken_body(&e))?;
        if let Some(data) = frame.data_ref() {
            if bytes.len() + data.len() > limit {
                return Err(too_large());
            }
            bytes.extend_from_slice(data);
        }
    }
    Ok((bytes.freeze(), room))
}

fn parse(call: &Call<'_>, bytes: &[u8]) -> Result<Manifest, ApiError> {
    let content_type = match call.headers.get(CONTENT_TYPE) {
        None => None,
        Some(value) => {
            Some(value.to_str().map_err(|_| ApiError::new(ErrorCode::ManifestInvalid, "Content-Type is not ASCII"))?)
        }
    };
    Manifest::parse(content_type, bytes).map_err(|e| ApiError::new(ErrorCode::ManifestInvalid, e.to_string()))
}

/// A push of a manifest whose parts are missing has a code of its own.
fn refused(error: ModeError) -> ApiError {
    match error {
        ModeError::Incomplete { missing } => {
            ApiError::new(ErrorCode::ManifestBlobUnknown, "push what the manifest references before the manifest")
                .with_detail(json!({ "missing": missing }))
        }
        _ => error.into(),
    }
}

fn warning(kind: ManifestKind, missing: &[Digest]) -> Option<String> {
    if !missing.is_empty() {
        return Some(format!(
            "stored, but the repository lacks {} of what the manifest references, {} first",
            missing.len(),
            missing[0]
        ));
    }
    (kind == ManifestKind::OciArtifact).then(|| {
        "artifact manifests were dropped from the specification, use an image manifest with artifactType".into()
    })
}

/// A whole answer in JSON, for lists.
pub(super) fn json_response(media_type: &'static str, value: &serde_json::Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
