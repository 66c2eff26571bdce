//! Which mode is in force, with which upstream, and how another takes its place while requests run.
//!
//! A changed upstream, or changed credentials, is a candidate first: it is asked, and only if it does not refuse us it
//! takes the place of the one in force. So a mistyped licence never ends a licence that works.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::options;
use crate::admin::UpstreamStatus;
use crate::api::App;
use crate::auth::Authenticator;
use crate::clock;
use crate::config::{self, Config, UpstreamCredentials, UpstreamSettings};
use crate::fetch::Fills;
use crate::jobs::{Job, JobError, Run, Schedule};
use crate::mode::{Direct, Local, Mode, Proxy};
use crate::telemetry::{Metrics, ProbeOutcome};
use crate::upstream::{Probe, Upstream, UpstreamSetupError};

/// How long a probe may take.
const PROBE_BUDGET: Duration = Duration::from_secs(10);

/// How often an upstream that is well is probed, and one that is not.
const PROBE_EVERY: Duration = Duration::from_secs(60);
const PROBE_AGAIN: Duration = Duration::from_secs(10);

/// The mode in force and its upstream. Cheap to clone.
#[derive(Clone)]
pub(super) struct Modes(Arc<Inner>);

struct Inner {
    fills: Fills,
    metrics: Metrics,
    auth: Authenticator,
    tasks: TaskTracker,
    app: OnceLock<App>,
    state: Mutex<State>,
    /// Something changed that the probing should look at.
    changed: Notify,
}

struct State {
    /// What the configuration in force says.
    config: Arc<Config>,
    mode: Mode,
    /// The upstream that requests go to. Stays when the mode is Local, for the way back.
    upstream: Option<Known>,
    /// The upstream that takes its place unless it refuses us.
    candidate: Option<Known>,
}

/// An upstream and what is known of it.
#[derive(Clone)]
struct Known {
    settings: UpstreamSettings,
    upstream: Upstream,
    probed: Option<Probed>,
}

#[derive(Clone)]
struct Probed {
    probe: Probe,
    at: clock::Timestamp,
}

impl Known {
    fn new(settings: UpstreamSettings, upstream: Upstream) -> Self {
        Self { settings, upstream, probed: None }
    }

    fn outcome(&self) -> Option<ProbeOutcome> {
        self.probed.as_ref().map(|probed| probed.probe.outcome)
    }
}

/// An upstream that was set up for a configuration that is not in force yet.
pub(super) struct Prepared(Option<Known>);

impl Modes {
    /// Puts the configured mode together; blocking.
    pub(super) fn new(
        config: &Config,
        fills: Fills,
        metrics: Metrics,
        auth: Authenticator,
        tasks: TaskTracker,
    ) -> Result<Self, UpstreamSetupError> {
        let upstream = match &config.upstream {
            Some(settings) => Some(set_up(settings, &metrics, &tasks)?),
            None => None,
        };
        let parts = Parts { fills: &fills, metrics: &metrics, tasks: &tasks };
        let mode = parts.mode(config, upstream.as_ref());
        let state = State { config: Arc::new(config.clone()), mode, upstream, candidate: None };
        let modes = Self(Arc::new(Inner {
            fills,
            metrics,
            auth,
            tasks,
            app: OnceLock::new(),
            state: Mutex::new(state),
            changed: Notify::new(),
        }));
        modes.put_into_force(&modes.state());
        Ok(modes)
    }

    /// The mode in force.
    pub(super) fn mode(&self) -> Mode {
        self.state().mode.clone()
    }

    /// From now on `app` is told of every change.
    pub(super) fn attach(&self, app: App) {
        let _ = self.0.app.set(app);
    }

