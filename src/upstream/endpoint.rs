//! One registry of an upstream: addresses its requests, keeps to what it refused, follows its redirects.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Response, Url};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::answering_mode;
use super::body::{UpstreamBody, check_encoding};
use super::error::{Asked, UpstreamError, UpstreamSetupError, is_registrys_error, words};
use super::face::{HOP, ONE_HOP};
use super::gate::Gate;
use super::options::{Credentials, EndpointOptions};
use super::redirect::{self, NotFollowed, host_port};
use super::refusals::{Refusals, Subject};
use super::sign_in::SignIn;
use super::tls::{SystemAuthorities, Trust};
use super::transport::{Outgoing, Transport, failed_answer, origin};
use super::{Shared, WHOLE};
use crate::clock;
use crate::telemetry::UpstreamCause;

/// How long the rest of an answer that nobody needs is waited for, so that its connection can be used again.
const DRAIN: Duration = Duration::from_millis(500);
/// The header by which registries name their protocol (distribution-spec, "Legacy Docker support HTTP headers").
pub(super) const API_VERSION: &str = "docker-distribution-api-version";
/// A longer `Retry-After` counts as this: whoever counts wrongly is not left alone for ever.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// One registry.
pub(super) struct Endpoint {
    /// `host[:port]` as configured.
    pub(super) host: String,
    /// No other is tried after it.
    pub(super) is_last: bool,
    pub(super) origin: Url,
    path: String,
    pub(super) credentials: Credentials,
    pub(super) transport: Transport,
    pub(super) sign_in: SignIn,
    /// When `/v2/` last answered without a challenge. Held while it is asked, so that many who need to know ask once.
    pub(super) unchallenged: tokio::sync::Mutex<Option<Instant>>,
    pub(super) refusals: Refusals,
    gate: Gate,
    pub(super) shared: Arc<Shared>,
}

/// What a question does, which is what a token for it has to allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Pull,
    Push,
}

/// A question to a registry.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) access: Access,
    /// Another repository that a blob is taken from.
    pub(super) also: Option<String>,
    /// What is sent, and its type.
    pub(super) content: Option<(HeaderValue, Bytes)>,
    /// The repository at this endpoint, `""` for none.
    pub(super) repository: String,
    /// Path and query.
    pub(super) target: String,
    pub(super) accept: Option<HeaderValue>,
    pub(super) range: Option<HeaderValue>,
    /// A body without bounds may follow; its bytes are judged by a digest.
    pub(super) bulk: bool,
    /// The head of the answer may take longer than usual, up to the deadline.
    pub(super) patient: bool,
    /// Asked to find out whether the endpoint is well: whatever it refused a moment ago.
    pub(super) probe: bool,
}

impl Call {
    /// The scope of a token for it (Docker's token specification).
    pub(super) fn usual_scope(&self) -> String {
        let actions = match self.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        match (self.repository.as_str(), &self.also) {
            ("", _) => String::new(),
            (repository, None) => format!("repository:{repository}:{actions}"),
            (repository, Some(also)) => format!("repository:{repository}:{actions} repository:{also}:pull"),
        }
    }

    fn subject(&self) -> Subject<'_> {
        Subject { repository: &self.repository, target: &self.target }
    }
}

/// The side that answers, and whether it was asked with credentials or a token.
#[derive(Clone, Copy)]
pub(super) struct Side {
    pub(super) own: bool,
    pub(super) signed: bool,
    pub(super) access: Access,
}

/// A good answer.
pub(super) struct Answer {
    pub(super) response: Response,
    /// The host that gave it, after redirects.
    pub(super) host: String,
    /// The place among the requests to the endpoint, until a small body is read.
    place: Option<OwnedSemaphorePermit>,
}

