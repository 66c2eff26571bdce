//! What looks after the store beside requests: the count after an unclean stop, the reaping of uploads and fills, the
//! writing down of uses.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::capacity::FOLDERS;
use super::{Inner, Refusal, StoreError, blocking};
use crate::clock::Timestamp;
use crate::jobs::{Job, JobError, Run, Schedule};

/// Pause between two looks for abandoned uploads.
const REAP_EVERY: Duration = Duration::from_secs(60);

impl Inner {
    /// Removes abandoned uploads and fills; says how many. Blocking.
    pub(super) fn reap(&self, now: Timestamp) -> Result<usize, StoreError> {
        let idle = self.capacity.limits().upload_idle;
        let (fills, _) = self.fills.reap(self.ops(), Some(idle), now)?;
        Ok(fills + self.uploads.reap(self.ops(), idle, now)?)
    }

    /// Writes next to nothing, so that a file system that takes no write any more is known of before somebody needs it, and
    /// one that takes some again too. Blocking.
    fn try_to_write(&self) {
        let tried = if self.capacity.is_to_be_tried() {
            // An inode may be what is wanted.
            self.disk.write_temporary(self.layout.temporary(), &[0; 4096]).map(drop)
        } else {
            self.disk.touch_directory(&self.layout.temporaries())
        };
        match tried {
            Ok(()) => self.capacity.note_tried(),
            Err(error) => match self.capacity.explain(error.into()) {
                StoreError::Full(_) => {}
                error => {
                    tracing::error!(error = %crate::telemetry::with_causes(&error), "the store's disk takes no write");
                }
            },
        }
    }

    /// Where damage was found the note of a clean stop is wrong by what went. Blocking.
    pub(super) fn forget_doubtful(&self) {
        if self.damage.is_doubtful()
            && let Err(error) = self.noted.forget(&self.layout, &self.disk)
        {
            tracing::warn!(error = %crate::telemetry::with_causes(&error), "what the store uses is noted and not true any more");
        }
    }

    /// Adds up all contents, and says so if it takes long. Blocking.
    pub(super) fn count(&self, stop: &CancellationToken) -> Result<(), StoreError> {
        if self.capacity.all_counted() {
            return Ok(());
        }
        let progress = crate::telemetry::Progress::new("counting the store's content");
        for folder in 0..FOLDERS {
            if stop.is_cancelled() {
                return Ok(());
            }
            self.ops().count_folder(folder)?;
            progress.tick(folder as u64 + 1, Some(FOLDERS as u64));
        }
        self.capacity.set_all_counted();
        Ok(())
    }
}

/// Counts what an unclean stop left uncounted; reaps uploads; writes uses down; keeps the index's size in view.
pub(super) struct Maintenance {
    store: Arc<Inner>,
    was_read_only: bool,
}

impl Maintenance {
    pub(super) const fn new(store: Arc<Inner>) -> Self {
        Self { store, was_read_only: false }
    }

    /// Says it when the file system takes no write any more, or takes one again.
    async fn look_whether_read_only(&mut self) {
        let inner = Arc::clone(&self.store);
        let looked = blocking(move || Ok(inner.capacity.usage().refusal == Some(Refusal::ReadOnly)));
        let Ok(read_only) = looked.await else { return };
        if read_only == std::mem::replace(&mut self.was_read_only, read_only) {
            return;
        }
        let path = self.store.layout.root().display();
        if read_only {
            tracing::error!(
                %path,
                "the store's file system is read-only: what is stored is served, and nothing is stored"
            );
        } else {
            tracing::info!(%path, "the store's file system takes writes again");
        }
    }
}

impl Job for Maintenance {
    const NAME: &'static str = "store-maintenance";

    fn schedule(&self) -> Schedule {
        Schedule::every(REAP_EVERY)
    }

    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        let inner = Arc::clone(&self.store);
        let round = blocking(move || {
            let counted = inner.count(run.stop());
            inner.capacity.set_index_bytes(inner.listings.size_on_disk());
            inner.try_to_write();
            if inner.capacity.usage().refusal == Some(Refusal::ReadOnly) {
                // What was noted of uses waits until they can be written down.
                return counted.map(|()| 0);
            }
            inner.forget_doubtful();
            // A disk that can't be counted still has uploads to reap.
            let now = crate::clock::now();
            inner.write_uses();
            let reaped = inner.reap(now)?;
            counted.map(|()| reaped)
        });
        let tidied = round.await;
        if let Ok(reaped @ 1..) = tidied {
            tracing::info!(reaped, "abandoned uploads and fills removed");
        }
        self.look_whether_read_only().await;
        tidied.map(drop).map_err(|error| JobError::new("the store could not be tidied", &error))
    }
}
