//! What can't be read or is lost: nothing is guessed, and each is said.

use std::collections::BTreeMap;

use super::walks::{everybody, is_ready, proxy, settle, settled, shown, step};
use super::world::{CA, World, upstream};
use crate::switch::conditions::ConditionType;
use crate::switch::inputs;
use crate::switch::machine::decide;
use crate::switch::observed::{Input, Observed, Output, Seen, Word};
use crate::switch::record::InputSource;
use crate::switch::settings::{CheckMode, Params, Settings};
use crate::switch::write::{Content, Decision};
use crate::values::Role;

/// The sentence of `Held`, which is an Event too.
#[track_caller]
fn held(decision: &Decision) -> &str {
    let shown = decision.conditions.iter().find(|shown| shown.kind == ConditionType::Held).unwrap();
    assert!(shown.status && shown.reason == "Error");
    assert!(decision.notices.iter().any(|notice| notice.reason == "SwitchHeld" && notice.message == shown.message));
    &shown.message
}

#[test]
fn what_can_not_be_read_is_not_absent() {
    fn unreadable<T>() -> Output<T> {
        Output::Unreadable("timeout".to_owned())
    }
    type Spoil = fn(&mut Observed);
    let looks: [(Spoil, &str); 8] = [
        (|look| look.outputs.mode_file = unreadable(), "d8-registry-mode can't be read: timeout"),
        (|look| look.outputs.bashible = unreadable(), "registry-bashible-config can't be read: timeout"),
        (|look| look.outputs.deckhouse_registry = unreadable(), "deckhouse-registry can't be read: timeout"),
        (|look| look.outputs.ca = unreadable(), "registry-ca can't be read: timeout"),
        (
            |look| *look.outputs.users.get_mut(&Role::Rw).unwrap() = unreadable(),
            "a Secret registry-user can't be read: timeout",
        ),
        (|look| look.nodes = Seen::Unreadable("timeout".to_owned()), "nodes can't be read: timeout"),
        (|look| look.record = unreadable(), "the record can't be read: timeout"),
        (|look| look.outputs.state = unreadable(), "registry-state can't be read: timeout"),
    ];
    let mut world = settled(proxy(1));
    world.set(Params::Local);
    step(&mut world);
    let before = world.state.value.clone().unwrap();
    for (spoil, sentence) in looks {
        let mut look = world.look();
        spoil(&mut look);
        let decision = decide(&look);
        assert_eq!(held(&decision), sentence);
        assert_eq!(decision.figures.held, Some("unreadable"));
        // It is said where that can be written, and all else that is known stays.
        match decision.writes.as_slice() {
            [] => assert_eq!(sentence, "registry-state can't be read: timeout"),
            [write] => {
                assert_eq!(write.base, world.state.version.to_string());
                let Content::State(said) = &write.what else { panic!("{write:?}") };
                assert_eq!(
                    (said.mode, said.target_mode, &said.facts),
                    (before.mode, before.target_mode, &before.facts)
                );
                let mut rest = said.conditions.clone();
                assert_eq!(rest.pop().map(|last| last.message), Some(sentence.to_owned()));
                assert_eq!(rest, before.conditions);
                // And it is said once.
                look.outputs.state = Output::Present { version: "9".to_owned(), value: said.clone() };
                assert!(decide(&look).writes.is_empty());
                look.record = world.look().record;
            }
            writes => panic!("{writes:?}"),
        }
    }
    let mut look = world.look();
    look.nodes = Seen::Unreadable("timeout".to_owned());
    let writes = decide(&look).writes;
    assert!(world.carry_out(&writes[0]));
    let decision = step(&mut world);
    assert_eq!(shown(&decision, ConditionType::Held), None);
}

#[test]
fn a_state_that_deckhouse_wrote_is_not_written_over_while_nothing_is_known() {
    let world = settled(proxy(1));
    let mut look = world.look();
    let Output::Present { value, .. } = &mut look.outputs.state else { panic!("{look:?}") };
    value.facts.clear();
    look.record = Output::Unreadable("timeout".to_owned());
    let decision = decide(&look);
    assert_eq!(held(&decision), "the record can't be read: timeout");
    assert!(decision.writes.is_empty());
}

#[test]
fn beside_deckhouses_own_module_nothing_is_written() {
    let mut world = settled(proxy(1));
    world.set(Params::Local);
    world.module_on = true;
    let decision = decide(&world.look());
    assert!(decision.writes.is_empty());
    assert_eq!(decision.figures.held, Some("module"));
    assert_eq!(held(&decision), "Deckhouse's own module registry is enabled, it writes these objects");
    let mut look = world.look();
    look.deckhouse_module = Seen::Unreadable("forbidden".to_owned());
    let decision = decide(&look);
    assert!(decision.writes.is_empty());
    assert_eq!(held(&decision), "whether Deckhouse's module registry is enabled can't be read: forbidden");
}

