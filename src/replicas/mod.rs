//! The other masters of a cluster, each with a Local of its own: who they are, and which of them has a content.
//!
//! Contents are immutable, so whoever lacks one may have it from any master that holds it under the same repository. This part
//! follows the list of masters and our certificate (`follow`, `group`), asks all others at once (`question`), and has a name for
//! each that stands in the ids of uploads (`master_id`). It is asked and never answers: the routes for peers are `api/peers`, what
//! is done with a yes is `mode/local`. Stores nothing, knows no user.
//!
//! # Decisions
//!
//! - A peer is an upstream with another face (`upstream::Face::Peers`): the same client, with circuits, limits and a deadline,
//!   and so the same fills. Its requests count in metrics of their own, or an upstream's alerts would speak of masters.
//! - Only a 404 in the specification's shape is a no. A server that does not know the routes, or does not take our certificate,
//!   answers another one, and counts as one that gave no answer.
//! - The files are followed apart from the configuration, as the pins are: masters come and go while a key is refused.

mod follow;
mod group;
mod master_id;
mod question;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use follow::FollowMasters;
pub use group::GroupError;
pub use master_id::{InvalidMasterId, MasterId};
pub use question::{Holder, Wanted};

use self::follow::Watched;
use self::group::Group;
use self::question::Questions;
use crate::telemetry::Metrics;
use crate::upstream::Upstream;

/// The files that say who the masters are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaFiles {
    /// The list of the masters' servers.
    pub peers: PathBuf,
    /// PEM: the certificate by which others know us, with its chain.
    pub certificate: PathBuf,
    /// PEM: its key.
    pub key: PathBuf,
    /// PEM: the authority of all of them.
    pub ca: PathBuf,
}

impl ReplicaFiles {
    /// Whether they can be used; blocking. Asks nobody. A list that can't be read is none to begin with: masters are listed when
    /// they are there.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn check(&self) -> Result<(), GroupError> {
        group::Identity::read(self).map(drop)
    }
}

/// The other masters. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Replicas(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    watched: Mutex<Watched>,
    /// Other files are to be followed.
    changed: Notify,
    group: ArcSwap<Group>,
    /// Other masters are in force.
    followed: Notify,
    /// Why the files on disk are not in force.
    error: Mutex<Option<String>>,
    questions: Questions,
    /// Runs what clients do beside requests.
    tasks: TaskTracker,
}

/// What is known of the masters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicasStatus {
    /// The others, `host:port` each.
    pub peers: Vec<String>,
    /// Why the files on disk are not in force, or not enough; a sentence.
    pub error: Option<String>,
    /// When the certificate that they are shown stops being valid, in seconds since 1970; `None`: none is in force.
    pub certificate_expiry: Option<u64>,
}

impl Replicas {
    /// Reads the files for the first time; blocking. Files that can't be used are said in the log and looked at again when they
    /// change. Work is spawned on `tasks` and ends when `stop` is cancelled.
    #[must_use]
    pub fn new(files: Option<ReplicaFiles>, metrics: Metrics, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let replicas = Self(Arc::new(Inner {
            watched: Mutex::new(Watched::of(files)),
            changed: Notify::new(),
            group: ArcSwap::default(),
            followed: Notify::new(),
            error: Mutex::default(),
            questions: Questions::new(metrics, tasks.clone(), stop),
            tasks,
        }));
        if let Err(error) = replicas.look() {
            tracing::error!(error, "the files of replicas can't be used: no other master is asked or answered");
        }
        replicas
    }

    /// Whether one of the addresses is a master's by the list in force.
    #[must_use]
    pub fn has_address(&self, addresses: &[IpAddr]) -> bool {
        let group = self.0.group.load();
        addresses.iter().any(|address| group.addresses.contains(&address.to_canonical()))
    }

    /// Whether there is another master to ask.
    #[must_use]
    pub fn has_peers(&self) -> bool {
        !self.0.group.load().peers.is_empty()
    }

    /// Masters that are listed, this one too; `None`: files are named, and no list was ever in force.
    #[must_use]
    pub fn masters(&self) -> Option<usize> {
        let group = self.0.group.load();
        let is_unknown = self.lock_watched().files().is_some() && !group.is_listed;
        (!is_unknown).then_some(group.peers.len() + 1)
    }

    /// Whether this master is the first of the list: what one has to do for all it does.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.0.group.load().is_first
    }

    /// Ends when other masters are in force than at the last call. For one who waits. Safe to drop.
    pub async fn changed(&self) {
        self.0.followed.notified().await;
    }

    /// The ways to the other masters.
    #[must_use]
    pub fn peers(&self) -> Vec<Upstream> {
        self.0.group.load().peers.clone()
    }

    /// The way to the master that has one of these addresses; `None`: it is no other one of the list in force.
    #[must_use]
    pub fn peer_at(&self, addresses: &[IpAddr]) -> Option<Upstream> {
        let group = self.0.group.load();
        let is_at = |peer: &&Upstream| {
            let host = peer.host().rsplit_once(':').map_or(peer.host(), |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
            host.is_ok_and(|host| addresses.iter().any(|address| address.to_canonical() == host.to_canonical()))
        };
        group.peers.iter().find(is_at).cloned()
    }

    /// What is known of the masters; `None`: no files are named.
    #[must_use]
    pub fn status(&self) -> Option<ReplicasStatus> {
        self.lock_watched().files()?;
        let group = self.0.group.load();
        let error = self.error().clone().or_else(|| group.warning.clone());
        let peers = group.peers.iter().map(|peer| peer.host().to_owned()).collect();
        Some(ReplicasStatus { peers, error, certificate_expiry: group.expiry })
    }

    /// Whether the files on disk are in force; `None`: none are named.
    #[must_use]
    pub fn is_in_force(&self) -> Option<bool> {
        self.lock_watched().files()?;
        Some(self.error().is_none())
    }

    fn lock_watched(&self) -> MutexGuard<'_, Watched> {
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self) -> MutexGuard<'_, Option<String>> {
        self.0.error.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Addresses of masters.
type Addresses = BTreeSet<IpAddr>;
