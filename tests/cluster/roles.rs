//! What others do in answer to the controller: the keeper on each master, bashible on each node, Deckhouse.
//!
//! All of it follows from the objects as a watch shows them; what a node does not do yet (`hold`), it does when it is let.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use d8_registry::switch::{BashibleConfig, DeckhouseRegistry, Login, Mirror};
use d8_registry::values::{Scheme, Secret as Hidden};
use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Node as NodeObject, Pod, Secret};
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api as Objects, Client};
use serde_json::json;
use tokio::sync::Notify;

use super::api::NAMESPACE;
use super::objects;
use super::processes::Server;
use super::pulls::Node;
use super::release::{IMAGE, RELEASE};

/// The namespace of the workloads.
pub(crate) const WORKLOADS: &str = "d8-monitoring";

/// Everyone who answers the controller.
pub(crate) struct Roles {
    pub(crate) client: Client,
    pub(crate) servers: Mutex<Vec<Server>>,
    pub(crate) nodes: Mutex<BTreeMap<String, Arc<Node>>>,
    /// Nodes whose bashible does nothing.
    pub(crate) held: Mutex<BTreeSet<String>>,
    /// What they would do.
    pub(crate) bashible: Mutex<Option<BashibleConfig>>,
    /// Images that Deckhouse has rendered last.
    pub(crate) rendered: Mutex<Vec<String>>,
    /// The newest mode file.
    pub(crate) mode_file: Mutex<Vec<u8>>,
    /// Which server gets no newer mode file until [`Roles::catch_up`]; each time the next one. `None`: all get it at once.
    pub(crate) lag: Mutex<Option<usize>>,
    /// Whether the servers get no user's Secret until [`Roles::bring_users`].
    pub(crate) slow_users: AtomicBool,
    /// The users' Secrets as they are.
    pub(crate) users: Mutex<BTreeMap<String, BTreeMap<String, Vec<u8>>>>,
    /// Whether Deckhouse is down: it answers nothing.
    pub(crate) is_down: AtomicBool,
    pub(crate) directory: std::path::PathBuf,
    /// Notified of each change that was answered.
    pub(crate) answered: Notify,
}

impl Roles {
    /// Plays until the task ends.
    pub(crate) async fn play(self: Arc<Self>) {
        let secrets =
            watcher(Objects::<Secret>::namespaced(self.client.clone(), NAMESPACE), watcher::Config::default());
        let maps =
            watcher(Objects::<ConfigMap>::namespaced(self.client.clone(), NAMESPACE), watcher::Config::default());
        let (secrets, maps) = (secrets.default_backoff().applied_objects(), maps.default_backoff().applied_objects());
        pin_mut!(secrets, maps);
        loop {
            tokio::select! {
                Some(Ok(secret)) = secrets.next() => self.secret(secret).await,
                Some(Ok(map)) = maps.next() => self.map(map),
                // The API server is away; the watches come back by themselves.
                else => {}
            }
            self.answered.notify_waiters();
        }
    }

    async fn secret(&self, secret: Secret) {
        let name = secret.metadata.name.unwrap_or_default();
        let data: BTreeMap<String, Vec<u8>> =
            secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
        match name.as_str() {
            "d8-registry-mode" => {
                let Some(file) = data.get("mode.yaml") else { return };
                self.mode_file.lock().unwrap().clone_from(file);
                let lags = *self.lag.lock().unwrap();
                for (number, server) in self.servers.lock().unwrap().iter().enumerate() {
                    if lags != Some(number) {
                        server.keep("mode/mode.yaml", file);
                        server.reload();
                    }
                }
            }
            "registry-bashible-config" => {
                // bashible stops at what it can't read.
                let Ok(config) = BashibleConfig::read(&data) else { return };
                *self.bashible.lock().unwrap() = Some(config);
                let names: Vec<String> = self.nodes.lock().unwrap().keys().cloned().collect();
                for node in names {
                    self.converge(&node).await;
                }
            }
            "deckhouse-registry" => self.deckhouse(&data).await,
            user if user.starts_with("registry-user-") => {
                self.users.lock().unwrap().insert(user.to_owned(), data);
                if !self.slow_users.load(Ordering::Relaxed) {
                    self.bring_users();
                }
            }
            _ => {}
        }
    }

    fn map(&self, map: ConfigMap) {
        if map.metadata.name.as_deref() == Some("d8-registry-masters")
            && let Some(list) = map.data.unwrap_or_default().get("backends")
        {
            let new = self.directory.join("backends.new");
            std::fs::write(&new, list).unwrap();
            rustix::fs::rename(new, self.directory.join("backends")).unwrap();
        }
    }

