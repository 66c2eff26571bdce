//! What has to be true before a switch begins, and what pauses it later.

use super::walks::{everybody, is_ready, proxy, settle, settled, shown, step};
use super::world::{World, upstream};
use crate::switch::conditions::ConditionType;
use crate::switch::machine::decide;
use crate::switch::observed::{Input, ProbeAnswer};
use crate::switch::settings::{CheckMode, Params, Settings};
use crate::switch::write::{Content, Decision, Question};

const PRECONDITIONS: ConditionType = ConditionType::PreconditionsReady;

fn said(decision: &Decision) -> String {
    let (status, reason, message) = shown(decision, PRECONDITIONS).unwrap();
    assert_eq!((status, reason.as_str()), (false, "Processing"));
    assert_eq!(decision.figures.held, Some("precondition"));
    message
}

/// Resource versions of what a switch changes for others.
fn outputs(world: &World) -> [u64; 4] {
    [world.mode_file.version, world.bashible.version, world.registry.version, world.service.version]
}

/// Rounds in which nothing may be changed for others; the last decision.
fn waits(world: &mut World) -> Decision {
    let before = outputs(world);
    for _ in 0..4 {
        step(world);
        everybody(world);
    }
    assert_eq!(outputs(world), before);
    decide(&world.look())
}

#[test]
fn each_answer_of_a_probe_has_its_sentence_and_nothing_is_written_before_the_good_one() {
    let why = || "why it is so".to_owned();
    for (answer, sentence) in [
        (ProbeAnswer::Unreachable(why()), "is unreachable: why it is so"),
        (ProbeAnswer::Refused(why()), "refuses the credentials: why it is so"),
        (ProbeAnswer::ImagesNotThere(why()), "has no images of Deckhouse: why it is so"),
    ] {
        for target in [Params::Direct(upstream(1)), proxy(1), Params::Unmanaged(Some(upstream(1)))] {
            let mut world = settled(proxy(0));
            world.set(target);
            let decision = step(&mut world);
            assert_eq!(said(&decision), "The switch waits:\n- b.example:5000/deckhouse/ee: is being asked\n");
            world.probe = answer.clone();
            let decision = waits(&mut world);
            assert_eq!(said(&decision), format!("The switch waits:\n- b.example:5000/deckhouse/ee: {sentence}\n"));
            world.probe = ProbeAnswer::Good;
            settle(&mut world);
        }
    }
}

#[test]
fn a_switch_begins_when_deckhouses_queue_is_empty_and_is_not_paused_by_it() {
    let mut world = settled(proxy(0));
    world.queue = Some(3);
    world.set(proxy(1));
    let decision = waits(&mut world);
    assert_eq!(
        said(&decision),
        "The switch waits:\n- Deckhouse's main queue has 3 task(s), the switch begins when it is empty\n"
    );
    world.queue = Some(0);
    step(&mut world);
    // The switch itself makes work for Deckhouse.
    world.queue = Some(7);
    settle(&mut world);
    assert_eq!(world.record.value.unwrap().completed, proxy(1));
}

#[test]
fn a_precondition_that_fails_later_pauses_the_switch_which_resumes() {
    // At every step of it.
    for steps in 3..16 {
        let mut world = settled(proxy(0));
        world.set(proxy(1));
        for _ in 0..steps {
            step(&mut world);
            everybody(&mut world);
        }
        if is_ready(&step(&mut world)) {
            assert!(steps > 8, "{steps} steps were the whole switch");
            break;
        }
        world.probe = ProbeAnswer::Unreachable("no route".to_owned());
        everybody(&mut world);
        let decision = waits(&mut world);
        assert_eq!(
            said(&decision),
            "The switch is paused:\n- b.example:5000/deckhouse/ee: is unreachable: no route\n",
            "after {steps} steps"
        );
        world.probe = ProbeAnswer::Good;
        settle(&mut world);
        assert_eq!(world.record.value.unwrap().completed, proxy(1));
    }
}

#[test]
fn all_that_is_in_the_way_is_said_at_once_and_the_restart_of_all_components_with_it() {
    let mut world = World::new(2, 1);
    world.nodes.get_mut("master-0").unwrap().ready = false;
    world.nodes.get_mut("master-1").unwrap().schedulable = false;
    world.nodes.get_mut("worker-0").unwrap().runtime = "docker://20.10";
    world.set(Params::Local);
    let warning = "the switch from Unmanaged to Local changes the address of every image: all components of Deckhouse will \
                   restart";
    let first = step(&mut world);
    assert!(first.notices.iter().any(|notice| notice.reason == "ComponentsWillRestart" && notice.message == warning));
    let decision = waits(&mut world);
    assert_eq!(
        said(&decision),
        format!(
            "The switch waits:\n- master-0: node is not Ready\n- master-1: node is SchedulingDisabled\n- worker-0: container \
             runtime docker://20.10 is not supported, containerd is\n{warning}\n"
        )
    );
    world.nodes.values_mut().for_each(|node| {
        (node.ready, node.schedulable, node.runtime) = (true, true, "containerd://1.7.27");
    });
    settle(&mut world);
}

