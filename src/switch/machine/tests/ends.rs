//! What has to be whole or silent before a step of a switch ends, and what others wrote in between.

use super::walks::{everybody, proxy, settle, settled, shown, step};
use super::world::{World, upstream};
use crate::switch::conditions::ConditionType;
use crate::switch::documents::{FoundModeFile, ServerMode};
use crate::switch::machine::decide;
use crate::switch::observed::{Checked, Word};
use crate::switch::outputs::services;
use crate::switch::record::InputSource;
use crate::switch::settings::{Params, Target};
use crate::switch::write::Question;

fn in_force(world: &World) -> Option<Target> {
    world.mode_file.value.as_ref().map(|file| file.file.plane.in_force.target())
}

#[test]
fn deckhouse_is_pointed_nowhere_before_every_server_has_the_mode_in_force() {
    for (from, to) in [
        (Params::Direct(upstream(1)), proxy(0)),
        (proxy(0), Params::Direct(upstream(1))),
        (proxy(0), Params::Local),
        (Params::Unmanaged(Some(upstream(1))), proxy(0)),
    ] {
        let mut world = World::new(2, 1);
        world.set(from.clone());
        settle(&mut world);
        let pointed = |world: &World| world.record.value.as_ref().unwrap().deckhouse_registry.clone();
        world.set(to.clone());
        for _ in 0..30 {
            step(&mut world);
            let held = world.servers["master-1"].file.clone();
            everybody(&mut world);
            if in_force(&world) == Some(to.target()) {
                let server = world.servers.get_mut("master-1").unwrap();
                (server.reported, server.file) = (held.clone(), held);
            }
        }
        assert_eq!(in_force(&world), Some(to.target()), "{from:?}");
        assert_eq!(pointed(&world), Some(from));
        settle(&mut world);
        assert_eq!(pointed(&world), Some(to));
    }
}

#[test]
fn locals_images_are_looked_for_once_more_before_its_switch_ends() {
    for from in [proxy(1), Params::Unmanaged(Some(upstream(1)))] {
        let mut world = settled(from);
        world.set(Params::Local);
        for _ in 0..40 {
            step(&mut world);
            everybody(&mut world);
            // What was whole before nodes were pointed to it is so no more.
            for (_, answer) in world.images.iter_mut().filter(|(key, _)| key.ends_with("/again")) {
                (answer.state, answer.message) =
                    (Checked::Lacking, "Mode: Default\nmaster-0: it lacks one\n".to_owned());
            }
        }
        let decision = step(&mut world);
        let (status, _, message) = shown(&decision, ConditionType::CleanupInClusterProxy).unwrap();
        let said = "The images are checked once more\nMode: Default\nmaster-0: it lacks one\n";
        assert!(!status && message.ends_with(said), "{message}");
        assert!(shown(&decision, ConditionType::FinalContainerdConfigReady).unwrap().0);
        settle(&mut world);
    }
}

#[test]
fn an_address_goes_after_two_scans_that_are_the_interval_apart() {
    let mut world = settled(Params::Unmanaged(Some(upstream(1))));
    world.set(proxy(0));
    let again = "Nothing needs b.example:5000/deckhouse/ee any more; looking once again\n";
    let last = |world: &mut World| {
        let decision = step(world);
        shown(&decision, ConditionType::FinalContainerdConfigReady).map(|(_, _, message)| message).unwrap_or_default()
    };
    for round in 0.. {
        assert!(round < 60);
        if last(&mut world).ends_with(again) {
            break;
        }
        everybody(&mut world);
    }
    let given = world.bashible.version;
    for (seconds, ends) in [(0, false), (29, false), (1, true)] {
        world.now += seconds * 1000;
        world.find_out();
        let message = last(&mut world);
        assert_eq!(world.bashible.version != given, ends, "{seconds} s: {message}");
        assert!(ends || message.ends_with(again), "{message}");
    }
}

#[test]
fn a_mode_file_that_others_wrote_is_followed_by_a_newer_one() {
    for above in [0, 5] {
        for in_secret in [true, false] {
            let mut world = settled(proxy(1));
            let before = world.mode_file.value.clone().unwrap();
            let mut file = before.file.clone();
            file.generation += above;
            file.plane.in_force = ServerMode::Local;
            let theirs = FoundModeFile { hash: file.hash(), file };
            let generation = theirs.file.generation;
            if in_secret {
                world.mode_file.spoil(Some(theirs));
            } else {
                // The Secret was put back by hand, and a server has taken the other one.
                let server = world.servers.get_mut("master-0").unwrap();
                (server.reported, server.file) = (Some(theirs.clone()), Some(theirs));
            }
            let decision = decide(&world.look());
            assert!(decision.writes.iter().all(|write| world.carry_out(write)));
            let after = world.mode_file.value.clone().unwrap();
            assert_eq!((&after.file.plane, after.file.generation), (&before.file.plane, generation + 1));
            world.reload("master-0");
            settle(&mut world);
            assert_eq!(world.servers["master-0"].file, Some(after));
        }
    }
}

