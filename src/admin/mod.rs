//! The admin listener: liveness, readiness, status and metrics. Unauthenticated, so it shows no names and no secrets;
//! it is meant for loopback or the pod's network.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::Serialize;

use crate::clock::Timestamp;
use crate::telemetry::{DamageSample, IndexSample, Metrics, StoreSample};

/// What a readiness check returns: `Err` with a sentence when the data folder can't be used.
pub type ReadyCheck = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// The configuration as far as the status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigState {
    /// When the configuration in force was loaded.
    pub loaded: Timestamp,
    /// Why the one on disk was refused since; `None` while it is the one in force.
    pub error: Option<String>,
}

/// The upstream as far as the status shows it. Times are seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamState {
    /// `host[:port]`.
    pub host: String,
    /// What the last probe found, as the metrics call it; `None` before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probed: Option<u64>,
    /// When the upstream last gave what it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_accepted: Option<u64>,
    /// Why a changed upstream, or changed credentials, is not in force yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Where the admin listener gets its answers from. Each closure is called per request and must not block.
#[derive(Clone)]
pub struct AdminState {
    /// The program's version.
    pub version: &'static str,
    /// The mode's name.
    pub mode: Arc<dyn Fn() -> &'static str + Send + Sync>,
    /// The upstream; `None` in mode Local.
    pub upstream: Arc<dyn Fn() -> Option<UpstreamState> + Send + Sync>,
    /// When the process began to serve.
    pub started: Instant,
    /// Whether the data folder can be used now.
    pub check: Arc<dyn Fn() -> ReadyCheck + Send + Sync>,
    /// Whether the server is ending.
    pub draining: Arc<dyn Fn() -> bool + Send + Sync>,
    /// The store's room.
    pub store: Arc<dyn Fn() -> StoreSample + Send + Sync>,
    /// What is known of damage in the store.
    pub damage: Arc<dyn Fn() -> DamageSample + Send + Sync>,
    /// What the index does.
    pub index: Arc<dyn Fn() -> IndexSample + Send + Sync>,
    /// Number of users.
    pub users: Arc<dyn Fn() -> usize + Send + Sync>,
    /// Open connections of the registry's listeners.
    pub connections: Arc<dyn Fn() -> usize + Send + Sync>,
    /// When the certificate in force ends; `None` without TLS.
    pub certificate_expiry: Arc<dyn Fn() -> Option<Timestamp> + Send + Sync>,
    /// The configuration.
    pub config: Arc<dyn Fn() -> ConfigState + Send + Sync>,
    /// The metrics.
    pub metrics: Metrics,
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState")
            .field("version", &self.version)
            .field("mode", &(self.mode)())
            .finish_non_exhaustive()
    }
}

/// The status document. Times are seconds since 1970-01-01T00:00:00Z, durations seconds, sizes bytes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    version: &'static str,
    mode: &'static str,
    uptime_seconds: u64,
    draining: bool,
    connections: usize,
    users: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<UpstreamState>,
    store: StoreStatus,
    index: IndexStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_expiry: Option<u64>,
    config: ConfigStatus,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StoreStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_bytes: Option<u64>,
    free_bytes: u64,
    reserve_bytes: u64,
    writable: bool,
    /// Why not, as the answers to refused pushes name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'static str>,
    damaged_contents: u64,
    damaged_bytes: u64,
    disk_fault: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct IndexStatus {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects_done: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfigStatus {
    valid: bool,
    loaded: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The admin listener's routes: `/healthz`, `/readyz`, `/status`, `/metrics`, for GET and HEAD.
pub fn router(state: AdminState) -> Router {
    Router::new()
        .route("/healthz", get(|| async { plain(StatusCode::OK, "ok\n".to_owned()) }))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(state)
}

/// The probe listener's routes: `/healthz` and `/readyz`, for GET and HEAD. Whoever reaches them learns nothing else.
pub fn probe_router(state: AdminState) -> Router {
    Router::new()
        .route("/healthz", get(|| async { plain(StatusCode::OK, "ok\n".to_owned()) }))
        .route("/readyz", get(ready))
        .with_state(state)
}

/// Neither the upstream nor the index counts: a registry that can serve what it has stays in its Service.
async fn ready(State(state): State<AdminState>) -> Response {
    if (state.draining)() {
        return not_ready("the server is ending\n".to_owned());
    }
    match (state.check)().await {
        Ok(()) => plain(StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => not_ready(format!("{reason}\n")),
    }
}

async fn status(State(state): State<AdminState>) -> Response {
    let (store, damage) = ((state.store)(), (state.damage)());
    let index = (state.index)();
    let config = (state.config)();
    let document = Status {
        version: state.version,
        mode: (state.mode)(),
        uptime_seconds: state.started.elapsed().as_secs(),
        draining: (state.draining)(),
        connections: (state.connections)(),
        users: (state.users)(),
        upstream: (state.upstream)(),
        store: StoreStatus {
            used_bytes: store.used,
            budget_bytes: store.budget,
            free_bytes: store.free,
            reserve_bytes: store.reserve,
            writable: store.refusal.is_none(),
            refusal: store.refusal,
            damaged_contents: damage.contents,
            damaged_bytes: damage.bytes,
            disk_fault: damage.disk_fault,
        },
        index: IndexStatus {
            state: index.label().as_str(),
            objects_done: match index {
                IndexSample::Rebuilding { done } => Some(done),
                IndexSample::Closed | IndexSample::Ready => None,
            },
        },
        certificate_expiry: (state.certificate_expiry)().map(Timestamp::as_secs),
        config: ConfigStatus { valid: config.error.is_none(), loaded: config.loaded.as_secs(), error: config.error },
    };
    ([(CACHE_CONTROL, "no-store")], Json(document)).into_response()
}

async fn metrics(State(state): State<AdminState>) -> Response {
    match state.metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(error = &error as &(dyn std::error::Error + 'static), "can't render the metrics");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be rendered\n".to_owned())
        }
    }
}

fn plain(status: StatusCode, text: String) -> Response {
    (status, [(CACHE_CONTROL, "no-store")], text).into_response()
}

fn not_ready(text: String) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [(CACHE_CONTROL, "no-store"), (RETRY_AFTER, "5")], text).into_response()
}

#[cfg(test)]
mod tests;
