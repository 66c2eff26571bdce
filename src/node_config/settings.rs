//! The wanted settings of a node: the content of Deckhouse's Secret `registry-bashible-config`, and what containerd there is.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;

use crate::config::{self, ConfigError, KeyError, Secret};

/// Where a node's own balancer listens, without its port.
const OWN: &str = "127.0.0.1:";

/// The file's shape.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Raw {
    mode: Option<String>,
    version: Option<String>,
    images_base: Option<String>,
    /// The masters behind the node's own balancer.
    proxy_endpoints: Option<Vec<String>>,
    hosts: Option<BTreeMap<String, RawHost>>,
    containerd: Option<RawContainerd>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHost {
    mirrors: Vec<RawMirror>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMirror {
    host: String,
    scheme: String,
    ca: Option<String>,
    auth: Option<RawAuth>,
    rewrites: Option<Vec<Rewrite>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAuth {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawContainerd {
    version: Option<ContainerdVersion>,
    extensions: Option<bool>,
}

/// A generation of containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerdVersion {
    /// 1.6 and 1.7.
    V1,
    /// 2.0 and above.
    V2,
}

/// A replacement in a repository's name; a regular expression of Go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rewrite {
    pub(super) from: String,
    pub(super) to: String,
}

/// A mirror, which containerd asks in place of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mirror {
    /// `http` or `https`.
    pub(super) scheme: &'static str,
    /// `host[:port]`.
    pub(super) host: String,
    /// PEM of the authorities that its certificate is checked against; the system's where absent.
    pub(super) ca: Option<String>,
    /// `user:password` in base64.
    pub(super) login: Option<Secret>,
    pub(super) rewrites: Vec<Rewrite>,
}

/// The wanted settings of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// The mode that it is for; only the node's agent asks.
    pub(super) mode: Option<String>,
    /// What a node answers that has applied it.
    pub(super) answer: Option<String>,
    /// Where the images of the cluster are, `host[:port][/path]`.
    pub(super) images_base: Option<String>,
    /// By `host[:port]` of images; mirrors in the order in which they are asked.
    pub(super) hosts: BTreeMap<String, Vec<Mirror>>,
    /// Which containerd; `None`: what its configuration looks like.
    pub(super) version: Option<ContainerdVersion>,
    /// Whether containerd has Deckhouse's `auth` and `rewrite`; `None`: what its program looks like.
    pub(super) extensions: Option<bool>,
}

impl Mirror {
    /// Whether its host is an address of IPv6.
    pub(super) fn is_ipv6(&self) -> bool {
        self.host.starts_with('[')
    }
}

impl NodeConfig {
    /// Reads and checks a file. Blocking.
    ///
    /// # Errors
    /// [`ConfigError`], with the key and without values that may be secret.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let raw: Raw = config::read_yaml(file)?;
        Self::of(raw).map_err(|mut error| {
            error.file = Some(file.to_owned());
            ConfigError::Key(error)
        })
    }

    /// Reads and checks a text.
    ///
    /// # Errors
    /// [`KeyError`], without values that may be secret.
    pub fn read(text: &str) -> Result<Self, KeyError> {
        Self::of(config::yaml_of(text)?)
    }

    /// Nothing of ours: everything that was written is taken away.
    #[must_use]
    pub fn nothing() -> Self {
        Self { mode: None, answer: None, images_base: None, hosts: BTreeMap::new(), version: None, extensions: None }
    }

    /// What a node answers that has applied it: the file's `version`.
    #[must_use]
    pub fn answer(&self) -> Option<&str> {
        self.answer.as_deref()
    }

    /// Where the images of the cluster are, `host[:port][/path]`.
    #[must_use]
    pub fn images_base(&self) -> Option<&str> {
        self.images_base.as_deref()
    }

    /// Whether images come from elsewhere than the registry inside of the cluster.
    #[must_use]
    pub fn is_unmanaged(&self) -> bool {
        self.mode.as_deref() == Some("Unmanaged")
    }

    fn of(raw: Raw) -> Result<Self, KeyError> {
        let hosts = raw.hosts.ok_or_else(|| wrong("hosts", "is missing; `hosts: {}` takes everything away"))?;
        let containerd = raw.containerd.unwrap_or_default();
        let hosts = hosts.into_iter().map(|(name, host)| Ok((name.clone(), mirrors(&name, host)?)));
        let mut hosts: BTreeMap<String, Vec<Mirror>> = hosts.collect::<Result<_, _>>()?;
        let masters = raw.proxy_endpoints.unwrap_or_default();
        if masters.iter().any(|master| !is_host(master)) {
            return Err(wrong("proxyEndpoints", "one is not of the form host[:port]"));
        }
        // Of these the form would have to be asked for, and nobody has named them as mirrors.
        let readable = |master: &&String| containerd.version.is_some() || !master.starts_with('[');
        for mirrors in hosts.values_mut() {
            behind_the_balancer(mirrors, masters.iter().filter(readable));
        }
        if containerd.version.is_none()
            && let Some((name, _)) = hosts.iter().find(|(_, mirrors)| mirrors.iter().any(Mirror::is_ipv6))
        {
            return Err(wrong(
                "containerd.version",
                &format!(
                    "is needed, v1 or v2: {name} has a mirror with an IPv6 address, which the two read in different forms"
                ),
            ));
        }
        Ok(Self {
            mode: raw.mode,
            answer: raw.version.filter(|version| !version.is_empty()),
            images_base: raw.images_base,
            hosts,
            version: containerd.version,
            extensions: containerd.extensions,
        })
    }
}

