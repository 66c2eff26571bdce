//! Several masters, each with a server of its own; clients come to another one at each request.

use d8_registry::switch::{ConditionType, Target};

use super::release::a_layer;
use super::wanted::Wanted;
use super::world::World;

/// Condition RegistryContainsRequiredImages, when the images were pushed to two of the masters.
const THIRD_LACKS_ALL: &str =
    "master-0: all 2 items are checked\nmaster-1: all 2 items are checked\nmaster-2: 0 of 2 items processed";
const TWO_ARE_WHOLE: &str = "master-0: all 2 items are checked\nmaster-1: all 2 items are checked\n";
const MASTERS: &[&str] = &["master-0", "master-1", "master-2"];

/// Each newer mode file comes to one of the servers, in turn another one, only after every node has pulled in between.
async fn switch_with_a_server_behind(world: &World, wanted: Wanted) {
    *world.roles.lag.lock().unwrap() = Some(0);
    world.want(wanted).await;
    let mut phases = 0;
    loop {
        world
            .until(&format!("a server is behind on the way to {wanted:?}"), || async {
                world.roles.is_behind() || world.is_reached(wanted).await
            })
            .await;
        if !world.roles.is_behind() {
            break;
        }
        let before = world.roles.mode_file.lock().unwrap().clone();
        world.assert_pulled().await;
        let now = world.roles.mode_file.lock().unwrap().clone();
        assert!(now == before, "a phase began before every server had reported the one before it");
        world.roles.catch_up();
        phases += 1;
    }
    assert!(phases > 2, "{phases} phases on the way to {wanted:?}");
    *world.roles.lag.lock().unwrap() = None;
    world.assert_pulled().await;
}

pub(super) async fn servers_that_change_at_different_times_fail_no_pull() {
    let mut world = World::start(MASTERS, &["worker-0", "plain-0"]).await;
    world.control(0);
    world.switch(Wanted::Direct(0)).await;
    switch_with_a_server_behind(&world, Wanted::Proxy(1)).await;
}

pub(super) async fn a_switch_to_local_waits_for_the_images_of_every_master() {
    // Those that know each other give each other what one lacks.
    let mut world = World::start_apart(MASTERS, &["worker-0", "plain-0"]).await;
    world.control(0);
    world.switch(Wanted::Proxy(0)).await;
    world.want(Wanted::Local).await;
    world.until_condition(Target::Local, ConditionType::NodeServicesReady, true).await;
    let hosts = world.hosts();
    for host in &hosts[..2] {
        world.push(host).await;
    }
    let kind = ConditionType::RegistryContainsRequiredImages;
    world
        .until("only the third master's images are missing", || async {
            let condition = world.condition(kind).await.filter(|condition| !condition.status);
            condition.is_some_and(|condition| condition.message.contains(THIRD_LACKS_ALL))
        })
        .await;
    world.assert_pulled().await;
    // Every manifest is on the third master, and of one image a layer is not.
    world.roles.servers.lock().unwrap()[2].configure("manifests: {missingReferences: allow}");
    world.push_without(&hosts[2], &a_layer()).await;
    world
        .until("only a layer is missing", || async {
            let condition = world.condition(kind).await.filter(|condition| !condition.status);
            condition.is_some_and(|condition| {
                condition.message.contains(TWO_ARE_WHOLE) && condition.message.contains(&a_layer())
            })
        })
        .await;
    assert_eq!(world.fact("servers").await, "Proxy in force, Local filling");
    world.assert_pulled().await;
    world.push(&hosts[2]).await;
    world.reach(Wanted::Local).await;
    world.assert_pulled().await;
    for wanted in [Wanted::Proxy(1), Wanted::Direct(1)] {
        switch_with_a_server_behind(&world, wanted).await;
    }
    world.switch(Wanted::Bare).await;
}
