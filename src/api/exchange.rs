//! One request and its answer, from the first byte to the last: what is counted, measured and logged of it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::response::Response;
use http::header::USER_AGENT;
use http::{HeaderValue, Method, StatusCode};

use super::App;
use super::access::client_address;
use super::accounting::{Tally, Told, account, count_cache_answer, user_agent};
use super::body::{Finish, RequestProgress};
use super::error::{ApiError, Origin};
use super::headers::{REQUEST_ID, of_mode, of_provenance};
use super::limits::{Holder, Place};
use super::route::Route;
use crate::auth::{AuthFailure, Forbidden, Identity};
use crate::mode::{Mode, Provenance};
use crate::serve::{LetIn, Peer, Standing};
use crate::telemetry::{self, AuthFailureReason, CacheOutcome, InFlight};

/// Longest id of a trusted proxy that is taken over, in bytes.
const ID_BYTES: usize = 128;

/// What came of a request.
pub(super) type Outcome = Result<Response, ApiError>;

/// The name of the mode that answered; an extension of a response whose mode is not the one that the user sees first.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnsweredBy(&'static str);

impl AnsweredBy {
    pub(super) const fn of(mode: &Mode) -> Self {
        Self(mode.as_str())
    }
}

/// A request on its way. Ends in [`Finish`], when the answer's body is sent or dropped.
pub(super) struct Exchange {
    app: App,
    started: Instant,
    id: HeaderValue,
    method: Method,
    route: Option<Route>,
    address: IpAddr,
    user_agent: Option<HeaderValue>,
    user: Option<Arc<str>>,
    /// The mode that answers, by name, once somebody signed in.
    mode: Option<&'static str>,
    failure: Option<AuthFailure>,
    status: StatusCode,
    error: Option<String>,
    cache: Option<CacheOutcome>,
    progress: Arc<RequestProgress>,
    place: Option<Place>,
    standing: Standing,
    let_in: Option<LetIn>,
    _in_flight: InFlight,
}

impl Exchange {
    pub(super) fn begin(
        app: &App,
        parts: &http::request::Parts,
        peer: &Peer,
        route: Option<&Route>,
        progress: Arc<RequestProgress>,
    ) -> Self {
        let id = id_of(&parts.headers).filter(|_| peer.trusted_proxy);
        let address = client_address(peer, &parts.headers);
        if peer.trusted_proxy {
            peer.standing.speaks_for(address);
        }
        Self {
            app: app.clone(),
            started: Instant::now(),
            id: id.cloned().unwrap_or_else(|| Id::new().header()),
            method: parts.method.clone(),
            route: route.cloned(),
            address,
            user_agent: parts.headers.get(USER_AGENT).cloned(),
            user: None,
            mode: None,
            failure: None,
            status: StatusCode::INTERNAL_SERVER_ERROR,
            error: None,
            cache: None,
            progress,
            place: None,
            standing: peer.standing.clone(),
            let_in: None,
            _in_flight: app.0.metrics.in_flight(),
        }
    }

    pub(super) fn id(&self) -> &HeaderValue {
        &self.id
    }

    /// The client's address.
    pub(super) const fn address(&self) -> IpAddr {
        self.address
    }

    /// Notes who asks, and the mode that this user sees first.
    pub(super) fn identified(&mut self, who: &Identity, mode: &Mode) {
        self.user.clone_from(&who.user);
        if self.user.is_some() {
            self.standing.signed_in();
            self.mode = Some(mode.as_str());
        }
    }

    /// Notes why nobody could be made out, and which user of ours was named.
    pub(super) fn refused(&mut self, failure: AuthFailure, named: Option<Arc<str>>) {
        self.user = named;
        self.failure = Some(failure);
        self.app.0.metrics.auth_failure(reason(failure));
    }

    /// Notes that somebody who was made out lacked the right.
    pub(super) fn forbidden(&self, forbidden: &Forbidden) {
        let reason = match forbidden {
            Forbidden::Scope(_) => AuthFailureReason::InsufficientScope,
            Forbidden::Right(_) => AuthFailureReason::Denied,
            Forbidden::NeedsCredentials(_) => AuthFailureReason::Missing,
        };
        self.app.0.metrics.auth_failure(reason);
    }

    /// Notes that the request may do what it asks for: until the answer is over its connection is not one to be closed.
    pub(super) fn let_in(&mut self) {
        self.let_in = Some(self.standing.let_in());
    }

    /// Notes that another master passes it on for a client at `address`; its id is taken over as from a trusted proxy.
    pub(super) fn speaks_for(&mut self, address: IpAddr, headers: &http::HeaderMap) {
        self.address = address;
        if let Some(id) = id_of(headers) {
            self.id = id.clone();
        }
    }

    /// Who holds places for it.
    pub(super) fn holder(&self) -> Holder {
        Holder::new(self.user.clone(), self.address)
    }

    /// Keeps a place until the answer is over.
    pub(super) fn hold(&mut self, place: Option<Place>) {
        self.place = place;
    }

