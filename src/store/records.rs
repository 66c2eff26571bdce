//! What masters compare: the records of tags and manifests, and sums over them.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::contents::changes::{blocking, blocking_run};
use super::error::StoreError;
use super::face::Store;
use super::repositories::manifests::Manifests;
use super::repositories::recorded::TakenRecords;
use super::repositories::records::{Arriving, BUCKETS, Record, RepositorySum, Sum};
use crate::clock::Timestamp;
use crate::oci::{Digest, Reference, RepoName};
use crate::telemetry::with_causes;

impl Store {
    /// From now on, and at each start from now on, records are kept. Blocking.
    ///
    /// # Errors
    /// Of the disk.
    pub fn keep_records(&self) -> Result<(), StoreError> {
        self.0.manifests.records.keep()
    }

    /// Whether records are kept.
    #[must_use]
    pub fn records_are_kept(&self) -> bool {
        self.0.manifests.records.are_kept()
    }

    /// Reads the records of all repositories and holds them against the tree, each once in the life of the process; says whether it
    /// came to the end before `stop` was cancelled.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn read_records(&self, stop: CancellationToken) -> Result<bool, StoreError> {
        let manifests = Arc::clone(&self.0.manifests);
        blocking_run(move || manifests.read_all_records(|| !stop.is_cancelled())).await
    }

    /// The sum over all records; two stores with the same have the same records. `None`: not all were read, or one could not
    /// be.
    #[must_use]
    pub fn records_sum(&self) -> Option<Sum> {
        self.0.manifests.records.sum()
    }

    /// The sums of all repositories with records, in order of their names.
    #[must_use]
    pub fn repository_sums(&self) -> Vec<(RepoName, RepositorySum)> {
        self.0.manifests.records.sums()
    }

    /// Takes records that nobody asked for in the last minute out of the memory; the sums stay.
    pub fn rest_records(&self) {
        self.0.manifests.records.rest();
    }

    /// The sums of a repository's [`BUCKETS`] buckets.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn bucket_sums(&self, repo: &RepoName) -> Result<Vec<Sum>, StoreError> {
        let repo = repo.clone();
        let mut sums = self.look(move |manifests| manifests.bucket_sums(&repo)).await?;
        sums.resize(BUCKETS, Sum::default());
        Ok(sums)
    }

    /// The records of some buckets of a repository, in no order.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn records_in(&self, repo: &RepoName, buckets: &[u8]) -> Result<Vec<Record>, StoreError> {
        let (repo, buckets) = (repo.clone(), buckets.to_vec());
        self.look(move |manifests| manifests.records_in(&repo, |bucket| buckets.contains(&bucket))).await
    }

    /// Whether a manifest that is not in the repository was deleted from it, here or on another master.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn is_deleted(&self, repo: &RepoName, digest: Digest) -> Result<bool, StoreError> {
        let record = self.record(repo, &Reference::Digest(digest)).await?;
        Ok(record.is_some_and(|record| record.target().is_none()))
    }

    /// What was last said of a tag or a manifest; `None`: nothing, or no records are kept.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn record(&self, repo: &RepoName, of: &Reference) -> Result<Option<Record>, StoreError> {
        if !self.0.manifests.records.are_kept() {
            return Ok(None);
        }
        let (repo, of) = (repo.clone(), of.clone());
        self.look(move |manifests| manifests.record(&repo, &of)).await
    }

    /// What was last said of these, of those of which anything was, in their order.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn records_of(&self, repo: &RepoName, all: Vec<Reference>) -> Result<Vec<Record>, StoreError> {
        let repo = repo.clone();
        self.look(move |manifests| manifests.records_of(&repo, &all)).await
    }

    /// Something of another master is under way into a repository, until the answer is dropped: its records, or a manifest. To be
    /// said before that one is asked. Waits for nothing.
    pub fn arriving(&self, repo: &RepoName) -> Arriving {
        self.0.manifests.records.arriving(repo)
    }

    /// The repositories whose records say of something that it was deleted, in order.
    #[must_use]
    pub fn repositories_with_deletions(&self) -> Vec<RepoName> {
        self.0.manifests.records.with_deletions()
    }

    /// The sum over the records of a repository, if they say of something that it was deleted before `moment`.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn sum_with_deletions(&self, repo: &RepoName, moment: Timestamp) -> Result<Option<Sum>, StoreError> {
        let repo = repo.clone();
        self.look(move |manifests| manifests.sum_with_deletions(&repo, moment)).await
    }

    /// Drops the records of a repository that say since before `moment` that something was deleted, if the sum over all its records
    /// is `sum`, durably; says how many. All masters have to have them. `None`: the sum is another one, or something is under
    /// way into the repository. Runs to its end even if the caller is dropped.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn drop_deletions(
        &self,
        repo: &RepoName,
        sum: Sum,
        moment: Timestamp,
    ) -> Result<Option<usize>, StoreError> {
        let (manifests, repo) = (Arc::clone(&self.0.manifests), repo.clone());
        self.0.contents.change(move || manifests.drop_deletions(&repo, sum, moment)).await
    }

    /// Another master was heard to say this, whether or not it comes to count here: what is said here from now on is later. What is said
    /// at a moment more than 24 h ahead of the wall changes nothing.
    pub async fn hear(&self, records: &[Record]) {
        if !self.0.manifests.records.hear(records, crate::clock::now()) {
            return;
        }
        if let Err(error) = self.look(|manifests| manifests.records.write_heard()).await {
            let error = with_causes(&error);
            tracing::warn!(error, "the clock of another master is ahead, and how far can't be written down yet");
        }
    }

    /// Those of another master's records that would count here.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn later_records(&self, repo: &RepoName, records: Vec<Record>) -> Result<Vec<Record>, StoreError> {
        let repo = repo.clone();
        self.look(move |manifests| manifests.later_ones(&repo, records)).await
    }

    /// Does what another master said, as far as it counts here, durably. What is to be there has to be here by now; records whose
    /// clock is more than 24 h ahead of the wall are refused. Runs to its end even if the caller is dropped.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn take_records(&self, repo: &RepoName, records: Vec<Record>) -> Result<TakenRecords, StoreError> {
        let (manifests, repo) = (Arc::clone(&self.0.manifests), repo.clone());
        self.0.contents.change(move || manifests.take_records(&repo, records, crate::clock::now())).await
    }

    /// Reads records; the first look at a repository may end what a stop interrupted.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Manifests) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let manifests = Arc::clone(&self.0.manifests);
        blocking(move || {
            let _change = manifests.contents.changes.begin()?;
            look(&manifests)
        })
        .await
    }
}
