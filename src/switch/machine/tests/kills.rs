//! A controller that ends between any two of its writes, on the way to every target.

use std::collections::BTreeSet;

use super::walks::{everybody, is_ready, proxy, settle, settled};
use super::world::{World, upstream};
use crate::switch::machine::decide;
use crate::switch::settings::Params;
use crate::switch::write::{Content, Write};

const TARGETS: usize = 5;

fn target(number: usize) -> Params {
    match number {
        0 => Params::Direct(upstream(1)),
        1 => proxy(0),
        2 => Params::Local,
        3 => Params::Unmanaged(Some(upstream(3))),
        _ => Params::BARE,
    }
}

/// The word of an object that is written; those of users are one.
fn name(write: &Write) -> &'static str {
    match &write.what {
        Content::Record(_) => "record",
        Content::ModeFile(_) => "mode file",
        Content::Bashible(_) => "bashible",
        Content::DeckhouseRegistry(_) => "deckhouse-registry",
        Content::State(_) => "state",
        Content::NewUser(_) | Content::RestoreUser { .. } => "user",
        Content::NewAuthority => "authority",
        Content::Service(_) => "service",
        Content::PushIngress(_) => "push",
        Content::Masters(_) => "masters",
        Content::ForgetWord => "word",
    }
}

/// From a settled cluster to a target. At each step the controller is killed before each of its writes, in a world of its own
/// that then goes on to the end. Before which writes it was.
fn killed_everywhere(mut world: World, to: &Params) -> BTreeSet<&'static str> {
    world.set(to.clone());
    let mut killed_before = BTreeSet::new();
    for _ in 0..60 {
        let decision = decide(&world.look());
        world.ask_all(&decision);
        for (place, write) in decision.writes.iter().enumerate() {
            let mut other = world.clone();
            for done in &decision.writes[..place] {
                assert!(other.carry_out(done), "{done:?} was refused");
                other.every_node_can_pull().unwrap();
            }
            // What it had found out ends with it.
            other.questions.clear();
            other.images.clear();
            other.probes.clear();
            other.references.clear();
            // The others see what was written, before the next controller does.
            everybody(&mut other);
            settle(&mut other);
            let record = other.record.value.as_ref().unwrap();
            assert_eq!(&record.completed, to, "killed before {write:?}");
            assert!(record.plane.previous.is_empty() && record.plane.coming.is_none());
            killed_before.insert(name(write));
        }
        for write in &decision.writes {
            assert!(world.carry_out(write), "{write:?} was refused");
            world.every_node_can_pull().unwrap();
        }
        if is_ready(&decision) && decision.writes.is_empty() {
            return killed_before;
        }
        everybody(&mut world);
    }
    panic!("to {to:?}: {:?}", decide(&world.look()).conditions);
}

#[test]
fn killed_between_any_two_writes_a_controller_goes_on_to_every_target() {
    for to in 0..TARGETS {
        let mut before = BTreeSet::new();
        for from in (0..TARGETS).filter(|from| *from != to) {
            // There is no way from Local to bare Unmanaged.
            if (from, to) != (2, 4) {
                before.extend(killed_everywhere(settled(target(from)), &target(to)));
            }
        }
        // The first managed mode of a cluster makes users too.
        before.extend(killed_everywhere(World::new(1, 2), &target(to)));
        let mut wanted = BTreeSet::from(["record", "state", "masters", "bashible", "deckhouse-registry"]);
        wanted.extend(["mode file", "service"]);
        if target(to).is_managed() {
            wanted.insert("user");
        }
        // From Local, or to it.
        if target(to) != Params::BARE {
            wanted.insert("push");
        }
        assert!(before.is_superset(&wanted), "to {:?}: no kill before {:?}", target(to), &wanted - &before);
    }
}
