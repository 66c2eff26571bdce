//! Snapshots as others order them, of an open store and of one that no server has.

use std::path::Path;
use std::sync::Arc;

use super::collection::runtime;
use super::face::Store;
use super::options::StoreOptions;
use super::repositories::snapshots::keeper::Snapshots;
use super::repositories::snapshots::report::{
    ListedSnapshot, RemovedSnapshot, RestoreReport, Restoring, SnapshotError, SnapshotSummary,
};
use super::stored::SnapshotName;

impl Store {
    /// Takes a snapshot of what the pushed repositories have: a link for each content, seconds for 100,000. Runs to its end, or
    /// to that of the store, even if the caller is dropped.
    ///
    /// # Errors
    /// [`SnapshotError`]; then there is no snapshot of that name that was not there before.
    pub async fn create_snapshot(&self, name: SnapshotName) -> Result<SnapshotSummary, SnapshotError> {
        self.order_snapshots(move |snapshots| snapshots.create(&name, crate::clock::now())).await
    }

    /// All snapshots, with the bytes that each has alone. Looks at each of their links.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn list_snapshots(&self) -> Result<Vec<ListedSnapshot>, SnapshotError> {
        let snapshots = Arc::clone(&self.0.snapshots);
        super::contents::changes::blocking(move || Ok(snapshots.list())).await?
    }

    /// Removes a snapshot, and with it the bytes that nothing else has. Runs on as [`Store::create_snapshot`] does.
    ///
    /// # Errors
    /// [`SnapshotError`]; once it has begun to go, the rest goes at the next start at the latest.
    pub async fn remove_snapshot(&self, name: SnapshotName) -> Result<RemovedSnapshot, SnapshotError> {
        self.order_snapshots(move |snapshots| snapshots.remove(&name)).await
    }

    /// Gives repositories back what they had when the snapshot was taken. Runs on as [`Store::create_snapshot`] does.
    ///
    /// # Errors
    /// [`SnapshotError`]; what was given back until then stays.
    pub async fn restore_snapshot(&self, name: SnapshotName, how: Restoring) -> Result<RestoreReport, SnapshotError> {
        if how.dry_run {
            let snapshots = Arc::clone(&self.0.snapshots);
            let order = Arc::clone(&snapshots.orders).lock_owned().await;
            let look = move || {
                let report = snapshots.restore(&name, how);
                drop(order);
                Ok(report)
            };
            return super::contents::changes::blocking(look).await?;
        }
        self.order_snapshots(move |snapshots| snapshots.restore(&name, how)).await
    }

    async fn order_snapshots<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Snapshots) -> Result<T, SnapshotError> + Send + 'static,
    ) -> Result<T, SnapshotError> {
        let snapshots = Arc::clone(&self.0.snapshots);
        let order = Arc::clone(&snapshots.orders).lock_owned().await;
        let done = self.0.contents.change(move || {
            let done = work(&snapshots);
            drop(order);
            match done {
                // Why the system writes nothing is called by its name there.
                Err(SnapshotError::Store(error)) => Err(error),
                done => Ok(done),
            }
        });
        done.await?
    }
}

/// Does with the snapshots of the store in `dir`, which no server has, what `work` says. Blocking.
///
/// # Errors
/// As `work`; [`super::StoreError::Layout`] with a sentence if `dir` is no store, [`super::StoreError::InUse`] if a server has it.
pub fn with_stopped_snapshots<T, F: Future<Output = Result<T, SnapshotError>>>(
    dir: &Path,
    work: impl FnOnce(Store) -> F,
) -> Result<T, SnapshotError> {
    let store = Store::open(&StoreOptions { must_exist: true, ..StoreOptions::at(dir) })?;
    let done = runtime()?.block_on(work(store.clone()));
    store.close();
    done
}
