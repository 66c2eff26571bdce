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

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use secrecy::SecretString;
use tokio::sync::Notify;

pub(super) use self::prepared::Prepared;
use super::plan::{Parts, Plan, Running};
use crate::admin::{ComingStatus, ModeFileStatus, UpstreamStatus};
use crate::api::App;
use crate::auth::Authenticator;
use crate::clock;
use crate::config::{Config, EndpointSettings, ModeFile, ModeSpec, Secret, UpstreamSettings};
use crate::mode::Transition;
use crate::oci::{Digest, UpstreamId};
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
    /// Something changed that the probing should look at.
    changed: Notify,
}

struct State {
    /// What the configuration in force says.
    config: Arc<Config>,
    plan: Plan,
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

/// The modes at one moment, by name.
pub(super) struct Seen {
    pub(super) in_force: &'static str,
    pub(super) coming: Option<ComingStatus>,
    /// The newest first.
    pub(super) previous: Vec<&'static str>,
    /// `None` where the keys count and no file was refused.
    pub(super) file: Option<ModeFileStatus>,
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
            changed: Notify::new(),
        }));
        let prepared = modes.prepare_first(config)?;
        modes.take(config, prepared);
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

    /// Whether manifests may lack what they name.
    pub(super) fn allow_missing(&self) -> bool {
        self.state().config.manifests.missing_references == MissingReferences::Allow
    }

    /// From now on `app` is told of every change.
    pub(super) fn attach(&self, app: App) {
        app.set_modes(self.transition());
        let _ = self.0.app.set(app);
    }

    /// Puts a configuration into force, with what was prepared for it.
    pub(super) fn apply(&self, config: &Config, prepared: Prepared) {
        self.take(config, prepared);
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
        self.put_into_force(&mut state);
    }

    /// Puts a mode file into force, or says why not, and leaves the rest of the configuration as it is.
    pub(super) fn apply_file_alone(&self, prepared: Prepared) {
        let config = Arc::clone(&self.state().config);
        self.apply(&config, prepared);
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

    /// Makes the modes of the plan and tells everyone.
    fn put_into_force(&self, state: &mut State) {
        let State { running, plan, config, .. } = &*state;
        let running = running.changed_to(plan, config, &self.0.parts, |settings| {
            state.known(settings).map(|known| known.upstream.clone())
        });
        state.running = running;
        self.tell(state);
    }

    fn tell(&self, state: &State) {
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
        // Nothing of Local goes while another mode answers too: before that begins, and until it is over.
        let store = self.0.parts.fills.store();
        let is_alone = plan.is_settled() && plan.in_force.as_ref().is_some_and(ModeSpec::takes_pushes);
        if !is_alone {
            store.hold_collection(true);
        }
        // Before a mode answers nothing of its data goes any more, and none goes as long as it answers.
        let used = plan.used_data(&state.config);
        store.add_used_data(&used);
        if let Some(app) = self.0.app.get() {
            app.set_modes(state.running.transition(plan));
        }
        store.hold_collection(!is_alone);
        store.set_used_data(used);
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
    pub(super) fn was_probed(
        &self,
        settings: &UpstreamSettings,
        probe: Probe,
        due: Instant,
        is_candidate: bool,
    ) -> bool {
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
            self.put_into_force(&mut state);
        } else {
            self.tell(&state);
        }
        true
    }

    /// What the status shows; `None` in modes without an upstream.
    pub(super) fn upstream_status(&self) -> Option<UpstreamStatus> {
        let state = self.state();
        let known = state.known(state.plan.upstream()?)?;
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

    /// The upstreams of the modes by their names in the store, as `host/path`.
    pub(super) fn upstream_ids(&self) -> Vec<(UpstreamId, String)> {
        let state = self.state();
        let upstreams = state.plan.upstreams().into_iter().map(|settings| &settings.endpoint);
        let id = |at: &EndpointSettings| (UpstreamId::of(&at.host, &at.path), format!("{}/{}", at.host, at.path));
        upstreams.map(id).map(|(id, address)| (id, address.trim_end_matches('/').to_owned())).collect()
    }

    /// The modes and the file that says so, at one moment.
    pub(super) fn seen(&self) -> Seen {
        let State { plan, file_error, .. } = &*self.state();
        let file = plan.file.as_ref();
        Seen {
            in_force: plan.in_force_name(),
            coming: plan
                .coming
                .as_ref()
                .map(|(mode, phase)| ComingStatus { mode: mode.as_str(), phase: phase.as_str() }),
            previous: plan.previous.iter().map(ModeSpec::as_str).collect(),
            file: (file.is_some() || file_error.is_some()).then(|| ModeFileStatus {
                hash: file.map(|file| file.hash.clone()).unwrap_or_default(),
                generation: file.map_or(0, |file| file.generation),
                error: file_error.clone(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn known(&self, settings: &UpstreamSettings) -> Option<&Known> {
        self.upstreams.iter().chain(&self.candidate).find(|known| known.settings == *settings)
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
