//! Manifests of which a rule of retention took the last tag, in `gc/given-up`: they go behind their grace although manifests
//! without a tag stay.
//!
//! A line is there, synced, before the tag goes: a server that is killed in between leaves a tag that still leads to its
//! manifest, and the next verdict goes on. Whoever pushes the manifest again, or one that names it, takes it off, durably.
//! Whoever only asks for it begins its grace anew; who removes it strikes the line out afterwards. A line that is lost
//! keeps a manifest, and one that is left of a manifest that is gone is struck out by the next run of the collection. The
//! time of a line is 1 ms where the manifest had a tag of its own hex digits, else 0. All of it blocks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::suspects::{List, Suspect};
use crate::fs::Disk;
use crate::oci::{Digest, RepoName};
use crate::store::error::StoreError;
use crate::store::layout::{Layout, Membership};

/// Most manifests that are given up at a time, about 200 bytes of memory each; the tags of others wait for a later run.
pub(in crate::store) const MOST_GIVEN_UP: usize = 50_000;

/// The time of a line whose manifest had a tag of its own hex digits.
const HAD_HEX_TAG: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(in crate::store) struct GivenUp {
    state: Mutex<State>,
    /// Of all, for who has nothing to take off.
    count: AtomicUsize,
    most: AtomicUsize,
}

/// A manifest that is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Lost {
    pub(in crate::store) digest: Digest,
    /// It had a tag of its own hex digits: lists of other images may name it, whose push left it out.
    pub(in crate::store) had_hex_tag: bool,
}

/// What is given up of one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct OfRepository {
    pub(in crate::store) digests: HashSet<Digest>,
    /// One of them had a tag of its own hex digits.
    pub(in crate::store) had_hex_tag: bool,
}

#[derive(Debug)]
struct State {
    list: List,
    entries: BTreeMap<RepoName, HashMap<Digest, Line>>,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    /// Where it begins.
    place: u64,
    had_hex_tag: bool,
}

impl Line {
    const fn time(had_hex_tag: bool) -> Duration {
        if had_hex_tag { HAD_HEX_TAG } else { Duration::ZERO }
    }
}

impl GivenUp {
    /// As the disk has it.
    pub(in crate::store) fn open(layout: &Layout) -> Self {
        let (list, found) = List::of_given_up(layout);
        let count = AtomicUsize::new(0);
        let mut entries: BTreeMap<RepoName, HashMap<Digest, Line>> = BTreeMap::new();
        for (suspect, time, place) in found {
            let line = Line { place, had_hex_tag: time == HAD_HEX_TAG };
            let is_new = entries.entry(suspect.repo).or_default().insert(suspect.digest, line).is_none();
            count.fetch_add(usize::from(is_new), Ordering::SeqCst);
        }
        Self { state: Mutex::new(State { list, entries }), count, most: AtomicUsize::new(MOST_GIVEN_UP) }
    }

    /// Has fewer be given up at a time.
    #[cfg(test)]
    pub(in crate::store) fn at_most(&self, most: usize) {
        self.most.store(most, Ordering::SeqCst);
    }

