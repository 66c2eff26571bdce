//! The file of a repository's records: a line each, appended and synced, so that what is said is on the disk before it is done.
//!
//! A line that was cut by a kill was not synced, so what it is about was not done: it is written over. One that is wrong in the
//! middle is damage: it says nothing, and all others count. All of it blocks.

use std::fs::{File, OpenOptions};
use std::path::Path;

use fail::fail_point;

use super::clock::Moment;
use super::register::{Register, Registers, WriterId};
use crate::fs::{Disk, is_absence};
use crate::oci::{Algorithm, Digest, RepoName};
use crate::store::error::StoreError;
use crate::store::layout::Layout;

/// The first words of a file.
const HEAD: &str = "d8-registry records 1";

/// Most records of a repository, some 150 bytes of memory each; the oldest go, a tenth at a time: each time the file is written anew.
const MOST_RECORDS: usize = 100_000;

/// A file with more lines than this, of which half say nothing any more, is written anew.
const WORN_LINES: usize = 256;

/// The records of a repository.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) registers: Registers,
    /// Behind its last whole line.
    end: u64,
    lines: usize,
    last: Moment,
}

impl Log {
    /// Reads it; `None`: there is none.
    pub(super) fn read(layout: &Layout, repo: &RepoName) -> Result<Option<Self>, StoreError> {
        let path = layout.records_of(repo);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let text = String::from_utf8_lossy(&bytes[..whole]);
        let mut lines = text.lines();
        let mut log = Self { registers: Registers::default(), end: whole as u64, lines: 0, last: Moment::default() };
        let is_ours = lines.next().is_some_and(|head| head == self::head(repo));
        let mut wrong = usize::from(!is_ours);
        for line in lines {
            log.lines += 1;
            match parsed(line) {
                Some((digest, said)) => log.registers.merge(digest, said),
                None => wrong += 1,
            }
        }
        if wrong > 0 {
            tracing::warn!(path = %path.display(), %repo, lines = wrong, "records of deleted manifests can't be read");
        }
        log.last = log.registers.latest();
        Ok(Some(log))
    }

    /// Begins one, durably.
    pub(super) fn begin(layout: &Layout, disk: &Disk, repo: &RepoName) -> Result<Self, StoreError> {
        let head = format!("{}\n", head(repo));
        disk.replace(layout.temporary(), &layout.records_of(repo), head.as_bytes())?;
        Ok(Self { registers: Registers::default(), end: head.len() as u64, lines: 0, last: Moment::default() })
    }

    /// The moment behind all that are known here, at `wall`.
    pub(super) fn now(&self, wall: crate::clock::Timestamp) -> Moment {
        self.last.next(wall)
    }

    /// Says something, durably; then it counts.
    pub(super) fn say(
        &mut self,
        layout: &Layout,
        disk: &Disk,
        repo: &RepoName,
        digest: Digest,
        said: Register,
    ) -> Result<(), StoreError> {
        if self.lines > WORN_LINES.max(2 * self.registers.len()) || self.registers.len() > MOST_RECORDS {
            self.rewrite(layout, disk, repo)?;
        }
        let path = layout.records_of(repo);
        let file = OpenOptions::new().write(true).open(&path).map_err(StoreError::io("open", &path))?;
        cut(&file, &path, self.end)?;
        let line = line(&digest, &said);
        fail_point!("store::record::before_append");
        disk.write_at(&file, &path, self.end, line.as_bytes())?;
        fail_point!("store::record::after_append");
        self.end += line.len() as u64;
        self.lines += 1;
        self.last = self.last.max(said.at);
        self.registers.merge(digest, said);
        Ok(())
    }

    fn rewrite(&mut self, layout: &Layout, disk: &Disk, repo: &RepoName) -> Result<(), StoreError> {
        if self.registers.len() > MOST_RECORDS {
            self.registers.cut(MOST_RECORDS / 10 * 9);
        }
        let mut text = format!("{}\n", head(repo));
        self.registers.iter().for_each(|(digest, said)| text.push_str(&line(digest, said)));
        disk.replace(layout.temporary(), &layout.records_of(repo), text.as_bytes())?;
        (self.end, self.lines) = (text.len() as u64, self.registers.len());
        Ok(())
    }
}

/// Takes away what stands behind the last whole line: a longer rest than what is written over it would make one wrong line of two.
fn cut(file: &File, path: &Path, end: u64) -> Result<(), StoreError> {
    let length = file.metadata().map_err(StoreError::io("stat", path))?.len();
    if length > end {
        file.set_len(end).map_err(StoreError::io("cut", path))?;
    }
    Ok(())
}

fn head(repo: &RepoName) -> String {
    format!("{HEAD} {repo}")
}

/// A line: clock, writer, digest, `-` for deleted or `+`, and the beginning of the digest of all that.
fn line(digest: &Digest, said: &Register) -> String {
    let text = format!("{} {} {digest} {}", said.at, said.writer, if said.is_deleted { '-' } else { '+' });
    format!("{text} {}\n", check(&text))
}

fn check(text: &str) -> String {
    Algorithm::Sha256.digest(text.as_bytes()).hex()[..8].to_owned()
}

fn parsed(line: &str) -> Option<(Digest, Register)> {
    let (text, told) = line.rsplit_once(' ')?;
    let mut words = text.split(' ');
    let (at, writer) = (words.next()?.parse().ok()?, WriterId::of_text(words.next()?)?);
    let digest = words.next()?.parse().ok()?;
    let is_deleted = match (words.next()?, words.next()) {
        ("-", None) => true,
        ("+", None) => false,
        _ => return None,
    };
    (check(text) == told).then_some((digest, Register { at, writer, is_deleted }))
}