#[test]
fn nothing_is_made_for_a_switch_that_the_cluster_does_not_allow_yet() {
    let mut world = World::new(1, 1);
    (world.pki, world.ca.value) = (false, None);
    world.nodes.get_mut("worker-0").unwrap().label = "custom";
    world.set(proxy(1));
    for _ in 0..5 {
        let decision = step(&mut world);
        for write in &decision.writes {
            let ours = matches!(write.what, Content::Record(_) | Content::State(_) | Content::Masters(_));
            assert!(ours, "{write:?}");
        }
        everybody(&mut world);
    }
    world.nodes.get_mut("worker-0").unwrap().label = "default";
    settle(&mut world);
    assert!(world.pki && world.users.values().all(|user| user.value.is_some()));
}

#[test]
fn a_registry_that_deckhouse_would_refuse_is_refused_before_the_switch() {
    let mut world = settled(proxy(0));
    let mut bare = upstream(1);
    bare.images_repo = "b.example:5000".to_owned();
    world.set(Params::Unmanaged(Some(bare)));
    let decision = waits(&mut world);
    assert_eq!(
        said(&decision),
        "The switch waits:\n- Deckhouse would refuse its registry: Field 'path' cannot be empty or whitespace.\n"
    );
}

#[test]
fn relax_asks_for_less_and_begins_no_switch() {
    let mut world = settled(proxy(1));
    let modes = |decision: &Decision| -> Vec<CheckMode> {
        let modes = decision.questions.iter().filter_map(|question| match question {
            Question::Images { check_mode, .. } => Some(*check_mode),
            Question::Probe { .. } | Question::References { .. } => None,
        });
        modes.collect()
    };
    let before = world.record.value.clone().unwrap();
    assert_eq!(modes(&decide(&world.look())), [CheckMode::Default]);
    let key = |world: &World| world.images.keys().next().cloned();
    let asked = key(&world);
    let relaxed = |params| Input::Valid { settings: Settings { params, check_mode: CheckMode::Relax }, generation: 0 };
    world.manual = relaxed(proxy(1));
    let decision = settle(&mut world);
    assert_eq!(modes(&decision), [CheckMode::Relax]);
    assert_eq!(world.record.value.as_ref().unwrap().attempt, before.attempt);
    world.find_out();
    assert_ne!(key(&world), asked, "the answer to another question does not count");
    // While a switch is under way all of its checks are those.
    world.manual = relaxed(Params::Local);
    for _ in 0..60 {
        let decision = step(&mut world);
        assert!(modes(&decision).iter().all(|mode| *mode == CheckMode::Relax));
        if is_ready(&decision) {
            break;
        }
        everybody(&mut world);
    }
    assert_eq!(world.record.value.unwrap().completed, Params::Local);
}

#[test]
fn a_target_that_was_changed_too_often_is_refused_until_one_of_them_is_chosen() {
    let mut world = settled(proxy(1));
    let before = world.record.value.clone().unwrap();
    let mut record = before.clone();
    record.plane.previous = (0..8)
        .map(|number| {
            let mut other = upstream(3);
            other.images_repo = format!("c.example/d8-{number}");
            crate::switch::documents::ServerMode::Direct(other)
        })
        .collect();
    record.generation += 1;
    world.record.set(Some(record.clone()));
    world.set(proxy(0));
    let decision = decide(&world.look());
    let (status, reason, message) = shown(&decision, ConditionType::ErrTransitionNotSupported).unwrap();
    assert!(status && reason == "Error");
    assert_eq!(
        message,
        "the target was changed 9 times without a switch that ended; let one end, or go back to one of those targets"
    );
    assert_eq!(decision.figures.held, Some("transition"));
    let Content::Record(kept) = &decision.writes[0].what else { panic!("{:?}", decision.writes) };
    assert_eq!((&kept.target, &kept.plane, kept.attempt), (&before.target, &record.plane, before.attempt));
    // Back to one of them there is a way.
    world.set(Params::Direct(record.plane.previous[3].upstream().unwrap().clone()));
    let decision = decide(&world.look());
    assert_eq!(shown(&decision, ConditionType::ErrTransitionNotSupported), None);
}

#[test]
fn settings_of_the_old_form_are_looked_for_only_until_nodes_have_ours() {
    let mut world = settled(proxy(0));
    world.nodes.get_mut("worker-0").unwrap().label = "custom";
    world.set(proxy(1));
    let decision = settle(&mut world);
    assert!(shown(&decision, ConditionType::ContainerdConfigPreflightReady).unwrap().0);
}
