//! Answers of the store.

use std::sync::Arc;

use bytes::Bytes;

use super::Blob;
use crate::oci::{Digest, Manifest};

/// A blob as it is read.
#[derive(Debug)]
pub enum StoredContent {
    /// A small one (image configurations): to open its file for every reader costs more than to keep its bytes.
    Memory(Bytes),
    /// Any other.
    File(Blob),
}

/// A manifest as stored.
#[derive(Clone, Debug)]
pub struct StoredManifest {
    /// Digest of the bytes.
    pub digest: Digest,
    /// The bytes as they were pushed.
    pub bytes: Bytes,
    /// The bytes, parsed.
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