/// Behind the node's own balancer come the masters themselves: on a node that is new its image has yet to come through them.
fn behind_the_balancer<'a>(mirrors: &mut Vec<Mirror>, masters: impl Iterator<Item = &'a String>) {
    let Some(place) = mirrors.iter().position(|mirror| mirror.host.starts_with(OWN)) else { return };
    let own = mirrors[place].clone();
    let there = |master: &&String| !mirrors.iter().any(|other| (other.scheme, &other.host) == (own.scheme, *master));
    let more: Vec<Mirror> =
        masters.filter(there).map(|master| Mirror { host: master.clone(), ..own.clone() }).collect();
    mirrors.splice(place + 1..=place, more);
}

fn wrong(key: &str, message: &str) -> KeyError {
    KeyError { file: None, position: None, key: key.to_owned(), message: message.to_owned() }
}

fn mirrors(name: &str, host: RawHost) -> Result<Vec<Mirror>, KeyError> {
    if !is_host(name) {
        return Err(wrong("hosts", "a key is not of the form host[:port]"));
    }
    let key = format!("hosts.{name}.mirrors");
    if host.mirrors.is_empty() {
        return Err(wrong(&key, "is empty"));
    }
    let mut mirrors: Vec<Mirror> = Vec::new();
    for (place, raw) in host.mirrors.into_iter().enumerate() {
        let key = format!("{key}[{place}]");
        let mirror = mirror(&key, raw)?;
        if mirrors.iter().any(|other| (other.scheme, &other.host) == (mirror.scheme, &mirror.host)) {
            return Err(wrong(
                &key,
                "an earlier mirror has the same scheme and host, and hosts.toml can hold it once only",
            ));
        }
        mirrors.push(mirror);
    }
    Ok(mirrors)
}

fn mirror(key: &str, raw: RawMirror) -> Result<Mirror, KeyError> {
    if !is_host(&raw.host) {
        return Err(wrong(&format!("{key}.host"), "is not of the form host[:port]"));
    }
    let scheme = match raw.scheme.to_ascii_lowercase().as_str() {
        "http" => "http",
        "https" => "https",
        _ => return Err(wrong(&format!("{key}.scheme"), "is neither http nor https")),
    };
    let ca = raw.ca.map(|ca| ca.trim().to_owned()).filter(|ca| !ca.is_empty());
    if let Some(ca) = &ca {
        let key = format!("{key}.ca");
        if scheme == "http" {
            return Err(wrong(&key, "has no meaning with scheme http"));
        }
        if ca.contains("PRIVATE KEY") {
            return Err(wrong(&key, "holds a private key, which does not belong on a node"));
        }
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(ca.as_bytes()).collect();
        if !read.is_ok_and(|certificates| !certificates.is_empty()) {
            return Err(wrong(&key, "is no PEM of certificates"));
        }
    }
    let login = raw.auth.map(|auth| login(key, auth)).transpose()?.flatten();
    Ok(Mirror { scheme, host: raw.host, ca, login, rewrites: raw.rewrites.unwrap_or_default() })
}

/// Empty texts are none: Deckhouse writes them for a registry without sign-in.
fn login(key: &str, raw: RawAuth) -> Result<Option<Secret>, KeyError> {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    match (given(raw.username), given(raw.password), given(raw.auth)) {
        (Some(user), Some(password), _) => {
            if user.contains(':') {
                return Err(wrong(&format!("{key}.auth.username"), "has a colon"));
            }
            Ok(Some(Secret::new(STANDARD.encode(format!("{user}:{password}")))))
        }
        (None, None, Some(encoded)) => {
            let encoded = encoded.trim();
            let fits = STANDARD.decode(encoded).is_ok_and(|login| login.contains(&b':'));
            if fits {
                Ok(Some(Secret::new(encoded.to_owned())))
            } else {
                Err(wrong(&format!("{key}.auth.auth"), "is not user:password in base64"))
            }
        }
        (None, None, None) => Ok(None),
        _ => Err(wrong(&format!("{key}.auth"), "has one of username and password without the other")),
    }
}

/// Whether the text is `host[:port]`. Such a text is a safe name of a folder and needs no escape in TOML.
pub(super) fn is_host(text: &str) -> bool {
    let is_port =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0);
    if let Some((address, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address.parse::<Ipv6Addr>().is_ok() && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
    }
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.len() <= 200
        && name.bytes().all(plain)
        && port.is_none_or(is_port)
}

#[cfg(test)]
impl NodeConfig {
    /// From text, for tests.
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.yaml");
        std::fs::write(&file, text).unwrap();
        Self::load(&file)
    }
}
