//! Secret `deckhouse-registry`: where every component of Deckhouse finds the registry. Five fields of it are written, together;
//! the others stay.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::go_json::{self, Object, sha256_hex};
use super::hosts::InCluster;
use super::manifest::text_of;
use crate::switch::documents::{DeckhouseRegistry, FIXED_HOST, FIXED_PATH};
use crate::switch::settings::{Login, Params, Upstream};
use crate::values::{Scheme, Secret, docker_login};

/// The fields, in the order of the hash.
const ADDRESS: &str = "address";
const PATH: &str = "path";
const SCHEME: &str = "scheme";
const CA: &str = "ca";
const DOCKER_CONFIG: &str = ".dockerconfigjson";

impl DeckhouseRegistry {
    /// What the Secret says in a mode. `None`: bare Unmanaged, which says nothing of its own, or `in_cluster` is needed and
    /// not known.
    #[must_use]
    pub fn of(params: &Params, in_cluster: Option<&InCluster>) -> Option<Self> {
        match params {
            Params::Direct(upstream) => in_cluster.map(|known| Self::managed(known, known.login_of(upstream))),
            Params::Proxy { .. } | Params::Local => in_cluster.map(|known| Self::managed(known, &known.ro)),
            Params::Unmanaged(upstream) => upstream.as_ref().map(Self::of_upstream),
        }
    }

    fn managed(in_cluster: &InCluster, login: &Login) -> Self {
        Self {
            address: FIXED_HOST.to_owned(),
            path: format!("/{FIXED_PATH}"),
            scheme: "https".to_owned(),
            ca: in_cluster.ca.clone(),
            docker_config: docker_config(FIXED_HOST, Some(login)),
        }
    }

    fn of_upstream(upstream: &Upstream) -> Self {
        let path = upstream.path();
        Self {
            address: upstream.host().to_owned(),
            // Of the host's root there is none, which the webhook refuses; `problems` says so before.
            path: if path.is_empty() { String::new() } else { format!("/{path}") },
            // In capitals it fails a hook of Deckhouse.
            scheme: match upstream.scheme {
                Scheme::Https => "https".to_owned(),
                Scheme::Http => "http".to_owned(),
            },
            ca: upstream.ca.clone().unwrap_or_default(),
            docker_config: docker_config(upstream.host(), upstream.login.as_ref()),
        }
    }

    /// What the pod of Deckhouse carries once it runs with this: SHA-256 in hexadecimal over Go's JSON of the fields. The pod
    /// computes it itself, so it is the same bit for bit.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut json = String::new();
        let mut object = Object::begin(&mut json);
        object.text(ADDRESS, &self.address).text(PATH, &self.path).text(SCHEME, &self.scheme);
        object.text_if_any(CA, &self.ca);
        object.field(DOCKER_CONFIG, |out| go_json::text(&STANDARD.encode(self.docker_config.expose()), out));
        object.end();
        sha256_hex(json.as_bytes())
    }

    /// The five fields, all of them: without a CA the field becomes empty and is not removed.
    #[must_use]
    pub fn data(&self) -> BTreeMap<&'static str, Secret> {
        let text = |text: &String| Secret::new(text.clone());
        BTreeMap::from([
            (ADDRESS, text(&self.address)),
            (PATH, text(&self.path)),
            (SCHEME, text(&self.scheme)),
            (CA, text(&self.ca)),
            (DOCKER_CONFIG, self.docker_config.clone()),
        ])
    }

    /// Reads the data of the Secret; `scheme` and `ca` may be missing, as in clusters that were set up long ago.
    ///
    /// # Errors
    /// A sentence without secrets.
    pub fn read(data: &BTreeMap<String, Vec<u8>>) -> Result<Self, String> {
        let required = |key| text_of(data, key).map(str::to_owned);
        let optional = |key| if data.contains_key(key) { required(key) } else { Ok(String::new()) };
        Ok(Self {
            address: required(ADDRESS)?,
            path: optional(PATH)?,
            scheme: optional(SCHEME)?,
            ca: optional(CA)?,
            docker_config: Secret::new(required(DOCKER_CONFIG)?),
        })
    }

    /// What Deckhouse's webhook would refuse, in its words; the first is the one that it would say. Run before each write: a
    /// refused one would hold the switch for ever.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (field, value) in [(ADDRESS, &self.address), (PATH, &self.path)] {
            if value.trim().is_empty() {
                problems.push(format!("Field '{field}' cannot be empty or whitespace."));
            } else if has_space(value) {
                problems.push(format!("Field '{field}' contains spaces or newlines."));
            }
        }
        match auths(self.docker_config.expose()) {
            Err(problem) => problems.push(problem.to_owned()),
            Ok(auths) => {
                for (registry, auth) in auths {
                    if has_space(&registry) {
                        problems.push(format!("Registry key '{registry}' contains spaces or newlines."));
                    }
                    if !auth.is_empty() {
                        problems.extend(wrong_login(&registry, &auth));
                    }
                }
            }
        }
        problems
    }

    /// The registry that the Secret names, as parameters of Unmanaged: the way back from a managed mode. `None` while it names
    /// the cluster's own address.
    ///
    /// # Errors
    /// A sentence without secrets.
    pub fn upstream(&self) -> Result<Option<Upstream>, String> {
        if self.address == FIXED_HOST {
            return Ok(None);
        }
        let images_repo = format!("{}{}", self.address, self.path);
        let images_repo = images_repo.trim().trim_end_matches('/').to_owned();
        if self.address.trim().is_empty() {
            return Err("the address is empty".to_owned());
        }
        let scheme = match self.scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" | "" => Scheme::Https,
            _ => return Err("the scheme is neither http nor https".to_owned()),
        };
        let login = docker_login(self.docker_config.expose(), self.address.trim(), scheme)
            .map_err(|why| format!("{DOCKER_CONFIG} {why}"))?
            .map(|(username, password)| Login { username, password });
        let ca = Some(self.ca.clone()).filter(|ca| scheme == Scheme::Https && !ca.trim().is_empty());
        Ok(Some(Upstream { images_repo, scheme, ca, login }))
    }
}

