//! Mode Local: the store is all there is, with those of the other masters behind it for what is the same everywhere.

mod closure;
mod image;
mod latest;
mod movement;
mod read_through;
mod room;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

pub use self::image::{Brought, Closure, Moved};
use self::movement::Movement;
use self::read_through::{Purpose, ReadThrough, may_be_elsewhere};
pub use self::room::{BROUGHT_MANIFEST_BYTES, ManifestRoom};
use super::{BlobRequest, ModeError, Provenance, Served, ServedBlob, ServedManifest};
use crate::fetch::{Evictor, Fills};
use crate::oci::{Digest, Reference, RepoName, Tag};
use crate::replicas::Replicas;
use crate::store::{Page, Record, Referrer, Refusal, Store, StoreError, StoredContent, StoredManifest};
use crate::telemetry::CacheOutcome;
pub use crate::values::MissingReferences;

/// Standalone storage: filled by pushes, read by nodes.
#[derive(Clone, Debug)]
pub struct Local {
    store: Store,
    missing_references: MissingReferences,
    /// Makes room for pushes among what an upstream taught.
    evictor: Option<Evictor>,
    /// The other masters' stores.
    beyond: Option<ReadThrough>,
}

impl Local {
    /// Serves `store`.
    #[must_use]
    pub const fn new(store: Store, missing_references: MissingReferences) -> Self {
        Self { store, missing_references, evictor: None, beyond: None }
    }

    /// The same; while it is coming, cached contents may go for pushes into it, as `evictor` allows.
    #[must_use]
    pub fn displacing(self, evictor: Evictor) -> Self {
        Self { evictor: Some(evictor), ..self }
    }

    /// The same; what it lacks by digest it fetches through `fills` from one of `replicas` that has it. Work that outlives its
    /// clients is spawned on `tasks`.
    #[must_use]
    pub fn reading_through(self, fills: Fills, replicas: Replicas, tasks: TaskTracker) -> Self {
        Self { beyond: Some(ReadThrough::new(fills, replicas, tasks)), ..self }
    }

    /// The same without the other masters: what is in its own store, and nothing else.
    #[must_use]
    pub fn alone(&self) -> Self {
        Self { beyond: None, ..self.clone() }
    }

    /// The way to the other masters, if there are any.
    fn beyond(&self) -> Option<&ReadThrough> {
        self.beyond.as_ref().filter(|through| through.leads_anywhere())
    }

    /// Whether cached contents may go for pushes now.
    #[must_use]
    pub fn is_displacing(&self) -> bool {
        self.evictor.as_ref().is_some_and(Evictor::is_displacing)
    }

    /// Makes room for `bytes` of a push that the store refused, if cached contents may go for it. Safe to drop.
    ///
    /// # Errors
    /// [`StoreError::Full`] if they may not or don't suffice, or of the disk.
    pub async fn make_room(&self, refusal: Refusal, bytes: u64) -> Result<(), StoreError> {
        match &self.evictor {
            Some(evictor) => evictor.displace(refusal, bytes).await,
            None => Err(StoreError::Full(refusal)),
        }
    }

    /// The store behind it, for uploads, mounts and deletes, which need no decision of the mode.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Takes a blob out of a repository of the own store. One that is just coming from another master is waited for until the
    /// deadline, or it would be back when it is there. Runs to its end even if the caller is dropped behind that wait.
    ///
    /// # Errors
    /// [`StoreError::BlobUnknown`], or of the disk.
    pub async fn delete_blob(&self, repo: &RepoName, digest: Digest, deadline: Instant) -> Result<(), StoreError> {
        if let Some(through) = &self.beyond {
            through.came(repo, &digest, deadline).await;
        }
        self.store.delete_blob(repo, digest).await
    }

