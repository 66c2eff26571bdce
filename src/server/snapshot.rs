//! The one place where it is said what `/status` and the metrics show of the running server.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use super::VERSION;
use super::modes::{Modes, Seen};
use super::readiness::Ready;
use crate::admin::{ConfigStatus, IndexStatus, Snapshot, Source, StoreStatus};
use crate::auth::Authenticator;
use crate::clock::Timestamp;
use crate::jobs::Runner;
use crate::serve::{Server, Tls};
use crate::store::{IndexState, Refusal, Store};
use crate::telemetry::{IndexLabel, Logging, Metrics};

/// Whoever wants to give an order learns here why nobody listens.
const NO_ORDERS: &str = "no orders can be given: there is no admin socket, and the log of the start says why";

/// The parts that are asked.
pub(super) struct Observer {
    pub(super) started: Instant,
    pub(super) modes: Modes,
    pub(super) store: Store,
    pub(super) auth: Authenticator,
    pub(super) registry: Server,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) config: Arc<ArcSwap<ConfigStatus>>,
    pub(super) jobs: Runner,
    pub(super) logging: Arc<Logging>,
    /// Whether there is a socket for orders.
    pub(super) takes_orders: bool,
    pub(super) metrics: Metrics,
    pub(super) ready: Ready,
    /// Cancelled when the server begins to end.
    pub(super) draining: CancellationToken,
}

impl Source for Observer {
    fn snapshot(&self) -> Snapshot {
        let Seen { in_force, coming, previous, file } = self.modes.seen();
        Snapshot {
            version: VERSION,
            revision: option_env!("D8_REGISTRY_REVISION").unwrap_or("unknown"),
            mode: in_force,
            coming,
            previous,
            previous_answers: self.metrics.previous_answers(),
            mode_file: file,
            uptime_seconds: self.started.elapsed().as_secs(),
            draining: self.draining.is_cancelled(),
            warnings: if self.takes_orders { Vec::new() } else { vec![NO_ORDERS] },
            connections: self.registry.connections(),
            users: self.auth.user_count(),
            upstream: self.modes.upstream_status(),
            store: store(&self.store),
            index: index(&self.store),
            certificate_expiry: self.tls.as_ref().map(|tls| Timestamp::as_secs(tls.expiry())),
            config: self.config.load().as_ref().clone(),
            jobs: self.jobs.status(),
            dropped_log_lines: self.logging.dropped_lines(),
            sampled: self.store.samples(),
        }
    }

    async fn ready(&self) -> Result<(), String> {
        self.ready.check().await
    }

    fn jobs(&self) -> &Runner {
        &self.jobs
    }
}

fn store(store: &Store) -> StoreStatus {
    let (usage, damage) = (store.usage(), store.damage());
    StoreStatus {
        used_bytes: usage.used,
        budget_bytes: usage.budget,
        free_bytes: usage.free,
        reserve_bytes: usage.reserve,
        writable: usage.refusal.is_none(),
        refusal: usage.refusal.map(Refusal::as_str),
        damaged_contents: damage.contents,
        damaged_bytes: damage.bytes,
        disk_fault: damage.disk_fault,
    }
}

fn index(store: &Store) -> IndexStatus {
    let (state, objects_done) = match store.index_state() {
        IndexState::Closed => (IndexLabel::Closed, None),
        IndexState::Rebuilding { done } => (IndexLabel::Rebuilding, Some(done)),
        IndexState::Ready => (IndexLabel::Ready, None),
    };
    IndexStatus { state: state.as_str(), objects_done }
}
