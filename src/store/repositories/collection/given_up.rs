//! Manifests of which a rule of retention took the last tag, in `gc/given-up`: they go behind their grace although manifests
//! without a tag stay.
//!
//! A line is there, synced, before the tag goes: a server that is killed in between leaves a tag that still leads to its
//! manifest, and the next verdict goes on. Whoever pushes the manifest again, or one that names it, takes it off, durably.
//! Whoever only asks for it begins its grace anew. A line that is lost keeps a manifest. All of it blocks.

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

#[derive(Debug)]
pub(in crate::store) struct GivenUp {
    state: Mutex<State>,
    /// Of all, for who has nothing to take off.
    count: AtomicUsize,
}

#[derive(Debug)]
struct State {
    list: List,
    /// Where each line begins.
    entries: BTreeMap<RepoName, HashMap<Digest, u64>>,
}

impl GivenUp {
    /// As the disk has it.
    pub(in crate::store) fn open(layout: &Layout) -> Self {
        let (list, found) = List::of_given_up(layout);
        let count = AtomicUsize::new(0);
        let mut entries: BTreeMap<RepoName, HashMap<Digest, u64>> = BTreeMap::new();
        for (suspect, _, place) in found {
            let is_new = entries.entry(suspect.repo).or_default().insert(suspect.digest, place).is_none();
            count.fetch_add(usize::from(is_new), Ordering::SeqCst);
        }
        Self { state: Mutex::new(State { list, entries }), count }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(in crate::store) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Those of a repository.
    pub(in crate::store) fn of(&self, repo: &RepoName) -> HashSet<Digest> {
        if self.count() == 0 {
            return HashSet::new();
        }
        self.state().entries.get(repo).map(|entries| entries.keys().copied().collect()).unwrap_or_default()
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
        digests: &[Digest],
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.list.is_worn() {
            state.rewrite(layout, disk)?;
        }
        let known = state.entries.get(repo);
        let new: HashSet<Digest> =
            digests.iter().filter(|digest| known.is_none_or(|known| !known.contains_key(digest))).copied().collect();
        let lines: Vec<(Suspect, Duration)> =
            new.iter().map(|digest| (suspect(repo, digest), Duration::ZERO)).collect();
        if lines.is_empty() {
            return Ok(());
        }
        let places = state.list.append(disk, &lines)?;
        state.entries.entry(repo.clone()).or_default().extend(new.into_iter().zip(places));
        self.count.fetch_add(lines.len(), Ordering::SeqCst);
        Ok(())
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
            digests.into_iter().filter_map(|digest| Some((digest, *of_repo.get(&digest)?))).collect();
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
        let all: Vec<(RepoName, Digest)> = self
            .entries
            .iter()
            .flat_map(|(repo, entries)| entries.keys().map(move |digest| (repo.clone(), *digest)))
            .collect();
        let lines: Vec<(Suspect, Duration)> =
            all.iter().map(|(repo, digest)| (suspect(repo, digest), Duration::ZERO)).collect();
        let places = self.list.rewrite(layout, disk, &lines)?;
        for ((repo, digest), place) in all.into_iter().zip(places) {
            self.entries.entry(repo).or_default().insert(digest, place);
        }
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
        first.add(&layout, &disk, &one, &[digest(1), digest(2), digest(2)]).unwrap();
        first.add(&layout, &disk, &other, &[digest(1)]).unwrap();
        first.add(&layout, &disk, &one, &[digest(2), digest(3)]).unwrap();
        first.take_off(&disk, &one, [digest(1), digest(9)]).unwrap();
        for given_up in [&first, &GivenUp::open(&layout)] {
            assert_eq!(given_up.count(), 3);
            assert_eq!(given_up.of(&one), HashSet::from([digest(2), digest(3)]));
            assert_eq!(given_up.of(&other), HashSet::from([digest(1)]));
        }
        std::fs::write(layout.given_up(), b"torn").unwrap();
        let lost = GivenUp::open(&layout);
        assert_eq!((lost.count(), lost.repositories()), (0, Vec::new()));
        lost.add(&layout, &disk, &one, &[digest(4)]).unwrap();
        assert_eq!(GivenUp::open(&layout).of(&one), HashSet::from([digest(4)]));
    }
}
