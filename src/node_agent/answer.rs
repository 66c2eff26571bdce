//! What the node says of itself, brought to its Node, and Events about what is wrong.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::figures::Shown;
use super::local::{Problem, Said};
use crate::clock;
use crate::cluster::{Cluster, ClusterError};
use crate::jobs::{Job, JobError, Run, Schedule};
use crate::telemetry::with_causes;

/// The Node is looked at so often though nothing has changed: somebody may have made it anew.
const EVERY: Duration = Duration::from_secs(120);
const JITTER: Duration = Duration::from_secs(30);
/// Between tries while the API server is away.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// Most Events of one run; the rest come with the next.
const MOST_EVENTS: usize = 5;
/// Most that are remembered as told.
const MOST_TOLD: usize = 200;

/// Writes the annotation and the label.
#[derive(Debug)]
pub(super) struct Answering {
    pub(super) cluster: Cluster,
    pub(super) node: String,
    pub(super) said: watch::Receiver<Said>,
    /// Whether bashible writes this node, for the rounds on it.
    pub(super) by_bashible: watch::Sender<bool>,
    /// There is something new to say.
    pub(super) changed: Arc<Notify>,
    /// Problems that have had their Event.
    pub(super) told: BTreeSet<Problem>,
    pub(super) shown: Arc<Shown>,
    /// Whether the API server was away the last time.
    pub(super) away: bool,
}

impl Job for Answering {
    const NAME: &'static str = "node-answer";

    fn schedule(&self) -> Schedule {
        Schedule::every(EVERY).not_at_start().jitter(JITTER).retry(RETRY.0, RETRY.1)
    }

    async fn called(&mut self) {
        self.changed.notified().await;
    }

    async fn run(&mut self, _: Run) -> Result<(), JobError> {
        let answered = self.answer().await;
        self.shown.api(answered.is_ok());
        match answered {
            Ok(()) => {
                if std::mem::take(&mut self.away) {
                    tracing::info!("the API server answers again");
                }
                Ok(())
            }
            Err(error) => {
                let reason = with_causes(&error);
                // Once for each time that it is away; the tries go on.
                if !std::mem::replace(&mut self.away, true) {
                    tracing::warn!(%reason, "the node's answer can't be written; it is tried again, and the node goes on as it is");
                }
                Err(JobError::logged(reason))
            }
        }
    }
}

impl Answering {
    async fn answer(&mut self) -> Result<(), ClusterError> {
        let said = self.said.borrow_and_update().clone();
        let Some(node) = self.cluster.node(&self.node).await? else {
            // It is made by the kubelet.
            return Ok(());
        };
        self.by_bashible.send_if_modified(|before| std::mem::replace(before, node.ours) != node.ours);
        if node.ours || said.stands_by {
            return Ok(());
        }
        let version = said.answer.version.filter(|version| node.version.as_ref() != Some(version));
        let word = said.answer.usual.map(|usual| if usual { "default" } else { "custom" });
        let word = word.filter(|word| node.containerd_config.as_deref() != Some(*word));
        if version.is_some() || word.is_some() {
            self.cluster.answer(&self.node, version.as_deref(), word).await?;
            tracing::info!(version, containerd = word, "the node has answered");
        }
        self.tell(said.problems).await
    }

    /// What is not wrong any more is told again if it comes back.
    async fn tell(&mut self, problems: Vec<Problem>) -> Result<(), ClusterError> {
        self.told.retain(|problem| problems.contains(problem));
        let new: Vec<Problem> = problems.into_iter().filter(|problem| !self.told.contains(problem)).collect();
        for problem in new.into_iter().take(MOST_EVENTS) {
            let reason = problem.kind.reason();
            self.cluster.publish_about_node(&self.node, reason, &problem.text, clock::now()).await?;
            if self.told.len() < MOST_TOLD {
                self.told.insert(problem);
            }
        }
        Ok(())
    }
}
