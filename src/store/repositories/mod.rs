//! The upper floor: which repository has what.
//!
//! In reading order: `walk` (the tree as it is), `view` (for a reader without a store), `memory` with `generations` and `verdicts` (what is remembered, and until
//! when), `blobs`, `upload_session`, `manifests`, `tags`, `large` (manifests that memory does not keep), `references` (is a
//! manifest whole?), `held` (the same for who only looks), `mend` (names of damaged contents led to whole ones), `broken` (what those break), `intake` (much from
//! elsewhere in one go), `records` with `recorded` (what was last said of each tag and manifest, here or on another master), `collection` (what no root reaches goes), `snapshots` (what was held at a moment is kept), `mode_data`
//! (what a mode that is not in force left); for what an upstream taught: `lists`, `named`,
//! `eviction`; then the index: `index` (sled), `listings` (its life), `rebuild`; over all of it `verify` (what is wrong?), with
//! `affected` (which images does it break?).

pub(super) mod affected;
pub(super) mod blobs;
pub(super) mod broken;
pub(super) mod collection;
pub(super) mod eviction;
pub(super) mod generations;
pub(super) mod held;
pub(super) mod index;
pub(super) mod intake;
pub(super) mod large;
pub(super) mod listings;
pub(super) mod lists;
pub(super) mod locks;
pub(super) mod manifests;
pub(super) mod memory;
pub(super) mod mend;
pub(super) mod mode_data;
pub(super) mod named;
pub(super) mod rebuild;
pub(super) mod recorded;
pub(super) mod records;
pub(super) mod references;
pub(super) mod snapshots;
pub(super) mod tags;
pub(super) mod upload_session;
pub(super) mod verdicts;
pub(super) mod verify;
pub(super) mod view;
pub(super) mod walk;