impl Endpoint {
    pub(super) fn new(
        options: &EndpointOptions,
        is_last: bool,
        system: &SystemAuthorities,
        shared: Arc<Shared>,
    ) -> Result<Self, UpstreamSetupError> {
        let host = options.host.clone();
        let origin = origin(options.scheme, &host)?;
        let trust = Trust::new(system, options.ca.as_deref(), shared.face.certificate());
        let trust = trust.map_err(|reason| UpstreamSetupError::Ca { host: host.clone(), reason })?;
        if trust.is_empty && origin.scheme() == "https" {
            let reason = system.problem.clone().unwrap_or_default();
            return Err(UpstreamSetupError::NoAuthorities { host, reason });
        }
        let transport = Transport::new(origin.clone(), &trust, Arc::clone(&shared))?;
        Ok(Self {
            host,
            is_last,
            origin,
            path: options.path.trim_matches('/').to_owned(),
            credentials: options.credentials.clone(),
            transport,
            sign_in: SignIn::default(),
            unchallenged: tokio::sync::Mutex::default(),
            refusals: Refusals::new(&shared.limits),
            gate: Gate::new(&shared.limits),
            shared,
        })
    }

    /// The repository `child` at this endpoint. One that begins with [`WHOLE`] is the registry's own name, not below `path`.
    pub(super) fn repository(&self, child: &str) -> String {
        match (self.path.as_str(), child) {
            (_, whole) if whole.starts_with(WHOLE) => whole.trim_start_matches(WHOLE).to_owned(),
            (path, "") => path.to_owned(),
            ("", child) => child.to_owned(),
            (path, child) => format!("{path}/{child}"),
        }
    }

    /// A question about `child`; `tail` follows the repository's name.
    pub(super) fn call(&self, method: Method, child: &str, tail: &str) -> Call {
        let repository = self.repository(child);
        let target = format!("{}/v2/{repository}/{tail}", self.shared.face.prefix());
        let (access, also, content) = (Access::Pull, None, None);
        let (accept, range, bulk, patient, probe) = (None, None, false, false, false);
        Call { method, access, also, content, repository, target, accept, range, bulk, patient, probe }
    }

    /// The address of a target.
    pub(super) fn url(&self, target: &str) -> Result<Url, UpstreamError> {
        self.origin.join(target).map_err(|_| UpstreamError::invalid(&self.host, "can't be asked for such a name"))
    }

    /// Asks, signs in, follows redirects; only a success is `Ok`. What was refused a moment ago is not asked. Safe to
    /// drop: ends the request.
    pub(super) async fn send(self: &Arc<Self>, call: &Call, deadline: Instant) -> Result<Answer, UpstreamError> {
        if !call.probe {
            self.refusals.admit(call.subject())?;
        }
        let began = Instant::now();
        let answer = Box::pin(self.exchange(call, deadline)).await;
        self.remember(call, began, answer.as_ref().err());
        answer
    }

    /// Takes in what an answer says of the questions after it.
    fn remember(&self, call: &Call, began: Instant, error: Option<&UpstreamError>) {
        let subject = call.subject();
        let Some(error) = error else { return self.refusals.accepted(subject, began) };
        if error.facts().proxy_refused {
            return self.refusals.proxy_refused(error, began);
        }
        let is_denial = matches!(error.cause(), UpstreamCause::Unauthorized | UpstreamCause::Forbidden);
        // It is not the repository that is refused if the pair is.
        let is_denial = is_denial && !call.probe && self.refusals.refused_since(began).is_ok();
        match (error.facts().asked, error.cause()) {
            // No token for this one, while others are given.
            (Asked::SignIn, _) if is_denial && !matches!(self.credentials, Credentials::Anonymous) => {
                self.refusals.denied(subject, error, began);
            }
            // A refused HEAD is followed by a GET, a refused range by the whole.
            (Asked::Content { signed: true }, _) if is_denial && call.method == Method::GET && call.range.is_none() => {
                self.refusals.answered(began);
                self.refusals.denied(subject, error, began);
            }
            (Asked::Content { .. }, UpstreamCause::RateLimited) => self.refusals.limited(error, began),
            (Asked::Content { .. }, UpstreamCause::NotFound) => self.refusals.accepted(subject, began),
            (Asked::Content { .. }, cause) if cause != UpstreamCause::ServerError => {
                self.refusals.failed(subject);
                self.refusals.answered(began);
            }
            _ => self.refusals.failed(subject),
        }
    }

