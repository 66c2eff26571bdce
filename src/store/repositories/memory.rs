//! The memory of repositories: where tags point, manifests with their parsed form, small blobs, and which manifests
//! were found whole.
//!
//! Each entry carries its repository's generation from before it was read; a write ends the generation before and
//! after it touches the tree, and nothing is remembered in between. So nothing read before or beside a write is believed
//! after it began, and no reader sees the new and then the old.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};

use super::generations::{Generations, NO_GENERATION, WriteGuard};
use super::verdicts::{Verdict, Verdicts};
use crate::oci::{Digest, RepoName, Tag};
use crate::store::stored::StoredManifest;

/// Bytes of manifests held in memory.
pub(in crate::store) const CACHE_BYTES: u64 = 4 << 20;

/// Larger manifests are read from the page cache while no reader has them (`large`).
pub(in crate::store) const CACHED_MANIFEST: usize = 256 * 1024;

/// Entries that the cache is laid out for; it grows by weight, not by this.
const CACHE_ENTRIES: usize = 2048;

/// Generations that are counted: repositories share them by hash.
const GENERATIONS: usize = 1024;

#[derive(Debug)]
pub(in crate::store) struct Memory {
    known: Cache<Key, Known, Weight>,
    verdicts: Verdicts,
    generations: Box<[Generations]>,
    hasher: quick_cache::DefaultHashBuilder,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Tag(RepoName, Tag),
    Manifest(RepoName, Digest),
    Blob(RepoName, Digest),
}

/// A [`Key`] to look up, made of what is at hand. Hashes as the key does: the same variants in the same order.
#[derive(Hash)]
enum KeyRef<'a> {
    Tag(&'a RepoName, &'a Tag),
    Manifest(&'a RepoName, &'a Digest),
    Blob(&'a RepoName, &'a Digest),
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        match (self, key) {
            (Self::Tag(repo, tag), Key::Tag(of, name)) => *repo == of && *tag == name,
            (Self::Manifest(repo, digest), Key::Manifest(of, name)) => *repo == of && *digest == name,
            (Self::Blob(repo, digest), Key::Blob(of, name)) => *repo == of && *digest == name,
            _ => false,
        }
    }
}

#[derive(Clone, Debug)]
enum Known {
    Tag { digest: Digest, read_at: u64 },
    Manifest { stored: StoredManifest, read_at: u64, whole_at: Arc<AtomicU64> },
    Blob { bytes: Bytes, read_at: u64 },
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Key, Known> for Weight {
    fn weight(&self, key: &Key, known: &Known) -> u64 {
        let (Key::Tag(repo, _) | Key::Manifest(repo, _) | Key::Blob(repo, _)) = key;
        let held = match known {
            Known::Tag { .. } => 0,
            // The parsed form is about as large as the text.
            Known::Manifest { stored, .. } => stored.bytes.len() * 2,
            Known::Blob { bytes, .. } => bytes.len(),
        };
        (repo.as_str().len() + held + 256) as u64
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            known: Cache::with_weighter(CACHE_ENTRIES, CACHE_BYTES, Weight),
            verdicts: Verdicts::default(),
            generations: (0..GENERATIONS).map(|_| Generations::default()).collect(),
            hasher: quick_cache::DefaultHashBuilder::default(),
        }
    }
}

impl Memory {
    fn generations(&self, repo: &RepoName) -> &Generations {
        let hash = std::hash::BuildHasher::hash_one(&self.hasher, repo);
        &self.generations[usize::try_from(hash % GENERATIONS as u64).unwrap_or(0)]
    }

    /// The generation of deletes, to be read before the tree is.
    pub(in crate::store) fn stable_deletions(&self, repo: &RepoName) -> u64 {
        self.generations(repo).deletions.stable()
    }

    /// The digest that a tag points at, if that is remembered.
    pub(in crate::store) fn tag(&self, repo: &RepoName, tag: &Tag) -> Option<Digest> {
        match self.known.get(&KeyRef::Tag(repo, tag))? {
            Known::Tag { digest, read_at } if read_at == self.generations(repo).changes.current() => Some(digest),
            _ => None,
        }
    }

    /// A manifest that is remembered.
    pub(in crate::store) fn manifest(&self, repo: &RepoName, digest: &Digest) -> Option<StoredManifest> {
        self.manifest_and_whole(repo, digest).map(|(stored, _)| stored)
    }