    /// Turns the outcome into an answer; a failure that is ours is logged here, once, with all its causes.
    pub(super) fn settle(&mut self, outcome: Outcome) -> Response {
        let mut response = match outcome {
            Ok(response) => response,
            Err(error) => {
                match error.origin() {
                    Origin::Client => {}
                    Origin::Disk if error.room().is_none() => {
                        self.app.0.metrics.disk_error();
                        self.log_fault(&error);
                    }
                    Origin::Disk | Origin::Limits | Origin::Bug | Origin::Upstream => self.log_fault(&error),
                }
                if let Some(room) = error.room() {
                    self.app.0.metrics.push_refused(room);
                }
                self.error = Some(error.cause().to_owned());
                error.into_response()
            }
        };
        self.status = response.status();
        if let Some(provenance) = response.extensions_mut().remove::<Provenance>() {
            self.mark(&mut response, provenance);
        }
        if let Some(AnsweredBy(mode)) = response.extensions_mut().remove::<AnsweredBy>() {
            self.mode = self.mode.and(Some(mode));
        }
        if let Some(mode) = self.mode {
            of_mode(response.headers_mut(), mode);
        }
        response
    }

    /// Says how the answer came about, in its headers and in the metrics.
    fn mark(&mut self, response: &mut Response, provenance: Provenance) {
        of_provenance(response.headers_mut(), provenance);
        let Some(outcome) = provenance.outcome else { return };
        self.cache = Some(outcome);
        if outcome == CacheOutcome::Previous {
            self.app.0.metrics.previous_answer();
        }
        count_cache_answer(&self.app, self.route.as_ref(), outcome);
    }

    fn log_fault(&self, error: &ApiError) {
        let repository = self.route.as_ref().and_then(Route::repository).map(ToString::to_string);
        tracing::error!(
            id = text(&self.id),
            method = %self.method,
            repository,
            origin = ?error.origin(),
            status = error.status().as_u16(),
            cause = error.cause(),
            "request failed"
        );
    }

    /// What is logged whatever `log.access` says: writes, and sign-ins refused for what was sent, not for what was missing.
    fn is_important(&self) -> bool {
        let write = !matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS)
            && !matches!(self.route, Some(Route::Token) | None);
        let refused = self.failure.is_some_and(|failure| failure != AuthFailure::Missing);
        write || refused
    }
}

impl Finish for Exchange {
    fn finish(mut self, sent: u64, whole: bool, failure: Option<&str>) {
        if let Some(failure) = failure {
            // Whatever the head said, it came to this.
            self.status = StatusCode::INTERNAL_SERVER_ERROR;
            self.error = Some(failure.to_owned());
        }
        let tally = Tally {
            method: telemetry::Method::of(&self.method),
            route: self.route.as_ref(),
            status: self.status.as_u16(),
            received: self.progress.received(),
            sent,
            duration: self.started.elapsed(),
            important: self.is_important(),
        };
        account(&self.app, tally, || Told {
            id: text(&self.id),
            user: self.user.as_deref(),
            address: self.address,
            method: self.method.as_str(),
            reference: self.route.as_ref().and_then(Route::reference).map(Cow::Owned),
            cache: self.cache,
            whole: whole && failure.is_none(),
            error: self.error.as_deref(),
            user_agent: self.user_agent.as_ref().and_then(|agent| user_agent(agent.as_bytes())),
        });
    }
}

/// A request's id: random for the process, counted within it. A random number for every request would be a system call
/// for every request.
pub(super) struct Id([u8; 32]);

impl Id {
    pub(super) fn new() -> Self {
        static PROCESS: OnceLock<u64> = OnceLock::new();
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let process = *PROCESS.get_or_init(|| uuid::Uuid::new_v4().as_u64_pair().0);
        let mut id = [0; 32];
        let (front, back) = id.split_at_mut(16);
        for (digits, number) in [(front, process), (back, NEXT.fetch_add(1, Ordering::Relaxed))] {
            for (place, digit) in digits.iter_mut().rev().enumerate() {
                *digit = b"0123456789abcdef"[usize::try_from(number >> (4 * place) & 15).unwrap_or(0)];
            }
        }
        Self(id)
    }

    pub(super) const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).unwrap_or_else(|_| HeaderValue::from_static("0"))
    }
}

/// The id that the headers give the request, if it can be one.
fn id_of(headers: &http::HeaderMap) -> Option<&HeaderValue> {
    let id = headers.get(REQUEST_ID.name).filter(|id| id.to_str().is_ok())?;
    Some(id).filter(|id| !id.is_empty() && id.len() <= ID_BYTES)
}

/// A value that was found readable.
fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

const fn reason(failure: AuthFailure) -> AuthFailureReason {
    match failure {
        AuthFailure::Missing => AuthFailureReason::Missing,
        AuthFailure::Malformed => AuthFailureReason::Malformed,
        AuthFailure::WrongPassword => AuthFailureReason::WrongPassword,
        AuthFailure::BadToken | AuthFailure::TokenShown => AuthFailureReason::BadToken,
        AuthFailure::TooMany => AuthFailureReason::TooMany,
    }
}
