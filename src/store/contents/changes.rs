//! Work that waits for the disk, and work that changes the tree.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use crate::fs::Disk;
use crate::store::error::StoreError;
use crate::store::layout::Layout;
use crate::telemetry::{DiskOperation, disk_operation};

/// Runs work that waits for the disk; it ends by itself even if the caller is dropped.
pub(in crate::store) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    waiting(disk_operation(), work).await
}

/// As [`blocking`], as the operation of the disk that it is.
pub(in crate::store) async fn waiting<T: Send + 'static>(
    operation: DiskOperation,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let work = move || {
        let outcome = work();
        drop(operation);
        outcome
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(StoreError::Bug(error.to_string())),
    }
}

/// As [`blocking`], for a run of a job: a panic goes on in the caller, so that the run counts as panicked.
pub(in crate::store) async fn blocking_run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let operation = disk_operation();
    crate::jobs::blocking(move || {
        let outcome = work();
        drop(operation);
        outcome
    })
    .await
}

/// Whether the tree may still be changed, and whether the note of a clean stop is still on the disk.
#[derive(Debug)]
pub(in crate::store) struct Changes {
    /// Read while a change is made; `true` once the store is closed.
    closed: RwLock<bool>,
    /// The note, bytes of all contents, stays until the first change: a store that can't be written is not counted at each
    /// start.
    noted: AtomicBool,
    removing: Mutex<()>,
}

impl Changes {
    /// Of the tree in `layout`. Blocking.
    pub(in crate::store) fn new(layout: &Layout) -> Self {
        Self { closed: RwLock::new(false), noted: AtomicBool::new(layout.usage().exists()), removing: Mutex::default() }
    }

    /// Begins a change, which lasts as long as the answer lives.
    ///
    /// # Errors
    /// [`StoreError::Bug`] once the store is closed.
    pub(in crate::store) fn begin(&self) -> Result<RwLockReadGuard<'_, bool>, StoreError> {
        let closed = self.closed.read().unwrap_or_else(PoisonError::into_inner);
        if *closed { Err(StoreError::Bug("the store is closed".into())) } else { Ok(closed) }
    }

    /// None begins while the answer lives; `None`: one goes on. Nobody is waited for: behind a writer that waits no change
    /// begins, and one may go on for hours.
    pub(in crate::store) fn try_pause(&self) -> Option<RwLockWriteGuard<'_, bool>> {
        match self.closed.try_write() {
            Ok(paused) => Some(paused),
            Err(TryLockError::Poisoned(panicked)) => Some(panicked.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Waits for the changes that have begun; none begins afterwards.
    pub(in crate::store) fn close(&self) {
        *self.closed.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Removes the note, durably, if it is there; before anything is changed.
    pub(in crate::store) fn forget_note(&self, layout: &Layout, disk: &Disk) -> Result<(), StoreError> {
        if !self.noted.load(Ordering::Acquire) {
            return Ok(());
        }
        let _removing = self.removing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.noted.load(Ordering::Acquire) {
            let path = layout.usage();
            disk.unlink(&path)?;
            disk.sync_directory_of(&path)?;
            self.noted.store(false, Ordering::Release);
        }
        Ok(())
    }
}
