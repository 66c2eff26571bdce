//! Nodes that keep a switch waiting, and nodes that it goes on without.

use std::time::Duration;

use super::walks::{everybody, is_ready, proxy, settle, settled, shown, step};
use super::world::{World, time, upstream};
use crate::switch::conditions::ConditionType;
use crate::switch::machine::decide;
use crate::switch::observed::{Seen, Word};
use crate::switch::settings::{Params, UnreadyNodes};
use crate::switch::write::Decision;

fn named(decision: &Decision) -> Option<&str> {
    decision.notices.iter().find(|notice| notice.reason == "NodesNotConverged").map(|notice| notice.message.as_str())
}

/// Everybody works, and little time goes by.
fn quickly(world: &mut World) {
    let before = world.now;
    everybody(world);
    world.now = before + 1_000;
}

/// Until nodes are waited for.
fn until_nodes_are_waited_for(world: &mut World) -> Decision {
    for _ in 0..30 {
        let decision = step(world);
        if decision.figures.nodes_waiting > 0 && decision.figures.nodes_converged > 0 {
            return decision;
        }
        quickly(world);
    }
    panic!("{:?}", decide(&world.look()).conditions);
}

#[test]
fn nodes_that_keep_a_switch_waiting_for_ten_minutes_are_named() {
    let mut world = settled(proxy(0));
    world.nodes.get_mut("worker-0").unwrap().ready = false;
    // It is Ready, and its bashible does nothing.
    world.nodes.get_mut("worker-1").unwrap().ours = false;
    world.set(Params::Direct(upstream(1)));
    let decision = until_nodes_are_waited_for(&mut world);
    assert_eq!(named(&decision), None);
    assert!(decision.wake.is_some_and(|wake| wake <= Duration::from_secs(600)));
    world.now += 590_000;
    assert_eq!(named(&step(&mut world)), None);
    world.now += 11_000;
    let decision = step(&mut world);
    assert_eq!(
        named(&decision),
        Some(
            "Nodes keep the switch waiting for 10 minutes:\n- worker-0: is not Ready\n- worker-1: has not applied its \
             configuration\n"
        )
    );
    assert_eq!((decision.figures.nodes_waiting, decision.figures.nodes_converged), (2, 1));
    let (_, _, message) = shown(&decision, ConditionType::TransitionContainerdConfigReady).unwrap();
    assert!(message.starts_with("Applying configuration to nodes\n1/3 node(s) ready. Waiting:\n- worker-0: "));
    world.nodes.values_mut().for_each(|node| (node.ready, node.ours) = (true, true));
    settle(&mut world);
}

#[test]
fn a_node_that_has_not_been_ready_for_ten_minutes_is_named_at_once() {
    let mut world = settled(proxy(0));
    world.nodes.get_mut("worker-0").unwrap().ready = false;
    world.set(Params::Direct(upstream(1)));
    until_nodes_are_waited_for(&mut world);
    let mut look = world.look();
    let Seen::Known(nodes) = &mut look.nodes else { panic!("{look:?}") };
    let node = nodes.iter_mut().find(|node| node.name == "worker-0").unwrap();
    node.unready_since = Some(time(world.now - 600_000));
    assert_eq!(
        named(&decide(&look)),
        Some("Nodes keep the switch waiting for 10 minutes:\n- worker-0: is not Ready\n")
    );
}

#[test]
fn the_ten_minutes_begin_when_nodes_are_given_something_however_long_leftovers_were_waited_for() {
    let mut world = settled(Params::Unmanaged(Some(upstream(1))));
    world.set(proxy(0));
    // A pod that nobody renders anew keeps the old address alive.
    let old = (upstream(1).images_repo, 0);
    for _ in 0..20 {
        step(&mut world);
        everybody(&mut world);
        world.pods[0] = old.clone();
    }
    let decision = step(&mut world);
    let (_, _, message) = shown(&decision, ConditionType::FinalContainerdConfigReady).unwrap();
    assert!(message.contains("1 object(s) still need b.example:5000/deckhouse/ee:\n"), "{message}");
    let given = world.bashible.version;
    for round in 0.. {
        assert!(round < 60);
        if world.bashible.version != given {
            break;
        }
        world.now += 61_000;
        world.render(0);
        world.find_out();
        step(&mut world);
    }
    let decision = step(&mut world);
    assert_eq!(decision.figures.nodes_waiting, 3);
    assert_eq!(named(&decision), None);
    world.now += 600_000;
    assert!(named(&step(&mut world)).is_some());
}

