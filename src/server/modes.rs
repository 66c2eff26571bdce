//! Which modes are in force, coming and before, with which upstreams, and how others take their place while requests run.
//!
//! By the keys of the configuration there is one mode. A changed upstream, or changed credentials, is a candidate first: it is
//! asked, and only if it does not refuse us it takes the place of the one in force. So a mistyped licence never ends a licence
//! that works. By the mode file (`modeFile`) there may be several modes, and whoever writes it has asked the upstreams before:
//! a file takes effect at once and whole, so that the hash that this server reports is that of what it does.
//!
//! # Decisions
//!
//! - The file in force is kept in the data directory before it takes effect. A server that starts with an older file, a wrong
//!   one or none goes on with the kept one: falling back to the keys would undo a switch on one server of several.
//! - A file of a lower generation is never taken. Where the data directory can't be written this holds for the process.

mod prepared;
mod shown;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use secrecy::SecretString;
use tokio::sync::Notify;

pub(super) use self::prepared::Prepared;
pub(super) use self::shown::Seen;
use super::plan::{Parts, Plan, Running};
use crate::api::App;
use crate::auth::Authenticator;
use crate::clock;
use crate::config::{Config, ModeFile, ModeSpec, Secret, UpstreamSettings};
use crate::mode::Transition;
use crate::oci::Digest;
use crate::replicas::Replicas;
use crate::telemetry::ProbeOutcome;
use crate::upstream::{Probe, Upstream, UpstreamSetupError};
use crate::values::MissingReferences;

/// The modes of this server and their upstreams. Cheap to clone.
#[derive(Clone)]
pub(super) struct Modes(Arc<Inner>);

struct Inner {
    parts: Parts,
    auth: Authenticator,
    app: OnceLock<App>,
    state: Mutex<State>,
    /// Held by who changes the modes, until everyone was told.
    changing: tokio::sync::Mutex<()>,
    /// Something changed that the probing should look at.
    changed: Notify,
}

struct State {
    /// What the configuration in force says.
    config: Arc<Config>,
    plan: Plan,
    /// The plan that requests see: a new one first waits until nothing goes any more that its modes use. What is shown and what the
    /// controller hears is this one.
    told: Plan,
    running: Running,
    /// The upstreams of the plan. By the keys it is the one that requests go to; it stays when the mode is Local, for the
    /// way back.
    upstreams: Vec<Known>,
    /// The upstream that takes the place of the one by the keys unless it refuses us.
    candidate: Option<Known>,
    /// Why the mode file on disk is not the one in force.
    file_error: Option<String>,
}

/// An upstream and what is known of it.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) settings: UpstreamSettings,
    pub(super) upstream: Upstream,
    probed: Option<Probed>,
    /// When it is to be probed again; `None`: at once.
    pub(super) due: Option<Instant>,
}

#[derive(Clone)]
struct Probed {
    probe: Probe,
    at: clock::Timestamp,
}

impl Known {
    pub(super) fn outcome(&self) -> Option<ProbeOutcome> {
        self.probed.as_ref().map(|probed| probed.probe.outcome)
    }
}

impl Modes {
    /// Puts the configured modes together; blocking.
    ///
    /// # Errors
    /// [`UpstreamSetupError`]: the configuration's upstream can't be used.
    pub(super) fn new(config: &Config, parts: Parts, auth: Authenticator) -> Result<Self, UpstreamSetupError> {
        let state = State {
            config: Arc::new(config.clone()),
            plan: Plan::nothing(),
            told: Plan::nothing(),
            running: Running::default(),
            upstreams: Vec::new(),
            candidate: None,
            file_error: None,
        };
        let modes = Self(Arc::new(Inner {
            parts,
            auth,
            app: OnceLock::new(),
            state: Mutex::new(state),
            changing: tokio::sync::Mutex::default(),
            changed: Notify::new(),
        }));
        let prepared = modes.prepare_first(config)?;
        modes.take(config, prepared);
        // Nothing goes yet: all data counts as used until this.
        modes.tell();
        Ok(modes)
    }

    /// The other masters.
    pub(super) fn replicas(&self) -> &Replicas {
        &self.0.parts.replicas
    }

    /// The modes as requests see them.
    pub(super) fn transition(&self) -> Transition {
        let state = self.state();
        state.running.transition(&state.plan)
    }

