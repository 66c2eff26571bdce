//! One look at the world. Plain data: what could not be read is a value of its own and never the same as "absent".

use std::collections::BTreeMap;

use super::documents::{BashibleConfig, DeckhouseRegistry, FoundModeFile, MastersMap, RegistryState, User};
use super::inputs::ChartValues;
use super::record::{InputSource, Record};
use super::settings::{Settings, SwitchOptions, Target};
use crate::clock::Timestamp;
use crate::values::Role;

/// Something that is always there, and that one failed to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<T> {
    /// Why.
    Unreadable(String),
    /// The value.
    Known(T),
}

/// An object of ours, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<T> {
    /// The API server says that it does not exist.
    Absent,
    /// It could not be read; it may exist. Why.
    Unreadable(String),
    /// It exists and its content is none; `version` is its resource version. Why.
    Garbled {
        /// Resource version.
        version: String,
        /// Why.
        why: String,
    },
    /// It exists.
    Present {
        /// Resource version.
        version: String,
        /// Its content.
        value: T,
    },
}

impl<T> Output<T> {
    /// The content, if there is one.
    pub const fn value(&self) -> Option<&T> {
        match self {
            Self::Present { value, .. } => Some(value),
            Self::Absent | Self::Unreadable(_) | Self::Garbled { .. } => None,
        }
    }

    /// Whether the API server says that it does not exist.
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// The resource version that a write has to find: `Some("")` creates. `None` where it could not be read: no write.
    pub fn base(&self) -> Option<&str> {
        match self {
            Self::Absent => Some(""),
            Self::Unreadable(_) => None,
            Self::Garbled { version, .. } | Self::Present { version, .. } => Some(version),
        }
    }
}

/// One of the two inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// It does not exist, or no such kind.
    Absent,
    /// It was read, and has no settings of the registry. Of ModuleConfig alone.
    Unset,
    /// It could not be read. Why.
    Unreadable(String),
    /// It breaks rules; each is one message.
    Invalid {
        /// The documented messages.
        problems: Vec<String>,
        /// `metadata.generation`, 0 where there is none.
        generation: i64,
    },
    /// It is valid.
    Valid {
        /// What it says.
        settings: Settings,
        /// `metadata.generation`, 0 where there is none.
        generation: i64,
    },
}

/// Both inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// Secret `d8-registry-settings` that is ours.
    pub manual: Input,
    /// The resource version of a Secret of that name, whoever's it is. `None`: there is none, or it can't be read.
    pub manual_version: Option<String>,
    /// ModuleConfig `deckhouse`.
    pub module_config: Input,
    /// Secret `d8-registry-values`: no input, but what an administrator may take for one.
    pub chart: Output<ChartValues>,
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Label `node-role.kubernetes.io/control-plane`.
    pub master: bool,
    /// Its condition Ready is True.
    pub ready: bool,
    /// When it stopped being Ready, if it is not and that is known.
    pub unready_since: Option<Timestamp>,
    /// Not `spec.unschedulable`.
    pub schedulable: bool,
    /// Its bashible is Deckhouse's (it has a NodeGroup: label `node.deckhouse.io/group`).
    pub ours: bool,
    /// The first `InternalIP`.
    pub address: Option<String>,
    /// Annotation `registry.deckhouse.io/version`: the version of the configuration that it has applied.
    pub version: Option<String>,
    /// Label `node.deckhouse.io/containerd-config-registry`.
    pub containerd_config: Option<String>,
    /// `status.nodeInfo.containerRuntimeVersion`: `containerd://1.7.27`.
    pub runtime: String,
}

/// What a server says of the file that it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerModeFile {
    /// sha256 hex of the bytes in force.
    pub hash: String,
    /// Its generation.
    pub generation: u64,
    /// Why a newer file is not in force.
    pub error: Option<String>,
}

/// `GET /-/state` of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// When its process started, seconds since 1970.
    pub started: u64,
    /// It takes requests.
    pub ready: bool,
    /// Why it does not.
    pub not_ready: Vec<String>,
    /// By name of user the [`fingerprint`](User::fingerprint) that counts there; `None`: an older server, which does not say.
    pub users: Option<BTreeMap<String, String>>,
    /// `None`: the keys of its configuration count.
    pub mode_file: Option<ServerModeFile>,
    /// The mode that answers.
    pub in_force: Target,
    /// Answers by a previous mode since the start.
    pub previous_answers: u64,
}

/// One server, on one master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// It said nothing. Why.
    Silent(String),
    /// It answered.
    Answered(ServerState),
}

