//! Secret `registry-state`: what people, `dhctl` and the gates of upgrades read. Nothing in it is secret.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use serde::Deserialize;

use super::go_json::sha256_hex;
use super::manifest::{SecretManifest, text_of};
use super::{names, reading};
use crate::clock::Timestamp;
use crate::switch::conditions::{Condition, ConditionType};
use crate::switch::documents::RegistryState;
use crate::yaml::Yaml;

impl RegistryState {
    /// The Secret.
    #[must_use]
    pub fn to_secret(&self) -> SecretManifest {
        let state = self.state_as_yaml();
        let hash = sha256_hex(state.as_bytes());
        let conditions = Yaml::List(self.conditions.iter().map(condition_as_yaml).collect());
        SecretManifest::new(names::STATE, "registry/state")
            .label("type", "registry-state")
            .annotation("registry.deckhouse.io/config-hash", &hash)
            .data("hash", hash)
            .data("state", state)
            .data("conditions", conditions.render())
            .data("mode", self.mode.as_str())
            .data("target_mode", self.target_mode.as_str())
    }

    /// Upgrade gates read `mode` and `target_mode` within this text.
    fn state_as_yaml(&self) -> String {
        let modes = [("mode", self.mode), ("target_mode", self.target_mode)];
        let modes = modes.into_iter().map(|(key, mode)| (key.to_owned(), Yaml::text(mode.as_str())));
        let facts = self.facts.iter().map(|(key, value)| (key.clone(), Yaml::text(value)));
        Yaml::map(modes.chain(facts)).render()
    }

    /// Reads the data of the Secret, ours or one that Deckhouse's own module wrote: of that one's `state` the facts that are
    /// texts are kept, and conditions of types that are not known are passed over.
    ///
    /// # Errors
    /// A sentence; also where the keys `mode` and `target_mode` say something else than `state`.
    pub fn read(data: &BTreeMap<String, Vec<u8>>) -> Result<Self, String> {
        let state: BTreeMap<String, serde_json::Value> =
            reading::yaml(text_of(data, "state")?).map_err(|reason| format!("key state: {reason}"))?;
        let mode_of = |key: &str| {
            let within = state.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
            let beside = text_of(data, key).map_or(within, str::trim);
            let mode = reading::target(within)?;
            if beside == within { Ok(mode) } else { Err(format!("key {key} says something else than state")) }
        };
        let (mode, target_mode) = (mode_of("mode")?, mode_of("target_mode")?);
        let conditions: Vec<RawCondition> = match data.get("conditions") {
            Some(_) => reading::yaml::<Option<_>>(text_of(data, "conditions")?)
                .map_err(|reason| format!("key conditions: {reason}"))?
                .unwrap_or_default(),
            None => Vec::new(),
        };
        let conditions = conditions.into_iter().filter_map(RawCondition::read).collect::<Result<_, _>>()?;
        let order = text_of(data, "state")?;
        Ok(Self { mode, target_mode, facts: facts(&state, order), conditions })
    }
}

/// The texts of `state` in the order in which they stand there.
fn facts(state: &BTreeMap<String, serde_json::Value>, order: &str) -> Vec<(String, String)> {
    let mut facts: Vec<(String, String)> = state
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "mode" | "target_mode"))
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    let place = |key: &str| {
        let plain = order.lines().position(|line| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')));
        plain.unwrap_or(usize::MAX)
    };
    facts.sort_by_key(|(key, _)| place(key));
    facts
}

fn condition_as_yaml(condition: &Condition) -> Yaml {
    let mut lines = vec![
        ("lastTransitionTime", Yaml::text(rfc3339(condition.last_transition))),
        ("message", Yaml::text(&condition.message)),
    ];
    if let Ok(generation @ 1..) = u64::try_from(condition.observed_generation) {
        lines.push(("observedGeneration", Yaml::Number(generation)));
    }
    lines.push(("reason", Yaml::text(&condition.reason)));
    lines.push(("status", Yaml::text(if condition.status { "True" } else { "False" })));
    lines.push(("type", Yaml::text(condition.kind.as_str())));
    Yaml::map(lines)
}

/// Whole seconds, as Kubernetes writes times.
fn rfc3339(time: Timestamp) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs())).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(time).to_string()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCondition {
    #[serde(default)]
    last_transition_time: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    observed_generation: i64,
    #[serde(default)]
    reason: String,
    status: String,
    #[serde(rename = "type")]
    kind: String,
}

impl RawCondition {
    /// `None`: the type is not known.
    fn read(self) -> Option<Result<Condition, String>> {
        let kind = ConditionType::of(&self.kind)?;
        let time = match humantime::parse_rfc3339(&self.last_transition_time) {
            Ok(time) => Timestamp::from(time),
            Err(_) => return Some(Err(format!("condition {}: lastTransitionTime is no time", self.kind))),
        };
        Some(Ok(Condition {
            kind,
            status: self.status == "True",
            reason: self.reason,
            message: self.message,
            last_transition: time,
            observed_generation: self.observed_generation,
        }))
    }
}
