//! One content, or one tag, of a snapshot is given back to its repository. Durable when the caller has synced the directories.

use std::sync::MutexGuard;

use crate::clock::Timestamp;
use crate::oci::{Digest, RepoName, Tag};
use crate::store::contents::snapshots::Returned;
use crate::store::error::StoreError;
use crate::store::layout::{Membership, SnapshotFolder};
use crate::store::repositories::manifests::Manifests;
use crate::store::repositories::tags::{read_tag, verify_tag};

/// What came of giving a tag back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReturnedTag {
    /// It leads there.
    Was,
    /// It is there again.
    Added,
    /// It led elsewhere.
    Moved,
    /// The manifest that it leads to is not there.
    Missing,
}

impl Manifests {
    /// Gives a blob back; `sound` as [`crate::store::contents::files::Contents::give_back`] says.
    pub(super) fn give_blob_back(
        &self,
        folder: &SnapshotFolder,
        repo: &RepoName,
        (digest, sound): (&Digest, Option<u64>),
    ) -> Result<Returned, StoreError> {
        self.save(repo, digest);
        let _adding = self.memory.adding(repo);
        let member = self.contents.layout.member(repo, Membership::Blob, digest);
        self.contents.give_back(folder, &member, digest, sound)
    }

    /// Gives a manifest back, and tells the index.
    pub(super) fn give_manifest_back(
        &self,
        folder: &SnapshotFolder,
        repo: &RepoName,
        (digest, sound): (&Digest, Option<u64>),
    ) -> Result<Returned, StoreError> {
        self.save(repo, digest);
        let locked = self.lock(repo);
        // Held against the tree as it is before: what comes back is said later than it was deleted, and is no deletion to be ended.
        self.read_records(repo, &locked);
        let change = self.listings.begin(repo)?;
        let writing = (self.memory.changing(repo), self.memory.adding(repo));
        let member = self.contents.layout.member(repo, Membership::Manifest, digest);
        let mut returned = self.contents.give_back(folder, &member, digest, sound)?;
        if returned != Returned::Unread {
            match self.read_manifest(repo, *digest)? {
                Some(stored) => change.put_manifest(&stored),
                None => returned = Returned::Missing,
            }
        }
        drop(writing);
        change.done();
        Ok(returned)
    }

    /// Lets a tag lead again where it did. It is as old as that until [`Self::age_tag`].
    pub(super) fn give_tag_back(&self, repo: &RepoName, tag: &Tag, digest: &Digest) -> Result<ReturnedTag, StoreError> {
        let locked = self.lock(repo);
        self.read_records(repo, &locked);
        let is_there = self.open_manifest(repo, *digest)?.is_some();
        let returned = self.would_give_tag_back(repo, tag, digest, is_there)?;
        match returned {
            ReturnedTag::Was | ReturnedTag::Missing => return Ok(returned),
            ReturnedTag::Added | ReturnedTag::Moved => {}
        }
        let change = self.listings.begin(repo)?;
        let writing = self.memory.changing(repo);
        let (layout, disk) = (&self.contents.layout, &self.contents.disk);
        disk.make_directory(&layout.tags(repo))?;
        let written = disk.write_temporary(layout.temporary(), format!("{digest}\n").as_bytes())?;
        disk.rename(written, &layout.tag(repo, tag))?;
        change.put_tag(tag);
        drop(writing);
        change.done();
        Ok(returned)
    }

    /// Gives a tag that was given back the time that it had, unless it leads elsewhere by now. Behind its record: a tag that was
    /// not said is as old as its file.
    pub(super) fn age_tag(
        &self,
        repo: &RepoName,
        (tag, digest): (&Tag, &Digest),
        time: Timestamp,
        _locked: &MutexGuard<'_, ()>,
    ) -> Result<(), StoreError> {
        match read_tag(&self.contents.layout, repo, tag)? {
            Some(target) if target == *digest => verify_tag(&self.contents.layout, repo, tag, time),
            Some(_) | None => Ok(()),
        }
    }

    /// What [`Self::give_tag_back`] would do. `is_there`: whether the manifest that it leads to is, or would be.
    pub(super) fn would_give_tag_back(
        &self,
        repo: &RepoName,
        tag: &Tag,
        digest: &Digest,
        is_there: bool,
    ) -> Result<ReturnedTag, StoreError> {
        if !is_there {
            return Ok(ReturnedTag::Missing);
        }
        Ok(match read_tag(&self.contents.layout, repo, tag) {
            Ok(Some(target)) if target == *digest => ReturnedTag::Was,
            Ok(None) => ReturnedTag::Added,
            // A damaged file of a tag leads nowhere.
            Ok(Some(_)) | Err(StoreError::Io { .. }) => ReturnedTag::Moved,
            Err(error) => return Err(error),
        })
    }
}
