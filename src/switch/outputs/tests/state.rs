//! `registry-state`.

use std::collections::BTreeMap;

use super::{stored, text};
use crate::clock::Timestamp;
use crate::switch::conditions::{Condition, ConditionType};
use crate::switch::documents::RegistryState;
use crate::switch::settings::Target;

fn condition(kind: ConditionType, status: bool, reason: &str, message: &str) -> Condition {
    let last_transition = Timestamp::from_millis(1_752_583_966_000);
    let (reason, message) = (reason.to_owned(), message.to_owned());
    Condition { kind, status, reason, message, last_transition, observed_generation: 0 }
}

fn state() -> RegistryState {
    let checked = "Mode: Default\nmaster-1: all 166 items are checked";
    let mut first = condition(ConditionType::RegistryContainsRequiredImages, true, "Ready", checked);
    first.observed_generation = 3;
    RegistryState {
        mode: Target::Direct,
        target_mode: Target::Local,
        facts: vec![("source".to_owned(), "manual".to_owned()), ("generation".to_owned(), "12".to_owned())],
        conditions: vec![
            first,
            condition(ConditionType::TransitionContainerdConfigReady, true, "", ""),
            condition(ConditionType::Ready, false, "Processing", "Transitioning to Local"),
        ],
    }
}

#[test]
fn the_five_keys_are_there_and_conditions_are_a_list_as_documented() {
    let secret = state().to_secret();
    let keys: Vec<_> = secret.data.keys().map(String::as_str).collect();
    assert_eq!(keys, ["conditions", "hash", "mode", "state", "target_mode"]);
    assert_eq!((text(&secret, "mode"), text(&secret, "target_mode")), ("Direct", "Local"));
    assert_eq!(text(&secret, "state"), "mode: Direct\ntarget_mode: Local\nsource: manual\ngeneration: \"12\"\n");
    let expected = r#"- lastTransitionTime: "2025-07-15T12:52:46Z"
  message: |-
    Mode: Default
    master-1: all 166 items are checked
  observedGeneration: 3
  reason: Ready
  status: "True"
  type: RegistryContainsRequiredImages
- lastTransitionTime: "2025-07-15T12:52:46Z"
  message: ""
  reason: ""
  status: "True"
  type: TransitionContainerdConfigReady
- lastTransitionTime: "2025-07-15T12:52:46Z"
  message: Transitioning to Local
  reason: Processing
  status: "False"
  type: Ready
"#;
    assert_eq!(text(&secret, "conditions"), expected);
    assert_eq!(secret.kind, "registry/state");
    assert_eq!(secret.labels["type"], "registry-state");
    assert_eq!(secret.annotations["registry.deckhouse.io/config-hash"], text(&secret, "hash"));
    assert_eq!(RegistryState::read(&stored(&secret)).unwrap(), state());
}

#[test]
fn a_cleared_list_of_conditions_is_an_empty_list() {
    let mut cleared = state();
    cleared.conditions.clear();
    let secret = cleared.to_secret();
    assert_eq!(text(&secret, "conditions"), "[]\n");
    assert_eq!(RegistryState::read(&stored(&secret)).unwrap(), cleared);
}

#[test]
fn a_state_of_deckhouse_is_read_without_what_is_its_own() {
    let state =
        "mode: Direct\ntarget_mode: Direct\npki:\n  ca:\n    cert: x\n    key: hunter2\nusers: {}\nconditions: []\n";
    let conditions = "- lastTransitionTime: \"2025-07-11T11:59:03Z\"\n  message: \"\"\n  reason: \"\"\n  status: \"True\"\n  type: Ready\n\
                      - type: SomethingNew\n  status: \"True\"\n";
    let data: BTreeMap<String, Vec<u8>> =
        [("state", state), ("conditions", conditions), ("mode", "Direct"), ("hash", "x")]
            .map(|(key, value)| (key.to_owned(), value.into()))
            .into();
    let read = RegistryState::read(&data).unwrap();
    assert_eq!((read.mode, read.target_mode, read.facts.len()), (Target::Direct, Target::Direct, 0));
    assert_eq!(read.conditions.len(), 1);
    assert_eq!(read.conditions[0].last_transition, Timestamp::from_millis(1_752_235_143_000));
}

#[test]
fn a_garbled_state_is_no_state() {
    let garbled = |key: &str, value: &str| {
        let mut data = stored(&state().to_secret());
        data.insert(key.to_owned(), value.into());
        RegistryState::read(&data).unwrap_err()
    };
    assert_eq!(garbled("mode", "Proxy"), "key mode says something else than state");
    assert_eq!(garbled("state", "mode: Direct\n"), "mode \"\" is not known");
    assert!(garbled("state", "- a").starts_with("key state: no YAML of the expected form"));
    assert!(garbled("conditions", "{}").starts_with("key conditions: "));
    let late = "- {type: Ready, status: 'True', lastTransitionTime: yesterday}";
    assert_eq!(garbled("conditions", late), "condition Ready: lastTransitionTime is no time");
    assert_eq!(RegistryState::read(&BTreeMap::new()).unwrap_err(), "key state is missing");
}