/// A pod of Deckhouse itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeckhousePod {
    /// Its name.
    pub name: String,
    /// Label `leader=true`.
    pub leader: bool,
    /// Its condition Ready is True.
    pub ready: bool,
    /// Annotation `checksum/registry-version`, or `registry.deckhouse.io/version` of Deployment `deckhouse` where the pod has
    /// none: the hash of the `deckhouse-registry` that it runs with.
    pub registry_version: Option<String>,
}

/// How a check of images stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Not every image was asked for yet, and none is known to lack.
    Running,
    /// At least one is not there or could not be asked for.
    Lacking,
    /// Every one is there.
    Whole,
}

/// The answer to `Question::Images`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagesAnswer {
    /// How it stands.
    pub state: Checked,
    /// The documented message, each line with its `\n`.
    pub message: String,
}

/// The answer to `Question::Probe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeAnswer {
    /// It takes us and has images.
    Good,
    /// No usable answer. Why.
    Unreachable(String),
    /// It does not take our credentials. Why.
    Refused(String),
    /// It takes us, and there are no images below the repository. Why.
    ImagesNotThere(String),
}

/// The answer to `Question::References`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReferencesAnswer {
    /// The newest scan failed: nothing is known. Why.
    Failed(String),
    /// The newest scan.
    Scanned {
        /// When it began.
        at: Timestamp,
        /// What stands in the way, for people: `Deployment d8-monitoring/grafana: <image>`. Sorted.
        leftovers: Vec<String>,
        /// When the first of the unbroken row of scans began that found nothing and ends with this one; `None` where this
        /// one found something. A failed scan breaks the row.
        clear_since: Option<Timestamp>,
    },
}

/// What an administrator said by an annotation; the switch takes it away once it was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// `switch finish --accept-missing`.
    FinishAcceptMissing,
    /// `switch source …`.
    Source(InputSource),
}

/// The outputs, as they were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outputs {
    /// Secret `registry-state`.
    pub state: Output<RegistryState>,
    /// Secret `d8-registry-mode`.
    pub mode_file: Output<FoundModeFile>,
    /// Secret `registry-bashible-config`.
    pub bashible: Output<BashibleConfig>,
    /// Secret `deckhouse-registry`.
    pub deckhouse_registry: Output<DeckhouseRegistry>,
    /// Secrets `registry-user-*`; each role has an entry.
    pub users: BTreeMap<Role, Output<User>>,
    /// ConfigMap `registry-ca`, key `ca.crt`: PEM.
    pub ca: Output<String>,
    /// Whether Secret `registry-pki` exists. The controller may not read it: a dry-run create tells.
    pub pki: Seen<bool>,
    /// The selector of Service `registry`.
    pub service: Output<BTreeMap<String, String>>,
    /// Whether pushes from outside are let in; `Absent` where the chart has no such Ingress.
    pub push_ingress: Output<bool>,
    /// ConfigMap `d8-registry-masters`.
    pub masters: Output<MastersMap>,
}

/// Everything that a decision depends on.
///
/// The record is read last: outputs that are older than the record are refused when they are written, outputs that are newer
/// would be taken for edited ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The time of the look.
    pub now: Timestamp,
    /// The controller's options.
    pub options: SwitchOptions,
    /// Both inputs.
    pub inputs: Inputs,
    /// Deckhouse's own module `registry` is enabled.
    pub deckhouse_module: Seen<bool>,
    /// `clusterIsBootstrapped`.
    pub bootstrapped: Seen<bool>,
    /// Secret `d8-registry-switch`.
    pub record: Output<Record>,
    /// Every Node.
    pub nodes: Seen<Vec<Node>>,
    /// By name of master; a master without an entry counts as silent.
    pub servers: BTreeMap<String, Server>,
    /// What is written, as it stands.
    pub outputs: Outputs,
    /// The pods of Deckhouse itself.
    pub deckhouse: Seen<Vec<DeckhousePod>>,
    /// Length of Deckhouse's main queue; `None` where it can't be seen.
    pub queue: Option<u64>,
    /// Answers to `Question::Images`, by key.
    pub images: BTreeMap<String, ImagesAnswer>,
    /// Answers to `Question::Probe`, by key.
    pub probes: BTreeMap<String, ProbeAnswer>,
    /// Answers to `Question::References`, by key.
    pub references: BTreeMap<String, ReferencesAnswer>,
    /// What an administrator said.
    pub word: Option<Word>,
}
