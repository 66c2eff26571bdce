//! The one place where it is said what `/status` and the metrics show of the running server.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use super::modes::{Modes, Seen};
use super::readiness::Ready;
use super::{VERSION, expected, replicas};
use crate::admin::{
    CollectionQuestion, CollectionStatus, ConfigStatus, DamagedContent, DropError, DropQuestion, IndexStatus,
    LeftAlone, PinsStatus, RetentionStatus, ScrubStatus, Snapshot, SnapshotOrder, SnapshotRefusal, Source, StoreStatus,
    UnusedCacheStatus, UnusedStatus, VerifyQuestion,
};
use crate::auth::Authenticator;
use crate::clock::Timestamp;
use crate::comparison::Comparison;
use crate::expected::Expected;
use crate::jobs::Runner;
use crate::oci::{InvalidDigest, RepoName};
use crate::replicas::Replicas;
use crate::retention::{Retention, RetentionReport};
use crate::serve::{Server, Tls};
use crate::store::{
    BrokenContent, CollectionReport, IndexState, PinsState, Refusal, Restoring, SnapshotError, SnapshotName, Store,
    StoreError, UnusedData, VerifyOptions,
};
use crate::takeover::Imports;
use crate::telemetry::families::{CERTIFICATE_EXPIRY, PEERS, PEERS_IN_FORCE, RETENTION_LEFT_ALONE};
use crate::telemetry::{CertificateUse, IndexLabel, Logging, Metrics, Samples, with_causes};

/// Whoever wants to give an order learns here why nobody listens.
const NO_ORDERS: &str = "no orders can be given: there is no admin socket, and the log of the start says why";

/// Whoever wants this server's place learns here why it does not get it.
const KEEPS: &str = "it was started without --give-way: stop it";

