//! Tokens of Bearer challenges, kept by realm, service and scope: fetched once for all who wait, renewed before they end.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use reqwest::Url;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::error::UpstreamError;
use super::redirect::host_port;
use super::secrets::Secrets;

/// Docker's token specification: a token whose end is not told lives this long.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// No token is used longer, whatever its server says.
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);
/// A token is renewed 30 s before its end, or a fifth of its life if that is shorter.
const MARGIN: Duration = Duration::from_secs(30);
/// Longest token: some are huge, and still have to fit into a header.
const MAX_TOKEN: usize = 32 << 10;
/// Tokens that are kept, one per repository.
const MAX_TOKENS: usize = 4096;

/// The purpose of a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    pub(super) realm: Url,
    pub(super) service: Option<String>,
    pub(super) scope: String,
    /// For another registry that this one redirected to: got as nobody.
    pub(super) foreign: bool,
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

    /// The `Authorization` header for `key`; if there is no token, `fetch` says whether one may be asked for, once for
    /// all callers, and what it gives goes on when this future is dropped.
    pub(super) async fn header<F>(
        &self,
        key: &TokenKey,
        tasks: &TaskTracker,
        fetch: impl FnOnce() -> Result<F, UpstreamError>,
        deadline: Instant,
    ) -> Result<HeaderValue, UpstreamError>
    where
        F: Future<Output = Result<Token, UpstreamError>> + Send + 'static,
    {
        let mut running = match self.token_or_running(key, tasks, fetch)? {
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
        fetch: impl FnOnce() -> Result<F, UpstreamError>,
    ) -> Result<Result<HeaderValue, watch::Receiver<Outcome>>, UpstreamError>
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
            return Ok(Ok(token.header.clone()));
        }
        // A sender that is gone without a word was ended with its runtime.
        if let Some(running) = &slot.running
            && running.has_changed().is_ok()
        {
            return Ok(Err(running.clone()));
        }
        let fetching = match fetch() {
            Ok(fetching) => fetching,
            Err(refused) => {
                slots.remove(key);
                return Err(refused);
            }
        };
        let (sender, receiver) = watch::channel(None);
        slot.running = Some(receiver.clone());
        drop(slots);
        let (all, key) = (self.clone(), key.clone());
        tasks.spawn(async move {
            let outcome = fetching.await;
            all.store(key, &outcome);
            sender.send_replace(Some(outcome));
        });
        Ok(Err(receiver))
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

/// Reads a token server's answer to a request that was sent at `asked`. As lenient as what writes such answers: the
/// life may be a number, a string or missing, a name may hold null. `issued_at` does not count: it is told by another
/// clock.
pub(super) fn read(body: &[u8], asked: Instant, secrets: &Secrets) -> Result<Token, &'static str> {
    const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let answer: Value = serde_json::from_slice(body).map_err(|_| "answered with something that is no token")?;
    let text = |key| answer.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    for secret in ["token", "access_token", "refresh_token", "id_token"].into_iter().filter_map(text) {
        secrets.note_token(secret);
    }
    let text = text("token").or_else(|| text("access_token")).ok_or("answered without a token")?;
    if text.len() > MAX_TOKEN {
        return Err("gave a token that is too long");
    }
    let mut header =
        HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| "gave a token that fits into no header")?;
    header.set_sensitive(true);
    let life = match answer.get("expires_in").and_then(seconds) {
        Some(seconds) if seconds >= 1.0 => Duration::try_from_secs_f64(seconds).unwrap_or(MAX_LIFE).min(MAX_LIFE),
        _ => DEFAULT_LIFE,
    };
    Ok(Token { header, renew: asked + life - MARGIN.min(life / 5) })
}

/// A number of seconds, however it is written.
fn seconds(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().trim_end_matches(['s', 'S']).trim_end().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(body: &str) -> Duration {
        let asked = Instant::now();
        read(body.as_bytes(), asked, &Secrets::default()).unwrap().renew - asked
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
    fn a_life_is_read_however_it_is_written() {
        for three_hundred in ["300", "300.0", "3e2", "\"300\"", "\" 300 \"", "\"300.0\"", "\"300s\""] {
            let body = format!(r#"{{"token":"a","expires_in":{three_hundred},"issued_at":7}}"#);
            assert_eq!(life(&body), Duration::from_secs(270), "{body}");
        }
        for none in ["null", "-1", "\"-300\"", "\"soon\"", "\"\"", "[]", "{}", "true", "\"NaN\"", "\"1e-9\""] {
            let body = format!(r#"{{"access_token":"a","token":null,"expires_in":{none},"issued_at":null}}"#);
            assert_eq!(life(&body), Duration::from_secs(48), "{body}");
        }
        assert_eq!(life(r#"{"token":"a","expires_in":"inf"}"#), MAX_LIFE - MARGIN);
    }

    #[test]
    fn a_token_is_found_under_either_name() {
        let header = |body: &str| read(body.as_bytes(), Instant::now(), &Secrets::default()).unwrap().header;
        for body in [
            r#"{"token":"a","access_token":"b"}"#,
            r#"{"token":null,"access_token":" a\n"}"#,
            r#"{"token":"","access_token":"a","scope":null,"x":[{}]}"#,
            r#"{"token":["x"],"access_token":"a"}"#,
            r#"{"token":"x","token":"a"}"#,
            "\u{feff}{\"token\":\"a\"}",
        ] {
            assert_eq!(header(body), "Bearer a", "{body}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for bad in ["", "<html>", "{}", "[]", "null", r#"{"token":""}"#, r#"{"token":7}"#, r#"{"token":"a\nb"}"#] {
            assert!(read(bad.as_bytes(), Instant::now(), &Secrets::default()).is_err(), "{bad}");
        }
        let long = format!(r#"{{"token":"{}"}}"#, "x".repeat(MAX_TOKEN + 1));
        assert!(read(long.as_bytes(), Instant::now(), &Secrets::default()).is_err());
    }
}
