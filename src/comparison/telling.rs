//! Another master is asked to take what was said here, and tells how far it is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Comparison;
use crate::oci::{Reference, RepoName};
use crate::telemetry::with_causes;
use crate::upstream::Upstream;

/// Longest wait for the first word.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who moves nothing for so long is not waited for.
pub(super) const STILL: Duration = Duration::from_secs(20);

/// Orders that are given at once, to all masters together. A push that finds no place counts as one that was not taken.
pub(super) const ORDERS: usize = 512;

/// Another master does not have it, as far as is known here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NotTaken {
    /// Bytes that it moved.
    pub moved: u64,
    /// A sentence.
    pub why: String,
}

impl Comparison {
    /// Has `master` take what was last said here of a tag or a manifest, with all that it names; ends when that is there, durably.
    /// `moves` hears of the bytes that it has moved up to now, about each second. Safe to drop: that master goes on.
    ///
    /// # Errors
    /// [`NotTaken`]: it says so, can't be reached, or has moved nothing for 20 s.
    pub async fn have_taken(
        &self,
        master: &Upstream,
        repo: &RepoName,
        of: &Reference,
        mut moves: impl FnMut(u64) + Send,
    ) -> Result<(), NotTaken> {
        let mut moved = 0;
        let wrong = |moved: u64, why: String| NotTaken { moved, why };
        let path = format!("/v2/{repo}/records/take/{of}");
        let order = master.order(&path, Instant::now() + PATIENCE).await;
        let mut body = order.map_err(|error| wrong(moved, with_causes(&error)))?;
        let mut words = String::new();
        let mut last = Instant::now();
        loop {
            let chunk = tokio::time::timeout_at(last + STILL, body.chunk()).await;
            let chunk = chunk.map_err(|_| wrong(moved, "it has moved nothing for 20 s".to_owned()))?;
            let Some(chunk) = chunk.map_err(|error| wrong(moved, with_causes(&error)))? else {
                return Err(wrong(moved, "it ended without a word".to_owned()));
            };
            words.push_str(&String::from_utf8_lossy(&chunk));
            while let Some((line, rest)) = words.split_once('\n') {
                if line == "done" {
                    return Ok(());
                }
                if let Some(why) = line.strip_prefix("failed ") {
                    return Err(wrong(moved, why.to_owned()));
                }
                if let Some(bytes) = line.parse().ok().filter(|bytes| *bytes > moved) {
                    (moved, last) = (bytes, Instant::now());
                    moves(moved);
                }
                words = rest.to_owned();
            }
            if words.len() > 1024 {
                return Err(wrong(moved, "it says something that is no word of it".to_owned()));
            }
        }
    }

    /// Masters that are listed, this one too; `None`: no list was ever in force, although there is to be one.
    #[must_use]
    pub fn masters(&self) -> Option<usize> {
        self.0.replicas.masters()
    }

    /// Tells all other masters that something was said here of tags or manifests. Best effort: who does not hear it finds it in the
    /// next comparison. Waits for nothing.
    pub fn tell(&self, repo: &RepoName, all: &[Reference]) {
        drop(self.tell_each(repo, all));
    }

    /// The same; ends when so many masters have taken it, this one counted, or when no other one is left that may. Says how many
    /// have. Safe to drop: the others go on.
    pub async fn spread(&self, repo: &RepoName, all: &[Reference], wanted: usize) -> usize {
        let mut outcomes = self.tell_each(repo, all);
        let mut have = 1;
        while have < wanted {
            match outcomes.recv().await {
                Some(true) => have += 1,
                Some(false) => {}
                None => break,
            }
        }
        have
    }

    /// Whether each of the other masters has taken it, as it turns out.
    fn tell_each(&self, repo: &RepoName, all: &[Reference]) -> mpsc::Receiver<bool> {
        let masters = self.0.replicas.peers();
        let (sender, outcomes) = mpsc::channel(masters.len().max(1));
        for master in masters {
            let Ok(place) = Arc::clone(&self.0.orders).try_acquire_owned() else {
                tracing::debug!(%repo, master = master.host(), "too much is told at once: the comparison finds it");
                // There is room for one of each.
                let _ = sender.try_send(false);
                continue;
            };
            let (comparison, repo, all, sender) = (self.clone(), repo.clone(), all.to_vec(), sender.clone());
            self.0.tasks.spawn(async move {
                let _place = place;
                let stop = comparison.0.stop.clone();
                let told = async {
                    for of in &all {
                        if let Err(error) = comparison.have_taken(&master, &repo, of, |_| {}).await {
                            tracing::info!(repository = %repo, reference = %of, master = master.host(), %error, "a master has not taken it yet");
                            return false;
                        }
                    }
                    true
                };
                let is_taken = stop.run_until_cancelled(told).await.unwrap_or(false);
                // There is room for one of each; nobody may wait any more.
                let _ = sender.try_send(is_taken);
            });
        }
        outcomes
    }
}
