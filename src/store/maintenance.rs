//! Work beside requests: the count after an unclean stop, the reaping of uploads and fills, the
//! writing down of uses and of the running time.

use std::sync::Arc;
use std::time::Duration;

use super::contents::changes::blocking_run;
use super::contents::files::Contents;
use super::contents::fills::Fills;
use super::contents::uploads::table::Uploads;
use super::contents::uses::Uses;
use super::error::{Refusal, StoreError};
use super::repositories::manifests::Manifests;
use super::repositories::snapshots::keeper::Snapshots;
use crate::clock::Timestamp;
use crate::jobs::{Job, JobError, Run, Schedule};

/// Pause between two looks for abandoned uploads.
const REAP_EVERY: Duration = Duration::from_secs(60);

/// The parts that are looked after.
#[derive(Clone, Debug)]
pub(super) struct Maintenance {
    pub(super) contents: Arc<Contents>,
    pub(super) manifests: Arc<Manifests>,
    pub(super) uploads: Arc<Uploads>,
    pub(super) fills: Arc<Fills>,
    pub(super) uses: Arc<Uses>,
    pub(super) snapshots: Arc<Snapshots>,
}

impl Maintenance {
    /// Removes abandoned uploads and fills; says how many. Blocking.
    pub(super) fn reap(&self, now: Timestamp) -> Result<usize, StoreError> {
        let idle = self.contents.capacity.limits().upload_idle;
        // What goes and what is charged for it change together, for who compares them.
        let _change = self.contents.changes.begin()?;
        let (fills, _) = self.fills.reap(&self.contents, Some(idle), now)?;
        Ok(fills + self.uploads.reap(&self.contents, idle, now)?)
    }

    /// Writes next to nothing, so that a file system that takes no write any more is known of before somebody needs it, and
    /// one that takes some again too. Blocking.
    fn try_to_write(&self) {
        let Contents { layout, disk, capacity, .. } = &*self.contents;
        let tried = if capacity.is_to_be_tried() {
            // An inode may be what is wanted.
            disk.write_temporary(layout.temporary(), &[0; 4096]).map(drop)
        } else {
            disk.touch_directory(&layout.temporaries())
        };
        match tried {
            Ok(()) => capacity.note_tried(),
            Err(error) => match capacity.explain(error.into()) {
                StoreError::Full(_) => {}
                error => {
                    tracing::error!(error = %crate::telemetry::with_causes(&error), "the store's disk takes no write");
                }
            },
        }
    }

    /// Removes the note of a clean stop where damage was found: it is wrong by the bytes that went. Blocking.
    pub(super) fn forget_doubtful(&self) {
        let Contents { layout, disk, damage, changes, .. } = &*self.contents;
        if damage.is_doubtful()
            && let Err(error) = changes.forget_note(layout, disk)
        {
            tracing::warn!(error = %crate::telemetry::with_causes(&error), "what the store uses is noted and not true any more");
        }
    }
}

/// Counts what an unclean stop left uncounted; reaps uploads; writes uses down; keeps the index's size in view.
#[derive(Debug)]
pub(super) struct Maintain {
    parts: Maintenance,
    was_read_only: bool,
}

impl Maintain {
    pub(super) const fn new(parts: Maintenance) -> Self {
        Self { parts, was_read_only: false }
    }

    /// Says it when the file system takes no write any more, or takes one again.
    async fn look_whether_read_only(&mut self) {
        let contents = Arc::clone(&self.parts.contents);
        let looked = blocking_run(move || Ok(contents.capacity.usage().refusal == Some(Refusal::ReadOnly)));
        let Ok(read_only) = looked.await else { return };
        if read_only == std::mem::replace(&mut self.was_read_only, read_only) {
            return;
        }
        let path = self.parts.contents.layout.root().display();
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

impl Job for Maintain {
    const NAME: &'static str = "store-maintenance";

    fn schedule(&self) -> Schedule {
        Schedule::every(REAP_EVERY)
    }

    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        let parts = self.parts.clone();
        let round = blocking_run(move || {
            let counted = parts.contents.count(run.stop(), run.progress());
            parts.contents.capacity.set_index_bytes(parts.manifests.listings.size_on_disk());
            parts.try_to_write();
            if parts.contents.capacity.usage().refusal == Some(Refusal::ReadOnly) {
                // Noted uses wait until they can be written down.
                return counted.map(|()| 0);
            }
            parts.forget_doubtful();
            // A disk that can't be counted still has uploads to reap.
            let now = crate::clock::now();
            parts.uses.write_down(|digest| parts.contents.layout.content(digest));
            parts.manifests.ledger.note_time();
            if let Err(error) = parts.snapshots.tidy() {
                tracing::warn!(error = %crate::telemetry::with_causes(&error), "a snapshot that is not whole stays for now");
            }
            let reaped = parts.reap(now)?;
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
