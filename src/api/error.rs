//! Every failure becomes a status, a code and a body here; the only such mapping. What a handler refuses has the status of
//! its code ([`ErrorCode::status`]) or a row in [`Exception`].

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::header::{AGE, ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::exception::Exception;
use super::headers::CACHE;
use crate::mode::{Absence, ModeError};
use crate::oci::{Digest, ErrorCode};
use crate::store::{Refusal, StoreError};
use crate::telemetry::{CacheOutcome, RoomLack, UpstreamCause, with_causes};

use crate::upstream::UpstreamError;

/// After so many seconds a client asks again when the upstream has too much to do and does not say how long.
const RETRY_UPSTREAM: u64 = 5;

/// And when another master may have it that can't be reached.
const RETRY_OTHER_MASTER: u64 = 10;

/// And when no request is served at all: an administrator has to change that.
const RETRY_UNMANAGED: u64 = 60;

/// And when this process has no file descriptor left.
const RETRY_DESCRIPTORS: u64 = 1;

/// Whose fault a failure is; decides how it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The request.
    Client,
    /// The disk, or no room on it.
    Disk,
    /// The process has no more of what the system gives: file descriptors.
    Limits,
    /// The upstream.
    Upstream,
    /// Ours.
    Bug,
}

/// A refusal or failure, ready to be sent in the shape of distribution-spec, "Error Codes". Boxed: it is the rare
/// half of every handler's result.
#[derive(Debug)]
pub(super) struct ApiError(Box<Failure>);

#[derive(Debug)]
struct Failure {
    code: ErrorCode,
    status: StatusCode,
    message: Cow<'static, str>,
    detail: Value,
    headers: Vec<(HeaderName, HeaderValue)>,
    origin: Origin,
    /// What there is no room in, if that is it.
    room: Option<RoomLack>,
    /// The whole chain of causes, for the log only.
    cause: Option<String>,
}

