//! First looks: what a cluster has when the controller comes begins nothing, what it is given after that is an order.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::walks::{everybody, proxy, settle, shown, step};
use super::world::{World, upstream};
use crate::switch::conditions::ConditionType;
use crate::switch::documents::RegistryState;
use crate::switch::machine::decide;
use crate::switch::observed::{Input, Word};
use crate::switch::record::InputSource;
use crate::switch::settings::{Params, Target};
use crate::switch::write::{Content, Decision};

fn source(decision: &Decision) -> String {
    shown(decision, ConditionType::InputSource).unwrap().2
}

/// Nothing is switched to, however long it goes on; the last decision.
#[track_caller]
fn stays_taken_over(world: &mut World) -> Decision {
    for _ in 0..5 {
        step(world);
        everybody(world);
    }
    assert!(world.record.value.as_ref().is_some_and(|record| record.adopted && !record.under_way));
    assert!(world.bashible.value.is_none() && world.mode_file.value.is_none());
    step(world)
}

/// Deckhouse's own module has written its state.
fn deckhouse_writes_its_state(world: &mut World) {
    let (mode, target_mode) = (Target::Unmanaged, Target::Unmanaged);
    world.state.set(Some(RegistryState { mode, target_mode, facts: Vec::new(), conditions: Vec::new() }));
}

#[test]
fn a_first_start_begins_no_switch_by_itself() {
    let mut world = World::new(1, 1);
    world.module_config = World::asks(proxy(1));
    let decision = stays_taken_over(&mut world);
    assert!(source(&decision).ends_with("Change it, or say: d8-registry switch source moduleconfig"));
    world.module_config = World::asks(proxy(3));
    settle(&mut world);
    assert_eq!(world.record.value.unwrap().completed, proxy(3));
}

#[test]
fn what_a_module_config_without_settings_is_given_is_an_order() {
    type Between = fn(&mut World);
    let between: [Between; 6] = [
        |_| {},
        World::lose_record,
        |world| world.record.garble(),
        |world| world.state.garble(),
        // It can't be read for a while, or is made anew.
        |world| world.module_config = Input::Unreadable("timeout".to_owned()),
        |world| world.module_config = Input::Absent,
    ];
    for happens in between {
        for looks_again in [false, true] {
            let mut world = World::new(1, 1);
            world.module_config = Input::Unset;
            let decision = stays_taken_over(&mut world);
            assert!(source(&decision).ends_with("those that it is given are followed"), "{}", source(&decision));
            happens(&mut world);
            if looks_again {
                stays_taken_over(&mut world);
            }
            world.module_config = World::asks(proxy(1));
            let decision = settle(&mut world);
            let record = world.record.value.as_ref().unwrap();
            assert_eq!((&record.completed, record.unset_seen, record.source_chosen), (&proxy(1), false, false));
            assert_eq!(source(&decision), "ModuleConfig deckhouse is the input");
            assert!(!world.state.value.unwrap().facts.iter().any(|(name, _)| name == "unsetSeen"));
        }
    }
}

#[test]
fn an_order_that_waits_is_one_when_the_record_is_lost() {
    let mut world = World::new(1, 1);
    world.module_config = Input::Unset;
    step(&mut world);
    world.bootstrapped = false;
    world.module_config = World::asks(proxy(1));
    stays_taken_over(&mut world);
    world.lose_record();
    stays_taken_over(&mut world);
    world.bootstrapped = true;
    settle(&mut world);
    assert_eq!(world.record.value.unwrap().completed, proxy(1));
}

#[test]
fn settings_that_were_taken_away_and_are_given_again_are_an_order() {
    let mut world = World::new(1, 1);
    world.module_config = World::asks(proxy(1));
    stays_taken_over(&mut world);
    world.module_config = Input::Unset;
    let decision = stays_taken_over(&mut world);
    let (_, _, message) = shown(&decision, ConditionType::InputLost).unwrap();
    assert!(message.starts_with("section registry of ModuleConfig deckhouse has vanished; "), "{message}");
    world.module_config = World::asks(proxy(1));
    settle(&mut world);
    assert_eq!(world.record.value.unwrap().completed, proxy(1));
}

