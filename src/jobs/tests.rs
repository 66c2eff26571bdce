use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::task::TaskTracker;

use super::*;

/// What the next run does.
enum Step {
    Succeed,
    Fail(&'static str),
    Panic,
    /// Says how far it is, and goes on until the stop.
    WaitForTheStop,
}

/// Does as it is told, one step a run, and says why each run began and when it was asked to end.
struct Scripted {
    schedule: Schedule,
    steps: UnboundedReceiver<Step>,
    calls: UnboundedReceiver<()>,
    begun: UnboundedSender<Option<Cause>>,
}

impl Job for Scripted {
    const NAME: &'static str = "scripted";
    const PACED: bool = true;

    fn schedule(&self) -> Schedule {
        self.schedule
    }

    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        let _ = self.begun.send(Some(run.cause()));
        match self.steps.recv().await {
            Some(Step::Succeed) | None => Ok(()),
            Some(Step::Fail(why)) => Err(JobError::logged(why.to_owned())),
            Some(Step::Panic) => panic!("as it was told"),
            Some(Step::WaitForTheStop) => {
                run.progress().set(3, Some(5));
                let _ = self.begun.send(None);
                run.stop().cancelled().await;
                Ok(())
            }
        }
    }

    async fn called(&mut self) {
        if self.calls.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    async fn end(&mut self) {
        let _ = self.begun.send(None);
    }
}

struct Started {
    runner: Runner,
    tasks: TaskTracker,
    stop: CancellationToken,
    steps: UnboundedSender<Step>,
    calls: UnboundedSender<()>,
    begun: UnboundedReceiver<Option<Cause>>,
}

fn start(schedule: Schedule) -> Started {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let runner = Runner::new(tasks.clone(), stop.clone());
    let (steps, told) = unbounded_channel();
    let (calls, called) = unbounded_channel();
    let (begins, begun) = unbounded_channel();
    runner.start(Scripted { schedule, steps: told, calls: called, begun: begins });
    Started { runner, tasks, stop, steps, calls, begun }
}

impl Started {
    async fn began(&mut self) -> Option<Cause> {
        self.begun.recv().await.unwrap()
    }

    fn status(&self) -> JobStatus {
        self.runner.status().pop().unwrap()
    }

