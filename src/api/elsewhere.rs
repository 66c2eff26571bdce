//! Uploads that lie at another master: what a client asks of one is carried out there, one hop away.
//!
//! Whoever asks was judged here, once; the other master believes our certificate and looks at repository and state. The body
//! passes through while it comes, a piece at a time, so a client's pace is its pace there too, and a body that breaks here breaks
//! there. Where the other master does not answer the upload is gone, and a client begins again.
//!
//! # Decisions
//!
//! - A client that waits for `100 Continue` is told to send only after the other master said that it would take the bytes:
//!   hyper says so as soon as the first of them is wanted.
//! - Answers go back as they are. They name no server, so the client goes on where it asked.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, EXPECT, HeaderName, LOCATION, RANGE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use super::access::FORWARDED_FOR;
use super::body::CountedBody;
use super::call::{Call, Elsewhere};
use super::error::ApiError;
use super::headers::{CONTENT_DIGEST, REQUEST_ID, text};
use super::upload_name::UploadName;
use super::uploads::{BYTES, UPLOAD_UUID, announced};
use crate::oci::{ErrorCode, RepoName};
use crate::telemetry::{PassedOn, with_causes};
use crate::upstream::{BodySender, Forwarded, ForwardedAnswer, Upstream, UpstreamError, forwarded_body};

/// Longest wait until the other master takes the next piece of a body.
const STALL: Duration = Duration::from_secs(30);

/// Longest wait for the rest of an answer behind its head, and the most bytes of it: no answer about an upload has more.
const REST_TIME: Duration = Duration::from_secs(10);
const REST_BYTES: usize = 16 * 1024;

/// The other master gave no answer that counts.
fn gone() -> ApiError {
    ApiError::new(
        ErrorCode::BlobUploadUnknown,
        "the master that has this upload does not answer; begin one with a POST",
    )
}

/// Has `master` carry out what the client asks of an upload, and passes its answer on.
///
/// # Errors
/// 404 if it gives none, 4xx for a body that broke.
pub(super) async fn pass_on(
    call: &Call<'_>,
    elsewhere: &Elsewhere<'_>,
    body: &mut CountedBody,
    (repo, name): (&RepoName, UploadName),
    master: &Upstream,
) -> Result<Response, ApiError> {
    let path = format!("/v2/{repo}/blobs/uploads/{name}");
    let headers = headers(call, elsewhere);
    if !body.is_end_stream() && call.headers.contains_key(EXPECT) {
        // Empty where the client says no length, as in chunks: that is unknown, and not 0.
        let bytes = announced(call).map(|bytes| bytes.to_string()).unwrap_or_default();
        let (target, headers) = (format!("{path}?{BYTES}={bytes}"), headers.clone());
        let question = Forwarded { method: Method::GET, target, headers: without_length(headers), body: None };
        let answer = counted(call, master.forward(question).await)?;
        if !answer.status.is_success() {
            return respond(answer).await;
        }
    }
    let query = call.query("digest").map(|digest| {
        form_urlencoded::Serializer::for_suffix("?".to_owned(), 1).append_pair("digest", &digest).finish()
    });
    let target = path + &query.unwrap_or_default();
    let method = call.method.clone();
    if body.is_end_stream() {
        let request = Forwarded { method, target, headers: without_length(headers), body: None };
        return respond(counted(call, master.forward(request).await)?).await;
    }
    let (sender, forwarded) = forwarded_body();
    let mut answer = Box::pin(master.forward(Forwarded { method, target, headers, body: Some(forwarded) }));
    let outcome = tokio::select! {
        biased;
        early = &mut answer => early,
        given = give(body, sender) => match given {
            Ok(()) => answer.await,
            Err(error) => return Err(error),
        },
    };
    respond(counted(call, outcome)?).await
}

/// Gives the client's body on, piece by piece.
///
/// # Errors
/// It broke, or stands still because the other master takes nothing.
async fn give(body: &mut CountedBody, sender: BodySender) -> Result<(), ApiError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::broken_body(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        match timeout(STALL, sender.send(data)).await {
            Ok(Ok(())) => {}
            // What came of it the answer says.
            Ok(Err(_)) => return Ok(()),
            Err(_) => return Err(gone()),
        }
    }
    match timeout(STALL, sender.end()).await {
        Ok(_) => Ok(()),
        Err(_) => Err(gone()),
    }
}

/// Counts what came of a request that was passed on.
fn counted(call: &Call<'_>, outcome: Result<ForwardedAnswer, UpstreamError>) -> Result<ForwardedAnswer, ApiError> {
    let answer = outcome.map_err(|error| with_causes(&error)).and_then(|answer| {
        let status = answer.status;
        let is_registrys = answer.is_registrys();
        is_registrys.then_some(answer).ok_or_else(|| format!("it answered {status} as no registry does"))
    });
    match answer {
        Ok(answer) => {
            call.metrics.passed_on(PassedOn::Answered);
            Ok(answer)
        }
        Err(error) => {
            call.metrics.passed_on(PassedOn::Unanswered);
            tracing::info!(error, "the master of an upload gave no answer, its client begins again");
            Err(gone())
        }
    }
}

/// The headers of a request on its way: of the client's what the other master reads, and who asked.
fn headers(call: &Call<'_>, elsewhere: &Elsewhere<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in [CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE] {
        if let Some(value) = call.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    headers.insert(FORWARDED_FOR, text(&elsewhere.address.to_string()));
    headers.insert(REQUEST_ID.name, elsewhere.id.clone());
    headers
}

fn without_length(mut headers: HeaderMap) -> HeaderMap {
    headers.remove(CONTENT_LENGTH);
    headers
}

/// The other master's answer as ours.
async fn respond(answer: ForwardedAnswer) -> Result<Response, ApiError> {
    let ForwardedAnswer { status, headers, mut body } = answer;
    let mut rest = BytesMut::new();
    let read = async {
        while let Some(bytes) = body.chunk().await.map_err(|_| gone())? {
            if rest.len() + bytes.len() > REST_BYTES {
                return Err(gone());
            }
            rest.extend_from_slice(&bytes);
        }
        Ok(())
    };
    timeout(REST_TIME, read).await.map_err(|_| gone())??;
    let is_empty = rest.is_empty();
    let mut response = Response::new(if is_empty { Body::empty() } else { Body::from(rest.freeze()) });
    *response.status_mut() = status;
    let passed: [HeaderName; 7] =
        [LOCATION, RANGE, UPLOAD_UUID, CONTENT_DIGEST.name, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER];
    for name in passed {
        if let Some(value) = headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    if is_empty && status != http::StatusCode::NO_CONTENT {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
    }
    Ok(response)
}
