//! The challenge at `/v2/`, for registries that challenge nowhere else.
//!
//! Such a registry says 404 (or a bare 401 or 403) of everything that a client without credentials may not see.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::error::UpstreamError;
use super::transport::Outgoing;

/// The base of the API (distribution-spec, "Determining Support").
const BASE: &str = "/v2/";
/// Time for which `/v2/` is known to challenge nobody, so that each 404 is not two requests.
const UNCHALLENGED_TTL: Duration = Duration::from_secs(300);

impl Endpoint {
    /// Asks `/v2/` without credentials and takes in its challenge; whether a request is worth sending again, signed.
    /// Without credentials of ours there is nothing to sign with, and nobody is asked. Many callers at once are one
    /// request; an answer without a challenge counts for [`UNCHALLENGED_TTL`].
    ///
    /// Safe to drop: ends the request, the next caller asks.
    ///
    /// # Errors
    /// [`UpstreamError`] if `/v2/` gives no answer: then what was hidden is not known.
    pub(super) async fn base_challenge(self: &Arc<Self>, deadline: Instant) -> Result<bool, UpstreamError> {
        if !self.has_login() {
            return Ok(false);
        }
        let mut unchallenged = self.unchallenged.lock().await;
        if self.is_challenge_known() {
            return Ok(true);
        }
        if unchallenged.is_some_and(|since| since.elapsed() < UNCHALLENGED_TTL) {
            return Ok(false);
        }
        let outgoing = Outgoing {
            method: Method::GET,
            url: self.url(BASE)?,
            headers: HeaderMap::new(),
            bulk: false,
            patient: false,
            body: None,
        };
        let response = self.transport.exchange(outgoing, deadline).await?;
        let is_challenge = response.status() == StatusCode::UNAUTHORIZED && self.learn(response.headers(), "", None)?;
        let host = self.host.clone();
        self.drain(response, &host).await;
        *unchallenged = (!is_challenge).then(Instant::now);
        Ok(is_challenge)
    }
}
