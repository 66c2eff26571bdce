//! The loop: look, decide, write. Each round begins from what the cluster says; nothing is kept between two but what saves work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::figures::Shown;
use super::leadership::Term;
use super::look::{Look, Looker};
use super::pace::{Pace, RESYNC};
use super::questions::Questions;
use super::writing::{self, WriteError};
use crate::clock;
use crate::switch::outputs::names;
use crate::switch::{Condition, ConditionType, Content, Decision, Notice, decide};
use crate::telemetry::with_causes;

/// The shortest: what changes together is looked at together.
const PAUSE: Duration = Duration::from_millis(300);
/// Before the first try after a failed round; doubled after each further one.
const RETRY: Duration = Duration::from_secs(1);
/// The longest such pause.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The loop and what it works with.
#[derive(Debug)]
pub(super) struct Rounds {
    pub(super) looker: Looker,
    pub(super) questions: Questions,
    /// Notified when something may be otherwise.
    pub(super) changed: Arc<Notify>,
    pub(super) may_write: watch::Receiver<Term>,
    pub(super) shown: Arc<Shown>,
    pub(super) stop: CancellationToken,
}

/// What was said, so that it is said once.
#[derive(Debug, Default)]
struct Said {
    conditions: BTreeMap<ConditionType, (bool, String, String)>,
    notices: Vec<Notice>,
    failure: Option<String>,
}

/// How a round ended.
enum Round {
    /// Everything was written; when to look again at the latest.
    Done(Option<Duration>),
    /// Somebody else wrote meanwhile.
    Stale,
    /// It did not come to its end.
    Failed,
}

impl Rounds {
    /// Goes on until the stop. A write that was begun is waited for.
    pub(super) async fn go(mut self) {
        let mut said = Said::default();
        let mut pace = Pace::new(std::time::Instant::now());
        let mut failures = 0_u32;
        let mut since = Instant::now();
        loop {
            let Some(until) = self.term().await else { break };
            self.shown.leads(true);
            let round = Box::pin(self.round(until, &mut said, &mut pace)).await;
            self.shown.failed_at(said.failure.clone());
            let pause = match round {
                Round::Done(wake) => {
                    failures = 0;
                    wake.unwrap_or(RESYNC).min(RESYNC)
                }
                Round::Stale => PAUSE,
                Round::Failed => {
                    failures = failures.saturating_add(1);
                    RETRY.saturating_mul(1 << failures.min(6).saturating_sub(1)).min(RETRY_MAX)
                }
            };
            let wait = async {
                if failures > 0 {
                    // What changes meanwhile is most likely our own failing.
                    tokio::time::sleep(pause).await;
                    return;
                }
                tokio::time::sleep_until(since + PAUSE).await;
                let _ = tokio::time::timeout(pause, self.changed.notified()).await;
            };
            if self.stop.run_until_cancelled(wait).await.is_none() {
                break;
            }
            since = Instant::now();
        }
        self.questions.ask(&[]);
    }

    /// Waits until this process may write; `None` at the stop.
    async fn term(&mut self) -> Option<Instant> {
        loop {
            if self.stop.is_cancelled() {
                return None;
            }
            let until = *self.may_write.borrow_and_update();
            if let Some(until) = until.filter(|until| *until > Instant::now()) {
                return Some(until);
            }
            self.shown.leads(false);
            // Answers that another one's decisions depend on are its own to find.
            self.questions.ask(&[]);
            let changed = self.stop.run_until_cancelled(self.may_write.changed()).await;
            changed?.ok()?;
        }
    }

