//! Repositories of a registry, read over its API: each with all its tags, or the one that its address names, and what refers to
//! their manifests.
//!
//! The API of many registries lists no repositories, so each is named, or all are wanted of one that does. Manifests are kept in
//! memory until their repository is through, up to a bound.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fault::{Fault, SourceError};
use super::listed::{Claim, Listed, ListedTag};
use crate::checker::{RegistryAddress, TargetOptions};
use crate::oci::{Descriptor, Digest, Reference, Tag};
use crate::telemetry::{Metrics, UpstreamCause, with_causes};
use crate::upstream::{Credentials, ProxyVariables, Upstream, UpstreamError, VerifiedBlob};

/// How long an answer is waited for, tries included.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a list may take.
const LIST_PATIENCE: Duration = Duration::from_secs(300);

/// Bytes of manifests that are kept, so that what was asked for by tag is not asked for again; what is beyond is asked for when it is
/// needed.
pub(super) const MOST_KEPT: usize = 8 << 20;

/// Repositories of registries.
pub(super) struct Remote {
    /// Those that were named.
    named: Vec<Repository>,
    /// Registries of which all repositories are wanted.
    whole: Vec<Upstream>,
    /// What these list, once they were asked.
    found: OnceLock<BTreeMap<String, Repository>>,
    kept: Mutex<Kept>,
    stop: CancellationToken,
}

#[derive(Clone)]
struct Repository {
    name: String,
    reference: Option<Reference>,
    upstream: Upstream,
    /// The repository below that of the upstream.
    child: String,
}

/// Manifests of the repository that is taken.
#[derive(Default)]
struct Kept {
    manifests: HashMap<Digest, Bytes>,
    bytes: usize,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.named.iter().map(|repository| &repository.name);
        f.debug_list().entries(names).finish()
    }
}

#[derive(Deserialize)]
struct ReferrerEntry {
    digest: Digest,
}