#[test]
fn another_list_of_masters_is_another_version_and_gives_nodes_their_ten_minutes_again() {
    let mut world = settled(proxy(0));
    world.nodes.get_mut("worker-0").unwrap().ready = false;
    world.set(Params::Direct(upstream(1)));
    until_nodes_are_waited_for(&mut world);
    world.now += 601_000;
    assert!(named(&step(&mut world)).is_some_and(|names| !names.contains("worker-1")));
    let (before, given) = (world.record.value.clone().unwrap(), world.bashible.value.clone().unwrap());
    world.join("master-1", true, true);
    let decision = step(&mut world);
    let (record, config) = (world.record.value.clone().unwrap(), world.bashible.value.clone().unwrap());
    assert_eq!(record.nodes, before.nodes, "the plan is the same");
    assert_ne!(config.version, given.version, "what nodes answer is not");
    assert_eq!(decision.figures.nodes_waiting, 4);
    assert_eq!(named(&decision), None);
    assert!(decision.figures.slow_nodes.is_empty());
    world.now += 600_000;
    assert!(named(&step(&mut world)).is_some_and(|names| names.contains("worker-1")));
    // It is remembered once: nothing more is written while nothing changes.
    step(&mut world);
    assert!(step(&mut world).writes.is_empty());
}

#[test]
fn a_switch_goes_on_without_a_skipped_node_and_ends_with_it() {
    for (from, kind) in [
        (Params::Direct(upstream(1)), ConditionType::CleanupInClusterProxy),
        (Params::Unmanaged(Some(upstream(1))), ConditionType::CleanupInClusterProxy),
    ] {
        for ends in ["it returns", "it is deleted", "by a word"] {
            let mut world = settled(from.clone());
            world.options.unready_nodes = UnreadyNodes::Skip;
            world.nodes.get_mut("worker-1").unwrap().ready = false;
            world.set(proxy(0));
            for _ in 0..40 {
                step(&mut world);
                everybody(&mut world);
            }
            let decision = step(&mut world);
            assert!(!is_ready(&decision));
            assert!(shown(&decision, ConditionType::FinalContainerdConfigReady).unwrap().0);
            let (status, _, message) = shown(&decision, kind).unwrap();
            assert!(!status);
            assert!(
                message.contains("1 skipped node(s) may still need the old registry:\n- worker-1\n"),
                "{from:?}: {message}"
            );
            let (status, reason, message) = shown(&decision, ConditionType::NodesSkipped).unwrap();
            assert!(status && reason == "Skipped");
            assert_eq!(
                message,
                "Nodes that keep their old registry until they have converged or are deleted:\n- worker-1\n"
            );
            assert_eq!(decision.figures.nodes_skipped, 1);
            let kept = !world.record.value.as_ref().unwrap().plane.previous.is_empty();
            assert_eq!(kept, from.is_managed(), "what it had stays");
            match ends {
                "it returns" => world.nodes.get_mut("worker-1").unwrap().ready = true,
                "it is deleted" => world.leave("worker-1"),
                _ => {
                    // What the node can't get any more is accepted.
                    world.word = Some(Word::FinishAcceptMissing);
                    for write in decide(&world.look()).writes {
                        assert!(world.carry_out(&write));
                    }
                    let record = world.record.value.as_ref().unwrap();
                    assert!(record.plane.previous.is_empty() && record.skipped.contains("worker-1"));
                    continue;
                }
            }
            let decision = settle(&mut world);
            assert_eq!(shown(&decision, ConditionType::NodesSkipped), None);
        }
    }
}

#[test]
fn a_node_that_is_not_ours_is_skipped_where_that_is_said_and_a_master_never() {
    let mut world = settled(proxy(0));
    world.options.unready_nodes = UnreadyNodes::Skip;
    world.nodes.get_mut("worker-0").unwrap().ours = false;
    world.nodes.get_mut("worker-0").unwrap().runtime = "cri-o://1.30";
    world.nodes.get_mut("master-0").unwrap().ours = false;
    world.set(Params::Direct(upstream(1)));
    let decision = until_nodes_are_waited_for(&mut world);
    let (_, _, message) = shown(&decision, ConditionType::TransitionContainerdConfigReady).unwrap();
    assert!(message.contains("1/2 node(s) ready. Waiting:\n- master-0: "), "{message}");
    assert_eq!(decision.figures.nodes_skipped, 1);
    world.nodes.values_mut().for_each(|node| (node.ours, node.runtime) = (true, "containerd://1.7.27"));
    settle(&mut world);
}