    /// A manifest, and whether it was found whole and nothing was deleted from its repository since.
    pub(in crate::store) fn manifest_and_whole(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Option<(StoredManifest, bool)> {
        match self.known.get(&KeyRef::Manifest(repo, digest))? {
            Known::Manifest { stored, read_at, whole_at } => {
                let now = self.generations(repo).deletions.current();
                if read_at != now {
                    return None;
                }
                let known = whole_at.load(Ordering::SeqCst) == now;
                if !known && self.is_whole(repo, digest) {
                    // The next one needs no second look.
                    whole_at.store(now, Ordering::SeqCst);
                }
                Some((stored, known || whole_at.load(Ordering::SeqCst) == now))
            }
            _ => None,
        }
    }

    /// A small blob that is remembered.
    pub(in crate::store) fn blob(&self, repo: &RepoName, digest: &Digest) -> Option<Bytes> {
        match self.known.get(&KeyRef::Blob(repo, digest))? {
            Known::Blob { bytes, read_at } if read_at == self.generations(repo).deletions.current() => Some(bytes),
            _ => None,
        }
    }

    /// Remembers a small blob; `read_at` is the generation of deletes from before it was opened.
    pub(in crate::store) fn keep_blob(&self, repo: &RepoName, digest: &Digest, bytes: Bytes, read_at: u64) {
        self.known.insert(Key::Blob(repo.clone(), *digest), Known::Blob { bytes, read_at });
    }

    /// Remembers where a tag points; `read_at` is the generation of changes from before it was read.
    pub(in crate::store) fn keep_tag(&self, repo: &RepoName, tag: &Tag, digest: Digest, read_at: u64) {
        self.known.insert(Key::Tag(repo.clone(), tag.clone()), Known::Tag { digest, read_at });
    }

    /// Remembers a manifest, unless it is large; `read_at` is the generation of deletes from before it was opened.
    pub(in crate::store) fn keep(&self, repo: &RepoName, stored: &StoredManifest, read_at: u64) {
        if stored.bytes.len() <= CACHED_MANIFEST {
            let whole_at = Arc::new(AtomicU64::new(NO_GENERATION));
            let known = Known::Manifest { stored: stored.clone(), read_at, whole_at };
            self.known.insert(Key::Manifest(repo.clone(), stored.digest), known);
        }
    }

    /// Whether the manifest was found whole and nothing was deleted from its repository since.
    pub(in crate::store) fn is_whole(&self, repo: &RepoName, digest: &Digest) -> bool {
        matches!(self.verdict(repo, digest), Some(Verdict::Whole { .. }))
    }

    /// The verdict on the manifest that is remembered and still believed.
    pub(in crate::store) fn verdict(&self, repo: &RepoName, digest: &Digest) -> Option<Verdict> {
        let generations = self.generations(repo);
        self.verdicts.get(repo, digest).filter(|verdict| match verdict {
            Verdict::Whole { deletions } => *deletions == generations.deletions.current(),
            Verdict::Lacks { additions, .. } => *additions == generations.additions.current(),
        })
    }

    /// Notes what was found; its generation is that from before the look.
    pub(in crate::store) fn note_verdict(&self, repo: &RepoName, digest: &Digest, verdict: Verdict) {
        self.verdicts.note(repo, digest, verdict);
    }

    /// The generations of deletes and of additions as they stand, also while a write runs.
    pub(in crate::store) fn generations_of(&self, repo: &RepoName) -> (u64, u64) {
        let generations = self.generations(repo);
        (generations.deletions.current(), generations.additions.current())
    }

    /// The generation of changes of manifests and tags, to be read before the tree is.
    pub(in crate::store) fn stable_changes(&self, repo: &RepoName) -> u64 {
        self.generations(repo).changes.stable()
    }

    /// The generation of additions, to be read before the tree is.
    pub(in crate::store) fn stable_additions(&self, repo: &RepoName) -> u64 {
        self.generations(repo).additions.stable()
    }

    /// Begins a write of manifests or tags; called before the tree is touched.
    pub(in crate::store) fn changing(&self, repo: &RepoName) -> WriteGuard<'_> {
        self.generations(repo).changes.begin()
    }

    /// Nothing of manifests and blobs that was read before is believed any more, in any repository.
    pub(in crate::store) fn forget_all(&self) {
        for generations in &self.generations {
            drop(generations.deletions.begin());
        }
    }

    /// Begins to add a content; called before the tree is touched.
    pub(in crate::store) fn adding(&self, repo: &RepoName) -> WriteGuard<'_> {
        self.generations(repo).additions.begin()
    }

    /// Begins a delete; called before the tree is touched.
    pub(in crate::store) fn deleting(&self, repo: &RepoName) -> WriteGuard<'_> {
        self.generations(repo).deletions.begin()
    }
}
