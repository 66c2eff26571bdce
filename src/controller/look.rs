//! One look at the world: everything that a decision depends on, read at once.
//!
//! What could not be read is a value of its own. Two things can't be missed: without the Nodes or the record there would be
//! nothing to say, so a look without an answer of the API server is none.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::join_all;

use super::answers::Answers;
use super::state_client::{Identity, StateClient};
use crate::clock::Timestamp;
use crate::cluster::{Cluster, ClusterError, ModuleConfig, NewSecret, StoredSecret, StoredService};
use crate::jobs::blocking;
use crate::switch::outputs::{names, services, users};
use crate::switch::{
    BashibleConfig, DeckhouseRegistry, FoundModeFile, Input, Inputs, MastersMap, Node, Observed, Output, Outputs,
    Record, RegistryState, Seen, Server, SwitchOptions, User, Word, inputs,
};
use crate::telemetry::with_causes;
use crate::values::Role;

/// Deckhouse's module that does what the controller does.
pub(super) const DECKHOUSE_MODULE: &str = "registry";
/// The ModuleConfig with the administrator's settings.
const MODULE_CONFIG: &str = "deckhouse";
/// In `deckhouse-registry`, written by Deckhouse.
const BOOTSTRAPPED: &str = "clusterIsBootstrapped";

/// What looks, and with what.
#[derive(Debug)]
pub(super) struct Looker {
    pub(super) cluster: Cluster,
    identity: Identity,
    port: u16,
    options: SwitchOptions,
    /// Of each user the password and hash that were last compared, and how: comparing costs 70 ms of a core.
    hashes: BTreeMap<Role, (String, String, bool)>,
}

/// A look, and the objects that writes have to know more of than the decision does.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) observed: Observed,
    pub(super) found: Found,
}

/// Objects as they were found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By name.
    pub(super) secrets: BTreeMap<String, StoredSecret>,
    /// By name.
    pub(super) services: BTreeMap<String, StoredService>,
}

impl Looker {
    pub(super) fn new(cluster: Cluster, identity: Identity, port: u16, options: SwitchOptions) -> Self {
        Self { cluster, identity, port, options, hashes: BTreeMap::new() }
    }

    /// Looks.
    ///
    /// # Errors
    /// [`ClusterError`]: the API server is away, or does not let us read.
    pub(super) async fn look(&mut self, now: Timestamp, answers: Answers) -> Result<Look, ClusterError> {
        let cluster = self.cluster.clone();
        let nodes = cluster.nodes().await?;
        let (servers, user_secrets) = tokio::join!(self.servers(&nodes), self.user_secrets());
        let (manual, chart, state, mode_file, bashible, registry) = tokio::join!(
            settings_secret(&cluster),
            cluster.secret(names::VALUES),
            cluster.secret(names::STATE),
            cluster.secret(names::MODE_FILE),
            cluster.secret(names::BASHIBLE_CONFIG),
            cluster.secret(names::DECKHOUSE_REGISTRY),
        );
        let (ca, list, service, push, pki) = tokio::join!(
            cluster.config_map(names::CA),
            cluster.config_map(names::MASTERS),
            cluster.service(names::SERVICE),
            cluster.service(names::PUSH_SERVICE),
            has_pki(&cluster),
        );
        let (module, config, deployment) = tokio::join!(
            cluster.is_module_enabled(DECKHOUSE_MODULE),
            cluster.module_config(MODULE_CONFIG),
            cluster.deckhouse_deployment(),
        );
        let pods = match &deployment {
            Ok(deployment) => cluster.deckhouse_pods(deployment.as_ref()).await,
            Err(_) => cluster.deckhouse_pods(None).await,
        };
        // Last: outputs that are older than the record are refused when they are written; outputs that are newer would be
        // taken for edited ones.
        let record = cluster.secret(names::RECORD).await?;
        let mut found = Found::default();
        let word = record.as_ref().and_then(|record| Word::of(&record.annotations));
        let bootstrapped = is_bootstrapped(&registry);
        let options = options(&manual, self.options);
        let manual_version = manual.as_ref().ok().and_then(|secret| Some(secret.as_ref()?.version.0.clone()));
        let outputs = Outputs {
            state: output(state, &mut found, |secret| RegistryState::read(&secret.data)),
            mode_file: output(mode_file, &mut found, |secret| FoundModeFile::read(&secret.data)),
            bashible: output(bashible, &mut found, |secret| BashibleConfig::read(&secret.data)),
            deckhouse_registry: output(registry, &mut found, |secret| DeckhouseRegistry::read(&secret.data)),
            users: self.users(user_secrets, &mut found).await,
            ca: in_config_map(ca, authority),
            pki: seen(pki),
            service: selector(names::SERVICE, service, &mut found, |selector| Ok(selector.clone())),
            push_ingress: selector(names::PUSH_SERVICE, push, &mut found, services::leads_to_servers),
            masters: in_config_map(list, MastersMap::read),
        };
        let observed = Observed {
            now,
            options,
            inputs: Inputs {
                manual: manual_input(manual),
                manual_version,
                module_config: module_config_input(config),
                chart: output(chart, &mut found, |secret| inputs::ChartValues::read(&secret.data)),
            },
            deckhouse_module: seen(module),
            bootstrapped,
            record: match record.as_ref().and_then(|record| Record::newer(&record.data)) {
                Some(newer) => Output::Unreadable(newer),
                None => output(Ok(record), &mut found, |secret| Record::read(&secret.data)),
            },
            nodes: Seen::Known(nodes),
            servers,
            outputs,
            deckhouse: seen(pods),
            queue: None,
            images: answers.images,
            probes: answers.probes,
            references: answers.references,
            word,
        };
        Ok(Look { observed, found })
    }