    async fn round(&mut self, until: Instant, said: &mut Said, pace: &mut Pace) -> Round {
        let now = clock::now();
        let looking = self.looker.look(now, self.questions.answers());
        let Look { observed, found } = match self.stop.run_until_cancelled(Box::pin(looking)).await {
            None => return Round::Done(None),
            Some(Ok(look)) => look,
            Some(Err(error)) => {
                let error = with_causes(&error);
                said.failed(format!("the cluster can't be looked at, nothing is changed: {error}"));
                self.shown.look_failed();
                return Round::Failed;
            }
        };
        self.questions.scan_each(observed.options.scan_interval);
        let decision = decide(&observed);
        self.questions.ask(&decision.questions);
        said.conditions(&decision.conditions);
        self.shown.decided(&observed, &decision, now);
        self.publish(&decision, said).await;
        let wake = Some(pace.rest(std::time::Instant::now(), &decision));
        let mut until = until;
        let mut is_refused = false;
        for write in decision.writes {
            // What an administrator looks at says how far it is, also where an output is refused.
            if is_refused && !matches!(write.what, Content::State(_)) {
                continue;
            }
            // A renewal meanwhile makes the term longer; one that failed does not.
            until = self.may_write.borrow().map_or(until, |newer| newer.max(until));
            if self.may_write.borrow().is_none() || Instant::now() >= until {
                said.failed("the Lease has ended: nothing more is written".to_owned());
                return Round::Failed;
            }
            if self.stop.is_cancelled() {
                return Round::Done(None);
            }
            fail::fail_point!("controller-write");
            let object = writing::object(&write.what);
            let carried_out = writing::carry_out(&self.looker.cluster, &found, write);
            let written = match tokio::time::timeout_at(until, Box::pin(carried_out)).await {
                Ok(written) => written,
                Err(_) => {
                    said.failed(format!("{object}: no answer before the Lease ended"));
                    self.shown.write_failed(object);
                    return Round::Failed;
                }
            };
            match written {
                Ok(()) => {
                    tracing::info!(object, "written");
                    self.shown.written(object);
                }
                Err(error) if error.is_conflict() => {
                    tracing::info!(object, "changed by somebody else meanwhile; looked at again");
                    return Round::Stale;
                }
                Err(error) => {
                    self.shown.write_failed(error.object());
                    if !is_refused {
                        self.refused(&error, said).await;
                    }
                    is_refused = true;
                }
            }
        }
        if is_refused {
            return Round::Failed;
        }
        said.failure = None;
        Round::Done(wake)
    }

    async fn refused(&self, error: &WriteError, said: &mut Said) {
        let message = format!("a write failed: {}", with_causes(error));
        if said.failed(message.clone()) {
            self.event(&Notice { warning: true, reason: "WriteFailed", message }).await;
        }
    }

    /// Tells people what was not told yet.
    async fn publish(&self, decision: &Decision, said: &mut Said) {
        said.notices.retain(|notice| decision.notices.contains(notice));
        for notice in &decision.notices {
            if said.notices.contains(notice) {
                continue;
            }
            if notice.warning {
                tracing::warn!(reason = notice.reason, "{}", notice.message);
            } else {
                tracing::info!(reason = notice.reason, "{}", notice.message);
            }
            self.event(notice).await;
            said.notices.push(notice.clone());
        }
    }

    async fn event(&self, Notice { warning, reason, message }: &Notice) {
        let published = self.looker.cluster.publish(names::STATE, *warning, reason, message, clock::now()).await;
        if let Err(error) = published {
            tracing::warn!(reason, error = with_causes(&error), "an Event can't be published");
        }
    }
}

impl Said {
    /// Logs what is another than before.
    fn conditions(&mut self, conditions: &[Condition]) {
        self.conditions.retain(|kind, _| conditions.iter().any(|condition| condition.kind == *kind));
        for Condition { kind, status, reason, message, .. } in conditions {
            let new = (*status, reason.clone(), message.clone());
            if self.conditions.get(kind) != Some(&new) {
                tracing::info!(condition = %kind, status, reason, message = message.trim_end(), "condition");
                self.conditions.insert(*kind, new);
            }
        }
    }

    /// Logs a failure once; says whether it is new.
    fn failed(&mut self, message: String) -> bool {
        if self.failure.as_ref() == Some(&message) {
            return false;
        }
        tracing::warn!("{message}");
        self.failure = Some(message);
        true
    }
}
