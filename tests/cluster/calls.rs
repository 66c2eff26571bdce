//! Single calls of the client against the real API server: what is refused, and what is left alone.

use std::collections::BTreeMap;

use d8_registry::clock;
use d8_registry::cluster::{Access, Candidate, Changes, Cluster, NewSecret, SecretChange, Standing};
use serde_json::json;

use super::api::{ApiServer, NAMESPACE};
use super::objects;
use super::roles::WORKLOADS;

async fn server() -> (tempfile::TempDir, ApiServer) {
    let directory = tempfile::tempdir().unwrap();
    let api = ApiServer::start(&directory.path().join("kubernetes")).await;
    for namespace in [NAMESPACE, WORKLOADS] {
        api.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})).await;
    }
    (directory, api)
}

async fn connect(kubeconfig: std::path::PathBuf) -> Cluster {
    let access = Access { kubeconfig: Some(kubeconfig), context: None, acting_as: None };
    Cluster::connect(&access, NAMESPACE).await.unwrap()
}

fn secret(name: &str) -> NewSecret {
    NewSecret {
        name: name.to_owned(),
        kind: "Opaque".to_owned(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::from([("theirs".to_owned(), "stays".to_owned())]),
        data: BTreeMap::from([("a".to_owned(), b"1".to_vec()), ("b".to_owned(), vec![0, 255])]),
    }
}

pub(super) async fn a_write_needs_the_version_that_was_read_and_touches_nothing_else() {
    let (_directory, api) = server().await;
    let cluster = connect(api.kubeconfig("deckhouse")).await;
    assert_eq!(cluster.secret("s").await.unwrap(), None);
    assert!(cluster.could_create_secret(secret("s")).await.is_ok());
    let made = cluster.create_secret(secret("s")).await.unwrap();
    assert!(cluster.create_secret(secret("s")).await.unwrap_err().is_conflict());
    assert!(cluster.could_create_secret(secret("s")).await.unwrap_err().is_conflict());
    let change = |value: Option<&[u8]>| SecretChange {
        data: Changes::from([("a".to_owned(), value.map(<[u8]>::to_vec))]),
        ..SecretChange::default()
    };
    let changed = cluster.change_secret("s", &made.version, change(Some(b"2"))).await.unwrap();
    let old = cluster.change_secret("s", &made.version, change(Some(b"3"))).await.unwrap_err();
    assert!(old.is_conflict() && !old.is_passing(), "{old}");
    assert!(cluster.delete_secret("s", &made.version).await.unwrap_err().is_conflict());
    let removed = cluster.change_secret("s", &changed.version, change(None)).await.unwrap();
    assert_eq!(removed.data, BTreeMap::from([("b".to_owned(), vec![0, 255])]));
    assert_eq!((removed.annotations["theirs"].as_str(), &removed.uid), ("stays", &made.uid));
    cluster.delete_secret("s", &removed.version).await.unwrap();
    assert_eq!(cluster.secret("s").await.unwrap(), None);
    // A kind that is not there is absent; an API server that is away is neither.
    assert_eq!(cluster.module_config("deckhouse").await.unwrap(), None);
    assert!(!cluster.is_module_enabled("registry").await.unwrap());
    api.pause();
    assert!(cluster.secret("s").await.unwrap_err().is_passing());
    assert!(cluster.module_config("deckhouse").await.is_err());
    api.resume();
    assert_eq!(cluster.secret("s").await.unwrap(), None);
}

pub(super) async fn a_lease_has_one_holder_and_passes_on_when_it_is_given_back() {
    let (_directory, api) = server().await;
    let cluster = connect(api.kubeconfig("deckhouse")).await;
    let mut one = Candidate::new(cluster.clone(), "lease", "one");
    let mut other = Candidate::new(cluster, "lease", "other");
    let holds = |standing: Standing| matches!(standing, Standing::Holds(_));
    assert!(holds(one.ask(clock::now()).await.unwrap()));
    for _ in 0..3 {
        assert_eq!(other.ask(clock::now()).await.unwrap(), Standing::Waits { holder: "one".to_owned() });
        assert!(holds(one.ask(clock::now()).await.unwrap()), "renewed");
    }
    // One that holds nothing gives nothing back.
    other.give_back().await.unwrap();
    assert!(holds(one.ask(clock::now()).await.unwrap()));
    one.give_back().await.unwrap();
    assert!(holds(other.ask(clock::now()).await.unwrap()));
    assert_eq!(one.ask(clock::now()).await.unwrap(), Standing::Waits { holder: "other".to_owned() });
    assert!(!one.is_renewed_by_another(), "seen once alone");
    other.ask(clock::now()).await.unwrap();
    one.ask(clock::now()).await.unwrap();
    assert!(one.is_renewed_by_another());
    // Taken from one that lives, which then knows.
    assert!(holds(one.seize(clock::now()).await.unwrap()));
    assert_eq!(other.ask(clock::now()).await.unwrap(), Standing::Waits { holder: "one".to_owned() });
    assert!(holds(one.ask(clock::now()).await.unwrap()));
    // Both at once: one of them.
    one.give_back().await.unwrap();
    let now = clock::now();
    let (first, second) = tokio::join!(one.ask(now), other.ask(now));
    assert_eq!([first, second].into_iter().filter(|standing| holds(standing.as_ref().unwrap().clone())).count(), 1);
}

pub(super) async fn what_names_an_address_is_found_whatever_it_is() {
    let (_directory, api) = server().await;
    let cluster = connect(api.kubeconfig("deckhouse")).await;
    let address = "registry.d8-system.svc:5001/system/deckhouse";
    // Without the kind there are no sources of modules.
    assert!(cluster.references(address).await.unwrap().is_empty());
    for object in objects::definitions() {
        api.apply(&object).await;
    }
    let image = format!("{address}:v1");
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Always",
        "initContainers": [{"name": "i", "image": image}], "containers": [{"name": "c", "image": "elsewhere/x:1"}]}});
    let selector = json!({"matchLabels": {"a": "b"}});
    for (kind, spec) in [
        ("Deployment", json!({"selector": selector, "template": template})),
        ("DaemonSet", json!({"selector": selector, "template": template})),
        ("StatefulSet", json!({"selector": selector, "template": template, "serviceName": "s"})),
    ] {
        let metadata = json!({"name": "named", "namespace": WORKLOADS});
        api.apply(&json!({"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec})).await;
    }
    let mut job = template.clone();
    job["spec"]["restartPolicy"] = json!("Never");
    let spec = json!({"schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": job}}});
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "named", "namespace": WORKLOADS}, "spec": spec});
    api.apply(&cron).await;
    let source = json!({"apiVersion": "deckhouse.io/v1alpha1", "kind": "ModuleSource", "metadata": {"name": "named"},
        "spec": {"registry": {"repo": format!("{address}/modules")}}});
    api.apply(&source).await;
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": WORKLOADS}});
    api.apply(&account).await;
    api.apply(&objects::node("n", None, true).0).await;
    for (name, image) in
        [("named", image.as_str()), ("ended", image.as_str()), ("other", "registry.d8-system.svc:5001/system/other:v1")]
    {
        api.apply(&objects::pod(WORKLOADS, "p", name, "n", image)).await;
    }
    let pods = kube::Api::<k8s_openapi::api::core::v1::Pod>::namespaced(api.client.clone(), WORKLOADS);
    let ended = json!({"status": {"phase": "Succeeded"}});
    pods.patch_status("ended", &kube::api::PatchParams::default(), &kube::api::Patch::Merge(ended)).await.unwrap();
    let found: Vec<String> = cluster.references(address).await.unwrap().into_iter().map(|found| found.object).collect();
    let wanted = ["CronJob", "DaemonSet", "Deployment"].map(|kind| format!("{kind} {WORKLOADS}/named"));
    let mut wanted: Vec<String> = wanted.into();
    wanted.extend([
        "ModuleSource named".to_owned(),
        format!("Pod {WORKLOADS}/named"),
        format!("StatefulSet {WORKLOADS}/named"),
    ]);
    assert_eq!(found, wanted);
}

