//! The server's jobs: what works beside requests is started here. The reload is started with what it acts on.

use std::sync::Arc;

use super::modes::Modes;
use super::pins::ReadPins;
use super::probing::ProbeUpstream;
use super::refetch::Refetch;
use super::{Parts, expected};
use crate::expected::LookForExpected;
use crate::fetch::Evictor;
use crate::jobs::{Job, JobError, Run, Runner, Schedule};
use crate::retention::Collect;
use crate::serve::ReportFailures;
use crate::telemetry::{REPORT_EVERY, Reporter};

pub(super) fn start(jobs: &Runner, parts: &Parts, evictor: Evictor, modes: &Modes) {
    parts.store.start_jobs(jobs);
    jobs.start(Collect::new(parts.retention.clone()));
    jobs.start(ReadPins::new(parts.pins.clone()));
    let looked_at = modes.clone();
    let sides = move || expected::sides(&looked_at);
    jobs.start(LookForExpected::new(parts.expected.clone(), parts.store.clone(), sides));
    jobs.start(ReportRepeats(parts.logging.reporter()));
    jobs.start(evictor);
    jobs.start(Refetch::new(parts.store.clone(), modes.clone()));
    if let Some(tls) = &parts.tls {
        jobs.start(ReportFailures(Arc::clone(tls.failures())));
    }
    jobs.start(ProbeUpstream::new(modes.clone()));
}

/// Counts in the log what was held back of repeated lines. A job of the server, as the log knows no other part.
struct ReportRepeats(Reporter);

impl Job for ReportRepeats {
    const NAME: &'static str = "log-repeats";

    fn schedule(&self) -> Schedule {
        Schedule::every(REPORT_EVERY).not_at_start()
    }

    async fn run(&mut self, _: Run) -> Result<(), JobError> {
        self.0.report();
        Ok(())
    }

    async fn end(&mut self) {
        self.0.report_rest();
    }
}