    async fn exchange(self: &Arc<Self>, call: &Call, deadline: Instant) -> Result<Answer, UpstreamError> {
        let mut url = self.url(&call.target)?;
        let mut challenged = false;
        let mut replaced = false;
        let mut looked_at_base = false;
        let mut redirects = 0;
        // A token without our credentials, and the address of another registry that wants it.
        let mut foreign: Option<(Url, HeaderValue)> = None;
        loop {
            let own = self.transport.is_own(&url);
            let host = if own { self.host.clone() } else { host_port(&url) };
            let mut headers = headers(call);
            if own && self.shared.face.is_own_store() {
                headers.insert(HOP, ONE_HOP);
            }
            let signed = if own { self.authorization(call, deadline).await? } else { None };
            let token = foreign.as_ref().filter(|(of, _)| !own && of.origin() == url.origin()).map(|(_, token)| token);
            if let Some(value) = signed.as_ref().map(|signed| &signed.header).or(token) {
                headers.insert(AUTHORIZATION, value.clone());
            }
            let place = if call.probe { None } else { Some(self.gate.enter(&self.host, deadline).await?) };
            let outgoing = Outgoing {
                method: call.method.clone(),
                url: url.clone(),
                headers,
                bulk: call.bulk,
                patient: call.patient,
                body: call.content.as_ref().map(|(_, bytes)| bytes.clone()),
            };
            let began = Instant::now();
            let response = self.transport.exchange(outgoing, deadline).await?;
            let status = response.status();
            if own && status.as_u16() < 400 {
                self.shared.accepted(clock::now());
            }
            if let Some(signed) = &signed {
                self.note_sign_in(signed, status, began);
            }
            if own && let Some(mode) = self.shared.mode {
                answering_mode::check(&host, status, response.headers(), mode)?;
            }
            if status.is_success() {
                // What is labelled as encoded and is not, the digest of a blob tells.
                if !call.bulk {
                    check_encoding(&host, response.headers())?;
                }
                return Ok(Answer { response, host, place: place.filter(|_| !call.bulk) });
            }
            // The first challenge tells how to sign in; a token that is refused later may have ended early, or is so new
            // that not every part of the registry knows it.
            let is_refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            if own
                && is_refused
                && self.is_worth_another(&response, call, signed.as_ref(), &mut challenged, &mut replaced)?
            {
                drop(place);
                self.drain(response, &host).await;
                continue;
            }
            if own
                && signed.is_none()
                && !looked_at_base
                && self.may_hide(status)
                && self.base_challenge(deadline).await?
            {
                looked_at_base = true;
                drop(place);
                self.drain(response, &host).await;
                continue;
            }
            let is_signed = foreign.as_ref().is_some_and(|(of, _)| of.origin() == url.origin());
            if !own && status == StatusCode::UNAUTHORIZED && !is_signed {
                drop(place);
                if let Some(token) = self.foreign_token(response.headers(), &url, deadline).await? {
                    foreign = Some((url.clone(), token));
                    self.drain(response, &host).await;
                    continue;
                }
                return Err(self
                    .refusal(response, &host, Side { own, signed: signed.is_some(), access: call.access }, deadline)
                    .await);
            }
            if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
                drop(place);
                let error = self
                    .refusal(response, &host, Side { own, signed: signed.is_some(), access: call.access }, deadline)
                    .await;
                if status == StatusCode::UNAUTHORIZED
                    && let Some(signed) = signed.filter(|signed| signed.is_basic)
                {
                    self.find_out_about_pair(call, signed, &error, began, deadline).await;
                }
                return Err(error);
            }
            redirects += 1;
            if redirects > self.shared.limits.redirects {
                return Err(UpstreamError::invalid(&host, "redirects without end"));
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = redirect::next(&url, location, |target| self.transport.is_trusted(target));
            url = next.map_err(|reason| not_followed(&host, reason))?;
            self.drain(response, &host).await;
        }
    }