pub(super) async fn the_controllers_account_may_do_its_work_and_nothing_else() {
    let (_directory, api) = server().await;
    for object in objects::definitions().into_iter().chain(objects::rights()) {
        api.apply(&object).await;
    }
    let all = connect(api.kubeconfig("deckhouse")).await;
    let ours = connect(api.kubeconfig_of("d8-registry-controller").await).await;
    for name in ["registry-pki", "registry-previous", "d8-registry-mode", "foreign"] {
        all.create_secret(secret(name)).await.unwrap();
    }
    // Its work.
    assert!(ours.nodes().await.is_ok() && ours.references("x").await.is_ok() && ours.modules().await.is_ok());
    assert!(ours.deckhouse_pods(None).await.is_ok() && ours.deckhouse_deployment().await.is_ok());
    assert_eq!(ours.secret("registry-state").await.unwrap(), None);
    ours.create_secret(secret("registry-state")).await.unwrap();
    let mode = ours.secret("d8-registry-mode").await.unwrap().unwrap();
    ours.change_secret("d8-registry-mode", &mode.version, SecretChange::default()).await.unwrap();
    assert!(ours.could_create_secret(secret("registry-pki")).await.unwrap_err().is_conflict());
    assert!(ours.publish("registry-state", true, "Test", "A sentence.", clock::now()).await.is_ok());
    assert!(matches!(
        Candidate::new(ours.clone(), "d8-registry-controller", "x").ask(clock::now()).await,
        Ok(Standing::Holds(_))
    ));
    let previous = ours.secret("registry-previous").await.unwrap().unwrap();
    let change = SecretChange::default();
    assert!(ours.change_secret("registry-previous", &previous.version, change).await.unwrap_err().is_forbidden());
    ours.delete_secret("registry-previous", &previous.version).await.unwrap();
    // Nothing else.
    let refused = |error: d8_registry::cluster::ClusterError| {
        error.to_string().contains("(403 Forbidden)") || error.to_string().contains("(422 Invalid)")
    };
    assert!(refused(ours.secret("registry-pki").await.unwrap_err()));
    assert!(refused(ours.secret("foreign").await.unwrap_err()));
    // A policy counts a moment after it was made.
    while ours.could_create_secret(secret("another")).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(refused(ours.create_secret(secret("another")).await.unwrap_err()));
    let pki = all.secret("registry-pki").await.unwrap().unwrap();
    assert!(refused(ours.change_secret("registry-pki", &pki.version, SecretChange::default()).await.unwrap_err()));
    assert!(refused(ours.delete_secret("d8-registry-mode", &mode.version).await.unwrap_err()));
    assert!(refused(Candidate::new(ours, "another", "x").ask(clock::now()).await.unwrap_err()));
}
