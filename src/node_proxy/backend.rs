//! One server: whether it is up, and how many connections it has. Every change of its state is one line in the log.

use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::values::Target;

/// The state of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing yet; it is tried like one that is up.
    Unknown,
    Up,
    Down,
}

/// A server of the list.
#[derive(Debug)]
pub(super) struct Backend {
    target: Target,
    connections: AtomicUsize,
    state: Mutex<State>,
    /// Ends its health checks.
    removed: CancellationToken,
}

impl Backend {
    /// A server of which nothing is known.
    pub(super) fn new(target: Target, removed: CancellationToken) -> Self {
        Self { target, connections: AtomicUsize::new(0), state: Mutex::new(State::Unknown), removed }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Connections through it now.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Whether it is known to be down.
    pub(super) fn is_down(&self) -> bool {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) == State::Down
    }

    /// It answered.
    pub(super) fn up(&self) {
        if self.becomes(State::Up) {
            tracing::info!(backend = %self.target, "backend is up");
        }
    }

    /// It can't be reached, or is not well.
    pub(super) fn down(&self, reason: &dyn Display) {
        if self.becomes(State::Down) {
            tracing::warn!(backend = %self.target, %reason, "backend is down");
        }
    }

    fn becomes(&self, state: State) -> bool {
        let mut now = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *now, state) != state
    }

    /// It left the list: no more health checks; its connections go on.
    pub(super) fn remove(&self) {
        self.removed.cancel();
    }

    /// Cancelled when it left the list, or the process stops.
    pub(super) const fn removed(&self) -> &CancellationToken {
        &self.removed
    }
}

/// A connection counted with its backend, until this is dropped.
#[derive(Debug)]
pub(super) struct Lease(Arc<Backend>);

impl Lease {
    /// Counts one more.
    pub(super) fn new(backend: Arc<Backend>) -> Self {
        backend.connections.fetch_add(1, Ordering::Relaxed);
        Self(backend)
    }

    pub(super) fn backend(&self) -> &Arc<Backend> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
