//! Records of deleted manifests: what was deleted here does not come back from another master.
//!
//! The tree is the truth of what is here; a record says what was done with what is not. A deletion is on the disk before the
//! manifest goes, so a kill in between leaves a manifest that is there and a record that says otherwise: the tree counts, and when
//! the records are read the next time it is written down that the manifest is there. A manifest that was never deleted needs no
//! record. What goes by collection or by a rule of retention has none either: it goes here alone.
//!
//! In reading order: `clock`, `register` (which of two counts), `log` (the file). All of it blocks.

mod clock;
mod log;
mod register;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use self::log::Log;
use self::register::{Register, WriterId};
use crate::fs::{is_absence, stat};
use crate::oci::{Digest, RepoName};
use crate::store::contents::files::Contents;
use crate::store::error::StoreError;
use crate::store::layout::Membership;
use crate::telemetry::with_causes;

/// Most repositories whose records are held in memory.
const MOST_LOADED: usize = 64;

/// The records of all repositories.
#[derive(Debug)]
pub(in crate::store) struct Records {
    contents: Arc<Contents>,
    /// Those that were read; `None`: a repository has none.
    loaded: Mutex<HashMap<RepoName, Option<Log>>>,
    writer: OnceLock<WriterId>,
}

impl Records {
    pub(in crate::store) fn new(contents: Arc<Contents>) -> Self {
        Self { contents, loaded: Mutex::default(), writer: OnceLock::new() }
    }

    /// Whether a manifest that is not in the repository was deleted from it.
    ///
    /// # Errors
    /// Of the disk.
    pub(in crate::store) fn is_deleted(&self, repo: &RepoName, digest: &Digest) -> Result<bool, StoreError> {
        let mut loaded = self.loaded();
        let log = self.of(&mut loaded, repo)?;
        Ok(log.as_ref().and_then(|log| log.registers.get(digest)).is_some_and(|register| register.is_deleted))
    }

    /// Notes that a manifest is about to be deleted, durably. One that is not there can't be. A disk that takes no more costs
    /// no delete: that gives room.
    pub(in crate::store) fn deleting(&self, repo: &RepoName, digest: &Digest) {
        if repo.is_cached() {
            return;
        }
        let noted = self.is_there(repo, digest).and_then(
            |is_there| {
                if is_there { self.say(repo, digest, true) } else { Ok(()) }
            },
        );
        if let Err(error) = noted {
            let error = with_causes(&error);
            tracing::warn!(%repo, %digest, error, "a deletion is not written down: the manifest may come back from another master");
        }
    }

    /// Notes that a manifest was stored, if it had been deleted before. What can't be written down the next reading finds.
    pub(in crate::store) fn stored(&self, repo: &RepoName, digest: &Digest) {
        if repo.is_cached() {
            return;
        }
        let noted =
            self.is_deleted(repo, digest).and_then(|was| if was { self.say(repo, digest, false) } else { Ok(()) });
        if let Err(error) = noted {
            tracing::warn!(%repo, %digest, error = with_causes(&error), "that a deleted manifest is back is not written down");
        }
    }

    fn say(&self, repo: &RepoName, digest: &Digest, is_deleted: bool) -> Result<(), StoreError> {
        let Contents { layout, disk, .. } = &*self.contents;
        let writer = self.writer()?;
        let mut loaded = self.loaded();
        let log = self.of(&mut loaded, repo)?;
        let log = match log {
            Some(log) => log,
            None => log.insert(Log::begin(layout, disk, repo)?),
        };
        let said = Register { at: log.now(crate::clock::now()), writer, is_deleted };
        log.say(layout, disk, repo, *digest, said)
    }

    /// The records of a repository, read if need be.
    fn of<'a>(
        &self,
        loaded: &'a mut HashMap<RepoName, Option<Log>>,
        repo: &RepoName,
    ) -> Result<&'a mut Option<Log>, StoreError> {
        if !loaded.contains_key(repo) {
            if loaded.len() >= MOST_LOADED {
                loaded.clear();
            }
            let log = match Log::read(&self.contents.layout, repo)? {
                Some(log) => Some(self.held_against_the_tree(log, repo)?),
                None => None,
            };
            loaded.insert(repo.clone(), log);
        }
        loaded.get_mut(repo).ok_or_else(|| StoreError::Bug("records that were read are gone".into()))
    }

    /// Writes down of each deleted manifest that is there all the same that it is.
    fn held_against_the_tree(&self, mut log: Log, repo: &RepoName) -> Result<Log, StoreError> {
        let deleted: Vec<Digest> =
            log.registers.iter().filter(|(_, said)| said.is_deleted).map(|(digest, _)| *digest).collect();
        for digest in deleted {
            if self.is_there(repo, &digest)? {
                let said = Register { at: log.now(crate::clock::now()), writer: self.writer()?, is_deleted: false };
                log.say(&self.contents.layout, &self.contents.disk, repo, digest, said)?;
            }
        }
        Ok(log)
    }

    fn is_there(&self, repo: &RepoName, digest: &Digest) -> Result<bool, StoreError> {
        Ok(stat(&self.contents.layout.member(repo, Membership::Manifest, digest))?.is_some())
    }

    /// The number of this store, made with its first record.
    fn writer(&self) -> Result<WriterId, StoreError> {
        if let Some(writer) = self.writer.get() {
            return Ok(*writer);
        }
        let Contents { layout, disk, .. } = &*self.contents;
        let path = layout.records_writer();
        let known = match std::fs::read_to_string(&path) {
            Ok(text) => WriterId::of_text(text.trim_end()),
            Err(error) if is_absence(&error) => None,
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        let writer = match known {
            Some(writer) => writer,
            None => {
                let writer = WriterId(uuid::Uuid::new_v4().as_u64_pair().0);
                disk.make_directory(&layout.records())?;
                disk.replace(layout.temporary(), &path, format!("{writer}\n").as_bytes())?;
                writer
            }
        };
        Ok(*self.writer.get_or_init(|| writer))
    }

    fn loaded(&self) -> MutexGuard<'_, HashMap<RepoName, Option<Log>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
