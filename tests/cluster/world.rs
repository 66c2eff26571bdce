//! A cluster: API server, masters with servers, nodes that pull, Deckhouse, and two registries outside.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node as NodeObject, Secret};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::api::{ApiServer, NAMESPACE, client};
use super::objects;
use super::processes::{Authority, ControllerSetup, Process, Server, node_proxy};
use super::pulls::{Node, Pulls};
use super::release::{push_release, push_release_without};
use super::roles::{Roles, WORKLOADS};
use super::wanted::{Pace, Wanted};

/// The repository of the registries outside.
const REPOSITORY: &str = "deckhouse/ee";
/// The bcrypt hash, at the lowest cost, of `secret`.
pub(crate) const HASH_OF_SECRET: &str = "$2y$04$6LkUk9iQoONEdXK3HZE.SeQ2EpsbuPuk2oSSfsIHz4kN4cXieH.BG";
/// Addresses of the registries outside.
pub(crate) const UPSTREAMS: [&str; 2] = ["127.0.0.8", "127.0.0.9"];
/// Ends a case that would wait for ever; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(240);
/// The same where a switch takes its default times, 10 minutes and more.
const LONG_PATIENCE: Duration = Duration::from_secs(1200);

/// The cluster.
pub(crate) struct World {
    pub(crate) api: ApiServer,
    /// An administrator, for whom Deckhouse's policies count.
    pub(crate) admin: kube::Client,
    pub(crate) roles: Arc<Roles>,
    pub(crate) pulls: Arc<Pulls>,
    pub(crate) setup: ControllerSetup,
    /// Keys of the administrator's Secret beside those of the mode.
    pub(crate) keys: BTreeMap<&'static str, &'static str>,
    pub(super) patience: Duration,
    pub(crate) controllers: BTreeMap<u16, Process>,
    authority: Authority,
    outside: Authority,
    pulling: JoinSet<()>,
    pub(crate) upstreams: Vec<Server>,
    _node_proxy: Process,
    directory: TempDir,
}

impl World {
    /// As [`World::at`], at the quick pace.
    pub(crate) async fn start(masters: &[&str], workers: &[&str]) -> Self {
        Self::at(Pace::Quick, masters, workers).await
    }

    /// The same with masters that don't know each other: what one has the others lack.
    pub(crate) async fn start_apart(masters: &[&str], workers: &[&str]) -> Self {
        Self::made(Pace::Quick, masters, workers, false).await
    }

    /// Bare Unmanaged, with the first registry outside, as a cluster is before it ever had the module. A node whose name
    /// begins with `plain` has a containerd without Deckhouse's rewrites.
    pub(crate) async fn at(pace: Pace, masters: &[&str], workers: &[&str]) -> Self {
        Self::made(pace, masters, workers, true).await
    }

    async fn made(pace: Pace, masters: &[&str], workers: &[&str], know_each_other: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let api = ApiServer::start(&path.join("kubernetes")).await;
        let (authority, outside) = (Authority::new(path, "registry-ca"), Authority::new(path, "outside-ca"));
        let users = format!("auth: {{users: [{{name: license, role: rw, passwordHash: '{HASH_OF_SECRET}'}}]}}");
        let tls = "tls: {certFile: $DIR/pki/tls.crt, keyFile: $DIR/pki/tls.key";
        let mut upstreams = Vec::new();
        for address in UPSTREAMS {
            let configuration = format!("mode: Local\n{tls}}}\n{users}\n");
            let mut upstream = Server::new(path.join(address), address, &outside, &configuration);
            upstream.start();
            push_release(&upstream.host(), REPOSITORY, ("license", "secret"), &outside.pem()).await;
            upstreams.push(upstream);
        }
        let ca = path.join("ca.crt");
        std::fs::copy(&authority.cert, &ca).unwrap();
        authority.issue(path, &["--uri", "d8-registry:controller"]);
        // As the chart has it: masters know each other by the list that node-proxy reads.
        let replicas = format!(
            "replicas: {{peers: {}/backends, certificate: $DIR/pki/peer.crt, key: $DIR/pki/peer.key, ca: {ca}}}\n",
            path.display(),
            ca = ca.display()
        );
        let configuration = format!(
            "mode: Local\nmodeFile: $DIR/mode/mode.yaml\n{tls}, controllerCAFile: {}}}\nauth: {{usersDir: $DIR/users, upstreamUser: true}}\n{}",
            ca.display(),
            if know_each_other { &*replicas } else { "" }
        );
        let mut servers = Vec::new();
        for number in 0..masters.len() {
            let address = address_of(number);
            servers.push(Server::new(path.join(&address), &address, &authority, &configuration));
        }
        // The chart begins the list.
        std::fs::write(path.join("backends"), format!("{}:5001\n", address_of(0))).unwrap();
        let roles = Arc::new(Roles {
            client: api.client.clone(),
            servers: Mutex::new(servers),
            nodes: Mutex::default(),
            held: Mutex::default(),
            bashible: Mutex::default(),
            rendered: Mutex::default(),
            mode_file: Mutex::default(),
            lag: Mutex::default(),
            slow_users: AtomicBool::default(),
            users: Mutex::default(),
            is_down: AtomicBool::default(),
            directory: path.to_owned(),
            answered: Notify::new(),
        });
        let setup = ControllerSetup {
            kubeconfig: api.kubeconfig("deckhouse"),
            directory: path.to_owned(),
            flags: pace.flags(),
        };
        let mut world = Self {
            _node_proxy: node_proxy(path),
            admin: client(&api.kubeconfig("admin")).await,
            api,
            roles,
            // Behind several masters each request may come to another one.
            pulls: Arc::new(Pulls::new(masters.len() > 1)),
            setup,
            keys: pace.keys().iter().copied().collect(),
            patience: if pace == Pace::Defaults { LONG_PATIENCE } else { PATIENCE },
            controllers: BTreeMap::new(),
            authority,
            outside,
            pulling: JoinSet::new(),
            upstreams,
            directory,
        };
        world.prepare(masters, workers).await;
        world
    }

