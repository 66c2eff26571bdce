//! The ways to the registries that are asked beside the loop: upstreams, and the servers on the masters.

use std::sync::atomic::AtomicU64;

use secrecy::SecretString;
use tokio_util::task::TaskTracker;

use crate::checker::{RegistryAddress, TargetOptions};
use crate::cluster::{Cluster, Container, Module};
use crate::config::{self, UpstreamCredentials};
use crate::jobs::blocking;
use crate::release::{ClusterContainer, ClusterModule, RunningRelease};
use crate::switch::outputs::{names, users};
use crate::switch::{FIXED_HOST, FIXED_PATH, ImagesAt, Upstream};
use crate::telemetry::{Metrics, with_causes};
use crate::upstream::{Credentials, ProxyVariables, Scheme, Upstream as Client};
use crate::values::{Mode, Role};

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
        let scheme = if secret.text("scheme").is_some_and(|scheme| scheme.eq_ignore_ascii_case("http")) {
            Scheme::Http
        } else {
            Scheme::Https
        };
        let login = config::docker_login(field(".dockerconfigjson")?, &host, scheme)?;
        let credentials = match login {
            UpstreamCredentials::Anonymous => Credentials::Anonymous,
            UpstreamCredentials::Login { username, password } => basic(&username, password.expose()),
        };
        let ca = secret.text("ca").filter(|ca| !ca.trim().is_empty()).map(str::to_owned);
        let address = RegistryAddress { name: host.clone(), scheme, host, path, reference: None };
        let way = TargetOptions { address, ca, credentials, proxy: ProxyVariables::from_environment(), mode: None };
        Ok(InForce { base, ways: vec![way] })
    }

    /// What the API server has about the Deckhouse that runs.
    ///
    /// # Errors
    /// A sentence.
    pub(super) async fn running(&self, base: String) -> Result<RunningRelease, String> {
        let modules = self.cluster.modules().await.map_err(|error| with_causes(&error))?;
        let module = |Module { name, source, critical }| ClusterModule { name, source, critical };
        let container = |Container { name, image }| ClusterContainer { name, image };
        let deployment = self.cluster.deckhouse_deployment().await.map_err(|error| with_causes(&error))?;
        let deployment = deployment.ok_or("Deployment deckhouse is missing")?;
        Ok(RunningRelease {
            base,
            modules: modules.into_iter().map(module).collect(),
            version: deployment.annotations.get(RELEASE).cloned(),
            init_containers: deployment.init_containers.into_iter().map(container).collect(),
            containers: deployment.containers.into_iter().map(container).collect(),
        })
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

fn basic(user: &str, password: &str) -> Credentials {
    Credentials::Basic { user: user.to_owned(), password: SecretString::from(password.to_owned()) }
}
