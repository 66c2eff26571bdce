//! The agent of a node where no bashible is: `d8-registry node-agent`.
//!
//! Keeps containerd's files as the Secret `registry-bashible-config` says, which is mounted, and says so at its own Node, by the
//! annotation and the label that bashible writes elsewhere. The files are `node_config`'s; this part decides when they are written,
//! keeps a copy of what is mounted, and asks for a pinned image as containerd would.
//!
//! In reading order: `given` is what is mounted and what was kept, `decision` what follows from both (pure), `local` one round on
//! the node, `containerd` the age of the process and its restart; `answer` speaks with the API server, `pulls` with registries;
//! `figures` is what a scrape sees.
//!
//! # Decisions
//!
//! - Rounds ask no API server. With it away the node goes on by what is mounted, and without a mount by the copy.
//! - A Secret that is gone is a way back only if the last one was that of a bare Unmanaged whose switch has ended: the key `settled` of
//!   ConfigMap `d8-registry-masters` names its version. What is mounted shows no other difference to an Unmanaged that an
//!   administrator has configured, where a deleted Secret is put back a moment later. The word is not in the Secret: one that is
//!   deleted before the kubelet has come for it would never have told it, and the node would keep its files for good.
//! - The copy is written before the files: a killed round has then left nothing that its copy does not explain. At the way back
//!   the copy goes last.
//! - The version is answered when the files are written and nothing in containerd's configuration works against them. A node that
//!   would go on pulling from elsewhere keeps a switch waiting, and its label and Events say why.
//! - Whether containerd has read its configuration is told by the start of its process and the file's time of change. A change of
//!   something else than registries counts too: nobody knows what was in the file before.
//! - A restart is a SIGTERM to the one service of that name, which its service manager starts again. systemctl would need the
//!   node's D-Bus.
//! - The image that is asked for is given by its digest, below the repository of the configuration in force: in every mode it is
//!   the same image. A mirror that rewrites names is not asked: only containerd knows Go's regular expressions.

mod answer;
mod containerd;
mod decision;
mod figures;
mod given;
mod local;
mod pulls;
mod rounds;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::answer::Answering;
use self::figures::Shown;
use self::local::{Local, Places, Said};
use self::pulls::Pulls;
pub use self::pulls::{InvalidPinnedImage, PinnedImage};
use self::rounds::Rounds;
use crate::cluster::{Access, Cluster, ClusterError};
use crate::config::watch::Watcher;
use crate::health::{End, HealthServer, StartError, Threads};
use crate::jobs::Runner;
use crate::telemetry::{Metrics, MetricsError};

/// The work is waiting.
const THREADS: Threads = Threads { name: "node-agent", workers: 2, blocking: 8 };
/// How long what is under way may take after SIGTERM. Files are whole whenever it ends.
const LAST: Duration = Duration::from_secs(10);

/// The options of an agent.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder below which the node's files are.
    pub root: PathBuf,
    /// The mounted Secret, and the ConfigMap's key beside it.
    pub mount: PathBuf,
    /// The folder of the copy.
    pub files: PathBuf,
    /// The node's `/proc`.
    pub proc: PathBuf,
    /// The name of the Node.
    pub node: String,
    /// The API server.
    pub access: Access,
    /// The namespace of Deckhouse's objects.
    pub namespace: String,
    /// Whether containerd is restarted when its configuration has changed.
    pub restart_containerd: bool,
    /// The image that is asked for; `None`: none is.
    pub image: Option<PinnedImage>,
    /// From one round, and one question for the image, to the next.
    pub interval: Duration,
    /// Where metrics and health are told.
    pub metrics_listen: Vec<SocketAddr>,
}

/// The agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeAgentError {
    /// No API server is named.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// What every program needs.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The metrics can't be set up.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

impl NodeAgentError {
    /// Whether what it was started with has to be changed: exit code 2, otherwise 1.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::Cluster(ClusterError::Access(_)))
    }
}

/// Works until SIGTERM or SIGINT; blocking. The node's files stay then as they are.
///
/// # Errors
/// [`NodeAgentError`] if it can't start.
pub fn run(options: Options) -> Result<(), NodeAgentError> {
    THREADS.run(serve_node(options))
}

async fn serve_node(options: Options) -> Result<(), NodeAgentError> {
    let mut end = End::new()?;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let shown = Arc::new(Shown::default());
    let status = HealthServer::start(&options.metrics_listen, &shown)?;
    let cluster = Cluster::connect(&options.access, &options.namespace).await?;
    let (say, said) = watch::channel(Said::default());
    let (by_bashible, told) = watch::channel(false);
    let changed = Arc::new(Notify::new());
    let Options { root, mount, files, proc, .. } = options;
    let jobs = Runner::new(tasks.clone(), stop.clone());
    if let Some(image) = options.image {
        tracing::info!(%image, "asking for an image as containerd does");
        jobs.start(Pulls {
            image,
            root: root.clone(),
            said: said.clone(),
            every: options.interval,
            shown: Arc::clone(&shown),
            metrics: Metrics::new()?,
            tasks: tasks.clone(),
            asked: None,
            clients: None,
            since_blob: None,
        });
    }
    jobs.start(Answering {
        cluster,
        node: options.node,
        said,
        by_bashible,
        changed: Arc::clone(&changed),
        told: BTreeSet::new(),
        shown: Arc::clone(&shown),
        away: false,
    });
    let watcher = Watcher::new(vec![mount.clone()]);
    let local =
        Local { places: Places { root, mount, files, proc }, may_restart: options.restart_containerd, restarted: None };
    jobs.start(Rounds::new(local, watcher, options.interval, told, say, changed, shown));
    end.come().await;
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(LAST, tasks.wait()).await.is_err() {
        tracing::warn!("something was still under way after {} s", LAST.as_secs());
    }
    status.end().await;
    tracing::info!("stopped");
    Ok(())
}
