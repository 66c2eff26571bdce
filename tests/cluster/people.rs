//! What an administrator does and may do: `d8-registry switch` beside a running controller, under Deckhouse's policies.

use d8_registry::switch::{ConditionType, Target};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api as Objects;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::api::{NAMESPACE, client};
use super::cases::{MASTER, WORKERS};
use super::objects;
use super::processes::switch;
use super::roles::WORKLOADS;
use super::wanted::Wanted;
use super::world::World;

const FROZEN: &str = "is forbidden when the registry module is disabled";
const HERITAGE: &str = "Creating, updating and deleting an objects with the `heritage: deckhouse` label is forbidden";

pub(super) fn module_config(world: &World) -> Objects<DynamicObject> {
    let kind = kube::core::GroupVersionKind::gvk("deckhouse.io", "v1alpha1", "ModuleConfig");
    Objects::all_with(world.admin.clone(), &ApiResource::from_gvk_with_plural(&kind, "moduleconfigs"))
}

async fn patched<K>(objects: &Objects<K>, name: &str, patch: Value) -> String
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    match objects.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

/// In a cluster whose module `registry` is off the ModuleConfig is frozen, and Deckhouse's objects are Deckhouse's. The commands
/// are those of the documentation, by the kubeconfig of an administrator for whom all that counts.
pub(super) async fn under_deckhouses_policies_the_commands_of_an_administrator_do_what_they_say() {
    let mut world = World::start(MASTER, WORKERS).await;
    // As it was made: only changes are forbidden.
    let settings = json!({"registry": {"mode": "Unmanaged"}, "logLevel": "Info"});
    let config = json!({"apiVersion": "deckhouse.io/v1alpha1", "kind": "ModuleConfig", "metadata": {"name": "deckhouse"},
        "spec": {"version": 1, "enabled": true, "settings": settings}});
    world.api.apply(&config).await;
    // Deckhouse's release writes this one again at any time, so it is no input, whoever marks it.
    let rendered = json!({"d8-registry/source": "manual", "meta.helm.sh/release-name": "deckhouse"});
    registry_config(&world, &rendered, &json!({"mode": "Local"})).await;
    world.control(0);
    world.until("ModuleConfig is the input", || says(&world, "ModuleConfig deckhouse is the input")).await;
    the_module_config_is_frozen(&world).await;
    let admin = world.api.kubeconfig("admin");
    let said = async |arguments: &[&str], words: &str| {
        let (is_well, said) = switch(&admin, arguments).await;
        assert!(is_well && said.contains(words), "switch {arguments:?}: {said}");
    };
    let (folder, ca) = world.files();
    let password = folder.join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let [ca, password] = [ca, &password].map(|file| file.to_str().unwrap());
    let repository = World::repository(0);
    let parameters =
        ["--images-repo", &repository, "--ca-file", ca, "--username", "license", "--password-file", password];
    let direct = [&["mode", "Direct"], &parameters[..]].concat();
    said(&[&direct[..], &["--dry-run"]].concat(), "Nothing was written").await;
    assert!(world.is(ConditionType::Ready, true).await, "nothing was asked for");
    said(&direct, "Secret d8-registry-settings is written").await;
    said(&["status", "--watch"], "Mode: Direct, reached").await;
    world.finish(Wanted::Direct(0)).await;
    objects_of_deckhouse_are_deckhouses(&world).await;
    // Somebody needs what only the mode before may have: said, and ended by a word.
    let image = format!("registry.d8-system.svc:5001/system/deckhouse@sha256:{}", "0".repeat(64));
    let pods = Objects::<Pod>::namespaced(world.api.client.clone(), WORKLOADS);
    world.api.create(&pods, objects::pod(WORKLOADS, "old", "old", "worker-1", &image)).await;
    said(&[&["mode", "Proxy"], &parameters[..], &["--ttl", "24h"]].concat(), "mode: Direct -> Proxy").await;
    world
        .until("the switch does not end", || async {
            let condition = world.condition(ConditionType::CleanupInClusterProxy).await;
            condition.is_some_and(|condition| condition.message.contains("Pod d8-monitoring/old"))
        })
        .await;
    said(&["status"], "Pod d8-monitoring/old").await;
    said(&["status", "--json"], "\"ready\":false").await;
    said(&["finish", "--accept-missing"], "The controller is told").await;
    said(&["status", "--watch"], "Mode: Proxy, reached").await;
    world.finish(Wanted::Proxy(0)).await;
    // The other input, and back.
    pods.delete("old", &objects::now()).await.unwrap();
    said(&["source", "moduleconfig"], "The controller is told").await;
    world.until("ModuleConfig is the input", || says(&world, "ModuleConfig deckhouse is the input")).await;
    world.finish(Wanted::Bare).await;
    said(&["source", "manual"], "The controller is told").await;
    world
        .until("the Secret is the input again", || async {
            world.state().await.is_some_and(|state| state.target_mode == Target::Proxy)
        })
        .await;
    world.finish(Wanted::Proxy(0)).await;
    // `registry-config` of an administrator counts where there is no other, until a command writes that one.
    let secrets = world.api.of::<Secret>();
    let mine = json!({"mode": "Direct", "imagesRepo": repository, "ca": std::fs::read_to_string(ca).unwrap(), "username": "license", "password": "secret"});
    secrets.delete("registry-config", &DeleteParams::default()).await.unwrap();
    registry_config(&world, &json!({"d8-registry/source": "manual"}), &mine).await;
    secrets.delete("d8-registry-settings", &DeleteParams::default()).await.unwrap();
    world
        .until("registry-config is followed", || async {
            world.state().await.is_some_and(|state| state.mode == Target::Direct)
        })
        .await;
    said(&[&["mode", "Proxy"], &parameters[..], &["--ttl", "24h"]].concat(), "mode: Direct -> Proxy").await;
    said(&["status", "--watch"], "Mode: Proxy, reached").await;
    let left = secrets.get("registry-config").await.unwrap().metadata.annotations.unwrap_or_default();
    assert!(!left.contains_key("d8-registry/source"), "{left:?}");
    world.finish(Wanted::Proxy(0)).await;
}

