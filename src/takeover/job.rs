//! The import in a running server: a job that runs when somebody has placed an order, and what is to be seen of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use super::import::{Far, ImportError, MOST_OF_BUNDLE, import};
use super::orders::{ImportOrder, SourceOrder};
use super::report::Report;
use crate::jobs::{Job, JobError, Run, Schedule, blocking};
use crate::store::Store;
use crate::telemetry::{Metrics, with_causes};

/// Orders and what came of the last. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Imports(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Placed, or being carried out.
    order: Option<ImportOrder>,
    far: Far,
    last: Option<Result<Report, String>>,
}

impl Imports {
    /// Places an order, for the next run of the job.
    ///
    /// # Errors
    /// A sentence: another is being carried out, or it is none.
    pub fn place(&self, order: Value) -> Result<(), String> {
        let order: ImportOrder = serde_json::from_value(order).map_err(|error| error.to_string())?;
        order.options()?;
        if let SourceOrder::Registry(registries) = &order.source {
            registries.addresses()?;
        }
        let mut state = self.state();
        if state.order.is_some() {
            return Err("another import runs; it goes on where it is, wait for its end".to_owned());
        }
        state.order = Some(order);
        state.far = Far::default();
        Ok(())
    }

    /// How far the run is, or what the last one came to: `running`, `report` or `error`.
    #[must_use]
    pub fn shown(&self) -> Value {
        let state = self.state();
        match (&state.order, &state.last) {
            (Some(_), _) => json!({ "running": state.far }),
            (None, Some(Ok(report))) => json!({ "report": report }),
            (None, Some(Err(error))) => json!({ "error": error }),
            (None, None) => json!({}),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The order is carried out, or given up, when this is dropped.
struct Over<'a>(&'a Imports);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.state().order = None;
    }
}

/// Carries orders out.
#[derive(Debug)]
pub struct ImportJob {
    store: Store,
    imports: Imports,
    metrics: Metrics,
    tasks: TaskTracker,
}

impl ImportJob {
    /// Takes images into `store`. What a client of a registry counts and begins is of `metrics` and `tasks`.
    #[must_use]
    pub const fn new(store: Store, imports: Imports, metrics: Metrics, tasks: TaskTracker) -> Self {
        Self { store, imports, metrics, tasks }
    }
}

impl Job for ImportJob {
    const NAME: &'static str = "import";
    const PACED: bool = true;

    fn schedule(&self) -> Schedule {
        Schedule::when_called()
    }

    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        let Some(order) = self.imports.state().order.clone() else {
            return Err(JobError::logged("nothing was ordered: use d8-registry import".to_owned()));
        };
        // Also where it panics: another order can be placed.
        let over = Over(&self.imports);
        let (store, imports) = (self.store.clone(), self.imports.clone());
        let (metrics, tasks) = (self.metrics.clone(), self.tasks.clone());
        let ended = blocking(move || {
            let source = order.source.open(MOST_OF_BUNDLE, (&metrics, &tasks, run.stop()))?;
            let options = order.options().map_err(super::SourceError::Registry)?;
            import(&store, &source, &options, run.stop(), &|far| {
                run.progress().set(far.bytes, far.of_bytes);
                imports.state().far = far;
            })
        });
        let ended: Result<Report, ImportError> = ended.await;
        if let Ok(report) = &ended
            && !report.dry_run
        {
            let (tags, bytes, left) = (report.tags.taken, report.bytes, report.tags.left);
            tracing::info!(tags, bytes, left, "another registry's images were taken over");
        }
        let failed = ended.as_ref().err().map(|error| JobError::new("images could not be taken over", error));
        self.imports.state().last = Some(ended.map_err(|error| with_causes(&error)));
        drop(over);
        failed.map_or(Ok(()), Err)
    }
}
