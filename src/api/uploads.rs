//! `/v2/<name>/blobs/uploads/`: begin, mount, append, ask, finish, cancel.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt as _;

use super::body::CountedBody;
use super::call::Call;
use super::error::ApiError;
use super::exception::Exception;
use super::headers::{CONTENT_DIGEST, text};
use super::route::parse_digest;
use super::upload_name::UploadName;
use crate::auth::Action;
use crate::mode::Local;
use crate::oci::{Algorithm, Digest, ErrorCode, RepoName, UploadId, UploadRange};
use crate::store::{StoreError, UploadPlace, UploadSession};
use crate::telemetry::with_causes;

pub(super) const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// The parameter by which another master asks whether a body of so many bytes would be taken.
pub(super) const BYTES: &str = "bytes";

/// Chunks handed to the store in one go: each keeps some KiB of hyper's buffer, be it a single byte.
const MOST_CHUNKS: usize = 128;

/// POST: a mount, a whole blob, or the beginning of an upload.
pub(super) async fn begin(call: &Call<'_>, body: &mut CountedBody, repo: &RepoName) -> Result<Response, ApiError> {
    // A digest that is none is a blob that nobody has.
    if let Some(digest) = call.query("mount").and_then(|text| parse_digest(&text).ok())
        && mount(call, repo, digest).await?
    {
        return Ok(created(repo, digest));
    }
    let whole = call.query("digest").map(|digest| parse_digest(&digest)).transpose()?;
    let algorithm = match (whole, call.query("digest-algorithm")) {
        (Some(digest), _) => Some(digest.algorithm()),
        (None, Some(name)) => Some(parse_algorithm(&name)?),
        (None, None) => None,
    };
    let local = call.view.writable()?;
    let expected = whole.and(announced(call));
    let begin = async || {
        let place = call.entrance.open_upload(call.uploads).ok_or_else(ApiError::too_many_uploads)?;
        Ok::<_, ApiError>(local.store().begin_upload_at(Some(UploadPlace::new(place)), repo, algorithm, expected).await)
    };
    let mut session = match begin().await? {
        Err(StoreError::Full(refusal)) if local.is_displacing() => {
            local.make_room(refusal, expected.unwrap_or(0)).await?;
            begin().await??
        }
        begun => begun?,
    };
    let Some(digest) = whole else {
        return Ok(in_progress(call, StatusCode::ACCEPTED, repo, session.id(), 0));
    };
    match append_all(local, &mut session, body, None).await {
        Ok(()) => {
            session.finish(digest).await?;
            Ok(created(repo, digest))
        }
        Err(error) => {
            // The client never learnt the upload's name, so nobody can go on with it.
            session.cancel().await?;
            Err(error)
        }
    }
}

/// Whether the blob is the repository's now. If not, for whatever reason, the client uploads instead: a source that is no
/// repository name, that whoever asks may not pull from, or that the token shown is not good for, is one without the
/// blob. It is not even looked at, so nothing of it can be told by the answer or by its time. A source that the client names and
/// whose blob another master has is fetched from there first.
async fn mount(call: &Call<'_>, repo: &RepoName, digest: Digest) -> Result<bool, ApiError> {
    let local = call.view.writable()?;
    let store = local.store();
    let is_named = call.query("from").is_some();
    let sources: Vec<Option<RepoName>> = match call.query("from") {
        Some(from) => {
            from.parse().ok().filter(|from| call.may(Action::Pull, Some(from))).map(Some).into_iter().collect()
        }
        // Only what the token is good for, one after the other; there are at most as many as a token has scopes.
        None if call.who.is_scoped() => {
            call.who.readable().filter(|source| call.may(Action::Pull, Some(source))).map(Some).collect()
        }
        // Every role may pull from every repository, so whoever may push may take a blob from anywhere.
        None => vec![None],
    };
    for source in sources {
        let mut mounted = store.mount_blob(source.as_ref(), repo, digest).await;
        if let (Ok(false), Some(source), true) = (&mounted, &source, is_named && call.elsewhere.is_some())
            && local.bring_for_mount(source, digest).await
        {
            mounted = store.mount_blob(Some(source), repo, digest).await;
        }
        match mounted {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            // An upload needs none of what failed here, or says the same in its turn.
            Err(error) => {
                tracing::warn!(%digest, %repo, error = with_causes(&error), "a blob can't be mounted, it has to be uploaded");
                return Ok(false);
            }
        }
    }
    Ok(false)
}