/// Go's JSON of a login for one host; nobody is an entry without fields.
fn docker_config(host: &str, login: Option<&Login>) -> Secret {
    let mut json = String::new();
    let mut whole = Object::begin(&mut json);
    whole.field("auths", |out| {
        let mut auths = Object::begin(out);
        auths.field(host, |out| {
            let mut auth = Object::begin(out);
            if let Some(Login { username, password }) = login {
                let pair = format!("{username}:{}", password.expose());
                auth.text("username", username).text("password", password.expose());
                auth.text("auth", &STANDARD.encode(pair));
            }
            auth.end();
        });
        auths.end();
    });
    whole.end();
    Secret::new(json)
}

/// The registries of a `.dockerconfigjson`, each with its `auth`.
fn auths(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    #[derive(Default, Deserialize)]
    struct Raw<'a> {
        #[serde(borrow, default)]
        auths: Option<BTreeMap<String, Option<&'a RawValue>>>,
    }
    #[derive(Default, Deserialize)]
    struct Auth {
        #[serde(default)]
        auth: Option<String>,
    }
    const INVALID: &str = ".dockerconfigjson is not valid JSON.";
    let raw: Raw<'_> = serde_json::from_str(text).map_err(|_| INVALID)?;
    let auths = raw.auths.unwrap_or_default();
    if auths.is_empty() {
        return Err(".dockerconfigjson must contain at least one registry in 'auths'.");
    }
    auths
        .into_iter()
        .map(|(registry, auth)| {
            let auth: Option<Auth> =
                auth.map(|auth| serde_json::from_str(auth.get())).transpose().map_err(|_| INVALID)?;
            Ok((registry, auth.and_then(|auth| auth.auth).unwrap_or_default()))
        })
        .collect()
}

fn wrong_login(registry: &str, auth: &str) -> Option<String> {
    let Ok(decoded) = STANDARD.decode(auth) else {
        return Some(format!("Credentials for registry '{registry}' are not valid base64."));
    };
    let decoded = String::from_utf8_lossy(&decoded);
    let Some((login, password)) = decoded.split_once(':') else {
        return Some(format!("Credentials for registry '{registry}' must be in format login:password."));
    };
    if login.is_empty() || has_space(login) {
        return Some(format!("Login for registry '{registry}' contains spaces, tabs, newlines or empty."));
    }
    has_space(password).then(|| format!("Password for registry '{registry}' contains spaces, tabs, or newlines."))
}

/// `\s` of Go's regular expressions.
fn has_space(text: &str) -> bool {
    text.contains(['\t', '\n', '\u{c}', '\r', ' '])
}
