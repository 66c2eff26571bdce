//! Blobs, manifests and tags that come from elsewhere, many in one go: what a push does for one, with the same marks for
//! memory, index and collection. All of it blocks.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use fail::fail_point;

use super::manifests::Manifests;
use super::tags::read_tag;
use crate::clock::Timestamp;
use crate::fs::{set_modified, stat};
use crate::oci::{Digest, Manifest, Reference, RepoName, Tag};
use crate::store::contents::intake::Taken;
use crate::store::error::StoreError;
use crate::store::layout::Membership;
use crate::store::stored::StoredManifest;

/// A tag that is to be moved.
#[derive(Clone, Debug)]
pub struct TagMove {
    /// Which.
    pub tag: Tag,
    /// The manifest that it is to lead to.
    pub digest: Digest,
    /// The time since when it leads there elsewhere, if that is known.
    pub at: Option<Timestamp>,
    /// Whence.
    pub from: MovedFrom,
}

/// What a tag has to lead to, so that it is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MovedFrom {
    /// Anything, or nothing.
    Anywhere,
    /// This manifest; `None`: it must not be there.
    Only(Option<Digest>),
}

/// Why a tag was not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotMoved {
    /// The repository lacks the manifest: it was deleted since it came.
    ManifestGone,
    /// It leads elsewhere than it was to be moved from: somebody else moved it.
    MovedMeanwhile,
}

