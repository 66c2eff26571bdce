//! What bodies may take of memory beside the connection's part, for who adds it up.

use super::blobs::LITTLE_BYTES;
use super::body::{BUFFER_BYTES, GATHERED_BYTES, LARGE_CHUNK, TAIL_BYTES};
use super::large::{PUSHED_MANIFEST_BYTES, RELAYED_MANIFEST_BYTES};

/// A stored blob on its way: one read.
pub const BLOB_BODY_BYTES: u64 = BUFFER_BYTES as u64;

/// A blob from the upstream on its way: what was gathered, the chunk behind it, and what waits for the digest.
pub const RELAY_BODY_BYTES: u64 = (GATHERED_BYTES + LARGE_CHUNK) as u64 + TAIL_BYTES;

/// An answer that counts as little: one of a manifest or a small blob.
pub const LITTLE_BODY_BYTES: u64 = LITTLE_BYTES;

/// Large manifests that are pushed, each with its parsed form and the text between, or passed on without being stored.
pub const LARGE_MANIFEST_BYTES: u64 = 3 * PUSHED_MANIFEST_BYTES as u64 + RELAYED_MANIFEST_BYTES as u64;
