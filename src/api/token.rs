//! `/auth/token`: the token service of Docker's registry authentication, by GET and by POST.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use serde_json::json;

use super::access::{in_log, refuse_sign_in};
use super::body::CountedBody;
use super::call::query_values;
use super::error::ApiError;
use super::exception::Exception;
use super::manifests::json_response;
use crate::auth::{AuthFailure, Authenticator, BASIC_CHALLENGE, Identity};
use crate::clock;
use crate::oci::ErrorCode;

/// Longest form that is read. Nobody has signed in yet who sends one; what clients send has some hundred bytes.
const FORM_BYTES: usize = 8 * 1024;

/// From a request's head to the end of its form.
const FORM_TIME: Duration = Duration::from_secs(10);

/// Most scopes in one token.
const MAX_SCOPES: usize = 64;

/// What came of a request for a token.
pub(super) struct Answer {
    pub(super) response: Result<Response, ApiError>,
    pub(super) who: Option<Identity>,
    pub(super) failure: Option<AuthFailure>,
    /// The user of ours that a refused sign-in named, for the log.
    pub(super) named: Option<Arc<str>>,
}

pub(super) async fn answer(
    auth: &Authenticator,
    method: &Method,
    headers: &HeaderMap,
    query: Option<&str>,
    body: &mut CountedBody,
    from: IpAddr,
) -> Answer {
    let refused = |error| Answer { response: Err(error), who: None, failure: None, named: None };
    if !auth.tokens_enabled() {
        return refused(ApiError::new(ErrorCode::Unsupported, "tokens are off here, sign in with Basic"));
    }
    let form = if method == Method::POST {
        match read_form(headers, body).await {
            Ok(form) => Some(form),
            Err(error) => return refused(error),
        }
    } else {
        None
    };
    let parameters = form.as_deref().or(query);
    let one = |name: &str| query_values(parameters, name).next();
    if form.is_some() && one("grant_type").is_some_and(|grant| grant != "password") {
        return refused(ApiError::exception(Exception::TokenForm, "the only grant_type here is password"));
    }
    let header = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let pair = form.as_ref().and_then(|_| one("username").zip(one("password")));
    let proven = match &pair {
        Some((user, password)) => auth.authenticate_password(user, password, from).await,
        None => auth.authenticate_for_token(header, from).await,
    };
    let who = match proven {
        Ok(who) => who,
        Err(failure) => {
            let named = match &pair {
                Some((user, _)) => auth.known(user),
                None => auth.named_in(header),
            };
            let challenge = HeaderValue::from_static(BASIC_CHALLENGE);
            let error = refuse_sign_in(failure).with_header(WWW_AUTHENTICATE, challenge);
            let error = in_log(error, failure, named.as_deref());
            return Answer { response: Err(error), who: None, failure: Some(failure), named };
        }
    };
    // Several scopes come as several parameters or, from oauth2 forms, as one with blanks.
    let scopes: Vec<String> = query_values(parameters, "scope")
        .flat_map(|value| value.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .take(MAX_SCOPES)
        .collect();
    Answer { response: issue(auth, &who, &scopes), who: Some(who), failure: None, named: None }
}

fn issue(auth: &Authenticator, who: &Identity, scopes: &[String]) -> Result<Response, ApiError> {
    let issued = auth.issue_token(who, scopes, clock::now()).map_err(|e| ApiError::fault(&e))?;
    let issued_at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(issued.issued_at.as_secs());
    let body = json!({
        "token": issued.token,
        "access_token": issued.token,
        "expires_in": issued.expires_in,
        "issued_at": humantime::format_rfc3339_seconds(issued_at).to_string(),
    });
    let mut response = json_response("application/json", &body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Reads a form of at most [`FORM_BYTES`] within [`FORM_TIME`]. Safe to drop.
///
/// # Errors
/// 400 if it is no form, 413 if it is longer, 408 if it does not come in time.
async fn read_form(headers: &HeaderMap, body: &mut CountedBody) -> Result<String, ApiError> {
    let refused =
        |case: Exception, why: &'static str| ApiError::exception(case, format!("a POST to the token service {why}"));
    let malformed = || refused(Exception::TokenForm, "is a form, application/x-www-form-urlencoded");
    let too_long = || refused(Exception::TokenFormTooLong, "is a form of at most 8 KiB");
    let is_form = headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.trim_start().starts_with("application/x-www-form-urlencoded"));
    if !is_form {
        return Err(malformed());
    }
    if body.size_hint().lower() > FORM_BYTES as u64 {
        return Err(too_long());
    }
    // Copied: pieces of one byte would each keep the buffer that they came in.
    let mut form = Vec::new();
    let reading = async {
        while let Some(frame) = body.frame().await {
            let data = frame.map_err(|_| malformed())?.into_data().unwrap_or_default();
            if form.len() + data.len() > FORM_BYTES {
                return Err(too_long());
            }
            form.extend_from_slice(&data);
        }
        Ok(())
    };
    let in_time = tokio::time::timeout(FORM_TIME, reading).await;
    in_time.map_err(|_| refused(Exception::TokenFormLate, "has to come whole within 10 s"))??;
    String::from_utf8(form).map_err(|_| malformed())
}
