//! Manifests and tags through the cache.

use std::sync::Arc;
use tokio::time::Instant;

use super::{NegativeKey, Proxy, REVALIDATION, fault, joined, missed, unwritten};
use crate::clock;
use crate::mode::direct::passed_on;
use crate::mode::relay::{cached_error, manifest_error};
use crate::mode::{BUDGET, ModeError, Served, ServedManifest};
use crate::oci::{Digest, Manifest, Reference, RepoName, Tag};
use crate::store::{Blob, StoreError, StoredManifest, VerifiedTag};
use crate::telemetry::CacheOutcome;
use crate::upstream::UpstreamManifest;

impl Proxy {
    pub(in crate::mode) async fn manifest(
        &self,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<Served<ServedManifest>, ModeError> {
        let home = self.0.mapping.home(repo)?;
        if let Some(hit) = self.believed(&home.cached, reference).await? {
            return Ok(hit);
        }
        self.refuse_unknown(&NegativeKey::Manifest(home.cached.clone(), reference.clone()))?;
        let (proxy, child) = (self.clone(), home.child.into_owned());
        let (cached, wanted) = (home.cached.clone(), reference.clone());
        let fetch = || async move { proxy.fetch_manifest(&child, &cached, &wanted).await };
        let (outcome, began) = self.0.manifests.join((home.cached, reference.clone()), fetch).await;
        Ok(joined(outcome.unwrap_or_else(|| Err(fault()))?, began))
    }

    pub(in crate::mode) fn manifest_in_memory(
        &self,
        repo: &RepoName,
        reference: &Reference,
    ) -> Option<Served<ServedManifest>> {
        let home = self.0.mapping.home(repo).ok()?;
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => {
                let known = self.0.tags.get(&(home.cached.clone(), tag.clone()))?;
                self.is_fresh(known.verified).then_some(known.digest)?
            }
        };
        let (stored, _) = self.store().manifest_in_memory(&home.cached, &Reference::Digest(digest))?;
        self.store().note_use(digest);
        Some(Served::new(stored.into(), CacheOutcome::Hit))
    }

    pub(in crate::mode) async fn manifest_file(&self, repo: &RepoName, digest: Digest) -> Option<Blob> {
        let home = self.0.mapping.home(repo).ok()?;
        self.store().manifest_file(&home.cached, digest).await.ok()
    }

