//! The life of the index: opened, rebuilt, replaced when it has grown, sealed when the store is closed.
//!
//! Owns which index answers, which one is being filled, and the stamp that says that the one on disk can be believed.
//! Never reads the tree itself: [`super::rebuild`] does.
//!
//! On disk: `index/<number>/` is one sled folder, `index.stamp` beside `index/` names the number and a random value that
//! the index holds too. The stamp goes, durably, before the first change of the tree, and comes back when the index is
//! sealed. So each of these is noticed: a crash (no stamp), an index folder deleted or put back from an older copy (the
//! stamp does not match), a damaged one. A server that was killed after nothing but pulls finds its stamp.
//!
//! A change of the tree is announced by [`Listings::begin`] and ends with `Change::done`. One that is dropped
//! before, because the disk failed half-way, leaves its repository to be read again.

pub(in crate::store) mod by_hand;
pub(in crate::store) mod change;
mod comparison;
mod directory;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::index::{Index, IndexError, IndexState, IndexedReferrer};
use super::rebuild::{Progress, Tree, rebuild, reread};
use crate::jobs::{self, Job, JobError, Run, Schedule};
use crate::oci::{Digest, RepoName, UpstreamId};
use crate::store::error::StoreError;
use crate::store::stored::Page;
use crate::telemetry::with_causes;
use directory::{IndexDirectory, Stamp};

/// Pause between two looks at the index that nobody called for.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Time without a change after which an index is sealed: a crash while clients only pull costs no rebuild.
const SEAL_AFTER: Duration = Duration::from_secs(60);

/// Pauses between attempts after a failure: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));

/// More repositories than this to read again, and a rebuild is the cheaper way.
const MAX_UNHEARD: usize = 1000;

/// The index that listings are answered from.
#[derive(Debug)]
pub(crate) struct Listings {
    directory: IndexDirectory,
    slot: Mutex<Slot>,
    /// State and progress for those who must not wait for the slot.
    shown: AtomicU8,
    progress: Mutex<Arc<Progress>>,
    wake: Notify,
}

#[derive(Debug)]
struct Slot {
    serving: Option<Arc<Index>>,
    /// Hears of changes, does not answer yet.
    building: Option<Arc<Index>>,
    /// The stamp on disk.
    stamp: Option<Stamp>,
    /// Whether the index that the stamp names was tried.
    opened: bool,
    /// Changes begun and not ended.
    changes: usize,
    last_change: Instant,
    /// Repositories that changed, or may have, without the index hearing of it.
    unheard: HashSet<RepoName>,
}

