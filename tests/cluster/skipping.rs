//! Nodes that a switch goes on without (`switch.unreadyNodes: skip`).

use d8_registry::switch::{ConditionType, Target};

use super::cases::MASTER;
use super::wanted::Wanted;
use super::world::World;

async fn until_message(world: &World, kind: ConditionType, words: &str) {
    world
        .until(&format!("{kind} says {words:?}"), || async {
            world.condition(kind).await.is_some_and(|condition| !condition.status && condition.message.contains(words))
        })
        .await;
}

pub(super) async fn a_skipped_node_keeps_its_source_until_it_is_back_or_deleted() {
    // A plain one has no way around the servers.
    const LOST: &str = "plain-0";
    let mut world = World::start(MASTER, &["worker-0", LOST]).await;
    world.keys.insert("switch.unreadyNodes", "skip");
    world.control(0);
    world.switch(Wanted::Direct(0)).await;
    // It comes back.
    world.lose(LOST).await;
    world.want(Wanted::Proxy(1)).await;
    world.until_condition(Target::Proxy, ConditionType::FinalContainerdConfigReady, true).await;
    until_message(&world, ConditionType::CleanupInClusterProxy, "skipped node(s) may still need the old registry")
        .await;
    assert!(world.is(ConditionType::NodesSkipped, true).await);
    // It asks as a user of the mode before, whom the servers know as long as they hold that.
    world.assert_pulled_by(LOST).await;
    let servers = world.fact("servers").await;
    assert_eq!(servers, "Proxy in force, Direct before");
    world.bring_back(LOST).await;
    world.finish(Wanted::Proxy(1)).await;
    assert!(!world.is(ConditionType::NodesSkipped, true).await);
    // It never does: its pods name the address that is leaving, until they go with their Node.
    world.lose(LOST).await;
    world.want(Wanted::Configured(0)).await;
    until_message(&world, ConditionType::FinalContainerdConfigReady, "Pod d8-monitoring/grafana-plain-0").await;
    world.assert_pulled_by(LOST).await;
    assert_eq!(world.fact("servers").await, "Proxy in force");
    world.leave(LOST).await;
    world.finish(Wanted::Configured(0)).await;
}
