//! 404s of the upstream. In memory, bounded, gone with the process.
//!
//! A fresh 404 spares the upstream a question (`proxy.negativeTtl`). While the upstream can't be asked, an older one is
//! repeated (`proxy.staleNegative`): tools that read a repository take 404 for "absent" and 5xx for a failure, and names
//! that never existed belong to their every run.

use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use crate::mode::{Absence, ModeError};
use crate::oci::{Digest, Reference, RepoName};
use crate::store::{ListKind, StoreError};

/// Most 404s that are remembered, and most repositories whose outage is.
const ENTRIES: usize = 10_000;

/// One question to the upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum NegativeKey {
    Manifest(RepoName, Reference),
    Blob(RepoName, Digest),
    List(RepoName, ListKind),
}

impl NegativeKey {
    /// The repository, as the store has it.
    pub(super) const fn repository(&self) -> &RepoName {
        match self {
            Self::Manifest(repo, _) | Self::Blob(repo, _) | Self::List(repo, _) => repo,
        }
    }

    const fn absence(&self) -> Absence {
        match self {
            Self::Manifest(..) => Absence::Manifest,
            Self::Blob(..) => Absence::Blob,
            Self::List(..) => Absence::Repository,
        }
    }
}

/// A 404 of the upstream.
#[derive(Clone, Copy, Debug)]
struct Entry {
    since: Instant,
    /// The registry itself said it, so that it may be repeated.
    is_registrys: bool,
}

/// Answers and silence of the upstream about one repository.
#[derive(Clone, Copy, Debug)]
struct Outage {
    /// The last question had no answer.
    lasts: bool,
    /// Entries from before this moment are no longer true.
    ended: Option<Instant>,
}

/// The 404s of one upstream. Every method is quick and waits for nobody.
#[derive(Debug)]
pub(super) struct Negatives {
    entries: Cache<NegativeKey, Entry>,
    outages: Cache<RepoName, Outage>,
}

impl Negatives {
    pub(super) fn new() -> Self {
        Self { entries: Cache::new(ENTRIES), outages: Cache::new(ENTRIES) }
    }

    /// The refusal, if the upstream said within `ttl` that it has not got this.
    pub(super) fn fresh(&self, asked: &NegativeKey, ttl: Duration) -> Option<ModeError> {
        let entry = self.entries.get(asked)?;
        (entry.since.elapsed() < ttl).then(|| asked.absence().error())
    }

    /// The refusal with its age, if the registry said so within `most` and has answered nothing of the repository since an
    /// outage.
    pub(super) fn stale(&self, asked: &NegativeKey, most: Duration) -> Option<ModeError> {
        let entry = self.entries.get(asked).filter(|entry| entry.is_registrys)?;
        let ended = self.outages.get(asked.repository()).and_then(|outage| outage.ended);
        let age = entry.since.elapsed();
        let is_true = age < most && ended.is_none_or(|ended| ended < entry.since);
        is_true.then(|| ModeError::Absent { what: asked.absence(), age: Some(age) })
    }

    /// Notes that the upstream has not got this.
    pub(super) fn note(&self, asked: NegativeKey, is_registrys: bool) {
        self.entries.insert(asked, Entry { since: Instant::now(), is_registrys });
    }

    /// Notes that the upstream gave no answer about a repository.
    pub(super) fn unanswered(&self, repo: &RepoName) {
        let ended = self.outages.get(repo).and_then(|outage| outage.ended);
        self.outages.insert(repo.clone(), Outage { lasts: true, ended });
    }

    /// Notes that the upstream gave an answer about a repository: the first after an outage ends all entries from before it.
    pub(super) fn answered(&self, repo: &RepoName) {
        if self.outages.get(repo).is_some_and(|outage| outage.lasts) {
            self.outages.insert(repo.clone(), Outage { lasts: false, ended: Some(Instant::now()) });
        }
    }
}

impl Absence {
    /// The usual refusal.
    pub(super) fn error(self) -> ModeError {
        match self {
            Self::Manifest => StoreError::ManifestUnknown.into(),
            Self::Blob => StoreError::BlobUnknown.into(),
            Self::Repository => ModeError::RepositoryUnknown,
        }
    }
}

/// Whether an error says that something is not there, and if so whether the registry itself does.
pub(super) const fn absence(error: &ModeError) -> Option<bool> {
    match error {
        ModeError::Store(StoreError::ManifestUnknown | StoreError::BlobUnknown) | ModeError::RepositoryUnknown => {
            Some(true)
        }
        ModeError::Absent { age: None, .. } => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn asked(repo: &str, tag: &str) -> NegativeKey {
        NegativeKey::Manifest(repo.parse().unwrap(), Reference::Tag(tag.parse().unwrap()))
    }

    #[test]
    fn a_404_is_repeated_until_the_repository_answers_again() {
        let negatives = Negatives::new();
        let (a, b): (RepoName, RepoName) = ("a".parse().unwrap(), "b".parse().unwrap());
        negatives.note(asked("a", "x"), true);
        negatives.note(asked("b", "x"), true);
        // Answers before the outage change nothing.
        negatives.answered(&a);
        assert!(negatives.stale(&asked("a", "x"), HOUR).is_some());
        assert!(negatives.stale(&asked("a", "y"), HOUR).is_none());
        negatives.unanswered(&a);
        negatives.unanswered(&b);
        assert!(negatives.stale(&asked("a", "x"), HOUR).is_some());
        negatives.answered(&a);
        negatives.unanswered(&a);
        assert!(negatives.stale(&asked("a", "x"), HOUR).is_none());
        assert!(negatives.stale(&asked("b", "x"), HOUR).is_some());
        // What was said after the outage counts in the next one.
        negatives.note(asked("a", "x"), true);
        assert!(negatives.stale(&asked("a", "x"), HOUR).is_some());
        assert!(negatives.stale(&asked("a", "x"), Duration::ZERO).is_none());
    }

    #[test]
    fn a_404_of_somebody_else_is_believed_for_its_ttl_and_never_repeated() {
        let negatives = Negatives::new();
        negatives.note(asked("a", "x"), false);
        assert!(negatives.fresh(&asked("a", "x"), HOUR).is_some());
        assert!(negatives.fresh(&asked("a", "x"), Duration::ZERO).is_none());
        assert!(negatives.stale(&asked("a", "x"), HOUR).is_none());
    }

    #[test]
    fn entries_are_bounded() {
        let negatives = Negatives::new();
        for n in 0..3 * ENTRIES {
            negatives.note(asked("a", &format!("t{n}")), true);
        }
        assert!(negatives.entries.len() <= ENTRIES);
    }
}