    /// What `look` makes of the configuration in force and the modes by it; the last says whether Local is a bundle.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Config, &Plan, bool) -> T) -> T {
        let state = self.state();
        look(&state.config, &state.plan, self.0.parts.bundled.is_some())
    }

    /// Whether manifests may lack what they name.
    pub(super) fn allow_missing(&self) -> bool {
        self.state().config.manifests.missing_references == MissingReferences::Allow
    }

    /// From now on `app` is told of every change.
    pub(super) fn attach(&self, app: App) {
        app.set_modes(self.transition());
        let _ = self.0.app.set(app);
    }

    /// Puts a configuration into force, with what was prepared for it. May wait for one removal of a drop.
    pub(super) async fn apply(&self, config: &Config, prepared: Prepared) {
        let _changing = self.0.changing.lock().await;
        self.take(config, prepared);
        self.settle_and_tell().await;
        self.0.changed.notify_one();
    }

    fn take(&self, config: &Config, prepared: Prepared) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.config, Arc::new(config.clone()));
        if !same_modes(&before, config) {
            state.running = Running::default();
        }
        match prepared {
            Prepared::Stays(why) => self.refuse_file(&mut state, why),
            Prepared::File(file, upstreams, why) => self.take_file(&mut state, file, upstreams, why),
            Prepared::Keys(upstream, why) => {
                self.take_keys(&mut state, &before, upstream);
                match why {
                    Some(why) => self.refuse_file(&mut state, why),
                    None => state.file_error = None,
                }
            }
        }
        self.make_running(&mut state);
    }

    /// Puts a mode file into force, or says why not, and leaves the rest of the configuration as it is.
    pub(super) async fn apply_file_alone(&self, prepared: Prepared) {
        let config = Arc::clone(&self.state().config);
        self.apply(&config, prepared).await;
    }

    fn refuse_file(&self, state: &mut State, why: String) {
        if state.file_error.as_ref() != Some(&why) {
            tracing::error!(why, "the mode file on disk is not taken, what was in force stays");
        }
        state.file_error = Some(why);
    }

    fn take_file(&self, state: &mut State, file: Arc<ModeFile>, upstreams: Vec<Known>, why: Option<String>) {
        // What a probe found meanwhile is newer than what was prepared.
        let upstreams = upstreams.into_iter().map(|new| state.known(&new.settings).cloned().unwrap_or(new)).collect();
        state.upstreams = upstreams;
        state.candidate = None;
        let plan = Plan::of_file(file);
        if state.plan != plan {
            plan.announce();
        }
        state.plan = plan;
        match why {
            Some(why) => self.refuse_file(state, why),
            None => state.file_error = None,
        }
    }

    fn take_keys(&self, state: &mut State, before: &Config, prepared: Option<Known>) {
        let in_force = if state.plan.file.is_some() { None } else { state.upstreams.first() };
        let stays = in_force.map(|known| &known.settings) == prepared.as_ref().map(|known| &known.settings);
        if stays {
            state.candidate = None;
        } else if in_force.is_none() || !before.mode.has_upstream() {
            // Nothing goes there yet: it need not prove itself first.
            state.upstreams = prepared.into_iter().collect();
            state.candidate = None;
        } else if prepared.is_some() {
            tracing::info!("a changed upstream is asked before it takes the place of the one in force");
            state.candidate = prepared;
        }
        state.plan = Plan::of_keys(&state.config, state.upstreams.first().map(|known| &known.settings));
    }

    /// Makes the modes of the plan.
    fn make_running(&self, state: &mut State) {
        let State { running, plan, config, .. } = &*state;
        let running = running.changed_to(plan, config, &self.0.parts, |settings| {
            state.known(settings).map(|known| known.upstream.clone())
        });
        state.running = running;
    }

    /// Tells everyone of the modes, when nothing of the data goes any more that they use. The modes are not locked meanwhile.
    async fn settle_and_tell(&self) {
        let store = self.0.parts.fills.store();
        {
            let state = self.state();
            // Nothing of Local goes while another mode answers too: before that begins, and until it is over.
            if !state.is_local_alone() {
                store.hold_collection(true);
            }
            store.add_used_data(&state.plan.used_data(&state.config));
        }
        store.used_data_settled().await;
        // A test stops here, beside the threads that serve.
        #[cfg(feature = "failpoints")]
        crate::jobs::blocking(|| fail::fail_point!("modes::before_told")).await;
        self.tell();
    }

    fn tell(&self) {
        let state = &mut *self.state();
        for known in &state.upstreams {
            known.upstream.hold_refused(state.candidate.is_some());
        }
        let is_well = |mode: &ModeSpec| {
            mode.upstream().and_then(|settings| state.known(settings)?.outcome()) == Some(ProbeOutcome::Ok)
        };
        let is_cache = |mode: &&ModeSpec| mode.is_cache();
        let plan = &state.plan;
        let evictor = self.0.parts.fills.evictor();
        evictor.set_ttl(plan.ttl());
        let cache = plan.in_force.as_ref().filter(is_cache).filter(|_| plan.is_settled());
        evictor.set_replaceable(cache.is_some_and(is_well));
        evictor.set_displacing(plan.displacing(is_well));
        let logins: Vec<(String, SecretString)> =
            state.logins().map(|(name, password)| (name.to_owned(), SecretString::from(password.expose()))).collect();
        self.0.auth.set_upstream_users(logins);
        if let Some(app) = self.0.app.get() {
            app.set_modes(state.running.transition(plan));
        }
        state.told = plan.clone();
        // None of its data goes as long as a mode answers.
        let store = self.0.parts.fills.store();
        store.hold_collection(!state.is_local_alone());
        store.set_used_data(plan.used_data(&state.config));
    }

    /// Ends when something changed that the probing should look at.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Whom to probe, and whether it is the candidate: it alone is asked while there is one.
    pub(super) fn to_be_probed(&self) -> Vec<(Known, bool)> {
        let state = self.state();
        if let Some(candidate) = state.candidate.as_ref().filter(|_| state.plan.upstream().is_some()) {
            return vec![(candidate.clone(), true)];
        }
        let upstreams = state.plan.upstreams();
        let known = upstreams.into_iter().filter_map(|settings| state.known(settings));
        known.map(|known| (known.clone(), false)).collect()
    }

    /// The manifest that came last from an upstream that is cached; see [`crate::mode::Proxy::last_seen`].
    pub(super) fn last_seen(&self, upstream: &UpstreamSettings) -> Option<(String, Digest)> {
        self.state().running.proxy_of(upstream)?.last_seen()
    }

    /// Notes what a probe found; a candidate that does not refuse us comes into force. `false`: nobody needs to know, the
    /// configuration changed meanwhile.
    pub(super) async fn was_probed(
        &self,
        settings: &UpstreamSettings,
        probe: Probe,
        due: Instant,
        is_candidate: bool,
    ) -> bool {
        let _changing = self.0.changing.lock().await;
        let is_known = self.note_probe(settings, probe, due, is_candidate);
        if is_known {
            self.settle_and_tell().await;
        }
        is_known
    }

    fn note_probe(&self, settings: &UpstreamSettings, probe: Probe, due: Instant, is_candidate: bool) -> bool {
        let mut state = self.state();
        let outcome = probe.outcome;
        let known = if is_candidate {
            state.candidate.as_mut().filter(|known| known.settings == *settings)
        } else {
            state.upstreams.iter_mut().find(|known| known.settings == *settings)
        };
        let Some(known) = known else { return false };
        known.probed = Some(Probed { probe, at: clock::now() });
        known.due = Some(due);
        if is_candidate && outcome != ProbeOutcome::Auth {
            state.upstreams = state.candidate.take().into_iter().collect();
            state.plan = Plan::of_keys(&state.config, Some(settings));
            tracing::info!(upstream = settings.endpoint.host, "the changed upstream is in force");
            self.make_running(&mut state);
        }
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn known(&self, settings: &UpstreamSettings) -> Option<&Known> {
        self.upstreams.iter().chain(&self.candidate).find(|known| known.settings == *settings)
    }

    /// Only Local answers.
    fn is_local_alone(&self) -> bool {
        self.plan.is_settled() && self.plan.in_force.as_ref().is_some_and(ModeSpec::takes_pushes)
    }

    /// The pairs that may sign in here.
    fn logins(&self) -> impl Iterator<Item = (&str, &Secret)> {
        let upstreams = self.upstreams.iter().filter(|_| self.config.auth.upstream_user);
        upstreams.filter_map(|known| known.settings.endpoint.login())
    }
}

/// Whether modes that were made for one configuration are right for the other.
fn same_modes(one: &Config, other: &Config) -> bool {
    one.repository == other.repository
        && one.repositories == other.repositories
        && one.proxy == other.proxy
        && one.manifests.missing_references == other.manifests.missing_references
}
