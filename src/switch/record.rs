//! What the controller remembers: Secret `d8-registry-switch`, key `record`. Written before the outputs that it describes.

use std::collections::{BTreeMap, BTreeSet};

use super::documents::{Hosts, Plane};
use super::settings::{Params, Settings, Upstream};
use crate::clock::Timestamp;
use crate::values::Secret;

/// Where settings come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InputSource {
    /// Secret `d8-registry-settings` with annotation `d8-registry/source: manual`.
    Manual,
    /// ModuleConfig `deckhouse`.
    ModuleConfig,
}

impl InputSource {
    /// The word of the annotation and of `switch source`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::ModuleConfig => "moduleconfig",
        }
    }
}

/// What nodes get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePlan {
    /// Mirrors of every source that nodes were given and may still need, but for [`NodePlan::with`].
    pub kept: Hosts,
    /// The newest source. `None`: there is no `registry-bashible-config`.
    pub with: Option<Params>,
}

/// How long answers of previous modes have stood still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// By server: when its process started, and its count of answers by a previous mode.
    pub counts: BTreeMap<String, (u64, u64)>,
    /// Since when none of them has changed.
    pub since: Timestamp,
}

/// Everything that is remembered. Holds passwords.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Grows with each change of the target.
    pub attempt: u64,
    /// The generation of the mode file that holds [`Record::plane`].
    pub generation: u64,
    /// The input in force; `None` until there was one.
    pub source: Option<InputSource>,
    /// Whether an administrator's word chose the source; then no other takes its place by itself.
    pub source_chosen: bool,
    /// The last valid settings of the input in force.
    pub settings: Option<Settings>,
    /// Settings of ModuleConfig at the first start: they begin no switch until they change.
    pub passed_over: Option<Settings>,
    /// ModuleConfig was read without settings of the registry while nothing had been asked for: those that it is given are an
    /// order. Only where [`Record::adopted`].
    pub unset_seen: bool,
    /// The target whose switch ended last.
    pub completed: Params,
    /// The target that is being switched to; equal to `completed` once its switch has ended.
    pub target: Params,
    /// Whether the switch to `target` is still under way.
    pub under_way: bool,
    /// The state was taken over from what ran before, and its outputs are not ours to keep yet.
    pub adopted: bool,
    /// What servers hold.
    pub plane: Plane,
    /// What nodes get.
    pub nodes: NodePlan,
    /// Since when they get it, in the version that they answer with; `None` where that is not known.
    pub given: Option<Timestamp>,
    /// What `deckhouse-registry` was written for; `None` while it is not ours.
    pub deckhouse_registry: Option<Params>,
    /// The way back to bare Unmanaged: saved before `deckhouse-registry` is touched, gone when Local is reached.
    pub fallback: Option<Upstream>,
    /// The repositories that images were named by since the last switch ended, and that nodes still have mirrors for:
    /// `host[:port][/path]`.
    pub named: BTreeSet<String>,
    /// The authority that nodes were told to trust, while any of them may.
    pub ca: Option<String>,
    /// The password of user `ro` that nodes were given, while any of them may use it.
    pub ro: Option<Secret>,
    /// Nodes that the switch went on without and that may still have the old source alone.
    pub skipped: BTreeSet<String>,
    /// Answers of previous modes.
    pub settle: Option<Settle>,
    /// An administrator said `finish --accept-missing` for this attempt.
    pub accept_missing: bool,
}
