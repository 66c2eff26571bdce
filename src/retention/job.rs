//! Retention and collection as a job: at the times of `gc.schedule`, or by order. Retention first: what it gives up is a suspect in
//! the same run.

use std::time::Duration;

use super::keeper::Retention;
use crate::clock;
use crate::jobs::{Job, JobError, Run, Schedule};

/// The wall clock is looked at this often: somebody may set it.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Removes what no rule keeps, and collects.
#[derive(Debug)]
pub struct Collect {
    retention: Retention,
    /// Seconds of the wall clock until which its times are over.
    looked: u64,
}

impl Collect {
    /// Of a store.
    #[must_use]
    pub fn new(retention: Retention) -> Self {
        Self { retention, looked: clock::now().as_secs() }
    }

    /// Whether a time of the schedule has come since the last look, and if not, when to look again.
    fn is_due(&mut self, now: u64) -> Result<(), Duration> {
        // A clock that was set back has all its times before it.
        let next = self.retention.store().collection_options().schedule.next_after(self.looked.min(now));
        self.looked = now;
        match next {
            Some(next) if next <= now => Ok(()),
            Some(next) => Err(Duration::from_secs(next - now).min(LOOK_EVERY)),
            None => Err(LOOK_EVERY),
        }
    }
}

impl Job for Collect {
    const NAME: &'static str = "collection";
    const PACED: bool = true;

    fn schedule(&self) -> Schedule {
        Schedule::when_called()
    }

    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        // What it can't decide it leaves alone, and tells the collection so; a disk that fails it fails that too.
        if let Err(error) = self.retention.run(run.stop()).await {
            return Err(JobError::new("the rules of retention could not be carried out", &error));
        }
        match self.retention.store().collect(run.stop(), run.progress()).await {
            Ok(report) => {
                let (removed, suspected) = (&report.removed, &report.suspected);
                if removed.blobs + removed.manifests + suspected.blobs + suspected.manifests > 0 {
                    tracing::info!(
                        blobs = removed.blobs,
                        manifests = removed.manifests,
                        bytes = removed.bytes,
                        suspects = suspected.blobs + suspected.manifests,
                        "contents that nothing reaches were collected"
                    );
                }
                Ok(())
            }
            Err(error) => Err(JobError::new("the store could not be collected", &error)),
        }
    }

    async fn called(&mut self) {
        let store = self.retention.store().clone();
        while let Err(pause) = self.is_due(clock::now().as_secs()) {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = store.collection_options_changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{CollectionOptions, Store, StoreOptions};

    #[test]
    fn it_runs_at_its_times_once_whoever_sets_the_clock() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreOptions::at(dir.path())).unwrap();
        let options = |schedule: &str| CollectionOptions { schedule: schedule.parse().unwrap(), ..Default::default() };
        store.set_collection(options("0 3 * * *"));
        const DAY: u64 = 86_400;
        const THREE: u64 = 3 * 3600;
        let mut job = Collect { retention: Retention::new(store.clone()), looked: 100 * DAY + THREE - 90 };
        let mut due = |now: u64| job.is_due(now).err().map(|pause| pause.as_secs());
        assert_eq!(due(100 * DAY + THREE - 80), Some(60), "the clock is looked at each minute");
        assert_eq!(due(100 * DAY + THREE - 20), Some(20));
        assert_eq!(due(100 * DAY + THREE), None);
        assert_eq!(due(100 * DAY + THREE), Some(60), "once");
        // Set forth over many times: one run. Set back: none, until the next time comes.
        assert_eq!(due(465 * DAY), None);
        assert_eq!(due(465 * DAY + 1), Some(60));
        assert_eq!(due(99 * DAY), Some(60));
        assert_eq!(due(99 * DAY + THREE + 5), None);
        store.set_collection(options("off"));
        assert_eq!(due(500 * DAY), Some(60));
    }
}
