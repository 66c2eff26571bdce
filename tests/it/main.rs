//! Integration tests: the real binary over loopback, in one test program.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and its tasks die with it"
)]

mod admin;
mod architecture;
mod architecture_text;
mod auth;
mod before_sign_in;
mod blobs;
mod bundles;
mod bundles_pushed;
mod checker;
mod collection;
#[cfg(feature = "failpoints")]
mod collection_soak;
mod damage;
mod direct;
mod disk_limits;
mod disk_read_only;
mod documents;
mod expected;
mod fair;
mod fast_path;
mod faults;
mod fuzz;
mod hostile;
mod kill_cycles;
#[cfg(feature = "failpoints")]
mod killed;
mod lists;
mod long_lists;
mod manifests;
mod mapping;
mod misconfigured;
mod mode_data;
mod mode_file;
#[cfg(feature = "failpoints")]
mod mode_told;
mod monitoring;
mod node_agent;
mod node_config;
mod node_files;
mod node_proxy;
mod operations;
mod pki;
mod prefetch;
mod proxy_blobs;
mod proxy_lists;
mod proxy_names;
mod proxy_room;
mod proxy_tags;
mod proxy_ways;

mod reference;
mod reference_config;
mod relayed;
mod release;
mod replicas;
mod scopes;
mod seed;
mod snapshots;
mod state;
mod succession;
mod support;
mod switches;
mod takeover;
mod transition;
mod uploads;
mod upstream_answers;
mod upstream_auth;
mod upstream_refusals;
mod upstream_routes;
mod upstream_settings;
mod verify;
