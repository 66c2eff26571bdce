//! Mode Direct: every read goes to the upstream, nothing is kept.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::listing::Listing;
use super::mapping::{Home, Mapping};
use super::relay::{manifest_error, relay, repository_error};
use super::{BUDGET, BlobRequest, ModeError, Served, ServedBlob, ServedManifest, ServedManifestFacts, listing, lists};
use crate::fetch::Source;
use crate::oci::{Digest, Manifest, Reference, RepoName};
use crate::store::{ListKind, Page, Referrer};
use crate::telemetry::CacheOutcome;
use crate::upstream::{Upstream, UpstreamManifest};

/// Pass-through to an upstream.
#[derive(Clone, Debug)]
pub struct Direct {
    upstream: Upstream,
    mapping: Mapping,
    lists: Listing<(Arc<str>, ListKind)>,
}

impl Direct {
    /// Passes what `mapping` maps to `upstream`. Lists, which may outlive their clients, are spawned on `tasks` and dropped
    /// when `stop` is cancelled.
    #[must_use]
    pub fn new(upstream: Upstream, mapping: Mapping, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { upstream, mapping, lists: Listing::new(tasks, stop) }
    }

    fn source(&self, home: &Home<'_>) -> Source {
        Source { upstream: self.upstream.clone(), child: Arc::from(&*home.child) }
    }

    pub(super) async fn blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        request: BlobRequest,
    ) -> Result<Served<ServedBlob>, ModeError> {
        let source = self.source(&self.mapping.home(repo)?);
        Ok(Served::new(relay(&source, digest, request, Instant::now() + BUDGET).await?, CacheOutcome::Relayed))
    }

    pub(super) async fn manifest(
        &self,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<Served<ServedManifest>, ModeError> {
        let home = self.mapping.home(repo)?;
        let found =
            self.upstream.manifest(&home.child, reference, Instant::now() + BUDGET).await.map_err(manifest_error)?;
        Ok(Served::new(passed_on(found), CacheOutcome::Relayed))
    }

    pub(super) async fn manifest_facts(
        &self,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<Served<ServedManifestFacts>, ModeError> {
        let home = self.mapping.home(repo)?;
        let deadline = Instant::now() + BUDGET;
        let found = self.upstream.manifest_facts(&home.child, reference, deadline).await.map_err(manifest_error)?;
        let facts =
            ServedManifestFacts { digest: found.digest, size: found.size, media_type: Cow::Owned(found.content_type) };
        Ok(Served::new(facts, CacheOutcome::Relayed))
    }

    pub(super) async fn tags(
        &self,
        repo: &RepoName,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Served<Page>, ModeError> {
        let served = self.list(&self.mapping.home(repo)?, ListKind::Tags).await?;
        let _room = lists::room().await?;
        let tags: Vec<String> = lists::read(&served.value)?;
        Ok(served.map(|_| lists::page(&tags, last, limit)))
    }

    pub(super) async fn referrers(
        &self,
        repo: &RepoName,
        subject: Digest,
        last: Option<Digest>,
        limit: usize,
    ) -> Result<Served<Vec<Referrer>>, ModeError> {
        let served = self.list(&self.mapping.home(repo)?, ListKind::Referrers(subject)).await?;
        let _room = lists::room().await?;
        let descriptors: Vec<Box<RawValue>> = lists::read(&served.value)?;
        Ok(served.map(|_| lists::after(lists::referrers(&descriptors), last, limit)))
    }

    /// The whole list, in JSON: of the upstream now, or what came of it after its clients had left.
    async fn list(&self, home: &Home<'_>, kind: ListKind) -> Result<Served<Bytes>, ModeError> {
        let key = (Arc::from(&*home.child), kind);
        if let Some(late) = self.lists.late(&key) {
            return Ok(late);
        }
        let (upstream, child) = (self.upstream.clone(), Arc::clone(&key.0));
        let fetch = || async move {
            match lists::ask(&upstream, &child, kind, listing::patience(BUDGET)).await {
                Ok(list) => Ok(Served::new(list, CacheOutcome::Relayed)),
                Err(ModeError::Upstream(error)) => Err(repository_error(error)),
                Err(error) => Err(error),
            }
        };
        let (mut list, began) = self.lists.join(key, BUDGET, fetch).await?;
        list.provenance = outcome(began).into();
        Ok(list)
    }
}

/// A client that waited for another one's list was served by it.
const fn outcome(began: bool) -> CacheOutcome {
    if began { CacheOutcome::Relayed } else { CacheOutcome::Joined }
}

/// A manifest as the upstream gave it. What it is, its own bytes say better than the upstream's header.
pub(super) fn passed_on(found: UpstreamManifest) -> ServedManifest {
    let media_type = match Manifest::kept(&found.bytes) {
        Ok(manifest) if manifest.other.is_none() || found.content_type.is_empty() => manifest.media_type(),
        _ => Cow::Owned(found.content_type),
    };
    ServedManifest { digest: found.digest, bytes: found.bytes, media_type }
}