    /// The servers get the users' Secrets as they are, and from now on at once.
    pub(crate) fn bring_users(&self) {
        self.slow_users.store(false, Ordering::Relaxed);
        let users = self.users.lock().unwrap();
        for server in self.servers.lock().unwrap().iter() {
            for (user, data) in &*users {
                server.keep_user(user, data);
            }
            server.reload();
        }
    }

    /// Whether the server that lags has not the newest mode file yet.
    pub(crate) fn is_behind(&self) -> bool {
        let lags = *self.lag.lock().unwrap();
        let newest = self.mode_file.lock().unwrap();
        let servers = self.servers.lock().unwrap();
        lags.is_some_and(|number| servers[number].kept("mode/mode.yaml") != *newest)
    }

    /// The server that lags gets the newest mode file; from now on the next one lags.
    pub(crate) fn catch_up(&self) {
        let newest = self.mode_file.lock().unwrap();
        let servers = self.servers.lock().unwrap();
        let mut lag = self.lag.lock().unwrap();
        if let Some(number) = *lag {
            servers[number].keep("mode/mode.yaml", &newest);
            servers[number].reload();
            *lag = Some((number + 1) % servers.len());
        }
    }

    /// All servers get the newest mode file, and each newer one at once.
    pub(crate) fn deliver(&self) {
        *self.lag.lock().unwrap() = None;
        let newest = self.mode_file.lock().unwrap();
        for server in self.servers.lock().unwrap().iter() {
            server.keep("mode/mode.yaml", &newest);
            server.reload();
        }
    }

    /// The Secret for nodes is gone, and bashible writes containerd's configuration of before on every one of them.
    pub(crate) async fn forget(&self) {
        *self.bashible.lock().unwrap() = None;
        let nodes: Vec<(String, Arc<Node>)> = self.nodes.lock().unwrap().clone().into_iter().collect();
        let objects = Objects::<NodeObject>::all(self.client.clone());
        let patch = json!({"metadata": {"annotations": {"registry.deckhouse.io/version": null}}});
        for (name, node) in nodes {
            node.hosts.lock().unwrap().clear();
            objects.patch(&name, &PatchParams::default(), &Patch::Merge(patch.clone())).await.unwrap();
        }
    }

    /// bashible's run on a node: containerd's files first, then the word that they are there.
    pub(crate) async fn converge(&self, name: &str) {
        if self.held.lock().unwrap().contains(name) {
            return;
        }
        let Some(config) = self.bashible.lock().unwrap().clone() else { return };
        let Some(node) = self.nodes.lock().unwrap().get(name).cloned() else { return };
        *node.hosts.lock().unwrap() = config.hosts;
        let nodes = Objects::<NodeObject>::all(self.client.clone());
        let patch = json!({"metadata": {"annotations": {"registry.deckhouse.io/version": config.version}}});
        // A node that left meanwhile says nothing.
        let _ = nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
    }

    /// Lets a held node do what it has not done. One that is new gets its pods then.
    pub(crate) async fn release(&self, name: &str) {
        self.held.lock().unwrap().remove(name);
        self.converge(name).await;
        let nodes = self.nodes.lock().unwrap();
        let (Some(node), Some(other)) = (nodes.get(name), nodes.iter().find(|(other, _)| *other != name)) else {
            return;
        };
        let images = other.1.images.lock().unwrap().clone();
        node.images.lock().unwrap().extend(images);
    }

