//! Records: what was last said of each tag and each manifest, for the other masters, and so that what was deleted does not
//! come back from one.
//!
//! A store keeps them from the first moment at which it has masters beside it, and then for ever: until then nothing is written.
//! The tree is the truth of what is here. A push is said when it is done: contents, manifest, tag, record. A deletion is said
//! before it is done: record, tags, manifest. What a kill leaves between is found when the records of a repository are first read
//! (`held`): what is there was said when its file says, what is deleted and older than that goes, and what is said to be
//! there and is not was never heard. A repository without a file of records gets one then.
//!
//! In reading order: `clock`, `record`, `register` (which of two counts), `sums` (are two the same?), `log` (the file), `heard` (the clocks
//! of others), `held`, `dropping` (what all masters know to be deleted). All of it blocks. What changes or reads the records of a repository holds that repository's lock (`recorded`, beside this).

pub(super) mod clock;
mod dropping;
mod heard;
mod held;
pub(super) mod log;
pub(super) mod record;
pub(super) mod register;
mod sums;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

pub use self::dropping::Arriving;
pub use self::record::{NoRecord, Record};
pub use self::sums::{BUCKETS, Sum};

use self::clock::Moment;
use self::dropping::Arrivals;
use self::heard::Heard;
use self::log::Log;
use self::record::{Register, WriterId};
use crate::clock::Timestamp;
use crate::fs::is_absence;
use crate::oci::{Digest, Reference, RepoName};
use crate::store::contents::files::Contents;
use crate::store::error::StoreError;

/// Records that nobody read or changed for so long leave the memory; their sums stay.
const IDLE: Duration = Duration::from_secs(60);

/// Most repositories whose records are held in memory.
const MOST_LOADED: usize = 64;

/// Most records that are held in memory, about 200 bytes each; those of one repository are, however many they are.
const MOST_RECORDS: usize = 100_000;

/// The records of all repositories.
#[derive(Debug)]
pub(in crate::store) struct Records {
    contents: Arc<Contents>,
    is_kept: AtomicBool,
    /// Those that are in memory, and when they were last used.
    loaded: Mutex<Loaded>,
    known: Mutex<Known>,
    writer: OnceLock<WriterId>,
    arrivals: Arrivals,
    heard: Heard,
}

/// The records of repositories, and when they were last used.
type Loaded = HashMap<RepoName, (Arc<Mutex<Log>>, Instant)>;

/// The sums of the repositories that were held against the tree.
#[derive(Debug, Default)]
struct Known {
    of: BTreeMap<RepoName, RepositorySum>,
    /// Those whose records say of something that it was deleted.
    with_deletions: BTreeSet<RepoName>,
    all: Sum,
    /// Whether all were read.
    is_all: bool,
    /// Repositories that were forgotten, counted.
    forgotten: u64,
    /// Repositories whose file says something else than their sum, and which are not in memory: they are held against the tree
    /// once more when they are wanted.
    unwritten: HashSet<RepoName>,
}

/// The records of one repository in few bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepositorySum {
    /// The sum over all of them.
    pub sum: Sum,
    /// How many there are.
    pub records: usize,
}

impl Records {
    pub(in crate::store) fn new(contents: Arc<Contents>) -> Self {
        let is_kept = AtomicBool::new(contents.layout.records().exists());
        Self {
            contents,
            is_kept,
            loaded: Mutex::default(),
            known: Mutex::default(),
            writer: OnceLock::new(),
            arrivals: Arrivals::default(),
            heard: Heard::default(),
        }
    }

    /// Whether they are written.
    pub(in crate::store) fn are_kept(&self) -> bool {
        self.is_kept.load(Ordering::Acquire)
    }

