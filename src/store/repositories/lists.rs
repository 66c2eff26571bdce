//! Lists that an upstream once gave whole, kept for when it gives none.
//!
//! A kept list is a file beside what else is known of its repository; its modification time is when the upstream gave
//! it. It is part of no index. All of it blocks.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::fs::is_absence;
use crate::oci::RepoName;
use crate::store::contents::files::Contents;
use crate::store::error::StoreError;
use crate::store::layout::Layout;
use crate::store::stored::ListKind;
use crate::telemetry::DamageCause;

/// A list as the upstream gave it.
#[derive(Clone, Debug)]
pub struct KeptList {
    /// The list, a JSON array.
    pub bytes: Bytes,
    /// When it was kept.
    pub kept: Timestamp,
}

/// Keeps a list, durably.
pub(in crate::store) fn keep(
    contents: &Contents,
    repo: &RepoName,
    kind: ListKind,
    bytes: &[u8],
) -> Result<(), StoreError> {
    let Contents { layout, disk, capacity, .. } = contents;
    let _charged = capacity.charge(bytes.len() as u64)?;
    disk.make_directory(&layout.lists(repo))?;
    Ok(disk.replace(layout.temporary(), &layout.list(repo, kind), bytes)?)
}

/// A list that was kept. One that can't be read is none: it is asked for again.
pub(in crate::store) fn kept(
    contents: &Contents,
    repo: &RepoName,
    kind: ListKind,
) -> Result<Option<KeptList>, StoreError> {
    read(&contents.layout, repo, kind)
        .or_else(|error| contents.damage.overlook(DamageCause::List, error).map(|()| None))
}

fn read(layout: &Layout, repo: &RepoName, kind: ListKind) -> Result<Option<KeptList>, StoreError> {
    let path = layout.list(repo, kind);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if is_absence(&error) => return Ok(None),
        Err(error) => return Err(StoreError::io("read", &path)(error)),
    };
    let facts = std::fs::metadata(&path).map_err(StoreError::io("stat", &path))?;
    let kept = facts.modified().map_err(StoreError::io("stat", &path))?.into();
    if serde_json::from_slice::<Vec<&serde_json::value::RawValue>>(&bytes).is_err() {
        return Err(StoreError::damaged(&path, "the file does not hold a list"));
    }
    Ok(Some(KeptList { bytes: Bytes::from(bytes), kept }))
}

/// Forgets a kept list.
pub(in crate::store) fn forget(contents: &Contents, repo: &RepoName, kind: ListKind) -> Result<(), StoreError> {
    contents.disk.unlink(&contents.layout.list(repo, kind))?;
    Ok(())
}

/// Forgets all kept lists of a repository.
pub(in crate::store) fn forget_all(contents: &Contents, repo: &RepoName) -> Result<(), StoreError> {
    let directory = contents.layout.lists(repo);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if is_absence(&error) => return Ok(()),
        Err(error) => return Err(StoreError::io("read", &directory)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(StoreError::io("read", &directory))?;
        contents.disk.unlink(&entry.path())?;
    }
    Ok(())
}
