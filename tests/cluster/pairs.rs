//! Every pair of modes, with 20 nodes that pull all the time. Long: `make e2e`.

use std::sync::atomic::Ordering;
use std::time::Instant;

use d8_registry::switch::{ConditionType, Target};
use k8s_openapi::api::core::v1::Secret;

use super::cases::MASTER;
use super::wanted::{Pace, Wanted};
use super::world::World;

/// With the master 20 nodes; the plain ones reach the registry outside by way of the servers alone.
const WORKERS: &[&str] = &[
    "plain-0",
    "plain-1",
    "plain-2",
    "plain-3",
    "plain-4",
    "plain-5",
    "worker-0",
    "worker-1",
    "worker-2",
    "worker-3",
    "worker-4",
    "worker-5",
    "worker-6",
    "worker-7",
    "worker-8",
    "worker-9",
    "worker-10",
    "worker-11",
    "worker-12",
];

/// Goes to a mode and says what the nodes pulled meanwhile; a failed pull ends the case.
async fn counted(world: &World, from: &str, wanted: Wanted) {
    let (begin, before) = (Instant::now(), world.pulls.done.load(Ordering::Relaxed));
    world.want(wanted).await;
    world.reach(wanted).await;
    let done = world.pulls.done.load(Ordering::Relaxed) - before;
    let failed = world.pulls.failures().len();
    println!("  {from} to {wanted:?}: {done} pulls, {failed} failed, {:.1} s", begin.elapsed().as_secs_f64());
    world.assert_pulled().await;
}

/// A walk in which each ordered pair of different modes is met once; the way from Local to bare Unmanaged does not exist. Then
/// changes of parameters alone.
pub(super) async fn every_pair_of_modes_without_a_failed_pull() {
    let mut world = World::at(Pace::Keys, MASTER, WORKERS).await;
    world.control(0);
    let all = [Wanted::Direct(0), Wanted::Proxy(0), Wanted::Local, Wanted::Configured(0), Wanted::Bare];
    let mut left: Vec<(Wanted, Wanted)> = all
        .into_iter()
        .flat_map(|from| all.into_iter().map(move |to| (from, to)))
        .filter(|(from, to)| from != to)
        .collect();
    left.retain(|pair| *pair != (Wanted::Local, Wanted::Bare));
    let mut at = Wanted::Bare;
    let mut was_refused = false;
    while !left.is_empty() {
        if at == Wanted::Local && !was_refused {
            no_way_from_local_to_bare(&world).await;
            was_refused = true;
        }
        let next = left.iter().position(|(from, _)| *from == at);
        let to = match next {
            Some(place) => left.remove(place).1,
            None => left.first().map_or(Wanted::Direct(0), |(from, _)| *from),
        };
        counted(&world, &format!("{at:?}"), to).await;
        at = to;
    }
    for wanted in [
        Wanted::Direct(0),
        Wanted::Direct(1),
        Wanted::Proxy(1),
        Wanted::Proxy(0),
        Wanted::Configured(1),
        Wanted::Configured(0),
    ] {
        counted(&world, &format!("{at:?}"), wanted).await;
        at = wanted;
    }
    // Of what is kept the time alone.
    counted(&world, &format!("{at:?}"), Wanted::Proxy(0)).await;
    world.keys.insert("ttl", "24h");
    counted(&world, "Proxy(0) for ever", Wanted::Proxy(0)).await;
}

async fn no_way_from_local_to_bare(world: &World) {
    let secrets = world.api.of::<Secret>();
    let versions = async || {
        let mut versions = Vec::new();
        for name in ["d8-registry-mode", "registry-bashible-config", "deckhouse-registry"] {
            versions.push(secrets.get(name).await.unwrap().metadata.resource_version);
        }
        versions
    };
    let before = versions().await;
    world.want(Wanted::Bare).await;
    let kind = ConditionType::ErrTransitionNotSupported;
    world.until_condition(Target::Unmanaged, kind, true).await;
    let said = world.condition(kind).await.unwrap().message;
    assert_eq!(said, "mode transition from Local to Unmanaged not supported");
    world.assert_pulled().await;
    assert_eq!(versions().await, before, "something was changed");
    println!("  Local to Bare: {said}");
    world.want(Wanted::Local).await;
    world.finish(Wanted::Local).await;
}

/// Nothing is said of times: a switch ends when the mode before has answered nobody for 10 minutes.
pub(super) async fn a_switch_at_the_default_pace_without_a_failed_pull() {
    let mut world = World::at(Pace::Defaults, MASTER, WORKERS).await;
    world.control(0);
    counted(&world, "Bare", Wanted::Direct(0)).await;
    world.want(Wanted::Proxy(0)).await;
    let kind = ConditionType::CleanupInClusterProxy;
    world
        .until("the mode before has to stand still for 10 minutes", || async {
            world.condition(kind).await.is_some_and(|condition| condition.message.contains("of 600 s"))
        })
        .await;
    counted(&world, "Direct(0)", Wanted::Proxy(0)).await;
}
