//! What others set of the collection while the store is open.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::clock;
use crate::oci::{Digest, RepoName};
use crate::store::options::CollectionOptions;
use crate::store::pins::{FoundPins, PinsState};
use crate::values::Release;

#[derive(Debug, Default)]
pub(in crate::store) struct Settings {
    held: AtomicBool,
    options: Mutex<CollectionOptions>,
    pins: Mutex<KnownPins>,
    retained: Mutex<Arc<Retained>>,
    /// The options are others.
    pub(in crate::store) changed: Notify,
}

/// What retention keeps by digest, as it found it last.
#[derive(Clone, Debug, Default)]
pub struct Retained {
    /// What the release sets that stay name, by repository: no tag has to lead to it.
    pub kept: HashMap<RepoName, Arc<HashSet<Digest>>>,
    /// Repositories of which that is not known now, and why: nothing of them is collected.
    pub unknown: HashMap<RepoName, String>,
}

/// What stays in one repository beside what its tags lead to.
#[derive(Debug)]
pub(in crate::store) struct Roots {
    pub(in crate::store) pins: Arc<HashSet<Digest>>,
    pub(in crate::store) kept: Option<Arc<HashSet<Digest>>>,
}

/// The pins as they were found last, and what is a root by them.
#[derive(Debug, Default)]
struct KnownPins {
    found: FoundPins,
    /// Of the last document that could be read: while a later one can't, nothing goes, and what was pinned is still reached.
    roots: Arc<HashSet<Digest>>,
    /// Of the same document.
    releases: BTreeSet<Release>,
}

impl Retained {
    /// Notes what is kept of a repository, or why that is not known.
    pub fn note(&mut self, repo: RepoName, kept: Result<Arc<HashSet<Digest>>, String>) {
        match kept {
            Ok(kept) => {
                self.unknown.remove(&repo);
                self.kept.insert(repo, kept);
            }
            Err(why) => {
                self.kept.remove(&repo);
                self.unknown.insert(repo, why);
            }
        }
    }
}

impl Settings {
    /// Options in force.
    pub(in crate::store) fn options(&self) -> CollectionOptions {
        self.options.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts options into force.
    pub(in crate::store) fn set_options(&self, options: CollectionOptions) {
        *self.options.lock().unwrap_or_else(PoisonError::into_inner) = options;
        self.changed.notify_one();
    }

    /// Contents that stay whatever reaches them.
    pub(in crate::store) fn pins(&self) -> Arc<HashSet<Digest>> {
        Arc::clone(&self.pins.lock().unwrap_or_else(PoisonError::into_inner).roots)
    }

    /// What stays in a repository, by what retention keeps.
    pub(in crate::store) fn roots(&self, repo: &RepoName, retained: &Retained) -> Roots {
        Roots { pins: self.pins(), kept: retained.kept.get(repo).cloned() }
    }

    /// What retention keeps, as it is in force.
    pub(in crate::store) fn retained(&self) -> Arc<Retained> {
        Arc::clone(&self.retained.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts what retention keeps into force. Verdicts that were found without it are the ledger's affair.
    pub(in crate::store) fn set_retained(&self, retained: Retained) {
        *self.retained.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(retained);
    }

    /// Puts what retention keeps in one repository into force.
    pub(in crate::store) fn retain(&self, repo: RepoName, kept: Result<Arc<HashSet<Digest>>, String>) {
        let mut retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut retained).note(repo, kept);
    }

    /// How the pins stand now.
    pub(in crate::store) fn pins_state(&self) -> PinsState {
        self.found_pins().state(clock::now())
    }

    /// What was found of them last.
    pub(in crate::store) fn found_pins(&self) -> FoundPins {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner).found.clone()
    }

    /// Puts pins into force; says whether other contents are roots now, or other releases pinned. Verdicts that were found
    /// without them are the ledger's affair.
    pub(in crate::store) fn set_pins(&self, found: FoundPins) -> bool {
        let mut known = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        let (roots, releases) = match &found {
            FoundPins::Read(pins) => (pins.images.iter().copied().collect(), pins.releases.clone()),
            FoundPins::Unset => (HashSet::new(), BTreeSet::new()),
            FoundPins::Missing | FoundPins::Unreadable(_) => {
                known.found = found;
                return false;
            }
        };
        let is_other = *known.roots != roots || known.releases != releases;
        *known = KnownPins { found, roots: Arc::new(roots), releases };
        is_other
    }

    /// Whether nothing may be removed now: collection is held, or the pins can't be gone by.
    pub(in crate::store) fn may_not_remove(&self) -> bool {
        self.is_held() || self.pins_state().fault().is_some()
    }

    /// Whether nothing may be collected now.
    pub(in crate::store) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// Lets nothing be collected, or ends that.
    pub(in crate::store) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }
}
