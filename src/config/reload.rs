//! Acts on a changed file, SIGHUP or an order: calls what reads the configuration again, and keeps calling while a swap of
//! files is half done, or while the configuration is refused: what it lacks may come in a file that is not known yet. What is
//! read and put into force is the caller's.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::watch::Watcher;
use crate::jobs::{self, Job, JobError, Run, Schedule};

/// Why the configuration is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The content of a watched file changed, or that of one which a refused configuration names.
    FileChanged,
    /// SIGHUP, or an order over the admin socket.
    Signal,
}

/// What became of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The new configuration is in force; these paths decide about the next one.
    Applied(Vec<PathBuf>),
    /// The files don't fit each other yet, as a key and its certificate while they are swapped: try again.
    NotYet(String),
    /// It is wrong; the old one stays in force.
    Refused(String),
}

/// What a change led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The new configuration is in force.
    Applied,
    /// The old one stays in force, and why.
    Refused(String),
}

/// Reads the configuration again and puts it into force.
pub trait Reload {
    /// One attempt, all or nothing. Dropped half-way only when the process stops.
    fn attempt(&mut self, cause: Cause) -> impl Future<Output = Attempt> + Send;

    /// Told once for each change, and when an attempt at a refused one ends otherwise, for the log and the metric.
    fn report(&mut self, cause: Cause, outcome: &Outcome);
}

/// How often the files are looked at, and how patient a reload is with a swap in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two looks at the files.
    pub look: Duration,
    /// Between two attempts while files don't fit each other.
    pub retry: Duration,
    /// Number of further attempts before that is an error.
    pub retries: u32,
}

impl Default for Pace {
    /// Looks every 5 s: the kubelet itself takes up to a minute to bring a changed Secret. Retries for 10 s.
    fn default() -> Self {
        Self { look: Duration::from_secs(5), retry: Duration::from_millis(500), retries: 20 }
    }
}

/// Listens for SIGHUP: made early, so that none kills the process, and turned into a job when there is something to reload.
#[derive(Debug)]
pub struct Reloader {
    hangup: Signal,
    pace: Pace,
}

impl Reloader {
    /// Listens for SIGHUP from now on; needs a tokio runtime.
    ///
    /// # Errors
    /// The signal can't be taken over.
    pub fn new(pace: Pace) -> std::io::Result<Self> {
        Ok(Self { hangup: signal(SignalKind::hangup())?, pace })
    }

    /// The job that reloads through `reload` on each change of the watched paths, on SIGHUP and when it is ordered.
    /// The first look at the paths was taken by the caller, before it read them: a change since then is seen.
    pub fn job<R: Reload + Send + 'static>(self, watcher: Watcher, reload: R) -> ReloadJob<R> {
        ReloadJob {
            hangup: self.hangup,
            pace: self.pace,
            watcher: Arc::new(Mutex::new(watcher)),
            reload,
            refused: None,
        }
    }
}

/// Reloads on each change, on SIGHUP and when it is ordered. A run fails while the configuration on disk is refused.
#[derive(Debug)]
pub struct ReloadJob<R> {
    hangup: Signal,
    pace: Pace,
    /// Locked by one look at a time; a look that panics leaves what was seen before.
    watcher: Arc<Mutex<Watcher>>,
    reload: R,
    /// Why the files as they are were refused.
    refused: Option<String>,
}

impl<R: Reload + Send + 'static> Job for ReloadJob<R> {
    const NAME: &'static str = "reload";

    fn schedule(&self) -> Schedule {
        Schedule::every(self.pace.look)
    }

    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        let changed = off_thread(&self.watcher, Watcher::poll_now).await;
        let cause = match run.cause() {
            jobs::Cause::Call | jobs::Cause::Order => Cause::Signal,
            jobs::Cause::Time if changed || self.refused.is_some() => Cause::FileChanged,
            jobs::Cause::Time => return Ok(()),
        };
        let is_again = cause == Cause::FileChanged && !changed;
        let pace = if is_again { Pace { retries: 0, ..self.pace } } else { self.pace };
        let attempt = run.stop().run_until_cancelled(patiently(&mut self.reload, cause, pace)).await;
        let outcome = match attempt {
            None => return Err(JobError::logged("the server is ending".to_owned())),
            Some(Attempt::Applied(paths)) => {
                off_thread(&self.watcher, |watcher| watcher.watch(paths)).await;
                self.refused = None;
                Outcome::Applied
            }
            Some(Attempt::NotYet(why) | Attempt::Refused(why)) => {
                if is_again && self.refused.as_ref() == Some(&why) {
                    return Err(JobError::logged(why));
                }
                self.refused = Some(why.clone());
                Outcome::Refused(why)
            }
        };
        self.reload.report(cause, &outcome);
        match outcome {
            Outcome::Applied => Ok(()),
            Outcome::Refused(why) => Err(JobError::logged(why)),
        }
    }

    async fn called(&mut self) {
        if self.hangup.recv().await.is_none() {
            // The runtime is going down.
            std::future::pending::<()>().await;
        }
    }
}

/// Looks at the files off the runtime's threads: they may be on a file system that hangs.
async fn off_thread<T: Send + 'static>(
    watcher: &Arc<Mutex<Watcher>>,
    look: impl FnOnce(&mut Watcher) -> T + Send + 'static,
) -> T {
    let watcher = Arc::clone(watcher);
    jobs::blocking(move || look(&mut watcher.lock().unwrap_or_else(PoisonError::into_inner))).await
}

