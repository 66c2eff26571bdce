//! Whether an upstream can be used: three answers beside "yes".

use std::time::Duration;

use tokio::time::Instant;

use super::answers::{Answer, Reply};
use super::sources::Sources;
use crate::switch::{ProbeAnswer, Upstream};
use crate::telemetry::ProbeOutcome;

/// For the name, the connection, the sign-in and the answer together.
const PATIENCE: Duration = Duration::from_secs(20);
/// From one probe to the next.
const EVERY: Duration = Duration::from_secs(60);

/// Probes for as long as it is asked.
pub(super) async fn probe(sources: &Sources, upstream: &Upstream, reply: &Reply) {
    let client = match sources.client(Sources::upstream(upstream)).await {
        Ok(client) => client,
        Err(why) => {
            // Its CA can't be used, or the like: no later try ends otherwise.
            reply.give(Answer::Probe(ProbeAnswer::Unreachable(why)));
            return std::future::pending().await;
        }
    };
    loop {
        let probe = client.probe(None, Instant::now() + PATIENCE).await;
        reply.give(Answer::Probe(match probe.outcome {
            ProbeOutcome::Ok => ProbeAnswer::Good,
            ProbeOutcome::Unreachable => ProbeAnswer::Unreachable(probe.words),
            ProbeOutcome::Auth => ProbeAnswer::Refused(probe.words),
            ProbeOutcome::NotFound => ProbeAnswer::ImagesNotThere(probe.words),
        }));
        // A refused sign-in that is repeated too soon locks the account.
        tokio::time::sleep(client.probe_pause().map_or(EVERY, |pause| pause.max(EVERY))).await;
    }
}