    /// The stored manifest, if the upstream need not be asked.
    async fn believed(
        &self,
        cached: &RepoName,
        reference: &Reference,
    ) -> Result<Option<Served<ServedManifest>>, ModeError> {
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => match self.verified(cached, tag).await? {
                Some(tag) if self.is_fresh(tag.verified) => tag.digest,
                _ => return Ok(None),
            },
        };
        let stored = self.stored(cached, &Reference::Digest(digest)).await?;
        Ok(stored.map(|stored| Served::new(stored.into(), CacheOutcome::Hit)))
    }

    async fn stored(&self, cached: &RepoName, reference: &Reference) -> Result<Option<StoredManifest>, ModeError> {
        match self.store().manifest(cached, reference).await {
            Ok(stored) => {
                self.store().note_use(stored.digest);
                Ok(Some(stored))
            }
            Err(StoreError::ManifestUnknown) => Ok(None),
            Err(error) => missed(&error).map_err(ModeError::from),
        }
    }

    /// The digest that a tag pointed to when the upstream was asked last.
    async fn verified(&self, cached: &RepoName, tag: &Tag) -> Result<Option<VerifiedTag>, ModeError> {
        let key = (cached.clone(), tag.clone());
        if let Some(known) = self.0.tags.get(&key) {
            return Ok(Some(known));
        }
        let known = self.store().verified_tag(cached, tag).await?;
        if let Some(known) = known {
            self.0.tags.insert(key, known);
        }
        Ok(known)
    }

    async fn fetch_manifest(
        &self,
        child: &str,
        cached: &RepoName,
        reference: &Reference,
    ) -> Result<Served<ServedManifest>, ModeError> {
        if let Some(hit) = self.believed(cached, reference).await? {
            return Ok(hit);
        }
        let fetched = match reference {
            Reference::Digest(_) => self.fetch_whole(child, cached, reference).await,
            Reference::Tag(tag) => self.fetch_tag(child, cached, tag).await,
        };
        self.settle(NegativeKey::Manifest(cached.clone(), reference.clone()), fetched)
    }

    async fn fetch_whole(
        &self,
        child: &str,
        cached: &RepoName,
        reference: &Reference,
    ) -> Result<Served<ServedManifest>, ModeError> {
        let deadline = Instant::now() + BUDGET;
        let found = self.0.upstream.manifest(child, reference, deadline).await.map_err(manifest_error)?;
        let tag = match reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        };
        Ok(self.keep(child, cached, found, tag).await)
    }

    async fn fetch_tag(&self, child: &str, cached: &RepoName, tag: &Tag) -> Result<Served<ServedManifest>, ModeError> {
        let known = match self.verified(cached, tag).await? {
            Some(known) => self.stored(cached, &Reference::Digest(known.digest)).await?.map(|stored| (known, stored)),
            None => None,
        };
        let Some((known, stored)) = known else {
            return self.fetch_whole(child, cached, &Reference::Tag(tag.clone())).await;
        };
        match self.revalidate(child, cached, tag, &known, stored.clone()).await {
            Err(ModeError::Store(StoreError::ManifestUnknown)) => {
                self.forget(cached, tag).await;
                Err(StoreError::ManifestUnknown.into())
            }
            Err(error) => match self.stale(&error, known.verified) {
                Some(stale) => Ok(stale.map(|()| stored.into())),
                None => Err(error),
            },
            revalidated => revalidated,
        }
    }

    /// Asks where the tag points now, and fetches what it points at if that is not stored.
    async fn revalidate(
        &self,
        child: &str,
        cached: &RepoName,
        tag: &Tag,
        known: &VerifiedTag,
        stored: StoredManifest,
    ) -> Result<Served<ServedManifest>, ModeError> {
        let upstream = &self.0.upstream;
        let gone = |error| cached_error(error, manifest_error);
        let resolved = upstream.resolve(child, tag, Instant::now() + REVALIDATION).await.map_err(gone)?;
        if resolved.digest == known.digest {
            if let Err(error) = self.store().verify_tag(cached, tag).await {
                unwritten(&error, "when a tag was last true could not be written down");
            }
            self.note_tag(cached, tag, *known);
            return Ok(Served::new(stored.into(), CacheOutcome::Revalidated));
        }
        let by_digest = Reference::Digest(resolved.digest);
        if let Some(moved_to) = self.stored(cached, &by_digest).await? {
            // A tag that went back to what is known: its bytes are here.
            return Ok(self.keep_stored(cached, moved_to, tag).await);
        }
        let deadline = Instant::now() + BUDGET.saturating_sub(REVALIDATION);
        let found = match resolved.manifest {
            Some(found) => found,
            None => match upstream.manifest(child, &by_digest, deadline).await.map_err(gone) {
                // It moved on, or this upstream knows it by its tag only.
                Err(ModeError::Store(StoreError::ManifestUnknown)) => {
                    let by_tag = Reference::Tag(tag.clone());
                    upstream.manifest(child, &by_tag, deadline).await.map_err(gone)?
                }
                found => found?,
            },
        };
        Ok(self.keep(child, cached, found, Some(tag)).await)
    }

    /// Stores what came, and serves it whether or not that worked.
    async fn keep(
        &self,
        child: &str,
        cached: &RepoName,
        found: UpstreamManifest,
        tag: Option<&Tag>,
    ) -> Served<ServedManifest> {
        self.note_seen(child, found.digest);
        let manifest = match keepable(&found) {
            Ok(manifest) => Arc::new(manifest),
            Err(reason) => {
                tracing::info!(digest = %found.digest, repository = child, reason, "a manifest of the upstream is passed on and not kept");
                return Served::new(passed_on(found), CacheOutcome::Bypassed);
            }
        };
        let stored = StoredManifest { digest: found.digest, bytes: found.bytes, manifest };
        self.keep_all(cached, stored, tag, CacheOutcome::Filled).await
    }

    async fn keep_stored(&self, cached: &RepoName, stored: StoredManifest, tag: &Tag) -> Served<ServedManifest> {
        self.keep_all(cached, stored, Some(tag), CacheOutcome::Revalidated).await
    }

    async fn keep_all(
        &self,
        cached: &RepoName,
        stored: StoredManifest,
        tag: Option<&Tag>,
        outcome: CacheOutcome,
    ) -> Served<ServedManifest> {
        let put = || self.store().put_manifest(cached, stored.clone(), tag.cloned().into_iter().collect());
        let kept = match put().await {
            Err(StoreError::Full(refusal)) => {
                match self.0.fills.evictor().make_room_after(refusal, stored.bytes.len() as u64).await {
                    Ok(()) => put().await,
                    Err(error) => Err(error),
                }
            }
            kept => kept,
        };
        let digest = stored.digest;
        match kept {
            Ok(()) => {
                self.store().note_use(digest);
                if let Some(tag) = tag {
                    self.note_tag(cached, tag, VerifiedTag { digest, verified: clock::now() });
                }
                Served::new(stored.into(), outcome)
            }
            Err(error) => {
                unwritten(&error, "a manifest is passed on and could not be kept");
                Served::new(stored.into(), CacheOutcome::Bypassed)
            }
        }
    }

    fn note_tag(&self, cached: &RepoName, tag: &Tag, known: VerifiedTag) {
        let known = VerifiedTag { verified: clock::now(), ..known };
        self.0.tags.insert((cached.clone(), tag.clone()), known);
    }

    /// The upstream has no such tag: it is no longer ours either.
    async fn forget(&self, cached: &RepoName, tag: &Tag) {
        self.0.tags.remove(&(cached.clone(), tag.clone()));
        match self.store().delete_manifest(cached, &Reference::Tag(tag.clone())).await {
            Ok(()) | Err(StoreError::ManifestUnknown) => {}
            Err(error) => unwritten(&error, "a tag that the upstream has no more could not be removed"),
        }
    }
}

/// Reads a manifest that is to be kept. Only its bytes are: an unusual one has to be of the type that they say.
fn keepable(found: &UpstreamManifest) -> Result<Manifest, String> {
    if let Ok(manifest) = Manifest::parse(None, &found.bytes) {
        return Ok(manifest);
    }
    let manifest = Manifest::kept(&found.bytes).map_err(|error| error.to_string())?;
    let told = found.content_type.split(';').next().unwrap_or_default().trim();
    let tells_nothing = ["", "application/json", "application/octet-stream", "text/plain"];
    if tells_nothing.iter().any(|one| told.eq_ignore_ascii_case(one))
        || told.eq_ignore_ascii_case(&manifest.media_type())
    {
        return Ok(manifest);
    }
    Err(format!("it came as {told:?} and reads like {:?}", manifest.media_type()))
}
