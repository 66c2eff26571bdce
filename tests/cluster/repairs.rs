//! Outputs that somebody edits, garbles or deletes: put back, or held with a sentence. No pull fails by it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::Ordering;

use d8_registry::switch::{ConditionType, FoundModeFile, Record, RegistryState, Target};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::Resource;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::cases::{MASTER, WORKERS};
use super::wanted::Wanted;
use super::world::World;

type Data = BTreeMap<String, Vec<u8>>;

fn data(secret: &Secret) -> Data {
    secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect()
}

fn text(data: &Data, key: &str) -> String {
    data.get(key).map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
}

/// Whether a Secret says after the repair what it said before.
type IsSame = fn(&Data, &Data) -> bool;

fn every_byte(before: &Data, now: &Data) -> bool {
    before == now
}

/// The state says when it was written, and how often.
fn state(before: &Data, now: &Data) -> bool {
    let modes = |data| RegistryState::read(data).ok().map(|state| (state.mode, state.target_mode));
    modes(now).is_some() && modes(now) == modes(before)
}

/// A newer generation of the same.
fn mode_file(before: &Data, now: &Data) -> bool {
    let plane = |data| FoundModeFile::read(data).ok().map(|found| found.file.plane);
    plane(now).is_some() && plane(now) == plane(before)
}

/// What a switch has come to; what it remembers of the way may be less.
fn record(before: &Data, now: &Data) -> bool {
    let reached = |data| Record::read(data).ok().map(|record| (record.completed, record.target, record.plane));
    reached(now).is_some() && reached(now) == reached(before)
}

/// The password that nodes were given. The hash has a salt.
fn password(before: &Data, now: &Data) -> bool {
    now.contains_key("passwordHash") && now["passwordHash"] != b"garbled" && before["password"] == now["password"]
}

/// A password; nobody was given the old one.
fn any_user(_: &Data, now: &Data) -> bool {
    now.get("password").is_some_and(|password| password != b"garbled")
        && now.get("passwordHash").is_some_and(|hash| hash.starts_with(b"$2"))
}

async fn delete<K>(world: &World, name: &str)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    world.api.of::<K>().delete(name, &DeleteParams::default()).await.unwrap();
}

async fn edit<K>(world: &World, name: &str, change: &Value)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    world.api.of::<K>().patch(name, &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
}

/// Edits a Secret, or deletes it, and waits until it is what it was.
async fn repaired(world: &World, name: &str, change: Option<Value>, is_same: IsSame) {
    let secrets = world.api.of::<Secret>();
    let before = data(&secrets.get(name).await.unwrap());
    match &change {
        Some(change) => edit::<Secret>(world, name, &json!({"stringData": change})).await,
        None => delete::<Secret>(world, name).await,
    }
    let how = change.map_or_else(|| "deleted".to_owned(), |change| format!("edited: {change}"));
    world
        .until(&format!("{name} is put back, after it was {how}"), || async {
            let now = secrets.get_opt(name).await.ok().flatten();
            now.is_some_and(|now| is_same(&before, &data(&now)))
        })
        .await;
    world.assert_no_failure();
}

/// The same for another kind, whose `part` counts.
async fn repaired_part<K>(world: &World, name: &str, change: Option<Value>, part: &str)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
{
    let objects = world.api.of::<K>();
    let of = |object: &K| serde_json::to_value(object).unwrap().pointer(part).cloned();
    let before = of(&objects.get(name).await.unwrap());
    match &change {
        Some(change) => edit::<K>(world, name, change).await,
        None => delete::<K>(world, name).await,
    }
    world
        .until(&format!("{name} is put back, after {change:?}"), || async {
            let now = objects.get_opt(name).await.ok().flatten();
            now.is_some_and(|now| of(&now) == before)
        })
        .await;
    world.assert_no_failure();
}

/// What is the same in a settled cluster and in the middle of a switch.
async fn every_output(world: &World) {
    let garbled = |key: &str| Some(json!({key: "garbled"}));
    repaired(world, "registry-state", garbled("state"), state).await;
    repaired(world, "registry-state", None, state).await;
    repaired(world, "registry-bashible-config", garbled("config"), every_byte).await;
    repaired(world, "registry-bashible-config", None, every_byte).await;
    repaired(world, "d8-registry-mode", garbled("mode.yaml"), mode_file).await;
    repaired(world, "d8-registry-mode", None, mode_file).await;
    // kubelets bring a changed Secret within a minute: it is put back before.
    world.roles.slow_users.store(true, Ordering::Relaxed);
    repaired(world, "registry-user-ro", garbled("password"), password).await;
    repaired(world, "registry-user-ro", garbled("passwordHash"), password).await;
    repaired(world, "registry-user-ro", None, password).await;
    repaired(world, "registry-user-rw", garbled("passwordHash"), any_user).await;
    repaired(world, "registry-user-mirror-puller", None, any_user).await;
    world.roles.bring_users();
    let list = json!({"data": {"backends": "127.0.0.11:5001\n127.0.0.99:5001\n"}});
    repaired_part::<ConfigMap>(world, "d8-registry-masters", Some(list), "/data").await;
    repaired_part::<ConfigMap>(world, "d8-registry-masters", None, "/data").await;
    for component in ["nobody", "somebody", "registry-server"] {
        let edited = json!({"spec": {"selector": {"component": component}}});
        for service in ["registry", "registry-push"] {
            repaired_part::<Service>(world, service, Some(edited.clone()), "/spec/selector").await;
        }
    }
}

