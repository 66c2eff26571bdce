//! The objects in the cluster as they are written and read: rendered as Deckhouse documents them, the same input to the same
//! bytes. Each is rendered by a method of its document, or of what it is made from, and read back by another.
//!
//! In reading order: `hosts` is which mirrors nodes ask; `bashible`, `deckhouse_registry`, `mode_file`, `state`, `record` and
//! `users` are the Secrets, `previous` one that a command writes; `masters`, `services` and `words` the rest; `names` what they
//! are called. `go_json` and `crate::yaml` write, `reading` reads.

mod bashible;
mod deckhouse_registry;
mod go_json;
mod hosts;
pub mod manifest;
pub mod masters;
mod mode_file;
pub mod names;
mod params;
pub mod previous;
mod reading;
mod record;
pub mod services;
mod state;
#[cfg(test)]
mod tests;
pub mod users;
pub mod words;

pub use hosts::{InCluster, hosts, merged};
pub use manifest::SecretManifest;
