//! Secret `registry-bashible-config`: what the nodes of the cluster get.
//!
//! # Decisions
//! - `proxyEndpoints` are there while any mirror is at `127.0.0.1:5001`: in Proxy and Local as in Deckhouse, in Direct too,
//!   whose nodes ask that address behind the upstream, and in Unmanaged until the last mirror of that kind is gone. Taken away
//!   earlier, bashible's balancer would leave the port before the last image that needs it.
//! - What is read is what the fields mean, and fields that are not known are passed over: a Deckhouse that is newer than this
//!   program may add some.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::go_json::{Object, list, sha256_hex, text};
use super::hosts::{InCluster, hosts, merged};
use super::manifest::{SecretManifest, text_of};
use super::{names, reading};
use crate::switch::documents::{BashibleConfig, FIXED_HOST, FIXED_PATH, Hosts, Mirror, NODE_HOST, Rewrite};
use crate::switch::record::NodePlan;
use crate::switch::settings::{Login, Params};
use crate::values::{Scheme, Secret};
use crate::yaml::Yaml;

/// The Secret's key.
const KEY: &str = "config";

impl BashibleConfig {
    /// What nodes get for a plan. `None`: the plan has no source, or that needs the registry inside of the cluster and
    /// `in_cluster` is not known. `masters`: addresses of the masters, without port.
    #[must_use]
    pub fn of(plan: &NodePlan, in_cluster: Option<&InCluster>, masters: &[String]) -> Option<Self> {
        let params = plan.with.as_ref()?;
        let hosts = merged(&plan.kept, &hosts(params, in_cluster)?);
        Some(Self::new(params, hosts, masters))
    }

    /// What nodes get for a mode with all the mirrors that they are to have.
    #[must_use]
    pub fn new(params: &Params, hosts: Hosts, masters: &[String]) -> Self {
        let images_base = match params {
            Params::Unmanaged(Some(upstream)) => upstream.images_repo.clone(),
            Params::Unmanaged(None) | Params::Direct(_) | Params::Proxy { .. } | Params::Local => {
                format!("{FIXED_HOST}/{FIXED_PATH}")
            }
        };
        let needs_masters = hosts.values().flatten().any(|mirror| mirror.host == NODE_HOST);
        let proxy_endpoints = if needs_masters { super::masters::endpoints(masters) } else { Vec::new() };
        let (mode, version) = (params.target(), String::new());
        let mut config = Self { mode, version, images_base, proxy_endpoints, hosts };
        config.version = config.hash();
        config
    }

    /// SHA-256 in hexadecimal over the JSON that Deckhouse's own controller hashes: all fields, the version empty.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut json = String::new();
        let mut object = Object::begin(&mut json);
        object.text("mode", self.mode.as_str()).text("version", "").text("imagesBase", &self.images_base);
        if !self.proxy_endpoints.is_empty() {
            let endpoints = &self.proxy_endpoints;
            object.field("proxyEndpoints", |out| list(endpoints, out, |endpoint, out| text(endpoint, out)));
        }
        object.field("hosts", |out| {
            let mut hosts = Object::begin(out);
            for (host, mirrors) in &self.hosts {
                hosts.field(host, |out| {
                    let mut of_host = Object::begin(out);
                    of_host.field("mirrors", |out| list(mirrors, out, hashed_mirror));
                    of_host.end();
                });
            }
            hosts.end();
        });
        object.end();
        sha256_hex(json.as_bytes())
    }

    /// The Secret.
    #[must_use]
    pub fn to_secret(&self) -> SecretManifest {
        let mut pairs = vec![
            ("mode", Yaml::text(self.mode.as_str())),
            ("version", Yaml::text(&self.version)),
            ("imagesBase", Yaml::text(&self.images_base)),
        ];
        if !self.proxy_endpoints.is_empty() {
            pairs.push(("proxyEndpoints", Yaml::List(self.proxy_endpoints.iter().map(Yaml::text).collect())));
        }
        pairs.push(("hosts", hosts_as_yaml(&self.hosts)));
        SecretManifest::new(names::BASHIBLE_CONFIG, "Opaque")
            .label("name", names::BASHIBLE_CONFIG)
            .annotation("helm.sh/resource-policy", "keep")
            .data(KEY, Yaml::map(pairs).render())
    }

    /// Reads the data of the Secret.
    ///
    /// # Errors
    /// A sentence without secrets.
    pub fn read(data: &BTreeMap<String, Vec<u8>>) -> Result<Self, String> {
        let raw: Raw = reading::yaml(text_of(data, KEY)?).map_err(|reason| format!("key {KEY}: {reason}"))?;
        Ok(Self {
            mode: reading::target(&raw.mode)?,
            version: raw.version,
            images_base: raw.images_base,
            proxy_endpoints: raw.proxy_endpoints,
            hosts: raw.hosts.read()?,
        })
    }
}