/// Each shows nothing of what was there before.
#[test]
fn what_shows_nothing_makes_no_order_of_what_is_found_next() {
    type First = fn(&mut World);
    let firsts: [First; 8] = [
        |world| world.module_config = Input::Unreadable("forbidden".to_owned()),
        |world| world.module_config = Input::Absent,
        // Objects come in any order while the cluster is bootstrapped.
        |world| (world.module_config, world.bootstrapped) = (Input::Unset, false),
        // The record is one of a program that did not look for it, and so is what it showed.
        |world| {
            world.module_config = Input::Unset;
            step(world);
            let mut record = world.record.value.clone().unwrap();
            record.unset_seen = false;
            world.record.set(Some(record));
            let mut state = world.state.value.clone().unwrap();
            state.facts.retain(|(name, _)| name != "unsetSeen");
            world.state.set(Some(state));
            world.module_config = Input::Absent;
        },
        // What is shown is gone, with the record or without: whoever took it away may have run meanwhile.
        |world| {
            world.module_config = Input::Unset;
            step(world);
            world.lose_record();
            world.state.set(None);
            world.module_config = Input::Absent;
        },
        |world| {
            world.module_config = Input::Unset;
            step(world);
            world.state.set(None);
            world.module_config = Input::Absent;
        },
        // What was said meanwhile was said to Deckhouse's own module.
        |world| {
            world.module_config = Input::Unset;
            step(world);
            deckhouse_writes_its_state(world);
            world.module_config = Input::Absent;
        },
        |world| {
            world.module_config = World::asks(proxy(3));
            step(world);
            deckhouse_writes_its_state(world);
            world.module_config = Input::Absent;
        },
    ];
    for (place, first) in firsts.into_iter().enumerate() {
        let mut world = World::new(1, 1);
        first(&mut world);
        stays_taken_over(&mut world);
        world.bootstrapped = true;
        world.module_config = World::asks(proxy(1));
        let decision = stays_taken_over(&mut world);
        assert!(source(&decision).contains("d8-registry switch source moduleconfig"), "{place}: {}", source(&decision));
        // The command that is named takes it.
        world.word = Some(Word::Source(InputSource::ModuleConfig));
        settle(&mut world);
        assert_eq!(world.record.value.unwrap().completed, proxy(1), "{place}");
    }
}

#[test]
fn that_a_module_config_cannot_be_read_is_said() {
    let mut world = World::new(1, 1);
    world.module_config = Input::Unreadable("forbidden".to_owned());
    let decision = stays_taken_over(&mut world);
    assert!(source(&decision).ends_with(". ModuleConfig deckhouse can't be read: forbidden"), "{}", source(&decision));
}

/// What happens before anything was switched.
#[derive(Clone, Debug)]
enum Event {
    /// ModuleConfig is this now.
    Is(Input),
    /// The controller looks, and ends after so many writes.
    Looks(usize),
    /// What it has written of both is gone or nonsense.
    Loses { record: bool, state: bool, garbled: bool },
    /// Deckhouse's own module is turned on and writes, and is off again.
    DeckhousesTurn,
    /// The cluster is bootstrapped, or is not.
    Bootstrapped(bool),
    /// The Secret that goes before ModuleConfig can be read, or not.
    FirstInput(bool),
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        3 => Just(Input::Unset),
        1 => Just(Input::Absent),
        1 => Just(Input::Unreadable("timeout".to_owned())),
        1 => Just(Input::Invalid { problems: vec!["wrong".to_owned()], generation: 1 }),
        3 => (0..3_u8).prop_map(|number| World::asks(proxy(number))),
        1 => Just(World::asks(Params::Local)),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => input().prop_map(Event::Is),
        5 => prop_oneof![Just(usize::MAX), 0..3_usize].prop_map(Event::Looks),
        1 => any::<[bool; 3]>().prop_map(|[record, state, garbled]| Event::Loses { record, state, garbled }),
        1 => Just(Event::DeckhousesTurn),
        1 => prop::bool::weighted(0.7).prop_map(Event::Bootstrapped),
        1 => prop::bool::weighted(0.7).prop_map(Event::FirstInput),
    ]
}

