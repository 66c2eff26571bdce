//! d8-registry: the in-cluster container registry of a Deckhouse cluster.
//!
//! A map for readers is in ARCHITECTURE.md. In reading order:
//!
//! - [`oci`]: names, digests, ranges, manifests; pure
//! - [`fs`]: files and directories, durably
//! - [`jobs`]: the runner of what works beside requests
//! - [`values`]: sizes, durations, addresses and words as the configuration writes them; pure
//! - `yaml`: a writer of what all readers of YAML read alike; pure
//! - [`store`]: the directory tree, durable; the index beside it
//! - [`upstream`]: the client of the registry behind modes Direct and Proxy
//! - [`fetch`]: the miss path: fills, work done once for many, eviction
//! - [`replicas`]: the other masters, and which of them has a content
//! - [`comparison`]: what was said of tags and manifests, brought to the same on all masters
//! - [`auth`]: who asks, and what that user may do
//! - [`mode`]: what a registry operation means in the configured mode
//! - [`api`]: the HTTP edge; it and `admin` alone speak axum
//! - [`admin`]: health, readiness, status and metrics, on an address of their own
//! - [`serve`]: sockets, TLS, connections, drain
//! - [`health`]: health and metrics of the programs beside the server
//! - [`telemetry`]: metrics, log, access log
//! - [`config`]: the YAML file, parsed into values that can't be wrong, and its reload
//! - [`node_config`]: what a node's containerd needs, rendered and applied
//! - [`node_files`]: a static pod's manifest and files on a node
//! - [`node_proxy`]: the balancer on every node, a program of its own
//! - [`server`]: all of it put together, from start to end
//! - [`release`]: which images a release of Deckhouse needs
//! - [`retention`]: tags go by rules, release sets above all
//! - [`expected`]: whether the store holds whole what it has to hold
//! - [`checker`]: whether registries hold what a cluster needs
//! - [`bundle`]: files in which images were carried in: where each content lies, what is wrong with them
//! - [`takeover`]: images of another registry's data, of layouts and of registries taken into a store; a store's as a layout
//! - [`switch`]: which registry a cluster uses, changed step by step; pure
//! - [`pki`]: the certificates of the masters
//! - [`cluster`]: the API server of Kubernetes, read and written
//! - [`node_agent`]: the program that does a node's part where no bashible does
//! - [`controller`]: the program that switches a cluster's mode
//! - [`cli`]: the command line

pub mod admin;
pub mod api;
pub mod auth;
pub mod bundle;
pub mod checker;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod comparison;
pub mod config;
pub mod controller;
pub mod expected;
pub mod fetch;
pub mod fs;
pub mod health;
pub mod issuer;
pub mod jobs;
pub mod mode;
pub mod node_agent;
pub mod node_config;
pub mod node_files;
pub mod node_proxy;
pub mod oci;
pub mod pki;
pub mod release;
pub mod replicas;
pub mod retention;
pub mod serve;
pub mod server;
pub mod store;
pub mod switch;
mod sys;
pub mod takeover;
pub mod telemetry;
pub mod upstream;
pub mod values;
pub(crate) mod yaml;
