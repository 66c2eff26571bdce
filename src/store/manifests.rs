//! Manifests and tags of repositories, and what is remembered of them, and of small blobs, in memory.
//!
//! What is remembered carries its repository's generation from before it was read; a write ends the generation
//! before and after it touches the tree, and nothing is remembered in between. So nothing read before or beside a write
//! is believed after it began, and no reader sees the new and then the old.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fail::fail_point;
use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};

use super::contents::{Contents, Looked};
use super::damage::Condemned;
use super::generations::{Generations, NO_GENERATION, WriteGuard};
use super::layout::{Layout, Membership};
use super::listings::Change;
use super::verdicts::{Verdict, Verdicts};
use super::walk::{SkippedEntries, Tags, holds_manifest};
use super::{Inner, Store, StoreError, StoredManifest};
use crate::fs::{is_absence, stat};
use crate::oci::{Digest, Manifest, Reference, RepoName, Tag};
use crate::telemetry::DamageCause;

/// Bytes of manifests held in memory.
pub(super) const CACHE_BYTES: u64 = 4 << 20;

/// Larger manifests are read from the page cache while no reader has them (`large`).
pub(super) const CACHED_MANIFEST: usize = 256 * 1024;

/// Entries that the cache is laid out for; it grows by weight, not by this.
const CACHE_ENTRIES: usize = 2048;

/// Longest file that is read as a manifest: far above every accepted `manifests.maxBytes`.
const MAX_MANIFEST: u64 = 64 << 20;

/// A tag that moves away under every one of so many looks is taken for unknown.
const TAG_ATTEMPTS: usize = 8;

/// Clocks: repositories share one by hash.
const GENERATIONS: usize = 1024;

#[derive(Debug)]
pub(super) struct Memory {
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
    pub(super) fn stable_deletions(&self, repo: &RepoName) -> u64 {
        self.generations(repo).deletions.stable()
    }

    fn tag(&self, repo: &RepoName, tag: &Tag) -> Option<Digest> {
        match self.known.get(&KeyRef::Tag(repo, tag))? {
            Known::Tag { digest, read_at } if read_at == self.generations(repo).changes.current() => Some(digest),
            _ => None,
        }
    }

    fn manifest(&self, repo: &RepoName, digest: &Digest) -> Option<StoredManifest> {
        self.manifest_and_whole(repo, digest).map(|(stored, _)| stored)
    }

    /// A manifest, and whether it was found whole and nothing was deleted from its repository since.
    fn manifest_and_whole(&self, repo: &RepoName, digest: &Digest) -> Option<(StoredManifest, bool)> {
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
    pub(super) fn blob(&self, repo: &RepoName, digest: &Digest) -> Option<Bytes> {
        match self.known.get(&KeyRef::Blob(repo, digest))? {
            Known::Blob { bytes, read_at } if read_at == self.generations(repo).deletions.current() => Some(bytes),
            _ => None,
        }
    }

    /// Remembers a small blob; `read_at` is the generation of deletes from before it was opened.
    pub(super) fn keep_blob(&self, repo: &RepoName, digest: &Digest, bytes: Bytes, read_at: u64) {
        self.known.insert(Key::Blob(repo.clone(), *digest), Known::Blob { bytes, read_at });
    }

    fn keep(&self, repo: &RepoName, stored: &StoredManifest, read_at: u64) {
        if stored.bytes.len() <= CACHED_MANIFEST {
            let whole_at = Arc::new(AtomicU64::new(NO_GENERATION));
            let known = Known::Manifest { stored: stored.clone(), read_at, whole_at };
            self.known.insert(Key::Manifest(repo.clone(), stored.digest), known);
        }
    }

    /// Whether the manifest was found whole and nothing was deleted from its repository since.
    pub(super) fn is_whole(&self, repo: &RepoName, digest: &Digest) -> bool {
        matches!(self.verdict(repo, digest), Some(Verdict::Whole { .. }))
    }

    /// What is remembered of the manifest and still believed.
    pub(super) fn verdict(&self, repo: &RepoName, digest: &Digest) -> Option<Verdict> {
        let generations = self.generations(repo);
        self.verdicts.get(repo, digest).filter(|verdict| match verdict {
            Verdict::Whole { deletions } => *deletions == generations.deletions.current(),
            Verdict::Lacks { additions, .. } => *additions == generations.additions.current(),
        })
    }

    /// Notes what was found; its generation is that from before the look.
    pub(super) fn note_verdict(&self, repo: &RepoName, digest: &Digest, verdict: Verdict) {
        self.verdicts.note(repo, digest, verdict);
    }

    /// The generations of deletes and of additions as they stand, also while a write runs.
    pub(super) fn generations_of(&self, repo: &RepoName) -> (u64, u64) {
        let generations = self.generations(repo);
        (generations.deletions.current(), generations.additions.current())
    }

    /// The generation of additions, to be read before the tree is.
    pub(super) fn stable_additions(&self, repo: &RepoName) -> u64 {
        self.generations(repo).additions.stable()
    }

    /// Begins a write of manifests or tags; called before the tree is touched.
    fn changing(&self, repo: &RepoName) -> WriteGuard<'_> {
        self.generations(repo).changes.begin()
    }

