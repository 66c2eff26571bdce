//! One question to a token server (Docker's token specification), bounded by itself and not by whoever waits.

use std::sync::Arc;

use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Response, Url};
use tokio::time::{Instant, timeout_at};

use super::body::check_encoding;
use super::endpoint::{Endpoint, header, not_followed, retry_after};
use super::error::{Asked, UpstreamError};
use super::options::Credentials;
use super::redirect::{self, host_port};
use super::token::{self, Token, TokenKey};
use super::transport::{Outgoing, failed_answer};
use crate::telemetry::UpstreamCause;

/// How often a token is asked for.
const ATTEMPTS: u32 = 2;
/// Redirects of a token server to itself.
const REDIRECTS: usize = 3;

/// Asks for a token, and takes in what the answer says of the pair.
pub(super) async fn fetch(endpoint: Arc<Endpoint>, key: TokenKey) -> Result<Token, UpstreamError> {
    let limits = &endpoint.shared.limits;
    let deadline = Instant::now() + limits.connect + limits.first_byte;
    let asked = Box::pin(ask(&endpoint, &key, deadline)).await;
    if matches!(&asked, Err(error) if error.facts().asked == Asked::Nobody) && !key.foreign {
        endpoint.refusals.sign_in_failed();
    }
    asked
}

async fn ask(endpoint: &Arc<Endpoint>, key: &TokenKey, deadline: Instant) -> Result<Token, UpstreamError> {
    let late = || UpstreamError::timeout(&host_port(&key.realm), "was not asked for a token: too many wait for one");
    let since = Instant::now();
    let turn = timeout_at(deadline, endpoint.sign_in.turn()).await;
    let _turn = turn.map_err(|_| late())?;
    let _first = if key.foreign { None } else { endpoint.go_first(since, deadline).await? };
    let mut attempt = 1;
    loop {
        let began = Instant::now();
        let result = Box::pin(endpoint.ask_token_server(key, deadline)).await;
        if !key.foreign {
            match &result {
                Ok(_) => endpoint.refusals.sign_in_accepted(began),
                Err(error) => endpoint.note_refused_sign_in(key, error, began, deadline).await,
            }
        }
        match result {
            Err(error) if error.facts().again && error.retry_after().is_none() && attempt < ATTEMPTS => {
                if error.cause() == UpstreamCause::RateLimited {
                    return Err(error);
                }
                attempt += 1;
                tokio::time::sleep(endpoint.shared.limits.retry_pause).await;
            }
            other => return other,
        }
    }
}

impl Endpoint {
    /// Takes in why there is no token.
    async fn note_refused_sign_in(&self, key: &TokenKey, error: &UpstreamError, began: Instant, deadline: Instant) {
        if error.facts().asked != Asked::SignIn {
            return;
        }
        match error.cause() {
            UpstreamCause::RateLimited => self.refusals.sign_in_limited(error, began),
            UpstreamCause::Unauthorized | UpstreamCause::Forbidden
                if matches!(self.credentials, Credentials::Anonymous) => {}
            UpstreamCause::Unauthorized => self.refusals.pair_refused(error, began),
            UpstreamCause::Forbidden => {
                // Some refuse a scope like this: a token for nothing tells whether the pair is taken.
                let nothing = TokenKey { scope: String::new(), ..key.clone() };
                let is_taken =
                    !key.scope.is_empty() && Box::pin(self.ask_token_server(&nothing, deadline)).await.is_ok();
                match is_taken {
                    true => self.refusals.sign_in_accepted(began),
                    false => self.refusals.pair_refused(error, began),
                }
            }
            _ => self.refusals.sign_in_failed(),
        }
    }

    async fn ask_token_server(&self, key: &TokenKey, deadline: Instant) -> Result<Token, UpstreamError> {
        let host = host_port(&key.realm);
        let credentials = if key.foreign { &Credentials::Anonymous } else { &self.credentials };
        let mut url = key.realm.clone();
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &key.service {
                query.append_pair("service", service);
            }
            // One for each repository.
            for scope in key.scope.split(' ').filter(|scope| !scope.is_empty()) {
                query.append_pair("scope", scope);
            }
            if let Credentials::Basic { user, .. } = credentials {
                query.append_pair("account", user);
            }
        }
        if let Some(basic) = self.basic().filter(|_| !key.foreign) {
            headers.insert(AUTHORIZATION, basic);
        }
        let asked = Instant::now();
        let response = self.follow(url, headers, deadline).await?;
        let status = response.status();
        if status == StatusCode::OK {
            check_encoding(&host, response.headers())?;
            let body = self.body(response, &host);
            let body = Box::pin(body.whole(self.shared.limits.token_bytes, deadline)).await?;
            let token = token::read(&body, asked, &self.shared.secrets);
            return token.map_err(|what| UpstreamError::invalid(&host, what));
        }
        let what = match (status.as_u16(), credentials) {
            (401 | 403, Credentials::Basic { user, .. }) => {
                format!("refuses the user {user:?} with the password or licence that is configured ({status})")
            }
            (401 | 403, Credentials::Anonymous) if key.foreign => {
                format!("gives no token without credentials ({status}), and ours are for {} only", self.host)
            }
            (401 | 403, Credentials::Anonymous) => {
                format!("gives no token without credentials ({status}), and none are configured")
            }
            _ => format!("answered {status} when asked for a token"),
        };
        let mut facts = failed_answer(&host, status, what);
        facts.asked = if key.foreign { Asked::Elsewhere } else { Asked::SignIn };
        if key.foreign && matches!(status.as_u16(), 401 | 403) {
            // Our credentials play no part in that.
            facts.cause = UpstreamCause::ServerError;
        }
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

    /// Asks and follows redirects that stay at the same scheme, host and port: what is sent along is for nobody else.
    async fn follow(&self, mut url: Url, headers: HeaderMap, deadline: Instant) -> Result<Response, UpstreamError> {
        let host = host_port(&url);
        for _ in 0..=REDIRECTS {
            let outgoing = Outgoing {
                method: Method::GET,
                url: url.clone(),
                headers: headers.clone(),
                bulk: false,
                patient: false,
                body: None,
            };
            let response = self.transport.exchange(outgoing, deadline).await?;
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = redirect::next(&url, location, |_| false).map_err(|reason| not_followed(&host, reason))?;
            if next.origin() != url.origin() {
                let (scheme, to) = (next.scheme(), host_port(&next));
                let what = format!("redirects to {scheme}://{to} when asked for a token, which is not followed");
                return Err(UpstreamError::refused(&host, what));
            }
            self.drain(response, &host).await;
            url = next;
        }
        Err(UpstreamError::invalid(&host, "redirects without end when asked for a token"))
    }
}