pub(super) async fn what_somebody_edits_or_deletes_is_put_back_in_a_settled_cluster() {
    let mut world = World::start(MASTER, WORKERS).await;
    world.control(0);
    world.switch(Wanted::Proxy(0)).await;
    every_output(&world).await;
    repaired(&world, "d8-registry-switch", Some(json!({"record": "garbled"})), record).await;
    repaired(&world, "d8-registry-switch", None, record).await;
    let docker = text(&data(&world.api.of::<Secret>().get("deckhouse-registry").await.unwrap()), ".dockerconfigjson");
    let edited = json!({".dockerconfigjson": format!("{docker}\n")});
    repaired(&world, "deckhouse-registry", Some(edited), every_byte).await;
    held_until_it_is_back::<Secret>(&world, "deckhouse-registry", None).await;
    held_until_it_is_back::<Service>(&world, "registry", None).await;
    held_until_it_is_back::<Secret>(&world, "registry-pki", Some(ConditionType::Held)).await;
    held_until_it_is_back::<Secret>(&world, "d8-registry-settings", Some(ConditionType::InputLost)).await;
    let ca = world.api.of::<ConfigMap>().get("registry-ca").await.unwrap().data;
    edit::<ConfigMap>(&world, "registry-ca", &json!({"data": {"ca.crt": "another"}})).await;
    world.until("another authority is held", || world.is(ConditionType::Held, true)).await;
    edit::<ConfigMap>(&world, "registry-ca", &json!({"data": ca})).await;
    world.until("nothing is held", || async { world.condition(ConditionType::Held).await.is_none() }).await;
    world.finish(Wanted::Proxy(0)).await;
    // It was Proxy all the time: no switch has begun.
    assert_eq!(world.fact("servers").await, "Proxy in force");
}

/// Deletes an object that is not made anew: a condition, or an Event, says so. Put back, it is as if nothing had been.
async fn held_until_it_is_back<K>(world: &World, name: &str, kind: Option<ConditionType>)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
{
    let objects = world.api.of::<K>();
    let mut object = objects.get(name).await.unwrap();
    delete::<K>(world, name).await;
    match kind {
        Some(kind) => {
            world.until(&format!("{kind} says that {name} is gone"), || world.is(kind, true)).await;
        }
        None => {
            world
                .until(&format!("an Event says that {name} is gone"), || async {
                    let events = world.events().await;
                    events.iter().any(|(reason, message)| {
                        reason == "OutputMissing" && message.contains(&format!(" {name} is not there"))
                    })
                })
                .await;
        }
    }
    world.assert_pulled().await;
    assert!(objects.get_opt(name).await.unwrap().is_none(), "{name} was made anew");
    object.meta_mut().resource_version = None;
    object.meta_mut().uid = None;
    object.meta_mut().managed_fields = None;
    world.api.create(&objects, serde_json::to_value(&object).unwrap()).await;
    if let Some(kind) = kind {
        world.until(&format!("{kind} is over"), || async { world.condition(kind).await.is_none() }).await;
    }
}

pub(super) async fn what_somebody_edits_or_deletes_is_put_back_in_the_middle_of_a_switch() {
    let mut world = World::start(MASTER, WORKERS).await;
    world.control(0);
    world.switch(Wanted::Proxy(0)).await;
    world.hold("worker-1");
    world.want(Wanted::Direct(1)).await;
    let waits = async || {
        world
            .until("the switch waits for a node", || async {
                let waits = world.condition(ConditionType::TransitionContainerdConfigReady).await;
                waits.is_some_and(|condition| !condition.status && condition.message.contains("worker-1"))
                    && world.state().await.is_some_and(|state| state.target_mode == Target::Direct)
            })
            .await;
        world.assert_pulled().await;
    };
    waits().await;
    every_output(&world).await;
    for change in [Some(json!({"stringData": {"record": "garbled"}})), None] {
        match &change {
            Some(change) => edit::<Secret>(&world, "d8-registry-switch", change).await,
            None => delete::<Secret>(&world, "d8-registry-switch").await,
        }
        world
            .until("the record is there again", || async {
                let record = world.api.of::<Secret>().get_opt("d8-registry-switch").await.ok().flatten();
                record.is_some_and(|record| Record::read(&data(&record)).is_ok())
            })
            .await;
        waits().await;
    }
    world.roles.release("worker-1").await;
    world.finish(Wanted::Direct(1)).await;
    assert_eq!(world.fact("servers").await, "Direct in force");
}
