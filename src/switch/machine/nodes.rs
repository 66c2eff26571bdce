//! What nodes are given: old and new sources together, then the new one alone, and how far they are.

use std::collections::BTreeSet;

use super::run::{Run, SLOW_NODE};
use super::shown::ERROR;
use super::text::{line, list, list_whole, short};
use crate::switch::conditions::ConditionType;
use crate::switch::documents::{FIXED_HOST, FIXED_PATH, Hosts, Phase, ServerMode};
use crate::switch::observed::{Node, ReferencesAnswer};
use crate::switch::outputs::{hosts, merged};
use crate::switch::record::NodePlan;
use crate::switch::settings::Params;
use crate::switch::write::{ImagesAt, Question};

const TRANSITION: ConditionType = ConditionType::TransitionContainerdConfigReady;
const FINAL: ConditionType = ConditionType::FinalContainerdConfigReady;

/// What a node says that has no configuration of ours.
pub(super) const UNKNOWN: &str = "unknown";

/// The repository that images are named by.
pub(super) fn images_base(params: &Params) -> Option<String> {
    match params {
        Params::Direct(_) | Params::Proxy { .. } | Params::Local => Some(format!("{FIXED_HOST}/{FIXED_PATH}")),
        Params::Unmanaged(upstream) => upstream.as_ref().map(|upstream| upstream.images_repo.clone()),
    }
}

/// The host of a repository.
pub(super) fn host_of(base: &str) -> &str {
    base.split_once('/').map_or(base, |(host, _)| host)
}

/// What nodes have to have applied.
enum Wanted<'v> {
    /// The configuration of this version.
    Version(&'v str),
    /// No configuration of ours.
    None,
}

impl Wanted<'_> {
    fn is_met(&self, node: &Node) -> bool {
        match self {
            Self::Version(version) => node.version.as_deref() == Some(*version),
            Self::None => node.version.as_deref().is_none_or(|version| version == UNKNOWN),
        }
    }
}

