//! Asking again: a registry that is away, fails or wants to be left alone is waited for, for as long as the options say.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Failed, Push, PushError};
use crate::takeover::fault::Fault;
use crate::telemetry::UpstreamCause;
use crate::upstream::UpstreamError;

/// How long an answer is waited for, tries of the client included.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first pause, doubled each time, and the longest.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Until when one question is asked.
pub(super) fn soon() -> Instant {
    Instant::now() + PATIENCE
}

impl Push<'_> {
    /// Asks until there is an answer that another try would not change. Safe to drop.
    pub(super) async fn ask<T, F>(&self, mut once: impl FnMut() -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, UpstreamError>>,
    {
        let (began, mut pause) = (Instant::now(), PAUSE);
        loop {
            let answer = self.stop.run_until_cancelled(once()).await.ok_or(Failed::Run(PushError::Stopped))?;
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !is_passing(&error) {
                return Err(error.into());
            }
            let told = error.retry_after().max(self.target.upstream.left_alone()).unwrap_or_default();
            let wait = pause.max(told);
            if began.elapsed() + wait > self.options.patience {
                return Err(Failed::Run(PushError::Away(error)));
            }
            tracing::debug!(%error, ?wait, "the registry is asked again");
            self.stop.run_until_cancelled(sleep(wait)).await.ok_or(Failed::Run(PushError::Stopped))?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Whether another try may be answered otherwise: not where the registry has no room (507).
fn is_passing(error: &UpstreamError) -> bool {
    error.may_pass() && error.status() != Some(507)
}

impl From<UpstreamError> for Failed {
    fn from(error: UpstreamError) -> Self {
        match error.cause() {
            // All that follows would be refused as well, and an account is locked by few wrong sign-ins.
            UpstreamCause::Unauthorized => Self::Run(PushError::Refused(error)),
            // There is no room, or the way there is wrong: for all that follows too.
            UpstreamCause::Unreachable | UpstreamCause::ServerError => Self::Run(PushError::Refused(error)),
            UpstreamCause::Forbidden | UpstreamCause::NotFound => Self::Repository(error),
            UpstreamCause::Invalid | UpstreamCause::Refused | UpstreamCause::Timeout | UpstreamCause::RateLimited => {
                Self::Content(Fault::Registry(error.to_string()))
            }
        }
    }
}
