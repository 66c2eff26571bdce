//! The contents in the order of a pass, one directory's names in memory at a time, and behind each the file of it that snapshots
//! alone keep, if there is one. A directory that can't be read is told of,
//! and the next one is read. Blocking.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use super::pass::place;
use crate::fs::is_absence;
use crate::oci::{Algorithm, Digest};
use crate::store::contents::capacity::FOLDERS;
use crate::store::contents::files::Contents;
use crate::store::error::StoreError;
use crate::store::layout::Layout;

/// What is left of the directories from which a pass goes on. What comes meanwhile into a directory that was read is left to
/// the next pass: it was hashed when it came.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Contents up to this one are through.
    last: Option<Digest>,
    /// The next directory to be read.
    folder: usize,
    /// Names of the one before, the next one first.
    left: VecDeque<Named>,
}

/// A file of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) digest: Digest,
    /// The link of a snapshot; `None`: it is in `blobs/`.
    pub(super) kept: Option<PathBuf>,
}

impl Named {
    pub(super) fn path(&self, layout: &Layout) -> PathBuf {
        self.kept.clone().unwrap_or_else(|| layout.content(&self.digest))
    }
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
        Self { last: last.copied(), folder, left: VecDeque::new() }
    }

    /// The next one; `None`: there is no more.
    ///
    /// # Errors
    /// [`Unreadable`]; asked again, it goes on behind that.
    pub(super) fn next(&mut self, contents: &Contents) -> Result<Option<Named>, Unreadable> {
        loop {
            while let Some(next) = self.left.pop_front() {
                if self.last.is_none_or(|last| place(&last) < place(&next.digest)) {
                    return Ok(Some(next));
                }
            }
            if self.folder >= FOLDERS {
                return Ok(None);
            }
            let first = u8::try_from(self.folder).unwrap_or(u8::MAX);
            let (found, failed) = read(contents, first);
            self.left = found.into();
            self.folder += 1;
            if let Some(error) = failed {
                return Err(Unreadable { first, error });
            }
        }
    }
}

/// The contents of a directory, in order, and why not all of them could be read. A file of another name is none.
fn read(contents: &Contents, first: u8) -> (Vec<Named>, Option<StoreError>) {
    let (mut found, mut failed) = (Vec::new(), None);
    for algorithm in Algorithm::ALL {
        let path = contents.layout.content_folder(algorithm, first);
        if let Err(error) = read_of(algorithm, &path, first, &mut found)
            && !is_absence(&error)
        {
            failed = Some(StoreError::io("read", &path)(error));
        }
    }
    let kept = contents.each_held(first, |digest, path, _| found.push(Named { digest, kept: Some(path) }));
    failed = failed.or(kept.err());
    crate::telemetry::disk_moved();
    found.sort_unstable_by(|one, other| {
        (place(&one.digest), one.kept.as_ref()).cmp(&(place(&other.digest), other.kept.as_ref()))
    });
    (found, failed)
}

fn read_of(algorithm: Algorithm, folder: &Path, first: u8, found: &mut Vec<Named>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let digest = name.to_str().and_then(|hex| Digest::from_hex(algorithm, hex).ok());
        let digest = digest.filter(|digest| digest.as_bytes().first() == Some(&first));
        found.extend(digest.map(|digest| Named { digest, kept: None }));
    }
    Ok(())
}