/// PATCH: a chunk, or the whole of a streamed upload.
pub(super) async fn append(
    call: &Call<'_>,
    body: &mut CountedBody,
    repo: &RepoName,
    id: UploadId,
) -> Result<Response, ApiError> {
    let local = call.view.writable()?;
    let mut session = local.store().resume_upload(repo, id).await?;
    let length = chunk_length(call, repo, &session, announced(call))?;
    admit(local, &session, announced(call)).await?;
    append_all(local, &mut session, body, length).await?;
    Ok(in_progress(call, StatusCode::ACCEPTED, repo, id, session.offset()))
}

/// PUT: the last chunk, if there is one, and the digest of the whole.
pub(super) async fn finish(
    call: &Call<'_>,
    body: &mut CountedBody,
    repo: &RepoName,
    id: UploadId,
) -> Result<Response, ApiError> {
    let digest = call.query("digest").ok_or_else(|| {
        ApiError::new(ErrorCode::DigestInvalid, "the digest of the whole upload is missing in the query")
    })?;
    let digest = parse_digest(&digest)?;
    let local = call.view.writable()?;
    let store = local.store();
    let mut session = match store.resume_upload(repo, id).await {
        Ok(session) => session,
        // The answer to the first PUT was lost and the client repeats it: what it wants is there.
        Err(StoreError::UploadUnknown) if store.blob(repo, digest).await.is_ok() => return Ok(created(repo, digest)),
        Err(error) => return Err(error.into()),
    };
    let length = chunk_length(call, repo, &session, announced(call))?;
    admit(local, &session, announced(call)).await?;
    append_all(local, &mut session, body, length).await?;
    session.finish(digest).await?;
    Ok(created(repo, digest))
}

/// GET: how far it is. Another master asks as well whether a body that its client announces would be taken.
pub(super) async fn ask(call: &Call<'_>, repo: &RepoName, id: UploadId) -> Result<Response, ApiError> {
    if let Some(bytes) = call.query(BYTES).filter(|_| call.is_masters) {
        let local = call.view.writable()?;
        let session = local.store().resume_upload(repo, id).await?;
        let bytes = bytes.parse().ok();
        chunk_length(call, repo, &session, bytes)?;
        admit(local, &session, bytes).await?;
    }
    let offset = call.view.writable()?.store().upload_offset(repo, id).await?;
    Ok(in_progress(call, StatusCode::NO_CONTENT, repo, id, offset))
}

