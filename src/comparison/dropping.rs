//! Records of deletions are dropped when every master of the list has them.
//!
//! The first master of the list looks each hour. Of a repository of which every master has the same records it orders all others
//! to drop the deletions older than 24 h, for exactly these records: who has other ones by then drops nothing. When all have
//! done so it drops them too. If one did not, those that did hear of the deletions again, by the comparison, and the next look
//! begins anew: to drop what all have, or to take it again, brings nothing back.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::Comparison;
use super::text::repositories;
use crate::clock::Timestamp;
use crate::jobs::{Job, JobError, Run, Schedule};
use crate::oci::RepoName;
use crate::store::{RepositorySum, Sum};
use crate::telemetry::with_causes;
use crate::upstream::Upstream;

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(3600);

/// A deletion is known for so long at least, however soon all masters know it: a list of masters may be wrong for some hours.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// How far the clock of who orders it may be ahead.
const CLOCKS_APART: Duration = Duration::from_secs(3600);

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longest list of repositories in bytes.
const LIST_BYTES: usize = 32 << 20;

/// Longest answer to an order in bytes.
const WORD_BYTES: usize = 1024;

/// Drops records of deletions that all masters have.
#[derive(Debug)]
pub struct DropDeletions {
    comparison: Comparison,
}

impl DropDeletions {
    /// By `comparison`.
    #[must_use]
    pub const fn new(comparison: Comparison) -> Self {
        Self { comparison }
    }
}

impl Job for DropDeletions {
    const NAME: &'static str = "record-deletions";

    fn schedule(&self) -> Schedule {
        Schedule::every(EVERY).jitter(EVERY / 5).not_at_start()
    }

    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        let stop = run.stop().clone();
        let Some(outcome) = stop.run_until_cancelled(self.comparison.drop_deletions()).await else { return Ok(()) };
        match outcome {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "records of deletions that all masters have were dropped"),
            // Nothing is wrong with it: a master is away, or pushed to.
            Err(why) => tracing::info!(why, "records of deletions stay"),
        }
        Ok(())
    }
}

impl Comparison {
    /// Drops what all masters have, if this one is the first of the list; says how many. Safe to drop.
    ///
    /// # Errors
    /// A sentence: not all masters have answered.
    async fn drop_deletions(&self) -> Result<usize, String> {
        let (store, replicas) = (&self.0.store, &self.0.replicas);
        let all = store.repositories_with_deletions();
        if (self.0.local)().is_none() || !replicas.is_first() || all.is_empty() || store.records_sum().is_none() {
            return Ok(0);
        }
        if let Some(error) = replicas.status().and_then(|status| status.error) {
            return Err(format!("it is not known who the other masters are: {error}"));
        }
        let before = Timestamp::from_millis(crate::clock::now().as_millis().saturating_sub(millis(KEPT)));
        let peers = replicas.peers();
        let lists = try_join_all(peers.iter().map(told_sums)).await?;
        let mut dropped = 0;
        for repo in all {
            let sum = store.sum_with_deletions(&repo, before).await.map_err(|error| with_causes(&error))?;
            let Some(sum) = sum.filter(|sum| lists.iter().all(|list| list.get(&repo).is_some_and(|of| of.sum == *sum)))
            else {
                continue;
            };
            let orders = try_join_all(peers.iter().map(|peer| order(peer, &repo, sum, before))).await;
            match orders {
                Ok(_) => {
                    let done = store.drop_deletions(&repo, sum, before).await.map_err(|error| with_causes(&error))?;
                    dropped += done.unwrap_or_default();
                }
                Err(why) => tracing::info!(repository = %repo, why, "records of deletions stay until the next look"),
            }
        }
        Ok(dropped)
    }

    /// Drops the deletions of a repository before `before` by the order of another master, which has the same records, of the sum
    /// `sum`, as all others.
    ///
    /// # Errors
    /// A sentence: they stay.
    pub async fn drop_by_order(&self, repo: &RepoName, sum: Sum, before: Timestamp) -> Result<(), String> {
        let latest = crate::clock::now().as_millis() + millis(CLOCKS_APART);
        if before.as_millis() > latest.saturating_sub(millis(KEPT)) {
            return Err("they are younger than 24 h by the clock there".to_owned());
        }
        match self.0.store.drop_deletions(repo, sum, before).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err("other records are there by now, or some are on their way".to_owned()),
            Err(error) => Err(with_causes(&error)),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn told_sums(peer: &Upstream) -> Result<BTreeMap<RepoName, RepositorySum>, String> {
    let wrong = |why: String| format!("{} {why}", peer.host());
    let told = peer.told("/records/repositories", LIST_BYTES, Instant::now() + PATIENCE).await;
    let told = told.map_err(|error| wrong(format!("can't be asked: {}", with_causes(&error))))?;
    repositories(&String::from_utf8_lossy(&told.bytes)).ok_or_else(|| wrong("told no list of repositories".to_owned()))
}

async fn order(peer: &Upstream, repo: &RepoName, sum: Sum, before: Timestamp) -> Result<(), String> {
    let path = format!("/v2/{repo}/records/drop/{sum}-{}", before.as_millis());
    let wrong = |why: String| format!("{} {why}", peer.host());
    let deadline = Instant::now() + PATIENCE;
    let failed = |error: &crate::upstream::UpstreamError| wrong(format!("did not do it: {}", with_causes(error)));
    let mut body = peer.order(&path, deadline).await.map_err(|error| failed(&error))?;
    let mut words = Vec::new();
    let read = async {
        while let Some(chunk) = body.chunk().await.map_err(|error| failed(&error))? {
            if words.len() + chunk.len() > WORD_BYTES {
                return Err(wrong("says something that is no word of it".to_owned()));
            }
            words.extend_from_slice(&chunk);
        }
        Ok(())
    };
    tokio::time::timeout_at(deadline, read).await.map_err(|_| wrong("did not do it in time".to_owned()))??;
    match String::from_utf8_lossy(&words).trim_end() {
        "done" => Ok(()),
        other => Err(wrong(format!("says: {}", other.strip_prefix("failed ").unwrap_or(other)))),
    }
}
