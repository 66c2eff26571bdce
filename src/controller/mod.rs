//! The controller: looks at the cluster, decides, writes; again and again until SIGTERM.
//!
//! `switch` decides, and is pure; this part has the time, the sockets and the API server (`cluster`). Several controllers may
//! run: a Lease says which one writes, the others stand by. With the API server away nothing changes, and it is asked again.
//!
//! In reading order: `look` reads the world, `state_client` the servers; `rounds` is the loop and `pace` its rests; `writing` carries a decision out,
//! `leadership` says whether it may; `questions` are answered (`answers`) beside the loop: `images`, `probing`, `scanning`, by way of
//! `sources`; `pins` says what the cluster runs, `previous` forgets what a change of the upstream could go back to; `figures` is
//! what a scrape sees. `stand_in` is the same work in the process of a command.

mod answers;
mod figures;
mod images;
mod leadership;
mod look;
mod pace;
mod pins;
mod previous;
mod probing;
mod questions;
mod rounds;
mod scanning;
mod sources;
mod stand_in;
mod state_client;
mod writing;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::figures::Shown;
use self::look::Looker;
use self::pins::PinsKeeper;
use self::questions::Questions;
use self::rounds::Rounds;
use self::sources::Sources;
use crate::cluster::{Access, Candidate, Cluster, ClusterError, Watched};
use crate::health::{End, HealthServer, StartError, Threads};
use crate::switch::SwitchOptions;
use crate::switch::outputs::{names, users};
use crate::telemetry::{Metrics, MetricsError};
use crate::values::Role;

pub(crate) use self::look::settings_secret;
pub use self::sources::{registry_of, running_release};
pub use self::stand_in::{AtWork, StandIn, StandInOptions};
pub use self::state_client::Identity;

/// From one look at what the cluster runs to the next: each lists all pods and templates, and what it says counts for a day.
pub const PINS_INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(1800);
/// The work is waiting for answers.
const THREADS: Threads = Threads { name: "controller", workers: 2, blocking: 512 };
/// How long what is under way may take after SIGTERM. A write is one request.
const LAST: Duration = Duration::from_secs(10);

/// The options of a controller.
#[derive(Clone, Debug)]
pub struct Options {
    /// The API server.
    pub access: Access,
    /// The namespace of all that is read and written.
    pub namespace: String,
    /// This process, as the Lease names it.
    pub identity: String,
    /// Port of the registry on the masters.
    pub registry_port: u16,
    /// Where metrics and health are told.
    pub metrics_listen: Vec<SocketAddr>,
    /// What the controller shows to the servers, and who signed theirs.
    pub certificate: Identity,
    /// How a switch is carried out.
    pub switch: SwitchOptions,
    /// From one look at what the cluster runs to the next, within [`PINS_INTERVALS`].
    pub pins_interval: Duration,
}

/// The controller could not start.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
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

impl ControllerError {
    /// Whether what it was started with has to be changed: exit code 2, otherwise 1.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::Cluster(ClusterError::Access(_)))
    }
}

/// Works until SIGTERM or SIGINT; blocking.
///
/// # Errors
/// [`ControllerError`] if it can't start.
pub fn run(options: Options) -> Result<(), ControllerError> {
    THREADS.run(control(options))
}

async fn control(options: Options) -> Result<(), ControllerError> {
    let mut end = End::new()?;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let shown = Arc::new(Shown::default());
    let status = HealthServer::start(&options.metrics_listen, &shown)?;
    let cluster = Cluster::connect(&options.access, &options.namespace).await?;
    let changed = Arc::new(Notify::new());
    let user_names = Role::ALL.map(users::user_secret);
    let mut secrets = vec![
        names::CONFIG,
        names::SHARED_CONFIG,
        names::STATE,
        names::MODE_FILE,
        names::BASHIBLE_CONFIG,
        names::DECKHOUSE_REGISTRY,
        names::RECORD,
        names::VALUES,
    ];
    secrets.extend(user_names.iter().map(String::as_str));
    let watched = Watched {
        secrets: &secrets,
        config_maps: &[names::MASTERS, names::CA],
        services: &[names::SERVICE, names::PUSH_SERVICE],
        module_configs: &["deckhouse"],
    };
    cluster.watch(watched, &changed, &tasks, &stop);
    shown.counts_calls_of(cluster.clone());
    // The Lease is given back only once nothing is written any more.
    let (lease_stop, leading) = (CancellationToken::new(), TaskTracker::new());
    let (term, may_write) = watch::channel(None);
    leading.spawn(leadership::hold(
        Candidate::new(cluster.clone(), names::LEASE, &options.identity),
        term,
        // It waits for its turn, whatever another one does.
        Arc::default(),
        lease_stop.clone(),
    ));
    let pins = PinsKeeper {
        cluster: cluster.clone(),
        interval: options.pins_interval,
        may_write: may_write.clone(),
        shown: Arc::clone(&shown),
        stop: stop.clone(),
    };
    tasks.spawn(Box::pin(pins.go()));
    tasks.spawn(Box::pin(previous::expire(cluster.clone(), may_write.clone(), stop.clone())));
    let sources = Arc::new(Sources {
        cluster: cluster.clone(),
        port: options.registry_port,
        scan_interval: AtomicU64::new(0),
        metrics: Metrics::new()?,
        tasks: tasks.clone(),
    });
    let rounds = Rounds {
        looker: Looker::new(cluster, options.certificate, options.registry_port, options.switch),
        questions: Questions::new(sources, Arc::clone(&changed), tasks.clone(), stop.clone()),
        changed,
        may_write,
        shown,
        stop: stop.clone(),
    };
    let rounds = tasks.spawn(Box::pin(rounds.go()));
    end.come().await;
    stop.cancel();
    if tokio::time::timeout(LAST, rounds).await.is_err() {
        tracing::warn!("a write was still under way after {} s", LAST.as_secs());
    }
    lease_stop.cancel();
    leading.close();
    tasks.close();
    let all = async {
        leading.wait().await;
        tasks.wait().await;
    };
    let _ = tokio::time::timeout(LAST, all).await;
    status.end().await;
    tracing::info!("stopped");
    Ok(())
}
