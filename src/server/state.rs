//! What the controller of a switch is told of this server at `GET /-/state`.

use std::sync::Arc;

use super::VERSION;
use super::modes::Modes;
use super::readiness::Ready;
use crate::api::{ComingState, ModeFileState, ServerState, StateSource, UpstreamState};
use crate::auth::Authenticator;
use crate::clock::Timestamp;
use crate::telemetry::Metrics;

/// The variable in which a pod's manifest says the node's name.
const NODE_NAME: &str = "NODE_NAME";

/// What answers; `started`: when the server began to serve.
pub(super) fn source(
    modes: Modes,
    auth: Authenticator,
    ready: Ready,
    metrics: Metrics,
    started: Timestamp,
) -> StateSource {
    let node = node();
    Arc::new(move || {
        let (modes, auth) = (modes.clone(), auth.clone());
        let (ready, metrics, node) = (ready.clone(), metrics.clone(), node.clone());
        Box::pin(async move {
            let not_ready: Vec<String> = ready.check().await.err().into_iter().collect();
            // In one look: the file and the modes are those of the same moment.
            let seen = modes.seen();
            let upstream = modes.upstream_status();
            ServerState {
                version: VERSION,
                started: started.as_secs(),
                node,
                ready: not_ready.is_empty(),
                not_ready,
                users: auth.user_fingerprints(),
                mode_file: seen.file.map(|file| ModeFileState {
                    hash: file.hash,
                    generation: file.generation,
                    error: file.error,
                }),
                in_force: seen.in_force,
                coming: seen.coming.map(|coming| ComingState { mode: coming.mode, phase: coming.phase }),
                previous: seen.previous,
                previous_answers: metrics.previous_answers(),
                upstream: upstream.map(|upstream| UpstreamState {
                    host: upstream.host,
                    outcome: upstream.outcome,
                    message: upstream.message,
                }),
            }
        })
    })
}

/// The node's name: what the pod's manifest says, else the machine's own.
fn node() -> String {
    let machine = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    std::env::var(NODE_NAME).ok().filter(|name| !name.is_empty()).unwrap_or_else(machine)
}
