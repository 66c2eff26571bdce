//! Data of modes that are not in force, as others are told of it and order it dropped, and in a store that no server has.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::collection::{open_stopped, runtime};
use super::error::StoreError;
use super::face::Store;
use super::options::CollectionOptions;
use super::pins::FoundPins;
use super::{Dropped, UnusedData, UsedData};
use crate::clock::Timestamp;
use crate::jobs::Progress;
use crate::oci::UpstreamId;
use crate::values::StoringMode;

impl Store {
    /// Says which data modes use from now on; until the first time all counts as used. No removal of that begins; one that goes on
    /// ends before [`Self::used_data_settled`] does. Waits for nothing.
    pub fn set_used_data(&self, used: UsedData) {
        self.0.dropper.gate.set(used);
    }

    /// The same, with what was used before: for the time in which one takes the place of the other.
    pub fn add_used_data(&self, used: &UsedData) {
        self.0.dropper.gate.add(used);
    }

    /// Waits for the removals of a drop that began before the last call of one of these: behind that nothing goes of what is
    /// used. Safe to drop.
    pub async fn used_data_settled(&self) {
        self.0.dropper.gate.settled().await;
    }

    /// What the last count of unused data found, and when; `None` before the first. Waits for no disk.
    #[must_use]
    pub fn unused_data(&self) -> Option<(Vec<UnusedData>, Timestamp)> {
        self.0.dropper.unused()
    }

    /// Has the next run of the job `unused-data` drop a mode's data. `false`: it is used, and stays.
    #[must_use]
    pub fn want_drop(&self, mode: StoringMode) -> bool {
        self.0.dropper.want(mode)
    }

    /// What the last drop of a mode's data came to; `None`: there was none since the start.
    #[must_use]
    pub fn dropped(&self, mode: StoringMode) -> Option<Dropped> {
        self.0.dropper.dropped(mode)
    }

    /// Whether a drop of the mode's data would be refused.
    #[must_use]
    pub fn is_used(&self, mode: StoringMode) -> bool {
        self.0.dropper.gate.is_used(mode)
    }

    /// What a drop of the mode's data would free now; changes nothing. Reads that part of the tree.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn look_at_drop(&self, mode: StoringMode) -> Result<Dropped, StoreError> {
        self.0.dropper.look(mode).await
    }

    /// Drops a mode's data, for a store that no server has; a running one has a job. Where it is used nothing goes.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn drop_data(
        &self,
        mode: StoringMode,
        stop: &CancellationToken,
        progress: &Progress,
    ) -> Result<Dropped, StoreError> {
        self.0.dropper.drop_data(mode, stop, progress).await
    }
}

/// Drops a mode's data in the store in `dir`, which no server has; with `dry_run` only says what would go. `is_used`: whether a
/// mode file says that the data is used, whose bytes these are, the one that was in force when the server ended; `None`: there
/// was none. `None` as the answer: it is used. Blocking.
///
/// # Errors
/// [`StoreError::Layout`] with a sentence if `dir` is no store, [`StoreError::InUse`] if a server has it; [`StoreError`] of the disk.
pub fn drop_stopped(
    dir: &Path,
    mode: StoringMode,
    dry_run: bool,
    is_used: impl FnOnce(Option<&[u8]>) -> bool,
) -> Result<Option<Dropped>, StoreError> {
    let store = open_stopped(dir, CollectionOptions::default(), FoundPins::Unset)?;
    if is_used(store.kept_mode_file()?.as_deref()) {
        return Ok(None);
    }
    // The other mode's data stays used: the gate knows of one mode only that it may go.
    let mut used = UsedData { pushed: true, upstreams: [UpstreamId::of("", "")].into(), switching: false };
    match mode {
        StoringMode::Local => used.pushed = false,
        StoringMode::Proxy => used.upstreams.clear(),
    }
    store.set_used_data(used);
    let dropped = runtime()?.block_on(async {
        if dry_run {
            store.look_at_drop(mode).await
        } else {
            store.drop_data(mode, &CancellationToken::new(), &Progress::default()).await
        }
    });
    if !dry_run {
        store.close();
    }
    dropped.map(Some)
}
