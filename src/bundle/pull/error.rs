//! Why a bundle can't be made.

use std::path::PathBuf;

use crate::bundle::BundleError;
use crate::fs::FsError;
use crate::oci::Digest;
use crate::release::{InvalidImages, StoredImageError};
use crate::upstream::{BlobFault, UpstreamError};

/// A bundle can't be made. What was fetched stays in the working directory, and another run goes on with it. Displayed: a sentence
/// without its end.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry did not give it, and did not say that it is not there.
    #[error("{what} can't be had")]
    Registry {
        /// An image, or a list.
        what: String,
        /// Why.
        #[source]
        error: UpstreamError,
    },
    /// The registry says that something is not there that has to be.
    #[error("the source does not have {0}")]
    Absent(String),
    /// An image that no bundle can hold.
    #[error("{image} can't be used: {why}")]
    Unusable {
        /// Which.
        image: String,
        /// A sentence without its end.
        why: String,
    },
    /// A file in an image.
    #[error("{file} of {image} can't be read")]
    File {
        /// Its path.
        file: String,
        /// The image.
        image: String,
        /// Why.
        #[source]
        error: Box<StoredImageError>,
    },
    /// The list of a release's images.
    #[error("the list of images in {image} can't be used")]
    List {
        /// The image.
        image: String,
        /// Why.
        #[source]
        error: InvalidImages,
    },
    /// A content did not come, or other bytes.
    #[error("blob {digest} of {image} can't be had")]
    Blob {
        /// Which.
        digest: Digest,
        /// A repository that has it.
        image: String,
        /// Why.
        #[source]
        error: Box<BlobFault>,
    },
    /// What is wanted can't be so; a sentence without its end.
    #[error("{0}")]
    Choice(String),
    /// The directory has archives of another choice.
    #[error("{} has {names} already, with other contents: name another directory, or have it replaced (--force)", dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// The archives.
        names: String,
    },
    /// Another run works there.
    #[error("another pull works in {}", .0.display())]
    Busy(PathBuf),
    /// The disk is too small.
    #[error("it takes {needed} bytes, and the disk of {} has {free} free", dir.display())]
    Room {
        /// The directory.
        dir: PathBuf,
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
    },
    /// More than is kept in memory.
    #[error("it is more than {0} bytes of manifests: take fewer releases or modules at once")]
    TooMuch(usize),
    /// A content that was fetched has other bytes now.
    #[error("the disk gives other bytes of {0} than were written")]
    Disk(Digest),
    /// A file.
    #[error(transparent)]
    Files(#[from] FsError),
    /// The files that are there.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

impl PullError {
    pub(super) fn unusable(image: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unusable { image: image.into(), why: why.into() }
    }
}
