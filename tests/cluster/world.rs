//! A cluster: API server, masters with servers, nodes that pull, Deckhouse, and two registries outside.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use d8_registry::switch::{Condition, ConditionType, RegistryState, Target};
use k8s_openapi::api::core::v1::{Node as NodeObject, Secret};
use kube::api::{DeleteParams, Patch, PatchParams};
use reqwest::{Certificate, Client};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::Image;
use testkit::layer::{Tar, gzip};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::api::{ApiServer, NAMESPACE};
use super::objects;
use super::processes::{Authority, ControllerSetup, Process, Server, metrics_address, node_proxy};
use super::pulls::{Node, Pulls};
use super::roles::{Roles, WORKLOADS};

/// The release that runs.
pub(crate) const RELEASE: &str = "v1.70.1";
/// The image of a workload, which is a module's.
pub(crate) static IMAGE: LazyLock<Image> = LazyLock::new(|| Image::of(2));
/// The image of Deckhouse itself.
static DECKHOUSE: LazyLock<Image> = LazyLock::new(|| Image::of(1));
/// The repository of the registries outside.
const REPOSITORY: &str = "deckhouse/ee";
/// The bcrypt hash, at the lowest cost, of `secret`.
const HASH_OF_SECRET: &str = "$2y$04$6LkUk9iQoONEdXK3HZE.SeQ2EpsbuPuk2oSSfsIHz4kN4cXieH.BG";
/// Addresses of the registries outside.
pub(crate) const UPSTREAMS: [&str; 2] = ["127.0.0.8", "127.0.0.9"];
/// Ends a case that would wait for ever; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(240);

/// What an administrator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Direct(usize),
    Proxy(usize),
    Local,
    /// With the registry outside of that number.
    Configured(usize),
    Bare,
}

impl Wanted {
    pub(crate) const fn target(self) -> Target {
        match self {
            Self::Direct(_) => Target::Direct,
            Self::Proxy(_) => Target::Proxy,
            Self::Local => Target::Local,
            Self::Configured(_) | Self::Bare => Target::Unmanaged,
        }
    }
}

/// The cluster.
pub(crate) struct World {
    pub(crate) api: ApiServer,
    pub(crate) roles: Arc<Roles>,
    pub(crate) pulls: Arc<Pulls>,
    pub(crate) setup: ControllerSetup,
    controllers: BTreeMap<u16, Process>,
    authority: Authority,
    outside: Authority,
    pulling: JoinSet<()>,
    _upstreams: Vec<Server>,
    _node_proxy: Process,
    directory: TempDir,
}

