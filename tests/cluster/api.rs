//! A real API server, and a client of it for the roles that the test plays.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::Command;

use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::discovery;
use kube::{Api as Objects, Client, Config, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub(crate) const NAMESPACE: &str = "d8-system";

/// An API server that ends with this.
pub(crate) struct ApiServer {
    directory: PathBuf,
    pub(crate) client: Client,
}

fn order(order: &str, directory: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/kube-cluster.sh");
    let status = Command::new(script).arg(order).arg(directory).stdout(std::process::Stdio::null()).status().unwrap();
    assert!(status.success(), "kube-cluster.sh {order}");
}

impl ApiServer {
    /// Starts one in this directory.
    pub(crate) async fn start(directory: &Path) -> Self {
        order("up", directory);
        let client = client(&directory.join("deckhouse.kubeconfig")).await;
        Self { directory: directory.to_owned(), client }
    }

    /// A kubeconfig by file name.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.directory.join(format!("{user}.kubeconfig"))
    }

    /// A kubeconfig with a token of a ServiceAccount of [`NAMESPACE`].
    pub(crate) async fn kubeconfig_of(&self, account: &str) -> PathBuf {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token");
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}});
        let request = http::Request::post(path).header("content-type", "application/json");
        let answer: Value = self.client.request(request.body(body.to_string().into_bytes()).unwrap()).await.unwrap();
        let token = answer.pointer("/status/token").and_then(Value::as_str).unwrap();
        let text = std::fs::read_to_string(self.kubeconfig("admin")).unwrap();
        let file = self.kubeconfig(account);
        std::fs::write(&file, text.replace("admin-token", token)).unwrap();
        file
    }

    /// A kubeconfig of an administrator who acts as `system:sudouser`.
    pub(crate) fn kubeconfig_as_sudouser(&self) -> PathBuf {
        let text = std::fs::read_to_string(self.kubeconfig("admin")).unwrap();
        let file = self.kubeconfig("sudouser");
        let acting = "{token: admin-token, as: system:sudouser, as-groups: [system:masters]}";
        std::fs::write(&file, text.replace("{token: admin-token}", acting)).unwrap();
        file
    }

    /// Takes the API server away; etcd keeps everything.
    pub(crate) fn pause(&self) {
        order("pause", &self.directory);
    }

    /// Brings it back.
    pub(crate) fn resume(&self) {
        order("resume", &self.directory);
    }

    /// Objects of [`NAMESPACE`].
    pub(crate) fn of<K>(&self) -> Objects<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Objects::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Objects without a namespace.
    pub(crate) fn all<K: Resource<DynamicType = ()>>(&self) -> Objects<K> {
        Objects::all(self.client.clone())
    }

    /// Makes an object, or changes it to this, whatever kind it is.
    pub(crate) async fn apply(&self, object: &Value) {
        let (objects, name) = self.objects(object).await;
        let parameters = PatchParams::apply("test").force();
        if let Err(error) = objects.patch(&name, &parameters, &Patch::Apply(object)).await {
            panic!("{name}: {error}");
        }
    }

    /// The same for its status, which is a part of its own.
    pub(crate) async fn apply_status(&self, object: &Value) {
        let (objects, name) = self.objects(object).await;
        let status = json!({"status": object["status"]});
        objects.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// Where an object is, and its name.
    async fn objects(&self, object: &Value) -> (Objects<DynamicObject>, String) {
        let kind = object["kind"].as_str().unwrap();
        let (group, version) = match object["apiVersion"].as_str().unwrap().split_once('/') {
            Some(pair) => pair,
            None => ("", object["apiVersion"].as_str().unwrap()),
        };
        let kind = GroupVersionKind::gvk(group, version, kind);
        let (resource, capabilities) = loop {
            // A kind whose definition was made a moment ago is not served yet.
            match discovery::pinned_kind(&self.client, &kind).await {
                Ok(found) => break found,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let objects = match capabilities.scope {
            discovery::Scope::Cluster => Objects::all_with(self.client.clone(), &resource),
            discovery::Scope::Namespaced => {
                let namespace = object["metadata"]["namespace"].as_str().unwrap_or(NAMESPACE);
                Objects::namespaced_with(self.client.clone(), namespace, &resource)
            }
        };
        (objects, object["metadata"]["name"].as_str().unwrap().to_owned())
    }

    /// Makes an object that is not there.
    pub(crate) async fn create<K>(&self, objects: &Objects<K>, object: Value)
    where
        K: Resource + Clone + DeserializeOwned + Serialize + Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        objects.create(&PostParams::default(), &object).await.unwrap();
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        order("down", &self.directory);
    }
}

/// A client by a kubeconfig.
pub(crate) async fn client(file: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(file).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}
