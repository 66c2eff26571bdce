//! Snapshots as they come, are listed and go; one operation at a time. All of it blocks.

use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use fail::fail_point;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::catalog::{ListWriter, VERSION, read_summary, write_summary};
use super::report::{ListedSnapshot, RemovedSnapshot, SnapshotError, SnapshotSummary};
use crate::clock::Timestamp;
use crate::fs::stat;
use crate::oci::RepoName;
use crate::store::contents::pace::Turn;
use crate::store::contents::snapshot_folders::{Folders, MOST_SNAPSHOTS};
use crate::store::error::StoreError;
use crate::store::layout::SnapshotFolder;
use crate::store::repositories::manifests::Manifests;
use crate::store::repositories::walk::{Repositories, SkippedEntries};
use crate::store::stored::SnapshotName;
use crate::telemetry::ProgressLog;

/// Links that are removed in one turn on the disk, if no bytes go with them.
const BATCH: u64 = 64;

/// Bytes that such a turn counts for where writing to the disk has a rate: names and directories.
const BATCH_BYTES: u64 = 64 << 10;

/// The snapshots of a store.
#[derive(Debug)]
pub(in crate::store) struct Snapshots {
    pub(super) manifests: Arc<Manifests>,
    /// Whoever orders something waits here, where he holds no thread.
    pub(in crate::store) orders: Arc<tokio::sync::Mutex<()>>,
    operation: Mutex<()>,
    stopped: CancellationToken,
}

fn whole(name: &SnapshotName) -> SnapshotFolder {
    SnapshotFolder { name: name.clone(), is_whole: true }
}

fn unfinished(name: &SnapshotName) -> SnapshotFolder {
    SnapshotFolder { name: name.clone(), is_whole: false }
}

impl Snapshots {
    pub(in crate::store) fn new(manifests: Arc<Manifests>) -> Self {
        Self { manifests, orders: Arc::default(), operation: Mutex::default(), stopped: CancellationToken::new() }
    }

    /// What goes on ends before its next content, and nothing begins.
    pub(in crate::store) fn stop(&self) {
        self.stopped.cancel();
    }

    /// Cancelled when [`Self::stop`] is called.
    pub(super) const fn stopping(&self) -> &CancellationToken {
        &self.stopped
    }

    /// # Errors
    /// [`SnapshotError::Stopped`].
    pub(super) fn go_on(&self) -> Result<(), SnapshotError> {
        crate::telemetry::disk_moved();
        if self.stopped.is_cancelled() { Err(SnapshotError::Stopped) } else { Ok(()) }
    }

