//! What is about to go by itself is asked of all other masters: it goes if each of them would remove it too.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, try_join_all};
use tokio::time::Instant;

use super::Comparison;
use super::text::removable;
use crate::oci::RepoName;
use crate::store::{Agreed, Record, RemovalQuestion};
use crate::telemetry::with_causes;
use crate::upstream::Upstream;

/// Longest wait for an answer: the other master reads a repository, or the lists of all releases.
const PATIENCE: Duration = Duration::from_secs(600);

/// Longest answer in bytes: about 250,000 records.
const ANSWER_BYTES: usize = 64 << 20;

/// Most records that one answer has; what is beyond goes in a later run.
const MOST_RECORDS: usize = 50_000;

/// Says what would go here now, by this store alone; the error, a sentence, why nothing would.
pub type RemovableSource =
    Arc<dyn Fn(RemovalQuestion) -> BoxFuture<'static, Result<Vec<(RepoName, Record)>, String>> + Send + Sync>;

impl Comparison {
    /// What all other masters of the list would remove too, each by itself. Safe to drop.
    ///
    /// # Errors
    /// A sentence: not each of them has answered, or it is not known who they are.
    pub async fn agreed(&self, question: &RemovalQuestion) -> Result<Agreed, String> {
        let Some(status) = self.0.replicas.status() else { return Ok(Agreed::All) };
        if let Some(error) = status.error {
            return Err(format!("it is not known who the other masters are: {error}"));
        }
        if (self.0.local)().is_none() {
            return Err("mode Local rests".to_owned());
        }
        let peers = self.0.replicas.peers();
        if peers.is_empty() {
            return Ok(Agreed::All);
        }
        let mut answers = try_join_all(peers.iter().map(|peer| would_remove(peer, question))).await?.into_iter();
        let mut all = answers.next().unwrap_or_default();
        for answer in answers {
            all.retain(|of| answer.contains(of));
        }
        let mut agreed: HashMap<RepoName, HashSet<Record>> = HashMap::new();
        for (repo, record) in all {
            agreed.entry(repo).or_default().insert(record);
        }
        Ok(Agreed::Records(agreed))
    }

    /// What would go here now, by this store alone: the answer to another master. One question at a time: each reads a repository.
    /// Safe to drop.
    ///
    /// # Errors
    /// A sentence: nothing goes here now.
    pub async fn removable(&self, question: RemovalQuestion) -> Result<Vec<(RepoName, Record)>, String> {
        let _turn = self.0.answering.lock().await;
        let mut all = (self.0.removable)(question).await?;
        all.truncate(MOST_RECORDS);
        Ok(all)
    }
}

async fn would_remove(peer: &Upstream, question: &RemovalQuestion) -> Result<HashSet<(RepoName, Record)>, String> {
    let path = match question {
        RemovalQuestion::ByRule(name) => format!("/v2/{name}/removable/by-rule"),
        RemovalQuestion::Unreached(name) => format!("/v2/{name}/removable/unreached"),
    };
    let wrong = |why: &str| format!("{} {why}", peer.host());
    let told = peer.told(&path, ANSWER_BYTES, Instant::now() + PATIENCE).await;
    let told = told.map_err(|error| wrong(&format!("can't be asked: {}", with_causes(&error))))?;
    removable(&String::from_utf8_lossy(&told.bytes)).map_err(|why| wrong(&why))
}
