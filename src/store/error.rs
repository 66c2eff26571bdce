//! Errors of the disk, and refusals for lack of room.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fs::FsError;
use crate::oci::{Digest, UploadId};

/// A reason why nothing can be written, lack of room mostly. Stored content is read all the same. Displayed: what does not fit
/// and what is left, a sentence without its end.
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
    /// The file system would have less than `store.reserveBytes` free, or is full.
    ReserveExhausted {
        /// Bytes that have to stay free.
        reserve: u64,
        /// Bytes that are free.
        free: u64,
        /// As in a refusal by the budget; 0 if the system refused a write that was counted already.
        wanted: u64,
    },
    /// The file system has bytes free and takes no further file (`ENOSPC` without a free inode).
    InodesExhausted {
        /// Bytes that are free.
        free: u64,
    },
    /// A quota on the file system is used up (`EDQUOT`).
    QuotaExhausted,
    /// The system takes no file of that length (`EFBIG`): the process's limit (`RLIMIT_FSIZE`) or the file system's own.
    FileTooLong,
    /// The file system is read-only (`EROFS`).
    ReadOnly,
}

impl Refusal {
    /// Its name, for answers and the status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BudgetExhausted { .. } => "BudgetExhausted",
            Self::ReserveExhausted { .. } => "ReserveExhausted",
            Self::InodesExhausted { .. } => "InodesExhausted",
            Self::QuotaExhausted => "QuotaExhausted",
            Self::FileTooLong => "FileTooLong",
            Self::ReadOnly => "ReadOnly",
        }
    }

    /// Bytes that would still be taken.
    #[must_use]
    pub const fn left(&self) -> u64 {
        match self {
            Self::BudgetExhausted { budget, used, .. } => budget.saturating_sub(*used),
            Self::ReserveExhausted { reserve, free, .. } => free.saturating_sub(*reserve),
            Self::InodesExhausted { .. } | Self::QuotaExhausted | Self::FileTooLong | Self::ReadOnly => 0,
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
            Self::InodesExhausted { free } => write!(
                f,
                "the file system of the store has no inode free for a further file, although {free} bytes are free"
            ),
            Self::QuotaExhausted => f.write_str("the quota on the file system of the store is used up"),
            Self::FileTooLong => f.write_str(
                "the system takes no file of that length: see the limit on file sizes (RLIMIT_FSIZE) of the registry's process",
            ),
            Self::ReadOnly => f.write_str("the file system of the store is read-only"),
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
    /// As many uploads are open as may be ([`super::MOST_UPLOADS`]).
    #[error("too many uploads are open")]
    TooManyUploads,
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
    /// Nothing can be written, for want of room mostly.
    #[error("nothing can be stored: {0}")]
    Full(Refusal),
    /// The index is being built; `retry_after` is a guess in seconds.
    #[error("the index is being rebuilt")]
    IndexNotReady {
        /// Seconds after which to ask again.
        retry_after: u64,
    },
    /// Another process has the store at this path.
    #[error("another d8-registry is using {}", .0.display())]
    InUse(PathBuf),
    /// The folder can't be used as a store; a whole sentence for the administrator.
    #[error("{0}")]
    Layout(String),
    /// The process, or the system, has no file descriptor left (`EMFILE`, `ENFILE`). The disk is not at fault.
    #[error("no file descriptor is left to {operation} {path}")]
    Descriptors {
        /// The operation that was tried.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: Arc<io::Error>,
    },
    /// The disk failed.
    #[error("{operation} {path}")]
    Io {
        /// The operation that was tried.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
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
        let wrap = FsError::on(operation, path);
        move |source| wrap(source).into()
    }

    /// The file at `path` is not what the store wrote there.
    pub(crate) fn damaged(path: &Path, what: &'static str) -> Self {
        Self::io("read", path)(io::Error::new(io::ErrorKind::InvalidData, what))
    }

    /// The system's reason for writing nothing, if that is the error; see [`super::contents::capacity::Capacity::explain`].
    pub(super) fn unwritable(&self) -> Option<Unwritable> {
        let Self::Io { source, .. } = self else { return None };
        match source.kind() {
            io::ErrorKind::StorageFull => Some(Unwritable::Full),
            io::ErrorKind::QuotaExceeded => Some(Unwritable::Quota),
            io::ErrorKind::FileTooLarge => Some(Unwritable::TooLong),
            io::ErrorKind::ReadOnlyFilesystem => Some(Unwritable::ReadOnly),
            _ => None,
        }
    }

    /// Whether there was no room.
    pub(super) fn is_full(&self) -> bool {
        matches!(self.unwritable(), Some(Unwritable::Full | Unwritable::Quota))
    }

    /// Whether the file system is read-only.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self, Self::Full(Refusal::ReadOnly)) || self.unwritable() == Some(Unwritable::ReadOnly)
    }
}

impl From<FsError> for StoreError {
    fn from(FsError { operation, path, source }: FsError) -> Self {
        if is_out_of_descriptors(&source) {
            Self::Descriptors { operation, path, source }
        } else {
            Self::Io { operation, path, source }
        }
    }
}

/// Why the system writes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwritable {
    /// `ENOSPC`.
    Full,
    /// `EDQUOT`.
    Quota,
    /// `EFBIG`.
    TooLong,
    /// `EROFS`.
    ReadOnly,
}

/// Whether the process (`EMFILE`) or the system (`ENFILE`) has no file descriptor left.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(errno, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}
