//! Whether this server can serve, told in time whatever the disk does.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::modes::Modes;
use crate::fetch::SingleFlight;
use crate::store::Store;
use crate::telemetry::{disk_standstill, with_causes};

/// A look at the data folder that takes longer says nothing yet: an answer is promised within 2 s.
const LOOK: Duration = Duration::from_millis(1500);

/// Looks at the data folder, once for all who ask. Cheap to clone.
#[derive(Clone)]
pub(super) struct Readiness {
    store: Store,
    looks: SingleFlight<(), Result<(), String>>,
}

impl Readiness {
    pub(super) fn new(store: Store, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { store, looks: SingleFlight::new(tasks, stop) }
    }

    /// A sentence if the data folder can't be used, or the disk stands still. Answers within 2 s; a disk that is slow and
    /// moves is no reason. Safe to drop.
    pub(super) async fn check(&self) -> Result<(), String> {
        standstill()?;
        let store = self.store.clone();
        let look = || async move { store.check().await.map_err(|error| with_causes(&error)) };
        match tokio::time::timeout(LOOK, self.looks.join((), look)).await {
            Ok((Some(outcome), _)) => outcome,
            Ok((None, _)) => Err("the server is ending".to_owned()),
            Err(_) => standstill(),
        }
    }
}

/// Whether requests can be served. Cheap to clone.
#[derive(Clone)]
pub(super) struct Ready {
    pub(super) readiness: Readiness,
    pub(super) modes: Modes,
    /// Cancelled when the server begins to end.
    pub(super) draining: CancellationToken,
}

impl Ready {
    /// A sentence if they can't. Answers within 2 s. Safe to drop.
    pub(super) async fn check(&self) -> Result<(), String> {
        if self.draining.is_cancelled() {
            return Err("the server is ending".to_owned());
        }
        if self.modes.transition().is_idle() {
            return Err("mode Unmanaged is in force: no request of a registry is served".to_owned());
        }
        self.readiness.check().await
    }
}

fn standstill() -> Result<(), String> {
    match disk_standstill() {
        Some(found) => Err(format!(
            "no operation of the store's disk has ended for {} s, {} wait",
            found.since.as_secs(),
            found.waiting
        )),
        None => Ok(()),
    }
}
