//! The state of a switch in words and as JSON. Pure.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::switch::outputs::names;
use crate::switch::{Condition, ConditionType, Node, RegistryState};

/// Most nodes that are listed; JSON has all.
const LISTED: usize = 10;
/// Letters of a version that are shown.
const SHORT: usize = 12;

/// What was seen.
pub(super) struct Shown {
    pub(super) state: RegistryState,
    /// The resource version of the settings' Secret; `None`: there is none, or it can't be read.
    pub(super) settings: Option<String>,
    /// `None`: nodes get nothing. A sentence: it can't be told.
    pub(super) nodes: Result<Option<NodesShown>, String>,
}

/// How far the nodes are.
pub(super) struct NodesShown {
    /// What they are to have.
    version: String,
    total: usize,
    /// Those that do not have it, sorted by name.
    waiting: Vec<Waiting>,
}

struct Waiting {
    name: String,
    version: Option<String>,
    ready: bool,
    ours: bool,
}

impl NodesShown {
    pub(super) fn new(version: String, nodes: &[Node]) -> Self {
        let behind = nodes.iter().filter(|node| node.version.as_deref() != Some(version.as_str()));
        let mut waiting: Vec<Waiting> = behind
            .map(|node| Waiting {
                name: node.name.clone(),
                version: node.version.clone(),
                ready: node.ready,
                ours: node.ours,
            })
            .collect();
        waiting.sort_by(|a, b| a.name.cmp(&b.name));
        Self { version, total: nodes.len(), waiting }
    }

    fn to_json(&self) -> Value {
        let waiting = self
            .waiting
            .iter()
            .map(|node| json!({"name": node.name, "version": node.version, "ready": node.ready, "ours": node.ours}));
        let converged = self.total - self.waiting.len();
        json!({"version": self.version, "total": self.total, "converged": converged, "waiting": waiting.collect::<Vec<_>>()})
    }
}

impl Shown {
    /// Whether the wanted mode is reached and nothing is left to do.
    pub(super) fn is_reached(&self) -> bool {
        let is_ready = |condition: &Condition| condition.kind == ConditionType::Ready && condition.status;
        let is_done = self.state.mode == self.state.target_mode && self.state.conditions.iter().any(is_ready);
        is_done && !self.is_behind()
    }

    /// Whether the controller has not looked at the settings that there are now.
    fn is_behind(&self) -> bool {
        let seen = self.state.facts.iter().find(|(name, _)| name == names::CONFIG_FACT);
        let there = self.settings.as_deref().unwrap_or(names::NO_CONFIG);
        seen.is_some_and(|(_, seen)| seen != there)
    }

    pub(super) fn to_json(&self) -> Value {
        let RegistryState { mode, target_mode, facts, conditions } = &self.state;
        let conditions = conditions.iter().map(|condition| {
            json!({
                "type": condition.kind.as_str(),
                "status": if condition.status { "True" } else { "False" },
                "reason": condition.reason,
                "message": condition.message,
                "lastTransitionTime": time(condition),
            })
        });
        let mut whole = json!({
            "mode": mode.as_str(),
            "targetMode": target_mode.as_str(),
            "ready": self.is_reached(),
            "facts": facts.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "conditions": conditions.collect::<Vec<_>>(),
        });
        match &self.nodes {
            Ok(nodes) => whole["nodes"] = nodes.as_ref().map_or(Value::Null, NodesShown::to_json),
            Err(reason) => whole["nodesUnknown"] = json!(reason),
        }
        whole
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RegistryState { mode, target_mode, facts, conditions } = &self.state;
        if mode == target_mode {
            let word = match (self.is_reached(), self.is_behind()) {
                (true, _) => "reached",
                (false, true) => "the controller has not read the settings yet",
                (false, false) => "not reached yet",
            };
            writeln!(f, "Mode: {mode}, {word}")?;
        } else {
            writeln!(f, "Mode: {mode}, on the way to {target_mode}")?;
        }
        for (name, value) in facts {
            writeln!(f, "{name}: {value}")?;
        }
        writeln!(f, "\nConditions ([x] met, [ ] waiting, [!] look at it):")?;
        for condition in conditions {
            f.write_str(&condition_lines(condition))?;
        }
        match &self.nodes {
            Ok(Some(nodes)) => nodes.fmt(f),
            Ok(None) => {
                writeln!(f, "\nNodes: there is no registry-bashible-config, they have Deckhouse's own configuration")
            }
            Err(reason) => writeln!(f, "\nNodes: not known: {reason}"),
        }
    }
}

impl fmt::Display for NodesShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, total, waiting } = self;
        writeln!(f, "\nNodes: {} of {total} have configuration {}", total - waiting.len(), short(version))?;
        for node in waiting.iter().take(LISTED) {
            let has = node.version.as_deref().map_or_else(|| "none".to_owned(), short);
            let ready = if node.ready { "" } else { ", NotReady" };
            let ours = if node.ours { "" } else { ", not configured by Deckhouse" };
            writeln!(f, "  {}: has {has}{ready}{ours}", node.name)?;
        }
        if waiting.len() > LISTED { writeln!(f, "  ...and {} more", waiting.len() - LISTED) } else { Ok(()) }
    }
}

