//! The login for one host out of a `.dockerconfigjson`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::host::canonical_host;
use super::{Scheme, Secret};

/// Hosts that an error names at most.
const NAMED: usize = 20;

#[derive(Deserialize)]
struct DockerConfig {
    auths: Option<BTreeMap<String, Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    identitytoken: Option<String>,
}

/// The login of the entry whose key is `host` (`host[:port]`), also when written as `https://host`, `host/v1/` or
/// `host/v2/`, as docker does: name and password. `None`: an entry without a login is an anonymous one, Deckhouse leaves
/// `auth` out then.
///
/// # Errors
/// A sentence that names hosts and no secret: another text, or no entry of the host.
pub fn docker_login(text: &str, host: &str, scheme: Scheme) -> Result<Option<(String, Secret)>, String> {
    // The parser's own words may quote a value.
    let config: DockerConfig = serde_json::from_str(text).map_err(|error| {
        format!("is no .dockerconfigjson: wrong at line {} column {}", error.line(), error.column())
    })?;
    let mut auths = config.auths.unwrap_or_default();
    let wanted = canonical_host(host, scheme);
    let fitting = auths.keys().filter(|key| canonical_host(bare(key), scheme) == wanted);
    let Some(key) = fitting.min_by_key(|key| key.as_str() != host).cloned() else {
        let mut hosts: Vec<String> = auths.keys().take(NAMED).map(|key| format!("{key:?}")).collect();
        if auths.len() > NAMED {
            hosts.push("and more".to_owned());
        }
        let found = if hosts.is_empty() { "no host at all".to_owned() } else { hosts.join(", ") };
        return Err(format!("has no login for {host}; it has {found}"));
    };
    let Some(entry) = auths.remove(&key) else { return Ok(None) };
    entry.login().map_err(|reason| format!("the entry of {key:?} {reason}"))
}

/// The host of a key.
fn bare(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest).trim_end_matches('/');
    rest.strip_suffix("/v1").or_else(|| rest.strip_suffix("/v2")).unwrap_or(rest)
}

impl Entry {
    fn login(self) -> Result<Option<(String, Secret)>, &'static str> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let (username, password) = match (given(self.username), given(self.password), given(self.auth)) {
            (Some(username), Some(password), _) => (username, password),
            (_, _, Some(auth)) => decode(&auth).ok_or("has an auth that is no base64 of user:password")?,
            (None, None, None) if given(self.identitytoken).is_some() => {
                return Err("has only an identitytoken, which can't be used here");
            }
            (None, None, None) => return Ok(None),
            _ => return Err("has a username or a password alone"),
        };
        Ok(Some((username, Secret::new(password))))
    }
}

fn decode(auth: &str) -> Option<(String, String)> {
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&STANDARD, lenient).decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    (!username.is_empty() && !password.is_empty()).then(|| (username.to_owned(), password.to_owned()))
}
