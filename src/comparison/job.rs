//! When masters are compared.

use std::time::Duration;

use super::Comparison;
use super::round::Compared;
use crate::jobs::{Job, JobError, Run, Schedule};
use crate::upstream::Upstream;

/// From one question to a master to the next.
const EVERY: Duration = Duration::from_secs(10);

/// The same while one of them did not answer: who comes back is compared at once.
const SOON: Duration = Duration::from_secs(1);

/// Compares the records with those of each other master.
#[derive(Debug)]
pub struct CompareRecords {
    comparison: Comparison,
}

impl CompareRecords {
    /// By `comparison`.
    #[must_use]
    pub const fn new(comparison: Comparison) -> Self {
        Self { comparison }
    }
}

impl Job for CompareRecords {
    const NAME: &'static str = "comparison";

    fn schedule(&self) -> Schedule {
        let Comparison(inner) = &self.comparison;
        let hosts: Vec<String> = inner.replicas.peers().iter().map(|peer| peer.host().to_owned()).collect();
        if inner.masters.are_some_away(&hosts) {
            Schedule::every(SOON)
        } else {
            Schedule::every(EVERY).jitter(EVERY / 5)
        }
    }

    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        let Comparison(inner) = &self.comparison;
        let peers = inner.replicas.peers();
        if peers.is_empty() || (inner.local)().is_none() {
            return Ok(());
        }
        if inner.store.records_sum().is_none() {
            let read = inner.store.read_records(run.stop().clone()).await;
            if !read.map_err(|error| JobError::new("the records of tags and manifests can't be read", &error))? {
                return Ok(());
            }
        }
        inner.store.rest_records();
        for peer in peers {
            self.comparison.begin(peer);
        }
        Ok(())
    }

    async fn called(&mut self) {
        let Comparison(inner) = &self.comparison;
        tokio::select! {
            () = inner.wake.notified() => {}
            () = inner.replicas.changed() => {}
        }
    }
}

impl Comparison {
    /// Begins a comparison with one master, unless one runs. One that takes long keeps the others waiting for nothing.
    fn begin(&self, peer: Upstream) {
        if !self.0.masters.begin(peer.host()) {
            return;
        }
        let ends = Ends { comparison: self.clone(), host: peer.host().to_owned() };
        let comparison = self.clone();
        self.0.tasks.spawn(async move {
            let _ends = ends;
            let Some(local) = (comparison.0.local)() else { return };
            let stop = comparison.0.stop.clone();
            let Some(outcome) = stop.run_until_cancelled(comparison.compare(&local, &peer)).await else { return };
            comparison.note(&peer, outcome);
        });
    }

    fn note(&self, peer: &Upstream, compared: Compared) {
        let Compared { taken, error, is_away } = compared;
        let mut had_failed = false;
        self.0.masters.note_away(peer.host(), is_away);
        self.0.masters.note(peer.host(), |compared| {
            had_failed = compared.error.is_some();
            compared.error.clone_from(&error);
        });
        match error {
            None if had_failed => {
                tracing::info!(master = peer.host(), "records are compared with another master again");
            }
            Some(error) if !had_failed && is_away => {
                tracing::warn!(master = peer.host(), error, "records can't be compared with another master");
            }
            Some(error) if !had_failed => {
                tracing::warn!(master = peer.host(), error, "not all that another master has can be taken");
            }
            None | Some(_) => {}
        }
        // What was taken makes other sums: whether they are equal now is found out at once.
        if taken > 0 {
            self.0.wake.notify_one();
        }
    }
}

/// Ends a comparison, however that is.
struct Ends {
    comparison: Comparison,
    host: String,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.comparison.0.masters.end(&self.host);
    }
}