    pub(super) async fn blob(
        &self,
        repo: &RepoName,
        digest: Digest,
        request: BlobRequest,
    ) -> Result<Served<ServedBlob>, ModeError> {
        let served = match self.store.blob_content(repo, digest).await {
            Ok(StoredContent::Memory(bytes)) => ServedBlob::from(bytes),
            // Eviction leaves Local's contents alone, so no lease is needed.
            Ok(StoredContent::File(blob)) => ServedBlob::from(blob),
            Err(lack) => match self.beyond() {
                Some(through) if may_be_elsewhere(&lack) => {
                    return through.blob(repo, digest, Purpose::Passed(request), lack).await;
                }
                _ => return Err(lack.into()),
            },
        };
        Ok(Served::new(served, Provenance::default()))
    }

    pub(super) async fn manifest(
        &self,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<Served<ServedManifest>, ModeError> {
        let stored = match self.store.manifest(repo, reference).await {
            Ok(stored) => stored,
            Err(lack) => return self.manifest_from_beyond(repo, reference, lack).await,
        };
        if self.missing_references == MissingReferences::Refuse {
            let missing = self.store.missing_references(repo, &stored).await?;
            if !missing.is_empty() {
                return self.incomplete(repo, stored, missing).await;
            }
        }
        Ok(Served::new(stored.into(), Provenance::default()))
    }

    /// A manifest that is here without all that it references.
    async fn incomplete(
        &self,
        repo: &RepoName,
        stored: StoredManifest,
        missing: Vec<Digest>,
    ) -> Result<Served<ServedManifest>, ModeError> {
        let Some(through) = self.beyond() else { return Err(ModeError::Incomplete { missing }) };
        let digest = stored.digest;
        // What another master has whole is here for whoever asks for its parts.
        if through.is_whole_elsewhere(repo, digest).await? {
            return Ok(Served::new(stored.into(), CacheOutcome::Peer));
        }
        let said = self.store.record(repo, &Reference::Digest(digest)).await?;
        let is_named = said.is_some_and(|said| said.target().is_some());
        if is_named && through.may_be_out_of_reach(repo, digest).await {
            return Err(ModeError::NotReachable);
        }
        Err(ModeError::Incomplete { missing })
    }

    /// A manifest that the store did not give; by tag of the digest that the tag names here.
    async fn manifest_from_beyond(
        &self,
        repo: &RepoName,
        reference: &Reference,
        lack: StoreError,
    ) -> Result<Served<ServedManifest>, ModeError> {
        let Some(through) = self.beyond().filter(|_| may_be_elsewhere(&lack)) else { return Err(lack.into()) };
        let tag = match reference {
            Reference::Digest(digest) => return through.manifest(repo, *digest, lack).await,
            Reference::Tag(tag) => tag,
        };
        let digest = match self.store.verified_tag(repo, tag).await? {
            Some(tag) => Some(tag.digest),
            None => self.target_of(through, repo, reference).await?,
        };
        match digest {
            // What it leads to may have come meanwhile.
            Some(digest) => Box::pin(self.manifest(repo, &Reference::Digest(digest))).await,
            None => Err(lack.into()),
        }
    }

    /// Where a tag leads that was not here a moment ago: by what was said of it here since then, or else by what the other masters say
    /// of it. Of one that was deleted here they have to say something later: who has not heard of that still has the tag. `None`: it
    /// is deleted, or nobody who answers knows it.
    async fn target_of(
        &self,
        through: &ReadThrough,
        repo: &RepoName,
        tag: &Reference,
    ) -> Result<Option<Digest>, ModeError> {
        let said = match self.store.record(repo, tag).await? {
            Some(deletion) if deletion.target().is_none() => through.pushed_again(repo, tag, &deletion).await?,
            Some(said) => Some(said),
            None => through.told(repo, tag).await?,
        };
        Ok(said.and_then(|said| said.target()))
    }

    /// The latest record of a tag or a manifest by what the other masters say of it; `None`: nobody who answers knows it.
    async fn told_elsewhere(&self, repo: &RepoName, of: &Reference) -> Result<Option<Record>, ModeError> {
        match self.beyond() {
            Some(through) => through.told(repo, of).await,
            None => Ok(None),
        }
    }

    /// Deletes a tag, or a manifest with the tags that lead to it. What is not here and is at another master by that one's word is
    /// said to be deleted, later than that: it goes there, and does not come here.
    ///
    /// # Errors
    /// [`StoreError::ManifestUnknown`]: it is neither here nor at a master that answers. One has too much to do to answer, or of
    /// the store.
    pub async fn delete_manifest(&self, repo: &RepoName, reference: &Reference) -> Result<(), ModeError> {
        match self.store.delete_manifest(repo, reference).await {
            Err(lack @ StoreError::ManifestUnknown) => match self.told_elsewhere(repo, reference).await? {
                Some(told) if told.target().is_some() => Ok(self.store.delete_told(repo, told).await?),
                _ => Err(lack.into()),
            },
            outcome => Ok(outcome?),
        }
    }

    /// Fetches a content again that was stored in a repository and counts as absent; ends when it is there or could not be had.
    /// `false`: no other master has it.
    ///
    /// # Errors
    /// Why it did not come.
    pub(super) async fn fetch_again(
        &self,
        repo: &RepoName,
        digest: Digest,
        is_manifest: bool,
    ) -> Result<bool, ModeError> {
        self.bring_content(repo, digest, is_manifest, &Movement::begun()).await
    }

    pub(super) fn manifest_in_memory(&self, repo: &RepoName, reference: &Reference) -> Option<Served<ServedManifest>> {
        let (stored, whole) = self.store.manifest_in_memory(repo, reference)?;
        let answered = whole || self.missing_references == MissingReferences::Allow;
        answered.then(|| Served::new(stored.into(), Provenance::default()))
    }

    pub(super) fn blob_in_memory(&self, repo: &RepoName, digest: &Digest) -> Option<Served<Bytes>> {
        Some(Served::new(self.store.blob_in_memory(repo, digest)?, Provenance::default()))
    }

    pub(super) async fn stored_length(&self, repo: &RepoName, digest: Digest) -> Option<u64> {
        self.store.blob(repo, digest).await.ok().map(|blob| blob.length())
    }

    pub(super) async fn tags(
        &self,
        repo: &RepoName,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Served<Page>, ModeError> {
        let page = self.store.tags(repo, last, limit).await?;
        if page.entries.is_empty() && !self.store.repository_exists(repo).await? {
            return Err(ModeError::RepositoryUnknown);
        }
        Ok(Served::new(page, Provenance::default()))
    }

    pub(super) async fn repositories(&self, last: Option<&str>, limit: usize) -> Result<Page, ModeError> {
        Ok(self.store.repositories(last, limit).await?)
    }

    pub(super) async fn referrers(
        &self,
        repo: &RepoName,
        subject: Digest,
        last: Option<Digest>,
        limit: usize,
    ) -> Result<Served<Vec<Referrer>>, ModeError> {
        Ok(Served::new(self.store.referrers(repo, subject, last, limit).await?, Provenance::default()))
    }

    /// Stores a manifest and moves tags to it. What it references and the repository lacks is fetched from other masters first,
    /// as long as bytes of it move. Says what is lacking then: always empty under [`MissingReferences::Refuse`].
    ///
    /// # Errors
    /// [`ModeError::Incomplete`] under [`MissingReferences::Refuse`], why something did not come that another master has, or of
    /// the store.
    pub async fn put_manifest(
        &self,
        repo: &RepoName,
        stored: StoredManifest,
        tags: Vec<Tag>,
    ) -> Result<Vec<Digest>, ModeError> {
        if let Err(error) = self.bring_references(repo, &stored).await
            && self.missing_references == MissingReferences::Refuse
        {
            return Err(error);
        }
        // What is found to be there stays until the manifest that names it is.
        let _naming = self.store.naming(repo);
        let missing = self.store.missing_references(repo, &stored).await?;
        if self.missing_references == MissingReferences::Refuse && !missing.is_empty() {
            return Err(ModeError::Incomplete { missing });
        }
        match self.store.put_manifest(repo, stored.clone(), tags.clone()).await {
            Err(StoreError::Full(refusal)) => {
                self.make_room(refusal, stored.bytes.len() as u64).await?;
                self.store.put_manifest(repo, stored, tags).await?;
            }
            outcome => outcome?,
        }
        Ok(missing)
    }
}
