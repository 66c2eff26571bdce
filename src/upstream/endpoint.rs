//! One registry of an upstream: addresses its requests, signs them in, follows its redirects.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Response, Url};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;

use super::Shared;
use super::body::{UpstreamBody, check_encoding};
use super::challenge::{self, Challenge};
use super::error::{UpstreamError, UpstreamSetupError, is_registrys_error, words};
use super::options::{Credentials, EndpointOptions};
use super::redirect::{self, NotFollowed, host_port};
use super::tls::{SystemAuthorities, Trust};
use super::token::{self, Token, TokenKey, Tokens};
use super::transport::{Outgoing, Transport, failed_answer, origin};
use crate::clock;
use crate::telemetry::UpstreamCause;

/// Repositories whose challenge named another scope than the usual one.
const MAX_SCOPES: usize = 1024;
/// How long the rest of an answer that nobody needs is waited for, so that its connection can be used again.
const DRAIN: Duration = Duration::from_millis(500);
/// The header by which registries name their protocol (distribution-spec, "Legacy Docker support HTTP headers").
const API_VERSION: &str = "docker-distribution-api-version";
/// How often a token is asked for.
const TOKEN_ATTEMPTS: u32 = 2;

/// One registry.
pub(super) struct Endpoint {
    /// `host[:port]` as configured.
    pub(super) host: String,
    /// No other is tried after it.
    pub(super) is_last: bool,
    origin: Url,
    path: String,
    credentials: Credentials,
    pub(super) transport: Transport,
    sign_in: Mutex<SignIn>,
    /// When `/v2/` last answered without a challenge. Held while it is asked, so that many who need to know ask once.
    pub(super) unchallenged: tokio::sync::Mutex<Option<Instant>>,
    tokens: Tokens,
    pub(super) shared: Arc<Shared>,
}

/// How the registry wants us to sign in, as learnt from its last challenge.
#[derive(Clone, Default)]
enum Known {
    #[default]
    Nothing,
    Basic,
    Bearer {
        realm: Url,
        service: Option<String>,
    },
}

#[derive(Default)]
struct SignIn {
    known: Known,
    /// Scopes other than the usual one, by repository.
    scopes: HashMap<String, String>,
}

/// A question to a registry.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) method: Method,
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
}

