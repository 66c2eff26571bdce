//! The way back from every step, and the one that there is not.

use super::walks::{everybody, is_ready, proxy, settle, settled, shown, step};
use super::world::{World, upstream};
use crate::switch::conditions::ConditionType;
use crate::switch::settings::Params;

/// The cluster after each step of a switch that changed something, the first one and the end among them.
pub(super) fn steps(from: &Params, to: &Params) -> Vec<World> {
    let mut world = settled(from.clone());
    world.set(to.clone());
    let mut worlds = vec![world.clone()];
    for _ in 0..60 {
        let decision = step(&mut world);
        if !decision.writes.is_empty() {
            worlds.push(world.clone());
        }
        if is_ready(&decision) {
            return worlds;
        }
        everybody(&mut world);
    }
    panic!("{from:?} to {to:?}: {:?}", world.state.value);
}

#[test]
fn the_old_mode_set_at_any_step_walks_back() {
    let modes =
        [Params::Direct(upstream(1)), proxy(0), Params::Local, Params::Unmanaged(Some(upstream(3))), Params::BARE];
    for from in &modes {
        for to in modes.iter().filter(|to| *to != from) {
            if (from, to) == (&Params::Local, &Params::BARE) {
                continue;
            }
            let worlds = steps(from, to);
            assert!(worlds.len() > 1, "{from:?} to {to:?}");
            let last = worlds.len() - 1;
            for (place, mut world) in worlds.into_iter().enumerate() {
                if place == last && (to, from) == (&Params::Local, &Params::BARE) {
                    continue;
                }
                let registry = world.registry.value.clone();
                world.set(from.clone());
                settle(&mut world);
                let record = world.record.value.as_ref().unwrap();
                assert_eq!(&record.completed, from, "{to:?} at step {place}");
                assert!(record.plane.previous.is_empty() && record.plane.coming.is_none());
                if place == 0 {
                    assert_eq!(world.registry.value, registry, "nothing had been done yet");
                }
            }
        }
    }
}

#[test]
fn from_local_to_bare_unmanaged_there_is_no_way_at_any_step_of_another_switch() {
    for to in [Params::Direct(upstream(1)), proxy(0), Params::Unmanaged(Some(upstream(1)))] {
        let worlds = steps(&Params::Local, &to);
        let last = worlds.len() - 1;
        for (place, mut world) in worlds.into_iter().enumerate().filter(|(place, _)| *place < last) {
            world.set(Params::BARE);
            // Outputs of the step before may still have to be written.
            let before = world.record.value.clone().unwrap();
            for _ in 0..3 {
                let decision = step(&mut world);
                let (status, reason, message) = shown(&decision, ConditionType::ErrTransitionNotSupported).unwrap();
                assert!(status && reason == "Error");
                assert_eq!(message, "mode transition from Local to Unmanaged not supported", "{to:?} at step {place}");
                assert_eq!(decision.figures.held, Some("transition"));
                let ready = shown(&decision, ConditionType::Ready).unwrap();
                assert_eq!(ready, (false, "Processing".to_owned(), "Transitioning to Unmanaged".to_owned()));
                everybody(&mut world);
            }
            let after = world.record.value.as_ref().unwrap();
            assert_eq!((&after.plane, &after.nodes, &after.target), (&before.plane, &before.nodes, &before.target));
            world.set(to.clone());
            let decision = settle(&mut world);
            assert_eq!(shown(&decision, ConditionType::ErrTransitionNotSupported), None);
            assert_eq!(world.record.value.unwrap().completed, to);
        }
    }
}

#[test]
fn a_coming_mode_stays_behind_only_where_nodes_were_given_it() {
    let (mut early, mut late) = (0, 0);
    for mut world in steps(&proxy(0), &Params::Direct(upstream(1))) {
        let record = world.record.value.clone().unwrap();
        let given = record.nodes.with == Some(Params::Direct(upstream(1)));
        if record.plane.coming.is_none() {
            continue;
        }
        world.set(proxy(0));
        step(&mut world);
        let plane = &world.record.value.as_ref().unwrap().plane;
        assert_eq!((&plane.in_force, &plane.coming), (&record.plane.in_force, &None));
        assert_eq!(plane.previous.len(), usize::from(given));
        *(if given { &mut late } else { &mut early }) += 1;
    }
    assert!(early > 1 && late > 0, "{early} {late}");
}

#[test]
fn a_coming_mode_that_nodes_were_given_stays_behind_when_the_record_is_lost() {
    for world in steps(&Params::Local, &Params::Direct(upstream(0))) {
        for steps in 1..4 {
            let mut world = world.clone();
            world.lose_record();
            world.set(Params::Local);
            for _ in 0..steps {
                step(&mut world);
                world.now += 31_000;
                world.find_out();
            }
            world.set(proxy(1));
            settle(&mut world);
            assert_eq!(world.record.value.unwrap().completed, proxy(1));
        }
    }
}

#[test]
fn a_target_that_is_changed_back_and_forth_leaves_each_mode_behind_once() {
    let mut world = settled(Params::Direct(upstream(0)));
    let targets = [proxy(1), Params::Local, Params::Direct(upstream(0)), proxy(1), proxy(2), Params::Local, proxy(1)];
    // Changed when it is in force, and when nodes were given it while it comes.
    for (in_force, target) in
        targets.iter().map(|target| (true, target)).chain(targets.iter().map(|target| (false, target)))
    {
        world.set(target.clone());
        for _ in 0..40 {
            step(&mut world);
            let record = world.record.value.as_ref().unwrap();
            let plane = &record.plane;
            let mut all: Vec<_> = plane.previous.iter().chain([&plane.in_force]).collect();
            while let Some(mode) = all.pop() {
                assert!(!all.contains(&mode), "{plane:?}");
            }
            let given = record.nodes.with.as_ref() == Some(target);
            if given
                && (plane.coming.is_some() || plane.in_force.target() == target.target())
                && (!in_force || plane.coming.is_none())
            {
                break;
            }
            everybody(&mut world);
        }
    }
    assert!(world.record.value.as_ref().unwrap().plane.previous.len() > 1);
    settle(&mut world);
    assert!(world.record.value.unwrap().plane.previous.is_empty());
}

#[test]
fn the_registry_of_before_is_the_way_back_to_bare_unmanaged_and_local_has_none() {
    let mut world = settled(proxy(1));
    for (target, way_back) in [
        (Params::Direct(upstream(2)), Some(upstream(2))),
        (Params::Local, None),
        (Params::Unmanaged(Some(upstream(3))), Some(upstream(3))),
        (Params::BARE, None),
    ] {
        world.set(target);
        settle(&mut world);
        assert_eq!(world.record.value.as_ref().unwrap().fallback, way_back);
    }
    assert_eq!(world.registry.value.unwrap().upstream().unwrap(), Some(upstream(3)));
}
