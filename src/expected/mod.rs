//! Whether the store holds whole what this registry has to hold: the file `store.expected` names it, a job looks, and status, metrics and log
//! say what is missing. So a switch to Local, or the cutting of an upstream, can wait for it, and what goes missing later is seen.
//!
//! Looks at the store alone, down to the layers of every platform, and hashes none of them: what is known to be damaged is missing.
//! In reading order: `file` (the list, followed), `look` (one look at one mode's repositories), `job`.
//!
//! # Decisions
//!
//! - The form is that of `store.pins`, whose images have no repository: one is there if it is whole in any repository at or below a
//!   root of the mode. A release is stricter: it is there if its image and all that its list names are whole in one root, and in Local its
//!   install image too. The list is read from the install image in the store.
//! - A file that is wrong leaves the list before in force, and is an alert of its own. Its age does not count: what has to be there
//!   does not become less by nobody writing it anew.
//! - Local is looked at whichever mode is in force: one waits for it. Of caches there is one: that of a coming Proxy, else of the one in force.

mod file;
mod job;
mod look;

pub use file::{Expected, ExpectedState, FileState};
pub use job::LookForExpected;
pub use look::{Findings, MissingImage, Root, Side};

/// Bytes that the list takes, with the one that is read in its place: each a document and its digests.
pub const LIST_BYTES: u64 = 2 * (crate::values::Pins::MAX_BYTES as u64 + (12 << 20));
