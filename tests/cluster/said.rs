//! What is not to be done is said, and not done: settings that are wrong, a registry that Deckhouse would refuse, a module of
//! Deckhouse's that does the same.

use std::collections::BTreeMap;

use d8_registry::switch::ConditionType;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::api::NAMESPACE;
use super::cases::{MASTER, WORKERS};
use super::wanted::Wanted;
use super::world::World;

/// What the controller writes beside its own notes.
const OUTPUTS: [&str; 8] = [
    "d8-registry-mode",
    "registry-bashible-config",
    "deckhouse-registry",
    "registry-user-ro",
    "registry-user-rw",
    "registry-user-mirror-puller",
    "registry-user-mirror-pusher",
    "registry-pki",
];
/// Fewer calls of the API server than a look takes.
const A_LOOK: u64 = 20;

/// The versions of all Secrets, and of the other objects that the controller writes.
async fn versions(world: &World) -> BTreeMap<String, String> {
    let secrets = world.api.of::<Secret>().list(&ListParams::default()).await.unwrap();
    let maps = world.api.of::<ConfigMap>().list(&ListParams::default()).await.unwrap();
    let services = world.api.of::<Service>().list(&ListParams::default()).await.unwrap();
    let secrets = secrets.items.into_iter().map(|object| object.metadata);
    let maps = maps.items.into_iter().map(|object| object.metadata);
    let services = services.items.into_iter().map(|object| object.metadata);
    let named = secrets.chain(maps).chain(services);
    named.map(|object| (object.name.unwrap_or_default(), object.resource_version.unwrap_or_default())).collect()
}

async fn outputs(world: &World) -> BTreeMap<String, String> {
    let mut versions = versions(world).await;
    versions.retain(|name, _| OUTPUTS.contains(&name.as_str()));
    versions
}

/// The administrator's Secret with these keys.
async fn settings(world: &World, data: Value) {
    let secrets = world.api.of::<Secret>();
    let _ = secrets.delete("d8-registry-settings", &DeleteParams::default()).await;
    let object = json!({"apiVersion": "v1", "kind": "Secret", "type": "registry/config", "stringData": data,
        "metadata": {"name": "d8-registry-settings", "namespace": NAMESPACE, "annotations": {"d8-registry/source": "manual"}}});
    world.api.create(&secrets, object).await;
}

async fn until_said(world: &World, kind: ConditionType, words: &str) {
    world
        .until(&format!("{kind} says {words:?}"), || async {
            let condition = world.condition(kind).await;
            condition.is_some_and(|condition| !condition.status && condition.message.contains(words))
        })
        .await;
}

async fn until_event(world: &World, event: &str, words: &str) {
    world
        .until(&format!("an Event {event} says {words:?}"), || async {
            world.events().await.iter().any(|(reason, message)| reason == event && message.contains(words))
        })
        .await;
}

pub(super) async fn settings_that_are_wrong_or_that_deckhouse_would_refuse_are_said_and_change_nothing() {
    let mut world = World::start(MASTER, WORKERS).await;
    world.control(0);
    world.switch(Wanted::Proxy(0)).await;
    let before = outputs(&world).await;
    assert_eq!(before.len(), OUTPUTS.len(), "{before:?}");
    // Every rule that is broken, with its documented message.
    settings(&world, json!({"mode": "Direct", "scheme": "FTP"})).await;
    until_said(&world, ConditionType::SettingsValid, "'imagesRepo' is required.").await;
    until_event(&world, "SettingsInvalid", "'imagesRepo' is required.").await;
    let condition = world.condition(ConditionType::SettingsValid).await.unwrap();
    assert!(condition.message.contains("scheme"), "{condition:?}");
    world.assert_pulled().await;
    assert_eq!(outputs(&world).await, before);
    // What Deckhouse's webhook would refuse when it is too late is refused here: a registry without a path, a password with spaces.
    let outside =
        json!({"mode": "Unmanaged", "imagesRepo": "127.0.0.9:5001", "username": "u", "password": "two words"});
    settings(&world, outside).await;
    for words in ["'imagesRepo' needs a path behind the host", "'password' is empty or contains spaces"] {
        until_said(&world, ConditionType::SettingsValid, words).await;
        until_event(&world, "SettingsInvalid", words).await;
    }
    world.assert_pulled().await;
    assert_eq!(outputs(&world).await, before);
    assert_eq!(world.fact("servers").await, "Proxy in force");
    // What was in force is what it was: nothing is to be undone.
    world.switch(Wanted::Proxy(0)).await;
    assert_eq!(outputs(&world).await, before);
}

/// Has the controller look again at everything, twice: one look may be under way.
async fn look_again(world: &World) {
    let calls = async || world.metric(0, "d8_registry_switch_api_calls_total").await.unwrap_or_default();
    for time in ["first", "second"] {
        let enough = calls().await + A_LOOK;
        let noted = json!({"metadata": {"annotations": {"test/looked": time}}});
        let secrets = world.api.of::<Secret>();
        secrets.patch("d8-registry-settings", &PatchParams::default(), &Patch::Merge(noted)).await.unwrap();
        world.until("it has looked again", || async { calls().await > enough }).await;
    }
}

pub(super) async fn beside_deckhouses_own_module_the_controller_writes_nothing() {
    let mut world = World::start(MASTER, WORKERS).await;
    world.control(0);
    world.switch(Wanted::Direct(0)).await;
    let module = |enabled: &str| {
        json!({"apiVersion": "deckhouse.io/v1alpha1", "kind": "Module", "metadata": {"name": "registry"},
            "status": {"conditions": [{"type": "EnabledByModuleManager", "status": enabled}]}})
    };
    let set = async |enabled: &str| {
        world.api.apply(&module(enabled)).await;
        world.api.apply_status(&module(enabled)).await;
    };
    set("True").await;
    look_again(&world).await;
    let held = async || world.metric(0, "d8_registry_switch_held{reason=\"module\"}").await == Some(1);
    world.until("it is held", held).await;
    until_event(&world, "SwitchHeld", "Deckhouse's own module registry is enabled, it writes these objects").await;
    // There is enough to do: another mode is wanted, and outputs are gone. Looks go on, and nothing is written.
    world.api.of::<ConfigMap>().delete("d8-registry-masters", &DeleteParams::default()).await.unwrap();
    world.api.of::<Secret>().delete("registry-user-mirror-puller", &DeleteParams::default()).await.unwrap();
    world.want(Wanted::Proxy(1)).await;
    let written = async || {
        let mut versions = versions(&world).await;
        // That is the test's.
        versions.remove("d8-registry-settings");
        versions
    };
    let before = written().await;
    look_again(&world).await;
    assert!(held().await);
    assert_eq!(written().await, before);
    world.assert_pulled().await;
    // Off again it goes on by itself.
    set("False").await;
    world.finish(Wanted::Proxy(1)).await;
}
