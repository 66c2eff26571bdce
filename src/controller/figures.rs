//! What a scrape sees of the controller.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::clock::{self, Timestamp};
use crate::cluster::Cluster;
use crate::health::Health;
use crate::switch::{ConditionType, Decision, Observed, Seen};
use crate::telemetry::Samples;
use crate::telemetry::families::{
    SWITCH_CALLS, SWITCH_CONDITION, SWITCH_HELD, SWITCH_INFO, SWITCH_INPUT_LOST, SWITCH_LEADER, SWITCH_LOOK_FAILURES,
    SWITCH_LOOKED, SWITCH_NODES, SWITCH_PINNED, SWITCH_REPAIRS, SWITCH_SLOW_NODE, SWITCH_STEP, SWITCH_WRITE_FAILURES,
    SWITCH_WRITES,
};

/// A sample each would be much of a scrape where all nodes of a large cluster are slow; one name is enough to begin with.
const MOST_SLOW_NODES: usize = 100;

/// The figures, as the loop left them.
#[derive(Debug, Default)]
pub(super) struct Shown {
    state: Mutex<State>,
    /// Counts calls of the API server.
    cluster: OnceLock<Cluster>,
}

#[derive(Debug, Default)]
struct State {
    leads: bool,
    looked: Option<Timestamp>,
    look_failures: u64,
    modes: Option<(&'static str, &'static str)>,
    conditions: BTreeMap<ConditionType, bool>,
    /// Since when the first unmet step has been so.
    step: Option<Timestamp>,
    nodes: BTreeMap<&'static str, usize>,
    slow_nodes: Vec<String>,
    held: Option<&'static str>,
    repairs: BTreeMap<&'static str, u64>,
    /// When `registry-pins` was written.
    pinned: Option<Timestamp>,
    writes: BTreeMap<&'static str, u64>,
    write_failures: BTreeMap<&'static str, u64>,
    /// What the last round failed at, for whoever looks on.
    failure: Option<String>,
}

impl Health for Shown {
    fn alive(&self) -> String {
        "ok".to_owned()
    }

    /// One that stands by is ready too: it takes over within seconds. With the API server away a restart mends nothing.
    fn ready(&self) -> Result<String, String> {
        Ok("ok".to_owned())
    }

    fn samples(&self) -> Samples {
        let mut samples = Samples::default();
        let state = self.state();
        samples.add(&SWITCH_CALLS, &[], self.cluster.get().map_or(0, Cluster::calls));
        samples.add(&SWITCH_LEADER, &[], u64::from(state.leads));
        samples.add(&SWITCH_LOOK_FAILURES, &[], state.look_failures);
        if let Some(looked) = state.looked {
            samples.add(&SWITCH_LOOKED, &[], looked.as_secs());
        }
        if let Some(pinned) = state.pinned {
            samples.add(&SWITCH_PINNED, &[], pinned.as_secs());
        }
        if state.leads && state.looked.is_some() {
            if let Some((mode, target)) = state.modes {
                samples.add(&SWITCH_INFO, &[mode, target], 1);
            }
            for (kind, status) in &state.conditions {
                samples.add(&SWITCH_CONDITION, &[kind.as_str(), "True"], u64::from(*status));
                samples.add(&SWITCH_CONDITION, &[kind.as_str(), "False"], u64::from(!*status));
            }
            let step = state.step.and_then(|since| clock::now().since(since)).unwrap_or_default();
            samples.add(&SWITCH_STEP, &[], step.as_secs());
            for (name, count) in &state.nodes {
                samples.add(&SWITCH_NODES, &[name], u64::try_from(*count).unwrap_or(u64::MAX));
            }
            for node in state.slow_nodes.iter().take(MOST_SLOW_NODES) {
                samples.add(&SWITCH_SLOW_NODE, &[node], 1);
            }
            let is_lost = state.conditions.get(&ConditionType::InputLost).copied().unwrap_or_default();
            samples.add(&SWITCH_INPUT_LOST, &[], u64::from(is_lost));
            if let Some(reason) = state.held {
                samples.add(&SWITCH_HELD, &[reason], 1);
            }
        }
        for (family, counts) in [
            (&SWITCH_REPAIRS, &state.repairs),
            (&SWITCH_WRITES, &state.writes),
            (&SWITCH_WRITE_FAILURES, &state.write_failures),
        ] {
            for (object, count) in counts {
                samples.add(family, &[object], *count);
            }
        }
        samples
    }
}

