//! Deckhouse is pointed to its registry when servers take requests, and runs with it before nodes let the old one go.

use super::walks::{everybody, is_ready, proxy, settle, settled, shown, step};
use super::world::{World, upstream};
use crate::switch::conditions::ConditionType;
use crate::switch::machine::decide;
use crate::switch::observed::{Checked, DeckhousePod, Observed, Seen};
use crate::switch::settings::Params;
use crate::switch::write::Decision;

const SWITCH: ConditionType = ConditionType::DeckhouseRegistrySwitchReady;

/// What is said of the step, which is not met.
fn said(decision: &Decision) -> String {
    let (status, _, message) = shown(decision, SWITCH).unwrap();
    assert!(!status);
    message
}

#[test]
fn deckhouse_is_not_pointed_to_servers_that_take_no_requests() {
    let mut world = settled(Params::Unmanaged(Some(upstream(1))));
    let registry = world.registry.version;
    world.servers.get_mut("master-0").unwrap().not_ready = vec!["the disk is full".to_owned()];
    world.set(proxy(0));
    for _ in 0..12 {
        step(&mut world);
        everybody(&mut world);
    }
    let message = said(&step(&mut world));
    assert_eq!(
        message,
        "Updating registry for deckhouse components\nWaiting for masters:\n- master-0: the disk is full\n"
    );
    assert_eq!(world.registry.version, registry);
    world.servers.get_mut("master-0").unwrap().not_ready.clear();
    settle(&mut world);
}

/// A cluster in which Deckhouse has just been pointed to another registry.
fn pointed() -> World {
    let mut world = settled(Params::Unmanaged(Some(upstream(1))));
    world.set(proxy(0));
    let registry = world.registry.version;
    for _ in 0..30 {
        let decision = step(&mut world);
        if world.registry.version != registry {
            assert_eq!(said(&decision), "Updating registry for deckhouse components\n");
            return world;
        }
        everybody(&mut world);
    }
    panic!("{:?}", decide(&world.look()).conditions);
}

#[test]
fn nodes_keep_the_old_source_until_one_leader_of_deckhouse_is_ready_with_the_new_registry() {
    let world = pointed();
    let hash = world.registry.value.as_ref().unwrap().hash();
    let pod = |leader, ready, version: &str| DeckhousePod {
        name: "deckhouse-0".to_owned(),
        leader,
        ready,
        registry_version: Some(version.to_owned()),
    };
    let applying = "Applying new registry to deckhouse-controller\n";
    let waiting = "Waiting for deckhouse-controller pod\n";
    for (pods, message) in [
        (vec![], applying),
        (vec![pod(true, true, "older")], applying),
        (vec![pod(false, true, &hash)], applying),
        (vec![pod(true, false, &hash)], "Waiting for deckhouse-controller to become ready\n"),
        (vec![pod(true, true, &hash), pod(true, true, "older")], waiting),
    ] {
        let look = Observed { deckhouse: Seen::Known(pods), ..world.look() };
        let decision = decide(&look);
        assert_eq!(said(&decision), message);
        assert_eq!(shown(&decision, ConditionType::FinalContainerdConfigReady), None);
    }
    let look = Observed { deckhouse: Seen::Unreadable("forbidden".to_owned()), ..world.look() };
    assert_eq!(said(&decide(&look)), "Waiting for deckhouse-controller pod: forbidden\n");
    let look = Observed { deckhouse: Seen::Known(vec![pod(true, true, &hash)]), ..world.look() };
    assert_eq!(shown(&decide(&look), SWITCH), Some((true, String::new(), String::new())));
}

#[test]
fn images_that_vanish_after_a_switch_are_shown_and_hold_nothing_up() {
    let mut world = settled(proxy(1));
    for answer in world.images.values_mut() {
        (answer.state, answer.message) = (Checked::Lacking, "Mode: Default\none lacks\n".to_owned());
    }
    let decision = step(&mut world);
    let (status, _, message) = shown(&decision, ConditionType::RegistryContainsRequiredImages).unwrap();
    assert!(!status && message == "Mode: Default\none lacks\n");
    assert!(is_ready(&decision));
    // A controller that has just started knows nothing to the contrary of what was shown.
    let mut world = settled(proxy(1));
    world.images.clear();
    let decision = step(&mut world);
    assert!(shown(&decision, ConditionType::RegistryContainsRequiredImages).unwrap().0 && is_ready(&decision));
}
