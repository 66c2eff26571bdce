//! What may not be done before something else was: phases of servers, Local's images, the record before outputs.

use super::walks::{everybody, is_ready, proxy, settle, settled, shown, step};
use super::world::{World, upstream, user};
use crate::switch::conditions::ConditionType;
use crate::switch::documents::{Phase, Plane};
use crate::switch::inputs::ChartValues;
use crate::switch::machine::decide;
use crate::switch::observed::Output;
use crate::switch::settings::{Params, Target};
use crate::switch::write::{Content, ImagesAt, Question, Write};
use crate::values::Role;

fn plane(world: &World) -> Plane {
    world.mode_file.value.as_ref().unwrap().file.plane.clone()
}

/// Whether servers may go from one file to the next.
fn follows(before: &Plane, after: &Plane) -> bool {
    let stays = before.in_force == after.in_force;
    match (&before.coming, &after.coming) {
        (None, None) => stays,
        (None, Some(coming)) => stays && coming.phase == Phase::Filling,
        (Some(old), Some(new)) => {
            stays && old.mode == new.mode && (old.phase, new.phase) == (Phase::Filling, Phase::Ready)
        }
        (Some(old), None) => {
            old.phase == Phase::Ready && after.in_force == old.mode && after.previous.contains(&before.in_force)
        }
    }
}

#[test]
fn servers_go_from_phase_to_phase_and_all_have_reported_the_one_before() {
    let modes = [Params::Direct(upstream(0)), proxy(1), Params::Local];
    for from in &modes {
        for to in modes.iter().filter(|to| *to != from) {
            let mut world = World::new(3, 1);
            world.set(from.clone());
            settle(&mut world);
            world.set(to.clone());
            let masters: Vec<String> = world.servers.keys().cloned().collect();
            let (mut changes, mut reached) = (0, false);
            for round in 0..200 {
                let before = world.mode_file.value.clone().unwrap();
                let all_have_it = world.servers.values().all(|server| server.file.as_ref() == Some(&before));
                let decision = step(&mut world);
                let after = plane(&world);
                if after != before.file.plane {
                    assert!(follows(&before.file.plane, &after), "{:?} to {after:?}", before.file.plane);
                    let begins = before.file.plane.coming.is_none() && after.coming.is_some();
                    assert!(all_have_it || begins, "{:?} to {after:?}", before.file.plane);
                    changes += 1;
                }
                if is_ready(&decision) && decision.writes.is_empty() && plane(&world).previous.is_empty() {
                    reached = true;
                    break;
                }
                // One server after the other, and each long after the rest of the cluster.
                let held: Vec<_> = masters.iter().map(|name| (name, world.servers[name].file.clone())).collect();
                everybody(&mut world);
                for (place, (name, file)) in held.into_iter().enumerate() {
                    if place != round % masters.len() {
                        let server = world.servers.get_mut(name).unwrap();
                        (server.reported, server.file) = (file.clone(), file);
                    }
                }
            }
            assert!(reached, "{from:?} to {to:?}: {:?}", decide(&world.look()).conditions);
            assert_eq!(changes, 4, "filling, ready, in force, alone");
        }
    }
}

#[test]
fn local_is_neither_in_force_nor_given_to_nodes_while_one_master_lacks_an_image() {
    let mut world = World::new(2, 1);
    world.set(proxy(1));
    settle(&mut world);
    let (bashible, registry) = (world.bashible.version, world.registry.version);
    world.set(Params::Local);
    let late = world.servers.keys().next().unwrap().clone();
    for _ in 0..20 {
        let decision = step(&mut world);
        for question in &decision.questions {
            if let Question::Images { at, .. } = question {
                let ImagesAt::Masters(masters) = at else { panic!("{at:?}") };
                assert_eq!(masters.len(), 2);
            }
        }
        everybody(&mut world);
        world.servers.get_mut(&late).unwrap().stored.clear();
    }
    let decision = step(&mut world);
    assert!(!shown(&decision, ConditionType::RegistryContainsRequiredImages).unwrap().0);
    assert_eq!(plane(&world).in_force.target(), Target::Proxy);
    assert_eq!(plane(&world).coming.map(|coming| coming.phase), Some(Phase::Filling));
    assert_eq!((world.bashible.version, world.registry.version), (bashible, registry));
    settle(&mut world);
    assert_eq!(plane(&world).in_force.target(), Target::Local);
}