impl Remote {
    /// Repositories of registries, with one login for all; of an address without a repository all that it lists. Nobody is asked
    /// yet. Blocking: reads the certificates of the system.
    ///
    /// # Errors
    /// [`SourceError::Registry`], a sentence.
    pub(super) fn connect(
        addresses: Vec<RegistryAddress>,
        credentials: &Credentials,
        ca: Option<&str>,
        (metrics, tasks, stop): (&Metrics, &TaskTracker, &CancellationToken),
    ) -> Result<Self, SourceError> {
        let (mut named, mut whole) = (Vec::new(), Vec::new());
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
            if name.is_empty() {
                whole.push(upstream);
            } else {
                named.push(Repository { name, reference, upstream, child: String::new() });
            }
        }
        Ok(Self { named, whole, found: OnceLock::new(), kept: Mutex::default(), stop: stop.clone() })
    }

    /// Asks, unless the run is to end.
    fn ask<T>(&self, asked: impl Future<Output = Result<T, UpstreamError>>) -> Result<T, Unanswered> {
        match Handle::current().block_on(self.stop.run_until_cancelled(asked)) {
            Some(answer) => answer.map_err(Unanswered::Failed),
            None => Err(Unanswered::Stopped),
        }
    }

    /// The names of all repositories; the registries of which all are wanted are asked once.
    pub(super) fn repositories(&self) -> Result<Vec<String>, SourceError> {
        if self.found.get().is_none() {
            let mut found = BTreeMap::new();
            let listed = |name: &str| self.named.iter().any(|repository| repository.name == name);
            for upstream in &self.whole {
                let asked = upstream.repositories(Instant::now() + LIST_PATIENCE);
                let host = upstream.host();
                let names = self.ask(asked).map_err(|error| {
                    SourceError::Registry(format!("the repositories of {host} can't be listed, name them: {error}"))
                })?;
                for name in names {
                    if listed(&name) || found.contains_key(&name) {
                        return Err(SourceError::Registry(format!(
                            "two have the repository {name}: take one registry after the other"
                        )));
                    }
                    let (upstream, child) = (upstream.clone(), name.clone());
                    found.insert(name.clone(), Repository { name, reference: None, upstream, child });
                }
            }
            let _ = self.found.set(found);
        }
        let found = self.found.get().into_iter().flat_map(|found| found.keys().cloned());
        Ok(self.named.iter().map(|repository| repository.name.clone()).chain(found).collect())
    }

    fn repository(&self, name: &str) -> Option<&Repository> {
        let named = self.named.iter().find(|repository| repository.name == name);
        named.or_else(|| self.found.get()?.get(name))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tags of a repository with their manifests, and what refers to these. Manifests of the repository before are let go.
    pub(super) fn list(&self, name: &str) -> Result<Listed, SourceError> {
        let mut listed = Listed::default();
        let Some(repository) = self.repository(name) else { return Ok(listed) };
        *self.kept() = Kept::default();
        let tags = match &repository.reference {
            Some(Reference::Tag(tag)) => vec![tag.to_string()],
            Some(Reference::Digest(digest)) => {
                listed.manifests.push(*digest);
                Vec::new()
            }
            None => {
                let asked = repository.upstream.tags(&repository.child, Instant::now() + LIST_PATIENCE);
                match self.ask(asked) {
                    Ok(tags) => tags,
                    // One that a registry lists and that has no tag: many list it so.
                    Err(Unanswered::Failed(error))
                        if error.cause() == UpstreamCause::NotFound && !repository.child.is_empty() =>
                    {
                        Vec::new()
                    }
                    Err(error) => return Err(SourceError::Registry(error.to_string())),
                }
            }
        };
        for tag in tags {
            let target = match tag.parse::<Tag>() {
                Ok(parsed) => self.fetch(repository, &Reference::Tag(parsed)).map(|(digest, _)| digest),
                Err(error) => Err(Fault::Name(error.to_string())),
            };
            if let Ok(digest) = target {
                listed.manifests.push(digest);
            }
            listed.tags.push(ListedTag { tag, target, at: None, claim: Claim::Plain });
            if self.stop.is_cancelled() {
                break;
            }
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
            let asked = repository.upstream.referrers(&repository.child, &subject, Instant::now() + PATIENCE);
            match self.ask(asked) {
                Ok(found) => {
                    let found =
                        found.iter().filter_map(|entry| serde_json::from_str::<ReferrerEntry>(entry.get()).ok());
                    listed.manifests.extend(found.map(|entry| entry.digest).filter(|digest| seen.insert(*digest)));
                }
                // One that knows no referrers has none.
                Err(Unanswered::Failed(error)) if error.cause() == UpstreamCause::NotFound => {}
                Err(Unanswered::Stopped) => break,
                Err(error) => listed.faults.push((format!("@{subject}"), Fault::Registry(error.to_string()))),
            }
        }
    }

    fn fetch(&self, repository: &Repository, reference: &Reference) -> Result<(Digest, Bytes), Fault> {
        let asked = repository.upstream.manifest(&repository.child, reference, Instant::now() + PATIENCE);
        let found = self.ask(asked).map_err(|error| Fault::Registry(error.to_string()))?;
        let mut kept = self.kept();
        if kept.bytes + found.bytes.len() <= MOST_KEPT
            && kept.manifests.insert(found.digest, found.bytes.clone()).is_none()
        {
            kept.bytes += found.bytes.len();
        }
        Ok((found.digest, found.bytes))
    }

    pub(super) fn manifest(&self, name: &str, digest: &Digest) -> Result<Vec<u8>, Fault> {
        let repository = self.repository(name).ok_or(Fault::ManifestMissing(*digest))?;
        let kept = self.kept().manifests.get(digest).cloned();
        let bytes = match kept {
            Some(bytes) => bytes,
            None => self.fetch(repository, &Reference::Digest(*digest))?.1,
        };
        Ok(bytes.to_vec())
    }

    /// The bytes of a blob, which are held against its descriptor as they come.
    pub(super) fn blob(&self, name: &str, blob: &Descriptor) -> Option<VerifiedBlob> {
        let repository = self.repository(name)?;
        Some(repository.upstream.verified_blob(&repository.child, blob))
    }
}

/// Why there is no answer. Displayed: a sentence without its end.
#[derive(Debug)]
enum Unanswered {
    Failed(UpstreamError),
    Stopped,
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(error) => f.write_str(&with_causes(error)),
            Self::Stopped => f.write_str("it was stopped"),
        }
    }
}
