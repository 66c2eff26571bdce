//! Which of the other masters has a content: all are asked at once, and the first yes is taken.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Replicas;
use crate::fetch::SingleFlight;
use crate::oci::{Digest, Reference, RepoName};
use crate::telemetry::{Metrics, PeersAnswer, UpstreamCause, with_causes};
use crate::upstream::{Upstream, UpstreamError};

/// Longest wait for the answers: who gives none by then counts as away. A client has waited for no longer when it hears 404.
const PATIENCE: Duration = Duration::from_secs(3);

/// A content of a repository, by digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// A blob.
    Blob(Digest),
    /// A manifest; a master that holds a part of its image alone says no.
    Manifest(Digest),
}

/// A master that has what is wanted.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The way to it.
    pub master: Upstream,
    /// Bytes of the content, if it said them.
    pub size: Option<u64>,
}

/// The question, and the masters that are not asked.
type Question = (RepoName, Wanted, Vec<String>);

/// The questions under way.
#[derive(Debug)]
pub(super) struct Questions {
    running: SingleFlight<Question, Option<Holder>>,
    metrics: Metrics,
    tasks: TaskTracker,
}

impl Questions {
    pub(super) fn new(metrics: Metrics, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { running: SingleFlight::new(tasks.clone(), stop), metrics, tasks }
    }
}

impl Replicas {
    /// The first of the other masters that says it has the content in this repository; `except`: those that are not asked,
    /// because they said so and did not give it. `None`: nobody says so within 3 s. Who asks the same at once shares one round
    /// of questions. Safe to drop: the questions go on.
    pub async fn holder(&self, repo: &RepoName, wanted: Wanted, except: &[Holder]) -> Option<Holder> {
        let group = self.0.group.load_full();
        let is_out = |peer: &&Upstream| except.iter().any(|holder| holder.master.is(peer));
        let peers: Vec<Upstream> = group.peers.iter().filter(|peer| !is_out(peer)).cloned().collect();
        if peers.is_empty() {
            return None;
        }
        let out = except.iter().map(|holder| holder.master.host().to_owned()).collect();
        let Questions { running, metrics, tasks } = &self.0.questions;
        let (metrics, tasks, name) = (metrics.clone(), tasks.clone(), repo.clone());
        let ask = || async move {
            let (answer, holder) = ask_all(&peers, &name, wanted, &tasks).await;
            metrics.peers_answer(answer);
            holder
        };
        let (holder, _) = running.join((repo.clone(), wanted, out), ask).await;
        holder.flatten()
    }
}

/// Asks all of them and takes the first yes.
async fn ask_all(
    peers: &[Upstream],
    repo: &RepoName,
    wanted: Wanted,
    tasks: &TaskTracker,
) -> (PeersAnswer, Option<Holder>) {
    let deadline = Instant::now() + PATIENCE;
    let mut asked: FuturesUnordered<_> = peers
        .iter()
        .map(|peer| {
            let (peer, repo) = (peer.clone(), repo.clone());
            async move { (ask(&peer, &repo, wanted, deadline).await, peer) }
        })
        .collect();
    let mut answer = PeersAnswer::Absent;
    while let Some((outcome, master)) = asked.next().await {
        match outcome {
            Ok(size) => {
                // Dropped, the other questions would close their connections.
                tasks.spawn(async move { while asked.next().await.is_some() {} });
                return (PeersAnswer::Found, Some(Holder { master, size }));
            }
            Err(error) if error.cause() == UpstreamCause::NotFound && error.is_registrys_own() => {}
            Err(error) => {
                tracing::debug!(%repo, ?wanted, error = with_causes(&error), "a master gave no answer");
                answer = PeersAnswer::Unanswered;
            }
        }
    }
    (answer, None)
}

/// The length of the content at one master.
async fn ask(
    peer: &Upstream,
    repo: &RepoName,
    wanted: Wanted,
    deadline: Instant,
) -> Result<Option<u64>, UpstreamError> {
    match wanted {
        Wanted::Blob(digest) => peer.blob_size(repo.as_str(), &digest, deadline).await,
        Wanted::Manifest(digest) => {
            let reference = Reference::Digest(digest);
            peer.manifest_facts(repo.as_str(), &reference, deadline).await.map(|facts| Some(facts.size))
        }
    }
}