    /// Deckhouse's pod can't get its image, and nobody does what it would.
    pub(crate) async fn take_deckhouse_down(&self) {
        self.is_down.store(true, Ordering::Relaxed);
        let waits = json!({"name": "deckhouse", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff"}}});
        self.set_deckhouse(&json!({"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [waits]}))
            .await;
    }

    /// It runs again, with the registry of now.
    pub(crate) async fn bring_deckhouse_up(&self) {
        self.is_down.store(false, Ordering::Relaxed);
        let secrets = Objects::<Secret>::namespaced(self.client.clone(), NAMESPACE);
        let data = secrets.get("deckhouse-registry").await.unwrap().data.unwrap_or_default();
        self.deckhouse(&data.into_iter().map(|(key, value)| (key, value.0)).collect()).await;
        self.set_deckhouse(
            &json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": []}),
        )
        .await;
    }

    async fn set_deckhouse(&self, status: &serde_json::Value) {
        let pods = Objects::<Pod>::namespaced(self.client.clone(), NAMESPACE);
        let patch = Patch::Merge(json!({"status": status}));
        pods.patch_status("deckhouse-leader", &PatchParams::default(), &patch).await.unwrap();
    }

    /// Deckhouse: it runs with the new registry, then renders everything anew, image by image.
    async fn deckhouse(&self, data: &BTreeMap<String, Vec<u8>>) {
        if self.is_down.load(Ordering::Relaxed) {
            return;
        }
        let Ok(registry) = DeckhouseRegistry::read(data) else { return };
        let base = format!("{}{}", registry.address, registry.path);
        // Of a node that is lost nothing changes.
        let heard = |node: &Node| !node.lost.load(Ordering::Relaxed);
        let nodes: Vec<(String, Arc<Node>)> = self.nodes.lock().unwrap().clone().into_iter().collect();
        let nodes: Vec<_> = nodes.into_iter().filter(|(_, node)| heard(node)).collect();
        let direct = direct(&registry);
        for (_, node) in &nodes {
            node.pull_secret.lock().unwrap().insert(registry.address.clone(), direct.clone());
        }
        let deckhouse = format!("{base}:{RELEASE}");
        let grafana = format!("{base}@{}", IMAGE.digest());
        *self.rendered.lock().unwrap() = vec![deckhouse.clone(), grafana.clone()];
        for (namespace, name, image) in [(NAMESPACE, "deckhouse", &deckhouse), (WORKLOADS, "grafana", &grafana)] {
            let deployments = Objects::<Deployment>::namespaced(self.client.clone(), namespace);
            let template = json!({"spec": {"template": {"spec": {"containers": [{"name": name, "image": image}]}}}});
            deployments.patch(name, &PatchParams::default(), &Patch::Strategic(template)).await.unwrap();
            // The new pods pull before the old ones go.
            for (_, node) in &nodes {
                node.images.lock().unwrap().insert(image.clone());
            }
        }
        for (name, _) in &nodes {
            self.restart_workload(name, &grafana).await;
        }
        for (_, node) in &nodes {
            node.images.lock().unwrap().retain(|image| *image == deckhouse || *image == grafana);
        }
        let pods = Objects::<Pod>::namespaced(self.client.clone(), NAMESPACE);
        let patch = json!({"metadata": {"annotations": {"checksum/registry-version": registry.hash()}}});
        pods.patch("deckhouse-leader", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// A node that was lost starts the pods of today.
    pub(crate) async fn restart_pods(&self, name: &str) {
        let rendered = self.rendered.lock().unwrap().clone();
        let Some(node) = self.nodes.lock().unwrap().get(name).cloned() else { return };
        let other =
            self.nodes.lock().unwrap().iter().find(|(other, _)| *other != name).map(|(_, node)| Arc::clone(node));
        if let Some(other) = other {
            node.pull_secret.lock().unwrap().clone_from(&other.pull_secret.lock().unwrap());
        }
        *node.images.lock().unwrap() = rendered.iter().cloned().collect();
        if let Some(image) = rendered.last() {
            self.restart_workload(name, image).await;
        }
    }

    async fn restart_workload(&self, node: &str, image: &str) {
        self.collect_pods(node).await;
        let pods = Objects::<Pod>::namespaced(self.client.clone(), WORKLOADS);
        let pod = objects::pod(WORKLOADS, "grafana", &format!("grafana-{node}"), node, image);
        let pod: Pod = serde_json::from_value(pod).unwrap();
        pods.create(&kube::api::PostParams::default(), &pod).await.unwrap();
    }

    /// The pods of a node go, with those of a Node that was deleted too.
    pub(crate) async fn collect_pods(&self, node: &str) {
        let pods = Objects::<Pod>::namespaced(self.client.clone(), WORKLOADS);
        let _ = pods.delete(&format!("grafana-{node}"), &objects::now()).await;
    }
}

/// The way that containerd takes where no mirror is configured: the host itself, with the pod's pull secret.
fn direct(registry: &DeckhouseRegistry) -> Mirror {
    let config: serde_json::Value = serde_json::from_str(registry.docker_config.expose()).unwrap();
    let auth = config.pointer("/auths").and_then(|auths| auths.get(&registry.address));
    let auth =
        auth.and_then(|auth| auth.get("auth")).and_then(serde_json::Value::as_str).filter(|auth| !auth.is_empty());
    let login = auth.map(|auth| {
        let pair = String::from_utf8(STANDARD.decode(auth).unwrap()).unwrap();
        let (username, password) = pair.split_once(':').unwrap();
        Login { username: username.to_owned(), password: Hidden::new(password.to_owned()) }
    });
    Mirror {
        host: registry.address.clone(),
        scheme: if registry.scheme == "http" { Scheme::Http } else { Scheme::Https },
        ca: Some(registry.ca.clone()).filter(|ca| !ca.is_empty()),
        login,
        rewrites: Vec::new(),
    }
}