async fn registry_config(world: &World, annotations: &Value, data: &Value) {
    let object = json!({"apiVersion": "v1", "kind": "Secret", "type": "registry/config", "stringData": data,
        "metadata": {"name": "registry-config", "namespace": NAMESPACE, "annotations": annotations}});
    world.api.create(&world.api.of::<Secret>(), object).await;
}

async fn the_module_config_is_frozen(world: &World) {
    let configs = module_config(world);
    // A policy counts a while after it was made.
    let (only_try, change) =
        (PatchParams { dry_run: true, ..PatchParams::default() }, json!({"spec": {"settings": {"registry": null}}}));
    world
        .until("the policy counts", || async {
            configs.patch("deckhouse", &only_try, &Patch::Merge(&change)).await.is_err()
        })
        .await;
    for registry in [json!({"mode": "Direct"}), Value::Null] {
        let refused = patched(&configs, "deckhouse", json!({"spec": {"settings": {"registry": registry}}})).await;
        assert!(refused.contains(FROZEN), "{refused}");
    }
    assert_eq!(patched(&configs, "deckhouse", json!({"spec": {"settings": {"logLevel": "Debug"}}})).await, "");
}

/// Written by the controller's account, and by no person.
async fn objects_of_deckhouse_are_deckhouses(world: &World) {
    let garbled = json!({"stringData": {"state": "garbled"}});
    let of_admin = Objects::<Secret>::namespaced(world.admin.clone(), NAMESPACE);
    for secret in ["registry-state", "registry-bashible-config", "registry-user-ro"] {
        let refused = patched(&of_admin, secret, garbled.clone()).await;
        assert!(refused.contains(HERITAGE), "{secret}: {refused}");
        let refused = of_admin.delete(secret, &DeleteParams::default()).await.unwrap_err().to_string();
        assert!(refused.contains(HERITAGE), "{secret}: {refused}");
    }
    let made: Secret = serde_json::from_value(objects::secret("another", &json!({"heritage": "deckhouse"}))).unwrap();
    let refused = of_admin.create(&PostParams::default(), &made).await.unwrap_err().to_string();
    assert!(refused.contains(HERITAGE), "{refused}");
    // What Deckhouse was told to leave alone is the administrator's.
    let labels = json!({"heritage": "deckhouse", "maintenance.deckhouse.io/no-resource-reconciliation": ""});
    let left: Secret = serde_json::from_value(objects::secret("left-alone", &labels)).unwrap();
    of_admin.create(&PostParams::default(), &left).await.unwrap();
    // Whoever may be system:sudouser may write all. It is put back.
    let sudo = client(&world.api.kubeconfig_as_sudouser()).await;
    let of_sudo = Objects::<Secret>::namespaced(sudo, NAMESPACE);
    assert_eq!(patched(&of_sudo, "registry-state", garbled).await, "");
    world.until("the state is put back", || async { world.state().await.is_some() }).await;
}

/// Whether condition InputSource says this.
pub(super) async fn says(world: &World, words: &str) -> bool {
    let condition = world.condition(ConditionType::InputSource).await;
    condition.is_some_and(|condition| condition.message.contains(words))
}