    /// Sets up what a configuration needs; changes nothing; blocking.
    ///
    /// # Errors
    /// [`UpstreamSetupError`]: the configuration can't be used.
    pub(super) fn prepare(&self, config: &Config) -> Result<Prepared, UpstreamSetupError> {
        let Some(settings) = &config.upstream else { return Ok(Prepared(None)) };
        let known = {
            let state = self.state();
            let all = [&state.upstream, &state.candidate];
            all.into_iter().flatten().find(|known| known.settings == *settings).cloned()
        };
        match known {
            Some(known) => Ok(Prepared(Some(known))),
            None => Ok(Prepared(Some(set_up(settings, &self.0.metrics, &self.0.tasks)?))),
        }
    }

    /// Puts a configuration into force.
    pub(super) fn apply(&self, config: &Config, Prepared(prepared): Prepared) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.config, Arc::new(config.clone()));
        let same = |known: &Option<Known>| match (known, &prepared) {
            (Some(known), Some(prepared)) => known.settings == prepared.settings,
            (None, None) => true,
            _ => false,
        };
        let upstream_stays = same(&state.upstream);
        if upstream_stays {
            state.candidate = None;
        } else if state.upstream.is_none() || before.mode == config::Mode::Local {
            // Nothing goes there yet: it need not prove itself first.
            state.upstream = prepared;
            state.candidate = None;
        } else if prepared.is_some() {
            tracing::info!("a changed upstream is asked before it takes the place of the one in force");
            state.candidate = prepared;
        }
        if !upstream_stays || !same_mode(&before, config) {
            self.rebuild(&mut state);
        }
        self.put_into_force(&state);
        drop(state);
        self.0.changed.notify_one();
    }

    fn rebuild(&self, state: &mut State) {
        let parts = Parts { fills: &self.0.fills, metrics: &self.0.metrics, tasks: &self.0.tasks };
        state.mode = parts.mode(&state.config, state.upstream.as_ref());
    }

    /// Tells everyone of the state.
    fn put_into_force(&self, state: &State) {
        if let Some(known) = &state.upstream {
            known.upstream.hold_refused(state.candidate.is_some());
        }
        let evictor = self.0.fills.evictor();
        evictor.set_ttl(state.config.proxy.ttl);
        let outcome = state.upstream.as_ref().and_then(Known::outcome);
        evictor.set_replaceable(state.config.mode == config::Mode::Proxy && outcome == Some(ProbeOutcome::Ok));
        let login =
            state.upstream.as_ref().filter(|_| state.config.auth.upstream_user).and_then(|known| {
                match &known.settings.endpoint.credentials {
                    UpstreamCredentials::Login { username, password } => {
                        Some((username.clone(), SecretString::from(password.expose())))
                    }
                    UpstreamCredentials::Anonymous => None,
                }
            });
        self.0.auth.set_upstream_user(login);
        if let Some(app) = self.0.app.get() {
            app.set_mode(state.mode.clone());
        }
    }

    /// Asks the upstream, or the candidate, once; answers the pause until the next time.
    async fn probe(&self) -> Duration {
        match self.target() {
            Some((known, is_candidate)) => self.probe_once(known, is_candidate).await,
            None => PROBE_EVERY,
        }
    }

    /// Whom to probe, and whether it is the candidate.
    fn target(&self) -> Option<(Known, bool)> {
        let state = self.state();
        if state.config.mode == config::Mode::Local {
            return None;
        }
        match (&state.candidate, &state.upstream) {
            (Some(candidate), _) => Some((candidate.clone(), true)),
            (None, Some(known)) => Some((known.clone(), false)),
            (None, None) => None,
        }
    }

    async fn probe_once(&self, known: Known, is_candidate: bool) -> Duration {
        let last = match self.mode() {
            // What was seen at another upstream may not be there.
            Mode::Proxy(proxy) if !is_candidate => proxy.last_seen(),
            _ => None,
        };
        let probe = known.upstream.probe(last, tokio::time::Instant::from(Instant::now() + PROBE_BUDGET)).await;
        let outcome = probe.outcome;
        let mut state = self.state();
        let slot = if is_candidate { &mut state.candidate } else { &mut state.upstream };
        let Some(current) = slot.as_mut().filter(|current| current.settings == known.settings) else {
            // The configuration changed meanwhile: look again at once.
            return Duration::ZERO;
        };
        let is_new = current.outcome() != Some(outcome);
        current.probed = Some(Probed { probe: probe.clone(), at: clock::now() });
        if is_new {
            announce(&known, &probe, is_candidate);
        }
        if is_candidate && outcome != ProbeOutcome::Auth {
            state.upstream = state.candidate.take();
            self.rebuild(&mut state);
            tracing::info!(upstream = known.upstream.host(), "the changed upstream is in force");
        }
        self.put_into_force(&state);
        match outcome {
            ProbeOutcome::Ok => PROBE_EVERY,
            // Each refused sign-in brings an account nearer to being locked: they come at longer and longer intervals.
            _ => PROBE_AGAIN.max(known.upstream.probe_pause().unwrap_or_default()),
        }
    }

    /// What the status shows; `None` in mode Local.
    pub(super) fn upstream_status(&self) -> Option<UpstreamStatus> {
        let state = self.state();
        let known = state.upstream.as_ref().filter(|_| state.config.mode != config::Mode::Local)?;
        Some(UpstreamStatus {
            host: known.upstream.host().to_owned(),
            outcome: known.outcome().map(ProbeOutcome::as_str),
            message: known.probed.as_ref().map(|probed| probed.probe.words.clone()),
            probed: known.probed.as_ref().map(|probed| probed.at.as_secs()),
            last_accepted: known.upstream.last_accepted().map(clock::Timestamp::as_secs),
            refused: state
                .candidate
                .as_ref()
                .and_then(|candidate| candidate.probed.as_ref())
                .map(|probed| probed.probe.words.clone()),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Probes the upstream, again and again.
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
        // An upstream that says nothing does not hold up the end.
        if let Some(pause) = run.stop().run_until_cancelled(self.modes.probe()).await {
            self.pause = pause;
        }
        Ok(())
    }

    async fn called(&mut self) {
        self.modes.0.changed.notified().await;
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

/// Whether two configurations make the same mode of the same upstream.
fn same_mode(one: &Config, other: &Config) -> bool {
    one.mode == other.mode
        && one.repository == other.repository
        && one.repositories == other.repositories
        && one.proxy == other.proxy
        && one.manifests.missing_references == other.manifests.missing_references
}

fn set_up(settings: &UpstreamSettings, metrics: &Metrics, tasks: &TaskTracker) -> Result<Known, UpstreamSetupError> {
    let upstream = Upstream::new(&options::upstream(settings), metrics.clone(), tasks.clone())?;
    Ok(Known::new(settings.clone(), upstream))
}

/// What modes are made of.
struct Parts<'a> {
    fills: &'a Fills,
    metrics: &'a Metrics,
    tasks: &'a TaskTracker,
}

impl Parts<'_> {
    /// The mode that a configuration names. Without an upstream there is only Local: the configuration asks for one in
    /// the other modes.
    fn mode(&self, config: &Config, upstream: Option<&Known>) -> Mode {
        let local = || Mode::Local(Local::new(self.fills.store().clone(), config.manifests.missing_references));
        let Some(Known { settings, upstream, .. }) = upstream else { return local() };
        let endpoint = &settings.endpoint;
        let mapping = || options::mapping(config, endpoint);
        match config.mode {
            config::Mode::Local => local(),
            config::Mode::Direct => {
                let stop = self.fills.stop().clone();
                Mode::Direct(Direct::new(upstream.clone(), mapping(), self.tasks.clone(), stop))
            }
            config::Mode::Proxy => Mode::Proxy(Proxy::new(
                self.fills.clone(),
                upstream.clone(),
                mapping(),
                options::proxy(config),
                self.metrics.clone(),
                self.tasks.clone(),
            )),
        }
    }
}
