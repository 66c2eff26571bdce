//! `d8-registry switch upstream`: another upstream for the mode in force, with the controller alive, dead, and one that does
//! nothing; Deckhouse down, and its policies in the way.

use std::collections::BTreeMap;
use std::path::PathBuf;

use d8_registry::clock;
use d8_registry::cluster::{Access, Candidate, Cluster, RENEWAL, Standing};
use d8_registry::switch::{ConditionType, Target};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use reqwest::{Certificate, Client, StatusCode};
use serde_json::json;
use tokio::task::JoinSet;

use super::api::NAMESPACE;
use super::cases::{MASTER, WORKERS};
use super::objects;
use super::processes::switch;
use super::wanted::Wanted;
use super::world::{HASH_OF_SECRET, World};

/// The bcrypt hash, at the lowest cost, of `hunter3`.
const HASH_OF_HUNTER3: &str = "$2y$04$7NzMeLKcvRJJmNYlFHTc5uGCEKgmgP3v8y.4lZg1VQI7BrP/xT0Ym";
const CONTROLLER: &str = "system:serviceaccount:d8-system:d8-registry-controller";

/// Runs `d8-registry switch upstream` as an administrator. No password is in what it says.
async fn upstream(admin: PathBuf, arguments: Vec<String>) -> (bool, String) {
    let arguments: Vec<&str> = std::iter::once("upstream").chain(arguments.iter().map(String::as_str)).collect();
    let (is_well, said) = switch(&admin, &arguments).await;
    assert!(!said.contains("hunter"), "a password is shown: {said}");
    (is_well, said)
}

/// It ends well or not, and says all of this.
async fn said(world: &World, arguments: &[&str], is_well: bool, words: &[&str]) -> String {
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let (was_well, said) = upstream(world.api.kubeconfig("admin"), arguments.clone()).await;
    assert_eq!(was_well, is_well, "switch upstream {arguments:?}: {said}");
    for words in words {
        assert!(said.contains(words), "switch upstream {arguments:?} does not say {words:?}: {said}");
    }
    said
}

