//! Single walks: the documented order, its messages, and what holds a switch.

use std::time::Duration;

use super::world::{World, upstream, user};
use crate::switch::conditions::ConditionType;
use crate::switch::documents::{FIXED_HOST, ServerMode};
use crate::switch::machine::decide;
use crate::switch::observed::{Input, Word};
use crate::switch::record::InputSource;
use crate::switch::settings::{CheckMode, Params, Settings};
use crate::switch::write::{Content, Decision};
use crate::values::Role;

/// One look and all its writes.
pub(super) fn step(world: &mut World) -> Decision {
    let decision = decide(&world.look());
    world.ask_all(&decision);
    for write in &decision.writes {
        assert!(world.carry_out(write), "{write:?} was refused");
        world.every_node_can_pull().unwrap();
    }
    decision
}

/// Everybody does his work once.
pub(super) fn everybody(world: &mut World) {
    world.now += 61_000;
    world.find_out();
    let names: Vec<String> = world.nodes.keys().cloned().collect();
    for name in names {
        world.apply(&name);
        world.reload(&name);
        world.push(&name);
    }
    world.deckhouse_runs();
    (0..world.pods.len()).for_each(|place| world.render(place));
    world.every_node_can_pull().unwrap();
}

pub(super) fn shown(decision: &Decision, kind: ConditionType) -> Option<(bool, String, String)> {
    let found = decision.conditions.iter().find(|condition| condition.kind == kind)?;
    Some((found.status, found.reason.clone(), found.message.clone()))
}

pub(super) fn is_ready(decision: &Decision) -> bool {
    decision.conditions.last().is_some_and(|last| last.kind == ConditionType::Ready && last.status)
}

/// Until the target is reached; the last decision.
pub(super) fn settle(world: &mut World) -> Decision {
    for _ in 0..60 {
        let decision = step(world);
        if is_ready(&decision) && decision.writes.is_empty() {
            return decision;
        }
        everybody(world);
    }
    panic!("{:?}", decide(&world.look()).conditions);
}

pub(super) fn proxy(number: u8) -> Params {
    Params::Proxy { upstream: upstream(number), ttl: Duration::from_secs(3600) }
}

pub(super) fn settled(params: Params) -> World {
    let mut world = World::new(1, 2);
    world.set(params);
    settle(&mut world);
    world
}

/// Condition types in the order in which they first became True.
fn order(to: Params) -> Vec<&'static str> {
    let mut world = World::new(2, 1);
    world.set(to);
    let mut order = Vec::new();
    for _ in 0..60 {
        let decision = step(&mut world);
        for condition in &decision.conditions {
            let word = condition.kind.as_str();
            if condition.status && !order.contains(&word) {
                order.push(word);
            }
        }
        if is_ready(&decision) && decision.writes.is_empty() {
            break;
        }
        everybody(&mut world);
    }
    order.retain(|word| !matches!(*word, "SettingsValid" | "InputSource" | "PreconditionsReady"));
    order
}

#[test]
fn steps_to_a_target_have_the_documented_order() {
    assert_eq!(
        order(Params::Direct(upstream(1))),
        [
            "RegistryContainsRequiredImages",
            "ContainerdConfigPreflightReady",
            "TransitionContainerdConfigReady",
            "InClusterProxyReady",
            "DeckhouseRegistrySwitchReady",
            "FinalContainerdConfigReady",
            "CleanupNodeServices",
            "Ready"
        ]
    );
    assert_eq!(
        order(proxy(1)),
        [
            "RegistryContainsRequiredImages",
            "ContainerdConfigPreflightReady",
            "NodeServicesReady",
            "TransitionContainerdConfigReady",
            "DeckhouseRegistrySwitchReady",
            "FinalContainerdConfigReady",
            "CleanupInClusterProxy",
            "Ready"
        ]
    );
    assert_eq!(
        order(Params::Local),
        [
            "ContainerdConfigPreflightReady",
            "NodeServicesReady",
            "RegistryContainsRequiredImages",
            "TransitionContainerdConfigReady",
            "DeckhouseRegistrySwitchReady",
            "FinalContainerdConfigReady",
            "CleanupInClusterProxy",
            "Ready"
        ]
    );
    assert_eq!(
        order(Params::Unmanaged(Some(upstream(1)))),
        [
            "RegistryContainsRequiredImages",
            "ContainerdConfigPreflightReady",
            "TransitionContainerdConfigReady",
            "DeckhouseRegistrySwitchReady",
            "FinalContainerdConfigReady",
            "CleanupNodeServices",
            "CleanupInClusterProxy",
            "Ready"
        ]
    );
}