    async fn prepare(&mut self, masters: &[&str], workers: &[&str]) {
        for namespace in [NAMESPACE, WORKLOADS] {
            self.api.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})).await;
        }
        let policies = objects::policies().into_iter();
        let before =
            objects::definitions().into_iter().chain(policies).chain(objects::rights()).chain(objects::services());
        for object in before.chain(objects::modules()) {
            self.api.apply(&object).await;
        }
        self.setup.kubeconfig = self.api.kubeconfig_of("d8-registry-controller").await;
        let mode_file = "version: 1\ngeneration: 1\ninForce: {mode: Unmanaged}\n";
        self.secret("d8-registry-mode", "Opaque", &[("mode.yaml", mode_file)]).await;
        self.secret(
            "registry-pki",
            "registry/pki",
            &[("ca.crt", &self.authority.pem()), ("ca.key", "of the masters alone")],
        )
        .await;
        let ca = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "registry-ca", "namespace": NAMESPACE},
            "data": {"ca.crt": self.authority.pem()}});
        self.api.apply(&ca).await;
        for (number, name) in masters.iter().enumerate() {
            self.join(name, Some(&address_of(number)), true).await;
        }
        for name in workers {
            self.join(name, None, true).await;
        }
        for (namespace, name) in [(NAMESPACE, "deckhouse"), (WORKLOADS, "grafana")] {
            self.api.apply(&objects::deployment(namespace, name, "none")).await;
        }
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": WORKLOADS}});
        self.api.apply(&account).await;
        let system = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": NAMESPACE}});
        self.api.apply(&system).await;
        self.api.apply(&objects::pod(NAMESPACE, "deckhouse", "deckhouse-leader", masters[0], "none")).await;
        let pods = self.api.of::<k8s_openapi::api::core::v1::Pod>();
        let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        pods.patch_status("deckhouse-leader", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        let (address, auth) = (format!("{}:5001", UPSTREAMS[0]), STANDARD.encode("license:secret"));
        let docker = json!({"auths": {&address: {"auth": auth}}}).to_string();
        let fields = [
            ("address", address.as_str()),
            ("path", "/deckhouse/ee"),
            ("scheme", "https"),
            ("ca", &self.outside.pem()),
            (".dockerconfigjson", &docker),
            ("clusterIsBootstrapped", "true"),
        ];
        self.secret("deckhouse-registry", "kubernetes.io/dockerconfigjson", &fields).await;
        let roles = Arc::clone(&self.roles);
        self.pulling.spawn(roles.play());
        // The servers' mode file first, as the keeper has it.
        self.until("the servers have their mode file", || async {
            self.roles
                .servers
                .lock()
                .unwrap()
                .iter()
                .all(|server| self.directory.path().join(&server.address).join("mode/mode.yaml").exists())
        })
        .await;
        for server in self.roles.servers.lock().unwrap().iter_mut() {
            server.start();
        }
    }

    pub(crate) async fn secret(&self, name: &str, kind: &str, data: &[(&str, &str)]) {
        let data: BTreeMap<&str, &str> = data.iter().copied().collect();
        let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE},
            "type": kind, "stringData": data});
        self.api.apply(&object).await;
    }

    /// A Node joins; its pods pull from then on, as those of all others. One whose bashible is held has no pods before it is let.
    pub(crate) async fn join(&mut self, name: &str, address: Option<&str>, ready: bool) {
        let node = Arc::new(Node { plain: name.starts_with("plain"), ..Node::default() });
        if let Some(other) = self.roles.nodes.lock().unwrap().values().next() {
            if !self.roles.held.lock().unwrap().contains(name) {
                node.images.lock().unwrap().clone_from(&other.images.lock().unwrap());
            }
            node.pull_secret.lock().unwrap().clone_from(&other.pull_secret.lock().unwrap());
        }
        let (object, status) = objects::node(name, address, ready);
        self.api.apply(&object).await;
        let nodes = self.api.all::<NodeObject>();
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        self.roles.nodes.lock().unwrap().insert(name.to_owned(), Arc::clone(&node));
        // A node is bootstrapped with what there is: it pulls only after its first bashible run.
        self.roles.converge(name).await;
        self.pulling.spawn(Arc::clone(&self.pulls).go_on(name.to_owned(), node));
    }

    /// A Node leaves; nothing on it pulls any more.
    pub(crate) async fn leave(&self, name: &str) {
        if let Some(node) = self.roles.nodes.lock().unwrap().remove(name) {
            node.images.lock().unwrap().clear();
        }
        self.api.all::<NodeObject>().delete(name, &DeleteParams::default()).await.unwrap();
        self.roles.collect_pods(name).await;
    }

    /// A Node is NotReady: nobody hears its kubelet, and bashible hears nobody. Its containers go on and pull.
    pub(crate) async fn lose(&self, name: &str) {
        self.hold(name);
        self.roles.nodes.lock().unwrap()[name].lost.store(true, Ordering::Relaxed);
        self.set_ready(name, "Unknown").await;
    }

    /// It is back: bashible does what it has missed, the kubelet starts the pods of today.
    pub(crate) async fn bring_back(&self, name: &str) {
        self.roles.nodes.lock().unwrap()[name].lost.store(false, Ordering::Relaxed);
        self.set_ready(name, "True").await;
        self.roles.release(name).await;
        self.roles.restart_pods(name).await;
    }

    async fn set_ready(&self, name: &str, status: &str) {
        let (_, mut object) = objects::node(name, None, true);
        object["status"]["conditions"][0]["status"] = json!(status);
        let conditions = json!({"status": {"conditions": object["status"]["conditions"]}});
        let nodes = self.api.all::<NodeObject>();
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(conditions)).await.unwrap();
    }

    /// Holds back a node's bashible.
    pub(crate) fn hold(&self, name: &str) {
        self.roles.held.lock().unwrap().insert(name.to_owned());
    }

    /// Starts the controller of a number.
    pub(crate) fn control(&mut self, number: u16) {
        self.controllers.insert(number, self.setup.start(number));
    }

    /// Kills it.
    pub(crate) fn kill(&mut self, number: u16) {
        self.controllers.remove(&number);
    }

    /// Kills it, and the term of its Lease passes.
    pub(crate) async fn kill_and_pass_on(&mut self, number: u16) {
        self.kill(number);
        let _ = self.api.of::<Lease>().delete("d8-registry-controller", &DeleteParams::default()).await;
    }

    /// Ends it as Kubernetes does.
    pub(crate) fn terminate(&mut self, number: u16) {
        assert!(self.controllers.remove(&number).unwrap().terminate(), "it did not end in order");
    }

    /// The administrator's file.
    pub(crate) async fn want(&self, wanted: Wanted) {
        let outside = |number: usize| json!({"imagesRepo": Self::repository(number), "scheme": "HTTPS", "ca": self.outside.pem(), "username": "license", "password": "secret"});
        let mut data = match wanted {
            Wanted::Direct(number) | Wanted::Proxy(number) | Wanted::Configured(number) => outside(number),
            Wanted::Local | Wanted::Bare => json!({}),
        };
        data["mode"] = json!(wanted.target().as_str());
        for (key, value) in &self.keys {
            data[*key] = json!(value);
        }
        let secrets = self.api.of::<Secret>();
        let _ = secrets.delete("d8-registry-settings", &DeleteParams::default()).await;
        let object = json!({"apiVersion": "v1", "kind": "Secret", "type": "registry/config", "stringData": data,
            "metadata": {"name": "d8-registry-settings", "namespace": NAMESPACE, "annotations": {"d8-registry/source": "manual"}}});
        self.api.create(&secrets, object).await;
    }

    /// The images' repository in a registry outside.
    pub(crate) fn repository(number: usize) -> String {
        format!("{}:5001/{REPOSITORY}", UPSTREAMS[number])
    }

    /// A folder for files, and the CA of the registries outside in one.
    pub(crate) fn files(&self) -> (&Path, &Path) {
        (self.directory.path(), &self.outside.cert)
    }

    /// `host:port` of every server.
    pub(crate) fn hosts(&self) -> Vec<String> {
        self.roles.servers.lock().unwrap().iter().map(Server::host).collect()
    }

    /// `d8 mirror push` to a master.
    pub(crate) async fn push(&self, host: &str) {
        self.push_without(host, "").await;
    }

    /// The same without one blob.
    pub(crate) async fn push_without(&self, host: &str, blob: &str) {
        let password = self.password("registry-user-rw").await;
        push_release_without(host, "system/deckhouse", ("rw", &password), &self.authority.pem(), blob).await;
    }

    async fn password(&self, secret: &str) -> String {
        let secret = self.api.of::<Secret>().get(secret).await.unwrap();
        String::from_utf8(secret.data.unwrap()["password"].0.clone()).unwrap()
    }
}

fn address_of(master: usize) -> String {
    format!("127.0.0.{}", 11 + master)
}
