//! The store for a take-over: blobs, manifests and tags of elsewhere in one go, without a client. All of it blocks, and is to
//! be called inside a tokio runtime, from a thread that may block.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::contents::beside::{Beside, ORDERED_RATE};
use super::contents::fills::PartialBlob;
use super::contents::intake::{Incoming, Moved, Staged, Taken};
use super::error::StoreError;
use super::face::Store;
use super::repositories::intake::{NotMoved, TagMove};
use super::repositories::tags::read_tag;
use super::repositories::walk::{SkippedEntries, Tags};
use super::stored::StoredManifest;
use crate::fs::stat;
use crate::oci::{Digest, RepoName, Tag};

/// Takes in what others stored. Every change runs to its end; the store's closing waits for it.
#[derive(Clone, Copy, Debug)]
pub struct Intake<'a>(&'a Store);

/// Where a content is that a repository is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// In the repository.
    Here,
    /// In the store, in another repository: it needs a name.
    Elsewhere,
    /// Nowhere in the store.
    Absent,
}

impl Store {
    /// The way in for a take-over.
    #[must_use]
    pub const fn intake(&self) -> Intake<'_> {
        Intake(self)
    }
}

impl<'a> Intake<'a> {
    /// The data directory.
    #[must_use]
    pub fn dir(&self) -> &'a Path {
        self.0.0.contents.layout.root()
    }

    /// Where a blob is that the repository is to have. What is stored was verified when it came, and is not hashed again.
    ///
    /// # Errors
    /// Of the disk.
    pub fn find_blob(&self, repo: &RepoName, digest: &Digest) -> Result<Presence, StoreError> {
        let parts = &self.0.0;
        if parts.manifests.has_blob(repo, digest)? {
            return Ok(Presence::Here);
        }
        let found = stat(&parts.contents.layout.content(digest))?;
        // One that no repository has may be going just now.
        let is_sound = found.is_some_and(|found| {
            found.is_file() && found.nlink() > 1 && !parts.contents.damage.is_listed(digest, found.ino())
        });
        Ok(if is_sound { Presence::Elsewhere } else { Presence::Absent })
    }

    /// Whether the repository has the manifest.
    ///
    /// # Errors
    /// Of the disk.
    pub fn has_manifest(&self, repo: &RepoName, digest: &Digest) -> Result<bool, StoreError> {
        self.0.0.manifests.has_manifest(repo, digest)
    }

    /// The digest that a tag points at.
    ///
    /// # Errors
    /// Of the disk, or [`StoreError`] for a tag whose file can't be read.
    pub fn tag(&self, repo: &RepoName, tag: &Tag) -> Result<Option<Digest>, StoreError> {
        read_tag(&self.0.0.contents.layout, repo, tag)
    }

    /// The names of the repository's tags, in no order.
    #[must_use]
    pub fn tags(&self, repo: &RepoName) -> Vec<Tag> {
        Tags::new(&self.0.0.contents.layout, repo, &SkippedEntries::default()).collect()
    }

    /// Reads the source's files; with `is_served` beside who answers requests: at no more than 64 MiB a second, and the disk has
    /// as much time for others.
    #[must_use]
    pub fn reading(&self, is_served: bool) -> Beside<'a> {
        Beside::new(&self.0.0.contents, is_served.then_some(ORDERED_RATE))
    }

    /// Begins a content of about `size` bytes.
    ///
    /// # Errors
    /// [`StoreError::Full`], or of the disk.
    pub fn begin(&self, digest: Digest, size: u64) -> Result<Incoming<'a>, StoreError> {
        let contents = &self.0.0.contents;
        contents.change_here(|| contents.begin_incoming(digest, size))
    }

    /// Takes up what an earlier run got of a content, or begins it; read and hashed. It stays when it is dropped, and goes when
    /// nobody went on with it for as long as with an upload.
    ///
    /// # Errors
    /// [`StoreError::FillBusy`], or of the disk.
    pub fn begin_large(&self, digest: Digest) -> Result<PartialBlob, StoreError> {
        Handle::current().block_on(self.0.begin_fill(digest))
    }

    /// Makes a content that came whole, and was verified, a blob of a repository; durable when it answers.
    ///
    /// # Errors
    /// Of the disk; what came is gone then.
    pub fn finish_large(&self, repo: &RepoName, whole: PartialBlob) -> Result<(), StoreError> {
        Handle::current().block_on(self.0.commit_fill(whole, vec![repo.clone()], &CancellationToken::new()))
    }

    /// Moves the file at `path`, open as `file`, out of a tree that is given up. The caller has hashed what `file` has, and
    /// it is the digest's.
    ///
    /// # Errors
    /// [`StoreError::Full`], or of the disk.
    pub fn move_in(&self, path: &Path, file: &File, digest: Digest) -> Result<Moved<'a>, StoreError> {
        let contents = &self.0.0.contents;
        contents.change_here(|| contents.move_in(path, file, digest))
    }

    /// What an earlier take-over moved in and did not come to name.
    ///
    /// # Errors
    /// [`StoreError::Full`], or of the disk.
    pub fn moved_before(&self, digest: Digest) -> Result<Option<Staged<'a>>, StoreError> {
        self.0.0.contents.moved_before(digest)
    }

    /// Makes contents blobs of a repository; durable when it answers. The answer: those that no content was found of.
    ///
    /// # Errors
    /// Of the disk.
    pub fn add_blobs(&self, repo: &RepoName, batch: Vec<(Digest, Taken<'a>)>) -> Result<Vec<Digest>, StoreError> {
        let parts = &self.0.0;
        parts.contents.change_here(|| parts.manifests.take_in_blobs(repo, batch))
    }

    /// Stores manifests in a repository; durable when it answers.
    ///
    /// # Errors
    /// [`StoreError::Full`], or of the disk.
    pub fn add_manifests(&self, repo: &RepoName, manifests: &[StoredManifest]) -> Result<(), StoreError> {
        let parts = &self.0.0;
        parts.contents.change_here(|| parts.manifests.take_in_manifests(repo, manifests))
    }

    /// Moves tags to manifests that the repository has; durable when it answers. Each tag is held against what it is moved from
    /// under the lock that pushes take. The answer: tags that were not moved, and why.
    ///
    /// # Errors
    /// Of the disk.
    pub fn set_tags(&self, repo: &RepoName, tags: &[TagMove]) -> Result<Vec<(Tag, NotMoved)>, StoreError> {
        let parts = &self.0.0;
        parts.contents.change_here(|| parts.manifests.take_in_tags(repo, tags))
    }

    /// Lets go of what an earlier take-over moved in and has names; says how many files of one wait for the next.
    ///
    /// # Errors
    /// Of the disk.
    pub fn tidy(&self) -> Result<u64, StoreError> {
        self.0.0.contents.drop_moved()
    }
}
