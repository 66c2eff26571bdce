//! What a registry operation means in the configured mode.
//!
//! The set of modes is closed by the product, so it is an enum with an exhaustive `match` per operation: a new
//! operation makes the compiler ask for every mode's answer. Writes go through [`Mode::writable`], which a mode
//! without pushes refuses in one place.

mod local;

pub use local::{Local, MissingReferences};

use crate::oci::{Digest, Reference, RepoName};
use crate::store::{Page, Referrer, StoreError, StoredBlob, StoredManifest};

/// The mode in force. Cheap to clone; a request keeps the one it began with.
#[derive(Clone, Debug)]
pub enum Mode {
    /// Standalone storage.
    Local(Local),
}

/// Why a read or a write did not happen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ModeError {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The manifest is stored, but what it references is not all there; it is not answered until it is.
    #[error("the manifest references content that the repository lacks")]
    Incomplete {
        /// What is missing, at most 100 digests.
        missing: Vec<Digest>,
    },
}

impl Mode {
    /// The mode's name as in the configuration.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Local(_) => "Local",
        }
    }

    /// The side of the mode that takes writes.
    #[must_use]
    pub const fn writable(&self) -> &Local {
        match self {
            Self::Local(local) => local,
        }
    }

    /// Opens a blob of a repository.
    ///
    /// # Errors
    /// [`StoreError::BlobUnknown`], or of the disk.
    pub async fn blob(&self, repo: &RepoName, digest: Digest) -> Result<StoredBlob, ModeError> {
        match self {
            Self::Local(local) => local.blob(repo, digest).await,
        }
    }

    /// The manifest behind a reference.
    ///
    /// # Errors
    /// [`StoreError::ManifestUnknown`], [`ModeError::Incomplete`], or of the disk.
    pub async fn manifest(&self, repo: &RepoName, reference: &Reference) -> Result<StoredManifest, ModeError> {
        match self {
            Self::Local(local) => local.manifest(repo, reference).await,
        }
    }

    /// Whether the repository holds anything.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn repository_exists(&self, repo: &RepoName) -> Result<bool, ModeError> {
        match self {
            Self::Local(local) => local.repository_exists(repo).await,
        }
    }

    /// A page of a repository's tags.
    ///
    /// # Errors
    /// [`StoreError::IndexNotReady`].
    pub async fn tags(&self, repo: &RepoName, last: Option<&str>, limit: usize) -> Result<Page, ModeError> {
        match self {
            Self::Local(local) => local.tags(repo, last, limit).await,
        }
    }

    /// A page of the repositories.
    ///
    /// # Errors
    /// [`StoreError::IndexNotReady`].
    pub async fn repositories(&self, last: Option<&str>, limit: usize) -> Result<Page, ModeError> {
        match self {
            Self::Local(local) => local.repositories(last, limit).await,
        }
    }

    /// The manifests whose subject is `subject`, in order of digest, after `last`, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::IndexNotReady`].
    pub async fn referrers(
        &self,
        repo: &RepoName,
        subject: Digest,
        last: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<Referrer>, ModeError> {
        match self {
            Self::Local(local) => local.referrers(repo, subject, last, limit).await,
        }
    }
}
