//! The ways to the registries that are asked beside the loop: upstreams, and the servers on the masters.

use std::sync::atomic::AtomicU64;

use secrecy::SecretString;
use tokio_util::task::TaskTracker;

use crate::checker::{RegistryAddress, TargetOptions};
use crate::cluster::{Cluster, ClusterError, Container, Module, StoredSecret};
use crate::jobs::blocking;
use crate::release::{ClusterContainer, ClusterModule, RunningRelease};
use crate::switch::outputs::{names, users};
use crate::switch::{FIXED_HOST, FIXED_PATH, ImagesAt, Upstream};
use crate::telemetry::{Metrics, with_causes};
use crate::upstream::{Credentials, ProxyVariables, Scheme, Upstream as Client};
use crate::values::{Mode, Role, docker_login};

/// On Deckhouse's Deployment: the release that runs.
const RELEASE: &str = "core.deckhouse.io/version";

/// What makes clients of registries.
#[derive(Debug)]
pub(super) struct Sources {
    /// The API server.
    pub(super) cluster: Cluster,
    /// Port of the registry on the masters.
    pub(super) port: u16,
    /// From one scan to the next, in milliseconds; an administrator may change it.
    pub(super) scan_interval: AtomicU64,
    /// Counts the clients' requests.
    pub(super) metrics: Metrics,
    /// Runs what clients do beside requests.
    pub(super) tasks: TaskTracker,
}

/// The registry in force, as Deckhouse's components know it.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    /// `host[:port]/path`.
    pub(super) base: String,
    /// The clients that may have its contents, in the order in which they are to be asked.
    pub(super) ways: Vec<TargetOptions>,
}

impl Sources {
    /// The way to an upstream.
    pub(super) fn upstream(upstream: &Upstream) -> TargetOptions {
        let login = upstream.login.as_ref();
        TargetOptions {
            address: RegistryAddress {
                name: upstream.host().to_owned(),
                scheme: upstream.scheme,
                host: upstream.host().to_owned(),
                path: upstream.path().to_owned(),
                reference: None,
            },
            ca: upstream.ca.clone(),
            credentials: login.map_or(Credentials::Anonymous, |login| basic(&login.username, login.password.expose())),
            proxy: ProxyVariables::from_environment(),
            mode: None,
        }
    }

    /// The ways to what a question names. Of masters: their mode Local, as `mirror-puller`.
    ///
    /// # Errors
    /// A sentence.
    pub(super) async fn at(&self, at: &ImagesAt) -> Result<Vec<TargetOptions>, String> {
        match at {
            ImagesAt::Upstream(upstream) => Ok(vec![Self::upstream(upstream)]),
            ImagesAt::Masters(masters) => {
                let credentials = self.user(Role::MirrorPuller).await?;
                let ca = self.ca().await?;
                let master = |(name, address): &(String, String)| {
                    self.master(name, address, &ca, &credentials, Some(Mode::Local))
                };
                Ok(masters.iter().map(master).collect())
            }
        }
    }

    fn master(
        &self,
        name: &str,
        address: &str,
        ca: &str,
        credentials: &Credentials,
        mode: Option<Mode>,
    ) -> TargetOptions {
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        TargetOptions {
            address: RegistryAddress {
                name: name.to_owned(),
                scheme: Scheme::Https,
                host: format!("{host}:{}", self.port),
                path: FIXED_PATH.to_owned(),
                reference: None,
            },
            ca: Some(ca.to_owned()),
            credentials: credentials.clone(),
            // The masters are next door, whatever the way to the world is.
            proxy: ProxyVariables::default(),
            mode,
        }
    }

    /// A client. Reads the certificates of the system, on a thread for that.
    ///
    /// # Errors
    /// A sentence.
    pub(super) async fn client(&self, options: TargetOptions) -> Result<Client, String> {
        let (metrics, tasks) = (self.metrics.clone(), self.tasks.clone());
        blocking(move || options.client(metrics, tasks)).await.map_err(|error| with_causes(&error))
    }

