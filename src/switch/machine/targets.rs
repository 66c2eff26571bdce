//! The steps to each target. Every run walks them from the first and stops at the first that is not met; a step that is met
//! changes nothing.

use super::run::Run;
use super::text::{line, list_whole};
use crate::switch::conditions::ConditionType;
use crate::switch::documents::{Phase, ServerMode};
use crate::switch::record::NodePlan;
use crate::switch::settings::Params;

impl Run<'_> {
    /// Walks to the target; `Some`: it is reached.
    pub(super) fn walk(&mut self) -> Option<()> {
        let target = self.record.target.clone();
        match &target {
            Params::Direct(_) => self.reach_direct(&target),
            Params::Proxy { .. } => self.reach_proxy(&target),
            Params::Local => self.reach_local(&target),
            Params::Unmanaged(Some(_)) => self.reach_unmanaged(&target),
            Params::Unmanaged(None) => self.reach_bare(),
        }
    }

    fn reach_direct(&mut self, target: &Params) -> Option<()> {
        self.ready_to_begin(target)?;
        self.preflight()?;
        self.transition(target)?;
        self.in_cluster_proxy(target)?;
        self.deckhouse(target)?;
        self.finished(target)?;
        self.previous_ended(target, ConditionType::CleanupNodeServices)
    }

    fn reach_proxy(&mut self, target: &Params) -> Option<()> {
        self.ready_to_begin(target)?;
        self.preflight()?;
        self.node_services(target, Phase::Ready)?;
        self.transition(target)?;
        self.in_force(target)?;
        self.deckhouse(target)?;
        self.finished(target)?;
        self.previous_ended(target, ConditionType::CleanupInClusterProxy)
    }

    fn reach_local(&mut self, target: &Params) -> Option<()> {
        self.preconditions(target)?;
        self.preflight()?;
        self.node_services(target, Phase::Filling)?;
        self.images(target)?;
        self.transition(target)?;
        self.in_force(target)?;
        self.deckhouse(target)?;
        self.finished(target)?;
        self.previous_ended(target, ConditionType::CleanupInClusterProxy)
    }

    fn reach_unmanaged(&mut self, target: &Params) -> Option<()> {
        self.ready_to_begin(target)?;
        self.preflight()?;
        self.transition(target)?;
        self.deckhouse(target)?;
        self.finished(target)?;
        self.servers_ended()
    }

    /// With saved parameters the way is that of a configured Unmanaged, without preflight. Then nodes follow
    /// `deckhouse-registry`, which is the administrator's again.
    fn reach_bare(&mut self) -> Option<()> {
        match self.record.fallback.clone().filter(|_| self.record.under_way) {
            Some(upstream) => {
                let source = Params::Unmanaged(Some(upstream));
                self.ready_to_begin(&source)?;
                self.transition(&source)?;
                self.deckhouse(&source)?;
                self.finished(&source)?;
            }
            None => self.follow_deckhouse_registry()?,
        }
        self.servers_ended()
    }

    fn ready_to_begin(&mut self, source: &Params) -> Option<()> {
        let ready = self.preconditions(source);
        let whole = self.images(source);
        ready.and(whole)
    }

    /// Servers hold the coming mode.
    fn node_services(&mut self, target: &Params, phase: Phase) -> Option<()> {
        let kind = ConditionType::NodeServicesReady;
        if self.servers_hold(&ServerMode::of(target), phase) {
            self.shown.met(kind);
            return Some(());
        }
        let waiting = self.reported().err().unwrap_or_default();
        let masters = self.masters().count();
        let heading = format!("{}/{masters} node(s) ready. Waiting:", masters.saturating_sub(waiting.len()));
        let message = if waiting.is_empty() { line("The next phase begins") } else { list_whole(&heading, &waiting) };
        self.shown.unmet(kind, message);
        None
    }

    /// Nodes have what `deckhouse-registry` names; where the Secret for nodes is gone they go back to the form of before.
    fn follow_deckhouse_registry(&mut self) -> Option<()> {
        let had = self.record.nodes != NodePlan::default();
        if had && self.look.outputs.bashible.is_absent() {
            self.record.nodes = NodePlan::default();
            self.record.named.clear();
        }
        if self.record.nodes == NodePlan::default() {
            return self.forgotten();
        }
        let registry = self.look.outputs.deckhouse_registry.value();
        if let Some(upstream) = registry.and_then(|registry| registry.upstream().ok().flatten()) {
            self.record.named = [upstream.images_repo.clone()].into();
            self.record.nodes = NodePlan { with: Some(Params::Unmanaged(Some(upstream))), ..NodePlan::default() };
        }
        self.applied(ConditionType::FinalContainerdConfigReady)
    }
}
