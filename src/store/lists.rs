//! Lists that an upstream once gave whole, kept for when it gives none; and when a tag was last found to be true.
//!
//! A kept list is a file beside what else is known of its repository; its modification time is when the upstream gave
//! it. Neither is part of any index. All of it blocks.

use std::fs::File;

use bytes::Bytes;

use super::{Inner, StoreError};
use crate::clock::Timestamp;
use crate::fs::{is_absence, set_modified, stat};
use crate::oci::{Digest, RepoName, Tag};
use crate::telemetry::DamageCause;

/// Which list of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListKind {
    /// Its tags.
    Tags,
    /// The referrers of a manifest.
    Referrers(Digest),
}

impl ListKind {
    pub(super) fn file_name(self) -> String {
        match self {
            Self::Tags => "tags".into(),
            Self::Referrers(subject) => format!("referrers-{}-{}", subject.algorithm(), subject.hex()),
        }
    }
}

/// A list as the upstream gave it.
#[derive(Clone, Debug)]
pub struct KeptList {
    /// What was kept.
    pub bytes: Bytes,
    /// When it was kept.
    pub kept: Timestamp,
}

/// A tag and when it was last known to be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifiedTag {
    /// What it points at.
    pub digest: Digest,
    /// When the upstream said so.
    pub verified: Timestamp,
}

impl Inner {
    pub(super) fn keep_list(&self, repo: &RepoName, kind: ListKind, bytes: &[u8]) -> Result<(), StoreError> {
        let _charged = self.capacity.charge(bytes.len() as u64)?;
        self.disk.make_directory(&self.layout.lists(repo))?;
        Ok(self.disk.replace(self.layout.temporary(), &self.layout.list(repo, kind), bytes)?)
    }

    /// A list that was kept. One that can't be read is none: it is asked for again.
    pub(super) fn kept_list(&self, repo: &RepoName, kind: ListKind) -> Result<Option<KeptList>, StoreError> {
        self.read_list(repo, kind).or_else(|error| self.damage.overlook(DamageCause::List, error).map(|()| None))
    }

    fn read_list(&self, repo: &RepoName, kind: ListKind) -> Result<Option<KeptList>, StoreError> {
        let path = self.layout.list(repo, kind);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        let facts = std::fs::metadata(&path).map_err(StoreError::io("stat", &path))?;
        let kept = facts.modified().map_err(StoreError::io("stat", &path))?.into();
        if serde_json::from_slice::<Vec<&serde_json::value::RawValue>>(&bytes).is_err() {
            return Err(StoreError::damaged(&path, "the file does not hold a list"));
        }
        Ok(Some(KeptList { bytes: Bytes::from(bytes), kept }))
    }

    pub(super) fn drop_list(&self, repo: &RepoName, kind: ListKind) -> Result<(), StoreError> {
        self.disk.unlink(&self.layout.list(repo, kind))?;
        Ok(())
    }

    /// Where a tag points, and since when that is known. A file that can't be read says nothing: the tag is asked for again.
    pub(super) fn verified_tag(&self, repo: &RepoName, tag: &Tag) -> Result<Option<VerifiedTag>, StoreError> {
        self.read_verified_tag(repo, tag).or_else(|error| self.damage.overlook(DamageCause::Tag, error).map(|()| None))
    }

    fn read_verified_tag(&self, repo: &RepoName, tag: &Tag) -> Result<Option<VerifiedTag>, StoreError> {
        let Some(digest) = super::manifests::read_tag(&self.layout, repo, tag)? else { return Ok(None) };
        let path = self.layout.tag(repo, tag);
        match stat(&path)? {
            Some(facts) => {
                let verified = facts.modified().map_err(StoreError::io("stat", &path))?.into();
                Ok(Some(VerifiedTag { digest, verified }))
            }
            None => Ok(None),
        }
    }

    /// Notes that the tag was found to be true. A crash may lose it: the tag is then asked for once more.
    pub(super) fn verify_tag(&self, repo: &RepoName, tag: &Tag, now: Timestamp) -> Result<(), StoreError> {
        let path = self.layout.tag(repo, tag);
        match File::open(&path) {
            Ok(file) => set_modified(&file, now).map_err(StoreError::io("set the time of", &path)),
            Err(error) if is_absence(&error) => Ok(()),
            Err(error) => Err(StoreError::io("open", &path)(error)),
        }
    }
}