/// The parts that are asked.
pub(super) struct Observer {
    pub(super) started: Instant,
    pub(super) modes: Modes,
    pub(super) store: Store,
    pub(super) retention: Retention,
    pub(super) expected: Expected,
    pub(super) auth: Authenticator,
    pub(super) registry: Server,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) config: Arc<ArcSwap<ConfigStatus>>,
    pub(super) jobs: Runner,
    pub(super) imports: Imports,
    pub(super) replicas: Replicas,
    pub(super) comparison: Comparison,
    pub(super) logging: Arc<Logging>,
    /// Whether there is a socket for orders.
    pub(super) takes_orders: bool,
    /// One verification at a time.
    pub(super) verifying: tokio::sync::Mutex<()>,
    pub(super) metrics: Metrics,
    pub(super) ready: Ready,
    /// Cancelled, it ends for another server of its data directory; `None` if it does not.
    pub(super) gives_way: Option<CancellationToken>,
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
            collection: collection(&self.store),
            pins: pins(&self.store),
            expected: expected::status(&self.expected),
            replicas: replicas::status(&self.replicas, &self.comparison),
            unused: unused(&self.store, &self.modes),
            scrub: scrub(&self.store),
            retention: retention(&self.retention),
            index: index(&self.store),
            certificate_expiry: self.tls.as_ref().map(|tls| Timestamp::as_secs(tls.expiry())),
            config: self.config.load().as_ref().clone(),
            jobs: self.jobs.status(),
            dropped_log_lines: self.logging.dropped_lines(),
            sampled: self.sampled(),
        }
    }

    async fn ready(&self) -> Result<(), String> {
        self.ready.check().await
    }

    fn jobs(&self) -> &Runner {
        &self.jobs
    }

    async fn unused_data(&self, asked: DropQuestion) -> Result<serde_json::Value, DropError> {
        let (dropped, mode, dry_run) = match asked {
            DropQuestion::Look(mode) => (self.store.look_at_drop(mode).await, mode, true),
            DropQuestion::Want(mode) if self.store.want_drop(mode) => return Ok(serde_json::Value::Null),
            DropQuestion::Want(mode) => return Err(DropError::Used(mode)),
            DropQuestion::Last(mode) => (Ok(self.store.dropped(mode).unwrap_or_default()), mode, false),
        };
        let dropped = dropped.map_err(|error| DropError::Failed(with_causes(&error)))?;
        Ok(dropped.to_json(mode, dry_run))
    }

    fn give_way(&self) -> Result<(), &'static str> {
        self.gives_way.as_ref().map(CancellationToken::cancel).ok_or(KEEPS)
    }

    fn place_import(&self, order: serde_json::Value) -> Result<(), String> {
        self.imports.place(order)
    }

    fn import(&self) -> serde_json::Value {
        self.imports.shown()
    }

    async fn collection(&self, asked: CollectionQuestion) -> Result<serde_json::Value, String> {
        let failed = |error: StoreError| with_causes(&error);
        let shown = match asked {
            CollectionQuestion::Last => with_tags(&self.store.last_collection(), &self.retention.last()),
            CollectionQuestion::Look => {
                let (rules, collected) = self.retention.preview_all().await.map_err(failed)?;
                with_tags(&collected, &rules)
            }
            CollectionQuestion::Rules => serde_json::to_value(self.retention.preview().await.map_err(failed)?),
            CollectionQuestion::Why(digest) => {
                let digest = digest.parse().map_err(|error: InvalidDigest| error.to_string())?;
                serde_json::to_value(self.retention.why_kept(digest).await.map_err(failed)?)
            }
        };
        shown.map_err(|error| error.to_string())
    }

    async fn verify(&self, asked: VerifyQuestion) -> Result<serde_json::Value, String> {
        let Ok(_verifying) = self.verifying.try_lock() else {
            return Err("a verification goes on: ask again when it has ended".to_owned());
        };
        let repository = asked.repository.as_deref().map(RepoName::parse_stored).transpose();
        let repository = repository.map_err(|error| error.to_string())?;
        let options = VerifyOptions { quick: asked.quick, repository, allow_missing: self.modes.allow_missing() };
        let report = self.store.verify(options, self.jobs.stop().child_token()).await;
        serde_json::to_value(report.map_err(|error| with_causes(&error))?).map_err(|error| error.to_string())
    }

    async fn snapshots(&self, order: SnapshotOrder) -> Result<serde_json::Value, SnapshotRefusal> {
        let named =
            |name: String| name.parse::<SnapshotName>().map_err(|error| SnapshotRefusal::Refused(error.to_string()));
        let done = match order {
            SnapshotOrder::List => {
                serde_json::to_value(self.store.list_snapshots().await.map_err(|error| refusal(&error))?)
            }
            SnapshotOrder::Create(name) => {
                serde_json::to_value(self.store.create_snapshot(named(name)?).await.map_err(|error| refusal(&error))?)
            }
            SnapshotOrder::Remove(name) => {
                serde_json::to_value(self.store.remove_snapshot(named(name)?).await.map_err(|error| refusal(&error))?)
            }
            SnapshotOrder::Restore { name, dry_run, exact } => {
                let how = Restoring { dry_run, exact };
                serde_json::to_value(
                    self.store.restore_snapshot(named(name)?, how).await.map_err(|error| refusal(&error))?,
                )
            }
        };
        done.map_err(|error| SnapshotRefusal::Failed(error.to_string()))
    }
}

fn refusal(error: &SnapshotError) -> SnapshotRefusal {
    let text = with_causes(error);
    match error {
        SnapshotError::Unknown(_) => SnapshotRefusal::Unknown(text),
        SnapshotError::Exists(_)
        | SnapshotError::TooMany(_)
        | SnapshotError::Unfit { .. }
        | SnapshotError::Restless { .. } => SnapshotRefusal::Refused(text),
        SnapshotError::Stopped | SnapshotError::Store(_) => SnapshotRefusal::Failed(text),
    }
}

fn scrub(store: &Store) -> ScrubStatus {
    let status = store.scrub();
    ScrubStatus {
        interval_seconds: status.interval.map(|interval| interval.as_secs()),
        began: status.began.as_secs(),
        last_ended: status.ended.map(Timestamp::as_secs),
        permille: status.permille,
        contents: status.contents,
        bytes: status.bytes,
        found: status.found,
        found_since_start: status.since_start[2],
    }
}

impl Observer {
    fn sampled(&self) -> Samples {
        let mut samples = self.store.samples();
        if let (Some(status), Some(in_force)) = (self.replicas.status(), self.replicas.is_in_force()) {
            samples.add(&PEERS, &[], status.peers.len() as u64);
            samples.add(&PEERS_IN_FORCE, &[], u64::from(in_force));
            if let Some(expiry) = status.certificate_expiry {
                samples.add(&CERTIFICATE_EXPIRY, &[CertificateUse::Peer.as_str()], expiry);
            }
            replicas::compared(&mut samples, &self.comparison.status());
        }
        expected::add_samples(&self.expected, &mut samples);
        samples.add(&RETENTION_LEFT_ALONE, &[], self.retention.status().left_alone.len() as u64);
        samples
    }
}

