//! The contents in the order of a pass, one directory's names in memory at a time. Blocking.

use std::collections::VecDeque;

use super::pass::place;
use crate::fs::is_absence;
use crate::oci::{Algorithm, Digest};
use crate::store::contents::capacity::FOLDERS;
use crate::store::error::StoreError;
use crate::store::layout::Layout;

/// What is left of the directories from which a pass goes on. What comes meanwhile into a directory that was read is left to
/// the next pass: it was hashed when it came.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The next directory to be read.
    folder: usize,
    /// Names of the one before, the next one first.
    left: VecDeque<Digest>,
}

impl Names {
    /// Behind `last`, or all. Reads nothing yet.
    pub(super) fn behind(last: Option<&Digest>) -> Self {
        let folder = last.and_then(|last| last.as_bytes().first()).map_or(0, |first| usize::from(*first));
        Self { folder, left: VecDeque::new() }
    }

    /// The next content behind `last`; `None`: there is no more.
    ///
    /// # Errors
    /// Of the disk.
    pub(super) fn next(&mut self, layout: &Layout, last: Option<&Digest>) -> Result<Option<Digest>, StoreError> {
        loop {
            while let Some(next) = self.left.front() {
                if last.is_none_or(|last| place(last) < place(next)) {
                    return Ok(Some(*next));
                }
                self.left.pop_front();
            }
            if self.folder >= FOLDERS {
                return Ok(None);
            }
            self.left = read(layout, u8::try_from(self.folder).unwrap_or(u8::MAX))?.into();
            self.folder += 1;
        }
    }
}

/// The contents of a directory, in order. A file of another name is none.
fn read(layout: &Layout, first: u8) -> Result<Vec<Digest>, StoreError> {
    let mut found = Vec::new();
    for algorithm in Algorithm::ALL {
        let path = layout.content_folder(algorithm, first);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if is_absence(&error) => continue,
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(StoreError::io("read", &path))?;
            let digest = entry.file_name().to_str().and_then(|hex| Digest::from_hex(algorithm, hex).ok());
            found.extend(digest.filter(|digest| digest.as_bytes().first() == Some(&first)));
        }
    }
    crate::telemetry::disk_moved();
    found.sort_unstable_by(|one, other| place(one).cmp(&place(other)));
    Ok(found)
}
