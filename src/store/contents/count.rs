//! Counting all contents, one directory of 256 at a time, after an unclean stop.

use std::collections::VecDeque;
use std::fs::ReadDir;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::capacity::FOLDERS;
use super::files::Contents;
use crate::fs::stat;
use crate::jobs::Progress;
use crate::oci::{Algorithm, Digest};
use crate::store::error::StoreError;

/// Names that a count looks at under one lock: a stat of something just looked at each.
const COUNT_BATCH: usize = 256;

impl Contents {
    /// Adds up all contents, and says so if it takes long; `shown`: directories, of all. Ends early when `stop` is cancelled.
    /// Blocking.
    pub(in crate::store) fn count(&self, stop: &CancellationToken, shown: &Progress) -> Result<(), StoreError> {
        if self.capacity.all_counted() {
            return Ok(());
        }
        let progress = crate::telemetry::ProgressLog::new("counting the store's content");
        for folder in 0..FOLDERS {
            if stop.is_cancelled() {
                return Ok(());
            }
            self.count_folder(folder)?;
            progress.tick(folder as u64 + 1, Some(FOLDERS as u64));
            shown.set(folder as u64 + 1, Some(FOLDERS as u64));
        }
        self.capacity.set_all_counted();
        Ok(())
    }

    /// Adds up one folder of contents and removes those that no repository has (a crash between rename and link).
    fn count_folder(&self, folder: usize) -> Result<(), StoreError> {
        let Some(mut counting) = self.begin_count(folder) else { return Ok(()) };
        while counting.step(COUNT_BATCH)? {}
        Ok(())
    }

    /// Begins the count of a folder, or one anew that failed half-way; `None` if it was counted.
    pub(in crate::store) fn begin_count(&self, folder: usize) -> Option<Counting<'_>> {
        let _locked = self.lock_folder(folder);
        self.capacity.begin_count(folder).then(|| Counting {
            contents: self,
            folder,
            waiting: Algorithm::ALL.into_iter().collect(),
            reading: None,
        })
    }
}

/// The count of one folder, some names at a time; the folder's lock is held for a batch only.
///
/// A name that is there all the time is met by reading the folder; one that comes or goes meanwhile is charged or
/// refunded by whoever changes it. Names that were met or charged are remembered until the end, so nothing counts twice.
#[derive(Debug)]
pub(in crate::store) struct Counting<'a> {
    contents: &'a Contents,
    folder: usize,
    waiting: VecDeque<Algorithm>,
    reading: Option<(Algorithm, ReadDir)>,
}

impl Counting<'_> {
    /// Counts up to `limit` names; `false`: there are no more, the folder is counted.
    pub(in crate::store) fn step(&mut self, limit: usize) -> Result<bool, StoreError> {
        let batch = self.batch(limit)?;
        crate::telemetry::disk_moved();
        if batch.is_empty() {
            self.contents.held_in(self.folder)?;
        }
        for (_, path) in &batch {
            // A disk that has to look for them does so before anybody waits for the lock.
            let _ = stat(path);
        }
        let _locked = self.contents.lock_folder(self.folder);
        for (digest, path) in &batch {
            let Some(facts) = stat(path)? else { continue };
            if self.contents.damage.is_listed(digest, facts.ino()) {
                // Charged as damaged.
                continue;
            }
            if facts.is_file() && !self.contents.is_linked(digest, &facts)? {
                match self.contents.disk.unlink(path) {
                    Ok(_) => {
                        self.contents.left(digest, &facts);
                        continue;
                    }
                    // It takes its room until it is counted after another unclean stop.
                    Err(error) if error.is_read_only() => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.contents.capacity.see_content(digest, facts.len());
        }
        if batch.is_empty() {
            let held = self.contents.held_in(self.folder)?;
            self.contents.capacity.end_count(self.folder, held);
        }
        Ok(!batch.is_empty())
    }

    /// The next names; none at the end.
    fn batch(&mut self, limit: usize) -> Result<Vec<(Digest, PathBuf)>, StoreError> {
        let mut batch = Vec::new();
        while batch.len() < limit {
            let (algorithm, entries) = match &mut self.reading {
                Some((algorithm, entries)) => (*algorithm, entries),
                None => {
                    let Some(algorithm) = self.waiting.pop_front() else { break };
                    let path = self.path(algorithm);
                    let entries = std::fs::read_dir(&path).map_err(StoreError::io("read", &path))?;
                    self.reading = Some((algorithm, entries));
                    continue;
                }
            };
            match entries.next() {
                Some(entry) => {
                    let entry = entry.map_err(StoreError::io("read", &self.path(algorithm)))?;
                    let digest = entry.file_name().to_str().and_then(|hex| Digest::from_hex(algorithm, hex).ok());
                    // A file of another name is not ours: neither counted nor removed.
                    batch.extend(digest.map(|digest| (digest, entry.path())));
                }
                None => self.reading = None,
            }
        }
        Ok(batch)
    }

    fn path(&self, algorithm: Algorithm) -> PathBuf {
        self.contents.layout.content_folder(algorithm, u8::try_from(self.folder).unwrap_or(u8::MAX))
    }
}