/// Mirrors, as the Secret and the record have them.
pub(super) fn hosts_as_yaml(hosts: &Hosts) -> Yaml {
    Yaml::map(hosts.iter().map(|(host, mirrors)| {
        let mirrors = mirrors.iter().map(mirror_as_yaml).collect();
        (host.as_str(), Yaml::map([("mirrors", Yaml::List(mirrors))]))
    }))
}

fn hashed_mirror(mirror: &Mirror, out: &mut String) {
    let (user, password) = pair(mirror.login.as_ref());
    let mut object = Object::begin(out);
    object.text("host", &mirror.host).text("scheme", scheme(mirror.scheme));
    object.text_if_any("ca", mirror.ca.as_deref().unwrap_or_default());
    object.field("auth", |out| {
        let mut auth = Object::begin(out);
        auth.text("username", user).text("password", password).text("auth", "");
        auth.end();
    });
    if !mirror.rewrites.is_empty() {
        object.field("rewrites", |out| {
            list(&mirror.rewrites, out, |rewrite, out| {
                let mut object = Object::begin(out);
                object.text("from", &rewrite.from).text("to", &rewrite.to);
                object.end();
            });
        });
    }
    object.end();
}

fn mirror_as_yaml(mirror: &Mirror) -> Yaml {
    let (user, password) = pair(mirror.login.as_ref());
    let mut pairs = vec![("host", Yaml::text(&mirror.host)), ("scheme", Yaml::text(scheme(mirror.scheme)))];
    if let Some(ca) = &mirror.ca {
        pairs.push(("ca", Yaml::text(ca)));
    }
    // All three are always there, as Deckhouse writes them; `auth` stays empty.
    let auth = [("username", Yaml::text(user)), ("password", Yaml::text(password)), ("auth", Yaml::text(""))];
    pairs.push(("auth", Yaml::map(auth)));
    if !mirror.rewrites.is_empty() {
        let rewrites = mirror.rewrites.iter();
        let rewrites =
            rewrites.map(|rewrite| Yaml::map([("from", Yaml::text(&rewrite.from)), ("to", Yaml::text(&rewrite.to))]));
        pairs.push(("rewrites", Yaml::List(rewrites.collect())));
    }
    Yaml::map(pairs)
}

fn pair(login: Option<&Login>) -> (&str, &str) {
    login.map_or(("", ""), |login| (&login.username, login.password.expose()))
}

/// Nodes write it in small letters.
const fn scheme(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Https => "https",
        Scheme::Http => "http",
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    mode: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    images_base: String,
    #[serde(default)]
    proxy_endpoints: Vec<String>,
    hosts: RawHosts,
}

/// Mirrors as they are written.
#[derive(Default, Deserialize)]
#[serde(transparent)]
pub(super) struct RawHosts(BTreeMap<String, RawHost>);

#[derive(Deserialize)]
struct RawHost {
    mirrors: Vec<RawMirror>,
}

#[derive(Deserialize)]
struct RawMirror {
    host: String,
    scheme: String,
    #[serde(default)]
    ca: String,
    #[serde(default)]
    auth: RawAuth,
    #[serde(default)]
    rewrites: Vec<RawRewrite>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawAuth {
    username: String,
    password: String,
    auth: String,
}

#[derive(Deserialize)]
struct RawRewrite {
    from: String,
    to: String,
}

impl RawHosts {
    pub(super) fn read(self) -> Result<Hosts, String> {
        let hosts = self.0.into_iter().map(|(host, RawHost { mirrors })| {
            let mirrors = mirrors.into_iter().map(|raw| raw.read(&host)).collect::<Result<_, _>>()?;
            Ok((host, mirrors))
        });
        hosts.collect()
    }
}

impl RawMirror {
    fn read(self, of: &str) -> Result<Mirror, String> {
        let scheme = self.scheme.parse().map_err(|_| format!("a mirror of {of}: scheme is neither http nor https"))?;
        let login = self.auth.read().map_err(|reason| format!("a mirror of {of}: {reason}"))?;
        let rewrites = self.rewrites.into_iter().map(|RawRewrite { from, to }| Rewrite { from, to }).collect();
        Ok(Mirror { host: self.host, scheme, ca: Some(self.ca).filter(|ca| !ca.is_empty()), login, rewrites })
    }
}

impl RawAuth {
    fn read(self) -> Result<Option<Login>, &'static str> {
        if !self.username.is_empty() || !self.password.is_empty() {
            return Ok(Some(Login { username: self.username, password: Secret::new(self.password) }));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        let decoded = STANDARD.decode(self.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|pair| pair.split_once(':'));
        let (user, password) = pair.ok_or("auth is not user:password in base64")?;
        Ok(Some(Login { username: user.to_owned(), password: Secret::new(password.to_owned()) }))
    }
}