#[test]
fn an_input_that_is_lost_in_any_way_pauses_a_switch_and_another_is_not_taken() {
    let data = BTreeMap::from([("mode".to_owned(), b"Local".to_vec())]);
    let of_others = inputs::from_secret(&BTreeMap::new(), &data);
    for (lost, sentence) in [
        (Input::Absent, "Secret d8-registry-settings has vanished"),
        (of_others, "Secret d8-registry-settings has vanished"),
        (Input::Unreadable("forbidden".to_owned()), "Secret d8-registry-settings can't be read: forbidden"),
    ] {
        for steps in [0, 2, 5, 7, 30] {
            let mut world = settled(proxy(1));
            world.set(Params::Direct(upstream(0)));
            for _ in 0..steps {
                step(&mut world);
                everybody(&mut world);
            }
            let manual = std::mem::replace(&mut world.manual, lost.clone());
            let settings = Settings { params: Params::Local, check_mode: CheckMode::Default };
            world.module_config = Input::Valid { settings, generation: 4 };
            step(&mut world);
            let before = [world.mode_file.version, world.bashible.version, world.registry.version];
            for _ in 0..4 {
                let decision = step(&mut world);
                let (status, reason, message) = shown(&decision, ConditionType::InputLost).unwrap();
                assert!(status && reason == "Error");
                assert_eq!(
                    message,
                    format!(
                        "{sentence}; nothing changes until it is back, or another is chosen by d8-registry switch source"
                    )
                );
                assert_eq!(shown(&decision, ConditionType::InputSource).unwrap().1, "Manual");
                assert_eq!(decision.figures.held, Some("input"));
                everybody(&mut world);
            }
            assert_eq!([world.mode_file.version, world.bashible.version, world.registry.version], before);
            if steps == 2 {
                world.word = Some(Word::Source(InputSource::ModuleConfig));
                settle(&mut world);
                assert_eq!(world.record.value.unwrap().completed, Params::Local);
                continue;
            }
            world.manual = manual;
            let decision = settle(&mut world);
            assert_eq!(shown(&decision, ConditionType::InputLost), None);
            assert_eq!(world.record.value.unwrap().completed, Params::Direct(upstream(0)));
        }
    }
}

#[test]
fn a_garbled_record_is_put_together_again_and_a_garbled_state_written_anew() {
    for params in [Params::Direct(upstream(1)), proxy(1), Params::Local, Params::Unmanaged(Some(upstream(1)))] {
        let mut world = settled(params.clone());
        let before = world.clone();
        world.record.garble();
        settle(&mut world);
        assert_eq!(world.record.value.as_ref().unwrap().completed, params);
        world.state.garble();
        settle(&mut world);
        let state = world.state.value.as_ref().unwrap();
        assert_eq!((state.mode, state.target_mode), (params.target(), params.target()));
        assert_eq!(
            (world.bashible.version, world.registry.version),
            (before.bashible.version, before.registry.version)
        );
    }
}

#[test]
fn what_was_lost_together_with_the_record_is_not_guessed() {
    type Spoil = fn(&mut World);
    let losses: [(Spoil, &str); 6] = [
        (|world| world.state.garble(), "Secret registry-state: it is nonsense"),
        (|world| world.mode_file.garble(), "Secret d8-registry-mode can't be read: it is nonsense"),
        (
            |world| world.mode_file.set(None),
            "there is no Secret d8-registry-mode any more, and the server of master-0 holds one",
        ),
        (|world| world.registry.spoil(None), "there is no Secret deckhouse-registry"),
        (|world| world.registry.garble(), "Secret deckhouse-registry: it is nonsense"),
        (|world| world.bashible.spoil(None), "there is no Secret registry-bashible-config, and nodes were given one"),
    ];
    for (spoil, sentence) in losses {
        for lose in [World::lose_record as Spoil, |world| world.record.garble()] {
            let mut world = settled(proxy(1));
            let record = world.record.value.clone();
            lose(&mut world);
            spoil(&mut world);
            let decision = decide(&world.look());
            let why = held(&decision);
            assert!(why.ends_with(&format!("can't be made: {sentence}")), "{why}");
            assert_eq!(decision.figures.held, Some("record"));
            assert!(decision.writes.iter().all(|write| matches!(write.what, Content::State(_))));
            // A backup of the record mends all but what Deckhouse makes.
            world.record.set(record);
            world.deckhouse_makes_its_registry();
            settle(&mut world);
        }
    }
}

