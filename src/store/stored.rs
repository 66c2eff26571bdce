//! Manifests and pages as they are read from the store, and the kinds of kept lists.

use std::sync::Arc;

use bytes::Bytes;

use crate::oci::{Digest, Manifest};

/// A manifest as stored.
#[derive(Clone, Debug)]
pub struct StoredManifest {
    /// Digest of the bytes.
    pub digest: Digest,
    /// The bytes as they were pushed.
    pub bytes: Bytes,
    /// Their parsed form.
    pub manifest: Arc<Manifest>,
}

/// One page of a sorted list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The entries, in byte order.
    pub entries: Vec<String>,
    /// Whether more follow.
    pub more: bool,
}

/// Which list of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListKind {
    /// Its tags.
    Tags,
    /// The referrers of a manifest.
    Referrers(Digest),
}

impl ListKind {
    pub(super) fn file_name(self) -> String {
        match self {
            Self::Tags => "tags".into(),
            Self::Referrers(subject) => format!("referrers-{}-{}", subject.algorithm(), subject.hex()),
        }
    }
}