impl Run<'_> {
    /// No node has registry settings of the old form, which would be in the way of ours.
    pub(super) fn preflight(&mut self) -> Option<()> {
        let kind = ConditionType::ContainerdConfigPreflightReady;
        if !self.look.outputs.bashible.is_absent() {
            self.shown.met(kind);
            self.prepares = true;
            return Some(());
        }
        let counted: Vec<&Node> = self.nodes.iter().filter(|node| !self.may_skip(node)).collect();
        let bad: Vec<String> = counted
            .iter()
            .filter_map(|node| match node.containerd_config.as_deref() {
                Some("default") => None,
                Some("custom") => Some(format!("{}: has custom toml merge containerd configuration", node.name)),
                Some(_) | None => Some(format!("{}: unknown containerd configuration, waiting...", node.name)),
            })
            .collect();
        if bad.is_empty() {
            self.shown.met(kind);
            self.prepares = true;
            return Some(());
        }
        let heading = format!("{}/{} node(s) Unready:", bad.len(), counted.len());
        self.shown.unmet(kind, format!("{}{}", line("Check current nodes configuration"), list(&heading, &bad)));
        None
    }

    /// Every node has the old sources and the new one.
    pub(super) fn transition(&mut self, source: &Params) -> Option<()> {
        let applying = line("Applying configuration to nodes");
        let creating = line("Creating Managed configuration...");
        let alone = self.record.nodes.with.as_ref() == Some(source) && self.record.nodes.kept.is_empty();
        if alone {
            self.shown.met(TRANSITION);
            return Some(());
        }
        if source.is_managed() && !self.servers_hold(&ServerMode::of(source), Phase::Ready) {
            // Nodes that have the new source ask servers as its user, so servers know him before.
            let waiting = self.reported().err().unwrap_or_default();
            let waiting = if waiting.is_empty() { String::new() } else { list_whole("Waiting for masters:", &waiting) };
            self.shown.unmet(TRANSITION, format!("{applying}{creating}{waiting}"));
            return None;
        }
        if self.record.nodes.with.as_ref() != Some(source) {
            match self.plan_with(source) {
                Ok(plan) => {
                    self.record.nodes = plan;
                    self.shown.unmet(TRANSITION, format!("{applying}{creating}"));
                }
                Err(why) => self.shown.set(TRANSITION, false, ERROR, format!("{applying}{}", line(&why))),
            }
            return None;
        }
        self.applied(TRANSITION)
    }

    /// The plan with one more source.
    fn plan_with(&mut self, source: &Params) -> Result<NodePlan, String> {
        const NOT_YET: &str = "The registry's authority or its user ro is not there yet";
        let in_cluster = self.in_cluster();
        let new = hosts(source, in_cluster.as_ref()).ok_or(NOT_YET)?;
        let NodePlan { kept, with } = self.record.nodes.clone();
        let kept = match with {
            Some(with) => merged(&kept, &hosts(&with, in_cluster.as_ref()).ok_or(NOT_YET)?),
            None if kept.is_empty() => self.unmanaged_source()?,
            None => kept,
        };
        // Nothing kept would say that nodes have the new source alone already.
        let kept = if kept.is_empty() { new } else { kept };
        if let Some(in_cluster) = in_cluster.filter(|_| source.is_managed()) {
            self.record.ca = Some(in_cluster.ca);
            self.record.ro = Some(in_cluster.ro.password);
        }
        Ok(NodePlan { kept, with: Some(source.clone()) })
    }

    /// What nodes use that nobody of ours has given anything yet: the registry of `deckhouse-registry`.
    fn unmanaged_source(&mut self) -> Result<Hosts, String> {
        let found = &self.look.outputs.deckhouse_registry;
        let registry = found.value().ok_or("Secret deckhouse-registry is not there or can't be read")?;
        let Some(upstream) = registry.upstream().map_err(|why| format!("Secret deckhouse-registry: {why}"))? else {
            return Ok(Hosts::new());
        };
        self.record.named.insert(upstream.images_repo.clone());
        Ok(hosts(&Params::Unmanaged(Some(upstream)), None).unwrap_or_default())
    }

    /// Every node has the new source alone.
    pub(super) fn finished(&mut self, source: &Params) -> Option<()> {
        if self.record.nodes.kept.is_empty() {
            self.applied(FINAL)?;
            return Some(());
        }
        let in_cluster = self.in_cluster();
        let Some(new) = hosts(source, in_cluster.as_ref()) else {
            self.shown.unmet(FINAL, line("Creating Managed configuration..."));
            return None;
        };
        let leaving: Vec<String> =
            self.record.named.iter().filter(|base| !new.contains_key(host_of(base))).cloned().collect();
        for base in &leaving {
            if let Err(message) = self.named_by_nobody(base, None) {
                self.shown.unmet(FINAL, format!("{}{message}", line("Applying configuration to nodes")));
                return None;
            }
        }
        self.record.nodes.kept.clear();
        self.record.named = images_base(source).into_iter().collect();
        self.shown.unmet(FINAL, line("Applying configuration to nodes"));
        None
    }

    /// Whether nodes have applied what they are given.
    pub(super) fn applied(&mut self, kind: ConditionType) -> Option<()> {
        let Some(version) = self.bashible().map(|config| config.version) else {
            self.shown.unmet(kind, line("Creating Managed configuration..."));
            return None;
        };
        self.converged(kind, &Wanted::Version(&version))
    }

    /// Whether no node has a configuration of ours.
    pub(super) fn forgotten(&mut self) -> Option<()> {
        self.converged(FINAL, &Wanted::None)
    }

    fn converged(&mut self, kind: ConditionType, wanted: &Wanted<'_>) -> Option<()> {
        let counted: Vec<&Node> = self.nodes.iter().filter(|node| !self.may_skip(node)).collect();
        let waiting: Vec<&Node> = counted.iter().copied().filter(|node| !wanted.is_met(node)).collect();
        let skipped = self.nodes.iter().filter(|node| self.may_skip(node) && !wanted.is_met(node));
        self.record.skipped = skipped.map(|node| node.name.clone()).collect::<BTreeSet<_>>();
        self.figures.nodes_converged = counted.len() - waiting.len();
        self.figures.nodes_waiting = waiting.len();
        self.figures.nodes_skipped = self.record.skipped.len();
        if waiting.is_empty() {
            self.shown.met(kind);
            return Some(());
        }
        let lines: Vec<String> = waiting
            .iter()
            .map(|node| {
                let old = short(node.version.as_deref().unwrap_or(UNKNOWN));
                match wanted {
                    Wanted::Version(version) => format!("{}: \"{old}\" → \"{}\"", node.name, short(version)),
                    Wanted::None => format!("{}: \"{old}\" → Unmanaged", node.name),
                }
            })
            .collect();
        let heading = format!("{}/{} node(s) ready. Waiting:", counted.len() - waiting.len(), counted.len());
        let mut message = line("Applying configuration to nodes");
        if matches!(wanted, Wanted::None) {
            message.push_str(&line("Cleaning Managed configuration..."));
        }
        self.shown.unmet(kind, format!("{message}{}", list(&heading, &lines)));
        self.name_slow_nodes(kind, &waiting);
        None
    }

    /// The time from which a node is slow that has not applied what it is given: what nodes answer is the version, which is
    /// another one too when a master joins.
    pub(super) fn remember_when_nodes_were_given(&mut self) {
        // What somebody edited or deleted is put back, and asks nothing new of nodes; what was taken over is others' to write.
        let before = self.look.outputs.bashible.value().filter(|found| found.version == found.hash());
        let is_new = !self.record.adopted
            && before.is_some_and(|before| self.bashible().is_some_and(|config| config.version != before.version));
        if is_new || self.look.record.value().is_none_or(|before| before.nodes != self.record.nodes) {
            self.record.given = Some(self.look.now);
        }
    }

    /// Tells people of nodes that keep a switch waiting for long.
    fn name_slow_nodes(&mut self, kind: ConditionType, waiting: &[&Node]) {
        // The condition may have been unmet for long before nodes were given anything: leftovers are waited for too.
        let begun = self.shown.find(kind).map(|condition| condition.last_transition).max(self.record.given);
        let slow: Vec<&Node> = waiting
            .iter()
            .copied()
            .filter(|node| {
                let since = node.unready_since.filter(|_| !node.ready).or(begun);
                since.is_some_and(|since| self.ago(since) >= SLOW_NODE)
            })
            .collect();
        self.figures.slow_nodes = slow.iter().map(|node| node.name.clone()).collect();
        if slow.is_empty() {
            self.wake_after(SLOW_NODE);
            return;
        }
        let lines: Vec<String> = slow
            .iter()
            .map(|node| {
                let what = if node.ready { "has not applied its configuration" } else { "is not Ready" };
                format!("{}: {what}", node.name)
            })
            .collect();
        self.say(true, "NodesNotConverged", list("Nodes keep the switch waiting for 10 minutes:", &lines));
    }

    /// Whether nothing in the cluster needs the old place of images any more, by two scans in a row. `Err`: the message of
    /// what stands in the way.
    pub(super) fn named_by_nobody(&mut self, base: &str, unless_at: Option<ImagesAt>) -> Result<(), String> {
        if self.record.accept_missing {
            return Ok(());
        }
        let key = format!("references/{}/{base}", self.record.attempt);
        let interval = self.look.options.scan_interval;
        self.questions.push(Question::References { key: key.clone(), address: base.to_owned(), unless_at });
        self.wake_after(interval);
        match self.look.references.get(&key) {
            None => Err(line(&format!("Looking for what still needs {base}"))),
            Some(ReferencesAnswer::Failed(why)) => Err(line(&format!("Looking for what still needs {base}: {why}"))),
            Some(ReferencesAnswer::Scanned { leftovers, .. }) if !leftovers.is_empty() => {
                Err(list(&format!("{} object(s) still need {base}:", leftovers.len()), leftovers))
            }
            Some(ReferencesAnswer::Scanned { at, clear_since, .. }) => match clear_since {
                Some(since) if at.since(*since).is_some_and(|row| row >= interval) => Ok(()),
                Some(_) | None => Err(line(&format!("Nothing needs {base} any more; looking once again"))),
            },
        }
    }
}