impl ApiError {
    /// A refusal by the code's own status.
    pub(super) fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Failure {
            code,
            status: StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            message: message.into(),
            detail: Value::Null,
            headers: Vec::new(),
            origin: Origin::Client,
            room: None,
            cause: None,
        }))
    }

    /// A refusal or failure with another status than the code's own.
    pub(super) fn exception(case: Exception, message: impl Into<Cow<'static, str>>) -> Self {
        let mut error = Self::new(case.code(), message);
        error.0.status = StatusCode::from_u16(case.status()).unwrap_or(error.0.status);
        error
    }

    pub(super) fn with_detail(mut self, detail: Value) -> Self {
        self.0.detail = detail;
        self
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// Adds `Retry-After`; every 429 and 503 has one.
    pub(super) fn retry_after(self, seconds: u64) -> Self {
        self.with_header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// Adds `Allow`; every 405 has one.
    pub(super) fn allow(self, methods: &'static str) -> Self {
        self.with_header(ALLOW, HeaderValue::from_static(methods))
    }

    /// What the log says in place of the message.
    pub(super) fn said_in_log(mut self, cause: String) -> Self {
        self.0.cause = Some(cause);
        self
    }

    fn with_cause(mut self, origin: Origin, cause: &dyn std::error::Error) -> Self {
        self.0.origin = origin;
        self.0.cause = Some(with_causes(cause));
        self
    }

    /// The method is not one of the path's.
    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        Self::new(ErrorCode::Unsupported, format!("this path answers {allow}")).allow(allow)
    }

    /// A fault of ours that no type of the store's names.
    pub(super) fn fault(error: &dyn std::error::Error) -> Self {
        Self::new(ErrorCode::Unknown, "internal fault; the registry's log has the cause").with_cause(Origin::Bug, error)
    }

    /// A panic; its message is in the log already.
    pub(super) fn panicked() -> Self {
        let mut error = Self::new(ErrorCode::Unknown, "internal fault; the registry's log has the cause");
        error.0.origin = Origin::Bug;
        error
    }

    /// As many uploads are open as may be, here or of this user at this address.
    pub(super) fn too_many_uploads() -> Self {
        Self::new(ErrorCode::TooManyRequests, "too many uploads are open; finish or cancel some").retry_after(5)
    }

    /// The client's body broke off or could not be read.
    pub(super) fn broken_body(error: &axum::Error) -> Self {
        Self::new(ErrorCode::SizeInvalid, "the request's body broke off").with_cause(Origin::Client, error)
    }

    /// A digest in a header or query that the content contradicts.
    pub(super) fn digest_mismatch(expected: &Digest, actual: &Digest) -> Self {
        Self::new(ErrorCode::DigestInvalid, format!("the content has digest {actual}, not {expected}"))
            .with_detail(json!({ "expected": expected, "actual": actual }))
    }

    pub(super) fn status(&self) -> StatusCode {
        self.0.status
    }

    pub(super) fn code(&self) -> ErrorCode {
        self.0.code
    }

    pub(super) fn origin(&self) -> Origin {
        self.0.origin
    }

    /// What there is no room in, if that is the reason.
    pub(super) fn room(&self) -> Option<RoomLack> {
        self.0.room
    }

    /// What goes into the log beside the status.
    pub(super) fn cause(&self) -> &str {
        self.0.cause.as_deref().unwrap_or(&self.0.message)
    }

    pub(super) fn into_response(self) -> Response {
        let failure = *self.0;
        let mut error = json!({ "code": failure.code.as_str(), "message": failure.message });
        if !failure.detail.is_null() {
            error["detail"] = failure.detail;
        }
        let body = json!({ "errors": [error] }).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = failure.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in failure.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}

impl From<ModeError> for ApiError {
    fn from(error: ModeError) -> Self {
        let gateway = |case: Exception| Self::exception(case, error.to_string()).with_cause(Origin::Upstream, &error);
        match &error {
            ModeError::Store(error) => error.clone().into(),
            ModeError::Incomplete { missing } => {
                Self::new(ErrorCode::ManifestUnknown, "the manifest is stored, but content it references is missing")
                    .with_detail(json!({ "missing": missing }))
            }
            ModeError::RepositoryUnknown => Self::new(ErrorCode::NameUnknown, "repository unknown to the registry"),
            ModeError::Absent { what, age } => Self::absent(*what, *age),
            ModeError::NotServed { alias, has_root: true } => {
                Self::new(ErrorCode::NameUnknown, format!("only {alias} and what is below it is served here"))
                    .with_detail(json!({ "prefix": alias.as_str() }))
            }
            ModeError::NotServed { alias, has_root: false } => {
                Self::new(ErrorCode::NameUnknown, format!("only what is below {alias} is served here"))
                    .with_detail(json!({ "prefix": format!("{alias}/") }))
            }
            ModeError::ReadOnly { mode } => Self::new(
                ErrorCode::Unsupported,
                format!("this registry runs in mode {mode}, which takes no pushes and deletes; push to its upstream"),
            ),
            ModeError::Unmanaged => Self::new(ErrorCode::Unavailable, error.to_string()).retry_after(RETRY_UNMANAGED),
            ModeError::Upstream(upstream) => Self::from_upstream(upstream).with_cause(Origin::Upstream, &error),
            ModeError::UpstreamTimeout => gateway(Exception::UpstreamTimeout),
            ModeError::UpstreamContradiction(_) => gateway(Exception::UpstreamFailed),
            ModeError::NotReachable => {
                Self::new(ErrorCode::Unavailable, error.to_string()).retry_after(RETRY_OTHER_MASTER)
            }
            ModeError::Stopping => Self::new(ErrorCode::Unavailable, "shutting down").retry_after(5),
        }
    }
}

impl ApiError {
    /// A 404, with the age of the upstream's word where it could not be asked now.
    fn absent(what: Absence, age: Option<Duration>) -> Self {
        let (code, message) = match what {
            Absence::Manifest => (ErrorCode::ManifestUnknown, "manifest unknown to the repository"),
            Absence::Blob => (ErrorCode::BlobUnknown, "blob unknown to the repository"),
            Absence::Repository => (ErrorCode::NameUnknown, "repository unknown to the registry"),
        };
        match age {
            Some(age) => Self::new(code, message)
                .with_header(AGE, HeaderValue::from(age.as_secs()))
                .with_header(CACHE.name, HeaderValue::from_static(CacheOutcome::Stale.as_str())),
            None => Self::new(code, message),
        }
    }

    /// The upstream's failure as the client hears it. 401 is only ever our own challenge, and a 429 is repeated by
    /// containerd at once: neither is passed on.
    fn from_upstream(error: &UpstreamError) -> Self {
        let case = match error.cause() {
            UpstreamCause::Unauthorized | UpstreamCause::Forbidden => {
                let refused =
                    Self::new(ErrorCode::Denied, format!("the upstream refuses this registry's credentials: {error}"))
                        .with_detail(error.detail());
                return match error.retry_after() {
                    Some(wait) => refused.retry_after(whole_seconds(wait)),
                    None => refused,
                };
            }
            // Its queue here is full: nobody waited for it in vain.
            UpstreamCause::Timeout if error.is_busy() => {
                let seconds = error.retry_after().map_or(RETRY_UPSTREAM, whole_seconds);
                return Self::new(ErrorCode::Unavailable, error.to_string())
                    .with_detail(error.detail())
                    .retry_after(seconds);
            }
            UpstreamCause::NotFound => Exception::UpstreamNotFound,
            UpstreamCause::Timeout => Exception::UpstreamTimeout,
            UpstreamCause::RateLimited => {
                let seconds = error.retry_after().map_or(RETRY_UPSTREAM, whole_seconds);
                return Self::new(ErrorCode::Unavailable, error.to_string())
                    .with_detail(error.detail())
                    .retry_after(seconds);
            }
            UpstreamCause::Unreachable
            | UpstreamCause::ServerError
            | UpstreamCause::Invalid
            | UpstreamCause::Refused => Exception::UpstreamFailed,
        };
        Self::exception(case, error.to_string()).with_detail(error.detail())
    }
}

/// Rounded up: who comes back a moment early is refused again.
fn whole_seconds(wait: std::time::Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::BlobUnknown => Self::new(ErrorCode::BlobUnknown, "blob unknown to the repository"),
            StoreError::ManifestUnknown => Self::new(ErrorCode::ManifestUnknown, "manifest unknown to the repository"),
            StoreError::UploadUnknown => {
                Self::new(ErrorCode::BlobUploadUnknown, "no such upload; begin one with a POST")
            }
            StoreError::TooManyUploads => Self::too_many_uploads(),
            StoreError::UploadBusy(_) => {
                Self::exception(Exception::UploadBusy, "another request is writing this upload")
            }
            StoreError::DigestMismatch { expected, actual } => Self::digest_mismatch(expected, actual),
            StoreError::Full(refusal) => full(*refusal),
            StoreError::IndexNotReady { retry_after } => Self::new(
                ErrorCode::Unavailable,
                "lists are being built from the store; pulls and pushes work meanwhile",
            )
            .retry_after(*retry_after),
            StoreError::Layout(_) | StoreError::InUse(_) | StoreError::Io { .. } => {
                Self::new(ErrorCode::Unknown, "the registry's disk failed; its log has the cause")
                    .with_cause(Origin::Disk, &error)
            }
            StoreError::Descriptors { .. } => Self::new(
                ErrorCode::Unavailable,
                "the registry has no file descriptor left; its log says of which limit",
            )
            .retry_after(RETRY_DESCRIPTORS)
            .with_cause(Origin::Limits, &error),
            // Whoever held it is through in a moment.
            StoreError::FillBusy(_) => {
                Self::new(ErrorCode::Unavailable, error.to_string()).retry_after(RETRY_DESCRIPTORS)
            }
            StoreError::Bug(_) => Self::new(ErrorCode::Unknown, "internal fault; the registry's log has the cause")
                .with_cause(Origin::Bug, &error),
        }
    }
}

