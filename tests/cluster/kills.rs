//! The controller is killed between two writes, and its writes are refused.

use std::cell::Cell;
use std::collections::BTreeSet;

use d8_registry::switch::ConditionType;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api as Objects;
use kube::api::PostParams;
use serde_json::json;

use super::api::{NAMESPACE, client};
use super::cases::{MASTER, WORKERS};
use super::gate::Gate;
use super::objects;
use super::wanted::Wanted;
use super::world::World;

/// All that the controller writes on the way from bare Unmanaged to Local.
const OUTPUTS: [&str; 12] = [
    "d8-registry-masters",
    "d8-registry-mode",
    "d8-registry-switch",
    "deckhouse-registry",
    "registry",
    "registry-bashible-config",
    "registry-push",
    "registry-state",
    "registry-user-mirror-puller",
    "registry-user-mirror-pusher",
    "registry-user-ro",
    "registry-user-rw",
];
/// What the way to every mode from another one writes. `deckhouse-registry` is not among it: from one upstream to another it stays.
const EACH: [&str; 4] = ["d8-registry-switch", "d8-registry-mode", "registry-bashible-config", "registry-state"];
/// More lives than any switch has writes.
const LIVES: usize = 200;
/// In one of so many lives writes of `registry-state` count too. Not in all: what a controller finds out ends with it, so one
/// that never comes to more than saying that it begins would go on for ever.
const STATE_EACH: usize = 5;

async fn with_gate() -> (World, Gate) {
    let mut world = World::start(MASTER, &["worker-0", "plain-0"]).await;
    let gate = Gate::open(&world.setup.kubeconfig).await;
    world.setup.kubeconfig.clone_from(&gate.kubeconfig);
    (world, gate)
}

/// Goes to a mode with a controller that is killed at one of its next writes, again and again: `most` of them pass in one of its
/// lives, one less in the next. Sometimes those of the state count too.
async fn switch_with_kills(world: &mut World, gate: &Gate, wanted: Wanted, most: usize) {
    world.want(wanted).await;
    let is_pushed = Cell::new(wanted != Wanted::Local);
    let mut lives = 0;
    while !world.is_reached(wanted).await {
        assert!(lives < LIVES, "{lives} lives and no end, stopped before {:?}", gate.counts());
        lives += 1;
        gate.stop_after(most - lives % 2, lives % STATE_EACH == 0);
        world.control(0);
        let world_now = &*world;
        world_now
            .until("a write is stopped, or the mode is reached", || async {
                if !is_pushed.get() && world_now.is(ConditionType::NodeServicesReady, true).await {
                    is_pushed.set(true);
                    for host in world_now.hosts() {
                        world_now.push(&host).await;
                    }
                }
                gate.has_stopped() || world_now.is_reached(wanted).await
            })
            .await;
        world.kill_and_pass_on(0).await;
        world.assert_no_failure();
    }
    println!("  to {wanted:?}: {lives} lives of the controller, stopped before {:?}", gate.counts());
    gate.let_pass();
    world.control(0);
    world.finish(wanted).await;
    world.kill_and_pass_on(0).await;
}

pub(super) async fn a_controller_that_is_killed_again_and_again_goes_on() {
    let (mut world, gate) = with_gate().await;
    switch_with_kills(&mut world, &gate, Wanted::Local, 6).await;
}

/// Lives of one write and of two in turn end between any two writes; and before the first write of each output one ends for certain.
pub(super) async fn a_controller_that_is_killed_between_any_two_writes_goes_on() {
    let (mut world, gate) = with_gate().await;
    gate.stop_next_of(&OUTPUTS);
    switch_with_kills(&mut world, &gate, Wanted::Local, 2).await;
    let counts = gate.counts();
    let never: Vec<&str> = OUTPUTS.into_iter().filter(|name| !counts.contains_key(*name)).collect();
    assert!(never.is_empty(), "no kill before a write of {never:?}");
    for wanted in
        [Wanted::Direct(0), Wanted::Direct(1), Wanted::Proxy(0), Wanted::Configured(0), Wanted::Proxy(1), Wanted::Bare]
    {
        let before = gate.counts();
        gate.stop_next_of(&OUTPUTS);
        switch_with_kills(&mut world, &gate, wanted, 2).await;
        let counts = gate.counts();
        let never: Vec<&str> = EACH.into_iter().filter(|name| counts.get(*name) == before.get(*name)).collect();
        assert!(never.is_empty(), "on the way to {wanted:?} no kill before a write of {never:?}");
    }
}

/// Everything is refused, and allowed output by output in the order in which a switch writes.
pub(super) async fn refused_writes_change_nothing_and_a_killed_controller_goes_on() {
    let mut world = World::start(MASTER, WORKERS).await;
    let mut refused: BTreeSet<&str> =
        OUTPUTS.into_iter().filter(|name| !name.starts_with("registry-user-")).chain(["registry-user"]).collect();
    refuse(&world, &refused).await;
    // A policy counts a while after it was made.
    let maps = Objects::<ConfigMap>::namespaced(client(&world.setup.kubeconfig).await, NAMESPACE);
    let try_it = PostParams { dry_run: true, ..PostParams::default() };
    let map = json!({"metadata": {"name": "d8-registry-masters"}});
    let map: ConfigMap = serde_json::from_value(map).unwrap();
    world.until("the policy counts", || async { maps.create(&try_it, &map).await.is_err() }).await;
    world.want(Wanted::Local).await;
    let is_pushed = Cell::new(false);
    while !refused.is_empty() {
        world.control(0);
        let world_now = &world;
        world_now
            .until(&format!("one of {refused:?} is refused"), || async {
                if !is_pushed.get() && world_now.is(ConditionType::NodeServicesReady, true).await {
                    is_pushed.set(true);
                    for host in world_now.hosts() {
                        world_now.push(&host).await;
                    }
                }
                !failing(world_now, &refused).await.is_empty()
            })
            .await;
        let failing = failing(&world, &refused).await;
        world.kill_and_pass_on(0).await;
        // The state is written after a refusal too: it says what an administrator looks at.
        assert!(
            failing.iter().filter(|name| **name != "registry-state").count() < 2,
            "written after a refusal: {failing:?}"
        );
        world.assert_pulled().await;
        refused.retain(|name| !failing.contains(name));
        refuse(&world, &refused).await;
    }
    world.control(0);
    world.finish(Wanted::Local).await;
}

/// The outputs, as metrics name them, that the controller could not write.
async fn failing<'a>(world: &World, refused: &BTreeSet<&'a str>) -> BTreeSet<&'a str> {
    let Some(metrics) = world.metrics(0).await else { return BTreeSet::new() };
    let has_failed = |name: &str| metrics.contains(&format!("write_failures_total{{output=\"{name}\"}}"));
    refused.iter().copied().filter(|name| has_failed(name)).collect()
}

async fn refuse(world: &World, names: &BTreeSet<&str>) {
    for policy in objects::refusal(names) {
        world.api.apply(&policy).await;
    }
}
