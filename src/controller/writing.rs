//! Carries out the writes of a decision, one by one, each against the object as it was seen.

use std::collections::BTreeMap;

use aws_lc_rs::rand;

use super::look::Found;
use crate::clock;
use crate::cluster::{Changes, Cluster, ClusterError, NewSecret, SecretChange, StoredSecret, Version};
use crate::jobs::blocking;
use crate::pki::{self, NewAuthority, PkiError};
use crate::switch::outputs::{SecretManifest, names, services, users, words};
use crate::switch::{Content, Write};
use crate::telemetry::with_causes;
use crate::values::Secret;

/// A write was not carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// The API server said no, or nothing.
    #[error("{object}")]
    Cluster {
        /// The object's name.
        object: &'static str,
        /// What it said.
        #[source]
        source: ClusterError,
    },
    /// Deckhouse's webhook would refuse it.
    #[error("{object}: {}", problems.join(" "))]
    Webhook {
        /// The object's name.
        object: &'static str,
        /// The webhook's messages.
        problems: Vec<String>,
    },
    /// What is to be written can't be made.
    #[error("{object}: {why}")]
    Content {
        /// The object's name.
        object: &'static str,
        /// Why.
        why: String,
    },
}

impl WriteError {
    /// The object's name.
    pub(super) const fn object(&self) -> &'static str {
        match self {
            Self::Cluster { object, .. } | Self::Webhook { object, .. } | Self::Content { object, .. } => object,
        }
    }

    /// Whether somebody else wrote meanwhile: look again.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Cluster { source, .. } if source.is_conflict())
    }
}

/// The name of what a write writes, for logs and metrics.
pub(super) fn object(content: &Content) -> &'static str {
    match content {
        Content::Record(_) | Content::ForgetWord => names::RECORD,
        Content::ModeFile(_) => names::MODE_FILE,
        Content::Bashible(_) => names::BASHIBLE_CONFIG,
        Content::DeckhouseRegistry(_) => names::DECKHOUSE_REGISTRY,
        Content::State(_) => names::STATE,
        Content::NewUser(_) | Content::RestoreUser { .. } => "registry-user",
        Content::NewAuthority => names::PKI,
        Content::Service(_) => names::SERVICE,
        Content::PushIngress(_) => names::PUSH_SERVICE,
        Content::Masters(_) => names::MASTERS,
    }
}

/// Carries out one write.
///
/// # Errors
/// [`WriteError`]: nothing is known to have been written.
pub(super) async fn carry_out(cluster: &Cluster, found: &Found, write: Write) -> Result<(), WriteError> {
    let name = object(&write.what);
    let failed = |source| WriteError::Cluster { object: name, source };
    let base = Version(write.base);
    match write.what {
        Content::Record(record) => put(cluster, found, &base, record.to_secret()).await.map_err(failed),
        Content::ModeFile(file) => put(cluster, found, &base, file.to_secret()).await.map_err(failed),
        Content::Bashible(config) => put(cluster, found, &base, config.to_secret()).await.map_err(failed),
        Content::State(state) => put(cluster, found, &base, state.to_secret()).await.map_err(failed),
        Content::DeckhouseRegistry(registry) => {
            let problems = registry.problems();
            if !problems.is_empty() {
                return Err(WriteError::Webhook { object: name, problems });
            }
            let set = |(key, value): (&str, Secret)| (key.to_owned(), Some(value.expose().as_bytes().to_vec()));
            let change =
                SecretChange { data: registry.data().into_iter().map(set).collect(), ..SecretChange::default() };
            let changed = cluster.change_secret(names::DECKHOUSE_REGISTRY, &base, change).await;
            changed.map(drop).map_err(failed)
        }
        Content::NewUser(role) => {
            let user = made(name, blocking(move || users::new_user(role, fill)).await)?;
            put(cluster, found, &base, user).await.map_err(failed)
        }
        Content::RestoreUser { role, password } => {
            let user = made(name, blocking(move || users::user(role, &password, fill)).await)?;
            put(cluster, found, &base, user).await.map_err(failed)
        }
        Content::NewAuthority => new_authority(cluster).await,
        Content::Service(selector) => select(cluster, found, names::SERVICE, &selector).await.map_err(failed),
        Content::PushIngress(open) => {
            let selector = if open { services::servers() } else { services::nobody() };
            select(cluster, found, names::PUSH_SERVICE, &selector).await.map_err(failed)
        }
        Content::Masters(map) => {
            let data = map.data();
            let written = if base.0.is_empty() {
                let data = data.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
                cluster.create_config_map(names::MASTERS, BTreeMap::new(), data).await
            } else {
                cluster.change_config_map(names::MASTERS, &base, data).await
            };
            written.map_err(failed)
        }
        Content::ForgetWord => forget_word(cluster, found).await.map_err(failed),
    }
}

