//! What a run came to, or would.

use std::collections::BTreeMap;

use serde::Serialize;

/// What a run came to, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Nothing was written.
    pub dry_run: bool,
    /// Releases of the platform, in their order.
    pub releases: Vec<String>,
    /// Channels of the platform, and the release that each leads to.
    pub channels: BTreeMap<String, String>,
    /// The archives.
    pub archives: Vec<Packed>,
    /// Bytes of blobs that came, or would, each counted once.
    pub fetched_bytes: u64,
    /// Bytes of blobs that were at hand.
    pub present_bytes: u64,
    /// Bytes of the archives.
    pub bytes: u64,
    /// Bytes that the disk has to have free for it at the most.
    pub needed_bytes: u64,
    /// What the source does not have, and what was left out; sentences without their ends.
    pub notes: Vec<String>,
}

/// An archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Packed {
    /// Its name, without that of a chunk.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// Files that it is in.
    pub files: u64,
    /// Contents, counted once a layout.
    pub contents: u64,
    /// Tags.
    pub tags: u64,
    /// It was there, whole.
    pub present: bool,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Far {
    /// It is looked what there is; so many bytes came for that.
    Looking(u64),
    /// So many bytes are to come.
    Fetching(u64),
    /// So many bytes have come.
    Fetched(u64),
    /// An archive of so many bytes is written.
    Packing(u64),
    /// So many bytes of it have been.
    Packed(u64),
}
