//! The scrub as a job: what is due, by the clock, or the whole store, by order.

use std::sync::Arc;
use std::time::Duration;

use super::scrubber::{RATE, Scrubber, Stand, Way};
use crate::clock;
use crate::jobs::{Cause, Job, JobError, Progress, Run, Schedule};
use crate::store::contents::beside::ORDERED_RATE;
use crate::store::contents::changes::blocking_run;
use crate::store::error::StoreError;

/// The wall clock is looked at this often: somebody may set it.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Scrubs.
#[derive(Debug)]
pub(in crate::store) struct Scrub {
    scrubber: Arc<Scrubber>,
    /// Until the next content is due.
    pause: Duration,
}

impl Scrub {
    pub(in crate::store) const fn new(scrubber: Arc<Scrubber>) -> Self {
        Self { scrubber, pause: LOOK_EVERY }
    }

    async fn read(&mut self, run: &Run, way: Way) -> Result<(), JobError> {
        let failed = |error: StoreError| JobError::new("the store could not be scrubbed", &error);
        let (mut hand, rate) = match way {
            Way::Due(_) => (self.scrubber.go_on(), RATE),
            Way::Whole => (self.scrubber.begin_anew(), ORDERED_RATE),
        };
        let mut owed = Duration::ZERO;
        self.pause = LOOK_EVERY;
        loop {
            if run.stop().is_cancelled() {
                return match way {
                    Way::Due(_) => Ok(()),
                    Way::Whole => Err(JobError::logged("it was stopped before every content was read".to_owned())),
                };
            }
            let stand;
            (hand, stand) = self.scrubber.slice(hand, way, rate, &mut owed).await.map_err(failed)?;
            match (stand, way) {
                (Stand::More, _) => show(&self.scrubber, run.progress()),
                (Stand::Until(due), _) => {
                    self.pause = due.since(clock::now()).unwrap_or_default().min(LOOK_EVERY);
                    break;
                }
                (Stand::Held, Way::Whole) => {
                    return Err(JobError::logged(
                        "so many contents were found damaged within ten minutes that the disk may be at fault; order it again \
                         when the disk was looked at"
                            .to_owned(),
                    ));
                }
                (Stand::Through | Stand::Held, _) => break,
            }
        }
        Ok(())
    }
}

/// In thousandths of all digests.
fn show(scrubber: &Scrubber, progress: &Progress) {
    progress.set(scrubber.status().permille, Some(1000));
}

impl Job for Scrub {
    const NAME: &'static str = "scrub";
    const PACED: bool = true;

    fn schedule(&self) -> Schedule {
        match self.scrubber.interval() {
            Some(_) => Schedule::every(self.pause),
            None => Schedule::when_called(),
        }
    }

    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        match (run.cause(), self.scrubber.interval()) {
            (Cause::Order, _) => self.read(&run, Way::Whole).await,
            (Cause::Time | Cause::Call, Some(interval)) => self.read(&run, Way::Due(interval)).await,
            (Cause::Time | Cause::Call, None) => Ok(()),
        }
    }

    async fn called(&mut self) {
        self.scrubber.changed.notified().await;
    }

    async fn end(&mut self) {
        let scrubber = Arc::clone(&self.scrubber);
        // Where the pass is after a clean stop.
        let noted = blocking_run(move || {
            scrubber.note();
            Ok(())
        });
        let _ = noted.await;
    }
}