impl Listings {
    /// For the index below `layout`. Reads the stamp; opens nothing: see [`KeepIndex`].
    pub(crate) fn new(layout: &crate::store::layout::Layout) -> Self {
        let directory = IndexDirectory::new(layout);
        let slot = Slot {
            serving: None,
            building: None,
            stamp: directory.stamp_at_start(),
            opened: false,
            changes: 0,
            last_change: Instant::now(),
            unheard: HashSet::new(),
        };
        Self {
            directory,
            slot: Mutex::new(slot),
            shown: AtomicU8::new(SHOWN_CLOSED),
            progress: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// The state of the index. Never waits for the disk.
    pub(crate) fn state(&self) -> IndexState {
        match self.shown.load(Ordering::Relaxed) {
            SHOWN_READY => IndexState::Ready,
            SHOWN_REBUILDING => IndexState::Rebuilding { done: self.done() },
            _ => IndexState::Closed,
        }
    }

    /// Tags and manifests that the last rebuild has entered.
    fn done(&self) -> u64 {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).done()
    }

    /// Bytes of the index on disk, all its folders counted; reads some folders.
    pub(crate) fn size_on_disk(&self) -> u64 {
        self.directory.size_on_disk()
    }

    /// As [`Index::tags`].
    ///
    /// # Errors
    /// [`IndexError::NotReady`] while there is no index, also when it failed just now.
    pub(crate) fn tags(&self, repo: &RepoName, last: Option<&str>, limit: usize) -> Result<Page, IndexError> {
        self.ask(|index| index.tags(repo, last, limit))
    }

    /// As [`Index::repositories`].
    ///
    /// # Errors
    /// [`IndexError::NotReady`] while there is no index, also when it failed just now.
    pub(crate) fn repositories(&self, last: Option<&str>, limit: usize) -> Result<Page, IndexError> {
        self.ask(|index| index.repositories(last, limit))
    }

    /// As [`Index::cached_repositories`].
    pub(crate) fn cached_repositories(
        &self,
        upstream: UpstreamId,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Page, IndexError> {
        self.ask(|index| index.cached_repositories(upstream, last, limit))
    }

    /// As [`Index::referrers`].
    ///
    /// # Errors
    /// [`IndexError::NotReady`] while there is no index, also when it failed just now.
    pub(crate) fn referrers(
        &self,
        repo: &RepoName,
        subject: Digest,
        last: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<IndexedReferrer>, IndexError> {
        self.ask(|index| index.referrers(repo, subject, last, limit))
    }

    /// Seals the index, if it is whole, and closes it; blocking. Afterwards nothing answers and nothing is heard.
    pub(crate) fn close(&self) {
        if let Err(error) = self.seal() {
            tracing::warn!(%error, "the index could not be sealed and will be rebuilt at the next start");
        }
        let mut slot = self.slot();
        let (serving, building) = (slot.serving.take(), slot.building.take());
        self.show(&slot);
        drop(slot);
        drop((serving, building));
    }

    /// Does what there is to do now; blocking.
    fn tend(&self, tree: Tree<'_>, stop: &CancellationToken) -> Result<(), JobError> {
        if self.directory.is_read_only() {
            // Nothing changes, so an index that answers goes on; one that is not open can't be opened.
            return Ok(());
        }
        let result = self
            .open_once(tree)
            .and_then(|()| self.rebuild_if_due(tree, stop))
            .and_then(|()| self.hear_the_unheard(tree, stop))
            .and_then(|()| self.seal_if_quiet());
        match result {
            Ok(()) | Err(IndexError::Cancelled) => Ok(()),
            Err(error) => Err(JobError::new("the index can't be kept, listings are not answered for now", &error)),
        }
    }

    fn open_once(&self, tree: Tree<'_>) -> Result<(), IndexError> {
        let stamp = {
            let mut slot = self.slot();
            if std::mem::replace(&mut slot.opened, true) {
                return Ok(());
            }
            // Not the slot's: a change may have removed that since, and is in `unheard`.
            self.directory.stamp_at_start()
        };
        let Some(stamp) = stamp else {
            tracing::info!("the index is missing or was not closed, it is rebuilt from the tree");
            return Ok(());
        };
        match Index::open(&self.directory.index(stamp.number), &stamp.value) {
            Ok(index) => self.take_up(&Arc::new(index), tree),
            Err(error) => {
                tracing::warn!(error = %with_causes(&error), "the index can't be used, it is rebuilt from the tree");
                if !matches!(error, IndexError::Stale(_)) {
                    self.directory.set_aside(stamp.number);
                }
                Ok(())
            }
        }
    }

    /// Lets an index that was just opened hear, catch up with what it missed, and answer.
    fn take_up(&self, index: &Arc<Index>, tree: Tree<'_>) -> Result<(), IndexError> {
        self.directory.keep_only(index.dir());
        let mut slot = self.slot();
        slot.building = Some(Arc::clone(index));
        while !slot.unheard.is_empty() {
            let missed = std::mem::take(&mut slot.unheard);
            self.show(&slot);
            drop(slot);
            for repo in &missed {
                if let Err(error) = reread(tree, index, repo) {
                    self.fail(index, &error);
                    return Ok(());
                }
            }
            slot = self.slot();
        }
        if slot.building.as_ref().is_some_and(|building| Arc::ptr_eq(building, index)) {
            slot.serving = slot.building.take();
        }
        self.show(&slot);
        Ok(())
    }

    fn rebuild_if_due(&self, tree: Tree<'_>, stop: &CancellationToken) -> Result<(), IndexError> {
        let (serving, unheard) = {
            let slot = self.slot();
            (slot.serving.clone(), slot.unheard.len())
        };
        match serving {
            Some(index) if unheard <= MAX_UNHEARD && !index.needs_compaction() => return Ok(()),
            Some(index) => {
                tracing::info!(bytes = index.size_on_disk(), unheard, "the index is replaced by a fresh one");
            }
            None => {}
        }
        self.replace(tree, stop)
    }

    /// Fills a fresh index and lets it take the place of the one that answers, if there is one.
    fn replace(&self, tree: Tree<'_>, stop: &CancellationToken) -> Result<(), IndexError> {
        let index = Arc::new(Index::create(&self.directory.fresh()?)?);
        let progress = Arc::new(Progress::default());
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&progress);
        {
            let mut slot = self.slot();
            self.take_stamp_off(&mut slot)?;
            slot.building = Some(Arc::clone(&index));
            // Each of them changed before now, so the rebuild sees it.
            slot.unheard.clear();
            self.show(&slot);
        }
        let started = Instant::now();
        let result = rebuild(tree, &index, &progress, stop);
        let mut slot = self.slot();
        // A writer may have found the new index broken meanwhile, and let go of it.
        let whole = slot.building.take().is_some_and(|building| Arc::ptr_eq(&building, &index));
        let result = if whole { result } else { result.and(Err(IndexError::Stale("broke while it was being filled"))) };
        let old = if result.is_ok() { slot.serving.replace(Arc::clone(&index)) } else { None };
        self.show(&slot);
        drop(slot);
        // Closing sled takes time, so it is not done inside the lock.
        drop(old);
        if let Err(error) = result {
            self.directory.remove(&index);
            return Err(error);
        }
        index.note_built();
        self.directory.keep_only(index.dir());
        tracing::info!(
            objects = progress.done(),
            unusable = progress.unusable(),
            millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            bytes = index.size_on_disk(),
            "the index is rebuilt"
        );
        Ok(())
    }

    fn hear_the_unheard(&self, tree: Tree<'_>, stop: &CancellationToken) -> Result<(), IndexError> {
        let (index, missed) = {
            let mut slot = self.slot();
            let Some(index) = slot.serving.clone() else { return Ok(()) };
            (index, std::mem::take(&mut slot.unheard))
        };
        for repo in &missed {
            let result = if stop.is_cancelled() { Err(IndexError::Cancelled) } else { reread(tree, &index, repo) };
            if let Err(error) = result {
                self.slot().unheard.extend(missed.iter().cloned());
                if !matches!(error, IndexError::Cancelled) {
                    self.fail(&index, &error);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Changes of the tree from here on may be unknown to the index on disk.
    fn take_stamp_off(&self, slot: &mut Slot) -> Result<(), StoreError> {
        if slot.stamp.is_some() {
            self.directory.remove_stamp()?;
            slot.stamp = None;
        }
        Ok(())
    }

    fn seal_if_quiet(&self) -> Result<(), IndexError> {
        if self.slot().last_change.elapsed() < SEAL_AFTER {
            return Ok(());
        }
        self.seal()
    }

    /// Puts the stamp back if the index that answers has heard of every change. A change that begins meanwhile waits.
    fn seal(&self) -> Result<(), IndexError> {
        let mut slot = self.slot();
        let quiet = slot.changes == 0 && slot.unheard.is_empty() && slot.building.is_none() && slot.stamp.is_none();
        let Some(index) = slot.serving.clone().filter(|_| quiet) else { return Ok(()) };
        let stamp = Stamp::fresh(self.directory.number_of(index.dir())?);
        let result = index.seal(&stamp.value).and_then(|()| Ok(self.directory.write_stamp(&stamp)?));
        match result {
            Ok(()) => slot.stamp = Some(stamp),
            Err(error) => {
                drop(slot);
                // The stamp may be on disk although its write failed.
                self.directory.remove_stamp()?;
                self.fail(&index, &error);
                return Err(error);
            }
        }
        Ok(())
    }

    fn ask<T>(&self, question: impl FnOnce(&Index) -> Result<T, IndexError>) -> Result<T, IndexError> {
        let Some(index) = self.slot().serving.clone() else { return Err(IndexError::NotReady) };
        question(&index).map_err(|error| {
            self.fail(&index, &error);
            IndexError::NotReady
        })
    }

    /// Lets go of an index that failed and calls for another.
    fn fail(&self, index: &Arc<Index>, error: &IndexError) {
        let mut slot = self.slot();
        let is_it = |held: &Option<Arc<Index>>| held.as_ref().is_some_and(|held| Arc::ptr_eq(held, index));
        let (mut serving, mut building) = (None, None);
        if is_it(&slot.serving) {
            serving = slot.serving.take();
        }
        if is_it(&slot.building) {
            building = slot.building.take();
        }
        self.show(&slot);
        drop(slot);
        if serving.is_some() || building.is_some() {
            tracing::error!(error = %with_causes(error), "the index failed, it is rebuilt from the tree");
            self.wake.notify_one();
        }
    }

    fn show(&self, slot: &Slot) {
        let shown = match (&slot.serving, slot.opened) {
            (Some(_), _) => SHOWN_READY,
            (None, true) => SHOWN_REBUILDING,
            (None, false) => SHOWN_CLOSED,
        };
        self.shown.store(shown, Ordering::Relaxed);
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the index or rebuilds it, and looks after it. `of` gives the tree to a blocking thread; the listings are those of the
/// same store. A run ends early by itself when the process ends.
pub(crate) struct KeepIndex<T> {
    tree: Arc<T>,
    of: fn(&T) -> (&Listings, Tree<'_>),
}

impl<T> KeepIndex<T> {
    pub(crate) const fn new(tree: Arc<T>, of: fn(&T) -> (&Listings, Tree<'_>)) -> Self {
        Self { tree, of }
    }
}

impl<T: Send + Sync + 'static> Job for KeepIndex<T> {
    const NAME: &'static str = "index";

    fn schedule(&self) -> Schedule {
        // Whoever calls behind a failure waits: a full disk is not to be tried again at once.
        Schedule::every(LOOK_EVERY).retry(RETRY.0, RETRY.1)
    }

    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        let (tree, of) = (Arc::clone(&self.tree), self.of);
        jobs::blocking(move || {
            let (listings, tree) = of(&tree);
            listings.tend(tree, run.stop())
        })
        .await
    }

    async fn called(&mut self) {
        let (listings, _) = (self.of)(&self.tree);
        listings.wake.notified().await;
    }
}

const SHOWN_CLOSED: u8 = 0;
const SHOWN_REBUILDING: u8 = 1;
const SHOWN_READY: u8 = 2;

#[cfg(test)]
mod tests;
