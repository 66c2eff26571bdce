//! The files of a snapshot that are not contents: `list`, which repository had what, and `snapshot.json`, the summary with the
//! list's digest. A list whose digest is another is not read at all.
//!
//! The list is text, a line an entry: `repository NAME`, and behind it what that has: `manifest DIGEST`, `blob DIGEST`, `tag TAG
//! DIGEST MILLISECONDS` with the time of the tag since 1970.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::report::{SnapshotError, SnapshotSummary};
use crate::clock::Timestamp;
use crate::fs::{Disk, create};
use crate::oci::{Algorithm, Digest, RepoName, Tag};
use crate::store::contents::blob::hash_file;
use crate::store::error::StoreError;
use crate::store::layout::{Layout, Membership, SnapshotFolder};

/// The form of both files that is written and read.
pub(super) const VERSION: u32 = 1;

/// First line of a list.
const HEAD: &str = "d8-registry snapshot 1";

/// Longest line: a tag of 128 characters, a digest of 135, and what is between.
const MAX_LINE: u64 = 512;

/// Longest summary.
const MAX_SUMMARY: u64 = 64 << 10;

/// A line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// What follows is of this repository.
    Repository(RepoName),
    /// A content that it has.
    Member(Membership, Digest),
    /// A tag of it: where it leads, and its time.
    Tag(Tag, Digest, Timestamp),
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository(repo) => write!(f, "repository {repo}"),
            Self::Member(kind, digest) => write!(f, "{} {digest}", kind.word()),
            Self::Tag(tag, digest, time) => write!(f, "tag {tag} {digest} {}", time.as_millis()),
        }
    }
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ')?;
        match word {
            "repository" => rest.parse().ok().map(Self::Repository),
            "tag" => {
                let mut words = rest.split(' ');
                let (tag, digest) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                let time = Timestamp::from_millis(words.next()?.parse().ok()?);
                words.next().is_none().then_some(Self::Tag(tag, digest, time))
            }
            kind => Some(Self::Member(Membership::of_word(kind)?, rest.parse().ok()?)),
        }
    }
}

/// A list that is being written.
#[derive(Debug)]
pub(super) struct ListWriter {
    path: PathBuf,
    file: BufWriter<File>,
    place: u64,
}

impl ListWriter {
    pub(super) fn begin(path: PathBuf) -> Result<Self, StoreError> {
        let mut writer = Self { file: BufWriter::new(create(&path)?), path, place: 0 };
        writer.line(&HEAD)?;
        Ok(writer)
    }

    pub(super) fn entry(&mut self, entry: &Entry) -> Result<(), StoreError> {
        self.line(entry)
    }

    fn line(&mut self, line: &dyn fmt::Display) -> Result<(), StoreError> {
        let line = format!("{line}\n");
        self.file.write_all(line.as_bytes()).map_err(StoreError::io("write", &self.path))?;
        self.place += line.len() as u64;
        Ok(())
    }

    /// Where the next entry will stand.
    pub(super) const fn place(&self) -> u64 {
        self.place
    }

    /// Takes back all that was written from `place` on.
    pub(super) fn back_to(&mut self, place: u64) -> Result<(), StoreError> {
        let mut back = || -> io::Result<()> {
            self.file.seek(SeekFrom::Start(place))?;
            self.file.get_ref().set_len(place)
        };
        back().map_err(StoreError::io("write", &self.path))?;
        self.place = place;
        Ok(())
    }

    /// Ends the list, synced; its length and digest.
    pub(super) fn finish(self, disk: &Disk) -> Result<(u64, Digest), StoreError> {
        let Self { path, file, place } = self;
        let file = file.into_inner().map_err(|error| StoreError::io("write", &path)(error.into_error()))?;
        disk.sync(&file, &path)?;
        Ok((place, digest_of(&path)?))
    }
}

fn digest_of(path: &Path) -> Result<Digest, StoreError> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    hash_file(&file, Algorithm::Sha256).map_err(StoreError::io("read", path))
}

/// Writes the summary of a snapshot, durably.
pub(super) fn write_summary(
    layout: &Layout,
    disk: &Disk,
    folder: &SnapshotFolder,
    summary: &SnapshotSummary,
) -> Result<(), StoreError> {
    let mut text = serde_json::to_vec_pretty(summary).map_err(|error| StoreError::Bug(error.to_string()))?;
    text.push(b'\n');
    Ok(disk.replace(layout.temporary(), &layout.snapshot_summary(folder), &text)?)
}