impl Shown {
    /// The calls of this client are shown from now on.
    pub(super) fn counts_calls_of(&self, cluster: Cluster) {
        self.cluster.get_or_init(|| cluster);
    }

    /// Whether this process writes.
    pub(super) fn leads(&self, leads: bool) {
        let mut state = self.state();
        if state.leads && !leads {
            // What another one does is shown by it.
            let counts = (
                std::mem::take(&mut state.repairs),
                std::mem::take(&mut state.writes),
                std::mem::take(&mut state.write_failures),
            );
            let look_failures = state.look_failures;
            *state = State {
                look_failures,
                repairs: counts.0,
                writes: counts.1,
                write_failures: counts.2,
                ..State::default()
            };
        }
        state.leads = leads;
    }

    /// A look came to nothing.
    pub(super) fn look_failed(&self) {
        self.state().look_failures += 1;
    }

    /// What was decided after a look.
    pub(super) fn decided(&self, observed: &Observed, decision: &Decision, now: Timestamp) {
        let figures = &decision.figures;
        let mut state = self.state();
        state.looked = Some(now);
        state.modes = observed.outputs.state.value().map(|found| (found.mode.as_str(), found.target_mode.as_str()));
        let conditions = &decision.conditions;
        state.conditions = conditions.iter().map(|condition| (condition.kind, condition.status)).collect();
        let unmet = conditions.iter().find(|condition| !condition.status && is_step(condition.kind));
        let is_under_way =
            conditions.iter().any(|condition| condition.kind == ConditionType::Ready && !condition.status);
        state.step = unmet.filter(|_| is_under_way).map(|condition| condition.last_transition);
        let nodes = match &observed.nodes {
            Seen::Known(nodes) => nodes.as_slice(),
            Seen::Unreadable(_) => &[],
        };
        state.nodes = BTreeMap::from([
            ("converged", figures.nodes_converged),
            ("waiting", figures.nodes_waiting),
            ("skipped", figures.nodes_skipped),
            ("not_ready", nodes.iter().filter(|node| !node.ready).count()),
        ]);
        state.slow_nodes.clone_from(&figures.slow_nodes);
        state.slow_nodes.sort_unstable();
        state.held = figures.held;
        for object in &figures.repaired {
            *state.repairs.entry(object).or_default() += 1;
        }
    }

    /// `registry-pins` says what the cluster runs, as of then.
    pub(super) fn pinned(&self, at: Timestamp) {
        self.state().pinned = Some(at);
    }

    /// A write was carried out.
    pub(super) fn written(&self, object: &'static str) {
        *self.state().writes.entry(object).or_default() += 1;
    }

    /// A write was not carried out.
    pub(super) fn write_failed(&self, object: &'static str) {
        *self.state().write_failures.entry(object).or_default() += 1;
    }

    /// What a round failed at; `None`: it came to its end.
    pub(super) fn failed_at(&self, failure: Option<String>) {
        self.state().failure = failure;
    }

    /// What the last round failed at.
    pub(super) fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    /// Whether this process writes.
    pub(super) fn is_leading(&self) -> bool {
        self.state().leads
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a condition is about a step of a switch.
const fn is_step(kind: ConditionType) -> bool {
    match kind {
        ConditionType::RegistryContainsRequiredImages
        | ConditionType::ContainerdConfigPreflightReady
        | ConditionType::TransitionContainerdConfigReady
        | ConditionType::InClusterProxyReady
        | ConditionType::NodeServicesReady
        | ConditionType::DeckhouseRegistrySwitchReady
        | ConditionType::FinalContainerdConfigReady
        | ConditionType::CleanupNodeServices
        | ConditionType::CleanupInClusterProxy
        | ConditionType::PreconditionsReady => true,
        ConditionType::Ready
        | ConditionType::ErrTransitionNotSupported
        | ConditionType::InputSource
        | ConditionType::InputLost
        | ConditionType::SettingsValid
        | ConditionType::ParametersFrozen
        | ConditionType::Held
        | ConditionType::NodesSkipped
        | ConditionType::ChartValuesDiffer => false,
    }
}