async fn patiently(reload: &mut impl Reload, cause: Cause, pace: Pace) -> Attempt {
    for _ in 0..pace.retries {
        match reload.attempt(cause).await {
            Attempt::NotYet(_) => tokio::time::sleep(pace.retry).await,
            done => return done,
        }
    }
    reload.attempt(cause).await
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// Answers as told and says what it was told.
    struct Scripted {
        answers: VecDeque<Attempt>,
        attempts: mpsc::UnboundedSender<Cause>,
        outcomes: mpsc::UnboundedSender<Outcome>,
    }

    impl Reload for Scripted {
        /// Over the end of the script nothing happens any more.
        async fn attempt(&mut self, cause: Cause) -> Attempt {
            let Some(answer) = self.answers.pop_front() else { return std::future::pending().await };
            let _ = self.attempts.send(cause);
            answer
        }

        fn report(&mut self, _: Cause, outcome: &Outcome) {
            let _ = self.outcomes.send(outcome.clone());
        }
    }

    const PACE: Pace = Pace { look: Duration::from_millis(1), retry: Duration::from_millis(1), retries: 3 };

    struct Started {
        file: PathBuf,
        attempts: mpsc::UnboundedReceiver<Cause>,
        outcomes: mpsc::UnboundedReceiver<Outcome>,
        stop: CancellationToken,
        task: tokio_util::task::TaskTracker,
        _dir: tempfile::TempDir,
    }

    fn start(answers: Vec<Attempt>) -> Started {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, "0").unwrap();
        let (attempts_in, attempts) = mpsc::unbounded_channel();
        let (outcomes_in, outcomes) = mpsc::unbounded_channel();
        let script = Scripted { answers: answers.into(), attempts: attempts_in, outcomes: outcomes_in };
        let (stop, task) = (CancellationToken::new(), tokio_util::task::TaskTracker::new());
        let reloader = Reloader::new(PACE).unwrap();
        let job = reloader.job(Watcher::new(vec![file.clone()]), script);
        jobs::Runner::new(task.clone(), stop.clone()).start(job);
        task.close();
        Started { file, attempts, outcomes, stop, task, _dir: dir }
    }

    #[tokio::test]
    async fn a_change_is_applied_and_new_paths_are_watched() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("tls.crt");
        std::fs::write(&other, "0").unwrap();
        let mut started =
            start(vec![Attempt::Applied(vec![other.clone()]), Attempt::Refused("no certificate".to_owned())]);
        std::fs::write(&started.file, "1").unwrap();
        assert_eq!(started.outcomes.recv().await, Some(Outcome::Applied));
        std::fs::write(&other, "1").unwrap();
        assert_eq!(started.outcomes.recv().await, Some(Outcome::Refused("no certificate".to_owned())));
        started.stop.cancel();
        started.task.wait().await;
        assert_eq!(started.attempts.recv().await, Some(Cause::FileChanged));
        assert_eq!(started.attempts.recv().await, Some(Cause::FileChanged));
        assert_eq!(started.attempts.recv().await, None, "no attempt without a change");
    }

    #[tokio::test]
    async fn what_was_refused_is_tried_again_and_reported_when_it_ends_otherwise() {
        let refused = |why: &str| Attempt::Refused(why.to_owned());
        let (one, two) = (refused("no licence"), refused("an empty licence"));
        let mut started = start(vec![one.clone(), one.clone(), one, two.clone(), two, Attempt::Applied(Vec::new())]);
        std::fs::write(&started.file, "1").unwrap();
        for why in ["no licence", "an empty licence"] {
            assert_eq!(started.outcomes.recv().await, Some(Outcome::Refused(why.to_owned())));
        }
        assert_eq!(started.outcomes.recv().await, Some(Outcome::Applied));
        started.stop.cancel();
        started.task.wait().await;
        let mut attempts = 0;
        while started.attempts.recv().await.is_some() {
            attempts += 1;
        }
        assert_eq!(attempts, 6);
        assert_eq!(started.outcomes.recv().await, None);
    }

    #[tokio::test]
    async fn a_swap_in_progress_is_tried_again_until_it_fits() {
        let not_yet = || Attempt::NotYet("the key is of another certificate".to_owned());
        let mut started = start(vec![not_yet(), not_yet(), Attempt::Applied(Vec::new())]);
        std::fs::write(&started.file, "1").unwrap();
        assert_eq!(started.outcomes.recv().await, Some(Outcome::Applied));
        started.stop.cancel();
        started.task.wait().await;
    }

    #[tokio::test]
    async fn a_swap_that_never_ends_is_an_error_once() {
        let not_yet = Attempt::NotYet("the key is of another certificate".to_owned());
        let mut started = start(vec![not_yet; 4]);
        std::fs::write(&started.file, "1").unwrap();
        let outcome = started.outcomes.recv().await;
        assert_eq!(outcome, Some(Outcome::Refused("the key is of another certificate".to_owned())));
        started.stop.cancel();
        started.task.wait().await;
        let mut attempts = 0;
        while started.attempts.recv().await.is_some() {
            attempts += 1;
        }
        assert_eq!(attempts, 4);
        assert_eq!(started.outcomes.recv().await, None);
    }
}
