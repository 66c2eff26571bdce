//! The API server of Kubernetes: what is read from it and what is written to it.
//!
//! The only part that speaks with it. Knows no order of steps and takes no decision: it reads objects into plain values and
//! carries out single writes, each with an optimistic lock. "Could not be read" is never "is not there".
//!
//! In reading order: `access` (which API server, as whom), `client` (one call with its deadline), `error`; `secret` and
//! `objects` are what is written; `nodes`, `failing`, `custom`, `images`, `references` are only read, long `lists` page by page; `watching` tells that
//! something changed; `lease` is who writes; `events` tell people.

mod access;
mod client;
mod custom;
mod error;
mod events;
mod failing;
mod images;
mod lease;
mod lists;
mod nodes;
mod objects;
mod references;
mod secret;
mod watching;

pub use access::Access;
pub use client::Cluster;
pub use custom::{DeckhouseRelease, Module, ModuleConfig};
pub use error::ClusterError;
pub use failing::FailingPod;
pub use lease::{Candidate, RENEWAL, Standing, TERM};
pub use nodes::{Container, DeckhouseDeployment};
pub use objects::{StoredConfigMap, StoredService};
pub use references::Reference;
pub use secret::{Changes, NewSecret, SecretChange, StoredSecret, Version};
pub use watching::Watched;
