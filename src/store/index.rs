//! The index: the only file that names sled.

use crate::oci::Digest;

/// What the index is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexState {
    /// Not opened yet.
    Closed,
    /// Being rebuilt; so many objects are through.
    Rebuilding {
        /// Manifests and tags read so far.
        done: u64,
    },
    /// Answers.
    Ready,
}

/// A manifest that names another as its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// Its digest.
    pub digest: Digest,
    /// Its media type, size, artifact type and annotations, as a descriptor in JSON.
    pub descriptor: bytes::Bytes,
    /// Its artifact type.
    pub artifact_type: Option<String>,
}
