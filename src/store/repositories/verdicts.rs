//! Whether manifests were found whole, remembered apart from their bytes: a verdict is small, whatever its manifest is.

use std::sync::Arc;

use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};

use crate::oci::{Digest, RepoName};

/// Bytes of verdicts held in memory.
pub(in crate::store) const VERDICT_BYTES: u64 = 2 << 20;

/// Entries that the cache is laid out for; it grows by weight, not by this.
const ENTRIES: usize = 4096;

/// The outcome of a walk, and until when that is believed.
#[derive(Clone, Debug)]
pub(in crate::store) enum Verdict {
    /// All is there, until the generation of deletes ends.
    Whole { deletions: u64 },
    /// This is missing, until the generation of additions ends.
    Lacks { missing: Arc<[Digest]>, additions: u64 },
}

#[derive(Debug)]
pub(in crate::store) struct Verdicts(Cache<Key, Verdict, Weight>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key(RepoName, Digest);

#[derive(Hash)]
struct KeyRef<'a>(&'a RepoName, &'a Digest);

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self.0 == key.0 && *self.1 == key.1
    }
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Key, Verdict> for Weight {
    fn weight(&self, key: &Key, verdict: &Verdict) -> u64 {
        let missing = match verdict {
            Verdict::Whole { .. } => 0,
            Verdict::Lacks { missing, .. } => size_of_val(&**missing),
        };
        (key.0.as_str().len() + missing + 256) as u64
    }
}

impl Default for Verdicts {
    fn default() -> Self {
        Self(Cache::with_weighter(ENTRIES, VERDICT_BYTES, Weight))
    }
}

impl Verdicts {
    pub(in crate::store) fn get(&self, repo: &RepoName, digest: &Digest) -> Option<Verdict> {
        self.0.get(&KeyRef(repo, digest))
    }

    pub(in crate::store) fn note(&self, repo: &RepoName, digest: &Digest, verdict: Verdict) {
        self.0.insert(Key(repo.clone(), *digest), verdict);
    }
}
