//! What this master lacks and another one has: contents by digest, which are the same everywhere.
//!
//! A yes of a master is about one repository, and membership follows for that repository alone. What comes is held against its
//! digest and kept as if it had been pushed, so each content leaves the master that has it once for each that asks.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::latest::latest_of;
use crate::fetch::{Beyond, FillError, Fills, Opened, SingleFlight, Source};
use crate::mode::relay::{manifest_error, relay};
use crate::mode::{BUDGET, BlobContent, BlobRequest, ModeError, Served, ServedBlob, ServedManifest};
use crate::oci::{Digest, Manifest, Reference, RepoName};
use crate::replicas::{Holder, Replicas, Wanted};
use crate::store::{Record, Store, StoreError, StoredContent, StoredManifest};
use crate::telemetry::{CacheOutcome, with_causes};

/// The way from this store to those of the other masters. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct ReadThrough(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fills: Fills,
    replicas: Replicas,
    /// One fetch for all who ask.
    manifests: SingleFlight<(RepoName, Digest), Result<Served<ServedManifest>, ModeError>>,
}

/// What a blob of another master is wanted for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// A client gets it, whether or not it can be stored.
    Passed(BlobRequest),
    /// To be stored, or else an error says why it was not.
    Stored,
}

/// Looks behind a fill that has brought a blob into another repository alone: it was at its end when this one joined it. Then the
/// bytes are here.
const LOOKS_BEHIND: usize = 2;

/// Whether another master may have what this store did not give.
pub(super) const fn may_be_elsewhere(error: &StoreError) -> bool {
    matches!(error, StoreError::BlobUnknown | StoreError::ManifestUnknown | StoreError::Io { .. })
}

impl ReadThrough {
    pub(super) fn new(fills: Fills, replicas: Replicas, tasks: TaskTracker) -> Self {
        let manifests = SingleFlight::new(tasks, fills.stop().clone());
        Self(Arc::new(Inner { fills, replicas, manifests }))
    }

    /// Whether there is anybody to ask.
    pub(super) fn leads_anywhere(&self) -> bool {
        self.0.replicas.has_peers()
    }

    /// Ends when the blob is not just coming into the repository, or at the deadline. Safe to drop.
    pub(super) async fn came(&self, repo: &RepoName, digest: &Digest, deadline: Instant) {
        self.0.fills.ended(repo, digest, deadline).await;
    }

    fn store(&self) -> &Store {
        self.0.fills.store()
    }

    /// Whether another master holds the manifest with all that it references.
    ///
    /// # Errors
    /// Nobody says so, and one has too much to do to answer.
    pub(super) async fn is_whole_elsewhere(&self, repo: &RepoName, digest: Digest) -> Result<bool, ModeError> {
        Ok(self.0.replicas.holder(repo, Wanted::Manifest(digest), &[]).await?.is_some())
    }

    /// Whether a master that does not answer may have a manifest that none of the others has whole: where a record says that it is
    /// there, a 404 would be believed wrongly.
    pub(super) async fn may_be_out_of_reach(&self, repo: &RepoName, digest: Digest) -> bool {
        !self.0.replicas.is_nowhere(repo, Wanted::Manifest(digest)).await
    }