    /// Every master's server, at once.
    async fn servers(&self, nodes: &[Node]) -> BTreeMap<String, Server> {
        let masters: Vec<_> = nodes.iter().filter(|node| node.master).collect();
        let identity = self.identity.clone();
        let client = match blocking(move || StateClient::new(&identity)).await {
            Ok(client) => Arc::new(client),
            Err(error) => {
                let why = with_causes(&error);
                return masters.iter().map(|node| (node.name.clone(), Server::Silent(why.clone()))).collect();
            }
        };
        let asked = masters.into_iter().map(|node| {
            let client = Arc::clone(&client);
            async move {
                let address = node.address.as_deref().map(str::parse::<IpAddr>);
                let server = match address {
                    Some(Ok(address)) => client.ask(address, self.port).await,
                    _ => Server::Silent("the Node has no InternalIP".to_owned()),
                };
                (node.name.clone(), server)
            }
        });
        join_all(asked).await.into_iter().collect()
    }

    async fn user_secrets(&self) -> Vec<(Role, Result<Option<StoredSecret>, ClusterError>)> {
        let read =
            Role::ALL.iter().map(|role| async move { (*role, self.cluster.secret(&users::user_secret(*role)).await) });
        join_all(read).await
    }

    async fn users(
        &mut self,
        secrets: Vec<(Role, Result<Option<StoredSecret>, ClusterError>)>,
        found: &mut Found,
    ) -> BTreeMap<Role, Output<User>> {
        let mut all = BTreeMap::new();
        for (role, secret) in secrets {
            if let Ok(Some(secret)) = &secret {
                self.compare(role, secret).await;
            }
            let known = self.hashes.get(&role).cloned();
            let user = output(secret, found, |secret| {
                User::read(&secret.data, |password, hash| {
                    known.is_some_and(|(of, to, fits)| of == password && to == hash && fits)
                })
            });
            all.insert(role, user);
        }
        all
    }

    /// Remembers whether the hash is one of the password.
    async fn compare(&mut self, role: Role, secret: &StoredSecret) {
        let (Some(password), Some(hash)) = (secret.text("password"), secret.text("passwordHash")) else { return };
        let is_known = self.hashes.get(&role).is_some_and(|(of, to, _)| of == password && to == hash);
        if !is_known {
            let pair = (password.to_owned(), hash.to_owned());
            let compared = blocking(move || {
                let fits = users::hash_fits(&pair.0, &pair.1);
                (pair.0, pair.1, fits)
            });
            self.hashes.insert(role, compared.await);
        }
    }
}

/// A Secret as its document.
fn output<T>(
    secret: Result<Option<StoredSecret>, ClusterError>,
    found: &mut Found,
    read: impl FnOnce(&StoredSecret) -> Result<T, String>,
) -> Output<T> {
    let secret = match secret {
        Err(error) => return Output::Unreadable(with_causes(&error)),
        Ok(None) => return Output::Absent,
        Ok(Some(secret)) => secret,
    };
    let version = secret.version.0.clone();
    let output = match read(&secret) {
        Ok(value) => Output::Present { version, value },
        Err(why) => Output::Garbled { version, why },
    };
    found.secrets.insert(secret.name.clone(), secret);
    output
}

