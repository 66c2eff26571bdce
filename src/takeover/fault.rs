//! What is wrong with an image of the source, so that it stays behind, and with the source as a whole.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::bundle::BundleError;
use crate::fs::Folder;
use crate::oci::{Digest, InvalidManifest};
use crate::values::Release;

/// Why an image, or a repository, stays behind. Displayed: a sentence without its end.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("its name is none that a registry can have: {0}")]
    Name(String),
    #[error("it leads to nothing: {0}")]
    Dangling(String),
    #[error("manifest {0} is not there")]
    ManifestMissing(Digest),
    #[error("manifest {0} was deleted")]
    ManifestDeleted(Digest),
    #[error("the bytes of manifest {0} are not those of its digest")]
    ManifestBytes(Digest),
    #[error("manifest {digest} has {bytes} bytes, more than are taken ({most})")]
    TooLarge { digest: Digest, bytes: u64, most: u64 },
    #[error("manifest {digest}: {cause}")]
    Invalid { digest: Digest, cause: InvalidManifest },
    #[error("blob {0} is not there")]
    BlobMissing(Digest),
    #[error("the bytes of blob {expected} are not those of its digest, but of {found}")]
    BlobBytes { expected: Digest, found: Box<Digest> },
    #[error("blob {digest} has {found} bytes, where the manifest says {expected}")]
    BlobLength { digest: Digest, expected: u64, found: u64 },
    #[error("{what} can't be read: {error}")]
    Unreadable { what: String, error: Arc<io::Error> },
    #[error("{0}")]
    Registry(String),
    #[error("its child {child} stays behind: {cause}")]
    Child { child: Digest, cause: Arc<Self> },
    #[error("manifest {0} is in more indexes within one another than are gone into")]
    TooDeep(Digest),
    #[error("the store has it with {0}, and it was not to be overwritten")]
    OtherDigest(Digest),
    #[error(
        "the store has it with release {found}, and a channel is not moved back to {wanted} unless that is asked for"
    )]
    OlderRelease { found: Release, wanted: Release },
    #[error("nothing of {0} is in the store")]
    Undiscovered(String),
    #[error("it has more than a server looks at while it answers requests: stop the server and run this on its store")]
    TooMuch,
    #[error("its manifest {0} was deleted from the store while it came")]
    DeletedMeanwhile(Digest),
    #[error("others move it again and again: run this once more")]
    MovedMeanwhile,
}

impl Fault {
    pub(super) fn unreadable(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Unreadable { what, error: Arc::new(error) }
    }
}

/// The source as a whole can't be read. Displayed: a sentence.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It has another shape.
    #[error("{} is not {wanted}: {reason}", path.display())]
    Shape {
        /// What was named.
        path: PathBuf,
        /// What it was to be.
        wanted: &'static str,
        /// What is missing.
        reason: String,
    },
    /// A directory or file of it can't be read.
    #[error("{} can't be read by user {user}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Who tried.
        user: u32,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It has more of something than a registry has.
    #[error("{} has more than {most} entries", path.display())]
    TooMany {
        /// Which directory.
        path: PathBuf,
        /// The bound.
        most: usize,
    },
    /// The files of a bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The registry was not reached, or refused; a sentence.
    #[error("{0}")]
    Registry(String),
}

impl SourceError {
    pub(super) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, user: rustix::process::geteuid().as_raw(), source }
    }
}

/// The names in a directory of the source.
pub(super) fn names(folder: &Folder) -> Result<Vec<String>, SourceError> {
    folder.names().map_err(SourceError::read(folder.path()))
}
