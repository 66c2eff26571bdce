//! Modes: each gives every registry operation its meaning.
//!
//! The set of modes is closed by the product, so it is an enum with an exhaustive `match` per operation: a new
//! operation makes the compiler ask for every mode's answer. Writes go through [`Mode::writable`], which a mode
//! without pushes refuses in one place. `mapping` turns clients' names into the upstream's and the store's. `transition` is
//! which modes a request sees while a cluster changes from one to another.

mod answer;
mod bundled;
mod direct;
mod listing;
mod lists;
mod local;
mod mapping;
mod proxy;
mod relay;
mod transition;

use std::time::Duration;

use bytes::Bytes;

pub use answer::{
    BlobContent, BlobRequest, FileParts, Provenance, Served, ServedBlob, ServedManifest, ServedManifestFacts,
};
pub use bundled::Bundled;
pub use direct::Direct;
pub use listing::LATE_LIST_BYTES;
pub use lists::LIST_BYTES_IN_FLIGHT;
pub use local::{BROUGHT_MANIFEST_BYTES, Brought, Closure, Local, ManifestRoom, MissingReferences, Moved};
pub use mapping::Mapping;
pub use proxy::{Proxy, ProxySettings};
pub use transition::{Answer, Audience, Transition, View};

use crate::clock::CLIENT_PATIENCE;
use crate::fetch::FillError;
use crate::oci::{Digest, Reference, RepoName};
use crate::store::{Blob, Page, Referrer, StoreError};
use crate::upstream::UpstreamError;

/// The longest wait for the upstream.
const BUDGET: Duration = CLIENT_PATIENCE;

/// A mode. Cheap to clone; a request keeps those it began with.
#[derive(Clone, Debug)]
pub enum Mode {
    /// No request of a registry is served.
    Unmanaged,
    /// Pass-through.
    Direct(Direct),
    /// Pull-through cache.
    Proxy(Proxy),
    /// Standalone storage.
    Local(Local),
    /// The same from the files of a bundle, read only.
    Bundled(Bundled),
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
        /// The missing contents, at most 100.
        missing: Vec<Digest>,
    },
    /// There is no such repository.
    #[error("repository unknown to the registry")]
    RepositoryUnknown,
    /// It is not there, by the upstream's word of some time ago, or by an answer that may be somebody else's than the
    /// registry's.
    #[error("not found upstream")]
    Absent {
        /// The kind of thing that was asked for.
        what: Absence,
        /// Age of the registry's word; `None`: it is of now, and perhaps another one's.
        age: Option<Duration>,
    },
    /// The name does not lead to the upstream.
    #[error("{alias} and what is below it is served here")]
    NotServed {
        /// The alias that leads there.
        alias: RepoName,
        /// Whether the alias itself does, or only what is below it.
        has_root: bool,
    },
    /// The mode takes no writes.
    #[error("mode {mode} takes no pushes and deletes")]
    ReadOnly {
        /// Its name.
        mode: &'static str,
    },
    /// No request of a registry is served.
    #[error("this cluster's registry is unmanaged: no request is served here")]
    Unmanaged,
    /// The upstream did not give it.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The upstream answered and then gave no byte in time, or too many wait for it.
    #[error("the upstream gave nothing in time")]
    UpstreamTimeout,
    /// The upstream's answers can't be put together.
    #[error("the upstream contradicts itself: {0}")]
    UpstreamContradiction(&'static str),
    /// It is known to be there, it is lost here, and no other master that answers has it.
    #[error("a record says that it is there, and no master that can be reached has it")]
    NotReachable,
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Stopping,
}

/// A kind of thing that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// A manifest or a tag.
    Manifest,
    /// A blob.
    Blob,
    /// A repository, where a list was asked for.
    Repository,
}

impl From<FillError> for ModeError {
    fn from(error: FillError) -> Self {
        match error {
            FillError::Upstream(error) => relay::blob_error(error),
            // The client named a digest that exists; what came under it is the upstream's fault.
            FillError::Store(StoreError::DigestMismatch { .. }) => {
                Self::UpstreamContradiction("the content it gave is not the digest's")
            }
            FillError::Store(error) => error.into(),
            FillError::Contradiction(what) | FillError::Unfit(what) => Self::UpstreamContradiction(what),
            FillError::Unvouched(_) => StoreError::BlobUnknown.into(),
            FillError::Timeout | FillError::Busy => Self::UpstreamTimeout,
            FillError::Stopping => Self::Stopping,
        }
    }
}