impl World {
    /// Bare Unmanaged, with the first registry outside, as a cluster is before it ever had the module.
    pub(crate) async fn start(masters: &[&str], workers: &[&str]) -> Self {
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
        let configuration = format!(
            "mode: Local\nmodeFile: $DIR/mode/mode.yaml\n{tls}, controllerCAFile: {}}}\nauth: {{usersDir: $DIR/users, upstreamUser: true}}\n",
            ca.display()
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
            directory: path.to_owned(),
            answered: Notify::new(),
        });
        let setup = ControllerSetup {
            kubeconfig: api.kubeconfig("deckhouse"),
            directory: path.to_owned(),
            settle: "1s",
            scan_interval: "1s",
            unready_nodes: "wait",
        };
        let mut world = Self {
            _node_proxy: node_proxy(path),
            api,
            roles,
            pulls: Arc::default(),
            setup,
            controllers: BTreeMap::new(),
            authority,
            outside,
            pulling: JoinSet::new(),
            _upstreams: upstreams,
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

    async fn secret(&self, name: &str, kind: &str, data: &[(&str, &str)]) {
        let data: BTreeMap<&str, &str> = data.iter().copied().collect();
        let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE},
            "type": kind, "stringData": data});
        self.api.apply(&object).await;
    }

    /// A Node joins; its pods pull from then on, as those of all others. One whose bashible is held has no pods before it is let.
    pub(crate) async fn join(&mut self, name: &str, address: Option<&str>, ready: bool) {
        let node = Arc::new(Node::default());
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

    /// Ends it as Kubernetes does.
    pub(crate) fn terminate(&mut self, number: u16) {
        assert!(self.controllers.remove(&number).unwrap().terminate(), "it did not end in order");
    }

    /// The administrator's file.
    pub(crate) async fn want(&self, wanted: Wanted) {
        let outside = |number: usize| {
            let repo = format!("{}:5001/{REPOSITORY}", UPSTREAMS[number]);
            json!({"imagesRepo": repo, "scheme": "HTTPS", "ca": self.outside.pem(), "username": "license", "password": "secret"})
        };
        let mut data = match wanted {
            Wanted::Direct(number) | Wanted::Proxy(number) | Wanted::Configured(number) => outside(number),
            Wanted::Local | Wanted::Bare => json!({}),
        };
        data["mode"] = json!(wanted.target().as_str());
        let secrets = self.api.of::<Secret>();
        let _ = secrets.delete("registry-config", &DeleteParams::default()).await;
        let object = json!({"apiVersion": "v1", "kind": "Secret", "type": "registry/config", "stringData": data,
            "metadata": {"name": "registry-config", "namespace": NAMESPACE, "annotations": {"d8-registry/source": "manual"}}});
        self.api.create(&secrets, object).await;
    }

    /// `registry-state`, once there is one.
    pub(crate) async fn state(&self) -> Option<RegistryState> {
        let secret = self.api.of::<Secret>().get_opt("registry-state").await.ok()??;
        let data: BTreeMap<String, Vec<u8>> = secret.data?.into_iter().map(|(key, value)| (key, value.0)).collect();
        RegistryState::read(&data).ok()
    }

    /// Whether a condition has this status now.
    pub(crate) async fn is(&self, kind: ConditionType, status: bool) -> bool {
        let found = self.condition(kind).await;
        found.is_some_and(|condition| condition.status == status)
    }

    pub(crate) async fn condition(&self, kind: ConditionType) -> Option<Condition> {
        self.state().await?.conditions.into_iter().find(|condition| condition.kind == kind)
    }

    /// Waits until the condition has this status while this mode is wanted.
    pub(crate) async fn until_condition(&self, target: Target, kind: ConditionType, status: bool) {
        self.until(&format!("{kind} is {status} on the way to {target}"), || async {
            self.state().await.is_some_and(|state| {
                state.target_mode == target
                    && state.conditions.iter().any(|condition| condition.kind == kind && condition.status == status)
            })
        })
        .await;
    }

    /// Asks for a mode, does what an administrator does on the way, and waits for its end.
    pub(crate) async fn switch(&self, wanted: Wanted) {
        self.want(wanted).await;
        self.finish(wanted).await;
    }

    /// Waits for the end of a switch that was asked for.
    pub(crate) async fn finish(&self, wanted: Wanted) {
        if wanted == Wanted::Local {
            // `d8 mirror push`, once the servers take it.
            self.until_condition(Target::Local, ConditionType::NodeServicesReady, true).await;
            let password = self.password("registry-user-rw").await;
            let hosts: Vec<String> = self.roles.servers.lock().unwrap().iter().map(Server::host).collect();
            for host in hosts {
                push_release(&host, "system/deckhouse", ("rw", &password), &self.authority.pem()).await;
            }
        }
        let target = wanted.target();
        self.until(&format!("{wanted:?} is reached"), || async {
            self.state().await.is_some_and(|state| {
                state.mode == target
                    && state.target_mode == target
                    && state
                        .conditions
                        .iter()
                        .any(|condition| condition.kind == ConditionType::Ready && condition.status)
            })
        })
        .await;
        self.assert_pulled().await;
    }

    async fn password(&self, secret: &str) -> String {
        let secret = self.api.of::<Secret>().get(secret).await.unwrap();
        String::from_utf8(secret.data.unwrap()["password"].0.clone()).unwrap()
    }

    /// Every node has pulled since, and none ever failed.
    pub(crate) async fn assert_pulled(&self) {
        let nodes = u64::try_from(self.roles.nodes.lock().unwrap().len()).unwrap();
        let enough = self.pulls.done.load(Ordering::Relaxed) + 4 * nodes;
        self.until("pulls go on", || async { self.pulls.done.load(Ordering::Relaxed) >= enough }).await;
        self.assert_no_failure();
    }

    pub(crate) fn assert_no_failure(&self) {
        let failures = self.pulls.failures();
        assert!(failures.is_empty(), "{} failed pulls: {:#?}", failures.len(), &failures[..failures.len().min(5)]);
    }

    /// A metric of a controller; `None` where it does not run or has none of that name.
    pub(crate) async fn metric(&self, number: u16, line: &str) -> Option<u64> {
        let url = format!("http://{}/metrics", metrics_address(number));
        let answer = Client::builder().no_proxy().build().unwrap().get(url).send().await.ok()?;
        let text = answer.text().await.ok()?;
        text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
    }

    /// Waits for something that has to happen.
    pub(crate) async fn until<F: Future<Output = bool>>(&self, what: &str, is_so: impl Fn() -> F) {
        let waiting = async {
            while !is_so().await {
                // Whatever is waited for follows from an answer to the controller, or comes to its metrics by itself.
                let _ = tokio::time::timeout(Duration::from_millis(100), self.roles.answered.notified()).await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            let state = self.state().await;
            let shown = state.map(|state| {
                state
                    .conditions
                    .iter()
                    .map(|condition| format!("{} {} {:?}", condition.kind, condition.status, condition.message))
                    .collect::<Vec<_>>()
            });
            let logs = |path: &Path| {
                std::fs::read_to_string(path)
                    .unwrap_or_default()
                    .lines()
                    .rev()
                    .take(40)
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            let log: Vec<String> = (0..2).flat_map(|number| logs(&self.setup.log(number))).collect();
            let servers: Vec<String> = self
                .roles
                .servers
                .lock()
                .unwrap()
                .iter()
                .flat_map(|server| server.log().lines().rev().take(8).map(str::to_owned).collect::<Vec<_>>())
                .collect();
            panic!(
                "{what}: not within {PATIENCE:?}; {shown:#?}; controller, newest first: {log:#?}; servers: {servers:#?}"
            );
        }
    }

    /// The nodes by name.
    pub(crate) fn nodes(&self) -> BTreeSet<String> {
        self.roles.nodes.lock().unwrap().keys().cloned().collect()
    }
}

fn address_of(master: usize) -> String {
    format!("127.0.0.{}", 11 + master)
}

/// Everything of the release, as `d8 mirror push` puts it.
async fn push_release(host: &str, repository: &str, (user, password): (&str, &str), ca: &str) {
    let authorities = Certificate::from_pem_bundle(ca.as_bytes()).unwrap();
    let client = Client::builder().tls_certs_only(authorities).no_proxy().build().unwrap();
    let list = json!({"nodeManager": {"bashibleApiserver": IMAGE.digest()}}).to_string();
    let layer = gzip(
        &Tar::new()
            .directory("deckhouse/")
            .directory("deckhouse/candi/")
            .file("deckhouse/candi/images_digests.json", list)
            .finish(),
    );
    let install = Image::of_layers(b"{}".to_vec(), vec![layer.unwrap()], &json!({}));
    let digest = IMAGE.digest();
    let all: [(&str, &str, &Image); 3] =
        [("", RELEASE, &DECKHOUSE), ("", &digest, &IMAGE), ("/install", RELEASE, &install)];
    for (child, reference, image) in all {
        let base = format!("https://{host}/v2/{repository}{child}");
        for blob in image.blobs() {
            let url = format!("{base}/blobs/uploads/?digest={}", testkit::digest(blob));
            let answer = loop {
                // The server may be starting.
                match client.post(&url).basic_auth(user, Some(password)).body(blob.clone()).send().await {
                    Ok(answer) => break answer,
                    Err(error) if error.is_connect() => tokio::task::yield_now().await,
                    Err(error) => panic!("{host}: {error}"),
                }
            };
            assert_eq!(answer.status(), 201, "{host}: {}", answer.text().await.unwrap());
        }
        let url = format!("{base}/manifests/{reference}");
        let request = client.put(&url).basic_auth(user, Some(password)).header("content-type", image.media_type());
        let answer = request.body(image.manifest().to_vec()).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{host}: {}", answer.text().await.unwrap());
    }
}

/// A patch of any object's metadata or spec, as a person makes it.
pub(crate) fn merge(value: &Value) -> Patch<&Value> {
    Patch::Merge(value)
}
