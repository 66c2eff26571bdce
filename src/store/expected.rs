//! What is asked about images that have to be there. It changes nothing: no use is noted, and no suspect is taken off its list.

use tokio_util::sync::CancellationToken;

use super::error::StoreError;
use super::face::Store;
use super::repositories::held::{Held, held, held_in};
use super::repositories::tags::read_tag;
use super::repositories::walk::{Repositories, SkippedEntries};
use crate::oci::{Digest, RepoName, Tag};

impl Store {
    /// The repositories at `roots`, in that order, and then those below them, at most `most` of these. Blocking.
    #[must_use]
    pub fn repositories_below(&self, roots: &[RepoName], most: usize) -> Vec<RepoName> {
        let skipped = SkippedEntries::default();
        let is_below = |repo: &RepoName, root: &RepoName| {
            repo.as_str().strip_prefix(root.as_str()).is_some_and(|rest| rest.starts_with('/'))
        };
        let below = Repositories::new(&self.0.contents.layout, &skipped)
            .filter(|repo| !roots.contains(repo) && roots.iter().any(|root| is_below(repo, root)));
        roots.iter().cloned().chain(below.take(most)).collect()
    }

    /// Where a tag of a repository leads, by its file. Blocking.
    ///
    /// # Errors
    /// Of the disk.
    pub fn stored_tag(&self, repo: &RepoName, tag: &Tag) -> Result<Option<Digest>, StoreError> {
        read_tag(&self.0.contents.layout, repo, tag)
    }

    /// Whether a repository has an image down to the last layer of each platform. Blocking.
    ///
    /// # Errors
    /// Of the disk.
    pub fn has_image(&self, repo: &RepoName, image: Digest, stop: &CancellationToken) -> Result<Held, StoreError> {
        held(&self.0.manifests, repo, image, stop)
    }

    /// Whether one of some repositories has an image so; else what the first lacks that has its manifest. Blocking.
    ///
    /// # Errors
    /// Of the disk.
    pub fn has_image_in(
        &self,
        repos: &[RepoName],
        image: Digest,
        stop: &CancellationToken,
    ) -> Result<Held, StoreError> {
        held_in(&self.0.manifests, repos, image, stop)
    }
}