    /// Nothing of manifests and blobs that was read before is believed any more, in any repository.
    pub(super) fn forget_all(&self) {
        for generations in &self.generations {
            drop(generations.deletions.begin());
        }
    }

    /// Begins to add a content; called before the tree is touched.
    pub(super) fn adding(&self, repo: &RepoName) -> WriteGuard<'_> {
        self.generations(repo).additions.begin()
    }

    /// Begins a delete; called before the tree is touched.
    pub(super) fn deleting(&self, repo: &RepoName) -> WriteGuard<'_> {
        self.generations(repo).deletions.begin()
    }
}

impl Inner {
    /// The manifest if it needs no disk to find it, and whether it is known to be whole; `None`: ask
    /// [`Inner::manifest`] from a blocking thread.
    pub(super) fn manifest_now(&self, repo: &RepoName, reference: &Reference) -> Option<(StoredManifest, bool)> {
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => self.memory.tag(repo, tag)?,
        };
        self.memory.manifest_and_whole(repo, &digest)
    }

    /// The manifest behind a reference; blocking.
    pub(super) fn manifest(&self, repo: &RepoName, reference: &Reference) -> Result<Found, StoreError> {
        match reference {
            Reference::Digest(digest) => self.manifest_by_digest(repo, *digest),
            Reference::Tag(tag) => {
                let mut digest = self.tag_target(repo, tag)?;
                for _ in 0..TAG_ATTEMPTS {
                    match self.manifest_by_digest(repo, digest) {
                        Err(StoreError::ManifestUnknown) => {}
                        found => return found,
                    }
                    // The tag moved and the manifest behind it was deleted in between: it points elsewhere now.
                    let target = self.tag_target(repo, tag)?;
                    if target == digest {
                        break;
                    }
                    digest = target;
                }
                Err(StoreError::ManifestUnknown)
            }
        }
    }

    fn tag_target(&self, repo: &RepoName, tag: &Tag) -> Result<Digest, StoreError> {
        let read_at = self.memory.generations(repo).changes.stable();
        let digest = read_tag(&self.layout, repo, tag)?.ok_or(StoreError::ManifestUnknown)?;
        self.memory.known.insert(Key::Tag(repo.clone(), tag.clone()), Known::Tag { digest, read_at });
        Ok(digest)
    }

    fn manifest_by_digest(&self, repo: &RepoName, digest: Digest) -> Result<Found, StoreError> {
        if let Some(stored) = self.memory.manifest(repo, &digest) {
            return Ok(Found::Here(stored));
        }
        let read_at = self.memory.stable_deletions(repo);
        let opened = match self.open_manifest(repo, digest)? {
            None if self.mend(repo, Membership::Manifest, &digest)? => self.open_manifest(repo, digest)?,
            opened => opened,
        };
        let (file, path) = opened.ok_or(StoreError::ManifestUnknown)?;
        let size = file.metadata().map_err(StoreError::io("stat", &path))?.len();
        if size > CACHED_MANIFEST as u64 {
            return Ok(Found::Large(digest, size));
        }
        let stored = match self.verified(&file, &path, digest)? {
            Some(stored) => stored,
            // Found to be damaged just now: there may be a whole one.
            None => self.find_manifest(repo, digest)?.ok_or(StoreError::ManifestUnknown)?,
        };
        self.memory.keep(repo, &stored, read_at);
        Ok(Found::Here(stored))
    }

    /// As [`Self::read_manifest`], and a damaged one is linked anew if there is a whole one. Blocking; not to be called with
    /// a lock held.
    pub(super) fn find_manifest(&self, repo: &RepoName, digest: Digest) -> Result<Option<StoredManifest>, StoreError> {
        match self.read_manifest(repo, digest)? {
            None if self.mend(repo, Membership::Manifest, &digest)? => self.read_manifest(repo, digest),
            found => Ok(found),
        }
    }

    /// Reads a manifest of a repository from the tree; blocking. A damaged one is absent: found to be so now, it goes on the
    /// list.
    pub(super) fn read_manifest(&self, repo: &RepoName, digest: Digest) -> Result<Option<StoredManifest>, StoreError> {
        match self.open_manifest(repo, digest)? {
            Some((file, path)) => self.verified(&file, &path, digest),
            None => Ok(None),
        }
    }

    /// Opens a manifest of a repository; a damaged one is absent. Blocking.
    pub(super) fn open_manifest(&self, repo: &RepoName, digest: Digest) -> Result<Option<(File, PathBuf)>, StoreError> {
        let file = match self.contents.open_now(repo, Membership::Manifest, &digest) {
            Looked::Found(file) => Some(file),
            Looked::Absent => None,
            Looked::Unknown => Contents::open(&self.layout, repo, Membership::Manifest, &digest)?,
        };
        let sound = file.filter(|file| !self.damage.is_listed_file(&digest, file));
        Ok(sound.map(|file| (file, self.layout.member(repo, Membership::Manifest, &digest))))
    }

    /// Reads a manifest and holds it against its digest; `None`: it is damaged, and on the list now. Blocking.
    fn verified(&self, mut file: &File, path: &Path, digest: Digest) -> Result<Option<StoredManifest>, StoreError> {
        let mut bytes = Vec::new();
        if let Err(error) = (&mut file).take(MAX_MANIFEST).read_to_end(&mut bytes) {
            self.ops().suspect(&digest, file, path, &error);
            return Err(StoreError::io("read", path)(error));
        }
        // One of thousands for some who ask.
        crate::telemetry::disk_moved();
        if digest.algorithm().digest(&bytes) != digest {
            let facts = file.metadata().map_err(StoreError::io("stat", path))?;
            return match self.ops().condemn(&digest, &facts, path, DamageCause::Hash) {
                Condemned::Listed | Condemned::Gone => Ok(None),
                Condemned::DiskFault => {
                    Err(StoreError::damaged(path, "the stored manifest is not what its digest says; push it again"))
                }
            };
        }
        let manifest =
            Manifest::kept(&bytes).map_err(|_| StoreError::damaged(path, "the stored manifest can't be parsed"))?;
        self.damage.learn(&manifest);
        Ok(Some(StoredManifest { digest, bytes: Bytes::from(bytes), manifest: Arc::new(manifest) }))
    }

    /// Stores a manifest and moves tags to it; blocking.
    pub(super) fn put_manifest(
        &self,
        repo: &RepoName,
        stored: &StoredManifest,
        tags: &[Tag],
    ) -> Result<(), StoreError> {
        let size = stored.bytes.len() as u64;
        // Charged, not only admitted: many at once can't pass the limit together.
        let charge = self.capacity.charge(size)?;
        let _locked = self.locks.lock(repo);
        let change = self.begin_change(repo)?;
        let writing = (self.memory.changing(repo), self.memory.adding(repo));
        let result = self.write_manifest(repo, stored, size, tags, &change);
        drop(writing);
        drop(charge);
        if result.is_ok() {
            self.damage.learn(&stored.manifest);
            change.done();
        }
        result
    }

    fn write_manifest(
        &self,
        repo: &RepoName,
        stored: &StoredManifest,
        size: u64,
        tags: &[Tag],
        change: &Change<'_>,
    ) -> Result<(), StoreError> {
        let temporary = self.disk.write_temporary(self.layout.temporary(), &stored.bytes)?;
        self.ops().add(temporary, size, repo, Membership::Manifest, &stored.digest)?;
        change.put_manifest(stored);
        if tags.is_empty() {
            return Ok(());
        }
        self.disk.make_directory(&self.layout.tags(repo))?;
        for tag in tags {
            fail_point!("store::tag::before_rename");
            let line = format!("{}\n", stored.digest);
            self.disk.replace(self.layout.temporary(), &self.layout.tag(repo, tag), line.as_bytes())?;
            fail_point!("store::tag::after_rename");
            change.put_tag(tag);
        }
        Ok(())
    }

    /// Removes a tag, or a manifest with the tags that point at it; blocking.
    pub(super) fn delete_manifest(&self, repo: &RepoName, reference: &Reference) -> Result<(), StoreError> {
        let _locked = self.locks.lock(repo);
        // Looked for first: what is not there changes nothing, and must not cost the index its stamp.
        let path = match reference {
            Reference::Tag(tag) => self.layout.tag(repo, tag),
            Reference::Digest(digest) => self.layout.member(repo, Membership::Manifest, digest),
        };
        if stat(&path)?.is_none() {
            return Err(StoreError::ManifestUnknown);
        }
        let change = self.begin_change(repo)?;
        let writing = (self.memory.changing(repo), self.memory.deleting(repo));
        let result = match reference {
            Reference::Tag(tag) => self.remove_tags(repo, std::slice::from_ref(tag), &change).map(|()| true),
            Reference::Digest(digest) => self.remove_manifest(repo, digest, &change),
        };
        drop(writing);
        if matches!(result, Ok(true) | Err(StoreError::ManifestUnknown)) {
            change.done();
        }
        result.map(drop)
    }

    /// `false`: the index does not know all of it.
    fn remove_manifest(&self, repo: &RepoName, digest: &Digest, change: &Change<'_>) -> Result<bool, StoreError> {
        let stored = match self.read_manifest(repo, *digest) {
            Ok(Some(stored)) => Some(stored),
            // Damaged: it can be deleted all the same. Whom it refers to is not known, so the index reads the rest again.
            Ok(None) | Err(_) => None,
        };
        let skipped = SkippedEntries::default();
        let pointing: Vec<Tag> = Tags::new(&self.layout, repo, &skipped)
            .filter(|tag| matches!(read_tag(&self.layout, repo, tag), Ok(Some(target)) if target == *digest))
            .collect();
        // Tags first: a crash between leaves a manifest without a tag, never a tag without a manifest.
        if !pointing.is_empty() {
            self.remove_tags(repo, &pointing, change)?;
        }
        self.ops().remove(repo, Membership::Manifest, digest)?;
        let known = stored.is_some();
        change.remove_manifest(*digest, stored.and_then(|stored| stored.manifest.subject.as_ref().map(|s| s.digest)));
        if !holds_manifest(&self.layout, repo) {
            change.remove_repository();
        }
        Ok(known)
    }

    fn remove_tags(&self, repo: &RepoName, tags: &[Tag], change: &Change<'_>) -> Result<(), StoreError> {
        let mut removed = false;
        for tag in tags {
            removed |= self.disk.unlink(&self.layout.tag(repo, tag))?;
        }
        if !removed {
            return Err(StoreError::ManifestUnknown);
        }
        self.disk.sync_directory(&self.layout.tags(repo))?;
        for tag in tags {
            change.remove_tag(tag);
        }
        Ok(())
    }

    pub(super) fn begin_change<'a>(&'a self, repo: &'a RepoName) -> Result<Change<'a>, StoreError> {
        self.listings.begin(repo)
    }
}

