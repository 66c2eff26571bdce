//! `GET /-/state`: what the controller of a switch has to know of this server, told to its client certificate alone.
//!
//! To everybody else the path is one that names nothing, and not even that tells anything.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::response::Response;
use http::Method;
use serde::Serialize;

use super::error::ApiError;
use super::manifests::json_response;

/// The path. No name of a repository begins with a hyphen.
pub(super) const PATH: &str = "/-/state";

/// Looks at the server; answers within 2 s.
pub type StateSource = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ServerState> + Send>> + Send + Sync>;

/// A server at one moment.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerState {
    /// The program's version.
    pub version: &'static str,
    /// When the server began to serve, in seconds since 1970.
    pub started: u64,
    /// The node that it runs on.
    pub node: String,
    /// Whether it is ready, as `/readyz` says.
    pub ready: bool,
    /// Why not; sentences.
    pub not_ready: Vec<String>,
    /// The users in force: by name SHA-256 of the password's hash, 64 hexadecimal digits.
    pub users: BTreeMap<String, String>,
    /// The mode file in force; `None`: the configuration's keys count.
    pub mode_file: Option<ModeFileState>,
    /// The mode in force.
    pub in_force: &'static str,
    /// The coming mode.
    pub coming: Option<ComingState>,
    /// The modes before, the newest first.
    pub previous: Vec<&'static str>,
    /// Answers by them since the process began.
    pub previous_answers: u64,
    /// The upstream of the mode in force.
    pub upstream: Option<UpstreamState>,
}

/// A mode file.
#[derive(Clone, Debug, Serialize)]
pub struct ModeFileState {
    /// SHA-256 of the one in force, 64 hexadecimal digits; empty while none was in force yet.
    pub hash: String,
    /// Its generation.
    pub generation: u64,
    /// Why the one on disk is not in force; a sentence without secrets.
    pub error: Option<String>,
}

/// A coming mode.
#[derive(Clone, Debug, Serialize)]
pub struct ComingState {
    /// Its name.
    pub mode: &'static str,
    /// `filling` or `ready`.
    pub phase: &'static str,
}

/// An upstream.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamState {
    /// `host[:port]`.
    pub host: String,
    /// What the last probe found, as the metrics call it; `None` before the first.
    pub outcome: Option<&'static str>,
    /// The same in words.
    pub message: Option<String>,
}

pub(super) async fn answer(source: &StateSource, method: &Method) -> Result<Response, ApiError> {
    if *method != Method::GET && *method != Method::HEAD {
        return Err(ApiError::method_not_allowed("GET, HEAD"));
    }
    let state = serde_json::to_value(source().await).map_err(|error| ApiError::fault(&error))?;
    Ok(json_response("application/json", &state))
}