/// Makes a Secret, or gives the one that was found all that it has to have. Data that is not in the manifest goes, as all of
/// it is ours; labels and annotations of others stay.
async fn put(cluster: &Cluster, found: &Found, base: &Version, manifest: SecretManifest) -> Result<(), ClusterError> {
    let SecretManifest { name, kind, labels, annotations, data } = manifest;
    let bytes = |(key, value): (String, Secret)| (key, value.expose().as_bytes().to_vec());
    if base.0.is_empty() {
        let data = data.into_iter().map(bytes).collect();
        let secret = NewSecret { name, kind: kind.to_owned(), labels, annotations, data };
        return cluster.create_secret(secret).await.map(drop);
    }
    let mut change = SecretChange {
        labels: labels.into_iter().map(|(key, value)| (key, Some(value))).collect(),
        annotations: annotations.into_iter().map(|(key, value)| (key, Some(value))).collect(),
        data: data.into_iter().map(bytes).map(|(key, value)| (key, Some(value))).collect(),
    };
    if let Some(StoredSecret { data, .. }) = found.secrets.get(&name) {
        for key in data.keys() {
            change.data.entry(key.clone()).or_insert(None);
        }
    }
    cluster.change_secret(&name, base, change).await.map(drop)
}

async fn select(
    cluster: &Cluster,
    found: &Found,
    name: &str,
    selector: &BTreeMap<String, String>,
) -> Result<(), ClusterError> {
    match found.services.get(name) {
        Some(service) => cluster.select(name, service, selector).await,
        // The chart's: it is not made here.
        None => Ok(()),
    }
}

/// The word was heard; another that was said meanwhile stays.
async fn forget_word(cluster: &Cluster, found: &Found) -> Result<(), ClusterError> {
    let Some(record) = cluster.secret(names::RECORD).await? else { return Ok(()) };
    let heard = found.secrets.get(names::RECORD).and_then(|record| record.annotations.get(words::WORD_ANNOTATION));
    if heard.is_none() || record.annotations.get(words::WORD_ANNOTATION) != heard {
        return Ok(());
    }
    let annotations = Changes::from([(words::WORD_ANNOTATION.to_owned(), None)]);
    let change = SecretChange { annotations, ..SecretChange::default() };
    cluster.change_secret(names::RECORD, &record.version, change).await.map(drop)
}

/// The Secret first: of a certificate whose key nobody has, nothing could be signed.
async fn new_authority(cluster: &Cluster) -> Result<(), WriteError> {
    let made: Result<NewAuthority, PkiError> = blocking(|| pki::new_authority(clock::now())).await;
    let NewAuthority { authority, token } =
        made.map_err(|error| WriteError::Content { object: names::PKI, why: with_causes(&error) })?;
    let text = |key: &str, value: &str| (key.to_owned(), value.as_bytes().to_vec());
    let secret = NewSecret {
        name: names::PKI.to_owned(),
        kind: "registry/pki".to_owned(),
        labels: [("app", "registry"), ("type", "registry-pki"), ("heritage", "deckhouse"), ("module", "registry")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        annotations: BTreeMap::from([("helm.sh/resource-policy".to_owned(), "keep".to_owned())]),
        data: BTreeMap::from([
            text("ca.crt", &authority.certificate),
            text("ca.key", &authority.key),
            text("token.crt", &token.certificate),
            text("token.key", &token.key),
        ]),
    };
    let failed = |object| move |source| WriteError::Cluster { object, source };
    cluster.create_secret(secret).await.map_err(failed(names::PKI))?;
    let data = BTreeMap::from([("ca.crt".to_owned(), authority.certificate)]);
    cluster.create_config_map(names::CA, BTreeMap::new(), data).await.map_err(failed(names::CA))
}

fn made<E: std::error::Error + 'static>(
    object: &'static str,
    made: Result<SecretManifest, users::UserError<E>>,
) -> Result<SecretManifest, WriteError> {
    made.map_err(|error| WriteError::Content { object, why: with_causes(&error) })
}

fn fill(bytes: &mut [u8]) -> Result<(), aws_lc_rs::error::Unspecified> {
    rand::fill(bytes)
}
