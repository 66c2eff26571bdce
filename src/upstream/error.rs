//! Failures of an upstream, in words for an administrator and as facts for the code.
//!
//! No error carries a secret or the query of a URL.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::secrets::Secrets;
use crate::telemetry::UpstreamCause;

/// Longest text of an upstream that is passed on, in bytes.
const MAX_WORDS: usize = 1024;

/// Why an upstream did not give what it was asked for. Cheap to clone. Its `Display` is one sentence that begins with
/// the host.
#[derive(Clone)]
pub struct UpstreamError(Arc<Facts>);

/// The facts of an [`UpstreamError`], while it is being made.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) cause: UpstreamCause,
    pub(super) host: String,
    /// The rest of the sentence, behind the host.
    pub(super) what: String,
    pub(super) status: Option<StatusCode>,
    pub(super) retry_after: Option<Duration>,
    /// The upstream's own words, cut and cleaned.
    pub(super) words: Option<String>,
    /// Not asked at all: its circuit is open, or it refused the same a moment ago.
    pub(super) circuit_open: bool,
    /// Not asked because too much is asked of it already.
    pub(super) busy: bool,
    /// The proxy before the host refuses our user name or password.
    pub(super) proxy_refused: bool,
    pub(super) asked: Asked,
    /// Worth another try soon.
    pub(super) again: bool,
    /// The answer is in the shape of the specification: no page of a portal, a filter or a proxy.
    pub(super) is_registrys: bool,
}

/// The side whose answer an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nobody's: no whole answer came, or none was asked for.
    Nobody,
    /// The registry's own about what was asked for, with or without credentials or a token.
    Content {
        /// With.
        signed: bool,
    },
    /// That of whoever the registry sent us to.
    Elsewhere,
    /// The token server's.
    SignIn,
}

impl Facts {
    pub(super) fn new(cause: UpstreamCause, host: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            cause,
            host: host.into(),
            what: what.into(),
            status: None,
            retry_after: None,
            words: None,
            circuit_open: false,
            busy: false,
            proxy_refused: false,
            asked: Asked::Nobody,
            again: false,
            is_registrys: false,
        }
    }

    pub(super) fn again(mut self) -> Self {
        self.again = true;
        self
    }

    pub(super) fn status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }
}

impl From<Facts> for UpstreamError {
    fn from(facts: Facts) -> Self {
        Self(Arc::new(facts))
    }
}

impl UpstreamError {
    /// An answer that breaks the protocol.
    pub(super) fn invalid(host: &str, what: impl Into<String>) -> Self {
        Facts::new(UpstreamCause::Invalid, host, what).into()
    }

    /// Somewhere we don't go.
    pub(super) fn refused(host: &str, what: impl Into<String>) -> Self {
        Facts::new(UpstreamCause::Refused, host, what).into()
    }

    /// No answer in time.
    pub(super) fn timeout(host: &str, what: impl Into<String>) -> Self {
        Facts::new(UpstreamCause::Timeout, host, what).into()
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.0
    }

    /// The class of the error, also its label in metrics.
    #[must_use]
    pub fn cause(&self) -> UpstreamCause {
        self.0.cause
    }

