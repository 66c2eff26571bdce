//! Which directories of `snapshots/` there are.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::fs::is_absence;
use crate::store::error::StoreError;
use crate::store::layout::{Layout, SnapshotFolder};

/// Most snapshots: a content that is taken out of its last repository costs a look for each.
pub(in crate::store) const MOST_SNAPSHOTS: usize = 16;

/// The directories of `snapshots/`, those in making and on their way out too: their links count all the same.
#[derive(Debug, Default)]
pub(in crate::store) struct Folders(RwLock<Vec<SnapshotFolder>>);

impl Folders {
    /// As the disk has them. What is no name of a snapshot is left alone.
    pub(in crate::store) fn read(layout: &Layout) -> Result<Self, StoreError> {
        let path = layout.snapshots();
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if is_absence(&error) => return Ok(Self::default()),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(StoreError::io("read", &path))?;
            let folder = entry.file_name().to_str().and_then(SnapshotFolder::of_file_name);
            match folder.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                Some(folder) => found.push(folder),
                None => tracing::warn!(path = %entry.path().display(), "this is no snapshot and is left alone"),
            }
        }
        found.sort_unstable();
        Ok(Self(RwLock::new(found)))
    }

    /// All of them, in the order of their names.
    pub(in crate::store) fn all(&self) -> Vec<SnapshotFolder> {
        self.reading().clone()
    }

    /// How many there are.
    pub(in crate::store) fn count(&self) -> usize {
        self.reading().len()
    }

    pub(super) fn reading(&self) -> RwLockReadGuard<'_, Vec<SnapshotFolder>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// While the answer lives nobody counts links: for the time in which a directory has its name changed.
    pub(super) fn writing(&self) -> RwLockWriteGuard<'_, Vec<SnapshotFolder>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
