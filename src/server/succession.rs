//! A server in the place of another one: the store is opened when the server that has it has given way.
//!
//! # Decisions
//!
//! - Only a server that was started with `--give-way` ends for another one. Two that both took and gave would end each other for
//!   ever.
//! - The store has one server at each moment, so the two never listen at once. From the end of the first one's sockets until the
//!   second one listens a client's connection is refused; requests that run have the drain deadline.
//! - The lock is tried again and not waited for in the kernel: that wait could not be bounded.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::admin::{ask, socket_path};
use crate::store::{Store, StoreError, StoreOptions};

/// Longest wait for an answer of the other server.
const ANSWER: Duration = Duration::from_secs(10);

/// Longest wait for the end of one that gives way: its drain deadline is minutes at most.
const END: Duration = Duration::from_secs(600);

/// Pause between two tries.
const EVERY: Duration = Duration::from_millis(20);

/// Opens the store. A server that has it is asked to give way, and its end is waited for, ten minutes at most. One that does not give
/// way may be ending all the same, so `patience` is had with it. Blocking.
///
/// # Errors
/// As [`Store::open`]; [`StoreError::InUse`] where the other one is there still.
pub(super) fn open(options: &StoreOptions, patience: Duration) -> Result<Store, StoreError> {
    let in_use = match Store::open(options) {
        Err(error @ StoreError::InUse(_)) => error,
        opened => return opened,
    };
    let path = options.dir.display();
    let patience = match ask_to_give_way(options) {
        Ok(()) => {
            tracing::info!(%path, "another d8-registry is using the data folder and gives way, waiting for its end");
            END
        }
        Err(why) if patience.is_zero() => {
            tracing::error!(%path, why, "another d8-registry is using the data folder");
            return Err(in_use);
        }
        Err(why) => {
            tracing::info!(%path, why, "another d8-registry is using the data folder, waiting for its end");
            patience
        }
    };
    let began = Instant::now();
    loop {
        match Store::open(options) {
            Err(error @ StoreError::InUse(_)) if began.elapsed() >= patience => return Err(error),
            Err(StoreError::InUse(_)) => sleep(EVERY),
            opened => {
                tracing::info!(%path, waited_ms = began.elapsed().as_millis(), "the data folder is free");
                return opened;
            }
        }
    }
}

/// Asks the server that has the store for its place.
///
/// # Errors
/// It keeps it, and why.
fn ask_to_give_way(options: &StoreOptions) -> Result<(), String> {
    match ask(&socket_path(&options.dir), "POST", "/give-way", b"", Some(ANSWER)) {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(format!("it does not give way: {}", String::from_utf8_lossy(&answer.body).trim_end())),
        Err(error) => Err(format!("it takes no orders: {error}")),
    }
}
