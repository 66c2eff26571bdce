//! Manifests and tags of repositories: found, read and held against their digests, stored, deleted.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};

use bytes::Bytes;
use fail::fail_point;

use super::broken::Broken;
use super::collection::agreement::Agreed;
use super::collection::ledger::{Ledger, Touch};
use super::listings::Listings;
use super::listings::change::Change;
use super::locks::RepositoryLocks;
use super::memory::{CACHED_MANIFEST, Memory};
use super::rebuild::Tree;
use super::records::{Record, Records};
use super::tags::read_tag;
use super::walk::{SkippedEntries, Tags, holds_manifest};
use crate::fs::stat;
use crate::oci::{Digest, Manifest, Reference, RepoName, Tag};
use crate::store::contents::blob::Blob;
use crate::store::contents::damage::list::Condemned;
use crate::store::contents::files::Contents;
use crate::store::contents::open::{Lookup, open_content};
use crate::store::error::StoreError;
use crate::store::layout::{Layout, Membership};
use crate::store::stored::StoredManifest;
use crate::telemetry::DamageCause;

/// Longest file that is read as a manifest: far above every accepted `manifests.maxBytes`.
const MAX_MANIFEST: u64 = 64 << 20;

/// Looks at a tag, each of which finds that it moved away, before it is taken for unknown.
const TAG_ATTEMPTS: usize = 8;

/// Manifests and tags, and what a change of them touches: the contents below, memory, the index.
#[derive(Debug)]
pub(in crate::store) struct Manifests {
    pub(in crate::store) contents: Arc<Contents>,
    pub(in crate::store) memory: Arc<Memory>,
    pub(in crate::store) listings: Listings,
    /// Told of every change, and asked before every answer.
    pub(in crate::store) ledger: Arc<Ledger>,
    pub(in crate::store) broken: Broken,
    /// What was said of them, for other masters.
    pub(in crate::store) records: Arc<Records>,
    pub(super) locks: RepositoryLocks,
}

/// How a manifest comes into a repository.
#[derive(Clone, Debug)]
pub(in crate::store) enum Origin {
    /// Somebody stores it: that is said to other masters.
    Pushed,
    /// Another master has it, and maybe said this of it: nothing new is said.
    Fetched(Option<Record>),
}

/// What other masters hear of a deletion.
enum Saying<'a> {
    /// A client asked for it.
    Deleted,
    /// All masters have agreed on it.
    Removed(&'a Agreed),
    /// It goes here alone.
    Nothing,
}

/// A manifest that was looked for.
pub(in crate::store) enum Found {
    Here(StoredManifest),
    /// It is there and was not read: its digest and its length in bytes.
    Large(Digest, u64),
}

impl Manifests {
    /// Of the repositories above `contents`.
    pub(in crate::store) fn new(
        contents: Arc<Contents>,
        memory: Arc<Memory>,
        listings: Listings,
        ledger: Arc<Ledger>,
    ) -> Self {
        let records = Arc::new(Records::new(Arc::clone(&contents)));
        let (broken, locks) = (Broken::default(), RepositoryLocks::default());
        Self { contents, memory, listings, ledger, broken, records, locks }
    }

