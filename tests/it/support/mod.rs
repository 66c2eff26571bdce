//! A registry and a client to test with: the real binary, over loopback, in a folder of its own; and a scripted
//! upstream to put behind it.

mod authority;
mod chance;
mod client;
mod masters;
mod orders;
mod raw;
mod registry;
mod switched;
mod tidy;
mod upstream;
mod valve;

use std::time::Duration;

pub(crate) use authority::{Authority, seen, uri};
pub(crate) use chance::Chance;
pub(crate) use client::{Client, cache, header, refusal};
pub(crate) use masters::{Balancer, Masters, address};
pub(crate) use orders::order;
pub(crate) use raw::{End, Raw};
pub(crate) use registry::{ALIAS, HASH_OF_SECRET, REPO, Registry, Setup};
pub(crate) use switched::{Switched, answered_by, coming, is_previous, mode, mode_file, mode_with_login, path};
pub(crate) use testkit::{Image, descriptor, digest, noise as blob};
pub(crate) use tidy::assert_store_is_tidy;
#[cfg(feature = "failpoints")]
pub(crate) use tidy::files_below;
pub(crate) use upstream::{Answer, Cut, Gate, Upstream};
pub(crate) use valve::Valve;

/// Whether this is root, which may mount. Who is not hears that the test was not run; CI is root.
pub(crate) fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("{test} needs root and was NOT RUN");
    }
    root
}

/// Ends a test that would wait for ever; nothing is measured by it.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("something that has to happen does not")
}
