//! Errors of files and directories.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An operation on a file or directory failed. Displayed: what was tried, and on what; the source says why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation} {path}")]
pub struct FsError {
    /// The operation that was tried.
    pub operation: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The system's error.
    #[source]
    pub source: Arc<io::Error>,
}

impl FsError {
    /// Wraps what the system said about `operation` on `path`; for `map_err`.
    pub(crate) fn on(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { operation, path: path.to_path_buf(), source: Arc::new(source) }
    }

    /// Whether the file system is read-only (`EROFS`).
    pub(crate) fn is_read_only(&self) -> bool {
        self.source.kind() == io::ErrorKind::ReadOnlyFilesystem
    }
}
