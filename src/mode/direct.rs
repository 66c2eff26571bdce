//! Mode Direct: every read goes to the upstream, nothing is kept.

use std::borrow::Cow;
use std::sync::Arc;
use tokio::time::Instant;

use super::mapping::{Home, Mapping};
use super::relay::{manifest_error, relay, repository_error};
use super::{BUDGET, ModeError, Served, ServedBlob, ServedManifest, ServedManifestFacts, Want, lists};
use crate::fetch::Source;
use crate::oci::{Digest, Manifest, Reference, RepoName};
use crate::store::{Page, Referrer};
use crate::telemetry::CacheOutcome;
use crate::upstream::{Upstream, UpstreamManifest};

/// Pass-through to an upstream.
#[derive(Clone, Debug)]
pub struct Direct {
    upstream: Upstream,
    mapping: Mapping,
}

impl Direct {
    /// Passes what `mapping` maps to `upstream`.
    #[must_use]
    pub const fn new(upstream: Upstream, mapping: Mapping) -> Self {
        Self { upstream, mapping }
    }

    fn source(&self, home: &Home<'_>) -> Source {
        Source { upstream: self.upstream.clone(), child: Arc::from(&*home.child) }
    }

    pub(super) async fn blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        want: Want,
    ) -> Result<Served<ServedBlob>, ModeError> {
        let source = self.source(&self.mapping.home(repo)?);
        Ok(Served::new(relay(&source, digest, want, Instant::now() + BUDGET).await?, CacheOutcome::Relayed))
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
        let home = self.mapping.home(repo)?;
        let tags = self.upstream.tags(&home.child, Instant::now() + BUDGET).await.map_err(repository_error)?;
        Ok(Served::new(lists::page(&tags, last, limit), CacheOutcome::Relayed))
    }

    pub(super) async fn referrers(
        &self,
        repo: &RepoName,
        subject: Digest,
        last: Option<Digest>,
        limit: usize,
    ) -> Result<Served<Vec<Referrer>>, ModeError> {
        let home = self.mapping.home(repo)?;
        let descriptors =
            self.upstream.referrers(&home.child, &subject, Instant::now() + BUDGET).await.map_err(repository_error)?;
        Ok(Served::new(lists::after(lists::referrers(&descriptors), last, limit), CacheOutcome::Relayed))
    }
}

/// A manifest as the upstream gave it. What it is, its own bytes say better than the upstream's header.
pub(super) fn passed_on(found: UpstreamManifest) -> ServedManifest {
    let media_type = match Manifest::kept(&found.bytes) {
        Ok(manifest) if manifest.other.is_none() || found.content_type.is_empty() => manifest.media_type(),
        _ => Cow::Owned(found.content_type),
    };
    ServedManifest { digest: found.digest, bytes: found.bytes, media_type }
}