    /// From now on they are written.
    ///
    /// # Errors
    /// Of the disk.
    pub(in crate::store) fn keep(&self) -> Result<(), StoreError> {
        if !self.are_kept() {
            self.writer()?;
            self.is_kept.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// The records of a repository that were held against its tree before; `None`: they were not.
    pub(super) fn known(&self, repo: &RepoName) -> Result<Option<Arc<Mutex<Log>>>, StoreError> {
        if let Some((log, used)) = self.loaded().get_mut(repo) {
            *used = Instant::now();
            return Ok(Some(Arc::clone(log)));
        }
        let known = self.lock_known();
        if !known.of.contains_key(repo) || known.unwritten.contains(repo) {
            return Ok(None);
        }
        drop(known);
        let log = Log::read(&self.contents.layout, repo)?.unwrap_or_else(|| Log::new(repo));
        Ok(Some(self.take_up(repo, log)))
    }

    /// Reads them for the first time. Answers the deletions that have to be ended, too; `is_going` says of a manifest whether its
    /// removal was begun and nobody has asked for it since.
    pub(super) fn read_first(
        &self,
        repo: &RepoName,
        is_going: &mut dyn FnMut(&Digest) -> bool,
    ) -> Result<(Arc<Mutex<Log>>, Vec<Reference>), StoreError> {
        let Contents { layout, disk, capacity, .. } = &*self.contents;
        let read = Log::read(layout, repo)?;
        let (mut log, undone) = held::held_against_the_tree(layout, repo, self.writer()?, read, is_going)?;
        if log.is_stale()
            && !capacity.is_read_only()
            && let Err(error) = log.write(layout, disk)
        {
            let error = crate::telemetry::with_causes(&error);
            tracing::warn!(%repo, error, "the records of a repository can't be written down yet");
        }
        if !log.is_stale() {
            self.lock_known().unwritten.remove(repo);
        }
        Ok((self.take_up(repo, log), undone))
    }

    fn take_up(&self, repo: &RepoName, log: Log) -> Arc<Mutex<Log>> {
        self.note(repo, &log);
        let log = Arc::new(Mutex::new(log));
        let mut loaded = self.loaded();
        while loaded.len() >= MOST_LOADED
            || (!loaded.is_empty() && self.records_in_memory(&loaded, repo) > MOST_RECORDS)
        {
            let mut by_use: Vec<(Instant, RepoName)> =
                loaded.iter().map(|(repo, (_, used))| (*used, repo.clone())).collect();
            by_use.sort_unstable();
            // Where all of them are used now there are more for a while.
            if !by_use.into_iter().any(|(_, repo)| self.unload(&mut loaded, &repo)) {
                break;
            }
        }
        loaded.insert(repo.clone(), (Arc::clone(&log), Instant::now()));
        log
    }

    /// Repositories whose records are in memory.
    #[cfg(test)]
    pub(in crate::store) fn in_memory(&self) -> usize {
        self.loaded().len()
    }

    /// Records of the loaded ones, and of one that is about to be.
    fn records_in_memory(&self, loaded: &Loaded, repo: &RepoName) -> usize {
        let known = self.lock_known();
        let records = |repo: &RepoName| known.of.get(repo).map_or(0, |of| of.records);
        records(repo) + loaded.keys().filter(|other| *other != repo).map(records).sum::<usize>()
    }

    /// Takes idle ones out of the memory.
    pub(in crate::store) fn rest(&self) {
        let mut loaded = self.loaded();
        let idle: Vec<RepoName> =
            loaded.iter().filter(|(_, (_, used))| used.elapsed() > IDLE).map(|(repo, _)| repo.clone()).collect();
        for repo in idle {
            self.unload(&mut loaded, &repo);
        }
    }

    /// Takes the records of one out of the memory; its sum stays. `false`: somebody uses them. Waits for nobody.
    fn unload(&self, loaded: &mut Loaded, repo: &RepoName) -> bool {
        let Some((log, _)) = loaded.get(repo) else { return true };
        let is_stale = match log.try_lock() {
            Ok(log) => log.is_stale(),
            Err(TryLockError::Poisoned(log)) => log.into_inner().is_stale(),
            Err(TryLockError::WouldBlock) => return false,
        };
        loaded.remove(repo);
        if is_stale {
            self.lock_known().unwritten.insert(repo.clone());
        }
        true
    }

    /// Believes nothing of a repository any more: it is held against the tree again.
    pub(in crate::store) fn forget(&self, repo: &RepoName) {
        self.loaded().remove(repo);
        self.forget_sum(repo);
    }

    fn forget_sum(&self, repo: &RepoName) {
        let mut known = self.lock_known();
        known.is_all = false;
        known.forgotten += 1;
        known.with_deletions.remove(repo);
        known.unwritten.remove(repo);
        if let Some(before) = known.of.remove(repo) {
            known.all.change(before.sum.named(repo));
        }
    }

    /// Whether those of a repository were held against its tree.
    pub(in crate::store) fn is_known(&self, repo: &RepoName) -> bool {
        self.lock_known().of.contains_key(repo)
    }

    /// How often one was forgotten.
    pub(super) fn forgotten(&self) -> u64 {
        self.lock_known().forgotten
    }

    /// Notes that all were read, unless one was forgotten since it was `forgotten` times.
    pub(super) fn all_are_known(&self, forgotten: u64) {
        let mut known = self.lock_known();
        known.is_all = known.forgotten == forgotten;
    }

    /// Has heard of records of another master: what is said here from now on is later, whether or not they come to count. Those
    /// whose clock is more than 24 h ahead of `wall` change nothing. Says whether [`Self::write_heard`] is to follow. Waits for
    /// nothing.
    pub(in crate::store) fn hear(&self, records: &[Record], wall: Timestamp) -> bool {
        let believed = records.iter().filter(|record| !record.is_too_far_ahead(wall));
        let latest = believed.map(|record| record.said.at).max();
        self.are_kept() && latest.is_some_and(|at| self.heard.take_in(at, wall))
    }

    /// Writes down what was heard.
    ///
    /// # Errors
    /// Of the disk: a start may go back behind it.
    pub(in crate::store) fn write_heard(&self) -> Result<(), StoreError> {
        let Contents { layout, disk, capacity, .. } = &*self.contents;
        if capacity.is_read_only() { Ok(()) } else { self.heard.write(layout, disk) }
    }

    /// The moment behind all that are known of the repository here, and all that were heard of.
    fn now(&self, log: &Log) -> Moment {
        let wall = crate::clock::now();
        log.now(wall).max(self.heard.latest(&self.contents.layout, wall).next(wall))
    }

    /// What is said by this store now.
    pub(super) fn said(&self, log: &Log, of: Reference, to: Option<Digest>) -> Result<Record, StoreError> {
        Ok(Record { of, said: Register { at: self.now(log), writer: self.writer()?, to } })
    }

    /// The deletion of what another master has `told` of, said by this store now and behind that.
    pub(super) fn deleted_behind(&self, log: &Log, told: &Record) -> Result<Record, StoreError> {
        let at = self.now(log).max(told.said.at.behind());
        Ok(Record { of: told.of.clone(), said: Register { at, writer: self.writer()?, to: None } })
    }

    /// What is here and was never said, as if it had been before all else.
    pub(super) fn never_said(&self, digest: Digest) -> Result<Record, StoreError> {
        let said = Register { at: Moment::default(), writer: self.writer()?, to: Some(digest) };
        Ok(Record { of: Reference::Digest(digest), said })
    }

    /// The removal of what a record says is there.
    pub(super) fn removal(&self, record: &Record) -> Result<Record, StoreError> {
        Ok(record.removal(self.writer()?))
    }

    /// Takes records in, durably, with one sync for all of them.
    pub(super) fn say(&self, repo: &RepoName, log: &Mutex<Log>, records: &[Record]) -> Result<(), StoreError> {
        self.say_or_make_room(repo, log, records, || false)
    }

    /// As [`Self::say`]. Where there is no room `make_room` is asked for some, and if it had some it is tried again.
    pub(super) fn say_or_make_room(
        &self,
        repo: &RepoName,
        log: &Mutex<Log>,
        records: &[Record],
        make_room: impl FnOnce() -> bool,
    ) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        let say = || lock(log).say(&self.contents.layout, &self.contents.disk, records);
        let mut said = say();
        if said.as_ref().is_err_and(StoreError::is_full) && make_room() {
            said = say();
        }
        self.note(repo, &lock(log));
        if said.is_err() {
            self.forget(repo);
        }
        said
    }

    fn note(&self, repo: &RepoName, log: &Log) {
        let now = RepositorySum { sum: log.registers.sum(), records: log.registers.len() };
        let mut known = self.lock_known();
        match log.registers.deletions() {
            0 => known.with_deletions.remove(repo),
            1.. => known.with_deletions.insert(repo.clone()),
        };
        let before = known.of.insert(repo.clone(), now).unwrap_or_default();
        known.all.change(before.sum.named(repo));
        known.all.change(now.sum.named(repo));
    }

    /// The sum over all repositories; `None`: not all were read.
    pub(in crate::store) fn sum(&self) -> Option<Sum> {
        let known = self.lock_known();
        known.is_all.then_some(known.all)
    }

    /// The sums of all repositories that were read and have records, in order.
    pub(in crate::store) fn sums(&self) -> Vec<(RepoName, RepositorySum)> {
        let known = self.lock_known();
        known.of.iter().filter(|(_, of)| of.records > 0).map(|(repo, of)| (repo.clone(), *of)).collect()
    }

    /// Repositories that have a file of records; they may have nothing else.
    pub(in crate::store) fn repositories(&self) -> Result<Vec<RepoName>, StoreError> {
        let path = self.contents.layout.records();
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if is_absence(&error) => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        Ok(entries.flatten().filter_map(|entry| log::repository_of(&entry.path())).collect())
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

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The records, for one at a time.
pub(super) fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}