#[test]
fn what_was_found_for_one_target_does_not_count_for_the_next() {
    let keys = |world: &World| -> Vec<String> {
        decide(&world.look()).questions.iter().map(|question| question.key().to_owned()).collect()
    };
    let mut world = settled(proxy(1));
    let mut known = keys(&world);
    for target in [proxy(0), proxy(1), Params::Local, proxy(1)] {
        world.set(target);
        let mut asked = Vec::new();
        for _ in 0..40 {
            let decision = step(&mut world);
            let questions = decision.questions.iter().map(Question::key).map(str::to_owned);
            asked.extend(questions);
            everybody(&mut world);
        }
        assert!(asked.iter().any(|key| key.starts_with("references/")), "{asked:?}");
        assert!(asked.iter().any(|key| key.starts_with("images/")), "{asked:?}");
        let twice = asked.iter().find(|key| known.contains(key));
        assert_eq!(twice, None);
        known.extend(asked);
    }
}

#[test]
fn a_word_is_taken_away_once_it_was_heard_and_counts_for_its_switch_alone() {
    let mut world = settled(proxy(1));
    // While none is under way there is nothing to end.
    world.word = Some(Word::FinishAcceptMissing);
    step(&mut world);
    assert_eq!(world.word, None);
    assert!(!world.record.value.as_ref().unwrap().accept_missing);
    world.set(Params::Local);
    step(&mut world);
    world.word = Some(Word::FinishAcceptMissing);
    step(&mut world);
    assert_eq!(world.word, None);
    assert!(world.record.value.as_ref().unwrap().accept_missing);
    world.set(proxy(0));
    step(&mut world);
    assert!(!world.record.value.as_ref().unwrap().accept_missing);
    world.word = Some(Word::FinishAcceptMissing);
    settle(&mut world);
    assert!(!world.record.value.as_ref().unwrap().accept_missing);
}

#[test]
fn another_target_clears_what_was_shown_of_the_one_before_within_a_mode_too() {
    let mut world = settled(proxy(1));
    assert!(shown(&decide(&world.look()), ConditionType::FinalContainerdConfigReady).is_some());
    world.set(proxy(0));
    let decision = step(&mut world);
    let shown: Vec<(&str, bool)> =
        decision.conditions.iter().map(|shown| (shown.kind.as_str(), shown.status)).collect();
    assert_eq!(
        shown,
        [
            ("SettingsValid", true),
            ("InputSource", true),
            ("PreconditionsReady", false),
            ("RegistryContainsRequiredImages", false),
            ("Ready", false)
        ]
    );
    let ready = decision.conditions.last().unwrap();
    assert_eq!((ready.reason.as_str(), ready.message.as_str()), ("Processing", "Transitioning to Proxy"));
    let state = world.state.value.as_ref().unwrap();
    assert_eq!((state.mode, state.target_mode), (Target::Proxy, Target::Proxy));
}

#[test]
fn the_service_and_the_way_for_pushes_are_open_from_the_coming_mode_to_the_last() {
    let mut world = settled(Params::Unmanaged(Some(upstream(1))));
    let open = |world: &World| {
        let serves = world.service.value.as_ref() == Some(&services::servers());
        assert!(serves || world.service.value.as_ref() == Some(&services::nobody()));
        (serves, world.ingress.value == Some(true))
    };
    assert_eq!(open(&world), (false, false));
    world.set(Params::Local);
    for _ in 0..10 {
        step(&mut world);
        let plane = &world.record.value.as_ref().unwrap().plane;
        let filled = plane.coming.is_some() || plane.in_force == ServerMode::Local;
        assert_eq!(open(&world), (filled, filled));
        everybody(&mut world);
    }
    settle(&mut world);
    assert_eq!(open(&world), (true, true));
    for (target, last) in [
        (proxy(0), (true, false)),
        (Params::Direct(upstream(0)), (true, false)),
        (Params::Unmanaged(Some(upstream(0))), (false, false)),
    ] {
        world.set(target);
        settle(&mut world);
        assert_eq!(open(&world), last);
    }
}

#[test]
fn an_input_that_was_chosen_by_a_word_is_not_replaced_by_the_other_one() {
    let mut world = settled(proxy(1));
    world.module_config = World::asks(Params::Direct(upstream(0)));
    world.word = Some(Word::Source(InputSource::ModuleConfig));
    settle(&mut world);
    let record = world.record.value.as_ref().unwrap();
    assert_eq!((record.source, &record.completed), (Some(InputSource::ModuleConfig), &Params::Direct(upstream(0))));
    world.set(Params::Local);
    settle(&mut world);
    assert_eq!(world.record.value.as_ref().unwrap().completed, Params::Direct(upstream(0)));
    world.word = Some(Word::Source(InputSource::Manual));
    settle(&mut world);
    assert_eq!(world.record.value.as_ref().unwrap().completed, Params::Local);
}
