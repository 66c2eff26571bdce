//! The contents in the order of a pass, one directory's names in memory at a time. A directory that can't be read is told of,
//! and the next one is read. Blocking.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

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

/// A directory of which not all names could be read; those that could be are handed out.
#[derive(Debug)]
pub(super) struct Unreadable {
    /// The first byte of the digests that lie there.
    pub(super) first: u8,
    pub(super) error: StoreError,
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
    /// [`Unreadable`]; asked again, it goes on behind that.
    pub(super) fn next(&mut self, layout: &Layout, last: Option<&Digest>) -> Result<Option<Digest>, Unreadable> {
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
            let first = u8::try_from(self.folder).unwrap_or(u8::MAX);
            let (found, failed) = read(layout, first);
            self.left = found.into();
            self.folder += 1;
            if let Some(error) = failed {
                return Err(Unreadable { first, error });
            }
        }
    }
}

/// The contents of a directory, in order, and why not all of them could be read. A file of another name is none.
fn read(layout: &Layout, first: u8) -> (Vec<Digest>, Option<StoreError>) {
    let (mut found, mut failed) = (Vec::new(), None);
    for algorithm in Algorithm::ALL {
        let path = layout.content_folder(algorithm, first);
        if let Err(error) = read_of(algorithm, &path, first, &mut found)
            && !is_absence(&error)
        {
            failed = Some(StoreError::io("read", &path)(error));
        }
    }
    crate::telemetry::disk_moved();
    found.sort_unstable_by(|one, other| place(one).cmp(&place(other)));
    (found, failed)
}

fn read_of(algorithm: Algorithm, folder: &Path, first: u8, found: &mut Vec<Digest>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let digest = name.to_str().and_then(|hex| Digest::from_hex(algorithm, hex).ok());
        found.extend(digest.filter(|digest| digest.as_bytes().first() == Some(&first)));
    }
    Ok(())
}
