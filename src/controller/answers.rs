//! Answers to questions, and the way to them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::switch::{ImagesAnswer, ProbeAnswer, ReferencesAnswer};

/// The newest answers, by key.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    /// Of images.
    pub(super) images: BTreeMap<String, ImagesAnswer>,
    /// Of probes.
    pub(super) probes: BTreeMap<String, ProbeAnswer>,
    /// Of scans.
    pub(super) references: BTreeMap<String, ReferencesAnswer>,
}

/// One answer.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Images(ImagesAnswer),
    Probe(ProbeAnswer),
    References(ReferencesAnswer),
}

/// Where the answers to one question go.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) key: String,
    pub(super) answers: Arc<Mutex<Answers>>,
    pub(super) changed: Arc<Notify>,
    /// Cancelled when the question is asked no longer.
    pub(super) stop: CancellationToken,
}

impl Reply {
    /// Puts an answer in the place of the one before, unless the question is asked no longer.
    pub(super) fn give(&self, answer: Answer) {
        let mut answers = lock(&self.answers);
        // Cancelled under the same lock: no answer comes after it was forgotten.
        if self.stop.is_cancelled() {
            return;
        }
        let key = self.key.clone();
        let is_new = match answer {
            Answer::Images(answer) => answers.images.insert(key, answer.clone()) != Some(answer),
            Answer::Probe(answer) => answers.probes.insert(key, answer.clone()) != Some(answer),
            Answer::References(answer) => answers.references.insert(key, answer.clone()) != Some(answer),
        };
        drop(answers);
        if is_new {
            self.changed.notify_one();
        }
    }
}

/// The answers, whatever happened to whoever held them.
pub(super) fn lock(answers: &Mutex<Answers>) -> MutexGuard<'_, Answers> {
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}
