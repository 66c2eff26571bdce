//! The lower floor: bytes by digest.
//!
//! A content lies once under `blobs/`; whoever has it links a further name to it. Which names those are, and what they mean,
//! is the business of the floor above: it hands paths down, and nothing here asks upwards. The one thing that is called
//! upwards is that a file was found damaged, by the function given to `files::Contents::new`.
//!
//! In reading order: `files` (adding, linking and removing a content), `changes` (work that waits for the disk, and changes
//! of the tree), `snapshots` (links that keep bytes and are nobody's) with `snapshot_folders`, `open`, `blob` (a content as it is read), `hashing`, `count` (after an unclean stop), `damage` (the list of
//! damaged contents), `capacity` (is there room?) with `free_space`, `pace` (write-back in turn), `growth` (a growing file's end and hash),
//! `intake` (many contents from elsewhere in one go), `uploads` and `fills` (contents on their way in), `uses` (leases, and when
//! each was read last), `uncached` (read from the disk and not from memory), `beside` (read as others leave room for it), `scrub` (all are, once in an interval).

mod audit;
pub(super) mod beside;
pub(super) mod blob;
pub(super) mod capacity;
pub(super) mod changes;
pub(super) mod count;
pub(super) mod damage;
pub(super) mod files;
pub(super) mod fills;
mod free_space;
pub(super) mod growth;
pub(super) mod hashing;
pub(super) mod intake;
pub(super) mod open;
pub(super) mod pace;
pub(super) mod scrub;
pub(super) mod snapshot_folders;
pub(super) mod snapshots;
pub(super) mod uncached;
pub(super) mod uploads;
pub(super) mod uses;