    pub(super) fn begin(&self) -> MutexGuard<'_, ()> {
        self.operation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: an order is carried out.
    fn try_begin(&self) -> Option<MutexGuard<'_, ()>> {
        match self.operation.try_lock() {
            Ok(operation) => Some(operation),
            Err(TryLockError::Poisoned(panicked)) => Some(panicked.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// A turn on the disk, unless the store is closed first: who closes it waits for this change, and who has the turn may wait
    /// for who closes it.
    fn turn(&self) -> Result<Turn, SnapshotError> {
        Handle::current().block_on(async {
            tokio::select! {
                turn = self.manifests.contents.turn(BATCH_BYTES) => Ok(turn),
                () = self.stopped.cancelled() => Err(SnapshotError::Stopped),
            }
        })
    }

    /// The directory of a snapshot that is whole, also of one that somebody put there since the store was opened.
    pub(super) fn find(&self, name: &SnapshotName) -> Result<SnapshotFolder, SnapshotError> {
        let contents = &self.manifests.contents;
        let folder = whole(name);
        if contents.snapshots.all().contains(&folder) {
            return Ok(folder);
        }
        if stat(&contents.layout.snapshot_summary(&folder))?.is_none() {
            return Err(SnapshotError::Unknown(name.clone()));
        }
        if contents.adopt_snapshot(&folder)? { Ok(folder) } else { Err(SnapshotError::TooMany(MOST_SNAPSHOTS)) }
    }

    /// Takes a snapshot of all pushed repositories, durable when it answers.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing of it is left then, or it goes at the next start.
    pub(in crate::store) fn create(
        &self,
        name: &SnapshotName,
        now: Timestamp,
    ) -> Result<SnapshotSummary, SnapshotError> {
        let _operation = self.begin();
        let contents = &self.manifests.contents;
        let known = contents.snapshots.all();
        if known.contains(&whole(name)) || stat(&contents.layout.snapshot(&whole(name)))?.is_some() {
            return Err(SnapshotError::Exists(name.clone()));
        }
        let folder = unfinished(name);
        if known.contains(&folder) {
            self.clear(&folder)?;
        }
        contents.capacity.admit(0)?;
        if !contents.begin_snapshot(&folder)? {
            return Err(SnapshotError::TooMany(MOST_SNAPSHOTS));
        }
        let taken = self.fill(&folder, now).and_then(|summary| {
            fail_point!("store::snapshot::before_rename");
            contents.rename_snapshot(&folder, &whole(name))?;
            fail_point!("store::snapshot::after_rename");
            Ok(summary)
        });
        if taken.is_err()
            && contents.snapshots.all().contains(&folder)
            && let Err(error) = self.clear(&folder)
        {
            tracing::warn!(snapshot = %name, error = %crate::telemetry::with_causes(&error), "what was taken goes at the next start");
        }
        taken
    }

    fn fill(&self, folder: &SnapshotFolder, now: Timestamp) -> Result<SnapshotSummary, SnapshotError> {
        let contents = &self.manifests.contents;
        let mut list = ListWriter::begin(contents.layout.snapshot_list(folder))?;
        let mut sums = SnapshotSummary { version: VERSION, taken: now.as_secs(), ..SnapshotSummary::default() };
        let (skipped, progress) = (SkippedEntries::default(), ProgressLog::new("taking a snapshot"));
        let pushed = Repositories::new(&contents.layout, &skipped).filter(|repo: &RepoName| !repo.is_cached());
        for repo in pushed {
            self.take(folder, &repo, &mut list, &mut sums)?;
            progress.tick(sums.contents, None);
        }
        sums.left_out += skipped.count();
        fail_point!("store::snapshot::after_links");
        contents.sync_snapshot(folder)?;
        let (bytes, digest) = list.finish(&contents.disk)?;
        (sums.list_bytes, sums.list_digest) = (bytes, digest.to_string());
        fail_point!("store::snapshot::before_summary");
        write_summary(&contents.layout, &contents.disk, folder, &sums)?;
        contents.disk.sync_directory(&contents.layout.snapshot(folder))?;
        progress.finish(sums.contents);
        Ok(sums)
    }

    /// All snapshots in the order of their names, those in making and on their way out too. Looks at each link.
    ///
    /// # Errors
    /// Of the disk.
    pub(in crate::store) fn list(&self) -> Result<Vec<ListedSnapshot>, SnapshotError> {
        let contents = &self.manifests.contents;
        for folder in Folders::read(&contents.layout)?.all() {
            // While an order is carried out, what somebody put there is left to the next list.
            if folder.is_whole
                && let Some(_operation) = self.try_begin()
            {
                match self.find(&folder.name) {
                    Ok(_) | Err(SnapshotError::Unknown(_) | SnapshotError::TooMany(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let mut listed = Vec::new();
        for folder in contents.snapshots.all() {
            let mut only_here_bytes = 0;
            contents.each_link(&folder, |_, path| {
                self.go_on()?;
                let alone = stat(path)?.filter(|facts| facts.nlink() == 1);
                only_here_bytes += alone.map_or(0, |facts| facts.len());
                Ok::<(), SnapshotError>(())
            })?;
            let summary = if folder.is_whole { read_summary(&contents.layout, &folder).ok() } else { None };
            listed.push(ListedSnapshot { name: folder.name.to_string(), summary, only_here_bytes });
        }
        Ok(listed)
    }

    /// Removes a snapshot; the bytes that nothing else has are free when it answers.
    ///
    /// # Errors
    /// [`SnapshotError`]; once its directory has its other name, the rest goes at the next start at the latest.
    pub(in crate::store) fn remove(&self, name: &SnapshotName) -> Result<RemovedSnapshot, SnapshotError> {
        let _operation = self.begin();
        let (folder, going) = (self.find(name)?, unfinished(name));
        let contents = &self.manifests.contents;
        if contents.snapshots.all().contains(&going) {
            self.clear(&going)?;
        }
        contents.rename_snapshot(&folder, &going)?;
        fail_point!("store::snapshot::before_clear");
        self.clear(&going)
    }

    /// Removes what an operation left that did not come to its end, unless one goes on.
    ///
    /// # Errors
    /// Of the disk.
    pub(in crate::store) fn tidy(&self) -> Result<(), SnapshotError> {
        let Some(_operation) = self.try_begin() else { return Ok(()) };
        for folder in self.manifests.contents.snapshots.all() {
            if !folder.is_whole {
                let removed = self.clear(&folder)?;
                tracing::info!(snapshot = %folder.name, links = removed.links, "a snapshot that was not whole is gone");
            }
        }
        Ok(())
    }

    /// Removes a directory that is not whole, its links in turn with others who write to the disk.
    fn clear(&self, folder: &SnapshotFolder) -> Result<RemovedSnapshot, SnapshotError> {
        let contents = &self.manifests.contents;
        let (mut removed, mut turn, mut left) = (RemovedSnapshot::default(), None, 0);
        let progress = ProgressLog::new("removing a snapshot");
        contents.each_link(folder, |digest, path| {
            self.go_on()?;
            if left == 0 {
                drop(turn.take());
                turn = Some(self.turn()?);
                left = BATCH;
            }
            let freed = contents.let_go(folder, digest, path)?;
            fail_point!("store::snapshot::after_let_go");
            left = if freed > 0 { 0 } else { left - 1 };
            removed.links += 1;
            removed.freed_bytes += freed;
            progress.tick(removed.links, None);
            Ok::<(), SnapshotError>(())
        })?;
        drop(turn);
        let path = contents.layout.snapshot(folder);
        std::fs::remove_dir_all(&path).map_err(StoreError::io("remove", &path))?;
        contents.disk.sync_directory_of(&path)?;
        contents.forget_snapshot(folder);
        progress.finish(removed.links);
        Ok(removed)
    }
}
