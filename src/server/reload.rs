//! Puts a changed configuration into force while requests run: all of it or nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::modes::{Modes, Prepared};
use super::{Parts, options, warnings};
use crate::admin::ConfigStatus;
use crate::api::App;
use crate::clock;
use crate::config::reload::{Attempt, Cause, Outcome, Reload};
use crate::config::{Config, Reloaded};
use crate::serve::Server;
use crate::telemetry::{Metrics, ReloadOutcome, with_causes};

/// The drain deadline in force; shared with the end of the server.
#[derive(Clone, Debug)]
pub(super) struct Deadline(Arc<AtomicU64>);

impl Deadline {
    pub(super) fn new(deadline: Duration) -> Self {
        let shared = Self(Arc::default());
        shared.store(deadline);
        shared
    }

    fn store(&self, deadline: Duration) {
        self.0.store(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn load(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// What a reload acts on.
pub(super) struct Reloads {
    parts: Arc<ArcSwap<Config>>,
    held: Arc<Parts>,
    app: App,
    modes: Modes,
    registry: Server,
    metrics: Metrics,
    state: Arc<ArcSwap<ConfigStatus>>,
    deadline: Deadline,
    said: Vec<String>,
}

impl Reloads {
    pub(super) fn new(
        parts: Parts,
        app: App,
        modes: Modes,
        registry: Server,
        metrics: Metrics,
        state: Arc<ArcSwap<ConfigStatus>>,
        deadline: Deadline,
    ) -> Self {
        let config = Arc::new(ArcSwap::from_pointee(parts.config.clone()));
        let said = parts.said.clone();
        Self { parts: config, held: Arc::new(parts), app, modes, registry, metrics, state, deadline, said }
    }

    /// Takes the mode file for itself: a switch of the cluster does not wait for users or certificates that are wrong.
    async fn take_file_alone(&self) {
        let modes = self.modes.clone();
        if let Ok(Some(prepared)) = tokio::task::spawn_blocking(move || modes.prepare_file_alone()).await {
            self.modes.apply_file_alone(prepared).await;
        }
    }

    async fn apply(&self, config: Config, upstream: Prepared) -> Vec<PathBuf> {
        let held = &self.held;
        held.logging.set(config.log.level, config.log.access);
        held.store.set_limits(options::store_limits(&config));
        held.store.set_collection(options::collection(&config));
        held.retention.set_options(options::retention(&config));
        held.pins.follow(config.store.pins.clone());
        held.expected.follow(config.store.expected.clone());
        let (store, changed) = (held.store.clone(), config.clone());
        let _ = tokio::task::spawn_blocking(move || super::replicas::keep_records(&store, &changed)).await;
        self.modes.replicas().follow(options::replicas(&config));
        held.store.set_scrub(options::scrub(&config));
        self.registry.set_limits(options::connections(&config));
        self.app.set_settings(options::api(&config));
        self.modes.apply(&config, upstream).await;
        self.deadline.store(config.limits.drain_deadline);
        let paths = config.watched_paths(held.source.file.as_deref());
        self.parts.store(Arc::new(config));
        paths
    }
}

/// What can fail, in an order in which a failure leaves nothing changed; blocking. TLS goes last: once its files fit, the
/// rest can't fail any more.
fn load(held: &Parts, modes: &Modes, before: &Config) -> Result<(Reloaded, Prepared), Attempt> {
    let refused = |error: &dyn std::error::Error| Attempt::Refused(with_causes(error));
    let reloaded =
        before.reload(held.source.file.as_deref(), &held.source.overrides).map_err(|error| refused(&error))?;
    let prepared =
        held.auth.prepare(&options::auth(&reloaded.config, held.keys.as_deref())).map_err(|error| refused(&error))?;
    let upstream = modes.prepare(&reloaded.config).map_err(|error| refused(&error))?;
    if let (Some(tls), Some(files)) = (&held.tls, options::tls(&reloaded.config)) {
        let change = tls.reload(&files).map_err(|error| {
            if error.may_be_swap_in_progress() { Attempt::NotYet(with_causes(&error)) } else { refused(&error) }
        })?;
        if change.certificate {
            tracing::info!("a new certificate is in force");
        }
    }
    held.auth.commit(prepared);
    Ok((reloaded, upstream))
}

impl Reload for Reloads {
    async fn attempt(&mut self, _cause: Cause) -> Attempt {
        let (held, modes, before) = (Arc::clone(&self.held), self.modes.clone(), self.parts.load_full());
        let loaded = match tokio::task::spawn_blocking(move || load(&held, &modes, &before)).await {
            Ok(loaded) => loaded,
            Err(error) => return Attempt::Refused(error.to_string()),
        };
        match loaded {
            Ok((reloaded, upstream)) => {
                if !reloaded.restart_keys.is_empty() {
                    tracing::warn!(keys = ?reloaded.restart_keys, "these keys changed and take effect at the next start");
                }
                let (held, config) = (&self.held, &reloaded.config);
                let found = warnings::of(config, &held.auth, held.tls.as_deref(), clock::now());
                warnings::log(found, &mut self.said);
                Attempt::Applied(self.apply(reloaded.config, upstream).await)
            }
            Err(attempt) => {
                self.take_file_alone().await;
                attempt
            }
        }
    }

    fn report(&mut self, cause: Cause, outcome: &Outcome) {
        match outcome {
            Outcome::Applied => {
                tracing::info!(?cause, "the configuration was read again and is in force");
                self.metrics.config_reload(ReloadOutcome::Applied);
                self.state.store(Arc::new(ConfigStatus::in_force(clock::now())));
            }
            Outcome::Refused(why) => {
                tracing::error!(?cause, why, "the changed configuration is refused, the one before stays in force");
                self.metrics.config_reload(ReloadOutcome::Rejected);
                let before = self.state.load_full();
                self.state.store(Arc::new(before.refused(why.clone())));
            }
        }
    }
}
