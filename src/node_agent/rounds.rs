//! Rounds on the node: at the start, when the mount changes, and from time to time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::figures::Shown;
use super::local::{Local, Said};
use crate::config::watch::Watcher;
use crate::jobs::{self, Job, JobError, Run, Schedule};

/// Between two looks at the mount. The kubelet itself brings a changed Secret only after a minute.
const LOOK: Duration = Duration::from_secs(2);

/// Carries out rounds.
#[derive(Debug)]
pub(super) struct Rounds {
    local: Arc<Mutex<Local>>,
    watcher: Arc<Mutex<Watcher>>,
    every: Duration,
    by_bashible: watch::Receiver<bool>,
    say: watch::Sender<Said>,
    changed: Arc<Notify>,
    shown: Arc<Shown>,
}

impl Rounds {
    /// `watcher`: of the mount, made before its first reading.
    pub(super) fn new(
        local: Local,
        watcher: Watcher,
        every: Duration,
        by_bashible: watch::Receiver<bool>,
        say: watch::Sender<Said>,
        changed: Arc<Notify>,
        shown: Arc<Shown>,
    ) -> Self {
        let (local, watcher) = (Arc::new(Mutex::new(local)), Arc::new(Mutex::new(watcher)));
        Self { local, watcher, every, by_bashible, say, changed, shown }
    }
}

impl Job for Rounds {
    const NAME: &'static str = "node-files";

    fn schedule(&self) -> Schedule {
        Schedule::every(self.every).jitter(self.every / 10)
    }

    async fn called(&mut self) {
        loop {
            tokio::select! {
                told = self.by_bashible.changed() => {
                    if told.is_ok() {
                        return;
                    }
                    // The process ends.
                    std::future::pending::<()>().await;
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            let watcher = Arc::clone(&self.watcher);
            if jobs::blocking(move || watcher.lock().unwrap_or_else(PoisonError::into_inner).poll_now()).await {
                return;
            }
        }
    }

    async fn run(&mut self, _: Run) -> Result<(), JobError> {
        let by_bashible = *self.by_bashible.borrow_and_update();
        let local = Arc::clone(&self.local);
        let round = move || local.lock().unwrap_or_else(PoisonError::into_inner).round(by_bashible);
        let said = jobs::blocking(round).await;
        for note in said.notes.iter().filter(|note| !self.say.borrow().notes.contains(note)) {
            tracing::info!("{note}");
        }
        for problem in said.problems.iter().filter(|problem| !self.say.borrow().problems.contains(problem)) {
            tracing::error!(kind = problem.kind.as_str(), "{}", problem.text);
        }
        self.shown.said(&said);
        let other = self.say.send_if_modified(|before| {
            let other = *before != said;
            *before = said;
            other
        });
        if other {
            self.changed.notify_one();
        }
        Ok(())
    }
}
