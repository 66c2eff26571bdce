//! Verification and scrub as others ask for them, of a running server's store and of one that no server has.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::contents::capacity::Capacity;
use super::contents::changes::blocking;
use super::contents::files::Contents;
use super::contents::scrub::scrubber::ScrubStatus;
use super::contents::snapshot_folders::Folders;
use super::error::StoreError;
use super::face::Store;
use super::layout::Layout;
use super::opening;
use super::options::StoreLimits;
use super::repositories::collection::ledger::Ledger;
use super::repositories::listings::Listings;
use super::repositories::manifests::Manifests;
use super::repositories::memory::Memory;
use super::repositories::verify::finding::VerifyReport;
use super::repositories::verify::{Verifier, VerifyOptions};
use crate::fs::Disk;
use crate::jobs::Progress;

impl Store {
    /// Looks the store through, or one repository, beside all that goes on. Changes nothing. Ends early when `stop` is
    /// cancelled, or the caller is dropped.
    ///
    /// # Errors
    /// [`StoreError::Layout`] if it was stopped; else of the disk, where the store's own directories can't be read. What is
    /// wrong is in the report.
    pub async fn verify(&self, options: VerifyOptions, stop: CancellationToken) -> Result<VerifyReport, StoreError> {
        let parts = Arc::clone(&self.0);
        let _dropped = stop.clone().drop_guard();
        blocking(move || {
            let shown = Progress::default();
            Verifier::new(&parts.manifests, options, true, &stop, &shown).run()
        })
        .await
    }

    /// Puts the scrub's interval into force; `None`, as until the first call: nothing is read by the clock.
    pub fn set_scrub(&self, interval: Option<Duration>) {
        self.0.scrubber.set_interval(interval);
    }

    /// What scrub is about. Waits for no disk.
    #[must_use]
    pub fn scrub(&self) -> ScrubStatus {
        self.0.scrubber.status()
    }
}

/// Looks through the store in `dir`, which no server has, or one repository of it. Changes nothing. Blocking.
///
/// # Errors
/// [`StoreError::Layout`] with a sentence if `dir` is no store, a server has it, or it was stopped. What is wrong is in the
/// report.
pub fn verify_stopped(
    dir: &Path,
    options: VerifyOptions,
    stop: &CancellationToken,
) -> Result<VerifyReport, StoreError> {
    let layout = Layout::new(dir);
    let _held = opening::hold(&layout)?;
    let open = || std::fs::File::open(layout.root()).map_err(StoreError::io("open", layout.root()));
    let snapshots = Folders::read(&layout)?;
    let noted = opening::usage(&layout, &snapshots.all());
    let capacity = Capacity::new(open()?, StoreLimits::UNBOUNDED, noted, 0);
    let listings = Listings::new(&layout);
    let contents = Arc::new(Contents::new(layout.clone(), Disk::default(), open()?.into(), capacity, snapshots, || {}));
    contents.look_at_damaged();
    let ledger = Arc::new(Ledger::open(Arc::clone(&contents)));
    let manifests = Manifests::new(contents, Arc::new(Memory::default()), listings, ledger);
    Verifier::new(&manifests, options, false, stop, &Progress::default()).run()
}
