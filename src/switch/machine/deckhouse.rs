//! Deckhouse itself is pointed to the registry: Secret `deckhouse-registry`, and a pod that runs with it.

use super::nodes::images_base;
use super::run::Run;
use super::shown::ERROR;
use super::text::{line, list, list_whole};
use crate::switch::conditions::ConditionType;
use crate::switch::documents::{DeckhouseRegistry, ServerMode};
use crate::switch::observed::{DeckhousePod, Seen};
use crate::switch::settings::Params;

const SWITCH: ConditionType = ConditionType::DeckhouseRegistrySwitchReady;

impl Run<'_> {
    /// Servers have Direct in force.
    pub(super) fn in_cluster_proxy(&mut self, source: &Params) -> Option<()> {
        let kind = ConditionType::InClusterProxyReady;
        if self.take_into_force(&ServerMode::of(source)) {
            self.shown.met(kind);
            return Some(());
        }
        let masters = self.masters().count();
        let waiting = self.reported().err().unwrap_or_default();
        let done = masters.saturating_sub(waiting.len());
        let message = if waiting.is_empty() {
            line("Deploying incluster-proxy...")
        } else {
            let progress = format!("{done}/{masters} node(s) ready. Waiting:");
            list_whole(&format!("Incluster-proxy deploying in progress: {progress}"), &waiting)
        };
        self.shown.unmet(kind, message);
        None
    }

    /// Servers have the mode in force that `deckhouse-registry` is going to name.
    pub(super) fn in_force(&mut self, source: &Params) -> Option<()> {
        if self.take_into_force(&ServerMode::of(source)) {
            return Some(());
        }
        let waiting = self.reported().err().unwrap_or_default();
        let waiting = if waiting.is_empty() { String::new() } else { list_whole("Waiting for masters:", &waiting) };
        self.shown.unmet(SWITCH, format!("{}{waiting}", line("Updating registry for deckhouse components")));
        None
    }

    /// Deckhouse runs with the registry of `source`.
    pub(super) fn deckhouse(&mut self, source: &Params) -> Option<()> {
        let updating = line("Updating registry for deckhouse components");
        if source.is_managed() && self.record.under_way {
            let waiting = self.not_serving();
            if !waiting.is_empty() {
                self.shown.unmet(SWITCH, format!("{updating}{}", list_whole("Waiting for masters:", &waiting)));
                return None;
            }
        }
        let Some(wanted) = DeckhouseRegistry::of(source, self.in_cluster().as_ref()) else {
            self.shown
                .unmet(SWITCH, format!("{updating}{}", line("The registry's authority or its user ro is not there")));
            return None;
        };
        let problems = wanted.problems();
        if !problems.is_empty() {
            self.shown.set(
                SWITCH,
                false,
                ERROR,
                format!("{updating}{}", list("Deckhouse would refuse it:", &problems)),
            );
            return None;
        }
        if self.record.deckhouse_registry.as_ref() != Some(source) {
            // The way back is saved before the Secret is touched; Local has no registry to go back to until it is reached.
            if let Some(upstream) = source.upstream() {
                self.record.fallback = Some(upstream.clone());
            } else if self.record.fallback.is_none() {
                let found = self.look.outputs.deckhouse_registry.value();
                self.record.fallback = found.and_then(|registry| registry.upstream().ok().flatten());
            }
            self.record.deckhouse_registry = Some(source.clone());
            self.record.named.extend(images_base(source));
        }
        if self.look.outputs.deckhouse_registry.value() != Some(&wanted) {
            self.shown.unmet(SWITCH, updating);
            return None;
        }
        match self.runs_with(&wanted.hash()) {
            Ok(()) => {
                self.shown.met(SWITCH);
                Some(())
            }
            Err(why) => {
                self.shown.unmet(SWITCH, line(&why));
                None
            }
        }
    }

    fn runs_with(&self, hash: &str) -> Result<(), String> {
        let pods = match &self.look.deckhouse {
            Seen::Known(pods) => pods,
            Seen::Unreadable(why) => return Err(format!("Waiting for deckhouse-controller pod: {why}")),
        };
        let leaders: Vec<&DeckhousePod> = pods.iter().filter(|pod| pod.leader).collect();
        if !leaders.iter().any(|pod| pod.registry_version.as_deref() == Some(hash)) {
            return Err("Applying new registry to deckhouse-controller".to_owned());
        }
        match leaders.as_slice() {
            [leader] if leader.ready => Ok(()),
            [_] => Err("Waiting for deckhouse-controller to become ready".to_owned()),
            _ => Err("Waiting for deckhouse-controller pod".to_owned()),
        }
    }
}
