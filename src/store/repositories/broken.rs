//! What the damaged contents break, for the administrator: found when the list of them changes, and each hour while it has an
//! entry.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::oci::{Digest, RepoName};

/// Images come and go, which the list of damaged contents does not tell.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// A content of which only damaged files are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenContent {
    /// Its digest.
    pub digest: Digest,
    /// Images that need it, as `repository:tag` or `repository@digest`: the first 20 by name.
    pub images: Vec<String>,
    /// Further ones.
    pub more: u64,
    /// Repositories learnt from an upstream that have it, and whether as a manifest: 20 at most.
    pub cached: Vec<(RepoName, bool)>,
    /// Repositories of Local that have it, likewise.
    pub pushed: Vec<(RepoName, bool)>,
}

/// What is known of it.
#[derive(Debug, Default)]
pub(in crate::store) struct Broken {
    known: Mutex<(Option<Instant>, Arc<Vec<BrokenContent>>)>,
    /// The list is another one.
    pub(in crate::store) changed: Notify,
}

impl Broken {
    /// The last look.
    pub(in crate::store) fn last(&self) -> Arc<Vec<BrokenContent>> {
        Arc::clone(&self.known.lock().unwrap_or_else(PoisonError::into_inner).1)
    }

    /// Puts what a look at `now` found in the place of the one before.
    pub(super) fn put(&self, now: Instant, found: Vec<BrokenContent>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = (Some(now), Arc::new(found));
        self.changed.notify_one();
    }

    /// Whether that is what a look at `now` would be about.
    pub(super) fn is_known(&self, digests: &HashSet<Digest>, now: Instant) -> bool {
        let (looked, known) = &*self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = looked.is_some_and(|at| now.saturating_duration_since(at) < LOOK_AGAIN);
        known.len() == digests.len()
            && known.iter().all(|content| digests.contains(&content.digest))
            && (is_fresh || digests.is_empty())
    }
}
