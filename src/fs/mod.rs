//! Files and directories, durably: the ground that every part stands on which keeps something on a disk.
//!
//! `durable` is the only file of this program that renames, links and syncs. `preallocate` takes disk space ahead of a
//! growing file's end. `folder` reads a tree that nobody vouches for. Nothing here knows what the files mean. All of it blocks.

mod durable;
mod error;
mod folder;
mod preallocate;

pub use durable::{make_directory, remove_file, replace_file};
pub use error::FsError;

pub(crate) use crate::sys::write_back::write_back;
pub(crate) use durable::{Disk, Temporary, create, is_absence, put_directory, set_modified, stat};
pub(crate) use folder::Folder;
pub(crate) use preallocate::Preallocation;
#[cfg(test)]
pub(crate) use preallocate::STEP_BYTES;
