//! One run: the look, what is remembered and what comes out so far. Steps of the walk are in files of their own.

use std::time::Duration;

use super::shown::Shown;
use crate::clock::Timestamp;
use crate::switch::documents::{BashibleConfig, ModeFile, Plane};
use crate::switch::observed::{Node, Observed};
use crate::switch::outputs::InCluster;
use crate::switch::record::Record;
use crate::switch::settings::{CheckMode, Login, Params, UnreadyNodes};
use crate::switch::write::{Figures, ImagesAt, Notice, Question};
use crate::values::Role;

/// How long a node may keep a switch waiting before it is named to people.
pub(super) const SLOW_NODE: Duration = Duration::from_secs(600);

/// The name of `ro`.
const RO: &str = "ro";

/// One run.
pub(super) struct Run<'a> {
    /// The look.
    pub(super) look: &'a Observed,
    /// Every node.
    pub(super) nodes: &'a [Node],
    /// What is remembered, as it will be written.
    pub(super) record: Record,
    /// The hash of the mode file, which servers report. Rendered once: a run asks for it many times.
    file_hash: String,
    /// Conditions.
    pub(super) shown: Shown,
    /// What is to be found out.
    pub(super) questions: Vec<Question>,
    /// What is said.
    pub(super) notices: Vec<Notice>,
    /// Figures.
    pub(super) figures: Figures,
    /// When to look again.
    pub(super) wake: Option<Duration>,
    /// The cluster allows the switch: what it needs may be made.
    pub(super) prepares: bool,
}

impl<'a> Run<'a> {
    pub(super) fn new(look: &'a Observed, nodes: &'a [Node], record: Record) -> Self {
        let before = look.outputs.state.value().map_or(&[][..], |state| &state.conditions);
        let file_hash = file_of(&record).hash();
        Self {
            look,
            nodes,
            record,
            file_hash,
            shown: Shown::new(before, look.now),
            questions: Vec::new(),
            notices: Vec::new(),
            figures: Figures::default(),
            wake: None,
            prepares: false,
        }
    }

    /// The masters.
    pub(super) fn masters(&self) -> impl Iterator<Item = &'a Node> + use<'a> {
        self.nodes.iter().filter(|node| node.master)
    }

    /// Addresses of the masters, without port.
    pub(super) fn master_addresses(&self) -> Vec<String> {
        self.masters().filter_map(|node| node.address.clone()).collect()
    }

    /// What the registry inside of the cluster is asked with: as nodes know it, else as it is found.
    pub(super) fn in_cluster(&self) -> Option<InCluster> {
        let found = self.look.outputs.users.get(&Role::Ro).and_then(|user| user.value());
        let password = self.record.ro.clone().or_else(|| found.map(|user| user.password.clone()))?;
        let ca = self.record.ca.clone().or_else(|| self.look.outputs.ca.value().cloned())?;
        Some(InCluster { ca, ro: Login { username: RO.to_owned(), password } })
    }

    /// The configuration that nodes are given, if it can be rendered.
    pub(super) fn bashible(&self) -> Option<BashibleConfig> {
        BashibleConfig::of(&self.record.nodes, self.in_cluster().as_ref(), &self.master_addresses())
    }

    /// The version with which bare Unmanaged is settled, if it is.
    pub(super) fn settled_version(&self) -> Option<String> {
        let Record { adopted, completed, target, under_way, nodes, .. } = &self.record;
        let found = self.look.outputs.masters.value().and_then(|found| found.settled.clone());
        // Where the Secret is gone, nodes may have still to hear with which version it went.
        let Some(config) = self.bashible().filter(|_| !adopted) else { return found };
        let bare = *target == Params::BARE && *completed == Params::BARE && nodes.kept.is_empty();
        // The walk to where it is already, after its record was lost, unsettles nothing.
        let was = found.as_ref() == Some(&config.version);
        (bare && (!under_way || was)).then_some(config.version)
    }

    /// The mode file that servers are given.
    pub(super) fn mode_file(&self) -> ModeFile {
        file_of(&self.record)
    }

    /// What a server reports that has taken [`Run::mode_file`].
    pub(super) fn mode_file_hash(&self) -> &str {
        &self.file_hash
    }

    /// Servers are to hold this.
    pub(super) fn set_plane(&mut self, plane: Plane) {
        if plane != self.record.plane {
            self.record.plane = plane;
            self.set_generation(self.record.generation.saturating_add(1));
        }
    }

    /// The mode file has this generation.
    pub(super) fn set_generation(&mut self, generation: u64) {
        self.record.generation = generation;
        self.file_hash = self.mode_file().hash();
    }

    /// How much is checked.
    pub(super) fn check_mode(&self) -> CheckMode {
        self.record.settings.as_ref().map_or(CheckMode::Default, |settings| settings.check_mode)
    }

    /// Where a target's images are.
    pub(super) fn images_at(&self, params: &Params) -> Option<ImagesAt> {
        match params {
            Params::Direct(upstream) | Params::Proxy { upstream, .. } | Params::Unmanaged(Some(upstream)) => {
                Some(ImagesAt::Upstream(upstream.clone()))
            }
            Params::Local => {
                let masters = self.masters().filter_map(|node| Some((node.name.clone(), node.address.clone()?)));
                Some(ImagesAt::Masters(masters.collect()))
            }
            Params::Unmanaged(None) => None,
        }
    }

    /// Whether the switch may go on without a node.
    pub(super) fn may_skip(&self, node: &Node) -> bool {
        match self.look.options.unready_nodes {
            UnreadyNodes::Wait => false,
            // A master has a server too, and a server that is not known to have changed may still answer.
            UnreadyNodes::Skip => !node.master && (!node.ready || !node.ours),
        }
    }

    /// Looks again after this time at the latest.
    pub(super) fn wake_after(&mut self, time: Duration) {
        self.wake = Some(self.wake.map_or(time, |wake| wake.min(time)));
    }

    /// How long ago something was; 0 where the clock went back.
    pub(super) fn ago(&self, time: Timestamp) -> Duration {
        self.look.now.since(time).unwrap_or_default()
    }

    /// Tells people something.
    pub(super) fn say(&mut self, warning: bool, reason: &'static str, message: String) {
        self.notices.push(Notice { warning, reason, message });
    }

    /// Nothing is changed until a person acts.
    pub(super) const fn hold(&mut self, why: &'static str) {
        self.figures.held = Some(why);
    }
}

fn file_of(record: &Record) -> ModeFile {
    ModeFile { generation: record.generation, plane: record.plane.clone() }
}
