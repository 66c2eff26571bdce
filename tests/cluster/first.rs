//! A controller that comes to a cluster with ModuleConfig: what it is given later is an order, across the controller's end and the
//! loss of its record.

use d8_registry::switch::ConditionType;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::core::v1::Secret;
use kube::Api as Objects;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::cases::{MASTER, WORKERS};
use super::people::{module_config, says};
use super::wanted::Wanted;
use super::world::World;

const NAME: &str = "deckhouse";

async fn patch(
    configs: &Objects<DynamicObject>,
    parameters: &PatchParams,
    settings: Value,
) -> kube::Result<DynamicObject> {
    configs.patch(NAME, parameters, &Patch::Merge(json!({"spec": {"settings": settings}}))).await
}

/// On a Deckhouse whose policy does not freeze ModuleConfig.
pub(super) async fn a_module_config_that_was_seen_without_settings_is_followed_once_it_has_some() {
    let mut world = World::start(MASTER, WORKERS).await;
    let bindings = world.api.all::<ValidatingAdmissionPolicyBinding>();
    bindings.delete("deckhouse-module-registry-validation", &DeleteParams::default()).await.unwrap();
    world.control(0);
    world.until("nothing was said", || says(&world, "There is no input yet")).await;
    assert!(!says(&world, "are followed").await, "there is no ModuleConfig");
    let config = json!({"apiVersion": "deckhouse.io/v1alpha1", "kind": "ModuleConfig", "metadata": {"name": NAME},
        "spec": {"version": 1, "enabled": true, "settings": {"logLevel": "Info"}}});
    world.api.apply(&config).await;
    world.until("it is seen without settings", || says(&world, "those that it is given are followed")).await;
    assert!(world.is(ConditionType::Ready, true).await);
    world.kill_and_pass_on(0).await;
    world.api.of::<Secret>().delete("d8-registry-switch", &DeleteParams::default()).await.unwrap();
    let configs = module_config(&world);
    let ca = std::fs::read_to_string(world.files().1).unwrap();
    let direct_of = |number: usize| {
        let (repository, ca) = (World::repository(number), &ca);
        json!({"mode": "Direct", "direct": {
            "imagesRepo": repository, "scheme": "HTTPS", "ca": ca, "username": "license", "password": "secret",
        }})
    };
    let direct = direct_of(0);
    let only_try = PatchParams { dry_run: true, ..PatchParams::default() };
    world
        .until("the policy counts no more", || async {
            patch(&configs, &only_try, json!({"registry": &direct})).await.is_ok()
        })
        .await;
    patch(&configs, &PatchParams::default(), json!({"registry": &direct})).await.unwrap();
    world.control(0);
    world.finish(Wanted::Direct(0)).await;
    assert!(says(&world, "ModuleConfig deckhouse is the input").await);
    assert_eq!(world.fact("unsetSeen").await, "");
    // Deckhouse says that the cluster is in its bootstrap: nothing is switched meanwhile, and a condition says why.
    let secrets = world.api.of::<Secret>();
    let is_bootstrapped = |text: &str| Patch::Merge(json!({"stringData": {"clusterIsBootstrapped": text}}));
    secrets.patch("deckhouse-registry", &PatchParams::default(), &is_bootstrapped("false")).await.unwrap();
    patch(&configs, &PatchParams::default(), json!({"registry": direct_of(1)})).await.unwrap();
    world.until("parameters are frozen", || world.is(ConditionType::ParametersFrozen, true)).await;
    let asks = |repository: String| {
        let mode_file = world.roles.mode_file.lock().unwrap().clone();
        async move { String::from_utf8_lossy(&mode_file).contains(&repository) }
    };
    assert!(!asks(World::repository(1)).await);
    secrets.patch("deckhouse-registry", &PatchParams::default(), &is_bootstrapped("true")).await.unwrap();
    world.until("it goes on", || asks(World::repository(1))).await;
    world
        .until("nothing is frozen", || async { world.condition(ConditionType::ParametersFrozen).await.is_none() })
        .await;
    world.finish(Wanted::Direct(1)).await;
}
