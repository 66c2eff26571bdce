//! What is remembered of a job: what runs, what the last run came to, who waits for one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Notify, oneshot};

use super::{JobError, Schedule};
use crate::clock::{self, Timestamp};

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunResult {
    /// It did its work.
    Ok,
    /// It did not; the error says why.
    Failed,
    /// It panicked: a fault of the program.
    Panicked,
}

impl RunResult {
    /// As it stands in metrics and log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
        }
    }
}

/// One run, for whoever ordered it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunReport {
    /// The job's name.
    pub job: &'static str,
    /// What the run came to.
    pub result: RunResult,
    /// Why it has not done its work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// Runs since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RunCounts {
    /// That did their work.
    pub ok: u64,
    /// That did not.
    pub failed: u64,
    /// That panicked.
    pub panicked: u64,
}

impl RunCounts {
    /// The count of each result.
    #[must_use]
    pub const fn by_result(&self) -> [(RunResult, u64); 3] {
        [(RunResult::Ok, self.ok), (RunResult::Failed, self.failed), (RunResult::Panicked, self.panicked)]
    }
}

/// The last failure or panic; it stays when later runs do their work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// When that run ended, in seconds since 1970-01-01T00:00:00Z.
    pub at: u64,
    /// Why it failed. May name repositories and files; `None` for readers who may not see those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How far a run is, of how much if that is known. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    done: AtomicU64,
    /// [`UNKNOWN`] while it is not known.
    total: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        Self { done: AtomicU64::new(0), total: AtomicU64::new(UNKNOWN) }
    }
}

const UNKNOWN: u64 = u64::MAX;

impl Progress {
    /// Says how far the run is. Cheap: may be called for every object.
    pub fn set(&self, done: u64, total: Option<u64>) {
        // Two figures for a person to read: no order between them is relied on.
        self.0.done.store(done, Ordering::Relaxed);
        self.0.total.store(total.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }

    fn shown(&self) -> ProgressStatus {
        let total = self.0.total.load(Ordering::Relaxed);
        ProgressStatus { done: self.0.done.load(Ordering::Relaxed), total: (total != UNKNOWN).then_some(total) }
    }
}

/// How far a run is, in what the job counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProgressStatus {
    /// What is done.
    pub done: u64,
    /// Of how much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// What the status shows of a job. Times are seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobStatus {
    /// Its name.
    pub name: &'static str,
    /// When it runs, in words.
    pub schedule: String,
    /// Whether its reading and writing waits in turn with that of requests.
    pub paced: bool,
    /// Whether it runs now.
    pub running: bool,
    /// How far the run is; only while it runs and has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressStatus>,
    /// When the last run began, also if it has not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_start: Option<u64>,
    /// When the last run ended that has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_end: Option<u64>,
    /// How long that one took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seconds: Option<f64>,
    /// What it came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_result: Option<RunResult>,
    /// When a run last ended that did its work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success: Option<u64>,
    /// Runs since the start of the process.
    pub runs: RunCounts,
    /// The last failure or panic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
}

/// A job as the runner knows it.
#[derive(Debug)]
pub(super) struct Record {
    name: &'static str,
    paced: bool,
    past: Mutex<Past>,
    orders: Mutex<Orders>,
    /// Somebody ordered a run.
    pub(super) ordered: Notify,
}

#[derive(Debug)]
struct Past {
    schedule: Schedule,
    /// Of the run that goes on.
    running: Option<Progress>,
    last_start: Option<Timestamp>,
    last_end: Option<Timestamp>,
    last_taken: Option<Duration>,
    last_result: Option<RunResult>,
    last_success: Option<Timestamp>,
    runs: RunCounts,
    last_error: Option<LastError>,
}

/// Who waits for the end of a run that has not begun.
#[derive(Debug, Default)]
struct Orders {
    waiting: Vec<oneshot::Sender<RunReport>>,
    /// The job runs no more.
    closed: bool,
}

/// How a run ended: on its own, or with a panic.
pub(super) type Ended = Result<Result<(), JobError>, Panicked>;

/// A run that panicked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panicked;

impl Record {
    pub(super) fn new(name: &'static str, paced: bool, schedule: Schedule) -> Self {
        let past = Past {
            schedule,
            running: None,
            last_start: None,
            last_end: None,
            last_taken: None,
            last_result: None,
            last_success: None,
            runs: RunCounts::default(),
            last_error: None,
        };
        Self { name, paced, past: Mutex::new(past), orders: Mutex::default(), ordered: Notify::new() }
    }

    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn set_schedule(&self, schedule: Schedule) {
        self.past().schedule = schedule;
    }

    /// A run begins, for all who ordered one until now.
    pub(super) fn begin(&self) -> (Progress, Vec<oneshot::Sender<RunReport>>) {
        let progress = Progress::default();
        {
            let mut past = self.past();
            past.running = Some(progress.clone());
            past.last_start = Some(clock::now());
        }
        (progress, std::mem::take(&mut self.orders().waiting))
    }

    /// It has ended.
    pub(super) fn end(&self, ended: &Ended, taken: Duration) -> RunReport {
        let now = clock::now();
        let (result, error) = match ended {
            Ok(Ok(())) => (RunResult::Ok, None),
            Ok(Err(error)) => (RunResult::Failed, Some(error.to_string())),
            Err(Panicked) => (RunResult::Panicked, Some("it panicked: see the log".to_owned())),
        };
        let mut past = self.past();
        past.running = None;
        past.last_end = Some(now);
        past.last_taken = Some(taken);
        past.last_result = Some(result);
        match result {
            RunResult::Ok => {
                past.runs.ok += 1;
                past.last_success = Some(now);
            }
            RunResult::Failed => past.runs.failed += 1,
            RunResult::Panicked => past.runs.panicked += 1,
        }
        if let Some(error) = &error {
            past.last_error = Some(LastError { at: now.as_secs(), message: Some(error.clone()) });
        }
        let millis = u64::try_from(taken.as_millis()).unwrap_or(u64::MAX);
        RunReport { job: self.name, result, error, millis }
    }

    /// What tells of a run that begins after now; `None` if there will be none.
    pub(super) fn order(&self) -> Option<oneshot::Receiver<RunReport>> {
        let mut orders = self.orders();
        if orders.closed {
            return None;
        }
        let (told, hears) = oneshot::channel();
        orders.waiting.push(told);
        drop(orders);
        self.ordered.notify_one();
        Some(hears)
    }

    /// Whether somebody waits for a run to begin.
    pub(super) fn is_ordered(&self) -> bool {
        !self.orders().waiting.is_empty()
    }

    /// No run will begin any more: whoever waits for one hears so.
    pub(super) fn close(&self) {
        let mut orders = self.orders();
        orders.closed = true;
        orders.waiting.clear();
    }

    pub(super) fn status(&self) -> JobStatus {
        let past = self.past();
        let seconds = |at: Option<Timestamp>| at.map(Timestamp::as_secs);
        let progress = past.running.as_ref().map(Progress::shown);
        JobStatus {
            name: self.name,
            schedule: past.schedule.to_string(),
            paced: self.paced,
            running: past.running.is_some(),
            progress: progress.filter(|shown| shown.done > 0 || shown.total.is_some()),
            last_start: seconds(past.last_start),
            last_end: seconds(past.last_end),
            last_seconds: past.last_taken.map(|taken| taken.as_secs_f64()),
            last_result: past.last_result,
            last_success: seconds(past.last_success),
            runs: past.runs,
            last_error: past.last_error.clone(),
        }
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