    /// How many more can be given up now.
    pub(in crate::store) fn room(&self) -> usize {
        self.most.load(Ordering::SeqCst).saturating_sub(self.count())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a look at its file, while this writes nothing there.
    pub(super) fn while_nothing_is_written<T>(&self, look: impl FnOnce() -> T) -> T {
        let _state = self.state();
        look()
    }

    /// How many there are.
    pub(in crate::store) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Those of a repository.
    pub(in crate::store) fn of(&self, repo: &RepoName) -> HashSet<Digest> {
        self.all_of(repo).digests
    }

    /// Those of a repository, and how they were tagged.
    pub(in crate::store) fn all_of(&self, repo: &RepoName) -> OfRepository {
        if self.count() == 0 {
            return OfRepository::default();
        }
        let state = self.state();
        let entries = state.entries.get(repo).into_iter().flatten();
        let mut found = OfRepository::default();
        for (digest, line) in entries {
            found.digests.insert(*digest);
            found.had_hex_tag |= line.had_hex_tag;
        }
        found
    }

    /// Whether a repository has some.
    pub(in crate::store) fn has(&self, repo: &RepoName) -> bool {
        self.count() > 0 && self.state().entries.contains_key(repo)
    }

    /// Repositories that have some.
    pub(in crate::store) fn repositories(&self) -> Vec<RepoName> {
        self.state().entries.keys().cloned().collect()
    }

    /// Gives manifests of a repository up, durably. The folder of the collection is there.
    ///
    /// # Errors
    /// Of the disk: their tags must not go.
    pub(in crate::store) fn add(
        &self,
        layout: &Layout,
        disk: &Disk,
        repo: &RepoName,
        lost: &[Lost],
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.list.is_worn() {
            state.rewrite(layout, disk)?;
        }
        let known = state.entries.get(repo);
        // A line without the tag is followed by one with it, which counts.
        let is_known = |lost: &Lost| {
            let line = known.and_then(|known| known.get(&lost.digest));
            line.is_some_and(|line| line.had_hex_tag || !lost.had_hex_tag)
        };
        let new: HashMap<Digest, bool> =
            lost.iter().filter(|lost| !is_known(lost)).map(|lost| (lost.digest, lost.had_hex_tag)).collect();
        let lines: Vec<(Suspect, Duration)> =
            new.iter().map(|(digest, hex)| (suspect(repo, digest), Line::time(*hex))).collect();
        if lines.is_empty() {
            return Ok(());
        }
        let places = state.list.append(disk, &lines)?;
        let State { list, entries } = &mut *state;
        let of_repo = entries.entry(repo.clone()).or_default();
        let mut before = Vec::new();
        for ((digest, had_hex_tag), place) in new.into_iter().zip(places) {
            before.extend(of_repo.insert(digest, Line { place, had_hex_tag }).map(|line| line.place));
        }
        self.count.fetch_add(lines.len() - before.len(), Ordering::SeqCst);
        list.strike(disk, &before)
    }

    /// They are no more given up, durably; those that were not are left as they are.
    ///
    /// # Errors
    /// Of the disk: they still are.
    pub(in crate::store) fn take_off(
        &self,
        disk: &Disk,
        repo: &RepoName,
        digests: impl IntoIterator<Item = Digest>,
    ) -> Result<(), StoreError> {
        if self.count() == 0 {
            return Ok(());
        }
        let mut state = self.state();
        let State { list, entries } = &mut *state;
        let Some(of_repo) = entries.get_mut(repo) else { return Ok(()) };
        let found: HashMap<Digest, u64> =
            digests.into_iter().filter_map(|digest| Some((digest, of_repo.get(&digest)?.place))).collect();
        list.strike(disk, &found.values().copied().collect::<Vec<u64>>())?;
        of_repo.retain(|digest, _| !found.contains_key(digest));
        if of_repo.is_empty() {
            entries.remove(repo);
        }
        self.count.fetch_sub(found.len(), Ordering::SeqCst);
        Ok(())
    }
}

impl State {
    fn rewrite(&mut self, layout: &Layout, disk: &Disk) -> Result<(), StoreError> {
        let all = self.entries.iter().flat_map(|(repo, entries)| entries.iter().map(move |entry| (repo, entry)));
        let lines: Vec<(Suspect, Duration)> =
            all.map(|(repo, (digest, line))| (suspect(repo, digest), Line::time(line.had_hex_tag))).collect();
        let places = self.list.rewrite(layout, disk, &lines)?;
        // In the order in which they were gathered.
        let lines = self.entries.values_mut().flat_map(HashMap::values_mut);
        lines.zip(places).for_each(|(line, place)| line.place = place);
        Ok(())
    }
}

fn suspect(repo: &RepoName, digest: &Digest) -> Suspect {
    Suspect { repo: repo.clone(), kind: Membership::Manifest, digest: *digest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn what_is_given_up_is_so_behind_a_restart_until_it_is_taken_off() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, disk) = (Layout::new(dir.path()), Disk::default());
        for folder in [layout.collection(), layout.temporaries()] {
            std::fs::create_dir(folder).unwrap();
        }
        let digest = |number: u8| Algorithm::Sha256.digest(&[number]);
        let (one, other): (RepoName, RepoName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let first = GivenUp::open(&layout);
        first.take_off(&disk, &one, [digest(1)]).unwrap();
        let lost = |number: u8| Lost { digest: digest(number), had_hex_tag: false };
        first.add(&layout, &disk, &one, &[lost(1), lost(2), lost(2)]).unwrap();
        first.add(&layout, &disk, &other, &[lost(1)]).unwrap();
        first.add(&layout, &disk, &one, &[lost(2), lost(3)]).unwrap();
        first.take_off(&disk, &one, [digest(1), digest(9)]).unwrap();
        for given_up in [&first, &GivenUp::open(&layout)] {
            assert_eq!(given_up.count(), 3);
            assert_eq!(given_up.of(&one), HashSet::from([digest(2), digest(3)]));
            assert_eq!(given_up.all_of(&other), OfRepository { digests: [digest(1)].into(), had_hex_tag: false });
        }
        // That it had a tag of its own hex digits is noted once it is known, and stays so.
        for had_hex_tag in [true, false] {
            first.add(&layout, &disk, &other, &[Lost { had_hex_tag, ..lost(1) }]).unwrap();
            for given_up in [&first, &GivenUp::open(&layout)] {
                assert_eq!((given_up.count(), given_up.all_of(&other).had_hex_tag), (3, true));
            }
        }
        first.take_off(&disk, &other, [digest(1)]).unwrap();
        assert!(!GivenUp::open(&layout).has(&other));
        std::fs::write(layout.given_up(), b"torn").unwrap();
        let lost = GivenUp::open(&layout);
        assert_eq!((lost.count(), lost.repositories()), (0, Vec::new()));
        for number in 4..8 {
            lost.add(&layout, &disk, &one, &[Lost { digest: digest(number), had_hex_tag: number == 6 }]).unwrap();
        }
        lost.state().rewrite(&layout, &disk).unwrap();
        lost.take_off(&disk, &one, [digest(4), digest(5), digest(7)]).unwrap();
        let found = OfRepository { digests: [digest(6)].into(), had_hex_tag: true };
        assert_eq!(GivenUp::open(&layout).all_of(&one), found, "each line is where it was written to");
    }
}
