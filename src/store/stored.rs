//! What is read from the store.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;

use crate::oci::{Digest, Manifest};

/// An open, immutable piece of content that belongs to the repository it was asked under.
///
/// It can be read to its end even if it is deleted meanwhile: the descriptor keeps the bytes.
#[derive(Debug)]
pub struct StoredBlob {
    /// The file, open for reading.
    pub file: File,
    /// Its length in bytes.
    pub size: u64,
    /// Its digest.
    pub digest: Digest,
}

/// A blob as it is read.
#[derive(Debug)]
pub enum StoredContent {
    /// A small one: configurations are read by every node, and an open file for each costs more than its bytes.
    Memory(Bytes),
    /// Any other.
    File(StoredBlob),
}

/// A manifest as stored.
#[derive(Clone, Debug)]
pub struct StoredManifest {
    /// Digest of the bytes.
    pub digest: Digest,
    /// The bytes as they were pushed.
    pub bytes: Bytes,
    /// What they say.
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
