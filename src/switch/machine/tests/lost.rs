//! A record that is lost in the middle of a switch: what it is put together from.

use super::undo::steps;
use super::walks::{everybody, proxy, settle, step};
use super::world::upstream;
use crate::switch::settings::Params;

#[test]
fn the_completed_registry_is_found_among_what_servers_and_nodes_have() {
    let mut found = 0;
    for (from, to) in [
        // In force is an abandoned target of the same mode, or Deckhouse is pointed elsewhere already.
        (proxy(1), proxy(0)),
        (Params::Direct(upstream(1)), Params::Direct(upstream(0))),
        (Params::Unmanaged(Some(upstream(1))), proxy(0)),
        (Params::Unmanaged(Some(upstream(1))), Params::Unmanaged(Some(upstream(0)))),
    ] {
        for mut world in steps(&from, &to) {
            let before = world.record.value.clone().unwrap();
            if !before.under_way || before.plane.previous.is_empty() && before.nodes.kept.is_empty() {
                continue;
            }
            world.lose_record();
            step(&mut world);
            let after = world.record.value.clone().unwrap();
            assert_eq!((&after.completed, after.under_way), (&from, true), "to {to:?}");
            found += 1;
            settle(&mut world);
        }
    }
    assert!(found > 12, "{found}");
}

#[test]
fn hosts_that_only_mirrors_of_nodes_name_are_looked_for_before_they_go() {
    let (from, to) = (Params::Unmanaged(Some(upstream(3))), Params::Unmanaged(Some(upstream(0))));
    for mut world in steps(&from, &to) {
        world.lose_record();
        world.state.spoil(None);
        world.set(Params::Direct(upstream(0)));
        // Nobody renders anything anew, so pods go on to name what they did, and each step asks whether they can be pulled.
        for _ in 0..20 {
            step(&mut world);
            world.now += 61_000;
            world.find_out();
            for name in ["master-0", "worker-0", "worker-1"] {
                world.apply(name);
                world.reload(name);
            }
            world.every_node_can_pull().unwrap();
        }
        everybody(&mut world);
        settle(&mut world);
    }
}
