//! What other masters have to agree to before it goes: manifests that nothing reaches, and tags by a rule. They are on all masters,
//! so what this one does not need another one may.
//!
//! Whoever is asked answers with the records of all that it would remove itself: by its own pins, last uses, rules and graces, from
//! its own store alone. What all others list goes, if their record of it is this store's too. A removal is said at the moment
//! behind that record, and whatever a master says later, that had the record, is later than that (`records::clock`): so nobody
//! gives anything up by saying yes. A manifest that somebody asked for since stays where it was asked for, and is said anew there
//! (`recorded::removals`).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;

use crate::oci::RepoName;
use crate::store::repositories::records::Record;

/// What is about to go, of which all other masters are asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RemovalQuestion {
    /// Tags that no rule of retention keeps, of a repository, or of a root with its children.
    ByRule(RepoName),
    /// Manifests of a repository that nothing reaches and whose grace is over, and tags by the built-in rule.
    Unreached(RepoName),
}

/// What all other masters would remove too.
#[derive(Clone, Debug)]
pub enum Agreed {
    /// There is no other master.
    All,
    /// These, by repository.
    Records(HashMap<RepoName, HashSet<Record>>),
}

impl Agreed {
    /// Whether what this record says may go.
    #[must_use]
    pub fn has(&self, repo: &RepoName, record: &Record) -> bool {
        match self {
            Self::All => true,
            Self::Records(all) => all.get(repo).is_some_and(|records| records.contains(record)),
        }
    }
}

/// Asks all other masters. The error, a sentence, says why not all of them have answered: then nothing goes.
pub type AskMasters = Arc<dyn Fn(RemovalQuestion) -> BoxFuture<'static, Result<Agreed, String>> + Send + Sync>;

/// The way to the other masters, and what came of the last questions.
#[derive(Default)]
pub(in crate::store) struct Masters {
    ask: Mutex<Option<AskMasters>>,
    told: Mutex<Told>,
}

/// What came of the questions of the last run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Told {
    /// Why not all masters have answered.
    pub(in crate::store) away: Option<String>,
    /// What was to go and is kept, as another master needs it.
    pub(in crate::store) kept: u64,
}

impl fmt::Debug for Masters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masters").field("told", &self.told()).finish_non_exhaustive()
    }
}

impl Masters {
    /// From now on others are asked by this way.
    pub(in crate::store) fn ask_by(&self, ask: AskMasters) {
        *self.ask.lock().unwrap_or_else(PoisonError::into_inner) = Some(ask);
    }

    pub(super) fn way(&self) -> Option<AskMasters> {
        self.ask.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What came of the questions of the last run.
    pub(in crate::store) fn told(&self) -> Told {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A run begins.
    pub(in crate::store) fn begin(&self) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Told::default();
    }

    pub(super) fn note_kept(&self, count: usize) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).kept += count as u64;
    }

    pub(super) fn note_away(&self, why: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.away.as_deref() != Some(why) {
            tracing::warn!(why, "what nothing needs here stays until all masters can be asked for it");
        }
        told.away = Some(why.to_owned());
    }
}
