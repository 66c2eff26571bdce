//! What can go wrong on the disk.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::oci::{Digest, UploadId};

/// Why a write is refused for lack of room. Displayed: what does not fit and what is left, a sentence without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `store.maxBytes` would be exceeded.
    BudgetExhausted {
        /// The budget in bytes.
        budget: u64,
        /// Bytes in use, without what is refused.
        used: u64,
        /// Bytes that were to be written next, as far as they were announced.
        wanted: u64,
    },
    /// The file system would have less than `store.reserveBytes` free.
    ReserveExhausted {
        /// Bytes that have to stay free.
        reserve: u64,
        /// Bytes that are free.
        free: u64,
        /// As in a refusal by the budget; 0 if the system refused a write that was counted already.
        wanted: u64,
    },
}

impl Refusal {
    /// Bytes that would still be taken.
    #[must_use]
    pub const fn left(&self) -> u64 {
        match self {
            Self::BudgetExhausted { budget, used, .. } => budget.saturating_sub(*used),
            Self::ReserveExhausted { reserve, free, .. } => free.saturating_sub(*reserve),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.left();
        match self {
            Self::BudgetExhausted { budget, wanted: 0, .. } => {
                write!(f, "the store's {budget} bytes (store.maxBytes) are used up")
            }
            Self::BudgetExhausted { budget, wanted, .. } => {
                write!(
                    f,
                    "{wanted} bytes more do not fit: {left} are left of the store's {budget} bytes (store.maxBytes)"
                )
            }
            Self::ReserveExhausted { reserve: 0, free, wanted: 0 } => {
                write!(f, "the file system of the store is full: {free} bytes are free")
            }
            Self::ReserveExhausted { reserve, free, wanted: 0 } => write!(
                f,
                "the file system of the store is full: {free} bytes are free, and {reserve} stay free (store.reserveBytes)"
            ),
            Self::ReserveExhausted { reserve, free, wanted } => write!(
                f,
                "{wanted} bytes more do not fit: {left} are left on the file system of the store, which has {free} bytes free, \
                 and {reserve} stay free (store.reserveBytes)"
            ),
        }
    }
}

/// An operation of the store failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The repository has no such blob.
    #[error("blob unknown to the repository")]
    BlobUnknown,
    /// The repository has no such manifest or tag.
    #[error("manifest unknown to the repository")]
    ManifestUnknown,
    /// No such upload in the repository.
    #[error("upload unknown")]
    UploadUnknown,
    /// Another request is writing the upload.
    #[error("upload {0} is being written by another request")]
    UploadBusy(UploadId),
    /// Somebody is filling this content already. Boxed as below.
    #[error("content {0} is being filled already")]
    FillBusy(Box<Digest>),
    /// The content is not what its name says. Boxed, because every result of the store would be so large.
    #[error("the content has digest {actual}, not {expected}")]
    DigestMismatch {
        /// As named by the client.
        expected: Box<Digest>,
        /// As computed.
        actual: Box<Digest>,
    },
    /// No room.
    #[error("no room: {0}")]
    Full(Refusal),
    /// The index is being built; `retry_after` is a guess in seconds.
    #[error("the index is being rebuilt")]
    IndexNotReady {
        /// Seconds after which to ask again.
        retry_after: u64,
    },
    /// The folder can't be used as a store; a whole sentence for the administrator.
    #[error("{0}")]
    Layout(String),
    /// The disk failed.
    #[error("{operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// A fault of ours.
    #[error("internal fault: {0}")]
    Bug(String),
}

impl StoreError {
    /// Wraps what the system said about `operation` on `path`; for `map_err`.
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_path_buf(), source: Arc::new(source) }
    }

    /// The file at `path` is not what the store wrote there.
    pub(crate) fn damaged(path: &Path, what: &'static str) -> Self {
        Self::io("read", path)(io::Error::new(io::ErrorKind::InvalidData, what))
    }

    /// Whether the system said that the disk, or the quota on it, is full.
    pub(crate) fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}
