//! Our sign-in at a registry: what its challenges ask for, and whether our pair is taken.
//!
//! A pair that was refused is not sent again at every request, and while it is not proven one request goes first: an
//! account is locked by few wrong sign-ins.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Response, Url};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{OwnedMutexGuard, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::challenge::{self, Challenge};
use super::endpoint::{Call, Endpoint};
use super::error::UpstreamError;
use super::options::Credentials;
use super::redirect::host_port;
use super::token::{TokenKey, Tokens};
use super::token_server;
use super::transport::Outgoing;
use crate::telemetry::UpstreamCause;

/// Repositories whose challenge named another scope than the usual one.
const MAX_SCOPES: usize = 1024;
/// Tokens that are asked for at the same time: there is one for each repository.
const TURNS: usize = 8;
/// How long the first sign-in is waited for by those behind it; a slow one does not hold them up for longer.
const FIRST: Duration = Duration::from_secs(3);

/// The memory of signing in to an endpoint.
pub(super) struct SignIn {
    learnt: Mutex<Learnt>,
    tokens: Tokens,
    /// Tokens that are asked for at once.
    turns: Semaphore,
    /// Held by whoever signs in while the pair is not proven.
    first: Arc<tokio::sync::Mutex<()>>,
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
struct Learnt {
    known: Known,
    /// Scopes other than the usual one, by that.
    scopes: HashMap<String, String>,
}

/// The header that signs a request.
pub(super) struct Signed {
    pub(super) header: HeaderValue,
    pub(super) is_basic: bool,
    /// Others wait to hear whether the pair is taken.
    first: Option<First>,
}

/// The right to sign in before others.
pub(super) type First = OwnedMutexGuard<()>;

impl Default for SignIn {
    fn default() -> Self {
        Self {
            learnt: Mutex::default(),
            tokens: Tokens::default(),
            turns: Semaphore::new(TURNS),
            first: Arc::default(),
        }
    }
}

impl SignIn {
    /// The right to ask for a token. Safe to drop.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.turns.acquire().await.ok()
    }

    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Endpoint {
    /// The header to send along, by what was learnt.
    pub(super) async fn authorization(
        self: &Arc<Self>,
        call: &Call,
        deadline: Instant,
    ) -> Result<Option<Signed>, UpstreamError> {
        let (known, scope) = {
            let learnt = self.sign_in.learnt();
            (learnt.known.clone(), learnt.scopes.get(&call.usual_scope()).cloned())
        };
        match known {
            Known::Nothing => Ok(None),
            Known::Basic => {
                let Some(header) = self.basic() else { return Ok(None) };
                if !call.probe && !self.refusals.is_proven() {
                    self.refusals.admit_sign_in()?;
                }
                let first = if call.probe { None } else { self.go_first(Instant::now(), deadline).await? };
                Ok(Some(Signed { header, is_basic: true, first }))
            }
            Known::Bearer { realm, service } => {
                let scope = scope.unwrap_or_else(|| call.usual_scope());
                let key = TokenKey { realm, service, scope, foreign: false };
                let found = self.token(&key, call.probe, deadline).await;
                if let Err(error) = &found
                    && !error.is_circuit_open()
                    && !matches!(
                        error.cause(),
                        UpstreamCause::Unauthorized | UpstreamCause::Forbidden | UpstreamCause::RateLimited
                    )
                {
                    // The token server may have moved; the next request is challenged anew.
                    self.sign_in.learnt().known = Known::Nothing;
                }
                Ok(Some(Signed { header: found?, is_basic: false, first: None }))
            }
        }
    }

    /// A token, from memory or from its server.
    async fn token(
        self: &Arc<Self>,
        key: &TokenKey,
        probe: bool,
        deadline: Instant,
    ) -> Result<HeaderValue, UpstreamError> {
        let fetch = || {
            if !probe && !key.foreign {
                self.refusals.admit_sign_in()?;
            }
            Ok(token_server::fetch(Arc::clone(self), key.clone()))
        };
        self.sign_in.tokens.header(key, &self.shared.tasks, fetch, deadline).await
    }

    /// Waits for who signs in first while the pair is not proven; `None`: nobody has to. Safe to drop.
    ///
    /// # Errors
    /// The pair was refused to another one after `since`.
    pub(super) async fn go_first(&self, since: Instant, deadline: Instant) -> Result<Option<First>, UpstreamError> {
        if matches!(self.credentials, Credentials::Anonymous) || self.refusals.is_proven() {
            return Ok(None);
        }
        let until = deadline.min(Instant::now() + FIRST);
        let first = timeout_at(until, Arc::clone(&self.sign_in.first).lock_owned()).await.ok();
        self.refusals.refused_since(since)?;
        Ok(first.filter(|_| !self.refusals.is_proven()))
    }

    pub(super) fn basic(&self) -> Option<HeaderValue> {
        let Credentials::Basic { user, password } = &self.credentials else { return None };
        let pair = SecretString::from(format!("{user}:{}", password.expose_secret()));
        let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair.expose_secret()))).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Takes in what an answer says of the pair that it was asked with.
    pub(super) fn note_sign_in(&self, signed: &Signed, status: StatusCode, began: Instant) {
        let says_nothing = matches!(status.as_u16(), 401 | 403 | 407 | 429 | 500..);
        match says_nothing {
            _ if !signed.is_basic => {}
            false => self.refusals.sign_in_accepted(began),
            // What 401 means is to be found out.
            true if status == StatusCode::UNAUTHORIZED => {}
            true => self.refusals.sign_in_failed(),
        }
    }

    /// Basic was refused for one content: whether the pair itself is, `/v2/` says.
    pub(super) async fn find_out_about_pair(
        self: &Arc<Self>,
        call: &Call,
        signed: Signed,
        error: &UpstreamError,
        began: Instant,
        deadline: Instant,
    ) {
        const BASE: &str = "/v2/";
        let until = deadline.min(Instant::now() + FIRST);
        let _first = match &signed.first {
            Some(_) => None,
            None => timeout_at(until, Arc::clone(&self.sign_in.first).lock_owned()).await.ok(),
        };
        // Somebody else found out meanwhile.
        if !call.probe && self.refusals.refused_since(began).is_err() {
            return;
        }
        let refused = if call.target == BASE {
            true
        } else {
            let Ok(url) = self.url(BASE) else { return };
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            headers.insert(AUTHORIZATION, signed.header.clone());
            let outgoing = Outgoing { method: Method::GET, url, headers, bulk: false, patient: false, body: None };
            match self.transport.exchange(outgoing, deadline).await {
                Ok(answer) => {
                    let status = answer.status();
                    self.note_sign_in(&signed, status, began);
                    self.drain(answer, &self.host).await;
                    status == StatusCode::UNAUTHORIZED
                }
                Err(_) => false,
            }
        };
        if refused {
            self.refusals.pair_refused(error, began);
        } else {
            self.refusals.sign_in_failed();
        }
    }

    /// Takes in a refusal with its challenge; whether it is worth asking again. The first challenge is; a refused token
    /// is replaced once, and not at each of many refusals.
    pub(super) fn is_worth_another(
        &self,
        response: &Response,
        call: &Call,
        signed: Option<&Signed>,
        challenged: &mut bool,
        replaced: &mut bool,
    ) -> Result<bool, UpstreamError> {
        let headers = response.headers();
        if response.status() == StatusCode::FORBIDDEN {
            // Only a token's scope may be too narrow, and only if another one is named.
            let wider = match challenge::read(headers, self.shared.limits.challenge_bytes) {
                Some(Challenge::Bearer { scope: Some(scope), .. }) => !covers(&self.scope(call), &scope),
                _ => false,
            };
            if !wider || signed.is_none_or(|signed| signed.is_basic) {
                return Ok(false);
            }
        }
        let is_replacement = signed.is_some_and(|signed| !signed.is_basic);
        let done = if is_replacement { replaced } else { challenged };
        if std::mem::replace(done, true) {
            return Ok(false);
        }
        let is_new = self.learn(headers, &call.usual_scope(), signed.map(|signed| &signed.header))?;
        Ok(is_new && (!is_replacement || call.probe || self.refusals.look_again(&call.repository)))
    }

    fn scope(&self, call: &Call) -> String {
        let usual = call.usual_scope();
        self.sign_in.learnt().scopes.get(&usual).cloned().unwrap_or(usual)
    }

    /// Whether there are credentials to sign in with.
    pub(super) fn has_login(&self) -> bool {
        matches!(self.credentials, Credentials::Basic { .. })
    }

    /// Whether it is known how the registry wants us to sign in.
    pub(super) fn is_challenge_known(&self) -> bool {
        !matches!(self.sign_in.learnt().known, Known::Nothing)
    }

    /// Takes in a challenge to a call of the scope `usual`, `""` for none; whether it is worth asking again.
    pub(super) fn learn(
        &self,
        headers: &HeaderMap,
        usual: &str,
        sent: Option<&HeaderValue>,
    ) -> Result<bool, UpstreamError> {
        if let Some(refused) = sent {
            self.sign_in.tokens.forget(refused);
        }
        match challenge::read(headers, self.shared.limits.challenge_bytes) {
            None => Ok(false),
            Some(Challenge::Basic) => {
                self.sign_in.learnt().known = Known::Basic;
                let basic = self.basic();
                Ok(basic.is_some() && basic.as_ref() != sent)
            }
            Some(Challenge::Bearer { realm, service, scope }) => {
                let realm = self.realm(&realm)?;
                let mut learnt = self.sign_in.learnt();
                learnt.known = Known::Bearer { realm, service };
                match scope.filter(|scope| !covers(usual, scope)) {
                    Some(scope) => {
                        if learnt.scopes.len() >= MAX_SCOPES {
                            learnt.scopes.clear();
                        }
                        learnt.scopes.insert(usual.to_owned(), scope);
                    }
                    None => {
                        learnt.scopes.remove(usual);
                    }
                }
                Ok(true)
            }
        }
    }

    /// A token for another registry that we were redirected to, got as nobody: our credentials don't go there. `None`:
    /// it does not ask for one.
    ///
    /// # Errors
    /// Its token server may not be asked, or gives none.
    pub(super) async fn foreign_token(
        self: &Arc<Self>,
        headers: &HeaderMap,
        at: &Url,
        deadline: Instant,
    ) -> Result<Option<HeaderValue>, UpstreamError> {
        let challenge = challenge::read(headers, self.shared.limits.challenge_bytes);
        let Some(Challenge::Bearer { realm, service, scope }) = challenge else { return Ok(None) };
        let host = host_port(at);
        let url = token_server_address(&host, &realm)?;
        if at.scheme() == "https" && url.scheme() == "http" && !self.transport.is_trusted(&url) {
            let what = format!("names the token server http://{}, which is not asked: it is in clear", host_port(&url));
            return Err(UpstreamError::refused(&host, what));
        }
        let key = TokenKey { realm: url, service, scope: scope.unwrap_or_default(), foreign: true };
        self.token(&key, false, deadline).await.map(Some)
    }

    /// Checks the address of a token server: what was named over TLS has to be over TLS; what was named in clear may
    /// have been named by anybody, so our credentials go to the same host only.
    fn realm(&self, realm: &str) -> Result<Url, UpstreamError> {
        let url = token_server_address(&self.host, realm)?;
        let host = host_port(&url);
        let refused = |why: &str| {
            let what = format!("names the token server {}://{host}, which is not asked: {why}", url.scheme());
            Err(UpstreamError::refused(&self.host, what))
        };
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
}