impl Store {
    /// The manifest behind a reference if it is in memory, and whether it is known to be whole as
    /// [`Store::missing_references`] means it. Waits for nothing.
    #[must_use]
    pub fn manifest_in_memory(&self, repo: &RepoName, reference: &Reference) -> Option<(StoredManifest, bool)> {
        self.0.manifest_now(repo, reference)
    }

    /// A small blob of a repository if it is in memory. Waits for nothing.
    #[must_use]
    pub fn blob_in_memory(&self, repo: &RepoName, digest: &Digest) -> Option<Bytes> {
        self.0.memory.blob(repo, digest)
    }
}

/// A manifest that was looked for.
pub(super) enum Found {
    Here(StoredManifest),
    /// It is there, has so many bytes, and was not read.
    Large(Digest, u64),
}

/// The digest that a tag points at; `None` if there is no such tag. Blocking.
pub(super) fn read_tag(layout: &Layout, repo: &RepoName, tag: &Tag) -> Result<Option<Digest>, StoreError> {
    let path = layout.tag(repo, tag);
    match std::fs::read_to_string(&path) {
        Ok(text) => text
            .trim_end()
            .parse()
            .map(Some)
            .map_err(|_| StoreError::damaged(&path, "the tag's file does not hold a digest; push the tag again")),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(StoreError::io("read", &path)(error)),
    }
}
