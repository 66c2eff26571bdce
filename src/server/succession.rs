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

/// Longest wait for its end: its drain deadline is minutes at most.
const END: Duration = Duration::from_secs(600);

/// Pause between two tries.
const EVERY: Duration = Duration::from_millis(20);

/// Opens the store. One that another server has is asked for; until that one has ended this waits, ten minutes at most. Blocking.
///
/// # Errors
/// As [`Store::open`]; [`StoreError::InUse`] where the other one does not give way, or does not end.
pub(super) fn open(options: &StoreOptions) -> Result<Store, StoreError> {
    let in_use = match Store::open(options) {
        Err(error @ StoreError::InUse(_)) => error,
        opened => return opened,
    };
    match ask(&socket_path(&options.dir), "POST", "/give-way", b"", Some(ANSWER)) {
        Ok(answer) if answer.status == 200 => {}
        Ok(answer) => {
            let said = String::from_utf8_lossy(&answer.body);
            tracing::error!(
                status = answer.status,
                said = said.trim_end(),
                "the server that has the store does not give way"
            );
            return Err(in_use);
        }
        Err(error) => {
            tracing::error!(%error, "the process that has the store takes no orders, so it can't be asked to give way");
            return Err(in_use);
        }
    }
    tracing::info!(store = %options.dir.display(), "another server has the store and gives way, waiting for its end");
    let began = Instant::now();
    loop {
        match Store::open(options) {
            Err(error @ StoreError::InUse(_)) if began.elapsed() >= END => return Err(error),
            Err(StoreError::InUse(_)) => sleep(EVERY),
            opened => {
                tracing::info!(waited_ms = began.elapsed().as_millis(), "the other server has ended");
                return opened;
            }
        }
    }
}