#[test]
fn nodes_that_wait_are_named_with_both_versions() {
    let mut world = World::new(1, 1);
    world.set(Params::Unmanaged(Some(upstream(1))));
    for _ in 0..3 {
        step(&mut world);
        world.find_out();
    }
    let decision = step(&mut world);
    let version = world.bashible.value.as_ref().unwrap().version[..15].to_owned();
    let (status, reason, message) = shown(&decision, ConditionType::TransitionContainerdConfigReady).unwrap();
    assert_eq!((status, reason.as_str()), (false, "Processing"));
    assert_eq!(
        message,
        format!(
            "Applying configuration to nodes\n0/2 node(s) ready. Waiting:\n- master-0: \"unknown\" → \"{version}…\"\n- \
             worker-0: \"unknown\" → \"{version}…\"\n"
        )
    );
    let last = decision.conditions.last().unwrap();
    assert_eq!((last.reason.as_str(), last.message.as_str()), ("Processing", "Transitioning to Unmanaged"));
}

#[test]
fn preflight_names_what_is_in_the_way() {
    let mut world = World::new(1, 1);
    world.nodes.get_mut("worker-0").unwrap().label = "custom";
    world.set(Params::Direct(upstream(1)));
    step(&mut world);
    world.find_out();
    let decision = step(&mut world);
    let (status, _, message) = shown(&decision, ConditionType::ContainerdConfigPreflightReady).unwrap();
    assert!(!status);
    assert_eq!(
        message,
        "Check current nodes configuration\n1/2 node(s) Unready:\n- worker-0: has custom toml merge containerd \
         configuration\n"
    );
    assert!(world.bashible.value.is_none());
}

#[test]
fn a_cordoned_master_pauses_a_switch_and_says_so() {
    let mut world = World::new(1, 1);
    world.set(proxy(1));
    for _ in 0..3 {
        step(&mut world);
        everybody(&mut world);
    }
    world.nodes.get_mut("master-0").unwrap().schedulable = false;
    step(&mut world);
    everybody(&mut world);
    let decision = step(&mut world);
    let (status, _, message) = shown(&decision, ConditionType::PreconditionsReady).unwrap();
    assert!(!status);
    assert!(message.contains("master-0: node is SchedulingDisabled"), "{message}");
    assert_eq!(decision.figures.held, Some("precondition"));
    world.nodes.get_mut("master-0").unwrap().schedulable = true;
    settle(&mut world);
}

#[test]
fn local_to_bare_unmanaged_is_held_and_changes_nothing() {
    let mut world = settled(Params::Local);
    let before = world.clone();
    world.set(Params::BARE);
    for _ in 0..5 {
        let decision = step(&mut world);
        let (status, reason, message) = shown(&decision, ConditionType::ErrTransitionNotSupported).unwrap();
        assert!(status && reason == "Error");
        assert_eq!(message, "mode transition from Local to Unmanaged not supported");
        everybody(&mut world);
    }
    assert_eq!(world.mode_file.version, before.mode_file.version);
    assert_eq!(world.bashible.version, before.bashible.version);
    assert_eq!(world.registry.version, before.registry.version);
    world.set(Params::Local);
    let decision = settle(&mut world);
    assert_eq!(shown(&decision, ConditionType::ErrTransitionNotSupported), None);
}

#[test]
fn proxy_and_local_are_switched_to_each_other() {
    let mut world = settled(proxy(1));
    world.set(Params::Local);
    settle(&mut world);
    world.set(proxy(0));
    settle(&mut world);
    let record = world.record.value.unwrap();
    assert_eq!(record.plane.in_force, ServerMode::of(&proxy(0)));
    assert!(record.plane.previous.is_empty());
}

