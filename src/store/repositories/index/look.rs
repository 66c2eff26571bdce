//! Single entries, and all repositories: for who compares the index with the tree.

use super::{Index, IndexError, keys};
use crate::oci::{Digest, RepoName, Tag};
use crate::store::stored::Page;

impl Index {
    /// Whether it knows the tag.
    ///
    /// # Errors
    /// [`IndexError`] of sled.
    pub(crate) fn has_tag(&self, repo: &RepoName, tag: &Tag) -> Result<bool, IndexError> {
        self.has(&keys::joined(&keys::tags_of(repo), tag.as_str().as_bytes()))
    }

    /// Whether it has the repository in the catalog.
    ///
    /// # Errors
    /// [`IndexError`] of sled.
    pub(crate) fn has_repository(&self, repo: &RepoName) -> Result<bool, IndexError> {
        self.has(&keys::repository(repo))
    }

    /// Whether it knows the referrer of the subject.
    ///
    /// # Errors
    /// [`IndexError`] of sled.
    pub(crate) fn has_referrer(&self, repo: &RepoName, subject: Digest, referrer: Digest) -> Result<bool, IndexError> {
        self.has(&keys::referrer(repo, subject, referrer))
    }

    /// All repositories, those learnt from upstreams too, after `last` in byte order, at most `limit`.
    ///
    /// # Errors
    /// [`IndexError`] of sled.
    pub(crate) fn all_repositories(&self, last: Option<&str>, limit: usize) -> Result<Page, IndexError> {
        self.page("repositories", &keys::repositories(), last, limit)
    }

    fn has(&self, key: &[u8]) -> Result<bool, IndexError> {
        self.call("look up", |db| db.contains_key(key))
    }
}
