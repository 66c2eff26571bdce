//! Integration tests: the real binary over loopback, in one test program.
#![allow(missing_docs, reason = "tests")]

mod architecture;
mod auth;
mod blobs;
mod hostile;
mod lists;
mod manifests;
mod operations;
mod support;
mod uploads;
