//! What retention asks of the store, and orders: it knows what a repository's tags mean, the store does not.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::error::StoreError;
use super::face::Store;
use super::options::CollectionOptions;
use super::repositories::collection::estimate::{Estimate, GoingTags};
use super::repositories::collection::looking::{self, TagsLook};
use super::repositories::collection::retiring::Retired;
use super::repositories::collection::settings::Retained;
use super::repositories::walk::{Repositories, SkippedEntries};
use super::stored::StoredManifest;
use crate::clock::Timestamp;
use crate::fs::stat;
use crate::oci::{Digest, RepoName, Tag};

impl Store {
    /// The repositories of Local, without those that an upstream taught, in no order. Blocking.
    #[must_use]
    pub fn local_repositories(&self) -> Vec<RepoName> {
        let skipped = SkippedEntries::default();
        Repositories::new(&self.0.contents.layout, &skipped).filter(|repo| !repo.is_cached()).collect()
    }

    /// The tags of a repository, for a verdict on them; `None`: `stop` was cancelled. Safe to drop.
    ///
    /// # Errors
    /// Of the disk, also where a tag can't be read.
    pub async fn look_at_tags(
        &self,
        repo: &RepoName,
        stop: &CancellationToken,
    ) -> Result<Option<TagsLook>, StoreError> {
        looking::look_at_tags(&self.0.manifests, repo, stop).await
    }

    /// When a content was used last, or came: its repositories share that time. `None`: it is not there. Blocking.
    ///
    /// # Errors
    /// Of the disk.
    pub fn last_use(&self, digest: &Digest) -> Result<Option<Timestamp>, StoreError> {
        if let Some(noted) = self.0.uses.noted(digest) {
            return Ok(Some(noted));
        }
        let path = self.0.contents.layout.content(digest);
        let Some(facts) = stat(&path)? else { return Ok(None) };
        Ok(Some(facts.modified().map_err(StoreError::io("stat", &path))?.into()))
    }

    /// About what would go with these tags, where `retained` is what retention keeps; changes nothing. Reads all manifests of
    /// their repositories.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn estimate(
        &self,
        going: BTreeMap<RepoName, GoingTags>,
        retained: &Retained,
    ) -> Result<Estimate, StoreError> {
        self.0.collector.estimate(going, retained, &CancellationToken::new()).await
    }

    /// A manifest of a repository, whose bytes are those of its digest; `None`: it is not there, or damaged. No use of it is
    /// noted. Blocking.
    ///
    /// # Errors
    /// Of the disk.
    pub fn stored_manifest(&self, repo: &RepoName, digest: Digest) -> Result<Option<StoredManifest>, StoreError> {
        self.0.manifests.read_manifest(repo, digest)
    }

    /// The file of a blob of a repository; `None`: it is not there. Its bytes are not held against the digest, and no use of it
    /// is noted. Blocking.
    ///
    /// # Errors
    /// Of the disk.
    pub fn stored_blob(&self, repo: &RepoName, digest: &Digest) -> Result<Option<File>, StoreError> {
        self.0.manifests.blob_file(repo, digest)
    }

    /// Repositories of which retention gave something up that is still there. Blocking.
    #[must_use]
    pub fn given_up_repositories(&self) -> Vec<RepoName> {
        self.0.manifests.ledger.given_up.repositories()
    }

    /// Removes tags by a verdict that was found on `looks`, in the order of `going`, and gives up what loses its last tag: it is
    /// collected behind its grace, although manifests without a tag stay. A tag whose repository, or another one of the looks,
    /// was changed since the look stays. Nothing goes of a repository in which something is damaged.
    ///
    /// # Errors
    /// Of the disk: what was done is done.
    pub async fn retire(
        &self,
        looks: Vec<TagsLook>,
        going: Vec<(RepoName, Tag)>,
        stop: &CancellationToken,
    ) -> Result<Retired, StoreError> {
        self.0.collector.retire(looks, going, stop).await
    }

    /// Whether retention gave something of a repository up that is still there. Blocking.
    #[must_use]
    pub fn has_given_up(&self, repo: &RepoName) -> bool {
        self.0.manifests.ledger.given_up.has(repo)
    }

    /// Puts into force what retention keeps by digest, and of which repositories that is not known.
    pub fn set_retained(&self, retained: Retained) {
        self.0.manifests.ledger.settings.set_retained(retained);
    }

    /// Puts into force what retention keeps by digest in one repository, or why that is not known.
    pub fn retain(&self, repo: RepoName, kept: Result<Arc<HashSet<Digest>>, String>) {
        self.0.manifests.ledger.settings.retain(repo, kept);
    }

    /// Whether nothing may be removed now: collection is held, or the pins can't be gone by.
    #[must_use]
    pub fn may_not_remove(&self) -> bool {
        self.0.manifests.ledger.settings.may_not_remove()
    }

    /// Lets the server run for a time that did not pass.
    #[cfg(test)]
    pub(crate) fn let_run_for(&self, time: std::time::Duration) {
        self.0.manifests.ledger.advance(time);
    }

    /// Gives no more manifests up at a time.
    #[cfg(test)]
    pub(crate) fn give_up_at_most(&self, most: usize) {
        self.0.manifests.ledger.given_up.at_most(most);
    }

    /// The options of the collection in force.
    #[must_use]
    pub fn collection_options(&self) -> CollectionOptions {
        self.0.manifests.ledger.settings.options()
    }

    /// Ends when the options of the collection are others.
    pub async fn collection_options_changed(&self) {
        let ledger = Arc::clone(&self.0.manifests.ledger);
        ledger.settings.changed.notified().await;
    }
}
