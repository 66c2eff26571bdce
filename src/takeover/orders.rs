//! An import as it is ordered of a running server: the server reads the source itself, so paths, addresses and names are said.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fault::SourceError;
use super::import::ImportOptions;
use super::names::RepositoryMap;
use super::source::Source;
use crate::checker::RegistryAddress;
use crate::telemetry::Metrics;
use crate::upstream::Credentials;

/// What a running server is to take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImportOrder {
    /// From where.
    pub source: SourceOrder,
    /// `[FROM=]TO`; absent: names stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Move the files of the source.
    #[serde(default)]
    pub moves: bool,
    /// Change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Move tags that the store has with another digest.
    #[serde(default)]
    pub overwrite: bool,
    /// Move channels also to an older release.
    #[serde(default)]
    pub channels_back: bool,
}

/// A directory that the server's user can read, or registries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SourceOrder {
    /// [`Source::distribution`].
    Distribution(PathBuf),
    /// [`Source::layouts`].
    Oci(PathBuf),
    /// [`Source::registries`].
    Registry(RegistryOrder),
    /// [`Source::bundle`].
    Bundle(Vec<PathBuf>),
}

/// Registries, and who asks them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistryOrder {
    /// `http[s]://host[:port][/repository[:tag]]`; no login in them.
    pub urls: Vec<String>,
    /// The user; absent: nobody signs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Password>,
    /// PEM of authorities that are trusted beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// A password on its way over the socket. Never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hidden")
    }
}

impl RegistryOrder {
    /// The addresses.
    ///
    /// # Errors
    /// A sentence without the text, in which somebody may have written a password.
    pub fn addresses(&self) -> Result<Vec<RegistryAddress>, String> {
        let mut addresses: Vec<RegistryAddress> = Vec::new();
        for url in &self.urls {
            let address = url.parse::<RegistryAddress>().map_err(|error| error.to_string())?;
            if addresses.iter().any(|other| other.path == address.path) {
                return Err("two have the same repository; import one after the other".to_owned());
            }
            addresses.push(address);
        }
        Ok(addresses)
    }

    fn credentials(&self) -> Credentials {
        match (&self.username, &self.password) {
            (Some(user), Some(Password(password))) => {
                Credentials::Basic { user: user.clone(), password: SecretString::from(password.clone()) }
            }
            _ => Credentials::Anonymous,
        }
    }
}

impl SourceOrder {
    /// Opens the source; of a bundle at most about `most` bytes are kept in memory, and its opening ends when the token is cancelled.
    /// Blocking.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn open(&self, most: usize, with: (&Metrics, &TaskTracker, &CancellationToken)) -> Result<Source, SourceError> {
        match self {
            Self::Distribution(path) => Source::distribution(path),
            Self::Oci(path) => Source::layouts(path),
            Self::Bundle(paths) => Source::bundle(paths, most, &|| with.2.is_cancelled()),
            Self::Registry(order) => {
                let addresses = order.addresses().map_err(SourceError::Registry)?;
                Source::registries(addresses, &order.credentials(), order.ca.as_deref(), with)
            }
        }
    }
}

impl ImportOrder {
    /// How it is to be done.
    ///
    /// # Errors
    /// A sentence: the names can't be so.
    pub fn options(&self) -> Result<ImportOptions, String> {
        let names = match &self.repository {
            Some(text) => text.parse::<RepositoryMap>().map_err(|error| error.to_string())?,
            None => RepositoryMap::default(),
        };
        let Self { moves, dry_run, overwrite, channels_back, .. } = *self;
        let most_surveyed = Some(super::import::MOST_SURVEYED);
        Ok(ImportOptions { names, moves, dry_run, overwrite, channels_back, is_served: true, most_surveyed })
    }
}