    /// `host[:port]` of whoever failed: the upstream, its token server, or its storage.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// The status it answered with, if it answered.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.0.status.map(|status| status.as_u16())
    }

    /// How long it asked to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the host was not asked, because it was down or refused this a moment ago.
    #[must_use]
    pub fn is_circuit_open(&self) -> bool {
        self.0.circuit_open
    }

    /// The same without any secret: a part of an answer may stand in what was said of it.
    pub(super) fn hidden(self, secrets: &Secrets) -> Self {
        let (host, what) = (secrets.hide(&self.0.host), secrets.hide(&self.0.what));
        if host == self.0.host && what == self.0.what {
            return self;
        }
        Facts { host, what, ..(*self.0).clone() }.into()
    }

    /// Whether a registry said so: its error has the specification's shape, or its headers are a registry's. A 404 of
    /// somebody else, a portal or a filter in front of it, says nothing about what the registry has.
    #[must_use]
    pub fn is_registrys_own(&self) -> bool {
        self.0.is_registrys
    }

    /// The same as an answer that is no registry's, cause `Invalid`.
    #[must_use]
    pub fn disbelieved(&self) -> Self {
        let what = format!("{}, and that answer is no registry's", self.0.what);
        Facts { cause: UpstreamCause::Invalid, what, ..Facts::clone(&self.0) }.into()
    }

    /// Whether the same may be given if it is asked for again soon: the host failed, broke off, or was not asked now.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self.0.cause {
            UpstreamCause::ServerError => !matches!(self.status(), Some(501 | 505)),
            UpstreamCause::RateLimited | UpstreamCause::Timeout => true,
            UpstreamCause::Unreachable | UpstreamCause::Invalid => self.0.again || self.0.circuit_open || self.0.busy,
            UpstreamCause::NotFound
            | UpstreamCause::Unauthorized
            | UpstreamCause::Forbidden
            | UpstreamCause::Refused => false,
        }
    }

    /// Whether the host was not asked, because too many requests to it run already.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.0.busy
    }

    /// For the `detail` of an error answer: cause, host, status, what happened, the upstream's own words.
    #[must_use]
    pub fn detail(&self) -> serde_json::Value {
        let mut detail = serde_json::Map::new();
        detail.insert("cause".to_owned(), self.0.cause.as_str().into());
        detail.insert("host".to_owned(), self.0.host.as_str().into());
        detail.insert("reason".to_owned(), self.0.what.as_str().into());
        if let Some(status) = self.status() {
            detail.insert("status".to_owned(), status.into());
        }
        if let Some(words) = &self.0.words {
            detail.insert("upstream".to_owned(), words.as_str().into());
        }
        serde_json::Value::Object(detail)
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.host, self.0.what)?;
        match &self.0.words {
            Some(words) => write!(f, ": {words:?}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for UpstreamError {}

/// Why an upstream can't be set up from its options. No variant carries a secret.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamSetupError {
    /// No endpoint at all.
    #[error("no upstream is configured")]
    NoEndpoint,
    /// Host and path don't make a URL.
    #[error("{host:?} is not a host or host:port")]
    Host {
        /// As configured.
        host: String,
    },
    /// A certificate of `ca` that can't be used.
    #[error("the ca of {host} can't be used: {reason}")]
    Ca {
        /// Whose.
        host: String,
        /// A sentence.
        reason: String,
    },
    /// Nothing at all to verify the upstream by.
    #[error(
        "{host} can't be verified: the system has no certificate authorities ({reason}) and the upstream has no ca; install ca-certificates, set SSL_CERT_FILE or configure ca"
    )]
    NoAuthorities {
        /// Whose.
        host: String,
        /// The failure of the search.
        reason: String,
    },
    /// A proxy of the environment that can't be used.
    #[error("the environment variable {variable} can't be used: {reason}")]
    Proxy {
        /// Its name.
        variable: &'static str,
        /// A sentence.
        reason: String,
    },
    /// The HTTP client refused its settings.
    #[error("the upstream client can't be set up: {0}")]
    Client(String),
}

/// The words of a registry in the body of an error (distribution-spec, "Error Codes"), cut and cleaned; `None` when it
/// says nothing that people read.
pub(super) fn words(content_type: &str, body: &[u8], secrets: &Secrets) -> Option<String> {
    let text = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(json) => spoken(&json)?,
        Err(_) if content_type.starts_with("text/plain") => String::from_utf8_lossy(body).into_owned(),
        Err(_) => return None,
    };
    let words = text.split_whitespace().map(|word| word.chars().filter(|c| !c.is_control()).collect::<String>());
    // Masked before it is cut: half a secret is not found.
    let mut text = secrets.hide(&words.collect::<Vec<_>>().join(" "));
    let cut = (0..=MAX_WORDS.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(cut);
    (!text.is_empty()).then_some(text)
}

/// Whether an error's body has the shape of the specification: an object with a list of errors, each with a code
/// (distribution-spec, "Error Codes").
pub(super) fn is_registrys_error(body: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) else { return false };
    let errors = json.get("errors").and_then(serde_json::Value::as_array);
    errors.is_some_and(|errors| errors.iter().all(|error| error.get("code").is_some()))
}

fn spoken(json: &serde_json::Value) -> Option<String> {
    let text = |value: &serde_json::Value, key: &str| {
        value.get(key).and_then(serde_json::Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let one = |error: &serde_json::Value| {
        let parts = [text(error, "code"), text(error, "message"), text(error, "detail")];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(": "))
    };
    if let Some(errors) = json.get("errors").and_then(serde_json::Value::as_array) {
        let all: Vec<_> = errors.iter().take(3).filter_map(one).collect();
        return (!all.is_empty()).then(|| all.join("; "));
    }
    ["message", "details", "error_description", "error"].iter().find_map(|key| text(json, key)).or_else(|| one(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_registry_are_cut_cleaned_and_masked() {
        let password = secrecy::SecretString::from("geheim");
        let secrets = Secrets::new([("me", &password)].into_iter());
        let said = |content_type, body: &str| words(content_type, body.as_bytes(), &secrets);
        assert_eq!(
            said("application/json", r#"{"errors":[{"code":"DENIED","message":"licence geheim\u0007 has\nexpired"}]}"#),
            Some("DENIED: licence *** has expired".to_owned())
        );
        assert_eq!(said("application/json", r#"{"details":"incorrect password"}"#), Some("incorrect password".into()));
        assert_eq!(
            said("text/plain", "see https://store/x?signature=abc now"),
            Some("see https://store/x now".to_owned())
        );
        assert_eq!(said("text/html", "<html>"), None);
        assert_eq!(said("application/json", r#"{"errors":[]}"#), None);
        assert_eq!(said("text/plain", &"éé ".repeat(3000)).unwrap().len(), MAX_WORDS);
        let long = format!("{}geheim", "é ".repeat(MAX_WORDS / 3 - 1));
        assert!(!said("text/plain", &long).unwrap().contains("ge"), "a secret that the end cuts through");
    }
}