/// A good answer.
pub(super) struct Answer {
    pub(super) response: Response,
    /// Who gave it, after redirects.
    pub(super) host: String,
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
        let trust = Trust::new(system, options.ca.as_deref());
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
            sign_in: Mutex::default(),
            unchallenged: tokio::sync::Mutex::default(),
            tokens: Tokens::default(),
            shared,
        })
    }

    /// The repository `child` at this endpoint.
    pub(super) fn repository(&self, child: &str) -> String {
        match (self.path.as_str(), child) {
            (path, "") => path.to_owned(),
            ("", child) => child.to_owned(),
            (path, child) => format!("{path}/{child}"),
        }
    }

    /// A question about `child`; `tail` follows the repository's name.
    pub(super) fn call(&self, method: Method, child: &str, tail: &str) -> Call {
        let repository = self.repository(child);
        let target = format!("/v2/{repository}/{tail}");
        Call { method, repository, target, accept: None, range: None, bulk: false, patient: false }
    }

    /// The address of a target.
    pub(super) fn url(&self, target: &str) -> Result<Url, UpstreamError> {
        self.origin.join(target).map_err(|_| UpstreamError::invalid(&self.host, "can't be asked for such a name"))
    }

    /// Asks, signs in, follows redirects; only a success is `Ok`. Safe to drop: ends the request.
    pub(super) async fn send(self: &Arc<Self>, call: &Call, deadline: Instant) -> Result<Answer, UpstreamError> {
        let mut url = self.url(&call.target)?;
        let mut challenged = false;
        let mut looked_at_base = false;
        let mut redirects = 0;
        loop {
            let own = self.transport.is_own(&url);
            let host = if own { self.host.clone() } else { host_port(&url) };
            let mut headers = headers(call);
            let signed = if own { self.authorization(&call.repository, deadline).await? } else { None };
            if let Some(value) = &signed {
                headers.insert(AUTHORIZATION, value.clone());
            }
            let outgoing = Outgoing {
                method: call.method.clone(),
                url: url.clone(),
                headers,
                bulk: call.bulk,
                patient: call.patient,
            };
            let response = self.transport.exchange(outgoing, deadline).await?;
            let status = response.status();
            if own && status.as_u16() < 400 {
                self.shared.accepted(clock::now());
            }
            if status.is_success() {
                // What is labelled as encoded and is not, the digest of a blob tells.
                if !call.bulk {
                    check_encoding(&host, response.headers())?;
                }
                return Ok(Answer { response, host });
            }
            if own && status == StatusCode::UNAUTHORIZED && !challenged {
                challenged = true;
                if self.learn(response.headers(), &call.repository, signed.as_ref())? {
                    self.drain(response, &host).await;
                    continue;
                }
            }
            if own && signed.is_none() && !looked_at_base && may_hide(status) && self.base_challenge(deadline).await? {
                looked_at_base = true;
                self.drain(response, &host).await;
                continue;
            }
            if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
                return Err(self.refusal(response, &host, own, deadline).await);
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
        let body = self.body(answer.response, &answer.host);
        Box::pin(body.whole(limit, deadline)).await
    }

    /// Whether it is known how the registry wants us to sign in.
    pub(super) fn is_challenge_known(&self) -> bool {
        !matches!(self.sign_in().known, Known::Nothing)
    }

    fn sign_in(&self) -> MutexGuard<'_, SignIn> {
        self.sign_in.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to send along, by what was learnt.
    async fn authorization(
        self: &Arc<Self>,
        repository: &str,
        deadline: Instant,
    ) -> Result<Option<HeaderValue>, UpstreamError> {
        let (known, scope) = {
            let sign_in = self.sign_in();
            (sign_in.known.clone(), sign_in.scopes.get(repository).cloned())
        };
        match known {
            Known::Nothing => Ok(None),
            Known::Basic => Ok(self.basic()),
            Known::Bearer { realm, service } => {
                let scope = scope.unwrap_or_else(|| usual_scope(repository));
                let key = TokenKey { realm, service, scope };
                let fetch = || fetch_token(Arc::clone(self), key.clone());
                let found = self.tokens.header(&key, &self.shared.tasks, fetch, deadline).await;
                if let Err(error) = &found
                    && !matches!(error.cause(), UpstreamCause::Unauthorized | UpstreamCause::Forbidden)
                {
                    // The token server may have moved; the next request is challenged anew.
                    self.sign_in().known = Known::Nothing;
                }
                found.map(Some)
            }
        }
    }

    fn basic(&self) -> Option<HeaderValue> {
        let Credentials::Basic { user, password } = &self.credentials else { return None };
        let pair = SecretString::from(format!("{user}:{}", password.expose_secret()));
        let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair.expose_secret()))).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Takes in a challenge; whether it is worth asking again.
    pub(super) fn learn(
        &self,
        headers: &HeaderMap,
        repository: &str,
        sent: Option<&HeaderValue>,
    ) -> Result<bool, UpstreamError> {
        if let Some(refused) = sent {
            self.tokens.forget(refused);
        }
        match challenge::read(headers, self.shared.limits.challenge_bytes) {
            None => Ok(false),
            Some(Challenge::Basic) => {
                self.sign_in().known = Known::Basic;
                let basic = self.basic();
                Ok(basic.is_some() && basic.as_ref() != sent)
            }
            Some(Challenge::Bearer { realm, service, scope }) => {
                let realm = self.realm(&realm)?;
                let mut sign_in = self.sign_in();
                sign_in.known = Known::Bearer { realm, service };
                match scope.filter(|scope| *scope != usual_scope(repository)) {
                    Some(scope) => {
                        if sign_in.scopes.len() >= MAX_SCOPES {
                            sign_in.scopes.clear();
                        }
                        sign_in.scopes.insert(repository.to_owned(), scope);
                    }
                    None => {
                        sign_in.scopes.remove(repository);
                    }
                }
                Ok(true)
            }
        }
    }

    /// Checks the address of a token server: what was named over TLS has to be over TLS; what was named in clear may
    /// have been named by anybody, so our credentials go to the same host only.
    fn realm(&self, realm: &str) -> Result<Url, UpstreamError> {
        let url = Url::parse(realm).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty())
        });
        let url = url.ok_or_else(|| UpstreamError::invalid(&self.host, "names a token server without an address"))?;
        let host = host_port(&url);
        let refused = |why: &str| {
            let what = format!("names the token server {}://{host}, which is not asked: {why}", url.scheme());
            Err(UpstreamError::refused(&self.host, what))
        };
        if !url.username().is_empty() || url.password().is_some() {
            return refused("its address has a user name");
        }
        if self.origin.scheme() == "https" && url.scheme() == "http" {
            return refused("a token would be sent in clear although the upstream's scheme is HTTPS");
        }
        let same_host = url.host_str() == self.origin.host_str();
        let with_credentials = matches!(self.credentials, Credentials::Basic { .. });
        if self.origin.scheme() == "http" && with_credentials && !same_host {
            return refused("over plain HTTP the credentials go to the upstream's own host only");
        }
        Ok(url)
    }

    /// The error of an answer that is no success.
    async fn refusal(&self, response: Response, host: &str, own: bool, deadline: Instant) -> UpstreamError {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let what = match status.as_u16() {
            401 | 403 if own && matches!(self.credentials, Credentials::Anonymous) => format!(
                "does not let us read this without credentials ({status}), and none are configured; some registries answer so for what does not exist"
            ),
            401 | 403 if own => format!(
                "refuses our credentials ({status}); they may have expired or may not read this, and some registries answer so for what does not exist"
            ),
            407 => format!("is behind a proxy that wants another user name or password ({status})"),
            404 => format!("does not have it ({status})"),
            429 => format!("says that it is asked too often ({status})"),
            _ => format!("answered {status}"),
        };
        let mut facts = failed_answer(host, status, what);
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

    /// What came of an error's body; `None` if it did not come whole or is longer than `error_bytes`.
    async fn refused_body(&self, response: Response, host: &str, deadline: Instant) -> Option<Bytes> {
        let deadline = deadline.min(Instant::now() + self.shared.limits.connect);
        let body = self.body(response, host);
        Box::pin(body.whole(self.shared.limits.error_bytes, deadline)).await.ok()
    }

    fn words(&self, content_type: &str, body: &[u8]) -> Option<String> {
        let secret = match &self.credentials {
            Credentials::Basic { password, .. } => password.expose_secret(),
            Credentials::Anonymous => "",
        };
        words(content_type, body, &[secret])
    }
}