#[test]
fn an_input_that_vanishes_changes_nothing_until_another_is_chosen() {
    let mut world = settled(proxy(1));
    let registry = world.registry.version;
    world.manual = Input::Absent;
    let settings = Settings { params: Params::Direct(upstream(0)), check_mode: CheckMode::Default };
    world.module_config = Input::Valid { settings, generation: 4 };
    for _ in 0..5 {
        let decision = step(&mut world);
        assert!(shown(&decision, ConditionType::InputLost).unwrap().0);
        everybody(&mut world);
    }
    assert_eq!(world.registry.version, registry);
    world.word = Some(Word::Source(InputSource::ModuleConfig));
    let decision = settle(&mut world);
    assert_eq!(shown(&decision, ConditionType::InputLost), None);
    assert_eq!(world.record.value.unwrap().completed, Params::Direct(upstream(0)));
}

#[test]
fn wrong_settings_leave_the_last_good_ones() {
    let mut world = settled(proxy(1));
    world.manual = Input::Invalid { problems: vec!["'imagesRepo' is required.".to_owned()], generation: 0 };
    let decision = settle(&mut world);
    let (status, _, message) = shown(&decision, ConditionType::SettingsValid).unwrap();
    assert!(!status && message.contains("- 'imagesRepo' is required.\n"));
}

#[test]
fn parameters_are_frozen_until_the_cluster_is_bootstrapped() {
    let mut world = World::new(1, 1);
    world.bootstrapped = false;
    world.set(proxy(1));
    let decision = step(&mut world);
    assert!(shown(&decision, ConditionType::ParametersFrozen).unwrap().0);
    assert!(!world.record.value.as_ref().unwrap().under_way);
    world.bootstrapped = true;
    settle(&mut world);
}

#[test]
fn the_nodes_secret_is_put_back_but_in_settled_bare_unmanaged() {
    let mut world = settled(proxy(1));
    world.bashible.set(None);
    let decision = step(&mut world);
    assert_eq!(world.settled(), None);
    assert_eq!(decision.figures.repaired, ["registry-bashible-config"]);

    world.set(Params::BARE);
    settle(&mut world);
    let settled = world.settled();
    assert_eq!(settled, world.bashible.value.as_ref().map(|config| config.version.clone()));
    world.bashible.set(None);
    let decision = step(&mut world);
    let (_, _, message) = shown(&decision, ConditionType::FinalContainerdConfigReady).unwrap();
    assert!(message.contains("→ Unmanaged"), "{message}");
    assert!(world.bashible.value.is_none());
    // Nodes that hear of it later have to know with which version it went.
    assert_eq!(world.settled(), settled);
    settle(&mut world);
    assert_eq!((world.bashible.value.is_none(), world.settled()), (true, settled));
    // Into a managed mode, and no further.
    world.set(proxy(1));
    while world.bashible.value.is_none() {
        step(&mut world);
        everybody(&mut world);
    }
    assert_eq!(world.settled(), None);
}

/// Nodes without bashible go by it.
#[test]
fn the_nodes_secret_is_settled_in_bare_unmanaged_alone_and_no_longer_than_it_lasts() {
    let mut world = settled(proxy(1));
    world.set(Params::BARE);
    while world.record.value.as_ref().is_none_or(|record| record.under_way || record.target != Params::BARE) {
        assert_eq!(world.settled(), None);
        step(&mut world);
        everybody(&mut world);
    }
    settle(&mut world);
    let bare = world.bashible.value.clone().unwrap();
    assert_eq!(world.settled(), Some(bare.hash()));
    // The same source, but an administrator's.
    world.set(Params::Unmanaged(Some(upstream(1))));
    step(&mut world);
    assert_eq!(world.settled(), None);
    settle(&mut world);
    assert_eq!(world.settled(), None);
}

#[test]
fn a_lost_record_of_a_settled_cluster_is_put_together_again() {
    let for_ever = Params::Proxy { upstream: upstream(1), ttl: Duration::ZERO };
    for params in [Params::Direct(upstream(1)), proxy(1), for_ever, Params::Local] {
        let mut world = settled(params.clone());
        let before = world.clone();
        world.record.set(None);
        settle(&mut world);
        let record = world.record.value.as_ref().unwrap();
        assert_eq!((&record.completed, &record.passed_over), (&params, &None));
        assert_eq!(world.bashible.version, before.bashible.version);
        assert_eq!(world.registry.version, before.registry.version);
    }
}

