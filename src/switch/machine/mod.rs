//! The state machine: one look in, a decision out. Deterministic and total: the same look gives the same decision, and there is
//! a decision for every look.
//!
//! A run first reads the input (`input`) and what is remembered (`start`, where that is lost), then walks the steps to the
//! target (`targets`) and stops at the first that is not met: `preconditions`, `nodes`, `plane`, `deckhouse`, `cleanup`. A step
//! changes what is remembered and never an output; at the end `writes` holds all outputs against it. So a run that was killed
//! between two writes, an output that was edited and a first write are the same case.
//!
//! # Decisions
//! - A node may be skipped before it was given the new source (`switch.unreadyNodes: skip`). Names that it never learned it can't
//!   pull; all others it can, because the end of the switch waits for it.
//! - Masters are never skipped: a server that is not known to have changed may still answer.
//! - A scan or check counts for the question of one attempt alone, so nothing that was true before the target changed ends
//!   a switch.
//! - Where an abandoned target was given to nodes, servers keep it as a previous mode: nodes ask as its user.
//! - A skipped node holds up the end of every switch, of one from Unmanaged too: whoever looks sees that it is not done.
//! - Users and an authority are made once preconditions and preflight hold, so a switch that only waits leaves nothing behind.
//! - A lost record is put together from what servers, nodes and Deckhouse have; `registry-state` tells by its facts `completed` and
//!   `adopted` what can't be seen there. Where one of those is gone as well the switch is held: a backup is better than a guess.
//! - What ModuleConfig says at a first look begins nothing: a release on a cluster that has settings changes nothing by itself. A
//!   ModuleConfig that was read without settings is remembered, and what it is given after that is an order. One that is not
//!   there or can't be read tells nothing; so it is while the cluster is bootstrapped, and across a time of Deckhouse's own module.

mod chart;
mod cleanup;
mod deckhouse;
mod input;
mod nodes;
mod plane;
mod preconditions;
mod run;
mod shown;
mod start;
mod targets;
#[cfg(test)]
mod tests;
mod text;
mod writes;

use self::input::{Heard, Way};
use self::run::Run;
use self::shown::{ERROR, Shown};
use super::conditions::ConditionType;
use super::documents::RegistryState;
use super::observed::{Observed, Output, Seen};
use super::record::Record;
use super::settings::{Params, Target};
use super::write::{Content, Decision, Figures, Notice, Write};

/// Decides after a look.
#[must_use]
pub fn decide(look: &Observed) -> Decision {
    match &look.deckhouse_module {
        Seen::Known(false) => {}
        Seen::Known(true) => {
            return nothing(
                look,
                "module",
                "Deckhouse's own module registry is enabled, it writes these objects".to_owned(),
            );
        }
        Seen::Unreadable(why) => {
            return nothing(
                look,
                "unreadable",
                format!("whether Deckhouse's module registry is enabled can't be read: {why}"),
            );
        }
    }
    if let Some(why) = unreadable(look) {
        return held(look, "unreadable", why);
    }
    let nodes = match &look.nodes {
        Seen::Known(nodes) => nodes,
        Seen::Unreadable(why) => return held(look, "unreadable", format!("nodes can't be read: {why}")),
    };
    let record = match &look.record {
        // What was only taken over counts as long as registry-state says so. Else Deckhouse's own module may have run since: this
        // look is a first one.
        Output::Present { value, .. } if value.adopted && !is_said(&look.outputs.state) => match start::begin(look) {
            Ok(record) => record,
            Err(why) => return held(look, "record", format!("what runs can't be taken over: {why}")),
        },
        Output::Present { value, .. } => value.clone(),
        Output::Unreadable(why) => return held(look, "unreadable", format!("the record can't be read: {why}")),
        Output::Absent => match start::begin(look) {
            Ok(record) => record,
            Err(why) => return held(look, "record", format!("there is no record, and it can't be made: {why}")),
        },
        Output::Garbled { why, .. } => match start::begin(look) {
            Ok(record) => record,
            Err(more) => {
                return held(look, "record", format!("the record is garbled ({why}) and can't be made: {more}"));
            }
        },
    };
    of_run(Run::new(look, nodes, record))
}

fn of_run(mut run: Run<'_>) -> Decision {
    run.mend_generation();
    let heard = run.hear();
    let way = match heard {
        Heard::Settings => run.follow(),
        Heard::Lost => Way::Open,
    };
    let held = run.authority_is_held();
    run.remember_when_nodes_were_given();
    let may_walk = !held && way == Way::Open && (heard == Heard::Settings || !run.record.under_way);
    let reached = run.record.adopted || (may_walk && run.walk().is_some());
    if reached && run.record.under_way {
        run.complete();
    }
    // The walk may have given them something else.
    run.remember_when_nodes_were_given();
    run.show_skipped();
    run.show_chart_values();
    let target_mode = match way {
        Way::Open => run.record.target.target(),
        Way::Closed(target) => target,
    };
    if reached && way == Way::Open {
        run.shown.met(ConditionType::Ready);
    } else {
        run.shown.unmet(ConditionType::Ready, format!("Transitioning to {target_mode}"));
    }
    decision(run, target_mode)
}

