//! Integration tests: the real binary over loopback, in one test program.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and its tasks die with it"
)]

mod architecture;
mod auth;
mod blobs;
mod fuzz;
mod hostile;
#[cfg(feature = "failpoints")]
mod killed;
mod lists;
mod manifests;
mod operations;
mod readme;
mod support;
mod uploads;
