//! The files of tags: where each points, and when that was last found to be true. All of it blocks.

use std::fs::File;

use crate::clock::Timestamp;
use crate::fs::{is_absence, set_modified, stat};
use crate::oci::{Digest, RepoName, Tag};
use crate::store::contents::files::Contents;
use crate::store::error::StoreError;
use crate::store::layout::Layout;
use crate::telemetry::DamageCause;

/// A tag and when it was last known to be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifiedTag {
    /// The digest that it points at.
    pub digest: Digest,
    /// When the upstream said so.
    pub verified: Timestamp,
}

/// The digest that a tag points at; `None` if there is no such tag.
pub(in crate::store) fn read_tag(layout: &Layout, repo: &RepoName, tag: &Tag) -> Result<Option<Digest>, StoreError> {
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

/// The digest that a tag points at, and since when that is known. A file that can't be read says nothing: the tag is asked
/// for again.
pub(in crate::store) fn verified_tag(
    contents: &Contents,
    repo: &RepoName,
    tag: &Tag,
) -> Result<Option<VerifiedTag>, StoreError> {
    read_verified_tag(&contents.layout, repo, tag)
        .or_else(|error| contents.damage.overlook(DamageCause::Tag, error).map(|()| None))
}

fn read_verified_tag(layout: &Layout, repo: &RepoName, tag: &Tag) -> Result<Option<VerifiedTag>, StoreError> {
    let Some(digest) = read_tag(layout, repo, tag)? else { return Ok(None) };
    let path = layout.tag(repo, tag);
    match stat(&path)? {
        Some(facts) => {
            let verified = facts.modified().map_err(StoreError::io("stat", &path))?.into();
            Ok(Some(VerifiedTag { digest, verified }))
        }
        None => Ok(None),
    }
}

/// Notes that the tag was found to be true. A crash may lose it: the tag is then asked for once more.
pub(in crate::store) fn verify_tag(
    layout: &Layout,
    repo: &RepoName,
    tag: &Tag,
    now: Timestamp,
) -> Result<(), StoreError> {
    let path = layout.tag(repo, tag);
    match File::open(&path) {
        Ok(file) => set_modified(&file, now).map_err(StoreError::io("set the time of", &path)),
        Err(error) if is_absence(&error) => Ok(()),
        Err(error) => Err(StoreError::io("open", &path)(error)),
    }
}
