//! Repositories of a registry, read over its API: each with all its tags, or the one that its address names, and what refers to
//! their manifests.
//!
//! The API of many registries lists no repositories, so each is named. Manifests are kept in memory until their repository is
//! through.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::fault::{Fault, SourceError};
use super::listed::{Listed, ListedTag};
use crate::checker::{RegistryAddress, TargetOptions};
use crate::oci::{Descriptor, Digest, Reference, Tag};
use crate::telemetry::{Metrics, UpstreamCause, with_causes};
use crate::upstream::{Credentials, ProxyVariables, Upstream, VerifiedBlob};

/// How long an answer is waited for, tries included.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a list may take.
const LIST_PATIENCE: Duration = Duration::from_secs(300);

/// Repositories of registries.
pub(super) struct Remote {
    repositories: Vec<Repository>,
    manifests: Mutex<HashMap<Digest, Vec<u8>>>,
}

struct Repository {
    name: String,
    reference: Option<Reference>,
    upstream: Upstream,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.repositories.iter().map(|repository| &repository.name);
        f.debug_list().entries(names).finish()
    }
}

#[derive(Deserialize)]
struct ReferrerEntry {
    digest: Digest,
}

impl Remote {
    /// Repositories of registries, with one login for all. Nobody is asked yet. Blocking: reads the certificates of the system.
    ///
    /// # Errors
    /// [`SourceError::Registry`], a sentence.
    pub(super) fn connect(
        addresses: Vec<RegistryAddress>,
        credentials: &Credentials,
        ca: Option<&str>,
        metrics: &Metrics,
        tasks: &TaskTracker,
    ) -> Result<Self, SourceError> {
        let mut repositories = Vec::with_capacity(addresses.len());
        for address in addresses {
            let (name, reference) = (address.path.clone(), address.reference.clone());
            let options = TargetOptions {
                address,
                ca: ca.map(str::to_owned),
                credentials: credentials.clone(),
                proxy: ProxyVariables::from_environment(),
                mode: None,
            };
            let client = options.client(metrics.clone(), tasks.clone());
            let upstream = client.map_err(|error| SourceError::Registry(with_causes(&error)))?;
            repositories.push(Repository { name, reference, upstream });
        }
        Ok(Self { repositories, manifests: Mutex::default() })
    }

    pub(super) fn repositories(&self) -> Vec<String> {
        self.repositories.iter().map(|repository| repository.name.clone()).collect()
    }

    fn repository(&self, name: &str) -> Option<&Repository> {
        self.repositories.iter().find(|repository| repository.name == name)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Digest, Vec<u8>>> {
        self.manifests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tags of a repository with their manifests, and what refers to these. Manifests of the repository before are let go.
    pub(super) fn list(&self, name: &str) -> Result<Listed, SourceError> {
        let mut listed = Listed::default();
        let Some(repository) = self.repository(name) else { return Ok(listed) };
        self.kept().clear();
        let tags = match &repository.reference {
            Some(Reference::Tag(tag)) => vec![tag.to_string()],
            Some(Reference::Digest(digest)) => {
                listed.manifests.push(*digest);
                Vec::new()
            }
            None => {
                let asked = repository.upstream.tags("", Instant::now() + LIST_PATIENCE);
                Handle::current().block_on(asked).map_err(|error| SourceError::Registry(with_causes(&error)))?
            }
        };
        for tag in tags {
            let target = match tag.parse::<Tag>() {
                Ok(parsed) => self.fetch(repository, &Reference::Tag(parsed)),
                Err(error) => Err(Fault::Name(error.to_string())),
            };
            if let Ok(digest) = target {
                listed.manifests.push(digest);
            }
            listed.tags.push(ListedTag { tag, target, at: None });
        }
        listed.manifests.sort_unstable();
        listed.manifests.dedup();
        self.add_referrers(repository, &mut listed);
        Ok(listed)
    }

    /// Adds what refers to the manifests that are there, and to that.
    fn add_referrers(&self, repository: &Repository, listed: &mut Listed) {
        let mut next = 0;
        let mut seen: std::collections::HashSet<Digest> = listed.manifests.iter().copied().collect();
        while let Some(subject) = listed.manifests.get(next).copied() {
            next += 1;
            let asked = repository.upstream.referrers("", &subject, Instant::now() + PATIENCE);
            match Handle::current().block_on(asked) {
                Ok(found) => {
                    let found =
                        found.iter().filter_map(|entry| serde_json::from_str::<ReferrerEntry>(entry.get()).ok());
                    listed.manifests.extend(found.map(|entry| entry.digest).filter(|digest| seen.insert(*digest)));
                }
                // One that knows no referrers has none.
                Err(error) if error.cause() == UpstreamCause::NotFound => {}
                Err(error) => listed.faults.push((format!("@{subject}"), Fault::Registry(with_causes(&error)))),
            }
        }
    }

    fn fetch(&self, repository: &Repository, reference: &Reference) -> Result<Digest, Fault> {
        let asked = repository.upstream.manifest("", reference, Instant::now() + PATIENCE);
        let found = Handle::current().block_on(asked).map_err(|error| Fault::Registry(with_causes(&error)))?;
        let digest = found.digest;
        self.kept().insert(digest, found.bytes.to_vec());
        Ok(digest)
    }

    pub(super) fn manifest(&self, name: &str, digest: &Digest) -> Result<Vec<u8>, Fault> {
        let repository = self.repository(name).ok_or(Fault::ManifestMissing(*digest))?;
        if !self.kept().contains_key(digest) {
            self.fetch(repository, &Reference::Digest(*digest))?;
        }
        self.kept().get(digest).cloned().ok_or(Fault::ManifestMissing(*digest))
    }

    /// The bytes of a blob, which are held against its descriptor as they come.
    pub(super) fn blob(&self, name: &str, blob: &Descriptor) -> Option<VerifiedBlob> {
        self.repository(name).map(|repository| repository.upstream.verified_blob("", blob))
    }
}
