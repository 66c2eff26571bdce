//! What collection knows while the store is open, and the two things that all others ask of it.
//!
//! Whoever changes a repository holds a [`Touch`] of it from before the change until its end: the repository is dirty, on the
//! disk too, and no verdict that was found beside the change is believed, nor does anything go by one. Whoever is about to
//! answer 200 or 201 about a content calls [`Ledger::save`] first: a suspect comes off the list, durably. Where the digest is no
//! suspect that is a look into memory, and where there are no suspects at all it is a load of one number.
//!
//! The collector takes a suspect by [`Ledger::take`]; there is one winner. Who saves it later waits until it is gone or was put
//! back. It counts the repository's deletes (`memory`) before it looks whether the repository was touched, and who touches looks
//! at the deletes afterwards: one of the two sees the other, as in Dekker's algorithm.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use fail::fail_point;

use super::dirty::Dirty;
use super::given_up::GivenUp;
use super::running_time::RunningTime;
use super::settings::Settings;
use super::suspects::{List, Suspect};
use crate::fs::stat;
use crate::oci::{Digest, RepoName};
use crate::store::contents::files::Contents;
use crate::store::error::StoreError;
use crate::store::layout::{Layout, Membership};
use crate::store::pins::FoundPins;
use crate::store::repositories::generations::{Generation, NO_GENERATION};

/// Most suspects that are listed, about 300 bytes of memory each. What is beyond has its verdict when these are gone.
pub(in crate::store) const MOST_SUSPECTS: usize = 50_000;

/// Counts of touches: repositories share them by hash.
const SHARDS: usize = 1024;

/// Added to each grace: the longest time between a look at the list and the end of the answer that it allows.
pub(in crate::store) const ANSWER_TIME: Duration = Duration::from_secs(600);

const KINDS: [Membership; 2] = [Membership::Blob, Membership::Manifest];

/// What collection knows.
#[derive(Debug)]
pub(in crate::store) struct Ledger {
    contents: Arc<Contents>,
    hasher: RandomState,
    touches: Box<[Generation]>,
    /// Hashes of what is on the list, and how often: the look that costs no lock. Counted in `listed`.
    prints: DashMap<u64, u32>,
    listed: AtomicUsize,
    state: Mutex<State>,
    /// A suspect that was taken is gone or was put back.
    settled: Condvar,
    dirty: Mutex<Dirty>,
    time: RunningTime,
    pub(in crate::store) given_up: GivenUp,
    pub(in crate::store) settings: Settings,
}

#[derive(Debug)]
struct State {
    list: List,
    entries: HashMap<Suspect, Entry>,
    /// Lines to strike out, which the disk did not take.
    unstruck: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    since: Duration,
    place: u64,
    /// The collector has it in hand.
    taken: bool,
}

/// A change of a repository; it ends when this is dropped.
#[derive(Debug)]
#[must_use = "the change lasts as long as this lives"]
pub struct Touch(Option<(Arc<Ledger>, usize)>);

impl Touch {
    /// Of nothing: for a change that makes no verdict wrong.
    pub(in crate::store) const fn none() -> Self {
        Self(None)
    }
}

impl Drop for Touch {
    fn drop(&mut self) {
        if let Some((ledger, shard)) = self.0.take() {
            ledger.touches[shard].leave();
        }
    }
}

/// A suspect that the collector has in hand: who saves it waits. Dropped, it stays a suspect.
#[derive(Debug)]
#[must_use = "the suspect is put back when this is dropped"]
pub(in crate::store) struct Taken<'a> {
    ledger: &'a Ledger,
    suspect: Suspect,
    gone: bool,
}

impl Taken<'_> {
    /// The repository does not have it any more. Blocking.
    pub(in crate::store) fn gone(mut self) {
        self.gone = true;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.ledger.settle(&self.suspect, self.gone);
    }
}

/// What [`Ledger::save`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Saved {
    /// It was on no list.
    WasNone,
    /// A blob came off the list.
    Blob,
    /// A manifest did; what it names has to be saved too.
    Manifest,
}

impl Ledger {
    /// As the disk has it; blocking.
    pub(in crate::store) fn open(contents: Arc<Contents>) -> Self {
        let (list, found) = List::open(&contents.layout);
        let time = RunningTime::open(&contents.layout, found.iter().map(|(_, since, _)| *since));
        let ledger = Self {
            hasher: RandomState::new(),
            touches: (0..SHARDS).map(|_| Generation::default()).collect(),
            prints: DashMap::new(),
            listed: AtomicUsize::new(0),
            settled: Condvar::new(),
            dirty: Mutex::new(Dirty::open(&contents.layout)),
            time,
            given_up: GivenUp::open(&contents.layout),
            settings: Settings::default(),
            state: Mutex::new(State { list, entries: HashMap::new(), unstruck: Vec::new() }),
            contents,
        };
        let mut state = ledger.state();
        for (suspect, since, place) in found {
            ledger.put(&mut state, suspect, Entry { since, place, taken: false });
        }
        drop(state);
        ledger
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a look at the files that this writes, while it writes none.
    pub(super) fn while_nothing_is_written<T>(&self, look: impl FnOnce(&Layout) -> T) -> T {
        let (_state, _dirty) = (self.state(), self.dirty());
        self.given_up.while_nothing_is_written(|| look(&self.contents.layout))
    }

    fn dirty(&self) -> MutexGuard<'_, Dirty> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, repo: &RepoName) -> usize {
        usize::try_from(self.hasher.hash_one(repo)).unwrap_or(0) % SHARDS
    }