fn store(store: &Store) -> StoreStatus {
    let (usage, damage) = (store.usage(), store.damage());
    StoreStatus {
        used_bytes: usage.used,
        snapshot_bytes: usage.held,
        snapshots: usage.snapshots,
        budget_bytes: usage.budget,
        free_bytes: usage.free,
        reserve_bytes: usage.reserve,
        writable: usage.refusal.is_none(),
        refusal: usage.refusal.map(Refusal::as_str),
        damaged_contents: damage.contents,
        damaged_bytes: damage.bytes,
        damaged: store.broken().iter().map(damaged).collect(),
        disk_fault: damage.disk_fault,
    }
}

fn damaged(content: &BrokenContent) -> DamagedContent {
    DamagedContent { digest: content.digest.to_string(), images: content.images.clone(), more_images: content.more }
}

fn collection(store: &Store) -> CollectionStatus {
    let status = store.collection();
    let left_alone = status.left_alone.into_iter();
    let [removed_blobs, removed_manifests] = status.removed;
    CollectionStatus {
        schedule: status.schedule,
        held: status.held,
        suspects: status.suspects,
        changed_repositories: status.dirty,
        left_alone: left_alone
            .map(|left| LeftAlone { repository: Some(left.repository), reason: Some(left.reason) })
            .collect(),
        removed_blobs,
        removed_manifests,
        freed_bytes: status.freed_bytes,
        masters_away: status.masters_away,
        kept_by_masters: status.kept_by_masters,
    }
}

/// What a run of both came to.
fn with_tags(collected: &CollectionReport, rules: &RetentionReport) -> serde_json::Result<serde_json::Value> {
    let mut shown = serde_json::to_value(collected)?;
    shown["retention"] = serde_json::to_value(rules)?;
    Ok(shown)
}

fn retention(retention: &Retention) -> RetentionStatus {
    let (status, collection) = (retention.status(), retention.store().collection());
    let left_alone = status.left_alone.into_iter();
    RetentionStatus {
        keep_releases: status.keep_releases,
        rules: status.rules,
        removed_tags: collection.removed_tags,
        given_up: collection.given_up,
        left_alone: left_alone
            .map(|left| LeftAlone { repository: Some(left.repository), reason: Some(left.reason) })
            .collect(),
    }
}

fn pins(store: &Store) -> Option<PinsStatus> {
    let state = store.pins();
    if state == PinsState::Absent {
        return None;
    }
    let found = store.found_pins();
    let document = found.document();
    Some(PinsStatus {
        state: state.as_str(),
        reason: state.fault().map(ToString::to_string),
        written: document.map(|pins| pins.written_at.as_secs()),
        images: document.map(|pins| pins.images.len()),
        releases: document.map(|pins| pins.releases.len()),
    })
}

fn unused(store: &Store, modes: &Modes) -> Vec<UnusedStatus> {
    let Some((found, counted)) = store.unused_data() else { return Vec::new() };
    let known = modes.upstream_ids();
    let status = |UnusedData { mode, all, upstreams }: UnusedData| UnusedStatus {
        mode: mode.as_str(),
        repositories: all.repositories,
        contents: all.contents,
        bytes: all.bytes,
        at_least: all.at_least,
        counted: counted.as_secs(),
        caches: upstreams
            .into_iter()
            .map(|(id, cache)| UnusedCacheStatus {
                id: id.to_string(),
                upstream: known.iter().find(|(other, _)| *other == id).map(|(_, address)| address.clone()),
                repositories: cache.repositories,
                contents: cache.contents,
                bytes: cache.bytes,
            })
            .collect(),
    };
    found.into_iter().map(status).collect()
}

fn index(store: &Store) -> IndexStatus {
    let (state, objects_done) = match store.index_state() {
        IndexState::Closed => (IndexLabel::Closed, None),
        IndexState::Rebuilding { done } => (IndexLabel::Rebuilding, Some(done)),
        IndexState::Ready => (IndexLabel::Ready, None),
    };
    IndexStatus { state: state.as_str(), objects_done }
}
