//! A registry and a client to test with: the real binary, over loopback, in a folder of its own.

mod client;
mod content;
mod registry;
mod tidy;

pub(crate) use client::{Client, header};
pub(crate) use content::{Image, blob, descriptor, digest};
pub(crate) use registry::{HASH_OF_SECRET, Registry, Setup};
pub(crate) use tidy::assert_store_is_tidy;
#[cfg(feature = "failpoints")]
pub(crate) use tidy::files_below;
