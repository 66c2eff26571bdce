//! The API server of Kubernetes: what is read from it and what is written to it.
//!
//! The only part that speaks with it. Knows no order of steps and takes no decision: it reads objects into plain values and
//! carries out single writes, each with an optimistic lock. In reading order: `access` (which API server, as whom),
//! `client` (one call with its deadline), `secret` (Secrets as plain values), `error`.

mod access;
mod client;
mod error;
mod secret;

pub use access::Access;
pub use client::Cluster;
pub use error::ClusterError;
pub use secret::{Changes, NewSecret, SecretChange, StoredSecret, Version};