    /// The registry in force.
    ///
    /// # Errors
    /// A sentence.
    pub(super) async fn in_force(&self) -> Result<InForce, String> {
        let name = names::DECKHOUSE_REGISTRY;
        let secret = self.cluster.secret(name).await.map_err(|error| with_causes(&error))?;
        let secret = secret.ok_or_else(|| format!("Secret {name} is missing"))?;
        let field = |key: &str| secret.text(key).ok_or_else(|| format!("Secret {name} has no {key}"));
        let (host, path) = (field("address")?.trim().to_owned(), field("path")?.trim().trim_matches('/').to_owned());
        let base = if path.is_empty() { host.clone() } else { format!("{host}/{path}") };
        if host == FIXED_HOST {
            let credentials = self.user(Role::Ro).await?;
            let ca = self.ca().await?;
            let nodes = self.cluster.nodes().await.map_err(|error| with_causes(&error))?;
            let masters = nodes.iter().filter(|node| node.master && node.ready);
            let masters = masters.filter_map(|node| Some((&node.name, node.address.as_ref()?)));
            let way = |(name, address): (&String, &String)| self.master(name, address, &ca, &credentials, None);
            return Ok(InForce { base, ways: masters.map(way).collect() });
        }
        let way = registry_of(&secret).map_err(|why| format!("Secret {name} {why}"))?;
        Ok(InForce { base, ways: vec![way] })
    }

    /// What the API server has about the Deckhouse that runs.
    ///
    /// # Errors
    /// A sentence.
    pub(super) async fn running(&self, base: String) -> Result<RunningRelease, String> {
        let running = running_release(&self.cluster, base).await.map_err(|error| with_causes(&error))?;
        running.ok_or_else(|| "Deployment deckhouse is missing".to_owned())
    }

    async fn user(&self, role: Role) -> Result<Credentials, String> {
        let name = users::user_secret(role);
        let secret = self.cluster.secret(&name).await.map_err(|error| with_causes(&error))?;
        let secret = secret.ok_or_else(|| format!("Secret {name} is missing"))?;
        match (secret.text("name"), secret.text("password")) {
            (Some(user), Some(password)) => Ok(basic(user, password)),
            _ => Err(format!("Secret {name} has no name and password")),
        }
    }

    async fn ca(&self) -> Result<String, String> {
        let found = self.cluster.config_map(names::CA).await.map_err(|error| with_causes(&error))?;
        let ca = found.and_then(|mut found| found.data.remove("ca.crt"));
        ca.ok_or_else(|| format!("ConfigMap {} has no ca.crt", names::CA))
    }
}

/// The registry that Secret `deckhouse-registry` names, with its login and authority.
///
/// # Errors
/// The end of a sentence about the Secret.
pub fn registry_of(secret: &StoredSecret) -> Result<TargetOptions, String> {
    let field = |key: &str| {
        let text = secret.text(key).map(str::trim).filter(|text| !text.is_empty());
        text.ok_or_else(|| format!("has no {key}"))
    };
    let host = field("address")?;
    let path = secret.text("path").unwrap_or_default().trim();
    let scheme = secret.text("scheme").map_or("https", str::trim);
    // The checker's own reading of an address: whatever is wrong with it is said in its words.
    let address: RegistryAddress = format!("{scheme}://{host}/{}", path.trim_matches('/'))
        .parse()
        .map_err(|error| format!("names no registry: {error}"))?;
    let login = docker_login(field(".dockerconfigjson")?, &address.host, address.scheme)?;
    let credentials = login.map_or(Credentials::Anonymous, |(username, password)| basic(&username, password.expose()));
    let ca = secret.text("ca").filter(|ca| !ca.trim().is_empty() && address.scheme == Scheme::Https).map(str::to_owned);
    Ok(TargetOptions { address, ca, credentials, proxy: ProxyVariables::from_environment(), mode: None })
}

/// What the API server has about the Deckhouse that runs, whose images are below `base`. `None`: it has no Deployment
/// `deckhouse`. Safe to drop.
///
/// # Errors
/// [`ClusterError`]: nothing is known then.
pub async fn running_release(cluster: &Cluster, base: String) -> Result<Option<RunningRelease>, ClusterError> {
    let modules = cluster.modules().await?;
    let Some(deployment) = cluster.deckhouse_deployment().await? else { return Ok(None) };
    let module = |Module { name, source, critical }| ClusterModule { name, source, critical };
    let container = |Container { name, image }| ClusterContainer { name, image };
    Ok(Some(RunningRelease {
        base,
        modules: modules.into_iter().map(module).collect(),
        version: deployment.annotations.get(RELEASE).cloned(),
        init_containers: deployment.init_containers.into_iter().map(container).collect(),
        containers: deployment.containers.into_iter().map(container).collect(),
    }))
}

fn basic(user: &str, password: &str) -> Credentials {
    Credentials::Basic { user: user.to_owned(), password: SecretString::from(password.to_owned()) }
}