/// Reads the summary of a snapshot.
pub(super) fn read_summary(layout: &Layout, folder: &SnapshotFolder) -> Result<SnapshotSummary, SnapshotError> {
    let path = layout.snapshot_summary(folder);
    let unfit = |what: String| SnapshotError::Unfit { name: folder.name.clone(), what };
    let mut text = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(MAX_SUMMARY).read_to_end(&mut text));
    read.map_err(|error| unfit(format!("{}: {error}", path.display())))?;
    let summary: SnapshotSummary =
        serde_json::from_slice(&text).map_err(|error| unfit(format!("{}: {error}", path.display())))?;
    if summary.version != VERSION {
        return Err(unfit(format!("its form is {}, and this version reads {VERSION}", summary.version)));
    }
    Ok(summary)
}

/// A list that was found to be the one that its summary names.
#[derive(Debug)]
pub(super) struct Catalog {
    name: crate::store::stored::SnapshotName,
    path: PathBuf,
}

impl Catalog {
    /// Reads all of the list once, and holds it against the summary.
    pub(super) fn open(
        layout: &Layout,
        folder: &SnapshotFolder,
        summary: &SnapshotSummary,
    ) -> Result<Self, SnapshotError> {
        let catalog = Self { name: folder.name.clone(), path: layout.snapshot_list(folder) };
        match digest_of(&catalog.path) {
            Ok(digest) if digest.to_string() == summary.list_digest => Ok(catalog),
            Ok(_) => Err(catalog.unfit("its list is not the one that was written")),
            Err(error) => Err(catalog.unfit(&crate::telemetry::with_causes(&error))),
        }
    }

    fn unfit(&self, what: &str) -> SnapshotError {
        SnapshotError::Unfit { name: self.name.clone(), what: format!("{}: {what}", self.path.display()) }
    }

    /// The entries, from the first on.
    pub(super) fn entries(&self) -> Result<Entries<'_>, SnapshotError> {
        let file = File::open(&self.path).map_err(|error| self.unfit(&error.to_string()))?;
        let mut entries = Entries { catalog: self, file: BufReader::new(file) };
        match entries.line()? {
            Some(head) if head == HEAD => Ok(entries),
            _ => Err(self.unfit("it does not begin as a list does")),
        }
    }
}

/// The entries of a list.
#[derive(Debug)]
pub(super) struct Entries<'a> {
    catalog: &'a Catalog,
    file: BufReader<File>,
}

impl Entries<'_> {
    fn line(&mut self) -> Result<Option<String>, SnapshotError> {
        let mut line = String::new();
        let read = (&mut self.file).take(MAX_LINE).read_line(&mut line);
        match read.map_err(|error| self.catalog.unfit(&error.to_string()))? {
            0 => Ok(None),
            _ if line.ends_with('\n') => {
                line.pop();
                Ok(Some(line))
            }
            _ => Err(self.catalog.unfit("a line does not end")),
        }
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.line() {
            Ok(None) => None,
            Ok(Some(line)) => {
                let what = || self.catalog.unfit("a line can't be understood");
                Some(Entry::parse(&line).ok_or_else(what))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written_and_nothing_else_is() {
        let digest = Algorithm::Sha512.digest(b"x");
        let entries = [
            Entry::Repository("system/deckhouse".parse().unwrap()),
            Entry::Member(Membership::Blob, digest),
            Entry::Member(Membership::Manifest, Algorithm::Sha256.digest(b"y")),
            Entry::Tag("x".repeat(128).parse().unwrap(), digest, Timestamp::from_millis(u64::MAX)),
        ];
        for entry in entries {
            let line = entry.to_string();
            assert!(line.len() < MAX_LINE as usize - 1);
            assert_eq!(Entry::parse(&line), Some(entry));
        }
        let tag = format!("tag v1 {digest}");
        let cached = format!("repository ~{}", "0".repeat(16));
        for wrong in ["", "repository", "repository ../a", &cached, "blob x", "list x", &tag, &format!("{tag} 1 2")] {
            assert_eq!(Entry::parse(wrong), None, "{wrong}");
        }
    }
}
