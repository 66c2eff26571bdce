//! Bundles: files in which somebody carried a registry's images in, as `d8 mirror pull` and what was before it write them. Taken
//! as they are: nothing is unpacked, and no name of an archive is ever a path on a disk.
//!
//! In reading order: `finding` (what is wrong or of note), `gost` (the sums beside files), `version` (releases and channels),
//! `stream` (files laid end to end and read as one), `archive` (the entries of a tar by its headers), `place` (what the name of
//! an entry says), `files` (which files there are, of which archive), `index` (a layout's `index.json`), `contents` (where each
//! content lies), `opening` (all of that together), `reach` (what tags reach, and what that lacks), `inspect` and `verify` (the
//! reports), `discovery` (the tags that a push makes), `catalog` (what a registry serves of it). `pull`
//! makes bundles, and is a part of its own.
//!
//! # Decisions
//!
//! [0024](../../docs/decisions/0024-bundles.md): one reader for all forms; headers alone say where each content lies; bounds.

mod archive;
mod catalog;
mod contents;
mod discovery;
mod files;
mod finding;
mod gost;
mod index;
mod inspect;
mod opening;
mod place;
pub mod pull;
mod reach;
mod stream;
mod verify;
mod version;

pub use catalog::{Bytes, Catalog, Places, read_manifest};
pub use contents::{Bundle, Found};
pub use discovery::Discovery;
pub use finding::{BundleError, Finding, Problem, plain};
pub use gost::GostSum;
pub use inspect::{ArchiveShown, Component, Inspection};
pub use opening::{MOST_BYTES, open};
pub use stream::{Piece, Stream};
pub use verify::{Verification, verify};
pub use version::{
    Channel, MOST_MANIFEST, VERSION, is_channel, is_of_channels, may_have_version, release_of_tag, release_of_version,
};

#[cfg(test)]
mod tests;
