//! What the administrator wants, checked: the target of a switch and its parameters.
//!
//! The texts that these values come from are read in `inputs`; here are the values alone, which can't be wrong.

use std::time::Duration;

/// The mode that is asked for: `settings.registry.mode`.
pub use crate::values::AnyMode as Target;
pub use crate::values::CheckMode;
use crate::values::{Scheme, Secret};

/// The time to live of Proxy's cache where ModuleConfig names none, as in Deckhouse.
pub const DEFAULT_TTL: Duration = Duration::from_secs(168 * 3600);

/// A user of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Never empty, without a colon; `license-token` where a license is given.
    pub username: String,
    /// Never empty.
    pub password: Secret,
}

/// A registry outside of the cluster, and the repository below which the images are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// `host[:port][/path]`, without spaces and slashes at its ends; matches the schema's pattern.
    pub images_repo: String,
    /// How it is reached.
    pub scheme: Scheme,
    /// PEM of its authorities; the system's where absent. Never with `HTTP`.
    pub ca: Option<String>,
    /// `None`: it asks nobody who he is.
    pub login: Option<Login>,
}

impl Upstream {
    /// `host[:port]`.
    #[must_use]
    pub fn host(&self) -> &str {
        self.images_repo.split_once('/').map_or(&self.images_repo, |(host, _)| host)
    }

    /// The path below the host without slashes at its ends; `""` for the host's root.
    #[must_use]
    pub fn path(&self) -> &str {
        self.images_repo.split_once('/').map_or("", |(_, path)| path)
    }
}

/// A mode with its parameters. Two equal ones need no switch between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Params {
    /// Direct.
    Direct(Upstream),
    /// Proxy.
    Proxy {
        /// What it caches.
        upstream: Upstream,
        /// How long a cached content lives: at least 5 minutes, or zero, which is for ever.
        ttl: Duration,
    },
    /// Local; it has no parameters.
    Local,
    /// Unmanaged: with a registry "configured", without one "bare".
    Unmanaged(Option<Upstream>),
}

impl Params {
    /// Unmanaged without a registry.
    pub const BARE: Self = Self::Unmanaged(None);

    /// The mode.
    #[must_use]
    pub const fn target(&self) -> Target {
        match self {
            Self::Direct(_) => Target::Direct,
            Self::Proxy { .. } => Target::Proxy,
            Self::Local => Target::Local,
            Self::Unmanaged(_) => Target::Unmanaged,
        }
    }

    /// The registry outside, where the mode has one.
    #[must_use]
    pub const fn upstream(&self) -> Option<&Upstream> {
        match self {
            Self::Direct(upstream) | Self::Proxy { upstream, .. } => Some(upstream),
            Self::Local => None,
            Self::Unmanaged(upstream) => upstream.as_ref(),
        }
    }

    /// Whether images are named by the cluster's own address (Direct, Proxy, Local).
    #[must_use]
    pub const fn is_managed(&self) -> bool {
        !matches!(self, Self::Unmanaged(_))
    }
}

/// The settings of one input, valid as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The wanted mode with its parameters.
    pub params: Params,
    /// How much is checked.
    pub check_mode: CheckMode,
}

/// What is done about nodes that are NotReady or not ours (`switch.unreadyNodes`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UnreadyNodes {
    /// The switch waits for them.
    #[default]
    Wait,
    /// The switch goes on without them; its end waits, because they keep their old source.
    Skip,
}

/// How a switch is carried out; the controller's own options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchOptions {
    /// `switch.settle`: how long no answer may come from a previous mode before it ends.
    pub settle: Duration,
    /// `switch.scanInterval`: the least time between the two scans that end a switch.
    pub scan_interval: Duration,
    /// `switch.unreadyNodes`.
    pub unready_nodes: UnreadyNodes,
}

impl Default for SwitchOptions {
    fn default() -> Self {
        Self {
            settle: Duration::from_secs(600),
            scan_interval: Duration::from_secs(30),
            unready_nodes: UnreadyNodes::Wait,
        }
    }
}