/// Asks the token server. Bounded by itself, not by whoever waits.
async fn fetch_token(endpoint: Arc<Endpoint>, key: TokenKey) -> Result<Token, UpstreamError> {
    let limit = endpoint.shared.limits.connect + endpoint.shared.limits.first_byte;
    let deadline = Instant::now() + limit;
    let mut attempt = 1;
    loop {
        let result = Box::pin(endpoint.token(&key, deadline)).await;
        match result {
            Err(error) if error.facts().again && error.retry_after().is_none() && attempt < TOKEN_ATTEMPTS => {
                attempt += 1;
                tokio::time::sleep(endpoint.shared.limits.retry_pause).await;
            }
            other => return other,
        }
    }
}

impl Endpoint {
    async fn token(&self, key: &TokenKey, deadline: Instant) -> Result<Token, UpstreamError> {
        let host = host_port(&key.realm);
        let mut url = key.realm.clone();
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &key.service {
                query.append_pair("service", service);
            }
            if !key.scope.is_empty() {
                query.append_pair("scope", &key.scope);
            }
            if let Credentials::Basic { user, .. } = &self.credentials {
                query.append_pair("account", user);
            }
        }
        if let Some(basic) = self.basic() {
            headers.insert(AUTHORIZATION, basic);
        }
        let asked = Instant::now();
        let outgoing = Outgoing { method: Method::GET, url, headers, bulk: false, patient: false };
        let response = self.transport.exchange(outgoing, deadline).await?;
        let status = response.status();
        if status == StatusCode::OK {
            check_encoding(&host, response.headers())?;
            let body = self.body(response, &host);
            let body = Box::pin(body.whole(self.shared.limits.token_bytes, deadline)).await?;
            return token::read(&body, asked).map_err(|what| UpstreamError::invalid(&host, what));
        }
        let what = match (status.as_u16(), &self.credentials) {
            (401 | 403, Credentials::Basic { user, .. }) => {
                format!("refuses the user {user:?} with the password or licence that is configured ({status})")
            }
            (401 | 403, Credentials::Anonymous) => {
                format!("gives no token without credentials ({status}), and none are configured")
            }
            _ => format!("answered {status} when asked for a token"),
        };
        let mut facts = failed_answer(&host, status, what);
        if matches!(status.as_u16(), 404 | 408) {
            // What is missing is the token server, not what the client wants.
            facts.cause = UpstreamCause::Invalid;
        }
        facts.retry_after = retry_after(response.headers());
        let content_type = header(response.headers(), CONTENT_TYPE);
        let body = self.refused_body(response, &host, deadline).await;
        facts.words = self.words(&content_type, &body.unwrap_or_default());
        Err(facts.into())
    }
}

/// Whether some registries answer so for what an unknown client may not see.
const fn may_hide(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND)
}

/// The scope of a pull (Docker's token specification).
fn usual_scope(repository: &str) -> String {
    if repository.is_empty() { String::new() } else { format!("repository:{repository}:pull") }
}

fn headers(call: &Call) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(ACCEPT, call.accept.clone().unwrap_or_else(|| HeaderValue::from_static("*/*")));
    if let Some(range) = &call.range {
        headers.insert(RANGE, range.clone());
    }
    headers
}

/// A header's text, or none.
pub(super) fn header(headers: &HeaderMap, name: http::HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = clock::Timestamp::from(httpdate::parse_http_date(value).ok()?);
    Some(date.since(clock::now()).unwrap_or_default())
}

pub(super) fn not_followed(host: &str, reason: NotFollowed) -> UpstreamError {
    match reason {
        NotFollowed::Invalid(what) => UpstreamError::invalid(host, what),
        NotFollowed::Refused(what) => UpstreamError::refused(host, what),
    }
}
