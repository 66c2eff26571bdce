//! The loop that runs a job, and the list of all jobs.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::record::{Ended, JobStatus, Panicked, Record, RunReport};
use super::schedule::{Pause, chance};
use super::{Cause, Job, Run};

/// A run that took longer has a line in the log, for developers.
const LONG: Duration = Duration::from_secs(1);

/// An order that can't be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// No job has this name.
    #[error("there is no job {0:?}")]
    Unknown(String),
    /// The job ended, and with it most likely the process, before the run could begin.
    #[error("the server is ending")]
    Ending,
}

/// Starts jobs and knows of each what it does. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runner {
    jobs: Arc<Mutex<Vec<Arc<Record>>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Runner {
    /// Runs jobs on `tasks` until `stop` is cancelled.
    #[must_use]
    pub fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { jobs: Arc::default(), tasks, stop }
    }

    /// The same list for jobs that end with `stop`; no later than the others if it is a child of [`Runner::stop`].
    #[must_use]
    pub fn until(&self, stop: CancellationToken) -> Self {
        Self { stop, ..self.clone() }
    }

    /// Cancelled when its jobs end.
    #[must_use]
    pub const fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Runs a job from now on. Must be called inside a tokio runtime; returns at once.
    pub fn start<J: Job>(&self, job: J) {
        let record = Arc::new(Record::new(J::NAME, J::PACED, job.schedule()));
        self.list().push(Arc::clone(&record));
        let listed = Listed { jobs: Arc::clone(&self.jobs), record };
        self.tasks.spawn(drive(job, listed, self.stop.clone()));
    }

    /// All jobs, in the order in which they were started.
    #[must_use]
    pub fn status(&self) -> Vec<JobStatus> {
        self.list().iter().map(|record| record.status()).collect()
    }

    /// Has a job run, at once or as soon as the run that goes on has ended, also in the pause behind a failure. Answers at
    /// the end of that run.
    ///
    /// Dropped, the run takes place all the same.
    ///
    /// # Errors
    /// [`OrderError`] if no run begins.
    pub async fn run_now(&self, name: &str) -> Result<RunReport, OrderError> {
        let record = self.list().iter().find(|record| record.name() == name).cloned();
        let record = record.ok_or_else(|| OrderError::Unknown(name.to_owned()))?;
        let told = record.order().ok_or(OrderError::Ending)?;
        told.await.map_err(|_| OrderError::Ending)
    }

    fn list(&self) -> MutexGuard<'_, Vec<Arc<Record>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job's place in the list, until its task has ended.
struct Listed {
    jobs: Arc<Mutex<Vec<Arc<Record>>>>,
    record: Arc<Record>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.record.close();
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|other| !Arc::ptr_eq(other, &self.record));
    }
}

/// One job from its first run to its end.
async fn drive<J: Job>(mut job: J, listed: Listed, stop: CancellationToken) {
    let record = &listed.record;
    let mut failures = 0_u32;
    let mut next = if stop.is_cancelled() {
        None
    } else if job.schedule().starts_at_once() {
        Some(Cause::Time)
    } else {
        wait(&mut job, record, &stop, failures).await
    };
    while let Some(cause) = next {
        let done = run(&mut job, record, cause, &stop).await;
        failures = if done { 0 } else { failures.saturating_add(1) };
        next = wait(&mut job, record, &stop, failures).await;
    }
    record.close();
    job.end().await;
}

/// One run; says whether it did its work.
async fn run<J: Job>(job: &mut J, record: &Record, cause: Cause, stop: &CancellationToken) -> bool {
    let (progress, orders) = record.begin();
    // A run that somebody waits for is that order's, whatever else began it.
    let cause = if orders.is_empty() { cause } else { Cause::Order };
    let begun = Instant::now();
    let run = Run { cause, stop: stop.clone(), progress };
    let ended: Ended = AssertUnwindSafe(job.run(run)).catch_unwind().await.map_err(|_| Panicked);
    let taken = begun.elapsed();
    let report = record.end(&ended, taken);
    tell(&ended, &report, taken, !orders.is_empty());
    for order in orders {
        // Whoever gave it may be gone.
        let _ = order.send(report.clone());
    }
    matches!(ended, Ok(Ok(())))
}

fn tell(ended: &Ended, report: &RunReport, taken: Duration, by_order: bool) {
    let (job, millis) = (report.job, report.millis);
    match ended {
        Ok(Ok(())) if by_order => tracing::info!(job, millis, "a job was run by order"),
        Ok(Ok(())) if taken >= LONG => tracing::debug!(job, millis, "a job has run"),
        Ok(Ok(())) => {}
        Ok(Err(error)) => error.log(job),
        Err(Panicked) => tracing::error!(job, millis, "a job panicked; it goes on at its next time"),
    }
}

/// Waits for what begins the next run; `None` at the end.
async fn wait<J: Job>(job: &mut J, record: &Record, stop: &CancellationToken, failures: u32) -> Option<Cause> {
    let schedule = job.schedule();
    record.set_schedule(schedule);
    let Pause { length, hears_calls } = schedule.pause(failures, chance());
    let over = async {
        match length {
            Some(length) => tokio::time::sleep(length).await,
            None => std::future::pending().await,
        }
    };
    let ordered = async {
        loop {
            record.ordered.notified().await;
            // The run that it was for may have begun before this was heard.
            if record.is_ordered() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        () = ordered => Some(Cause::Order),
        () = job.called(), if hears_calls => Some(Cause::Call),
        () = over => Some(Cause::Time),
    }
}
