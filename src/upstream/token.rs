//! Tokens of Bearer challenges, kept by realm, service and scope: fetched once for all who wait, renewed before they end.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use reqwest::Url;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::error::UpstreamError;
use super::redirect::host_port;

/// Docker's token specification: a token whose end is not told lives this long.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// No token is used longer, whatever its server says.
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);
/// A token is renewed so long before its end, or a fifth of its life if that is shorter.
const MARGIN: Duration = Duration::from_secs(30);
/// Longest token: some are huge, and still have to fit into a header.
const MAX_TOKEN: usize = 32 << 10;
/// Tokens that are kept, one per repository.
const MAX_TOKENS: usize = 4096;

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    pub(super) realm: Url,
    pub(super) service: Option<String>,
    pub(super) scope: String,
}

/// A token as the header that carries it.
#[derive(Clone)]
pub(super) struct Token {
    header: HeaderValue,
    renew: Instant,
}

type Outcome = Option<Result<Token, UpstreamError>>;

#[derive(Default)]
struct Slot {
    token: Option<Token>,
    running: Option<watch::Receiver<Outcome>>,
}

/// All tokens of an endpoint.
#[derive(Clone, Default)]
pub(super) struct Tokens(Arc<Mutex<HashMap<TokenKey, Slot>>>);

impl Tokens {
    fn slots(&self) -> MutexGuard<'_, HashMap<TokenKey, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The `Authorization` header for `key`; `fetch` is started if there is no token, once for all callers, and goes on
    /// when this future is dropped.
    pub(super) async fn header<F>(
        &self,
        key: &TokenKey,
        tasks: &TaskTracker,
        fetch: impl FnOnce() -> F,
        deadline: Instant,
    ) -> Result<HeaderValue, UpstreamError>
    where
        F: Future<Output = Result<Token, UpstreamError>> + Send + 'static,
    {
        let mut running = match self.token_or_running(key, tasks, fetch) {
            Ok(header) => return Ok(header),
            Err(running) => running,
        };
        let host = host_port(&key.realm);
        let outcome = timeout_at(deadline, running.wait_for(Option::is_some)).await;
        let outcome = outcome.map_err(|_| UpstreamError::timeout(&host, "gave no token in time"))?;
        let outcome = outcome.ok().and_then(|outcome| outcome.clone());
        let token =
            outcome.unwrap_or_else(|| Err(UpstreamError::timeout(&host, "was not asked for a token to the end")))?;
        Ok(token.header)
    }

    fn token_or_running<F>(
        &self,
        key: &TokenKey,
        tasks: &TaskTracker,
        fetch: impl FnOnce() -> F,
    ) -> Result<HeaderValue, watch::Receiver<Outcome>>
    where
        F: Future<Output = Result<Token, UpstreamError>> + Send + 'static,
    {
        let mut slots = self.slots();
        if slots.len() >= MAX_TOKENS && !slots.contains_key(key) {
            let now = Instant::now();
            slots.retain(|_, slot| slot.running.is_some() || slot.token.as_ref().is_some_and(|t| t.renew > now));
            if slots.len() >= MAX_TOKENS {
                slots.retain(|_, slot| slot.running.is_some());
            }
        }
        let slot = slots.entry(key.clone()).or_default();
        if let Some(token) = &slot.token
            && token.renew > Instant::now()
        {
            return Ok(token.header.clone());
        }
        // A sender that is gone without a word was ended with its runtime.
        if let Some(running) = &slot.running
            && running.has_changed().is_ok()
        {
            return Err(running.clone());
        }
        let (sender, receiver) = watch::channel(None);
        slot.running = Some(receiver.clone());
        drop(slots);
        let (all, key, fetching) = (self.clone(), key.clone(), fetch());
        tasks.spawn(async move {
            let outcome = fetching.await;
            all.store(key, &outcome);
            sender.send_replace(Some(outcome));
        });
        Err(receiver)
    }

    fn store(&self, key: TokenKey, outcome: &Result<Token, UpstreamError>) {
        let mut slots = self.slots();
        match outcome {
            Ok(token) => {
                slots.insert(key, Slot { token: Some(token.clone()), running: None });
            }
            Err(_) => {
                slots.remove(&key);
            }
        }
    }

    /// Forgets a token that was refused, unless another one has taken its place.
    pub(super) fn forget(&self, refused: &HeaderValue) {
        for slot in self.slots().values_mut() {
            if slot.token.as_ref().is_some_and(|token| token.header == *refused) {
                slot.token = None;
            }
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<f64>,
}

/// Reads a token server's answer to a request that was sent at `asked`.
pub(super) fn read(body: &[u8], asked: Instant) -> Result<Token, &'static str> {
    let answer: Answer = serde_json::from_slice(body).map_err(|_| "answered with something that is no token")?;
    let text = [answer.token, answer.access_token].into_iter().flatten().find(|text| !text.is_empty());
    let text = text.ok_or("answered without a token")?;
    if text.len() > MAX_TOKEN {
        return Err("gave a token that is too long");
    }
    let mut header =
        HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| "gave a token that fits into no header")?;
    header.set_sensitive(true);
    let life = match answer.expires_in {
        Some(seconds) if seconds >= 1.0 => Duration::try_from_secs_f64(seconds).unwrap_or(MAX_LIFE).min(MAX_LIFE),
        _ => DEFAULT_LIFE,
    };
    Ok(Token { header, renew: asked + life - MARGIN.min(life / 5) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(body: &str) -> Duration {
        let asked = Instant::now();
        read(body.as_bytes(), asked).unwrap().renew - asked
    }

    #[test]
    fn tokens_are_renewed_before_their_end() {
        assert_eq!(life(r#"{"token":"a"}"#), Duration::from_secs(48));
        assert_eq!(life(r#"{"access_token":"a","expires_in":300}"#), Duration::from_secs(270));
        assert_eq!(life(r#"{"token":"a","expires_in":0}"#), Duration::from_secs(48));
        assert_eq!(life(r#"{"token":"a","expires_in":5}"#), Duration::from_secs(4));
        assert_eq!(life(r#"{"token":"a","expires_in":1e300}"#), MAX_LIFE - MARGIN);
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for bad in ["", "<html>", "{}", r#"{"token":""}"#, r#"{"token":"a\nb"}"#] {
            assert!(read(bad.as_bytes(), Instant::now()).is_err(), "{bad}");
        }
        let long = format!(r#"{{"token":"{}"}}"#, "x".repeat(MAX_TOKEN + 1));
        assert!(read(long.as_bytes(), Instant::now()).is_err());
    }
}