/// Whether a token of the scope `wide` allows all that `wanted` does (Docker's token specification): a registry asks for as much as
/// one request needs, and a push has one token for reads and writes.
fn covers(wide: &str, wanted: &str) -> bool {
    let grants = |one: &str, wanted: &str| {
        let (Some((of, actions)), Some((wanted_of, wanted))) = (one.rsplit_once(':'), wanted.rsplit_once(':')) else {
            return false;
        };
        of == wanted_of && wanted.split(',').all(|action| actions.split(',').any(|granted| granted == action))
    };
    wanted.split(' ').all(|wanted| wide.split(' ').any(|one| one == wanted || grants(one, wanted)))
}

/// The address that a challenge of `host` names.
fn token_server_address(host: &str, realm: &str) -> Result<Url, UpstreamError> {
    let url = Url::parse(realm)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty()));
    let url = url.ok_or_else(|| UpstreamError::invalid(host, "names a token server without an address"))?;
    if !url.username().is_empty() || url.password().is_some() {
        let (scheme, server) = (url.scheme(), host_port(&url));
        let what =
            format!("names the token server {scheme}://{server}, which is not asked: its address has a user name");
        return Err(UpstreamError::refused(host, what));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_wider_scope_covers_a_narrower_one_of_the_same_repositories() {
        let push = "repository:a/b:pull,push repository:c:pull";
        for narrower in ["repository:a/b:pull", "repository:a/b:push,pull", "repository:c:pull", push] {
            assert!(covers(push, narrower), "{narrower}");
        }
        for other in ["repository:a/b:delete", "repository:c:push", "repository:a:pull", "registry:catalog:*", ""] {
            assert!(!covers(push, other), "{other}");
        }
        assert!(!covers("repository:a:pull", "repository:a:pull,push") && !covers("", "repository:a:pull"));
    }
}
