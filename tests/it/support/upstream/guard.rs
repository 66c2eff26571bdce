//! Who the scripted upstream lets in, and its token service.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::answer::Answer;
use super::content::split;
use super::wire::Seen;

/// Hands out tokens; the registry that takes them may be another process's worth of ports away.
#[derive(Default)]
pub(super) struct TokenDesk {
    /// User and password; none: anyone gets a token.
    pub(super) login: Option<(String, String)>,
    /// What is told of a token's life; none: nothing.
    pub(super) expires_in: Option<u64>,
    /// Tokens that are taken, and the scopes of each.
    issued: BTreeMap<String, String>,
    /// Tokens are given and never taken.
    pub(super) is_deaf: bool,
    count: usize,
}

/// What a request has to bring.
#[derive(Clone, Default)]
pub(super) enum Guard {
    /// Nothing.
    #[default]
    Open,
    /// User and password.
    Basic(String, String),
    /// User and password, asked for at `/v2/` alone; without them there is nothing.
    Hidden(String, String),
    /// A token of `desk`, to be had at `realm`.
    Bearer { realm: String, desk: Arc<Mutex<TokenDesk>> },
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

impl TokenDesk {
    pub(super) fn revoke(&mut self) {
        self.issued.clear();
    }

    pub(super) fn answer(&mut self, seen: &Seen) -> Answer {
        if let Some((user, password)) = &self.login
            && seen.header("authorization") != Some(&*basic(user, password))
        {
            return Answer::error(401, "UNAUTHORIZED", "incorrect username or password");
        }
        self.count += 1;
        let token = format!("token-{}", self.count);
        let query = percent_encoding::percent_decode_str(&seen.query).decode_utf8_lossy();
        let scopes: Vec<&str> = query.split('&').filter_map(|pair| pair.strip_prefix("scope=")).collect();
        self.issued.insert(token.clone(), scopes.join(" "));
        let mut body = json!({ "token": token });
        if let Some(seconds) = self.expires_in {
            body["expires_in"] = json!(seconds);
        }
        Answer::new(200, "application/json", body.to_string())
    }
}

impl Guard {
    /// The refusal, if the request is refused.
    pub(super) fn refuse(&self, seen: &Seen) -> Option<Answer> {
        let given = seen.header("authorization").unwrap_or_default();
        match self {
            Self::Open => None,
            Self::Basic(user, password) if given == basic(user, password) => None,
            Self::Hidden(user, password) if given == basic(user, password) => None,
            Self::Hidden(..) if seen.path != "/v2/" => Some(Answer::error(404, "NAME_UNKNOWN", "not found")),
            Self::Basic(..) | Self::Hidden(..) => Some(challenge("Basic realm=\"upstream\"".to_owned())),
            Self::Bearer { realm, desk } => {
                let scope = split(&seen.path).map(|(name, ..)| format!("repository:{name}:pull"));
                let desk = desk.lock().unwrap();
                let scopes = given.strip_prefix("Bearer ").and_then(|token| desk.issued.get(token));
                let suffices = |scopes: &String| scope.as_ref().is_none_or(|scope| scopes.contains(scope));
                if scopes.is_some_and(suffices) && !desk.is_deaf {
                    return None;
                }
                let scope = scope.map(|scope| format!(",scope=\"{scope}\"")).unwrap_or_default();
                Some(challenge(format!("Bearer realm=\"{realm}\",service=\"upstream\"{scope}")))
            }
        }
    }
}

fn challenge(challenge: String) -> Answer {
    let mut answer = Answer::error(401, "UNAUTHORIZED", "authentication required");
    answer.header("www-authenticate", challenge);
    answer
}