/// A condition for people: a line, and one for each of its message.
pub(super) fn condition_lines(condition: &Condition) -> String {
    let Condition { kind, reason, message, .. } = condition;
    let reason = if reason.is_empty() { String::new() } else { format!("  {reason}") };
    let mut lines = format!("  [{}] {kind}{reason}  since {}\n", mark(condition), time(condition));
    for line in message.lines() {
        lines.push_str(&format!("        {line}\n"));
    }
    lines
}

/// Conditions that mean something bad, or a delay, when they are True.
const fn is_bad_when_true(kind: ConditionType) -> bool {
    matches!(
        kind,
        ConditionType::ErrTransitionNotSupported
            | ConditionType::InputLost
            | ConditionType::ParametersFrozen
            | ConditionType::Held
            | ConditionType::NodesSkipped
            | ConditionType::ChartValuesDiffer
    )
}

fn mark(condition: &Condition) -> char {
    let is_bad = is_bad_when_true(condition.kind) && condition.status;
    if is_bad || condition.reason == "Error" {
        return '!';
    }
    if condition.status != is_bad_when_true(condition.kind) { 'x' } else { ' ' }
}

fn time(condition: &Condition) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(condition.last_transition.as_secs())).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(time).to_string()
}

fn short(version: &str) -> String {
    version.chars().take(SHORT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::switch::Target;

    fn condition(kind: ConditionType, status: bool, reason: &str, message: &str) -> Condition {
        Condition {
            kind,
            status,
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition: Timestamp::from_millis(1_752_583_966_000),
            observed_generation: 0,
        }
    }

    fn node(name: &str, version: Option<&str>, ready: bool) -> Node {
        Node {
            name: name.to_owned(),
            master: false,
            ready,
            unready_since: None,
            schedulable: true,
            ours: ready,
            address: None,
            version: version.map(str::to_owned),
            containerd_config: None,
            runtime: String::new(),
        }
    }

    fn shown() -> Shown {
        let images = "Mode: Default\nmaster-1: all 166 items are checked";
        let state = RegistryState {
            mode: Target::Direct,
            target_mode: Target::Local,
            facts: vec![("source".to_owned(), "manual".to_owned())],
            conditions: vec![
                condition(ConditionType::RegistryContainsRequiredImages, true, "Ready", images),
                condition(ConditionType::Held, true, "Error", "a sentence"),
                condition(ConditionType::Ready, false, "Processing", "Transitioning to Local"),
            ],
        };
        let version = "1ba9ff6b4a1150fab47a795482be9a82";
        let nodes = [node("c", None, false), node("b", Some("68a545200562aa4d"), true), node("a", Some(version), true)];
        Shown { state, settings: None, nodes: Ok(Some(NodesShown::new(version.to_owned(), &nodes))) }
    }

    #[test]
    fn a_person_reads_the_mode_the_conditions_and_the_nodes() {
        let expected = "\
Mode: Direct, on the way to Local
source: manual

Conditions ([x] met, [ ] waiting, [!] look at it):
  [x] RegistryContainsRequiredImages  Ready  since 2025-07-15T12:52:46Z
        Mode: Default
        master-1: all 166 items are checked
  [!] Held  Error  since 2025-07-15T12:52:46Z
        a sentence
  [ ] Ready  Processing  since 2025-07-15T12:52:46Z
        Transitioning to Local

Nodes: 1 of 3 have configuration 1ba9ff6b4a11
  b: has 68a545200562
  c: has none, NotReady, not configured by Deckhouse
";
        assert_eq!(shown().to_string(), expected);
    }

    #[test]
    fn json_has_all_of_it() {
        let json = shown().to_json();
        assert_eq!(
            (&json["mode"], &json["targetMode"], &json["ready"]),
            (&json!("Direct"), &json!("Local"), &json!(false))
        );
        assert_eq!(json["conditions"][0]["lastTransitionTime"], json!("2025-07-15T12:52:46Z"));
        assert_eq!(json["nodes"]["waiting"][1], json!({"name": "c", "version": null, "ready": false, "ours": false}));
        assert_eq!((&json["nodes"]["converged"], &json["facts"]["source"]), (&json!(1), &json!("manual")));
    }

    #[test]
    fn a_switch_is_at_its_end_once_ready_is_true_for_the_wanted_mode() {
        let mut shown = shown();
        shown.state.conditions.push(condition(ConditionType::Ready, true, "", ""));
        assert!(!shown.is_reached(), "another mode is wanted");
        shown.state.target_mode = Target::Direct;
        assert!(shown.is_reached());
        assert!(shown.to_string().starts_with("Mode: Direct, reached\n"));
        shown.state.facts.push((names::CONFIG_FACT.to_owned(), "12".to_owned()));
        for (settings, is_reached) in [(Some("12"), true), (Some("13"), false), (None, false)] {
            shown.settings = settings.map(str::to_owned);
            assert_eq!(shown.is_reached(), is_reached, "{settings:?}: what is there was changed after the last look");
        }
        assert!(shown.to_string().starts_with("Mode: Direct, the controller has not read the settings yet\n"));
        shown.settings = Some("12".to_owned());
        shown.state.conditions.clear();
        shown.nodes = Err("no right".to_owned());
        assert!(!shown.is_reached() && shown.to_string().ends_with("\nNodes: not known: no right\n"));
        shown.nodes = Ok(None);
        assert!(shown.to_string().ends_with("they have Deckhouse's own configuration\n"));
    }
}
