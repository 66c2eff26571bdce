//! Dropping what was ordered and counting what no mode uses, beside requests.

use std::sync::Arc;
use std::time::Duration;

use super::dropper::{Dropper, Left};
use crate::jobs::{Job, JobError, Run, Schedule};

/// Between two counts. What is not used does not grow; eviction and pushes make it less.
const COUNT_EVERY: Duration = Duration::from_secs(6 * 3600);

/// Drops and counts data that no mode uses.
#[derive(Debug)]
pub(in crate::store) struct LookAfterUnused(pub(in crate::store) Arc<Dropper>);

impl Job for LookAfterUnused {
    const NAME: &'static str = "unused-data";
    const PACED: bool = true;

    fn schedule(&self) -> Schedule {
        Schedule::every(COUNT_EVERY).not_at_start()
    }

    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        for mode in self.0.take_wanted() {
            let dropped = self.0.drop_data(mode, run.stop(), run.progress()).await;
            let dropped = dropped.map_err(|error| JobError::new("the data of a mode could not be dropped", &error))?;
            let (contents, bytes) = (dropped.contents, dropped.bytes);
            match dropped.left {
                None => tracing::info!(%mode, contents, bytes, "the data of the mode is dropped"),
                Some(Left::Used) => {
                    tracing::warn!(%mode, contents, bytes, "the mode is used again, the rest of its data stays");
                }
                Some(Left::Ending) => {
                    tracing::info!(%mode, contents, bytes, "the drop of the mode's data is not through");
                }
            }
        }
        self.0.count(run.stop()).await.map_err(|error| JobError::new("unused data could not be counted", &error))
    }

    async fn called(&mut self) {
        self.0.gate.changed.notified().await;
    }
}
