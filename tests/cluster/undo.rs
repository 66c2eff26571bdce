//! The way back: the old mode set in every phase of a switch, and the old configuration of containerd.

use d8_registry::switch::{BashibleConfig, ConditionType, Target};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::Api as Objects;
use kube::api::DeleteParams;

use super::cases::{MASTER, WORKERS};
use super::objects;
use super::roles::WORKLOADS;
use super::wanted::Wanted;
use super::world::World;

/// Waits until `registry-state` says this of the servers.
async fn until_servers(world: &World, words: &str) {
    world.until(&format!("servers: {words}"), || async { world.fact("servers").await == words }).await;
    world.assert_pulled().await;
}

/// The old mode is wanted again, everybody who was held works, and it is reached.
async fn undo(world: &World) {
    world.want(Wanted::Direct(0)).await;
    world.roles.deliver();
    world.roles.release("worker-1").await;
    world.finish(Wanted::Direct(0)).await;
    assert_eq!(world.fact("servers").await, "Direct in force");
}

pub(super) async fn the_old_mode_set_in_every_phase_is_reached_without_a_failed_pull() {
    let mut world = World::start(MASTER, WORKERS).await;
    world.control(0);
    world.switch(Wanted::Direct(0)).await;
    let lag = || *world.roles.lag.lock().unwrap() = Some(0);
    let held = |kind: ConditionType| {
        let world = &world;
        async move {
            world
                .until(&format!("{kind} waits for worker-1"), || async {
                    let condition = world.condition(kind).await.filter(|condition| !condition.status);
                    condition.is_some_and(|condition| condition.message.contains("worker-1"))
                })
                .await;
            world.assert_pulled().await;
        }
    };

    // Filling: no server has said yet that it holds the coming mode.
    lag();
    world.want(Wanted::Proxy(1)).await;
    until_servers(&world, "Direct in force, Proxy filling").await;
    undo(&world).await;

    // Ready: nodes are given the new source beside the old one, and one of them has not taken it.
    world.hold("worker-1");
    world.want(Wanted::Proxy(1)).await;
    held(ConditionType::TransitionContainerdConfigReady).await;
    assert_eq!(world.fact("servers").await, "Direct in force, Proxy ready");
    undo(&world).await;

    // In force by the file, and no server has it yet; Deckhouse still runs with the old one.
    world.hold("worker-1");
    world.want(Wanted::Proxy(1)).await;
    held(ConditionType::TransitionContainerdConfigReady).await;
    lag();
    world.roles.release("worker-1").await;
    until_servers(&world, "Proxy in force, Direct before").await;
    undo(&world).await;

    // In force, Deckhouse runs with it, and a node has both sources still.
    world.hold("worker-1");
    world.want(Wanted::Proxy(1)).await;
    held(ConditionType::TransitionContainerdConfigReady).await;
    lag();
    world.roles.release("worker-1").await;
    until_servers(&world, "Proxy in force, Direct before").await;
    world.hold("worker-1");
    world.roles.deliver();
    held(ConditionType::FinalContainerdConfigReady).await;
    assert!(world.is(ConditionType::DeckhouseRegistrySwitchReady, true).await);
    undo(&world).await;

    // All but the end: somebody needs what only the mode before may have.
    let image = format!("registry.d8-system.svc:5001/system/deckhouse@sha256:{}", "0".repeat(64));
    let pods = Objects::<Pod>::namespaced(world.api.client.clone(), WORKLOADS);
    world.api.create(&pods, objects::pod(WORKLOADS, "old", "old", "worker-1", &image)).await;
    world.want(Wanted::Proxy(1)).await;
    world.until_condition(Target::Proxy, ConditionType::FinalContainerdConfigReady, true).await;
    world.until_condition(Target::Proxy, ConditionType::CleanupInClusterProxy, false).await;
    until_servers(&world, "Proxy in force, Direct before").await;
    pods.delete("old", &objects::now()).await.unwrap();
    undo(&world).await;
}

pub(super) async fn the_nodes_secret_is_deleted_for_good_in_settled_bare_unmanaged_alone() {
    const NAME: &str = "registry-bashible-config";
    let mut world = World::start(MASTER, WORKERS).await;
    world.control(0);
    world.switch(Wanted::Direct(0)).await;
    let secrets = world.api.of::<Secret>();
    let delete = async || secrets.delete(NAME, &DeleteParams::default()).await.unwrap();
    let is_there = async || secrets.get_opt(NAME).await.unwrap().is_some();
    // On the way to bare Unmanaged it is put back, as in every mode.
    world.hold("worker-1");
    world.want(Wanted::Bare).await;
    world.until_condition(Target::Unmanaged, ConditionType::TransitionContainerdConfigReady, false).await;
    delete().await;
    world.until("it is put back in the middle of a switch", is_there).await;
    world.roles.release("worker-1").await;
    world.finish(Wanted::Bare).await;
    // Settled: nodes go back to the configuration of before, also those that hear of both later.
    let data = secrets.get(NAME).await.unwrap().data.unwrap();
    let config = BashibleConfig::read(&data.into_iter().map(|(key, value)| (key, value.0)).collect()).unwrap();
    let last = Some(config.version);
    let maps = world.api.of::<ConfigMap>();
    let settled = async || maps.get("d8-registry-masters").await.unwrap().data.unwrap().remove("settled");
    world.until("nodes are told that it is settled", || async { settled().await == last }).await;
    delete().await;
    world
        .until("nodes are waited for that have it still", || async {
            let condition = world.condition(ConditionType::FinalContainerdConfigReady).await;
            condition.is_some_and(|condition| !condition.status && condition.message.contains("→ Unmanaged"))
        })
        .await;
    assert!(!is_there().await);
    world.assert_pulled().await;
    world.roles.forget().await;
    world.finish(Wanted::Bare).await;
    assert!(!is_there().await, "it was made anew");
    assert_eq!(settled().await, last);
    // And the way into a managed mode is open again.
    world.switch(Wanted::Proxy(1)).await;
    assert!(is_there().await);
    assert_eq!(settled().await, None);
}