fn decision(mut run: Run<'_>, target_mode: Target) -> Decision {
    let mut writes = run.writes();
    let shown = std::mem::replace(&mut run.shown, Shown::new(&[], run.look.now));
    let conditions = shown.into_list();
    writes.extend(run.state(target_mode, conditions.clone()));
    let Run { questions, notices, figures, wake, .. } = run;
    Decision { conditions, writes, questions, notices, figures, wake }
}

/// Whether registry-state is still what this program said, or nonsense, which is no word of Deckhouse's.
fn is_said(state: &Output<RegistryState>) -> bool {
    match state {
        Output::Absent => false,
        Output::Present { value, .. } => start::is_ours(value),
        Output::Garbled { .. } | Output::Unreadable(_) => true,
    }
}

/// An output that could not be read; absent and unreadable are never the same.
fn unreadable(look: &Observed) -> Option<String> {
    fn why<T>(name: &str, output: &Output<T>) -> Option<String> {
        match output {
            Output::Unreadable(why) => Some(format!("{name} can't be read: {why}")),
            Output::Absent | Output::Garbled { .. } | Output::Present { .. } => None,
        }
    }
    let outputs = &look.outputs;
    let users = outputs.users.values().find_map(|user| why("a Secret registry-user", user));
    why("registry-state", &outputs.state)
        .or_else(|| why("d8-registry-mode", &outputs.mode_file))
        .or_else(|| why("registry-bashible-config", &outputs.bashible))
        .or_else(|| why("deckhouse-registry", &outputs.deckhouse_registry))
        .or_else(|| why("registry-ca", &outputs.ca))
        .or(users)
}

/// The decision that changes nothing but what is said in a registry-state of ours: why nothing is changed. The rest of what
/// that says stays, for nothing newer is known.
fn held(look: &Observed, held: &'static str, why: String) -> Decision {
    let mut decision = nothing(look, held, why);
    if let Output::Present { version, value } = &look.outputs.state
        && start::is_ours(value)
        && value.conditions != decision.conditions
    {
        let said = RegistryState { conditions: decision.conditions.clone(), ..value.clone() };
        decision.writes.push(Write { base: version.clone(), what: Content::State(said) });
    }
    decision
}

/// The decision that changes nothing at all, and says why.
fn nothing(look: &Observed, held: &'static str, why: String) -> Decision {
    let before = look.outputs.state.value().map_or(&[][..], |state| &state.conditions);
    let mut shown = Shown::new(before, look.now);
    shown.set(ConditionType::Held, true, ERROR, why.clone());
    Decision {
        conditions: shown.into_list(),
        writes: Vec::new(),
        questions: Vec::new(),
        notices: vec![Notice { warning: true, reason: "SwitchHeld", message: why }],
        figures: Figures { held: Some(held), ..Figures::default() },
        wake: None,
    }
}

impl Run<'_> {
    /// Whether nodes trust an authority that is gone or has become another one; a new one is never made behind their back.
    fn authority_is_held(&mut self) -> bool {
        let why = self.record.ca.as_ref().and_then(|known| {
            let found = self.look.outputs.ca.value();
            if found.is_some_and(|found| found.trim() != known.trim()) {
                return Some("ConfigMap registry-ca has another authority than the one that nodes trust");
            }
            let gone = matches!(self.look.outputs.pki, Seen::Known(false));
            gone.then_some("Secret registry-pki is gone while nodes trust its authority")
        });
        let Some(why) = why else {
            self.shown.remove(ConditionType::Held);
            return false;
        };
        let message = format!("{why}; put it back from a backup");
        self.say(true, "SwitchHeld", message.clone());
        self.shown.set(ConditionType::Held, true, ERROR, message);
        self.hold("authority");
        true
    }

    fn show_skipped(&mut self) {
        if self.record.skipped.is_empty() {
            self.shown.remove(ConditionType::NodesSkipped);
            return;
        }
        let skipped: Vec<String> = self.record.skipped.iter().cloned().collect();
        let message =
            text::list("Nodes that keep their old registry until they have converged or are deleted:", &skipped);
        self.say(true, "NodesSkipped", message.clone());
        self.shown.set(ConditionType::NodesSkipped, true, "Skipped", message);
    }

    /// The target is reached.
    fn complete(&mut self) {
        let Record { target, .. } = &self.record;
        let target = target.clone();
        self.say(false, "SwitchCompleted", format!("the switch to {} has ended", target.target()));
        let record = &mut self.record;
        record.fallback = target.upstream().cloned();
        if !target.is_managed() {
            // Nobody asks the registry inside of the cluster any more.
            record.ca = None;
            record.ro = None;
        }
        if target == Params::BARE {
            record.deckhouse_registry = None;
        }
        record.completed = target;
        record.under_way = false;
        record.accept_missing = false;
        record.settle = None;
    }
}
