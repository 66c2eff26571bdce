//! What a run came to.

use serde::{Deserialize, Serialize};

/// Most images that are named; of those beyond, the number.
const MOST_NAMED: usize = 10_000;

/// About what a report takes, with the answer in which it is sent.
pub(super) const REPORT_BYTES: usize = MOST_NAMED * 512;

/// What a run came to, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Repositories that something was taken of, or is there of.
    pub repositories: u64,
    /// Tags.
    pub tags: Tally,
    /// Manifests, tagged or not.
    pub manifests: Tally,
    /// Blobs, counted once for each repository.
    pub blobs: Tally,
    /// Of these, blobs that a registry that was pushed to took from another of its repositories.
    #[serde(default)]
    pub mounted: u64,
    /// Bytes of blobs that came.
    pub bytes: u64,
    /// Of these, bytes that share the source's place on the disk (reflinks).
    pub shared_bytes: u64,
    /// Of these, bytes that were moved.
    pub moved_bytes: u64,
    /// Uploads that were not finished; they stay behind.
    pub unfinished_uploads: u64,
    /// Manifests that were deleted in the source.
    pub deleted_manifests: u64,
    /// What stays behind, and why.
    pub left: Vec<Left>,
    /// How much more of that there is.
    pub more_left: u64,
}

/// How many of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Came, or would.
    pub taken: u64,
    /// Were there.
    pub present: u64,
    /// Stay behind.
    pub left: u64,
}

/// An image, or repository, that stays behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// `repository:tag`, `repository@digest`, or a repository, as the source calls it.
    pub image: String,
    /// A sentence without its end.
    pub reason: String,
}

impl Report {
    /// Whether every tag of the source is in the store now.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.tags.left == 0
    }

    pub(super) fn leave(&mut self, image: String, reason: &dyn std::fmt::Display) {
        if self.left.len() < MOST_NAMED {
            self.left.push(Left { image, reason: reason.to_string() });
        } else {
            self.more_left += 1;
        }
    }
}