    /// Whether some registries answer so for what an unknown client may not see, and we are not unknown.
    fn may_hide(&self, status: StatusCode) -> bool {
        let hides = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND);
        hides && matches!(self.credentials, Credentials::Basic { .. })
    }

    /// Reads what is left of a small answer, so that its connection serves again.
    pub(super) async fn drain(&self, response: Response, host: &str) {
        let body = self.body(response, host);
        let limit = self.shared.limits.error_bytes;
        // Best effort: a connection that can't be used again is closed.
        let _ = Box::pin(body.whole(limit, Instant::now() + DRAIN)).await;
    }

    pub(super) fn body(&self, response: Response, host: &str) -> UpstreamBody {
        UpstreamBody::new(response, host, &self.shared.metrics, self.shared.limits.stall)
    }

    /// The whole body of a good answer.
    pub(super) async fn whole(&self, answer: Answer, limit: usize, deadline: Instant) -> Result<Bytes, UpstreamError> {
        let Answer { response, host, place: _place } = answer;
        let body = self.body(response, &host);
        Box::pin(body.whole(limit, deadline)).await
    }

    /// The error of an answer that is no success.
    pub(super) async fn refusal(&self, response: Response, host: &str, side: Side, deadline: Instant) -> UpstreamError {
        let Side { own, signed, access } = side;
        let verb = match access {
            Access::Pull => "read",
            Access::Push => "write",
        };
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let what = match status.as_u16() {
            401 | 403 if own && matches!(self.credentials, Credentials::Anonymous) => format!(
                "does not let us {verb} this without credentials ({status}), and none are configured; some registries answer so for what does not exist"
            ),
            401 | 403 if own => format!(
                "refuses our credentials ({status}); they may have expired or may not {verb} this, and some registries answer so for what does not exist"
            ),
            407 => format!("is behind a proxy that wants another user name or password ({status})"),
            404 => format!("does not have it ({status})"),
            429 => format!("says that it is asked too often ({status})"),
            _ => format!("answered {status}"),
        };
        let mut facts = failed_answer(host, status, what);
        facts.asked = match own {
            true => Asked::Content { signed },
            false => Asked::Elsewhere,
        };
        if !own && matches!(status.as_u16(), 401 | 403) {
            // Its storage refuses the address that it gave us itself; our credentials play no part in that.
            facts.cause = UpstreamCause::ServerError;
            facts.again = true;
        }
        facts.retry_after = retry_after;
        let content_type = header(response.headers(), CONTENT_TYPE);
        let is_marked = response.headers().contains_key(API_VERSION) && !content_type.starts_with("text/html");
        let body = self.refused_body(response, host, deadline).await;
        facts.is_registrys = is_marked || body.as_deref().is_some_and(is_registrys_error);
        facts.words = self.words(&content_type, &body.unwrap_or_default());
        facts.into()
    }

    /// The body of an error; `None` if it did not come whole or is longer than `error_bytes`.
    pub(super) async fn refused_body(&self, response: Response, host: &str, deadline: Instant) -> Option<Bytes> {
        let deadline = deadline.min(Instant::now() + self.shared.limits.connect);
        let body = self.body(response, host);
        Box::pin(body.whole(self.shared.limits.error_bytes, deadline)).await.ok()
    }

    pub(super) fn words(&self, content_type: &str, body: &[u8]) -> Option<String> {
        words(content_type, body, &self.shared.secrets)
    }
}

fn headers(call: &Call) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(ACCEPT, call.accept.clone().unwrap_or_else(|| HeaderValue::from_static("*/*")));
    if let Some(range) = &call.range {
        headers.insert(RANGE, range.clone());
    }
    if let Some((media_type, _)) = &call.content {
        headers.insert(CONTENT_TYPE, media_type.clone());
    }
    headers
}

/// A header's text, or none.
pub(super) fn header(headers: &HeaderMap, name: http::HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3); the longest of several, and never longer than
/// [`MAX_RETRY_AFTER`]. What is neither counts as none.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let one = |text: &str| {
        let text = text.trim();
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            // More digits than fit into a number are a long time.
            return Some(text.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs));
        }
        if let Ok(seconds) = text.parse::<f64>() {
            return Duration::try_from_secs_f64(seconds).ok();
        }
        let date = clock::Timestamp::from(httpdate::parse_http_date(text).ok()?);
        Some(date.since(clock::now()).unwrap_or_default())
    };
    let fields = headers.get_all(RETRY_AFTER).iter().filter_map(|field| field.to_str().ok());
    // A date has a comma of its own, a list of numbers has several.
    let told = fields.filter_map(|field| one(field).or_else(|| field.split(',').filter_map(one).max()));
    told.max().map(|wait| wait.min(MAX_RETRY_AFTER))
}

pub(super) fn not_followed(host: &str, reason: NotFollowed) -> UpstreamError {
    match reason {
        NotFollowed::Invalid(what) => UpstreamError::invalid(host, what),
        NotFollowed::Refused(what) => UpstreamError::refused(host, what),
    }
}
