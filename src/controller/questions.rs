//! What is found out beside the loop: one task a question, until it is asked no longer.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answers::{Answers, Reply, lock};
use super::images::{self, Images};
use super::probing;
use super::scanning;
use super::sources::Sources;
use crate::switch::Question;

/// The questions that are being answered.
#[derive(Debug)]
pub(super) struct Questions {
    sources: Arc<Sources>,
    images: Arc<Images>,
    running: BTreeMap<String, (Question, CancellationToken)>,
    answers: Arc<Mutex<Answers>>,
    changed: Arc<Notify>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Questions {
    /// None yet. `changed` is notified of each new answer.
    pub(super) fn new(
        sources: Arc<Sources>,
        changed: Arc<Notify>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let images = Arc::new(Images::new(Arc::clone(&sources)));
        Self { sources, images, running: BTreeMap::new(), answers: Arc::default(), changed, tasks, stop }
    }

    /// The newest answers.
    pub(super) fn answers(&self) -> Answers {
        lock(&self.answers).clone()
    }

    /// From one scan to the next, for scans that are under way too.
    pub(super) fn scan_each(&self, interval: Duration) {
        let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        self.sources.scan_interval.store(millis, Ordering::Relaxed);
    }

    /// Works on these from now on, and on no others. One that is asked already goes on.
    pub(super) fn ask(&mut self, questions: &[Question]) {
        let still =
            |key: &str, asked: &Question| questions.iter().any(|question| question.key() == key && question == asked);
        let gone: Vec<_> =
            self.running.iter().filter(|(key, (asked, _))| !still(key, asked)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            let mut answers = lock(&self.answers);
            if let Some((_, stop)) = self.running.remove(&key) {
                stop.cancel();
            }
            answers.images.remove(&key);
            answers.probes.remove(&key);
            answers.references.remove(&key);
        }
        for question in questions {
            if !self.running.contains_key(question.key()) {
                let stop = self.stop.child_token();
                self.running.insert(question.key().to_owned(), (question.clone(), stop.clone()));
                self.start(question.clone(), stop);
            }
        }
    }

    fn start(&self, question: Question, stop: CancellationToken) {
        let reply = Reply {
            key: question.key().to_owned(),
            answers: Arc::clone(&self.answers),
            changed: Arc::clone(&self.changed),
            stop: stop.clone(),
        };
        let (sources, images) = (Arc::clone(&self.sources), Arc::clone(&self.images));
        self.tasks.spawn(async move {
            // Dropped in the middle it ends its requests.
            let answering = async {
                match question {
                    Question::Images { at, check_mode, .. } => images::check(&images, &at, check_mode, &reply).await,
                    Question::Probe { upstream, .. } => probing::probe(&sources, &upstream, &reply).await,
                    Question::References { address, unless_at, .. } => {
                        scanning::scan(&sources, &address, unless_at.as_ref(), &reply).await;
                    }
                }
            };
            stop.run_until_cancelled(Box::pin(answering)).await;
        });
    }
}