    /// A blob that the store did not give for `lack`.
    ///
    /// # Errors
    /// `lack` if no master says that it has it, else why it did not come.
    pub(super) async fn blob(
        &self,
        repo: &RepoName,
        digest: Digest,
        wanted: Purpose,
        lack: StoreError,
    ) -> Result<Served<ServedBlob>, ModeError> {
        let deadline = Instant::now() + BUDGET;
        let is_unknown = matches!(lack, StoreError::BlobUnknown);
        let (mut tried, mut why) = (Vec::new(), ModeError::from(lack));
        while let Some(holder) = self.0.replicas.holder(repo, Wanted::Blob(digest), &tried).await? {
            if is_unknown && let Some(blob) = self.mounted(repo, digest).await {
                return Ok(Served::new(blob, CacheOutcome::Peer));
            }
            if matches!(wanted, Purpose::Passed(BlobRequest { head: true, .. })) {
                let facts = ServedBlob { size: holder.size, content: BlobContent::None };
                return Ok(Served::new(facts, CacheOutcome::Peer));
            }
            match self.fetch(repo, digest, wanted, &holder, deadline).await {
                Ok(blob) => return Ok(Served::new(blob, CacheOutcome::Peer)),
                Err(error) => {
                    tracing::info!(
                        %digest,
                        repository = %repo,
                        master = holder.master.host(),
                        error = with_causes(&error),
                        "a blob that another master has did not come"
                    );
                    why = error;
                    tried.push(holder);
                }
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(why)
    }

    /// Brings a blob into the repository; ends when it is stored. `came` hears of its bytes. Safe to drop: it comes all the same.
    ///
    /// # Errors
    /// [`StoreError::BlobUnknown`] if no master says that it has it, or why it is not stored.
    pub(super) async fn store_blob(
        &self,
        repo: &RepoName,
        digest: Digest,
        came: impl Fn(u64) + Send + Sync,
    ) -> Result<(), ModeError> {
        for _ in 0..=LOOKS_BEHIND {
            let lack = match self.store().blob(repo, digest).await {
                Ok(_) => return Ok(()),
                Err(lack) if may_be_elsewhere(&lack) => lack,
                Err(error) => return Err(error.into()),
            };
            let served = self.blob(repo, digest, Purpose::Stored, lack).await?;
            followed(served.value, &came).await?;
        }
        self.store().blob(repo, digest).await.map(drop).map_err(ModeError::from)
    }

    /// A content that another repository here has already: it gets a name in this one too, as a master said that it is there.
    async fn mounted(&self, repo: &RepoName, digest: Digest) -> Option<ServedBlob> {
        let store = self.store();
        if !store.has_content(digest).await.ok()? || !store.mount_blob(None, repo, digest).await.ok()? {
            return None;
        }
        match store.blob_content(repo, digest).await.ok()? {
            StoredContent::Memory(bytes) => Some(bytes.into()),
            StoredContent::File(blob) => Some(blob.into()),
        }
    }

    async fn fetch(
        &self,
        repo: &RepoName,
        digest: Digest,
        wanted: Purpose,
        holder: &Holder,
        deadline: Instant,
    ) -> Result<ServedBlob, ModeError> {
        let source = Source { upstream: holder.master.clone(), child: Arc::from(repo.as_str()) };
        match self.0.fills.open(&source, repo, digest, true, deadline).await {
            Ok(Opened::Stored(blob)) => Ok(blob.into()),
            Ok(Opened::Filling { reader, length, .. }) => {
                Ok(ServedBlob { size: length, content: BlobContent::Filling(reader) })
            }
            Err(error @ FillError::Store(StoreError::DigestMismatch { .. })) => Err(error.into()),
            Err(error @ (FillError::Busy | FillError::Store(_))) => match wanted {
                // The store takes nothing: pulls go on without it.
                Purpose::Passed(request) => relay(&source, &digest, request, deadline).await,
                Purpose::Stored => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// A manifest that the store did not give for `lack`.
    ///
    /// # Errors
    /// `lack` if no master says that it has it whole, else why it did not come.
    pub(super) async fn manifest(
        &self,
        repo: &RepoName,
        digest: Digest,
        lack: StoreError,
    ) -> Result<Served<ServedManifest>, ModeError> {
        let fetch = |lack| {
            let (through, name) = (self.clone(), repo.clone());
            async move { through.fetch_manifest(&name, digest, lack).await }
        };
        let key = (repo.clone(), digest);
        let outcome = match self.0.manifests.join(key.clone(), || fetch(lack)).await {
            // The others were asked before this caller came: what one of them has got since then was not seen.
            (Some(Err(ModeError::Store(StoreError::ManifestUnknown))), false) => {
                self.0.manifests.join(key, || fetch(StoreError::ManifestUnknown)).await.0
            }
            (outcome, _) => outcome,
        };
        outcome.unwrap_or(Err(ModeError::Stopping))
    }

    async fn fetch_manifest(
        &self,
        repo: &RepoName,
        digest: Digest,
        lack: StoreError,
    ) -> Result<Served<ServedManifest>, ModeError> {
        let deadline = Instant::now() + BUDGET;
        let reference = Reference::Digest(digest);
        let _arriving = self.store().arriving(repo);
        let mut said = self.store().record(repo, &reference).await?;
        let mut again = None;
        if let Some(deletion) = said.as_ref().filter(|said| said.target().is_none()) {
            again = self.pushed_again(repo, &reference, deletion).await?;
            // It stays deleted here, whoever still has it.
            if again.is_none() {
                return Err(lack.into());
            }
            said.clone_from(&again);
        }
        let (mut tried, mut why) = (Vec::new(), ModeError::from(lack));
        while let Some(holder) = self.0.replicas.holder(repo, Wanted::Manifest(digest), &tried).await? {
            match holder.master.manifest(repo.as_str(), &reference, deadline).await {
                Ok(found) => match Manifest::kept(&found.bytes) {
                    Ok(manifest) => {
                        let stored = StoredManifest { digest, bytes: found.bytes, manifest: Arc::new(manifest) };
                        return Ok(Served::new(self.keep(repo, stored, again).await, CacheOutcome::Peer));
                    }
                    Err(_) => why = ModeError::UpstreamContradiction("the manifest it gave can't be read"),
                },
                Err(error) => why = manifest_error(error),
            }
            tried.push(holder);
            if Instant::now() >= deadline {
                break;
            }
        }
        let is_unknown = matches!(why, ModeError::Store(StoreError::ManifestUnknown));
        if is_unknown && said.is_some() && self.may_be_out_of_reach(repo, digest).await {
            return Err(ModeError::NotReachable);
        }
        Err(why)
    }

    /// The latest record of a tag or a manifest by what the other masters say of it; `None`: nobody who answers knows it.
    ///
    /// # Errors
    /// Nobody knows it, and one has too much to do to answer.
    pub(super) async fn told(&self, repo: &RepoName, of: &Reference) -> Result<Option<Record>, ModeError> {
        let lines = self.0.replicas.told_of(repo, of, |lines| !lines.is_empty()).await?;
        let latest = latest_of(lines.iter().map(String::as_str), of, crate::clock::now());
        self.store().hear(latest.as_slice()).await;
        Ok(latest)
    }

    /// What another master has said of a tag or a manifest later than it was deleted by what is known here; `None`: nothing, by
    /// those who answer.
    ///
    /// # Errors
    /// As [`Self::told`].
    pub(super) async fn pushed_again(
        &self,
        repo: &RepoName,
        of: &Reference,
        deletion: &Record,
    ) -> Result<Option<Record>, ModeError> {
        let later = |lines: &[String]| {
            let latest = latest_of(lines.iter().map(String::as_str), of, crate::clock::now());
            latest.filter(|latest| latest.target().is_some() && latest.is_later(deletion))
        };
        // Who was asked before this caller came may have known no more than the deletion.
        let lines = self.0.replicas.told_of(repo, of, |lines| later(lines).is_some()).await?;
        let latest = later(&lines);
        self.store().hear(latest.as_slice()).await;
        Ok(latest)
    }

    /// Stores a manifest, and serves it whether or not that worked. `said`: what another master said of it later than it was
    /// deleted here, which counts here too from now on.
    async fn keep(&self, repo: &RepoName, stored: StoredManifest, said: Option<Record>) -> ServedManifest {
        let put = || put_told(self.store(), repo, stored.clone(), said.clone());
        let kept = match put().await {
            Err(StoreError::Full(refusal)) => {
                match self.0.fills.evictor().make_room_after(refusal, stored.bytes.len() as u64).await {
                    Ok(()) => put().await,
                    Err(error) => Err(error),
                }
            }
            kept => kept,
        };
        if let Err(error) = kept {
            let error = with_causes(&error);
            tracing::warn!(digest = %stored.digest, error, "a manifest of another master is passed on and could not be kept");
        }
        stored.into()
    }
}

/// Stores a manifest of another master, and takes the record by which it counts although it was deleted here, if there is one.
///
/// # Errors
/// [`StoreError::ManifestUnknown`]: the deletion is later. Of the store.
async fn put_told(
    store: &Store,
    repo: &RepoName,
    stored: StoredManifest,
    said: Option<Record>,
) -> Result<(), StoreError> {
    store.put_fetched_manifest(repo, stored, said.clone()).await?;
    match said {
        Some(said) => store.take_records(repo, vec![said]).await.map(drop),
        None => Ok(()),
    }
}

/// Ends when all of a blob is stored; `came` hears of its bytes. Safe to drop: it comes all the same.
///
/// # Errors
/// Why it is not.
async fn followed(blob: ServedBlob, came: impl Fn(u64)) -> Result<(), ModeError> {
    if let BlobContent::Filling(mut reader) = blob.content {
        let mut offset = 0;
        loop {
            match reader.beyond(offset, None).await? {
                Beyond::Upto(end) => {
                    came(end.saturating_sub(offset));
                    offset = end;
                }
                Beyond::End => break,
                Beyond::Relay(_) => return Err(reader.failure().map_or(ModeError::UpstreamTimeout, Into::into)),
            }
        }
        reader.over().await;
    }
    Ok(())
}