/// A file with a password.
fn password_file(world: &World, password: &str) -> String {
    let file = world.files().0.join(format!("password-{password}"));
    std::fs::write(&file, format!("{password}\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

/// The flags for a registry outside, with the password that it had from the beginning.
fn outside(world: &World, number: usize) -> Vec<String> {
    let ca = world.files().1.to_str().unwrap().to_owned();
    let (repository, password) = (World::repository(number), password_file(world, "secret"));
    let flags = ["--images-repo", &repository, "--ca-file", &ca, "--username", "license", "--password-file", &password];
    flags.map(str::to_owned).to_vec()
}

/// As the chart has it: what d8-registry-node issues for the controller.
async fn show_certificate(world: &World) {
    let directory = world.files().0;
    let text = |file: &str| std::fs::read_to_string(directory.join(file)).unwrap();
    let [cert, key, ca] = ["tls.crt", "tls.key", "ca.crt"].map(text);
    let data = [("tls.crt", cert.as_str()), ("tls.key", &key), ("ca.crt", &ca)];
    world.secret("d8-registry-controller-tls", "Opaque", &data).await;
}

/// Deckhouse's label, for which its policy looks.
async fn protect(world: &World, name: &str) {
    let labelled = json!({"metadata": {"labels": {"heritage": "deckhouse"}}});
    let secrets = world.api.of::<Secret>();
    secrets.patch(name, &PatchParams::default(), &Patch::Merge(labelled)).await.unwrap();
}

/// The registry outside takes `hunter3`, and `secret` no more.
async fn expire(world: &World, number: usize) {
    world.upstreams[number].reconfigure(HASH_OF_SECRET, HASH_OF_HUNTER3);
    let authority = Certificate::from_pem(&std::fs::read(world.files().1).unwrap()).unwrap();
    let client = Client::builder().tls_certs_only([authority]).no_proxy().build().unwrap();
    let url = format!("https://{}/v2/", world.upstreams[number].host());
    world
        .until("the licence has expired", || async {
            let answer = client.get(&url).basic_auth("license", Some("secret")).send().await;
            answer.is_ok_and(|answer| answer.status() == StatusCode::UNAUTHORIZED)
        })
        .await;
}

/// The versions of all Secrets.
async fn versions(world: &World) -> BTreeMap<String, String> {
    let secrets = world.api.of::<Secret>().list(&ListParams::default()).await.unwrap();
    let named = secrets.items.into_iter().map(|secret| secret.metadata);
    named.map(|object| (object.name.unwrap_or_default(), object.resource_version.unwrap_or_default())).collect()
}

/// A key of a Secret; `None` where either is not there.
async fn value(world: &World, name: &str, key: &str) -> Option<String> {
    let secret = world.api.of::<Secret>().get_opt(name).await.unwrap()?;
    secret.data?.get(key).map(|value| String::from_utf8(value.0.clone()).unwrap())
}

async fn holder(world: &World) -> String {
    let lease = world.api.of::<Lease>().get_opt("d8-registry-controller").await.ok().flatten();
    lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default()
}

pub(super) async fn an_expired_licence_is_replaced_while_deckhouse_and_the_controller_are_down() {
    let mut world = World::start(MASTER, WORKERS).await;
    world.control(0);
    world.switch(Wanted::Proxy(0)).await;
    show_certificate(&world).await;
    protect(&world, "deckhouse-registry").await;
    // The Lease stays the dead one's.
    world.kill(0);
    world.roles.take_deckhouse_down().await;
    expire(&world, 0).await;
    let before = versions(&world).await;
    let [wrong, right] = ["hunter2", "hunter3"].map(|password| password_file(&world, password));
    let flags = |file: &'static str| ["--username", "license", "--password-file", file];
    let [wrong, right] = [wrong, right].map(|file| flags(file.leak()));
    // The expired one, and one that never was: nothing is written.
    said(&world, &["--check-mode", "Default"], false, &["nothing was changed", "refuses the credentials"]).await;
    said(&world, &wrong, false, &["nothing was changed", "refuses the credentials"]).await;
    let nowhere = [&right[..], &["--images-repo", "127.0.0.8:5001/deckhouse/other"]].concat();
    said(&world, &nowhere, false, &["nothing was changed", "has no images of Deckhouse"]).await;
    let acts = format!("written as {CONTROLLER}, because otherwise: Secret deckhouse-registry: ");
    let dry_run = [&right[..], &["--dry-run"]].concat();
    said(&world, &dry_run, true, &["password: *** -> ***", &acts, "all 2 items are checked", "Nothing was written"])
        .await;
    assert_eq!(versions(&world).await, before);
    let left = [
        "Nobody else has the Lease.",
        "This command has the Lease",
        "The nodes, the servers and Secret deckhouse-registry have 127.0.0.8:5001/deckhouse/ee.",
        "kubectl -n d8-system delete pod deckhouse-leader --as system:sudouser    # ImagePullBackOff, on master-0",
    ];
    said(&world, &right, true, &left).await;
    assert_eq!(value(&world, "d8-registry-settings", "password").await.as_deref(), Some("hunter3"));
    assert_eq!(value(&world, "registry-previous", "password").await.as_deref(), Some("secret"));
    assert!(String::from_utf8_lossy(&world.roles.mode_file.lock().unwrap()).contains("hunter3"));
    world.assert_pulled().await;
    // Again: it is done already, and what was there before stays what it was.
    said(&world, &right, true, &["(nothing changes)", "The nodes, the servers"]).await;
    assert_eq!(value(&world, "registry-previous", "password").await.as_deref(), Some("secret"));
    // A controller that returns wants the same.
    world.roles.bring_deckhouse_up().await;
    world.control(0);
    world.finish(Wanted::Proxy(0)).await;
    assert_eq!(world.fact("servers").await, "Proxy in force");
    // There is no way back to what the upstream refuses.
    said(&world, &["--undo"], false, &["nothing was changed", "refuses the credentials"]).await;
    said(&world, &["--commit"], true, &["Secret registry-previous is removed"]).await;
    assert_eq!(value(&world, "registry-previous", "password").await, None);
    said(&world, &["--undo"], false, &["there is nothing to go back to"]).await;
    world.assert_pulled().await;
}

pub(super) async fn another_upstream_comes_by_the_controller_or_in_its_place_and_is_undone() {
    let mut world = World::start(MASTER, WORKERS).await;
    world.control(0);
    world.switch(Wanted::Direct(0)).await;
    show_certificate(&world).await;
    protect(&world, "deckhouse-registry").await;
    // It works, dies while a node is waited for, and is back while the command does its work.
    world.hold("worker-1");
    let mut command = JoinSet::new();
    command.spawn(upstream(world.api.kubeconfig("admin"), outside(&world, 1)));
    world.until_condition(Target::Direct, ConditionType::TransitionContainerdConfigReady, false).await;
    world.kill(0);
    let takes_over = || async { holder(&world).await.starts_with("switch-upstream_") };
    world.until("the command takes the Lease", takes_over).await;
    world.control(0);
    world
        .until("the controller stands by", || async { world.metric(0, "d8_registry_switch_leader").await == Some(0) })
        .await;
    world.roles.release("worker-1").await;
    let (is_well, said_meanwhile) = command.join_next().await.unwrap().unwrap();
    let all = ["renews it: the controller does the work.", "This command has the Lease", "No pod of Deckhouse fails."];
    assert!(is_well && all.iter().all(|words| said_meanwhile.contains(words)), "{said_meanwhile}");
    world.finish(Wanted::Direct(1)).await;
    assert_eq!(value(&world, "d8-registry-settings", "imagesRepo").await, Some(World::repository(1)));
    // And back, by the controller alone.
    let undone = said(&world, &["--undo"], true, &["renews it: the controller does the work."]).await;
    assert!(!undone.contains("This command has the Lease"), "{undone}");
    world.finish(Wanted::Direct(0)).await;
    assert_eq!(value(&world, "d8-registry-settings", "imagesRepo").await, Some(World::repository(0)));
    said(&world, &["--commit"], true, &["Secret registry-previous is not there"]).await;
    assert_eq!(world.fact("servers").await, "Direct in force");
}

/// Renews the Lease and does nothing else, until another one takes it.
async fn idle(kubeconfig: PathBuf) -> String {
    let access = Access { kubeconfig: Some(kubeconfig), context: None, acting_as: None };
    let cluster = Cluster::connect(&access, NAMESPACE).await.unwrap();
    let mut candidate = Candidate::new(cluster, "d8-registry-controller", "idle");
    let mut has_held = false;
    loop {
        match candidate.ask(clock::now()).await.unwrap() {
            Standing::Holds(_) => has_held = true,
            Standing::Waits { holder } if has_held => return holder,
            Standing::Waits { .. } => {}
        }
        tokio::time::sleep(RENEWAL / 2).await;
    }
}

pub(super) async fn a_controller_that_moves_nothing_is_replaced_and_what_was_kept_goes_after_seven_days() {
    let mut world = World::start(MASTER, WORKERS).await;
    world.control(0);
    world.switch(Wanted::Configured(0)).await;
    world.terminate(0);
    let flags = outside(&world, 1);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    // Without an API server: what can't be done, and what the upstream says.
    world.api.pause();
    said(&world, &flags, false, &["nothing was changed", "without an API server", "takes the credentials."]).await;
    world.api.resume();
    protect(&world, "deckhouse-registry").await;
    // The controller's account may write nothing: the other one that the policy names may.
    let bindings = world.api.of::<RoleBinding>();
    bindings.delete("d8-registry-controller", &DeleteParams::default()).await.unwrap();
    let subject = json!({"kind": "User", "name": "system:sudouser", "apiGroup": "rbac.authorization.k8s.io"});
    let all = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"});
    world
        .api
        .apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "sudo"}, "roleRef": all, "subjects": [subject]}))
        .await;
    let mut idles = JoinSet::new();
    idles.spawn(idle(world.api.kubeconfig("deckhouse")));
    world.until("somebody has the Lease", || async { holder(&world).await == "idle" }).await;
    let replaced = [
        "written as system:sudouser",
        "idle has the Lease and renews it",
        "Nothing has moved for 5 s: the Lease is taken over from idle",
        "This command has the Lease",
        "The nodes and Secret deckhouse-registry have 127.0.0.9:5001/deckhouse/ee.",
    ];
    said(&world, &[&flags[..], &["--patience", "5s"]].concat(), true, &replaced).await;
    assert!(idles.join_next().await.unwrap().unwrap().starts_with("switch-upstream_"));
    assert_eq!(value(&world, "deckhouse-registry", "address").await.as_deref(), Some("127.0.0.9:5001"));
    world.assert_pulled().await;
    for object in objects::rights() {
        world.api.apply(&object).await;
    }
    world.control(0);
    world.finish(Wanted::Configured(1)).await;
    // What was kept is as old as it says.
    let old = json!({"metadata": {"annotations": {"d8-registry/saved-at": "2020-01-01T00:00:00Z"}}});
    let secrets = world.api.of::<Secret>();
    secrets.patch("registry-previous", &PatchParams::default(), &Patch::Merge(old)).await.unwrap();
    said(&world, &["--undo"], false, &["there is nothing to go back to"]).await;
    world.kill_and_pass_on(0).await;
    world.control(0);
    world.until("it is removed", || async { value(&world, "registry-previous", "mode").await.is_none() }).await;
    world.switch(Wanted::Bare).await;
    // Nodes and Deckhouse follow Deckhouse's own Secret, and all but the API server is down: what that names is the upstream.
    world.terminate(0);
    world.roles.take_deckhouse_down().await;
    let flags = outside(&world, 0);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let dry_run = [
        "The order is: registry-previous, d8-registry-settings, registry-bashible-config; when every node has it, deckhouse-registry.",
    ];
    said(&world, &[&flags[..], &["--dry-run"]].concat(), true, &dry_run).await;
    let left = [
        "Mode Unmanaged stays.",
        "This command has the Lease",
        "The nodes and Secret deckhouse-registry have 127.0.0.8:5001/deckhouse/ee.",
        "first\n  kubectl -n d8-system set image deployment/deckhouse deckhouse=127.0.0.8:5001/deckhouse/ee",
        "kubectl -n d8-system delete pod deckhouse-leader",
    ];
    said(&world, &flags, true, &left).await;
    assert_eq!(value(&world, "registry-previous", "imagesRepo").await, Some(World::repository(1)));
    assert_eq!(value(&world, "registry-previous", "mode").await.as_deref(), Some("Unmanaged"));
    world.assert_pulled().await;
    world.roles.bring_deckhouse_up().await;
    world.control(0);
    world.finish(Wanted::Configured(0)).await;
    said(&world, &["--undo"], true, &["The nodes and Secret deckhouse-registry have 127.0.0.9:5001/deckhouse/ee."])
        .await;
    world.finish(Wanted::Configured(1)).await;
    world.switch(Wanted::Local).await;
    show_certificate(&world).await;
    said(&world, &flags, false, &["nothing was changed: the mode is Local"]).await;
}
