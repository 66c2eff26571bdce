//! The index's folders and its stamp.

use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::fs::Disk;
use crate::store::error::StoreError;
use crate::store::layout::Layout;
use crate::store::repositories::index::{Index, IndexError, folder_size};

/// First word of the stamp's file.
const FORMAT: &str = "1";

/// Says which index on disk can be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The folder's number.
    pub(super) number: u64,
    /// The last entry of the index.
    pub(super) value: Vec<u8>,
}

impl Stamp {
    /// One that no other is equal to.
    pub(super) fn fresh(number: u64) -> Self {
        Self { number, value: Uuid::new_v4().as_bytes().to_vec() }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let (format, number, value) = (words.next()?, words.next()?, words.next()?);
        let known = format == FORMAT && words.next().is_none();
        let value = Uuid::try_parse(value).ok()?.as_bytes().to_vec();
        Some(Self { number: number.parse().ok()?, value }).filter(|_| known)
    }

    fn to_text(&self) -> String {
        let value = Uuid::from_slice(&self.value).unwrap_or_default();
        format!("{FORMAT} {} {value}\n", self.number)
    }
}

/// The directory of indexes.
#[derive(Debug)]
pub(super) struct IndexDirectory {
    layout: Layout,
    disk: Disk,
    at_start: Option<Stamp>,
}

impl IndexDirectory {
    /// Below `layout`. Reads the stamp.
    pub(super) fn new(layout: &Layout) -> Self {
        let text = std::fs::read_to_string(layout.index_stamp());
        let at_start = text.ok().and_then(|text| Stamp::parse(&text));
        Self { layout: layout.clone(), disk: Disk::default(), at_start }
    }

    /// The stamp that was there when this was made.
    pub(super) fn stamp_at_start(&self) -> Option<Stamp> {
        self.at_start.clone()
    }

    /// Whether the file system takes no write: sled opens nothing there.
    pub(super) fn is_read_only(&self) -> bool {
        let facts = rustix::fs::statvfs(self.layout.root());
        facts.is_ok_and(|facts| facts.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    }

    /// Removes the stamp, durably; it may be gone already.
    pub(super) fn remove_stamp(&self) -> Result<(), StoreError> {
        let stamp = self.layout.index_stamp();
        self.disk.unlink(&stamp)?;
        // Also if there was none: the removal before may have failed to be made durable.
        Ok(self.disk.sync_directory_of(&stamp)?)
    }

    /// Writes the stamp, durably.
    pub(super) fn write_stamp(&self, stamp: &Stamp) -> Result<(), StoreError> {
        let text = stamp.to_text();
        Ok(self.disk.replace(self.layout.temporary(), &self.layout.index_stamp(), text.as_bytes())?)
    }

    /// The folder of an index.
    pub(super) fn index(&self, number: u64) -> PathBuf {
        self.layout.index().join(number.to_string())
    }

    /// The number in a folder's name.
    pub(super) fn number_of(&self, dir: &Path) -> Result<u64, IndexError> {
        number_in(dir).ok_or(IndexError::Stale("in a folder of another name"))
    }

    /// A folder that does not exist yet; its parent does.
    pub(super) fn fresh(&self) -> Result<PathBuf, StoreError> {
        let indexes = self.layout.index();
        self.disk.make_directory(&indexes)?;
        let entries = std::fs::read_dir(&indexes).map_err(StoreError::io("read", &indexes))?;
        let highest = entries.flatten().filter_map(|entry| number_in(&entry.path())).max().unwrap_or(0);
        Ok(self.index(highest + 1))
    }

    /// Removes every index but the one in `dir`.
    pub(super) fn keep_only(&self, dir: &Path) {
        let Ok(entries) = std::fs::read_dir(self.layout.index()) else { return };
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| path != dir) {
            let removed = if path.is_dir() { remove_directory(&path) } else { std::fs::remove_file(&path) };
            if let Err(error) = removed {
                tracing::warn!(%error, path = %path.display(), "an old index can't be removed");
            }
        }
    }

    /// Moves a damaged index out of the way, for whoever wants to know why; keeps one such folder at most.
    pub(super) fn set_aside(&self, number: u64) {
        let (from, to) = (self.index(number), self.layout.index_bad());
        if !from.exists() {
            return;
        }
        let moved = remove_directory(&to).map_err(StoreError::io("remove", &to));
        if let Err(error) = moved.and_then(|()| Ok(self.disk.move_directory(&from, &to)?)) {
            tracing::warn!(%error, path = %from.display(), "a damaged index can't be set aside");
        }
    }

    /// Removes an index whose filling failed. It may be open still: what it holds goes when it is closed.
    pub(super) fn remove(&self, index: &Index) {
        if let Err(error) = remove_directory(index.dir()) {
            tracing::warn!(%error, path = %index.dir().display(), "an unfinished index can't be removed");
        }
    }

    /// Bytes of all indexes on disk.
    pub(super) fn size_on_disk(&self) -> u64 {
        folder_size(&self.layout.index()) + folder_size(&self.layout.index_bad())
    }
}

fn number_in(dir: &Path) -> Option<u64> {
    dir.file_name()?.to_str()?.parse().ok()
}

fn remove_directory(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