    /// Keeps others from changing manifests and tags of the repository as long as the answer lives.
    pub(in crate::store) fn lock(&self, repo: &RepoName) -> MutexGuard<'_, ()> {
        self.locks.lock(repo)
    }

    /// The tree as a rebuild of the index sees it.
    pub(in crate::store) fn tree(&self) -> Tree<'_> {
        Tree { layout: &self.contents.layout, locks: &self.locks }
    }

    /// The manifest if it needs no disk to find it, and whether it is known to be whole; `None`: ask
    /// [`Self::manifest`] from a blocking thread.
    pub(in crate::store) fn manifest_now(
        &self,
        repo: &RepoName,
        reference: &Reference,
    ) -> Option<(StoredManifest, bool)> {
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => self.memory.tag(repo, tag)?,
        };
        if self.ledger.may_list(repo, &digest) {
            return None;
        }
        self.memory.manifest_and_whole(repo, &digest)
    }

    /// The manifest behind a reference; blocking.
    pub(in crate::store) fn manifest(&self, repo: &RepoName, reference: &Reference) -> Result<Found, StoreError> {
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
        let read_at = self.memory.stable_changes(repo);
        let digest = read_tag(&self.contents.layout, repo, tag)?.ok_or(StoreError::ManifestUnknown)?;
        self.memory.keep_tag(repo, tag, digest, read_at);
        Ok(digest)
    }

    fn manifest_by_digest(&self, repo: &RepoName, digest: Digest) -> Result<Found, StoreError> {
        self.save(repo, &digest);
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
    pub(in crate::store) fn find_manifest(
        &self,
        repo: &RepoName,
        digest: Digest,
    ) -> Result<Option<StoredManifest>, StoreError> {
        match self.read_manifest(repo, digest)? {
            None if self.mend(repo, Membership::Manifest, &digest)? => self.read_manifest(repo, digest),
            found => Ok(found),
        }
    }

    /// Reads a manifest of a repository from the tree; blocking. A damaged one is absent: found to be so now, it goes on the
    /// list.
    pub(in crate::store) fn read_manifest(
        &self,
        repo: &RepoName,
        digest: Digest,
    ) -> Result<Option<StoredManifest>, StoreError> {
        match self.open_manifest(repo, digest)? {
            Some((file, path)) => self.verified(&file, &path, digest),
            None => Ok(None),
        }
    }

    /// Opens a manifest of a repository; a damaged one is absent. Blocking.
    pub(in crate::store) fn open_manifest(
        &self,
        repo: &RepoName,
        digest: Digest,
    ) -> Result<Option<(File, PathBuf)>, StoreError> {
        let path = self.contents.layout.member(repo, Membership::Manifest, &digest);
        let file = match self.contents.open_now(&Layout::member_beneath(repo, Membership::Manifest, &digest)) {
            Lookup::Found(file) => Some(file),
            Lookup::Absent => None,
            Lookup::Unknown => open_content(&path)?,
        };
        let sound = file.filter(|file| !self.contents.damage.is_listed_file(&digest, file));
        Ok(sound.map(|file| (file, path)))
    }

    /// Reads a manifest and holds it against its digest; `None`: it is damaged, and on the list now. Blocking.
    fn verified(&self, mut file: &File, path: &Path, digest: Digest) -> Result<Option<StoredManifest>, StoreError> {
        let mut bytes = Vec::new();
        if let Err(error) = (&mut file).take(MAX_MANIFEST).read_to_end(&mut bytes) {
            if let (Ok(file), Ok(facts)) = (file.try_clone(), file.metadata()) {
                self.contents.suspect(&digest, &Blob::whole(file, facts.len()), path, &error);
            }
            return Err(StoreError::io("read", path)(error));
        }
        // One of thousands for some who ask.
        crate::telemetry::disk_moved();
        if digest.algorithm().digest(&bytes) != digest {
            let facts = file.metadata().map_err(StoreError::io("stat", path))?;
            return match self.contents.condemn(&digest, &facts, path, DamageCause::Hash) {
                Condemned::Listed | Condemned::Gone => Ok(None),
                Condemned::DiskFault => {
                    Err(StoreError::damaged(path, "the stored manifest is not what its digest says; push it again"))
                }
            };
        }
        let manifest =
            Manifest::kept(&bytes).map_err(|_| StoreError::damaged(path, "the stored manifest can't be parsed"))?;
        self.contents.damage.learn(&manifest);
        Ok(Some(StoredManifest { digest, bytes: Bytes::from(bytes), manifest: Arc::new(manifest) }))
    }

    /// Stores a manifest and moves tags to it; blocking.
    pub(in crate::store) fn put_manifest(
        &self,
        repo: &RepoName,
        stored: &StoredManifest,
        tags: &[Tag],
        origin: &Origin,
    ) -> Result<(), StoreError> {
        let size = stored.bytes.len() as u64;
        // Charged, not only admitted: many at once can't pass the limit together.
        let charge = self.contents.capacity.charge(size)?;
        let _touch = self.ledger.touch(repo)?;
        let Manifest { layers, manifests, subject, .. } = &*stored.manifest;
        let named = layers.iter().chain(manifests).chain(subject).map(|descriptor| descriptor.digest);
        self.ledger.given_up.take_off(&self.contents.disk, repo, named.chain([stored.digest]))?;
        self.save(repo, &stored.digest);
        self.save_named(repo, &stored.manifest);
        let locked = self.locks.lock(repo);
        match origin {
            // What could not be said is not begun.
            Origin::Pushed => drop(self.entry(repo, &locked)?),
            Origin::Fetched(said) => self.refuse_deleted(repo, &stored.digest, said.as_ref(), &locked)?,
        }
        let change = self.listings.begin(repo)?;
        let writing = (self.memory.changing(repo), self.memory.adding(repo));
        let result = self.write_manifest(repo, stored, size, tags, &change);
        let said = match (origin, &result) {
            (Origin::Pushed, Ok(())) => {
                fail_point!("store::record::before_push");
                self.say_stored(repo, stored.digest, tags, &locked)
            }
            // Some tags may have moved all the same.
            (Origin::Pushed, Err(_)) => {
                let has_moved = |tag: &&Tag| matches!(read_tag(&self.contents.layout, repo, tag), Ok(Some(to)) if to == stored.digest);
                let moved: Vec<Tag> = tags.iter().filter(has_moved).cloned().collect();
                if moved.is_empty() { Ok(()) } else { self.say_stored(repo, stored.digest, &moved, &locked) }
            }
            (Origin::Fetched(_), _) => Ok(()),
        };
        drop(writing);
        drop(charge);
        if result.is_ok() {
            self.contents.damage.learn(&stored.manifest);
            change.done();
        }
        // A push that no other master hears of is none.
        result.and(said)
    }

    fn write_manifest(
        &self,
        repo: &RepoName,
        stored: &StoredManifest,
        size: u64,
        tags: &[Tag],
        change: &Change<'_>,
    ) -> Result<(), StoreError> {
        let Contents { layout, disk, .. } = &*self.contents;
        let temporary = disk.write_temporary(layout.temporary(), &stored.bytes)?;
        let name = layout.member(repo, Membership::Manifest, &stored.digest);
        self.contents.add(temporary, size, &stored.digest, &name)?;
        change.put_manifest(stored);
        if tags.is_empty() {
            return Ok(());
        }
        disk.make_directory(&layout.tags(repo))?;
        for tag in tags {
            fail_point!("store::tag::before_rename");
            let line = format!("{}\n", stored.digest);
            disk.replace(layout.temporary(), &layout.tag(repo, tag), line.as_bytes())?;
            fail_point!("store::tag::after_rename");
            change.put_tag(tag);
        }
        Ok(())
    }

    /// Removes a tag, or a manifest with the tags that point at it; blocking.
    pub(in crate::store) fn delete_manifest(&self, repo: &RepoName, reference: &Reference) -> Result<(), StoreError> {
        self.delete(repo, reference, &Saying::Deleted, || self.ledger.touch(repo).map(Some)).map(drop)
    }

    /// As [`Self::delete_manifest`], and other masters are not told: it goes here alone.
    pub(in crate::store) fn drop_manifest(&self, repo: &RepoName, reference: &Reference) -> Result<(), StoreError> {
        self.delete(repo, reference, &Saying::Nothing, || self.ledger.touch(repo).map(Some)).map(drop)
    }

    /// Removes what all masters have agreed on, for all of them, if `goes` allows it, which is asked when nothing that was read of
    /// the repository before is believed any more. Says whether it did: nothing else may have been said of it since.
    pub(in crate::store) fn delete_if(
        &self,
        repo: &RepoName,
        reference: &Reference,
        agreed: &Agreed,
        goes: impl FnOnce() -> Result<Option<Touch>, StoreError>,
    ) -> Result<bool, StoreError> {
        self.delete(repo, reference, &Saying::Removed(agreed), goes)
    }

    fn delete(
        &self,
        repo: &RepoName,
        reference: &Reference,
        saying: &Saying<'_>,
        goes: impl FnOnce() -> Result<Option<Touch>, StoreError>,
    ) -> Result<bool, StoreError> {
        let locked = self.locks.lock(repo);
        // Looked for first: what is not there changes nothing, and must not cost the index its stamp.
        let path = match reference {
            Reference::Tag(tag) => self.contents.layout.tag(repo, tag),
            Reference::Digest(digest) => self.contents.layout.member(repo, Membership::Manifest, digest),
        };
        if stat(&path)?.is_none() {
            return Err(StoreError::ManifestUnknown);
        }
        let change = self.listings.begin(repo)?;
        let writing = (self.memory.changing(repo), self.memory.deleting(repo));
        let Some(_touch) = goes()? else {
            change.done();
            return Ok(false);
        };
        let mut removed = None;
        match saying {
            Saying::Deleted => {
                let make_room = || removed.insert(self.remove_reference(repo, reference, &change)).is_ok();
                if let Err(error) = self.say_deleted(repo, reference, &locked, make_room) {
                    drop(writing);
                    // Nothing was removed, or all of it: the index knows what is there. Nobody is told that it is deleted.
                    if matches!(removed, None | Some(Ok(true))) {
                        change.done();
                    }
                    return Err(self.contents.capacity.explain(error));
                }
            }
            Saying::Removed(agreed) if !self.say_removed(repo, reference, agreed, &locked)? => {
                change.done();
                return Ok(false);
            }
            Saying::Removed(_) | Saying::Nothing => {}
        }
        let result = removed.unwrap_or_else(|| self.remove_reference(repo, reference, &change));
        drop(writing);
        if matches!(result, Ok(true) | Err(StoreError::ManifestUnknown)) {
            change.done();
        }
        if let (Reference::Digest(digest), Ok(_)) = (reference, &result)
            && let Err(error) = self.ledger.given_up.take_off(&self.contents.disk, repo, [*digest])
        {
            let error = crate::telemetry::with_causes(&error);
            tracing::warn!(error, "a line of a manifest that is gone stays until the next run of the collection");
        }
        result.map(|_| true)
    }

    /// Removes a tag, or a manifest with the tags that lead to it. `false`: the index does not know all of it.
    fn remove_reference(
        &self,
        repo: &RepoName,
        reference: &Reference,
        change: &Change<'_>,
    ) -> Result<bool, StoreError> {
        match reference {
            Reference::Tag(tag) => self.remove_tags(repo, std::slice::from_ref(tag), change).map(|()| true),
            Reference::Digest(digest) => self.remove_manifest(repo, digest, change),
        }
    }

    /// `false`: the index does not know all of it.
    fn remove_manifest(&self, repo: &RepoName, digest: &Digest, change: &Change<'_>) -> Result<bool, StoreError> {
        let pointing = self.tags_to(repo, &BTreeSet::from([*digest]));
        // Tags first: a crash between leaves a manifest without a tag, never a tag without a manifest.
        if !pointing.is_empty() {
            self.remove_tags(repo, &pointing, change)?;
        }
        self.remove_untagged(repo, digest, change)
    }

    /// The tags that lead to one of some manifests. Reads the files of all tags.
    pub(super) fn tags_to(&self, repo: &RepoName, digests: &BTreeSet<Digest>) -> Vec<Tag> {
        if digests.is_empty() {
            return Vec::new();
        }
        let (layout, skipped) = (&self.contents.layout, SkippedEntries::default());
        let leads = |tag: &Tag| matches!(read_tag(layout, repo, tag), Ok(Some(target)) if digests.contains(&target));
        Tags::new(layout, repo, &skipped).filter(leads).collect()
    }

    /// Removes a manifest to which no tag leads. `false`: the index does not know all of it.
    pub(super) fn remove_untagged(
        &self,
        repo: &RepoName,
        digest: &Digest,
        change: &Change<'_>,
    ) -> Result<bool, StoreError> {
        let stored = match self.read_manifest(repo, *digest) {
            Ok(Some(stored)) => Some(stored),
            // Damaged: it can be deleted all the same. Whom it refers to is not known, so the index reads the rest again.
            Ok(None) | Err(_) => None,
        };
        self.contents.remove(&self.contents.layout.member(repo, Membership::Manifest, digest), digest)?;
        let known = stored.is_some();
        change.remove_manifest(*digest, stored.and_then(|stored| stored.manifest.subject.as_ref().map(|s| s.digest)));
        if !holds_manifest(&self.contents.layout, repo) {
            change.remove_repository();
        }
        Ok(known)
    }

    pub(super) fn remove_tags(&self, repo: &RepoName, tags: &[Tag], change: &Change<'_>) -> Result<(), StoreError> {
        let mut removed = false;
        for tag in tags {
            removed |= self.contents.disk.unlink(&self.contents.layout.tag(repo, tag))?;
        }
        if !removed {
            return Err(StoreError::ManifestUnknown);
        }
        self.contents.disk.sync_directory(&self.contents.layout.tags(repo))?;
        for tag in tags {
            change.remove_tag(tag);
        }
        Ok(())
    }

    /// Whether the repository has the manifest only as a damaged file. Blocking.
    pub(in crate::store) fn is_damaged(&self, repo: &RepoName, digest: &Digest) -> Result<bool, StoreError> {
        if !self.contents.damage.has(digest) {
            return Ok(false);
        }
        Ok(!self.mend(repo, Membership::Manifest, digest)?)
    }

    /// Makes a repository's name lead to whole content, if it leads to a damaged one and there is whole content. Says
    /// whether it does now. Blocking; not to be called with a lock held.
    pub(in crate::store) fn mend(
        &self,
        repo: &RepoName,
        kind: Membership,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        if !self.contents.damage.has(digest) {
            return Ok(false);
        }
        let name = self.contents.layout.member(repo, kind, digest);
        match kind {
            Membership::Blob => self.contents.relink(&name, digest),
            Membership::Manifest => {
                let _locked = self.locks.lock(repo);
                let change = self.listings.begin(repo)?;
                let mended = self.contents.relink(&name, digest)?;
                // A list that was built while it was damaged lacks it.
                if mended && let Some(stored) = self.read_manifest(repo, *digest)? {
                    change.put_manifest(&stored);
                }
                change.done();
                Ok(mended)
            }
        }
    }
}
