//! What is to be done after a look: writes in order, questions beside them, what is said.

use std::collections::BTreeMap;
use std::time::Duration;

use super::conditions::Condition;
use super::documents::{BashibleConfig, DeckhouseRegistry, MastersMap, ModeFile, RegistryState};
use super::record::Record;
use super::settings::{CheckMode, Upstream};
use crate::values::{Role, Secret};

/// One write. Writes are carried out in the order of [`Decision::writes`]; the first failure ends the run, and the next look
/// decides anew. Each is refused by the API server where the object has another resource version than was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The resource version that the object has to have; `""`: it must not exist yet.
    pub base: String,
    /// What is written.
    pub what: Content,
}

/// What a write writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Secret `d8-registry-switch`.
    Record(Box<Record>),
    /// Secret `d8-registry-mode`.
    ModeFile(ModeFile),
    /// Secret `registry-bashible-config`.
    Bashible(BashibleConfig),
    /// Secret `deckhouse-registry`, the five fields; the others stay. The webhook's rules were run.
    DeckhouseRegistry(DeckhouseRegistry),
    /// Secret `registry-state`.
    State(RegistryState),
    /// A Secret `registry-user-*` with a new password, made where it is written.
    NewUser(Role),
    /// A Secret `registry-user-*` with this password and a hash of it: the hash did not fit, or nodes were given this password
    /// and the Secret has lost it.
    RestoreUser {
        /// Whose.
        role: Role,
        /// In clear.
        password: Secret,
    },
    /// Secret `registry-pki`, made where it is written, with ConfigMap `registry-ca`. Create only.
    NewAuthority,
    /// Selector of Service `registry`.
    Service(BTreeMap<String, String>),
    /// The Ingress for pushes.
    PushIngress(bool),
    /// ConfigMap `d8-registry-masters`.
    Masters(MastersMap),
    /// The annotation of an administrator's word is taken away; without a resource version.
    ForgetWord,
}

/// Where images are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImagesAt {
    /// In a registry outside, by HEAD of each manifest.
    Upstream(Upstream),
    /// In the mode Local of every master, asked at `<masterIP>:5001` as `mirror-puller`, layers included. An answer whose
    /// `d8-registry-mode` is not Local is an error.
    Masters(Vec<(String, String)>),
}

/// What the controller finds out beside the loop. It works on the questions of the newest decision alone: the answer to one
/// that is asked no longer is forgotten, so one that is asked again begins anew; so does one whose content is another under the
/// same key. Answers go into `Observed` by `key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether every required image is there. Failed ones are asked again after 10 s and everything again from time to time;
    /// a changed list begins the check anew.
    Images {
        /// Of the answer.
        key: String,
        /// Where.
        at: ImagesAt,
        /// How many.
        check_mode: CheckMode,
    },
    /// Whether an upstream can be used; asked again every minute.
    Probe {
        /// Of the answer.
        key: String,
        /// Which.
        upstream: Upstream,
    },
    /// What in the cluster still names an address; asked again each `switch.scanInterval`.
    References {
        /// Of the answer.
        key: String,
        /// `host[:port][/path]` that images begin with.
        address: String,
        /// Only those that are not found here count. `None`: all count.
        unless_at: Option<ImagesAt>,
    },
}

impl Question {
    /// The key of its answer.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Images { key, .. } | Self::Probe { key, .. } | Self::References { key, .. } => key,
        }
    }
}

/// Something that people are told. It is told once as long as each decision repeats it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// A Warning, not Normal.
    pub warning: bool,
    /// The Event's reason: one word in CamelCase.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// Figures for the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Nodes that have the wanted configuration.
    pub nodes_converged: usize,
    /// Nodes that have not.
    pub nodes_waiting: usize,
    /// Nodes that the switch went on without.
    pub nodes_skipped: usize,
    /// Names of nodes that have kept the switch waiting for 10 minutes.
    pub slow_nodes: Vec<String>,
    /// Outputs that this decision repairs, by name of the object.
    pub repaired: Vec<&'static str>,
    /// Why nothing is changed: `input`, `record`, `authority`, `module`, `transition`, `precondition`, …
    pub held: Option<&'static str>,
}

/// The decision after one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// All of them, in the order in which they are shown.
    pub conditions: Vec<Condition>,
    /// In this order.
    pub writes: Vec<Write>,
    /// All that is to be found out.
    pub questions: Vec<Question>,
    /// Events.
    pub notices: Vec<Notice>,
    /// For metrics.
    pub figures: Figures,
    /// When to look again though nothing was seen to change.
    pub wake: Option<Duration>,
}
