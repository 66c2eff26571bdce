//! The objects in the cluster that a switch reads and writes, as values. `outputs` renders and reads each.

use std::collections::BTreeMap;
use std::time::Duration;

use super::conditions::Condition;
use super::settings::{Login, Params, Target, Upstream};
use crate::values::{Scheme, Secret};

/// The address of the registry inside of the cluster, by which images are named in every managed mode.
pub const FIXED_HOST: &str = "registry.d8-system.svc:5001";

/// The repository below it.
pub const FIXED_PATH: &str = "system/deckhouse";

/// Where a node reaches the registry on the masters: `node-proxy`.
pub const NODE_HOST: &str = "127.0.0.1:5001";

/// A mirror of a host, in the order of its `hosts.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// `host[:port]`.
    pub host: String,
    /// How it is reached.
    pub scheme: Scheme,
    /// PEM.
    pub ca: Option<String>,
    /// Who asks.
    pub login: Option<Login>,
    /// Replacements in the name of a repository, first match wins.
    pub rewrites: Vec<Rewrite>,
}

/// A replacement in the name of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// A regular expression of Go.
    pub from: String,
    /// What stands in its place.
    pub to: String,
}

/// Mirrors by the host that images are named by.
pub type Hosts = BTreeMap<String, Vec<Mirror>>;

/// Secret `registry-bashible-config`, key `config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BashibleConfig {
    /// The new mode, already in Transition.
    pub mode: Target,
    /// What a node says once it has applied this: sha256 hex over the rest.
    pub version: String,
    /// `registry.d8-system.svc:5001/system/deckhouse`, or the registry's repository in Unmanaged.
    pub images_base: String,
    /// `<masterIP>:5001`, sorted; empty in Unmanaged once no mirror needs them.
    pub proxy_endpoints: Vec<String>,
    /// What containerd gets.
    pub hosts: Hosts,
}

/// ConfigMap `d8-registry-masters`: what nodes are told beside their configuration. No secrets in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MastersMap {
    /// Key `backends`, node-proxy's list of masters: `<masterIP>:5001`, sorted.
    pub backends: Vec<String>,
    /// Key `settled`, for node-agent: the [version](BashibleConfig::version) with which the switch to bare Unmanaged has ended. A
    /// node whose last configuration has it goes back to what it had before once `registry-bashible-config` is gone. Here and not
    /// in that Secret, as a Secret that is deleted soon after would never have told it.
    pub settled: Option<String>,
}

/// Secret `deckhouse-registry`: the five fields of it that are ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeckhouseRegistry {
    /// `host[:port]`.
    pub address: String,
    /// With the slash that begins it.
    pub path: String,
    /// `http` or `https`.
    pub scheme: String,
    /// PEM, `""` for none.
    pub ca: String,
    /// The JSON text of `.dockerconfigjson`.
    pub docker_config: Secret,
}

/// How far a server has got with a mode that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// `rw` and the mirror users see it.
    Filling,
    /// What the mode in force has not is answered from it.
    Ready,
}

impl Phase {
    /// The word of the mode file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Filling => "filling",
            Self::Ready => "ready",
        }
    }
}

/// A mode as a server holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerMode {
    /// Direct.
    Direct(Upstream),
    /// Proxy.
    Proxy {
        /// What it caches.
        upstream: Upstream,
        /// How long a cached content lives.
        ttl: Duration,
    },
    /// Local.
    Local,
    /// No request is answered.
    Unmanaged,
}

impl ServerMode {
    /// What servers hold for a target.
    #[must_use]
    pub fn of(params: &Params) -> Self {
        match params {
            Params::Direct(upstream) => Self::Direct(upstream.clone()),
            Params::Proxy { upstream, ttl } => Self::Proxy { upstream: upstream.clone(), ttl: *ttl },
            Params::Local => Self::Local,
            Params::Unmanaged(_) => Self::Unmanaged,
        }
    }

    /// The word of the mode file and of `/-/state`.
    #[must_use]
    pub const fn target(&self) -> Target {
        match self {
            Self::Direct(_) => Target::Direct,
            Self::Proxy { .. } => Target::Proxy,
            Self::Local => Target::Local,
            Self::Unmanaged => Target::Unmanaged,
        }
    }

    /// The registry behind it.
    #[must_use]
    pub const fn upstream(&self) -> Option<&Upstream> {
        match self {
            Self::Direct(upstream) | Self::Proxy { upstream, .. } => Some(upstream),
            Self::Local | Self::Unmanaged => None,
        }
    }
}

/// A mode that is to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coming {
    /// Never Unmanaged.
    pub mode: ServerMode,
    /// Who sees it.
    pub phase: Phase,
}

/// What servers hold. Secret `d8-registry-mode`, key `mode.yaml`, is this with a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plane {
    /// Answers.
    pub in_force: ServerMode,
    /// Comes.
    pub coming: Option<Coming>,
    /// Stand behind the one in force, newest first, at most [`Plane::MAX_PREVIOUS`], none twice and none Unmanaged.
    pub previous: Vec<ServerMode>,
}

impl Plane {
    /// Most previous modes that a server takes.
    pub const MAX_PREVIOUS: usize = 8;
}

/// Secret `d8-registry-mode`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeFile {
    /// Grows with each write.
    pub generation: u64,
    /// What the servers hold.
    pub plane: Plane,
}

/// Secret `d8-registry-mode` as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundModeFile {
    /// What it says.
    pub file: ModeFile,
    /// sha256 hex of its bytes, which is what servers report. A file that others wrote says the same in other bytes.
    pub hash: String,
}

/// A Secret `registry-user-*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// `ro`, `rw`, `mirror-puller`, `mirror-pusher`.
    pub name: String,
    /// In clear.
    pub password: Secret,
    /// SHA-256 of the stored hash, in hexadecimal: a server that has taken the Secret says the same.
    pub fingerprint: String,
    /// Whether the stored hash is one of the password.
    pub hash_fits: bool,
}

/// Secret `registry-state`: what people, `dhctl` and upgrade gates read. No secrets in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryState {
    /// The last completed mode; key `mode`, and `mode` within `state`.
    pub mode: Target,
    /// The wanted one; key `target_mode`, and `target_mode` within `state`.
    pub target_mode: Target,
    /// Further lines of `state` for people: name and value, in this order. No secrets.
    pub facts: Vec<(String, String)>,
    /// Key `conditions`; the list's order is kept.
    pub conditions: Vec<Condition>,
}