/// What the one who watches knows, who has no record to read.
#[derive(Debug, Default)]
struct Watch {
    /// Looks that may be remembered.
    seen: Vec<Input>,
    /// A look at a ModuleConfig without settings was written down whole, and nothing of that was lost.
    is_order: bool,
}

impl Watch {
    /// The controller looks at this and writes so much of what it decides.
    fn looks(&mut self, world: &mut World, writes: usize) {
        let look = world.look();
        let decision = decide(&look);
        world.ask_all(&decision);
        let done = decision.writes.iter().take(writes).take_while(|write| world.carry_out(write)).count();
        let shows = !matches!(world.module_config, Input::Unset) || world.bootstrapped;
        if decision.figures.held.is_none() && shows {
            self.seen.push(world.module_config.clone());
        }
        if world.module_config == Input::Unset
            && world.bootstrapped
            && decision.figures.held != Some("record")
            && done == decision.writes.len()
        {
            self.is_order = true;
        }
    }

    fn happens(&mut self, world: &mut World, event: &Event) {
        match event {
            Event::Is(input) => world.module_config = input.clone(),
            Event::Looks(writes) => self.looks(world, *writes),
            Event::Loses { record, state, garbled } => {
                match (record, garbled) {
                    (true, true) => world.record.garble(),
                    (true, false) => world.lose_record(),
                    (false, _) => {}
                }
                if *state {
                    // The record alone does not say who has run since.
                    world.state.set(None);
                    *self = Self::default();
                }
            }
            Event::DeckhousesTurn => {
                deckhouse_writes_its_state(world);
                *self = Self::default();
            }
            Event::Bootstrapped(is_so) => world.bootstrapped = *is_so,
            Event::FirstInput(is_readable) => {
                world.manual = if *is_readable { Input::Absent } else { Input::Unreadable("timeout".to_owned()) };
            }
        }
    }

    /// Law: a switch is one to settings that were not there from the first look on.
    fn nothing_begins_by_itself(&self, world: &World) -> Result<(), TestCaseError> {
        let Some(record) = world.record.value.as_ref().filter(|record| !record.adopted) else { return Ok(()) };
        let asked = World::asks(record.target.clone());
        let is_other = |input: &Input| match input {
            Input::Unset | Input::Invalid { .. } => true,
            Input::Valid { .. } => *input != asked,
            Input::Absent | Input::Unreadable(_) => false,
        };
        prop_assert!(self.seen.iter().any(is_other), "{:?} begins; seen {:?}", record.target, self.seen);
        Ok(())
    }
}

proptest! {
    /// Law: nothing that was there at a first look is switched to. Law: what a ModuleConfig is given that was seen without settings
    /// is reached.
    #[test]
    fn orders_are_followed_and_what_was_there_is_none(
        events in prop::collection::vec(event(), 0..14),
        last in (1..4_u8).prop_map(|number| Params::Direct(upstream(number))),
    ) {
        let mut world = World::new(1, 1);
        let mut watch = Watch::default();
        for event in &events {
            watch.happens(&mut world, event);
            watch.nothing_begins_by_itself(&world)?;
            if world.record.value.as_ref().is_some_and(|record| !record.adopted) {
                return Ok(());
            }
        }
        (world.bootstrapped, world.manual) = (true, Input::Absent);
        world.module_config = World::asks(last.clone());
        if watch.is_order {
            settle(&mut world);
            prop_assert_eq!(&world.record.value.as_ref().unwrap().completed, &last);
        } else {
            watch.looks(&mut world, usize::MAX);
            watch.nothing_begins_by_itself(&world)?;
        }
    }
}

#[test]
fn a_record_says_only_before_the_first_switch_what_was_seen() {
    let mut world = World::new(1, 1);
    world.module_config = Input::Unset;
    world.set(proxy(1));
    for _ in 0..40 {
        let decision = decide(&world.look());
        world.ask_all(&decision);
        for write in &decision.writes {
            // Else a program of before, which does not know it, would have to put a record together in the middle of a switch.
            if let Content::Record(record) = &write.what {
                assert!(record.adopted || !record.unset_seen);
            }
            assert!(world.carry_out(write));
        }
        everybody(&mut world);
    }
    assert_eq!(world.record.value.unwrap().completed, proxy(1));
}
