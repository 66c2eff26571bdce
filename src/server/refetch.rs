//! Fetching again what was found to be damaged, without waiting for somebody who asks for it.

use std::time::Duration;

use super::modes::Modes;
use crate::jobs::{Job, JobError, Run, Schedule};
use crate::mode::Mode;
use crate::store::{BrokenContent, Store};
use crate::telemetry::with_causes;

/// Pause before what could not be fetched is tried again.
const AGAIN: Duration = Duration::from_secs(300);

/// Fetches damaged contents again, one behind the other: of mode Proxy from the upstream, of Local from another master. What
/// nobody gives is left to a push.
pub(super) struct Refetch {
    store: Store,
    modes: Modes,
}

impl Refetch {
    pub(super) const fn new(store: Store, modes: Modes) -> Self {
        Self { store, modes }
    }

    /// Fetches it, if it is not whole by now and somebody can be asked for it.
    async fn fetch(&self, content: &BrokenContent) -> Result<(), String> {
        if self.store.has_content(content.digest).await.map_err(|error| with_causes(&error))? {
            return Ok(());
        }
        let modes = self.modes.transition();
        let coming = modes.coming().map(|(mode, _)| mode);
        let modes: Vec<&Mode> =
            [modes.in_force()].into_iter().chain(coming).chain(modes.previous()).map(AsRef::as_ref).collect();
        for (repo, is_manifest) in content.cached.iter().chain(&content.pushed) {
            for mode in &modes {
                let fetched = mode.fetch_again(repo, content.digest, *is_manifest).await;
                if fetched.map_err(|error| with_causes(&error))? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Job for Refetch {
    const NAME: &'static str = "refetch";

    fn schedule(&self) -> Schedule {
        Schedule::every(AGAIN).not_at_start()
    }

    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        let broken = self.store.broken();
        let mut failed = None;
        for content in broken.iter() {
            if run.stop().is_cancelled() {
                break;
            }
            if let Err(error) = self.fetch(content).await {
                tracing::warn!(digest = %content.digest, error, "a damaged content could not be fetched again yet");
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), |error| Err(JobError::logged(error)))
    }

    async fn called(&mut self) {
        self.store.broken_changed().await;
    }
}