impl Mode {
    /// The mode's name as in the configuration.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unmanaged => "Unmanaged",
            Self::Direct(_) => "Direct",
            Self::Proxy(_) => "Proxy",
            Self::Local(_) | Self::Bundled(_) => "Local",
        }
    }

    /// The mode as one server has it, without the other masters: of Local what is in its own store.
    #[must_use]
    pub fn alone(&self) -> Self {
        match self {
            Self::Unmanaged | Self::Direct(_) | Self::Proxy(_) | Self::Bundled(_) => self.clone(),
            Self::Local(local) => Self::Local(local.alone()),
        }
    }

    /// Whether it answers from the store, and so from memory too.
    #[must_use]
    pub const fn stores(&self) -> bool {
        match self {
            Self::Unmanaged | Self::Direct(_) | Self::Bundled(_) => false,
            Self::Proxy(_) | Self::Local(_) => true,
        }
    }

    /// The side of the mode that takes writes.
    ///
    /// # Errors
    /// [`ModeError::ReadOnly`], [`ModeError::Unmanaged`].
    pub const fn writable(&self) -> Result<&Local, ModeError> {
        match self {
            Self::Unmanaged => Err(ModeError::Unmanaged),
            Self::Local(local) => Ok(local),
            Self::Direct(_) | Self::Proxy(_) => Err(ModeError::ReadOnly { mode: self.as_str() }),
            Self::Bundled(_) => Err(ModeError::ReadOnly { mode: "Local from a bundle" }),
        }
    }

    /// A blob of a repository. The bytes that come may be more than was wanted, never less.
    ///
    /// # Errors
    /// [`StoreError::BlobUnknown`], of the disk or of the upstream.
    pub async fn blob(
        &self,
        repo: &RepoName,
        digest: Digest,
        request: BlobRequest,
    ) -> Result<Served<ServedBlob>, ModeError> {
        match self {
            Self::Unmanaged => Err(ModeError::Unmanaged),
            Self::Direct(direct) => direct.blob(repo, &digest, request).await,
            Self::Proxy(proxy) => proxy.blob(repo, digest, request).await,
            Self::Local(local) => local.blob(repo, digest, request).await,
            Self::Bundled(bundled) => bundled.blob(repo, digest, request).await,
        }
    }

    /// The manifest behind a reference.
    ///
    /// # Errors
    /// [`StoreError::ManifestUnknown`], [`ModeError::Incomplete`], of the disk or of the upstream.
    pub async fn manifest(&self, repo: &RepoName, reference: &Reference) -> Result<Served<ServedManifest>, ModeError> {
        match self {
            Self::Unmanaged => Err(ModeError::Unmanaged),
            Self::Direct(direct) => direct.manifest(repo, reference).await,
            Self::Proxy(proxy) => proxy.manifest(repo, reference).await,
            Self::Local(local) => local.manifest(repo, reference).await,
            Self::Bundled(bundled) => bundled.manifest(repo, reference).await,
        }
    }

    /// The facts of the manifest behind a reference, for an answer without a body. Direct asks the upstream for no more.
    ///
    /// # Errors
    /// As [`Mode::manifest`].
    pub async fn manifest_facts(
        &self,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<Served<ServedManifestFacts>, ModeError> {
        match self {
            Self::Unmanaged => Err(ModeError::Unmanaged),
            Self::Direct(direct) => direct.manifest_facts(repo, reference).await,
            Self::Proxy(_) | Self::Local(_) | Self::Bundled(_) => {
                Ok(self.manifest(repo, reference).await?.map(Into::into))
            }
        }
    }

    /// The answer of [`Mode::manifest`], if it is in memory and nobody has to be asked. Waits for nothing.
    #[must_use]
    pub fn manifest_in_memory(&self, repo: &RepoName, reference: &Reference) -> Option<Served<ServedManifest>> {
        match self {
            Self::Unmanaged | Self::Direct(_) | Self::Bundled(_) => None,
            Self::Proxy(proxy) => proxy.manifest_in_memory(repo, reference),
            Self::Local(local) => local.manifest_in_memory(repo, reference),
        }
    }

    /// Notes that somebody gets a manifest, for rules that keep what is pulled. Proxy notes each use by itself. Waits for nothing.
    pub fn note_pull(&self, digest: Digest) {
        match self {
            Self::Unmanaged | Self::Direct(_) | Self::Proxy(_) | Self::Bundled(_) => {}
            Self::Local(local) => local.store().note_use(digest),
        }
    }

    /// The bytes of [`Mode::blob`], if they are in memory and nobody has to be asked. Waits for nothing.
    #[must_use]
    pub fn blob_in_memory(&self, repo: &RepoName, digest: &Digest) -> Option<Served<Bytes>> {
        match self {
            Self::Unmanaged | Self::Direct(_) | Self::Bundled(_) => None,
            Self::Proxy(proxy) => proxy.blob_in_memory(repo, digest),
            Self::Local(local) => local.blob_in_memory(repo, digest),
        }
    }

    /// The file of a manifest that [`Mode::manifest`] gave, if it is stored.
    pub async fn manifest_file(&self, repo: &RepoName, digest: Digest) -> Option<Blob> {
        match self {
            Self::Unmanaged | Self::Direct(_) | Self::Bundled(_) => None,
            Self::Proxy(proxy) => proxy.manifest_file(repo, digest).await,
            Self::Local(local) => local.store().manifest_file(repo, digest).await.ok(),
        }
    }

    /// Fetches a content again that was stored in a repository and counts as absent; ends when it is stored or has failed.
    /// `false`: the mode has nothing under that name, or in Local no other master has it.
    ///
    /// # Errors
    /// As [`Mode::blob`].
    pub async fn fetch_again(&self, repo: &RepoName, digest: Digest, is_manifest: bool) -> Result<bool, ModeError> {
        match self {
            Self::Proxy(proxy) if repo.is_cached() => proxy.fetch_again(repo, digest, is_manifest).await,
            Self::Local(local) if !repo.is_cached() => local.fetch_again(repo, digest, is_manifest).await,
            Self::Unmanaged | Self::Direct(_) | Self::Proxy(_) | Self::Local(_) | Self::Bundled(_) => Ok(false),
        }
    }

    /// Notes that a stored blob could not be read while it was sent. Waits for nothing.
    pub fn note_unreadable(&self, repo: &RepoName, digest: &Digest, blob: &Blob, error: &std::io::Error) {
        match self {
            Self::Unmanaged | Self::Direct(_) => {}
            Self::Bundled(_) => {
                tracing::error!(repository = %repo, %digest, %error, "a file of the bundle can't be read");
            }
            Self::Proxy(proxy) => proxy.note_unreadable(repo, digest, blob, error),
            Self::Local(local) => local.store().note_unreadable(repo, digest, blob, error),
        }
    }

    /// The length of a blob of a repository that is stored, in bytes. Whatever else there is to say of it says
    /// [`Mode::blob`].
    pub async fn stored_length(&self, repo: &RepoName, digest: Digest) -> Option<u64> {
        match self {
            Self::Unmanaged | Self::Direct(_) => None,
            Self::Proxy(proxy) => proxy.stored_length(repo, digest).await,
            Self::Local(local) => local.stored_length(repo, digest).await,
            Self::Bundled(bundled) => bundled.stored_length(repo, &digest),
        }
    }

    /// A page of a repository's tags.
    ///
    /// # Errors
    /// [`ModeError::RepositoryUnknown`], [`StoreError::IndexNotReady`], or of the upstream.
    pub async fn tags(&self, repo: &RepoName, last: Option<&str>, limit: usize) -> Result<Served<Page>, ModeError> {
        match self {
            Self::Unmanaged => Err(ModeError::Unmanaged),
            Self::Direct(direct) => direct.tags(repo, last, limit).await,
            Self::Proxy(proxy) => proxy.tags(repo, last, limit).await,
            Self::Local(local) => local.tags(repo, last, limit).await,
            Self::Bundled(bundled) => bundled.tags(repo, last, limit),
        }
    }

    /// A page of the repositories that something is stored of.
    ///
    /// # Errors
    /// [`StoreError::IndexNotReady`].
    pub async fn repositories(&self, last: Option<&str>, limit: usize) -> Result<Page, ModeError> {
        match self {
            Self::Unmanaged => Err(ModeError::Unmanaged),
            Self::Direct(_) => Ok(Page { entries: Vec::new(), more: false }),
            Self::Proxy(proxy) => proxy.repositories(last, limit).await,
            Self::Local(local) => local.repositories(last, limit).await,
            Self::Bundled(bundled) => Ok(bundled.repositories(last, limit)),
        }
    }

    /// The manifests whose subject is `subject`, in order of digest, after `last`, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::IndexNotReady`], or of the upstream.
    pub async fn referrers(
        &self,
        repo: &RepoName,
        subject: Digest,
        last: Option<Digest>,
        limit: usize,
    ) -> Result<Served<Vec<Referrer>>, ModeError> {
        match self {
            Self::Unmanaged => Err(ModeError::Unmanaged),
            Self::Direct(direct) => direct.referrers(repo, subject, last, limit).await,
            Self::Proxy(proxy) => proxy.referrers(repo, subject, last, limit).await,
            Self::Local(local) => local.referrers(repo, subject, last, limit).await,
            Self::Bundled(bundled) => bundled.referrers(repo, subject, last, limit).await,
        }
    }
}