#[test]
fn a_lost_record_begins_no_switch_that_nobody_asked_for() {
    let mut world = settled(proxy(1));
    let before = world.clone();
    // Nobody can tell whether these settings were passed over or are new.
    world.set(Params::Direct(upstream(2)));
    world.record.set(None);
    settle(&mut world);
    let record = world.record.value.as_ref().unwrap();
    assert_eq!((&record.completed, &record.target), (&proxy(1), &proxy(1)));
    assert_eq!(world.bashible.version, before.bashible.version);
    assert_eq!(world.registry.version, before.registry.version);
    world.set(Params::Direct(upstream(3)));
    settle(&mut world);
    assert_eq!(world.record.value.as_ref().unwrap().completed, Params::Direct(upstream(3)));
}

#[test]
fn deckhouses_own_secret_is_not_made_here() {
    let mut world = settled(proxy(1));
    world.registry.set(None);
    let decision = decide(&world.look());
    assert!(!decision.writes.iter().any(|write| matches!(write.what, Content::DeckhouseRegistry(_))));
    assert!(decision.notices.iter().any(|notice| notice.reason == "OutputMissing"));
}

#[test]
fn the_way_back_is_saved_before_deckhouse_is_pointed_elsewhere() {
    let mut world = World::new(1, 1);
    world.set(proxy(1));
    for _ in 0..40 {
        let decision = decide(&world.look());
        world.ask_all(&decision);
        let pointed = decision.writes.iter().position(|write| matches!(write.what, Content::DeckhouseRegistry(_)));
        if let Some(place) = pointed {
            // Killed right behind that write.
            for write in &decision.writes[..=place] {
                assert!(world.carry_out(write));
            }
            break;
        }
        decision.writes.iter().for_each(|write| assert!(world.carry_out(write)));
        everybody(&mut world);
    }
    assert_eq!(world.registry.value.as_ref().unwrap().address, FIXED_HOST);
    assert_eq!(world.record.value.as_ref().unwrap().fallback, Some(upstream(1)));
    world.set(Params::BARE);
    settle(&mut world);
    assert_eq!(world.registry.value.unwrap().upstream().unwrap(), Some(upstream(1)));
}

#[test]
fn an_administrators_word_ends_a_switch() {
    let mut world = settled(proxy(1));
    world.set(Params::Local);
    // A pod that nobody renders anew needs an image that only the old registry has.
    world.pods = vec![(format!("{FIXED_HOST}/system/deckhouse"), 11)];
    for _ in 0..30 {
        step(&mut world);
        world.now += 61_000;
        world.find_out();
        for name in ["master-0", "worker-0", "worker-1"] {
            world.apply(name);
            world.reload(name);
            world.push(name);
        }
        world.deckhouse_runs();
    }
    let decision = step(&mut world);
    let (status, _, message) = shown(&decision, ConditionType::CleanupInClusterProxy).unwrap();
    assert!(!status && message.contains("1 object(s) still need"), "{message}");
    world.word = Some(Word::FinishAcceptMissing);
    step(&mut world);
    assert!(world.record.value.as_ref().unwrap().plane.previous.is_empty());
}

#[test]
fn the_old_mode_ends_after_nobody_has_needed_it_for_the_time_of_settling() {
    let mut world = settled(proxy(1));
    world.set(Params::Local);
    let mut still = Vec::new();
    for _ in 0..40 {
        let decision = step(&mut world);
        let record = world.record.value.as_ref().unwrap();
        if let Some(settle) = &record.settle {
            still.push(world.now - settle.since.as_millis());
        }
        if is_ready(&decision) {
            break;
        }
        if still.len() == 4 {
            // An answer of the old mode begins the time anew.
            world.servers.get_mut("master-0").unwrap().previous_answers += 1;
        }
        everybody(&mut world);
    }
    assert!(is_ready(&decide(&world.look())));
    assert_eq!(still[4], 0);
    assert!(
        still.iter().all(|still| *still < 600_000) && still.last().is_some_and(|still| *still >= 480_000),
        "{still:?}"
    );
}

#[test]
fn user_ro_is_put_back_with_the_password_that_nodes_have() {
    let mut world = settled(proxy(1));
    let before = world.users[&Role::Ro].value.clone();
    for spoiled in [None, Some(user(Role::Ro, "another"))] {
        world.users.get_mut(&Role::Ro).unwrap().set(spoiled);
        let decision = decide(&world.look());
        decision.writes.iter().for_each(|write| assert!(world.carry_out(write)));
        assert_eq!(world.users[&Role::Ro].value, before);
        assert_eq!(decision.figures.repaired, ["registry-user"]);
    }
}
