//! A store's tree read without its lock: beside a running server, or where there is none. What is stored never changes, so
//! whoever reads meets whole contents; what is deleted meanwhile is missing. Changes nothing. All of it blocks.
//!
//! Nothing is known here of the list of damaged contents: whoever hands bytes on has to hash them.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::contents::open::open_content;
use super::error::StoreError;
use super::layout::Layout;
use super::opening;
use super::repositories::tags::read_tag;
use super::repositories::view;
use super::repositories::walk::{Repositories, SkippedEntries, Tags};
use crate::oci::{Digest, RepoName, Tag};

/// Longest manifest that is read.
const MAX_MANIFEST: u64 = 64 << 20;

/// The tree of a store.
#[derive(Debug)]
pub struct StoreView(Layout);

impl StoreView {
    /// The store in `dir`.
    ///
    /// # Errors
    /// [`StoreError::Layout`] with a sentence if `dir` is no store.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let layout = Layout::new(dir);
        opening::recognise(&layout)?;
        Ok(Self(layout))
    }

    /// The repositories, sorted, without those learnt from an upstream.
    #[must_use]
    pub fn repositories(&self) -> Vec<RepoName> {
        let skipped = SkippedEntries::default();
        let found = Repositories::new(&self.0, &skipped).filter(|repo| !repo.is_cached());
        let mut found: Vec<_> = found.collect();
        found.sort();
        found
    }

    /// The tags of a repository, sorted, with their digests.
    ///
    /// # Errors
    /// Of the disk.
    pub fn tags(&self, repo: &RepoName) -> Result<Vec<(Tag, Digest)>, StoreError> {
        let skipped = SkippedEntries::default();
        let mut tags = Vec::new();
        for tag in Tags::new(&self.0, repo, &skipped) {
            // One that is gone since was deleted.
            if let Some(digest) = read_tag(&self.0, repo, &tag)? {
                tags.push((tag, digest));
            }
        }
        tags.sort();
        Ok(tags)
    }

    /// The digest that a tag points at.
    ///
    /// # Errors
    /// Of the disk.
    pub fn tag(&self, repo: &RepoName, tag: &Tag) -> Result<Option<Digest>, StoreError> {
        read_tag(&self.0, repo, tag)
    }

    /// The manifests of a repository, in no order.
    #[must_use]
    pub fn manifests(&self, repo: &RepoName) -> Vec<Digest> {
        view::manifests(&self.0, repo)
    }

    /// The bytes that a repository has as this manifest; `None`: it has none, or one longer than 64 MiB.
    ///
    /// # Errors
    /// Of the disk.
    pub fn manifest(&self, repo: &RepoName, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let path = view::manifest(&self.0, repo, digest);
        let Some(file) = open_content(&path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(MAX_MANIFEST + 1).read_to_end(&mut bytes).map_err(StoreError::io("read", &path))?;
        Ok((bytes.len() as u64 <= MAX_MANIFEST).then_some(bytes))
    }

    /// Opens the file that a repository has as this blob; `None`: it has none.
    ///
    /// # Errors
    /// Of the disk.
    pub fn blob(&self, repo: &RepoName, digest: &Digest) -> Result<Option<File>, StoreError> {
        open_content(&view::blob(&self.0, repo, digest))
    }
}