/// The certificate in ConfigMap `registry-ca`.
fn authority(data: &BTreeMap<String, String>) -> Result<String, String> {
    data.get("ca.crt").cloned().ok_or_else(|| "key ca.crt is missing".to_owned())
}

fn in_config_map<T>(
    found: Result<Option<crate::cluster::StoredConfigMap>, ClusterError>,
    read: impl FnOnce(&BTreeMap<String, String>) -> Result<T, String>,
) -> Output<T> {
    match found {
        Err(error) => Output::Unreadable(with_causes(&error)),
        Ok(None) => Output::Absent,
        Ok(Some(map)) => match read(&map.data) {
            Ok(value) => Output::Present { version: map.version.0, value },
            Err(why) => Output::Garbled { version: map.version.0, why },
        },
    }
}

fn selector<T>(
    name: &str,
    service: Result<Option<StoredService>, ClusterError>,
    found: &mut Found,
    read: impl FnOnce(&BTreeMap<String, String>) -> Result<T, String>,
) -> Output<T> {
    match service {
        Err(error) => Output::Unreadable(with_causes(&error)),
        Ok(None) => Output::Absent,
        Ok(Some(service)) => {
            let version = service.version.0.clone();
            let output = match read(&service.selector) {
                Ok(value) => Output::Present { version, value },
                Err(why) => Output::Garbled { version, why },
            };
            found.services.insert(name.to_owned(), service);
            output
        }
    }
}

fn seen<T>(read: Result<T, ClusterError>) -> Seen<T> {
    read.map_or_else(|error| Seen::Unreadable(with_causes(&error)), Seen::Known)
}

/// Deckhouse says so in `deckhouse-registry`; an older one says nothing there, and did not once the cluster was up.
fn is_bootstrapped(registry: &Result<Option<StoredSecret>, ClusterError>) -> Seen<bool> {
    match registry {
        Err(error) => Seen::Unreadable(with_causes(error)),
        Ok(secret) => {
            let text = secret.as_ref().and_then(|secret| secret.text(BOOTSTRAPPED));
            Seen::Known(text.is_none_or(|text| !text.trim().eq_ignore_ascii_case("false")))
        }
    }
}

/// The options of the controller, with those of our Secret in their place.
fn options(manual: &Result<Option<StoredSecret>, ClusterError>, options: SwitchOptions) -> SwitchOptions {
    match manual {
        Ok(Some(secret)) if inputs::is_ours(&secret.annotations) => inputs::read_secret(&secret.data).1.over(options),
        Ok(_) | Err(_) => options,
    }
}

/// The Secret with the administrator's settings: `d8-registry-settings`, whoever's it is, else a `registry-config` that counts.
///
/// # Errors
/// [`ClusterError`]: one of them can't be read.
pub(crate) async fn settings_secret(cluster: &Cluster) -> Result<Option<StoredSecret>, ClusterError> {
    if let Some(own) = cluster.secret(names::CONFIG).await? {
        return Ok(Some(own));
    }
    let shared = cluster.secret(names::SHARED_CONFIG).await?;
    Ok(shared.filter(|secret| inputs::counts(&secret.annotations)))
}

fn manual_input(secret: Result<Option<StoredSecret>, ClusterError>) -> Input {
    match secret {
        Err(error) => Input::Unreadable(with_causes(&error)),
        // One without our annotation is no input.
        Ok(secret) => secret.map_or(Input::Absent, |secret| inputs::from_secret(&secret.annotations, &secret.data)),
    }
}

fn module_config_input(config: Result<Option<ModuleConfig>, ClusterError>) -> Input {
    match config {
        Err(error) => Input::Unreadable(with_causes(&error)),
        Ok(None) => Input::Absent,
        Ok(Some(config)) => inputs::from_module_config(&config.settings, config.generation),
    }
}

/// Whether there is a Secret `registry-pki`. Its content is not ours to read: an attempt to make it says so, and makes nothing.
async fn has_pki(cluster: &Cluster) -> Result<bool, ClusterError> {
    let probe = NewSecret {
        name: names::PKI.to_owned(),
        kind: "registry/pki".to_owned(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        data: BTreeMap::new(),
    };
    match cluster.could_create_secret(probe).await {
        Ok(()) => Ok(false),
        Err(error) if error.is_conflict() => Ok(true),
        Err(error) => Err(error),
    }
}