/// The object that a write changes, as its resource version is now; `None`: it has no lock of its own.
fn version(world: &World, what: &Content) -> Option<u64> {
    Some(match what {
        Content::Record(_) => world.record.version,
        Content::ModeFile(_) => world.mode_file.version,
        Content::Bashible(_) => world.bashible.version,
        Content::DeckhouseRegistry(_) => world.registry.version,
        Content::State(_) => world.state.version,
        Content::Service(_) => world.service.version,
        Content::PushIngress(_) => world.ingress.version,
        Content::Masters(_) => world.masters.version,
        Content::NewUser(role) | Content::RestoreUser { role, .. } => world.users[role].version,
        Content::NewAuthority | Content::ForgetWord => return None,
    })
}

#[track_caller]
fn assert_fenced(world: &World, writes: &[Write]) {
    let is_output = |write: &Write| !matches!(write.what, Content::Record(_) | Content::State(_) | Content::ForgetWord);
    if writes.iter().any(is_output) {
        assert!(matches!(writes[0].what, Content::Record(_)), "{writes:?}");
    }
    for write in writes.iter().filter(|write| !write.base.is_empty()) {
        assert_eq!(version(world, &write.what).map(|version| version.to_string()), Some(write.base.clone()));
    }
}

#[test]
fn the_record_is_written_before_any_output_and_each_write_names_what_was_seen() {
    let mut world = settled(proxy(1));
    for params in [Params::Local, Params::Direct(upstream(0)), Params::Unmanaged(Some(upstream(1)))] {
        world.set(params);
        let mut outputs = 0;
        for _ in 0..60 {
            let decision = decide(&world.look());
            assert_fenced(&world, &decision.writes);
            outputs += decision.writes.len();
            step(&mut world);
            everybody(&mut world);
        }
        assert!(outputs > 10);
    }
    // Nothing is remembered anew, and who holds an older record must not put an output back.
    let mut world = settled(proxy(1));
    let mut edited = world.bashible.value.clone().unwrap();
    edited.version = "edited".to_owned();
    world.bashible.set(Some(edited));
    let decision = decide(&world.look());
    let Content::Record(record) = &decision.writes[0].what else { panic!("{:?}", decision.writes) };
    assert_eq!(Some(&**record), world.record.value.as_ref());
    assert_fenced(&world, &decision.writes);
    assert!(decision.writes.iter().any(|write| matches!(write.what, Content::Bashible(_))));
}

#[test]
fn a_server_with_an_older_user_has_not_reported_whatever_its_mode_file() {
    let mut world = settled(Params::Direct(upstream(1)));
    let masters: Vec<String> = world.servers.keys().cloned().collect();
    world.set(Params::Local);
    step(&mut world);
    masters.iter().for_each(|name| world.reload(name));
    world.users.get_mut(&Role::Rw).unwrap().set(Some(user(Role::Rw, "another")));
    let decision = step(&mut world);
    let (status, _, message) = shown(&decision, ConditionType::NodeServicesReady).unwrap();
    assert!(!status && message.contains("the server has an older Secret registry-user-rw"), "{message}");
    masters.iter().for_each(|name| world.reload(name));
    let decision = step(&mut world);
    assert!(shown(&decision, ConditionType::NodeServicesReady).unwrap().0, "{:?}", decision.conditions);
}

#[test]
fn values_of_the_chart_that_are_not_followed_are_shown_and_change_nothing() {
    let world = settled(proxy(1));
    let chart = |mode, number: Option<u8>| {
        let mut look = world.look();
        let value = ChartValues { mode, upstream: number.map(upstream) };
        look.inputs.chart = Output::Present { version: String::new(), value };
        let decision = decide(&look);
        assert_eq!(decision.writes.iter().filter(|write| !matches!(write.what, Content::State(_))).count(), 0);
        assert!(is_ready(&decision));
        let shown = shown(&decision, ConditionType::ChartValuesDiffer);
        shown.map(|(status, reason, message)| {
            assert_eq!((status, reason.as_str()), (true, "Differ"));
            assert!(!message.contains("password-of-"), "{message}");
            message
        })
    };
    assert_eq!(chart(Target::Proxy, Some(1)), None);
    // The chart names a Secret, or has a mode without an upstream.
    assert_eq!(chart(Target::Proxy, None), None);
    let other = chart(Target::Direct, Some(2)).unwrap();
    for line in
        ["mode is Direct, the controller goes by Proxy", "upstream.imagesRepo is a.example/deckhouse/ee", "license"]
    {
        assert!(other.contains(line), "{line}: {other}");
    }
    assert!(chart(Target::Local, None).unwrap().contains("mode is Local"));
}