/// 507, with what does not fit and what is left. Numbers are texts: clients print them, and some as floating point.
fn full(refusal: Refusal) -> ApiError {
    let text = |bytes: u64| bytes.to_string();
    let (room, mut detail) = match refusal {
        Refusal::BudgetExhausted { budget, used, .. } => (
            RoomLack::Budget,
            json!({ "reason": "BudgetExhausted", "budgetBytes": text(budget), "usedBytes": text(used) }),
        ),
        Refusal::ReserveExhausted { reserve, free, .. } => (
            RoomLack::Reserve,
            json!({ "reason": "ReserveExhausted", "reserveBytes": text(reserve), "freeBytes": text(free) }),
        ),
        Refusal::InodesExhausted { free } => {
            (RoomLack::Inodes, json!({ "reason": refusal.as_str(), "freeBytes": text(free) }))
        }
        Refusal::QuotaExhausted => (RoomLack::Quota, json!({ "reason": refusal.as_str() })),
        Refusal::FileTooLong => (RoomLack::FileTooLong, json!({ "reason": refusal.as_str() })),
        Refusal::ReadOnly => (RoomLack::ReadOnly, json!({ "reason": refusal.as_str() })),
    };
    if let Refusal::BudgetExhausted { wanted, .. } | Refusal::ReserveExhausted { wanted, .. } = refusal {
        detail["leftBytes"] = text(refusal.left()).into();
        if wanted > 0 {
            detail["wantedBytes"] = text(wanted).into();
        }
    }
    let mut error = ApiError::new(ErrorCode::InsufficientStorage, refusal.to_string()).with_detail(detail);
    error.0.origin = Origin::Disk;
    error.0.room = Some(room);
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_room_says_what_does_not_fit_and_what_is_left() {
        let budget = |wanted| Refusal::BudgetExhausted { budget: 10_485_760, used: 10_000_000, wanted };
        let reserve = |reserve, wanted| Refusal::ReserveExhausted { reserve, free: 20_000_000, wanted };
        for (refusal, words) in [
            (budget(16_777_216), &["16777216", "485760 are left", "store.maxBytes"][..]),
            (budget(0), &["10485760", "store.maxBytes"]),
            (reserve(15_000_000, 16_777_216), &["16777216", "5000000 are left", "store.reserveBytes"]),
            (reserve(15_000_000, 0), &["full", "15000000", "store.reserveBytes"]),
            (reserve(0, 0), &["full", "20000000"]),
        ] {
            let error = full(refusal);
            assert_eq!((error.status().as_u16(), error.code().as_str()), (507, "INSUFFICIENT_STORAGE"));
            for word in words {
                assert!(error.0.message.contains(word), "{word}: {}", error.0.message);
            }
            let detail = error.0.detail.as_object().unwrap();
            assert!(detail.values().all(Value::is_string), "{detail:?}");
            assert_eq!(detail["leftBytes"], refusal.left().to_string());
        }
    }
}
