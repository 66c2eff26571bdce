//! What snapshots are asked for and answer, and what can go wrong.

use serde::{Deserialize, Serialize};

use crate::fs::FsError;
use crate::oci::RepoName;
use crate::store::error::StoreError;
use crate::store::layout::Membership;
use crate::store::stored::SnapshotName;

/// Contents that are named in a report; the rest is only counted.
const MOST_NAMED: usize = 100;

/// An operation on snapshots failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is no such snapshot.
    #[error("there is no snapshot {0}")]
    Unknown(SnapshotName),
    /// The name is taken.
    #[error("there is a snapshot {0} already: remove it first, or choose another name")]
    Exists(SnapshotName),
    /// As many as may be.
    #[error("there are {0} snapshots, and no more may be: remove one first")]
    TooMany(usize),
    /// It is not what was written; a whole sentence without its end.
    #[error("the snapshot {name} can't be used: {what}")]
    Unfit {
        /// Which one.
        name: SnapshotName,
        /// Why not.
        what: String,
    },
    /// A repository could not be taken at one moment.
    #[error(
        "something was deleted from repository {repository} in each of {attempts} attempts to take it, and what would have been taken \
         may not have been whole: nothing of the snapshot is kept; take it when the deletes are over"
    )]
    Restless {
        /// Which one.
        repository: RepoName,
        /// How often it was tried.
        attempts: usize,
    },
    /// The store was closed meanwhile.
    #[error("the server is ending; what was begun goes on when it is ordered again")]
    Stopped,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<FsError> for SnapshotError {
    fn from(error: FsError) -> Self {
        Self::Store(error.into())
    }
}

/// What a snapshot holds, as its file `snapshot.json` says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotSummary {
    /// Of the form of both files.
    pub version: u32,
    /// When it was begun, in seconds since 1970-01-01T00:00:00Z.
    pub taken: u64,
    /// Repositories in it.
    pub repositories: u64,
    /// Manifests of all repositories.
    pub manifests: u64,
    /// Blobs of all repositories.
    pub blobs: u64,
    /// Tags of all repositories.
    pub tags: u64,
    /// Contents, each counted once.
    pub contents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Contents of repositories that were damaged: they are in the list, and their bytes are not kept.
    pub damaged: u64,
    /// Tags and other entries that could not be read, or led to nothing.
    pub left_out: u64,
    /// Length of the file `list`.
    pub list_bytes: u64,
    /// Its digest.
    pub list_digest: String,
}

/// A snapshot as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedSnapshot {
    /// Its name.
    pub name: String,
    /// What it holds; `None`: it is in making, on its way out, or its summary can't be read.
    #[serde(flatten)]
    pub summary: Option<SnapshotSummary>,
    /// Bytes that its removal would free: of files that nothing else has.
    pub only_here_bytes: u64,
}

/// What came of the removal of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemovedSnapshot {
    /// Links that it had.
    pub links: u64,
    /// Bytes that it alone had.
    pub freed_bytes: u64,
}

/// How a snapshot is restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restoring {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Remove tags that the snapshot does not have.
    pub exact: bool,
}

/// What a restore did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Repositories in the snapshot.
    pub repositories: u64,
    /// Blobs that their repositories have again.
    pub blobs: u64,
    /// Manifests that their repositories have again.
    pub manifests: u64,
    /// Tags that are there again.
    pub tags_added: u64,
    /// Tags that led elsewhere, and lead again to what they did.
    pub tags_moved: u64,
    /// Tags that came after the snapshot and were removed.
    pub tags_removed: u64,
    /// Tags that came after the snapshot and stay.
    pub tags_newer: u64,
    /// Number of contents and tags that could not be restored: no whole file of them is left.
    pub missing: u64,
    /// The first 100 of them.
    pub missing_named: Vec<MissingContent>,
}

/// What could not be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MissingContent {
    /// Whose it was.
    pub repository: String,
    /// `blob`, `manifest` or `tag`.
    pub kind: &'static str,
    /// Its digest, or the tag.
    pub name: String,
}

impl RestoreReport {
    pub(super) fn lacks(&mut self, repository: &dyn ToString, kind: Option<Membership>, name: &dyn ToString) {
        self.missing += 1;
        if self.missing_named.len() < MOST_NAMED {
            let kind = kind.map_or("tag", Membership::word);
            self.missing_named.push(MissingContent {
                repository: repository.to_string(),
                kind,
                name: name.to_string(),
            });
        }
    }
}
