//! Trying again: the endpoints in their order, with pauses, inside the deadline. Everything asked of an upstream is a
//! read, so everything may be asked twice.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::endpoint::Endpoint;
use super::error::UpstreamError;
use super::{Upstream, WHOLE};
use crate::telemetry::UpstreamCause;

/// How long the end of a limit (429) is waited for inside a request.
const LIMIT_PATIENCE: Duration = Duration::from_secs(5);

/// One try at an endpoint, with its own deadline.
pub(super) type Attempt<'a, T> = BoxFuture<'a, Result<T, UpstreamError>>;

impl Upstream {
    /// The endpoints to ask. A whole name is asked of the upstream alone: nobody knows where a mirror has it.
    fn endpoints(&self, child: &str) -> &[Arc<Endpoint>] {
        let all = &self.0.endpoints;
        if child.starts_with(WHOLE) { all.get(..1).unwrap_or_default() } else { all }
    }

    /// Tries the endpoints until one gives an answer; "it is not there" is one. The error is that of the first endpoint.
    pub(super) async fn rounds<'a, T>(
        &'a self,
        child: &str,
        deadline: Instant,
        attempt: impl Fn(&'a Arc<Endpoint>, Instant) -> Attempt<'a, T>,
    ) -> Result<T, UpstreamError> {
        let limits = &self.0.shared.limits;
        let endpoints = self.endpoints(child);
        let mut pause = limits.retry_pause;
        let mut round = 1;
        loop {
            let mut errors = Vec::new();
            for (index, endpoint) in endpoints.iter().enumerate() {
                let share = share(deadline, endpoints.len() - index);
                match attempt(endpoint, share).await.map_err(|error| error.hidden(&self.0.shared.secrets)) {
                    Ok(answer) => return Ok(answer),
                    Err(error) if !is_for_next(&error) => return Err(error),
                    Err(error) => errors.push(error),
                }
            }
            let worth = errors.iter().filter(|error| error.facts().again);
            let wanted = worth.map(|error| error.retry_after().unwrap_or_default()).min();
            let first = errors.into_iter().next();
            let first = first.unwrap_or_else(|| UpstreamError::invalid(self.host(), "has no endpoint"));
            let Some(wanted) = wanted else { return Err(first) };
            let wait = wanted.max(pause.mul_f64(1.0 + chance()));
            // Who asks too often hears it soon, and keeps nobody's place.
            let is_limited = first.cause() == UpstreamCause::RateLimited && wait > LIMIT_PATIENCE;
            if is_limited || round >= limits.attempts || Instant::now() + wait >= deadline {
                return Err(first);
            }
            sleep(wait).await;
            pause = pause.saturating_mul(2);
            round += 1;
        }
    }
}

/// An endpoint that is silent leaves time for those after it.
pub(super) fn share(deadline: Instant, endpoints: usize) -> Instant {
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    now + left / u32::try_from(endpoints).unwrap_or(u32::MAX).max(1)
}

/// Whether the next mirror may do better. Never on 404: that is an answer.
fn is_for_next(error: &UpstreamError) -> bool {
    match error.cause() {
        // What is no registry's answer says nothing about what a mirror has.
        UpstreamCause::Invalid
        | UpstreamCause::Unreachable
        | UpstreamCause::Timeout
        | UpstreamCause::ServerError
        | UpstreamCause::RateLimited
        | UpstreamCause::Unauthorized
        | UpstreamCause::Forbidden => true,
        UpstreamCause::NotFound | UpstreamCause::Refused => false,
    }
}

/// A number from 0 to 1, so that many servers don't come back at the same moment.
fn chance() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}