#[test]
fn a_record_that_is_lost_at_any_step_begins_nothing_and_fails_no_pull() {
    let modes = [Params::Direct(upstream(1)), proxy(0), Params::Local, Params::Unmanaged(Some(upstream(3)))];
    let modes: Vec<Params> = modes.into_iter().chain([Params::BARE]).collect();
    for from in &modes {
        for to in modes.iter().filter(|to| *to != from && (from, *to) != (&Params::Local, &Params::BARE)) {
            let mut world = settled(from.clone());
            world.set(to.clone());
            for round in 0.. {
                assert!(round < 60, "{from:?} to {to:?}");
                let decision = step(&mut world);
                let mut lost = world.clone();
                let before = lost.record.value.clone().unwrap();
                lost.lose_record();
                let mut is_held = false;
                for _ in 0..40 {
                    let decision = step(&mut lost);
                    is_held = decision.figures.held == Some("record");
                    if is_held || is_ready(&decision) && decision.writes.is_empty() {
                        break;
                    }
                    everybody(&mut lost);
                }
                if is_held {
                    lost.record.set(Some(before));
                    settle(&mut lost);
                } else {
                    let after = lost.record.value.as_ref().unwrap();
                    let known = [&before.completed, &before.target];
                    assert!(known.contains(&&after.target), "{from:?} to {to:?}: {after:?}\nbefore {before:?}");
                    assert!(!after.under_way && after.completed == after.target);
                    lost.word = Some(Word::Source(InputSource::Manual));
                    settle(&mut lost);
                }
                assert_eq!(&lost.record.value.as_ref().unwrap().completed, to);
                if is_ready(&decision) {
                    break;
                }
                everybody(&mut world);
            }
        }
    }
}

#[test]
fn what_was_taken_over_stays_taken_over_when_the_record_is_lost() {
    // Servers run Proxy since before there was a controller, and ModuleConfig says something else.
    let mut world = settled(proxy(1));
    let (file, users, ca) = (world.mode_file.clone(), world.users.clone(), world.ca.clone());
    world = World::new(1, 2);
    (world.mode_file, world.users, world.ca) = (file, users, ca);
    world.servers.values_mut().for_each(|server| server.file = world.mode_file.value.clone());
    for input in [Input::Absent, Input::Valid { settings: of(proxy(1)), generation: 2 }] {
        world.module_config = input;
        step(&mut world);
        assert!(world.record.value.as_ref().unwrap().adopted);
        for _ in 0..3 {
            world.lose_record();
            for _ in 0..3 {
                let decision = step(&mut world);
                let record = world.record.value.as_ref().unwrap();
                assert!(record.adopted && !record.under_way && record.completed == proxy(1));
                assert!(is_ready(&decision));
                everybody(&mut world);
            }
        }
    }
    assert!(world.bashible.value.is_none());
}

fn of(params: Params) -> Settings {
    Settings { params, check_mode: CheckMode::Default }
}

#[test]
fn bare_unmanaged_stays_bare_when_the_record_is_lost() {
    for first in [None, Some(proxy(1))] {
        let mut world = World::new(1, 1);
        if let Some(first) = first {
            world.set(first);
            settle(&mut world);
        }
        world.set(Params::BARE);
        settle(&mut world);
        let bashible = world.bashible.version;
        world.lose_record();
        settle(&mut world);
        assert_eq!(world.record.value.as_ref().unwrap().completed, Params::BARE);
        assert_eq!(world.bashible.version, bashible);
    }
}

#[test]
fn a_new_authority_is_never_made_behind_the_nodes_back() {
    // At every step from the one at which nodes were told to trust it.
    let mut world = settled(Params::Unmanaged(Some(upstream(1))));
    world.set(proxy(0));
    let mut tried = 0;
    for round in 0.. {
        assert!(round < 60);
        let decision = step(&mut world);
        if world.record.value.as_ref().unwrap().ca.is_some() {
            tried += 1;
            let mut lost = world.clone();
            lost.pki = false;
            for _ in 0..3 {
                let decision = step(&mut lost);
                assert_eq!(
                    held(&decision),
                    "Secret registry-pki is gone while nodes trust its authority; put it back from a backup"
                );
                assert_eq!(decision.figures.held, Some("authority"));
                everybody(&mut lost);
            }
            // Without the ConfigMap it is the same, and a third authority is none of theirs.
            lost.ca.set(None);
            step(&mut lost);
            assert!(!lost.pki && lost.ca.value.is_none());
            lost.pki = true;
            lost.ca.spoil(Some("another".to_owned()));
            let decision = decide(&lost.look());
            assert_eq!(
                held(&decision),
                "ConfigMap registry-ca has another authority than the one that nodes trust; put it back from a backup"
            );
            assert!(!decision.writes.iter().any(|write| matches!(write.what, Content::Bashible(_))));
            lost.ca.set(Some(CA.to_owned()));
            let decision = settle(&mut lost);
            assert_eq!(shown(&decision, ConditionType::Held), None);
        }
        if is_ready(&decision) {
            break;
        }
        everybody(&mut world);
    }
    assert!(tried > 6, "{tried}");
}

#[test]
fn an_authority_that_no_node_trusts_any_more_may_go_and_a_new_one_be_made() {
    let mut world = settled(proxy(1));
    world.set(Params::Unmanaged(Some(upstream(1))));
    settle(&mut world);
    world.pki = false;
    world.ca.set(None);
    let decision = settle(&mut world);
    assert_eq!(shown(&decision, ConditionType::Held), None);
    assert!(!world.pki);
    world.set(proxy(0));
    settle(&mut world);
    assert!(world.pki && world.ca.value.as_deref() != Some(CA));
}
