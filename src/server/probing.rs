//! Asks the upstreams of this server's modes how they are, again and again.

use std::time::{Duration, Instant};

use super::modes::{Known, Modes};
use crate::jobs::{Cause, Job, JobError, Run, Schedule};
use crate::telemetry::ProbeOutcome;
use crate::upstream::Probe;

/// How long a probe may take.
const PROBE_BUDGET: Duration = Duration::from_secs(10);

/// How often an upstream that is well is probed, and one that is not.
const PROBE_EVERY: Duration = Duration::from_secs(60);
const PROBE_AGAIN: Duration = Duration::from_secs(10);

/// Probes the upstreams, each in its own time.
pub(super) struct ProbeUpstream {
    modes: Modes,
    pause: Duration,
}

impl ProbeUpstream {
    pub(super) const fn new(modes: Modes) -> Self {
        Self { modes, pause: PROBE_EVERY }
    }
}

impl Job for ProbeUpstream {
    const NAME: &'static str = "upstream-probe";

    fn schedule(&self) -> Schedule {
        Schedule::every(self.pause)
    }

    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        let all = match run.cause() {
            Cause::Time => false,
            Cause::Call | Cause::Order => true,
        };
        // An upstream that says nothing does not hold up the end.
        if let Some(pause) = run.stop().run_until_cancelled(probe(&self.modes, all)).await {
            self.pause = pause;
        }
        Ok(())
    }

    async fn called(&mut self) {
        self.modes.changed().await;
    }
}

/// Asks every upstream whose time has come, or `all` of them, at once; answers the pause until the next time.
async fn probe(modes: &Modes, all: bool) -> Duration {
    let now = Instant::now();
    let due = modes.to_be_probed().into_iter().filter(|(known, _)| all || known.due.is_none_or(|due| due <= now));
    futures_util::future::join_all(due.map(|(known, is_candidate)| probe_once(modes, known, is_candidate))).await;
    let now = Instant::now();
    let next = modes.to_be_probed().into_iter().map(|(known, _)| known.due);
    let pauses = next.map(|due| due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now)));
    pauses.min().unwrap_or(PROBE_EVERY)
}

async fn probe_once(modes: &Modes, known: Known, is_candidate: bool) {
    // What was seen at another upstream may not be there.
    let last = if is_candidate { None } else { modes.last_seen(&known.settings) };
    let probe = known.upstream.probe(last, tokio::time::Instant::from(Instant::now() + PROBE_BUDGET)).await;
    let pause = match probe.outcome {
        ProbeOutcome::Ok => PROBE_EVERY,
        // Each refused sign-in brings an account nearer to being locked: they come at longer and longer intervals.
        ProbeOutcome::Auth | ProbeOutcome::Unreachable | ProbeOutcome::NotFound => {
            PROBE_AGAIN.max(known.upstream.probe_pause().unwrap_or_default())
        }
    };
    let is_new = known.outcome() != Some(probe.outcome);
    if modes.was_probed(&known.settings, probe.clone(), Instant::now() + pause, is_candidate).await && is_new {
        announce(&known, &probe, is_candidate);
    }
}

/// Says in the log what a probe found, in words for an administrator.
fn announce(known: &Known, probe: &Probe, is_candidate: bool) {
    let upstream = known.upstream.host();
    let accepted = known.upstream.last_accepted().map(crate::telemetry::written);
    let last_accepted = accepted.as_deref().unwrap_or("never since the start");
    match probe.outcome {
        ProbeOutcome::Ok => tracing::info!(upstream, reason = probe.words, "the upstream is well"),
        ProbeOutcome::Auth if is_candidate => tracing::error!(
            upstream,
            reason = probe.words,
            "the upstream refuses the changed credentials; those before stay in force"
        ),
        ProbeOutcome::Auth => tracing::error!(
            upstream,
            reason = probe.words,
            last_accepted,
            "the upstream refuses our credentials: the licence may have expired; what is stored is served, nothing new can be fetched"
        ),
        ProbeOutcome::Unreachable | ProbeOutcome::NotFound => {
            tracing::warn!(upstream, reason = probe.words, last_accepted, "the upstream is not well");
        }
    }
}
