//! Work beside requests: one runner for everything that happens by the clock, on a signal or by an administrator's order.
//!
//! A part that has such work implements [`Job`] and starts it on the [`Runner`] that it is given. The runner calls it when
//! its [`Schedule`] says so, catches its panics, logs its failures, and keeps for each job what `/status` and the metrics
//! show. Knows nothing of what the jobs do.
//!
//! In reading order: `schedule` (when), `record` (what is remembered of a job), `runner` (the loop).

mod record;
mod runner;
mod schedule;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::panic::resume_unwind;

use tokio_util::sync::CancellationToken;

pub use record::{JobStatus, LastError, Progress, ProgressStatus, RunCounts, RunReport, RunResult};
pub use runner::{OrderError, Runner};
pub use schedule::Schedule;

use crate::telemetry::with_causes;

/// Work beside requests. One run at a time.
pub trait Job: Send + 'static {
    /// Its name in `/status`, metrics, log and orders: lower-case words with hyphens. Unique among the jobs that a server
    /// lists; jobs of one kind for several subjects, as the health checks of a balancer's servers, share it.
    const NAME: &'static str;

    /// Whether its reading and writing waits in turn with that of requests.
    const PACED: bool = false;

    /// When it runs; asked before each wait, so it may change with what the last run found.
    fn schedule(&self) -> Schedule;

    /// One run. The runner waits for its end whatever happens; a run that may take long looks at [`Run::stop`].
    ///
    /// After a panic the job is called again at its next time, with the state that the panic left.
    ///
    /// # Errors
    /// [`JobError`]: the run has not done its work.
    fn run(&mut self, run: Run) -> impl Future<Output = Result<(), JobError>> + Send;

    /// Ends when something calls for a run before its time; by default never. Must be safe to drop: it is dropped at each
    /// run that begins for another reason.
    fn called(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// What is left to do when the process ends; called once, after the last run.
    fn end(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// Why a run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its time has come.
    Time,
    /// [`Job::called`] ended.
    Call,
    /// An administrator wants it: [`Runner::run_now`].
    Order,
}

/// What a run is told, and where it tells how far it is.
#[derive(Clone, Debug)]
pub struct Run {
    cause: Cause,
    stop: CancellationToken,
    progress: Progress,
}

impl Run {
    /// Why it began.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        self.cause
    }

    /// Cancelled when the process ends.
    #[must_use]
    pub const fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Where it tells how far it is.
    #[must_use]
    pub const fn progress(&self) -> &Progress {
        &self.progress
    }
}

/// A run that has not done its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobError {
    what: &'static str,
    error: String,
    logged: bool,
}

impl JobError {
    /// Logged by the runner as an error: `what` is the sentence, as in "the store could not be tidied", `error` the cause.
    #[must_use]
    pub fn new(what: &'static str, error: &dyn Error) -> Self {
        Self { what, error: with_causes(error), logged: false }
    }

    /// One that the job logged in its own words, or that needs no line.
    #[must_use]
    pub const fn logged(error: String) -> Self {
        Self { what: "", error, logged: true }
    }

    fn log(&self, job: &'static str) {
        if !self.logged {
            tracing::error!(job, error = self.error, "{}", self.what);
        }
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.what.is_empty() { f.write_str(&self.error) } else { write!(f, "{}: {}", self.what, self.error) }
    }
}

/// Runs work that blocks on a thread for that. A panic in it goes on in the caller, so that it counts as the job's.
///
/// Dropped, the work ends by itself.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is ending and takes no work any more: the caller is dropped with it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests;
