//! The file of a repository's records: a line each, appended and synced, so that what is said is on the disk before it counts.
//!
//! A line that was cut by a kill was not synced, so what it is about was not done: it is written over. One that is wrong in the
//! middle is damage: it says nothing, and all others count. All of it blocks.

use std::fs::{File, OpenOptions};
use std::path::Path;

use fail::fail_point;

use super::clock::Moment;
use super::record::Record;
use super::register::Registers;
use crate::fs::{Disk, is_absence};
use crate::oci::RepoName;
use crate::store::error::StoreError;
use crate::store::layout::Layout;

/// The first words of a file.
const HEAD: &str = "d8-registry records 1";

/// A file with more lines than this, of which half say nothing any more, is written anew.
const WORN_LINES: usize = 256;

/// The records of a repository.
#[derive(Debug)]
pub(in crate::store::repositories) struct Log {
    repo: RepoName,
    pub(in crate::store::repositories) registers: Registers,
    /// Behind its last whole line.
    end: u64,
    lines: usize,
    last: Moment,
    /// Whether the file says something else.
    is_stale: bool,
}

impl Log {
    /// None yet, and no file.
    pub(in crate::store::repositories) fn new(repo: &RepoName) -> Self {
        let registers = Registers::of(repo);
        Self { repo: repo.clone(), registers, end: 0, lines: 0, last: Moment::default(), is_stale: true }
    }

    /// Reads it; `None`: there is none.
    pub(in crate::store::repositories) fn read(layout: &Layout, repo: &RepoName) -> Result<Option<Self>, StoreError> {
        let path = layout.records_of(repo);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let text = String::from_utf8_lossy(&bytes[..whole]);
        let mut lines = text.lines();
        let mut log = Self { end: whole as u64, is_stale: false, ..Self::new(repo) };
        let is_ours = lines.next().is_some_and(|head| head == self::head(repo));
        let mut wrong = usize::from(!is_ours);
        for line in lines {
            log.lines += 1;
            match line.parse() {
                Ok(record) => drop(log.registers.merge(&record)),
                Err(_) => wrong += 1,
            }
        }
        if wrong > 0 {
            tracing::warn!(path = %path.display(), %repo, lines = wrong, "records of tags and manifests can't be read");
        }
        log.last = log.registers.latest();
        Ok(Some(log))
    }

    /// The moment behind all that are known here, at `wall`.
    pub(in crate::store::repositories) fn now(&self, wall: crate::clock::Timestamp) -> Moment {
        self.last.next(wall)
    }

    /// Whether the file is not what is known here.
    pub(in crate::store::repositories) const fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Goes on behind what is known here, whatever was known before.
    pub(in crate::store::repositories) fn begin_again(&mut self) {
        self.last = self.registers.latest();
    }

    /// What follows was not written down: the file has to be written anew.
    pub(in crate::store::repositories) fn change(&mut self) -> &mut Registers {
        self.is_stale = true;
        &mut self.registers
    }

    /// Takes records in, durably, with one sync; then they count.
    pub(in crate::store::repositories) fn say(
        &mut self,
        layout: &Layout,
        disk: &Disk,
        records: &[Record],
    ) -> Result<(), StoreError> {
        let is_worn = self.lines > WORN_LINES.max(2 * self.registers.len());
        if self.is_stale || is_worn {
            match self.write(layout, disk) {
                // There may be room for a line, and the file is good as it is.
                Err(error) if !self.is_stale && error.is_full() => {}
                written => written?,
            }
        }
        let path = layout.records_of(&self.repo);
        let file = OpenOptions::new().write(true).open(&path).map_err(StoreError::io("open", &path))?;
        cut(&file, &path, self.end)?;
        let mut text = String::with_capacity(records.len() * 150);
        for record in records {
            text.push_str(&record.to_string());
            text.push('\n');
        }
        fail_point!("store::record::before_append");
        disk.write_at(&file, &path, self.end, text.as_bytes())?;
        fail_point!("store::record::after_append");
        self.end += text.len() as u64;
        self.lines += records.len();
        for record in records {
            self.last = self.last.max(record.said.at);
            self.registers.merge(record);
        }
        Ok(())
    }

    /// Writes the file anew, durably.
    pub(in crate::store::repositories) fn write(&mut self, layout: &Layout, disk: &Disk) -> Result<(), StoreError> {
        let mut text = format!("{}\n", head(&self.repo));
        for record in self.registers.iter() {
            text.push_str(&record.to_string());
            text.push('\n');
        }
        disk.replace(layout.temporary(), &layout.records_of(&self.repo), text.as_bytes())?;
        (self.end, self.lines, self.is_stale) = (text.len() as u64, self.registers.len(), false);
        self.last = self.last.max(self.registers.latest());
        Ok(())
    }
}

impl Log {
    /// Removes the file of what says nothing any more.
    pub(in crate::store::repositories) fn remove(&mut self, layout: &Layout, disk: &Disk) -> Result<(), StoreError> {
        if disk.unlink(&layout.records_of(&self.repo))? {
            disk.sync_directory(&layout.records())?;
        }
        (self.end, self.lines, self.is_stale) = (0, 0, true);
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

/// The repository that a file is about, by its first line; `None`: it says none.
pub(in crate::store::repositories) fn repository_of(path: &Path) -> Option<RepoName> {
    use std::io::{BufRead as _, Read as _};
    let mut line = String::new();
    let file = File::open(path).ok()?;
    std::io::BufReader::new(file.take(1024)).read_line(&mut line).ok()?;
    line.trim_end().strip_prefix(HEAD)?.strip_prefix(' ')?.parse().ok()
}