impl Manifests {
    /// Makes contents blobs of a repository, durably. Answers the digests that no content was found of.
    pub(in crate::store) fn take_in_blobs(
        &self,
        repo: &RepoName,
        batch: Vec<(Digest, Taken<'_>)>,
    ) -> Result<Vec<Digest>, StoreError> {
        let _touch = self.ledger.touch(repo)?;
        let _adding = self.memory.adding(repo);
        let named = batch.into_iter().map(|(digest, taken)| {
            self.save(repo, &digest);
            (taken, self.contents.layout.member(repo, Membership::Blob, &digest))
        });
        self.contents.take_in(named.collect())
    }

    /// Stores manifests in a repository, durably; no tag moves.
    pub(in crate::store) fn take_in_manifests(
        &self,
        repo: &RepoName,
        manifests: &[StoredManifest],
    ) -> Result<(), StoreError> {
        let _touch = self.ledger.touch(repo)?;
        let mut batch = Vec::with_capacity(manifests.len());
        // As a push: neither these nor what they name is given up any more.
        let named = manifests.iter().flat_map(|stored| {
            let Manifest { layers, manifests, subject, .. } = &*stored.manifest;
            let named = layers.iter().chain(manifests).chain(subject).map(|descriptor| descriptor.digest);
            named.chain([stored.digest])
        });
        self.ledger.given_up.take_off(&self.contents.disk, repo, named)?;
        for stored in manifests {
            self.save(repo, &stored.digest);
            self.save_named(repo, &stored.manifest);
            let staged = self.contents.stage_bytes(stored.digest, &stored.bytes)?;
            let name = self.contents.layout.member(repo, Membership::Manifest, &stored.digest);
            batch.push((Taken::Staged(staged), name));
        }
        let locked = self.locks.lock(repo);
        self.read_records(repo, &locked);
        let change = self.listings.begin(repo)?;
        let writing = (self.memory.changing(repo), self.memory.adding(repo));
        let taken = self.contents.take_in(batch);
        if taken.is_ok() {
            for stored in manifests {
                change.put_manifest(stored);
                self.contents.damage.learn(&stored.manifest);
            }
        }
        // Of several that did not all come those count that did.
        let mut came = Vec::with_capacity(manifests.len());
        for StoredManifest { digest, .. } in manifests {
            if taken.is_ok() || self.has_manifest(repo, digest).unwrap_or_default() {
                came.push((Reference::Digest(*digest), *digest));
            }
        }
        let said = self.say_there(repo, &came, &[], &locked);
        drop(writing);
        taken.map(|_| change.done()).and(said)
    }

    /// Moves tags of a repository, durably, to manifests that it has. `at`: when the tag was moved there elsewhere, which
    /// its file's time says from now on. Answers the tags that were not moved: because the repository lacks their manifest, which
    /// may have been deleted since it came, or because the tag leads elsewhere than it was to be moved from.
    pub(in crate::store) fn take_in_tags(
        &self,
        repo: &RepoName,
        tags: &[TagMove],
    ) -> Result<Vec<(Tag, NotMoved)>, StoreError> {
        let contents = &self.contents;
        let _touch = self.ledger.touch(repo)?;
        let mut files = Vec::with_capacity(tags.len());
        for TagMove { tag, digest, at, from } in tags {
            self.save(repo, digest);
            let path = contents.layout.temporary();
            let (temporary, file) = contents.disk.write_unsynced(path, format!("{digest}\n").as_bytes())?;
            files.push(((tag, digest, from), temporary, (file, *at)));
        }
        let folder: PathBuf = contents.layout.tags(repo);
        contents.sync_everything(files.iter().map(|(.., (file, _))| (file, folder.as_path())), [])?;
        contents.disk.make_directory(&folder)?;
        let locked = self.locks.lock(repo);
        self.read_records(repo, &locked);
        let change = self.listings.begin(repo)?;
        let writing = self.memory.changing(repo);
        let (mut left, mut moved, mut times) = (Vec::new(), Vec::new(), Vec::new());
        let move_all = || -> Result<(), StoreError> {
            for ((tag, digest, from), temporary, (file, at)) in files {
                // A delete takes this lock too: from here on the manifest stays until the tag is there.
                if !self.has_manifest(repo, digest)? {
                    left.push((tag.clone(), NotMoved::ManifestGone));
                    continue;
                }
                // Pushes move tags under this lock too, so what is read here is what is replaced.
                if let MovedFrom::Only(expected) = from
                    && read_tag(&contents.layout, repo, tag)? != *expected
                {
                    left.push((tag.clone(), NotMoved::MovedMeanwhile));
                    continue;
                }
                fail_point!("store::tag::before_rename");
                contents.disk.rename(temporary, &contents.layout.tag(repo, tag))?;
                fail_point!("store::tag::after_rename");
                change.put_tag(tag);
                moved.push((Reference::Tag(tag.clone()), *digest));
                times.extend(at.map(|at| (tag, file, at)));
            }
            Ok(contents.disk.sync_directory(&folder)?)
        };
        let in_place = move_all();
        // What was moved counts, also where not all was.
        let said = self.say_there(repo, &moved, &[], &locked);
        drop(writing);
        in_place?;
        change.done();
        said?;
        // Behind that: a tag that was not said is as old as its file.
        for (tag, file, at) in times {
            set_modified(&file, at).map_err(StoreError::io("set the time of", &contents.layout.tag(repo, tag)))?;
        }
        Ok(left)
    }

    /// Whether the repository has the blob, and not as a damaged one.
    pub(in crate::store) fn has_blob(&self, repo: &RepoName, digest: &Digest) -> Result<bool, StoreError> {
        self.has_member(repo, Membership::Blob, digest)
    }

    /// Whether the repository has the manifest, and not as a damaged one.
    pub(in crate::store) fn has_manifest(&self, repo: &RepoName, digest: &Digest) -> Result<bool, StoreError> {
        self.has_member(repo, Membership::Manifest, digest)
    }

    fn has_member(&self, repo: &RepoName, kind: Membership, digest: &Digest) -> Result<bool, StoreError> {
        let found = stat(&self.contents.layout.member(repo, kind, digest))?.filter(|found| {
            // A name that is its file's only one is of a store that something else was done to.
            found.is_file() && found.nlink() > 1 && !self.contents.damage.is_listed(digest, found.ino())
        });
        Ok(found.is_some())
    }
}