/// DELETE.
pub(super) async fn cancel(call: &Call<'_>, repo: &RepoName, id: UploadId) -> Result<Response, ApiError> {
    call.view.writable()?.store().cancel_upload(repo, id).await?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn parse_algorithm(name: &str) -> Result<Algorithm, ApiError> {
    name.parse().map_err(|e: crate::oci::InvalidDigest| ApiError::new(ErrorCode::DigestInvalid, e.to_string()))
}

/// The length that the client announces of its body.
pub(super) fn announced(call: &Call<'_>) -> Option<u64> {
    call.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What can't fit is refused before its body is read. A chunk of nothing needs no room: the last PUT may be one.
async fn admit(local: &Local, session: &UploadSession, announced: Option<u64>) -> Result<(), ApiError> {
    match announced {
        None | Some(0) => Ok(()),
        Some(bytes) => match session.admit(bytes).await {
            Err(StoreError::Full(refusal)) => Ok(local.make_room(refusal, bytes).await?),
            outcome => Ok(outcome?),
        },
    }
}

/// The length that `Content-Range` gives the chunk; checks that it begins where the upload ends.
fn chunk_length(
    call: &Call<'_>,
    repo: &RepoName,
    session: &UploadSession,
    announced: Option<u64>,
) -> Result<Option<u64>, ApiError> {
    let Some(header) = call.headers.get(CONTENT_RANGE) else {
        return Ok(None);
    };
    let range: UploadRange = header
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| ApiError::new(ErrorCode::BlobUploadInvalid, crate::oci::InvalidContentRange.to_string()))?;
    if range.first != session.offset() {
        let status = StatusCode::RANGE_NOT_SATISFIABLE;
        let place = in_progress(call, status, repo, session.id(), session.offset());
        let message = format!("the chunk begins at {}, the upload is at {}", range.first, session.offset());
        let mut error = ApiError::exception(Exception::ChunkOutOfPlace, message);
        for (name, value) in place.headers() {
            if *name != CONTENT_LENGTH {
                error = error.with_header(name.clone(), value.clone());
            }
        }
        return Err(error);
    }
    if announced.is_some_and(|length| length != range.len) {
        return Err(ApiError::new(ErrorCode::SizeInvalid, "Content-Length disagrees with Content-Range"));
    }
    Ok(Some(range.len))
}

/// Streams the body into the upload; with `length`, exactly so many bytes. What came before a failure stays.
async fn append_all(
    local: &Local,
    session: &mut UploadSession,
    body: &mut CountedBody,
    length: Option<u64>,
) -> Result<(), ApiError> {
    let mut left = length;
    let mut batch: Vec<Bytes> = Vec::new();
    let mut batched = 0;
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                // The client may come back and go on from here.
                append_batch(local, session, batch).await?;
                return Err(ApiError::broken_body(&error));
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        if let Some(left) = &mut left {
            *left = left
                .checked_sub(data.len() as u64)
                .ok_or_else(|| ApiError::new(ErrorCode::SizeInvalid, "the chunk is longer than its Content-Range"))?;
        }
        let length = data.len();
        batched += length;
        batch.push(data);
        // One more as long as this would be too much.
        if batched + length > session.batch_bytes() || batch.len() >= MOST_CHUNKS {
            append_batch(local, session, std::mem::take(&mut batch)).await?;
            batched = 0;
        }
    }
    append_batch(local, session, batch).await?;
    match left {
        None | Some(0) => Ok(()),
        Some(_) => Err(ApiError::new(ErrorCode::SizeInvalid, "the chunk is shorter than its Content-Range")),
    }
}

/// Appends what was gathered. The pieces are shared, not copied: they may be needed once more.
async fn append_batch(local: &Local, session: &mut UploadSession, batch: Vec<Bytes>) -> Result<(), StoreError> {
    let again = if local.is_displacing() { batch.clone() } else { Vec::new() };
    match session.append(batch).await {
        Err(StoreError::Full(refusal)) if local.is_displacing() => {
            local.make_room(refusal, again.iter().map(|piece| piece.len() as u64).sum()).await?;
            session.append(again).await
        }
        outcome => outcome,
    }
}

/// The blob is the repository's.
fn created(repo: &RepoName, digest: Digest) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::CREATED;
    let out = response.headers_mut();
    out.insert(LOCATION, text(&format!("/v2/{repo}/blobs/{digest}")));
    out.insert(CONTENT_DIGEST.name, text(&digest.to_string()));
    response
}

/// The upload is at `offset`. `Location` is relative and without a query, so no proxy in between can break it;
/// `Range` is written as clients read it, `0-0` for nothing yet.
fn in_progress(call: &Call<'_>, status: StatusCode, repo: &RepoName, id: UploadId, offset: u64) -> Response {
    let name = UploadName { id, master: call.own_master };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let out = response.headers_mut();
    out.insert(LOCATION, text(&format!("/v2/{repo}/blobs/uploads/{name}")));
    out.insert(RANGE, text(&format!("0-{}", offset.saturating_sub(1))));
    out.insert(UPLOAD_UUID, text(&name.to_string()));
    if status != StatusCode::NO_CONTENT {
        out.insert(CONTENT_LENGTH, HeaderValue::from(0));
    }
    response
}