    async fn end(self) {
        let Self { tasks, stop, steps, mut begun, .. } = self;
        stop.cancel();
        // A run that waits for its step goes on without one.
        drop(steps);
        tasks.close();
        tasks.wait().await;
        let mut last = Some(Cause::Time);
        while let Some(said) = begun.recv().await {
            last = said;
        }
        assert_eq!(last, None, "it was told to end");
    }
}

/// Longer than a test takes.
const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn it_runs_at_the_start_and_again_and_again() {
    let mut started = start(Schedule::continuous());
    for _ in 0..3 {
        assert_eq!(started.began().await, Some(Cause::Time));
        started.steps.send(Step::Succeed).unwrap();
    }
    assert_eq!(started.began().await, Some(Cause::Time));
    let status = started.status();
    assert_eq!((status.name, status.paced, status.running), ("scripted", true, true));
    assert_eq!(status.runs, RunCounts { ok: 3, failed: 0, panicked: 0 });
    assert!(status.last_start.is_some() && status.last_success == status.last_end && status.last_error.is_none());
    started.steps.send(Step::WaitForTheStop).unwrap();
    assert_eq!(started.began().await, None);
    assert_eq!(started.status().progress, Some(ProgressStatus { done: 3, total: Some(5) }));
    started.end().await;
}

#[tokio::test]
async fn a_panic_is_counted_and_the_job_goes_on() {
    let mut started = start(Schedule::every(Duration::from_millis(1)));
    for step in [Step::Panic, Step::Fail("no room"), Step::Succeed] {
        assert_eq!(started.began().await, Some(Cause::Time));
        started.steps.send(step).unwrap();
    }
    assert_eq!(started.began().await, Some(Cause::Time));
    let status = started.status();
    assert_eq!(status.runs, RunCounts { ok: 1, failed: 1, panicked: 1 });
    assert_eq!(status.last_error.unwrap().message.as_deref(), Some("no room"), "it stays when a later run is well");
    started.steps.send(Step::Succeed).unwrap();
    started.end().await;
}

#[tokio::test]
async fn a_panic_on_a_blocking_thread_is_the_caller_s() {
    let caught = std::panic::AssertUnwindSafe(blocking(|| panic!("on its thread"))).catch_unwind().await;
    let words: Result<(), _> = caught.map_err(|panic| *panic.downcast_ref::<&str>().unwrap());
    assert_eq!(words, Err("on its thread"));
    assert_eq!(blocking(|| 7).await, 7);
}

#[tokio::test]
async fn calls_begin_runs_but_not_behind_a_failure_and_orders_do_always() {
    let mut started = start(Schedule::when_called().retry(LONG, LONG));
    assert_eq!(started.status().last_start, None, "nobody called");
    started.calls.send(()).unwrap();
    assert_eq!(started.began().await, Some(Cause::Call));
    started.steps.send(Step::Fail("no room")).unwrap();
    // The call waits for the end of the pause, the order does not.
    started.calls.send(()).unwrap();
    started.steps.send(Step::Succeed).unwrap();
    let runner = started.runner.clone();
    let report = runner.run_now("scripted").await.unwrap();
    assert_eq!((report.result, report.error), (RunResult::Ok, None));
    assert_eq!(started.began().await, Some(Cause::Order));
    assert_eq!(started.began().await, Some(Cause::Call), "it was not lost");
    started.steps.send(Step::Succeed).unwrap();
    started.end().await;
}

#[tokio::test]
async fn an_order_hears_how_its_own_run_ended_and_not_the_one_before() {
    let mut started = start(Schedule::every(LONG));
    assert_eq!(started.began().await, Some(Cause::Time));
    let runner = started.runner.clone();
    let mut ordered = std::pin::pin!(runner.run_now("scripted"));
    assert!(futures_util::poll!(ordered.as_mut()).is_pending(), "the run before goes on");
    started.steps.send(Step::Succeed).unwrap();
    assert_eq!(started.began().await, Some(Cause::Order));
    started.steps.send(Step::Fail("no room")).unwrap();
    let report = ordered.await.unwrap();
    assert_eq!((report.result, report.error.as_deref()), (RunResult::Failed, Some("no room")));
    started.end().await;
}

#[tokio::test]
async fn who_orders_what_is_not_there_or_ends_hears_so() {
    let mut started = start(Schedule::every(LONG));
    let runner = started.runner.clone();
    assert_eq!(runner.run_now("nothing").await, Err(OrderError::Unknown("nothing".to_owned())));
    assert_eq!(started.began().await, Some(Cause::Time));
    let mut ordered = std::pin::pin!(runner.run_now("scripted"));
    assert!(futures_util::poll!(ordered.as_mut()).is_pending());
    started.stop.cancel();
    started.steps.send(Step::Succeed).unwrap();
    // The run that goes on ends; the ordered one never begins.
    assert_eq!(ordered.await, Err(OrderError::Ending));
    started.end().await;
    assert_eq!(runner.status(), Vec::new(), "a job that has ended is not listed");
}

#[tokio::test]
async fn a_job_of_its_own_end_leaves_the_others() {
    let started = start(Schedule::when_called());
    let own = started.stop.child_token();
    let (steps, told) = unbounded_channel();
    let (_calls, called) = unbounded_channel();
    let (begins, mut begun) = unbounded_channel();
    started.runner.until(own.clone()).start(Scripted {
        schedule: Schedule::every(LONG),
        steps: told,
        calls: called,
        begun: begins,
    });
    assert_eq!(begun.recv().await, Some(Some(Cause::Time)));
    assert_eq!(started.runner.status().len(), 2);
    steps.send(Step::Succeed).unwrap();
    own.cancel();
    assert_eq!((begun.recv().await, begun.recv().await), (Some(None), None), "it was told to end");
    while started.runner.status().len() > 1 {
        tokio::task::yield_now().await;
    }
    started.end().await;
}
