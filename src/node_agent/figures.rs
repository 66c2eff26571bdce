//! What the agent says of itself to the kubelet and Prometheus.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::local::{Kind, Problem, Said};
use crate::clock::{self, Timestamp};
use crate::health::Health;
use crate::telemetry::Samples;
use crate::telemetry::families::{
    NODE_AGENT_API, NODE_AGENT_FOLLOWS, NODE_AGENT_PROBLEM, NODE_AGENT_PULL, NODE_AGENT_PULLED, NODE_AGENT_PULLS,
    NODE_AGENT_WANTED,
};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// HEAD of the manifest.
    Manifest,
    /// GET of its smallest blob.
    Blob,
    /// HEAD of the manifest at the node's own node-proxy alone, which a kubelet may do without where masters are mirrors too.
    NodeProxy,
}

impl Check {
    const ALL: [Self; 3] = [Self::Manifest, Self::Blob, Self::NodeProxy];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::NodeProxy => "node_proxy",
        }
    }
}

/// The figures.
#[derive(Debug, Default)]
pub(super) struct Shown(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// What the last round came to; `None` before the first.
    round: Option<Round>,
    pulls: [Pull; 3],
    api: Option<bool>,
}

/// What there is to show of a round.
#[derive(Debug)]
struct Round {
    follows: bool,
    wanted: bool,
    problems: Vec<Problem>,
}

/// Answers to one check.
#[derive(Clone, Copy, Debug, Default)]
struct Pull {
    /// The last one; `None`: nothing is asked for.
    ok: Option<bool>,
    succeeded: Option<Timestamp>,
    done: u64,
    failed: u64,
}

impl Health for Shown {
    /// A restart mends nothing of what is wrong.
    fn alive(&self) -> String {
        "ok".to_owned()
    }

    fn ready(&self) -> Result<String, String> {
        let state = self.state();
        let Some(Round { problems, .. }) = &state.round else { return Err("starting".to_owned()) };
        // A node that needs an administrator keeps no other node's agent from an update.
        let texts: Vec<&str> = problems.iter().map(|problem| problem.text.as_str()).collect();
        Ok(if texts.is_empty() { "ok".to_owned() } else { texts.join("\n") })
    }

    fn samples(&self) -> Samples {
        let mut samples = Samples::default();
        let state = self.state();
        if let Some(Round { follows, wanted, problems }) = &state.round {
            samples.add(&NODE_AGENT_FOLLOWS, &[], u64::from(*follows));
            samples.add(&NODE_AGENT_WANTED, &[], u64::from(*wanted));
            for kind in Kind::ALL {
                let there = problems.iter().any(|problem| problem.kind == kind);
                samples.add(&NODE_AGENT_PROBLEM, &[kind.as_str()], u64::from(there));
            }
        }
        if let Some(ok) = state.api {
            samples.add(&NODE_AGENT_API, &[], u64::from(ok));
        }
        for (check, pull) in Check::ALL.into_iter().zip(state.pulls) {
            let check = check.as_str();
            if let Some(ok) = pull.ok {
                samples.add(&NODE_AGENT_PULL, &[check], u64::from(ok));
            }
            if let Some(at) = pull.succeeded {
                samples.add(&NODE_AGENT_PULLED, &[check], at.as_secs());
            }
            samples.add(&NODE_AGENT_PULLS, &[check, "ok"], pull.done);
            samples.add(&NODE_AGENT_PULLS, &[check, "failed"], pull.failed);
        }
        samples
    }
}

impl Shown {
    /// What a round came to.
    pub(super) fn said(&self, said: &Said) {
        let (follows, wanted, problems) = (said.follows.is_some(), said.wants_something(), said.problems.clone());
        self.state().round = Some(Round { follows, wanted, problems });
    }

    /// Whether the API server has answered.
    pub(super) fn api(&self, ok: bool) {
        self.state().api = Some(ok);
    }

    /// The answer to a check; a line where it is another one than the last.
    pub(super) fn asked(&self, check: Check, answer: Result<(), String>) {
        let mut state = self.state();
        let pull = &mut state.pulls[check as usize];
        let before = pull.ok.replace(answer.is_ok());
        match answer {
            Ok(()) => {
                pull.done += 1;
                pull.succeeded = Some(clock::now());
                if before == Some(false) {
                    tracing::info!(check = check.as_str(), "this node can pull again");
                }
            }
            Err(why) => {
                pull.failed += 1;
                if before != Some(false) {
                    match check {
                        Check::Manifest | Check::Blob => {
                            tracing::error!(check = check.as_str(), %why, "this node can't pull");
                        }
                        Check::NodeProxy => {
                            tracing::warn!(check = check.as_str(), %why, "node-proxy of this node does not answer as it has to");
                        }
                    }
                }
            }
        }
    }

    /// This is not asked for any more.
    pub(super) fn asks_no(&self, check: Check) {
        self.state().pulls[check as usize].ok = None;
    }

    /// Nothing is asked for any more.
    pub(super) fn asks_nothing(&self) {
        for pull in &mut self.state().pulls {
            pull.ok = None;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