    fn print(&self, repo: &RepoName, digest: &Digest) -> u64 {
        self.hasher.hash_one((repo, digest))
    }

    fn put(&self, state: &mut State, suspect: Suspect, entry: Entry) {
        let print = self.print(&suspect.repo, &suspect.digest);
        if state.entries.insert(suspect, entry).is_none() {
            *self.prints.entry(print).or_default() += 1;
            self.listed.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn forget(&self, state: &mut State, suspect: &Suspect) -> Option<Entry> {
        let entry = state.entries.remove(suspect)?;
        let print = self.print(&suspect.repo, &suspect.digest);
        if let Some(mut count) = self.prints.get_mut(&print) {
            *count -= 1;
        }
        self.prints.remove_if(&print, |_, count| *count == 0);
        self.listed.fetch_sub(1, Ordering::SeqCst);
        Some(entry)
    }

    /// Whether [`Ledger::save`] might have something to do. Waits for nothing, needs no disk; now and then `true` for another
    /// digest.
    pub(in crate::store) fn may_list(&self, repo: &RepoName, digest: &Digest) -> bool {
        self.listed.load(Ordering::SeqCst) > 0 && self.prints.contains_key(&self.print(repo, digest))
    }

    /// Begins a change of a repository and makes it dirty, durably. Blocking where it was clean.
    ///
    /// # Errors
    /// Of the disk; the change must not be made then.
    pub(in crate::store) fn touch(self: &Arc<Self>, repo: &RepoName) -> Result<Touch, StoreError> {
        let touch = self.begin(repo);
        if touch.0.is_some() {
            self.make_dirty(repo)?;
        }
        Ok(touch)
    }

    /// Begins to name contents of a repository, for a change that follows by [`Ledger::touch`]. Waits for nothing.
    pub(in crate::store) fn begin(self: &Arc<Self>, repo: &RepoName) -> Touch {
        // What an upstream taught is never collected.
        if repo.is_cached() {
            return Touch(None);
        }
        let shard = self.shard(repo);
        self.touches[shard].enter();
        Touch(Some((Arc::clone(self), shard)))
    }

    /// Makes a repository dirty, durably; blocking.
    pub(in crate::store) fn make_dirty(&self, repo: &RepoName) -> Result<(), StoreError> {
        self.dirty().add(&self.contents.layout, &self.contents.disk, repo)
    }

    /// Takes what the repository has under that digest off the list, durably; waits while the collector has it in hand. Called
    /// before the look whose answer is 200 or 201. Blocking.
    ///
    /// A disk that takes no write costs no answer: then nothing is collected until the line is struck out.
    pub(in crate::store) fn save(&self, repo: &RepoName, digest: &Digest) -> Saved {
        if !self.may_list(repo, digest) {
            return Saved::WasNone;
        }
        let suspects = KINDS.map(|kind| Suspect { repo: repo.clone(), kind, digest: *digest });
        let mut state = self.state();
        while suspects.iter().any(|suspect| state.entries.get(suspect).is_some_and(|entry| entry.taken)) {
            state = self.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // A verdict that was found before does not count any more for anything in the repository.
        let _touch = self.touches[self.shard(repo)].begin();
        let [blob, manifest] = suspects.map(|suspect| self.forget(&mut state, &suspect));
        let places: Vec<u64> = [blob, manifest].into_iter().flatten().map(|entry| entry.place).collect();
        if places.is_empty() {
            return Saved::WasNone;
        }
        if let Err(error) = self.make_dirty(repo) {
            let error = crate::telemetry::with_causes(&error);
            tracing::warn!(
                error,
                "a repository can't be noted as changed: what nothing reaches in it stays until its next change"
            );
        }
        fail_point!("store::collection::before_save");
        self.strike(&mut state, places);
        fail_point!("store::collection::after_save");
        match (blob, manifest) {
            (_, Some(_)) => Saved::Manifest,
            (Some(_), None) => Saved::Blob,
            (None, None) => Saved::WasNone,
        }
    }

    fn strike(&self, state: &mut State, places: Vec<u64>) {
        if let Err(error) = state.list.strike(&self.contents.disk, &places) {
            let error = crate::telemetry::with_causes(&error);
            tracing::error!(
                error,
                "a content that was asked for can't be taken off the list of suspects: nothing is collected until it is"
            );
            state.unstruck.extend(places);
        }
    }

    /// Number of the repository's changes, if none goes on; what is found from now on is good while it stays the same.
    pub(in crate::store) fn stable(&self, repo: &RepoName) -> u64 {
        self.touches[self.shard(repo)].stable()
    }

    /// Whether nothing touched the repository since `seen`.
    pub(in crate::store) fn is_untouched(&self, repo: &RepoName, seen: u64) -> bool {
        seen != NO_GENERATION && self.stable(repo) == seen
    }

    /// Puts contents of a repository on the list, durably, with the time of now; those that are there stay as they are. Says how
    /// many came on it; `None`: the repository was touched since `seen`. Blocking.
    ///
    /// # Errors
    /// Of the disk; nothing came on the list then.
    pub(in crate::store) fn list(&self, seen: u64, found: &[Suspect]) -> Result<Option<usize>, StoreError> {
        let mut state = self.state();
        let room = MOST_SUSPECTS.saturating_sub(state.entries.len());
        let since = self.time.now();
        let new = found.iter().filter(|suspect| !state.entries.contains_key(suspect)).take(room);
        let new: Vec<(Suspect, Duration)> = new.map(|suspect| (suspect.clone(), since)).collect();
        // In memory before the look at the touches: who touches behind that look finds them there, and waits for this lock.
        for (suspect, since) in &new {
            self.put(&mut state, suspect.clone(), Entry { since: *since, place: 0, taken: false });
        }
        let untouched = found.iter().all(|suspect| self.is_untouched(&suspect.repo, seen));
        fail_point!("store::collection::before_list");
        let listed =
            if untouched && !new.is_empty() { state.list.append(&self.contents.disk, &new) } else { Ok(Vec::new()) };
        fail_point!("store::collection::after_list");
        match &listed {
            Ok(places) if untouched => {
                for ((suspect, _), place) in new.iter().zip(places) {
                    if let Some(entry) = state.entries.get_mut(suspect) {
                        entry.place = *place;
                    }
                }
            }
            _ => {
                for (suspect, _) in &new {
                    self.forget(&mut state, suspect);
                }
            }
        }
        listed.map(|_| untouched.then_some(new.len()))
    }

    /// The repository is clean, unless it was touched since `seen`; says whether it is.
    pub(in crate::store) fn clean(&self, repo: &RepoName, seen: u64) -> bool {
        let mut dirty = self.dirty();
        // Who touches it from now on makes it dirty behind this.
        let untouched = self.is_untouched(repo, seen);
        if untouched {
            dirty.remove(repo);
        }
        untouched
    }

    /// Suspects by repository, manifests first: all, or those whose grace is over.
    pub(in crate::store) fn suspects(&self, only_due: bool) -> BTreeMap<RepoName, Vec<Suspect>> {
        let (options, now) = (self.settings.options(), self.time.now());
        let mut found: BTreeMap<RepoName, Vec<Suspect>> = BTreeMap::new();
        let state = self.state();
        for (suspect, entry) in &state.entries {
            if !only_due || now.saturating_sub(entry.since) >= options.grace + ANSWER_TIME {
                found.entry(suspect.repo.clone()).or_default().push(suspect.clone());
            }
        }
        if only_due {
            // Manifests that nobody gave up may have to wait for longer.
            found.retain(|repo, suspects| {
                let given_up = self.given_up.of(repo);
                suspects.retain(|suspect| {
                    let waited = state.entries.get(suspect).map(|entry| now.saturating_sub(entry.since));
                    let judges = suspect.kind == Membership::Manifest && !given_up.contains(&suspect.digest);
                    waited.is_some_and(|waited| waited >= options.wait(judges) + ANSWER_TIME)
                });
                !suspects.is_empty()
            });
        }
        drop(state);
        for suspects in found.values_mut() {
            suspects.sort_unstable_by_key(|suspect| (suspect.kind == Membership::Blob, suspect.digest));
        }
        found
    }

    /// How long a suspect has been one; `None`: it is none.
    pub(in crate::store) fn suspected_for(&self, suspect: &Suspect) -> Option<Duration> {
        let entry = self.state().entries.get(suspect).copied()?;
        Some(self.time.now().saturating_sub(entry.since))
    }

    /// Takes suspects off the list that are reached again or are not there any more, unless their repository was touched since
    /// `seen`; blocking.
    ///
    /// # Errors
    /// None but those of a closed store; a disk that takes no write is as in [`Ledger::save`].
    pub(in crate::store) fn drop_if_untouched(&self, suspects: &[Suspect], seen: u64) -> Result<(), StoreError> {
        let mut state = self.state();
        let untouched = suspects.iter().filter(|suspect| self.is_untouched(&suspect.repo, seen));
        let places: Vec<u64> =
            untouched.filter_map(|suspect| self.forget(&mut state, suspect)).map(|entry| entry.place).collect();
        self.strike(&mut state, places);
        Ok(())
    }

    /// Takes a suspect in hand; `None`: it is none any more. Dropped, it stays one.
    pub(in crate::store) fn take(&self, suspect: &Suspect) -> Option<Taken<'_>> {
        match self.state().entries.get_mut(suspect) {
            Some(entry) if !entry.taken => {
                entry.taken = true;
                Some(Taken { ledger: self, suspect: suspect.clone(), gone: false })
            }
            _ => None,
        }
    }

    fn settle(&self, suspect: &Suspect, gone: bool) {
        let mut state = self.state();
        if gone {
            let entry = self.forget(&mut state, suspect);
            self.strike(&mut state, entry.map(|entry| entry.place).into_iter().collect());
        } else if let Some(entry) = state.entries.get_mut(suspect) {
            entry.taken = false;
        }
        drop(state);
        self.settled.notify_all();
    }

    /// Makes the folder of collection, and brings the disk up to what is known; blocking.
    ///
    /// # Errors
    /// Of the disk: nothing may be collected.
    pub(in crate::store) fn prepare(&self) -> Result<(), StoreError> {
        let Contents { layout, disk, .. } = &*self.contents;
        disk.make_directory(&layout.collection())?;
        let mut state = self.state();
        let unstruck = std::mem::take(&mut state.unstruck);
        if let Err(error) = state.list.strike(disk, &unstruck) {
            state.unstruck = unstruck;
            return Err(error);
        }
        let judges_untagged = self.settings.options().untagged_after.is_some();
        let has_judged = stat(&layout.untagged_judged())?.is_some();
        // Whose suspects were lost is not known; what is untagged since long has no change that makes its repository dirty.
        if state.list.is_torn() || (judges_untagged && !has_judged) {
            self.dirty().set_all(layout, disk)?;
        }
        if judges_untagged && !has_judged {
            disk.replace(layout.temporary(), &layout.untagged_judged(), b"")?;
        } else if has_judged && !judges_untagged {
            disk.unlink(&layout.untagged_judged())?;
        }
        if state.list.is_worn() {
            let listed: Vec<(Suspect, Duration)> =
                state.entries.iter().map(|(suspect, entry)| (suspect.clone(), entry.since)).collect();
            let places = state.list.rewrite(layout, disk, &listed)?;
            for ((suspect, _), place) in listed.iter().zip(places) {
                if let Some(entry) = state.entries.get_mut(suspect) {
                    entry.place = place;
                }
            }
        }
        drop(state);
        self.dirty().tidy(layout, disk)
    }

    /// Repositories to mark; `None`: all that there are, which [`Ledger::name_all`] is then told.
    pub(in crate::store) fn dirty_repositories(&self) -> Option<Vec<RepoName>> {
        let dirty = self.dirty();
        let mut names: Vec<RepoName> = dirty.names().cloned().collect();
        names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        (!dirty.is_all()).then_some(names)
    }

    /// These, with those that changed meanwhile, are all repositories; blocking.
    ///
    /// # Errors
    /// Of the disk.
    pub(in crate::store) fn name_all(&self, found: Vec<RepoName>) -> Result<(), StoreError> {
        self.dirty().name_all(&self.contents.layout, &self.contents.disk, found)
    }

    /// Notes the running time, if a grace counts on it; blocking.
    pub(in crate::store) fn note_time(&self) {
        if self.listed.load(Ordering::SeqCst) > 0
            && let Err(error) = self.time.note(&self.contents.layout, &self.contents.disk)
        {
            let error = crate::telemetry::with_causes(&error);
            tracing::warn!(error, "the running time can't be noted: suspects wait longer");
        }
    }

    /// Puts pins into force; who calls this saves what is pinned and suspected. A manifest that is not pinned any more is judged
    /// at the next change of its repository. A verdict that is being carried out ends before its next tag or content.
    pub(in crate::store) fn set_pins(&self, found: FoundPins) {
        if !self.settings.set_pins(found) {
            return;
        }
        // A verdict that was found without them does not count.
        for touches in &self.touches {
            drop(touches.begin());
        }
    }

    /// Suspects, and dirty repositories if they are counted.
    pub(in crate::store) fn counts(&self) -> (usize, Option<usize>) {
        (self.listed.load(Ordering::SeqCst), self.dirty().count())
    }

    /// Lets running time pass that did not.
    #[cfg(test)]
    pub(in crate::store) fn advance(&self, by: Duration) {
        self.time.advance(by);
    }
}
