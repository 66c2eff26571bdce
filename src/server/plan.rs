//! Which modes this server has: by the keys of its configuration, or by the mode file.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::options;
use crate::config::{self, Config, InForce, ModeFile, ModeSpec, UpstreamSettings};
use crate::fetch::{Displacing, Fills};
use crate::mode::{Bundled, Direct, Local, Mode, Proxy, Transition};
use crate::oci::UpstreamId;
use crate::replicas::Replicas;
use crate::store::UsedData;
use crate::telemetry::Metrics;
use crate::upstream::Upstream;
use crate::values::Phase;

/// Which modes there are, with what each needs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    /// `None`: Unmanaged.
    pub(super) in_force: Option<ModeSpec>,
    pub(super) coming: Option<(ModeSpec, Phase)>,
    /// The newest first.
    pub(super) previous: Vec<ModeSpec>,
    /// The file that says so; `None`: the keys do.
    pub(super) file: Option<Arc<ModeFile>>,
}

impl Plan {
    /// Before anything is known.
    pub(super) const fn nothing() -> Self {
        Self { in_force: None, coming: None, previous: Vec::new(), file: None }
    }

    /// By the keys, with the upstream that is in force. Without an upstream there is only Local: the configuration asks for
    /// one in the other modes.
    pub(super) fn of_keys(config: &Config, upstream: Option<&UpstreamSettings>) -> Self {
        let mode = match (config.mode, upstream.cloned()) {
            (config::Mode::Local, _) | (_, None) => ModeSpec::Local,
            (config::Mode::Direct, Some(upstream)) => ModeSpec::Direct { upstream },
            (config::Mode::Proxy, Some(upstream)) => ModeSpec::Proxy { upstream, ttl: config.proxy.ttl },
        };
        Self { in_force: Some(mode), coming: None, previous: Vec::new(), file: None }
    }

    /// By the mode file.
    pub(super) fn of_file(file: Arc<ModeFile>) -> Self {
        let (in_force, previous) = match &file.in_force {
            InForce::Unmanaged => (None, Vec::new()),
            InForce::Mode { mode, previous } => (Some(mode.clone()), previous.clone()),
        };
        let coming = file.coming.as_ref().map(|coming| (coming.mode.clone(), coming.phase));
        Self { in_force, coming, previous, file: Some(file) }
    }

    /// Whether one mode is in force and nothing else is there.
    pub(super) const fn is_settled(&self) -> bool {
        self.coming.is_none() && self.previous.is_empty()
    }

    /// All modes: the one in force, the coming one, those before.
    pub(super) fn modes(&self) -> impl Iterator<Item = &ModeSpec> {
        self.in_force.iter().chain(self.coming.iter().map(|(mode, _)| mode)).chain(&self.previous)
    }

    /// The one in force, then the coming one.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &ModeSpec> {
        self.in_force.iter().chain(self.coming.iter().map(|(mode, _)| mode))
    }

    /// The upstreams of the modes, each once.
    pub(super) fn upstreams(&self) -> Vec<&UpstreamSettings> {
        let mut found: Vec<&UpstreamSettings> = Vec::new();
        for upstream in self.modes().filter_map(ModeSpec::upstream) {
            if !found.contains(&upstream) {
                found.push(upstream);
            }
        }
        found
    }

    /// Whose room a push may take; `is_well`: whether the last probe of the mode's upstream was good.
    pub(super) fn displacing(&self, is_well: impl Fn(&ModeSpec) -> bool) -> Displacing {
        let coming = self.coming.as_ref().map(|(mode, _)| mode);
        let takes_pushes = self.in_force.iter().chain(coming).any(ModeSpec::takes_pushes);
        let mut caches = self.modes().filter(|mode| mode.is_cache()).peekable();
        match (takes_pushes, caches.peek().is_some()) {
            (false, _) => Displacing::Nothing,
            (true, false) => Displacing::Unused,
            // What goes has to be there again when it is asked for.
            (true, true) if caches.all(is_well) => Displacing::Replaceable,
            (true, true) => Displacing::Nothing,
        }
    }

    /// The data that the modes use.
    pub(super) fn used_data(&self, config: &Config) -> UsedData {
        let mut used = UsedData { switching: !self.is_settled(), ..UsedData::default() };
        for mode in self.modes() {
            match mode {
                ModeSpec::Local => used.pushed = true,
                ModeSpec::Proxy { upstream: UpstreamSettings { endpoint, .. }, .. } => {
                    // Its own one too, where no name leads to it.
                    used.upstreams.insert(UpstreamId::of(&endpoint.host, &endpoint.path));
                    used.upstreams.extend(options::mapping(config, endpoint).upstreams());
                }
                ModeSpec::Direct { .. } => {}
            }
        }
        used
    }

    /// The upstream of the mode in force.
    pub(super) fn upstream(&self) -> Option<&UpstreamSettings> {
        self.in_force.as_ref()?.upstream()
    }

    /// The age at which unused content goes; zero: never, as long as another mode may still need it.
    pub(super) fn ttl(&self) -> Duration {
        let settled = self.in_force.as_ref().filter(|_| self.is_settled());
        settled.and_then(ModeSpec::ttl).unwrap_or(Duration::ZERO)
    }

    /// The name of what is in force.
    pub(super) fn in_force_name(&self) -> &'static str {
        self.in_force.as_ref().map_or(config::AnyMode::Unmanaged.as_str(), ModeSpec::as_str)
    }

    /// Says in the log what is in force by the mode file.
    pub(super) fn announce(&self) {
        let Some(file) = &self.file else { return };
        let coming = self.coming.as_ref().map(|(mode, phase)| format!("{} ({phase})", mode.as_str()));
        let previous: Vec<&str> = self.previous.iter().map(ModeSpec::as_str).collect();
        tracing::info!(
            generation = file.generation,
            mode = self.in_force_name(),
            coming,
            ?previous,
            "the mode file is in force"
        );
    }
}

/// What modes are made of.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) fills: Fills,
    /// What mode Local is, if it is not the store.
    pub(super) bundled: Option<Bundled>,
    pub(super) replicas: Replicas,
    pub(super) metrics: Metrics,
    pub(super) tasks: TaskTracker,
}

/// The modes of a plan as they run: one that stays is the same one, with all it remembers.
#[derive(Clone, Debug, Default)]
pub(super) struct Running(Vec<(ModeSpec, Arc<Mode>)>);

impl Running {
    /// The modes of `plan`. Those of `self` are taken over where they are the same; `None` for an upstream that is not among
    /// `upstreams`, which is a fault of the caller's: such a mode is left out.
    pub(super) fn changed_to(
        &self,
        plan: &Plan,
        config: &Config,
        parts: &Parts,
        upstream: impl Fn(&UpstreamSettings) -> Option<Upstream>,
    ) -> Self {
        let mut modes: Vec<(ModeSpec, Arc<Mode>)> = Vec::new();
        for spec in plan.modes() {
            if modes.iter().any(|(other, _)| other == spec) {
                continue;
            }
            let kept = self.0.iter().find(|(other, _)| other == spec).map(|(_, mode)| Arc::clone(mode));
            if let Some(mode) = kept.or_else(|| Some(Arc::new(parts.mode(spec, config, &upstream)?))) {
                modes.push((spec.clone(), mode));
            }
        }
        Self(modes)
    }

    /// Them as requests see them.
    pub(super) fn transition(&self, plan: &Plan) -> Transition {
        let find = |spec: &ModeSpec| self.0.iter().find(|(other, _)| other == spec).map(|(_, mode)| Arc::clone(mode));
        let in_force = plan.in_force.as_ref().and_then(find).unwrap_or_else(|| Arc::new(Mode::Unmanaged));
        let coming = plan.coming.as_ref().and_then(|(spec, phase)| Some((find(spec)?, *phase)));
        Transition::new(in_force, coming, plan.previous.iter().filter_map(find).collect())
    }

    /// The cache of an upstream, if there is one.
    pub(super) fn proxy_of(&self, upstream: &UpstreamSettings) -> Option<&Proxy> {
        self.0.iter().find_map(|(spec, mode)| match &**mode {
            Mode::Proxy(proxy) if spec.upstream() == Some(upstream) => Some(proxy),
            _ => None,
        })
    }
}

impl Parts {
    fn mode(
        &self,
        spec: &ModeSpec,
        config: &Config,
        upstream: &impl Fn(&UpstreamSettings) -> Option<Upstream>,
    ) -> Option<Mode> {
        Some(match spec {
            ModeSpec::Local if let Some(bundled) = &self.bundled => Mode::Bundled(bundled.clone()),
            ModeSpec::Local => {
                let local = Local::new(self.fills.store().clone(), config.manifests.missing_references);
                let local = local.displacing(self.fills.evictor().clone());
                let (fills, replicas) = (self.fills.clone(), self.replicas.clone());
                Mode::Local(local.reading_through(fills, replicas, self.tasks.clone()))
            }
            ModeSpec::Direct { upstream: settings } => {
                let mapping = options::mapping(config, &settings.endpoint);
                let stop = self.fills.stop().clone();
                Mode::Direct(Direct::new(upstream(settings)?, mapping, self.tasks.clone(), stop))
            }
            ModeSpec::Proxy { upstream: settings, .. } => Mode::Proxy(Proxy::new(
                self.fills.clone(),
                upstream(settings)?,
                options::mapping(config, &settings.endpoint),
                options::proxy(config),
                self.metrics.clone(),
                self.tasks.clone(),
            )),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Plan {
        Plan::of_file(Arc::new(ModeFile::parse(text.as_bytes()).unwrap()))
    }

    const PROXY: &str = "{mode: Proxy, upstream: {imagesRepo: a.example/x}, ttl: 1h}";

    #[test]
    fn nothing_ages_while_another_mode_may_still_need_it() {
        let head = "version: 1, generation: 1";
        let settled = plan(&format!("{{{head}, inForce: {PROXY}}}"));
        assert!(settled.is_settled());
        assert_eq!(settled.ttl(), Duration::from_secs(3600));
        for text in [
            format!("{{{head}, inForce: {PROXY}, coming: {{mode: Local, phase: filling}}}}"),
            format!("{{{head}, inForce: {PROXY}, coming: {{mode: Local, phase: ready}}}}"),
            format!("{{{head}, inForce: {PROXY}, previous: [{{mode: Local}}]}}"),
            format!("{{{head}, inForce: {{mode: Local}}, previous: [{PROXY}]}}"),
            format!("{{{head}, inForce: {{mode: Local}}}}"),
            format!("{{{head}, inForce: {{mode: Unmanaged}}}}"),
        ] {
            assert_eq!(plan(&text).ttl(), Duration::ZERO, "{text}");
        }
    }

    #[test]
    fn a_push_takes_room_of_a_cache_that_is_well_or_that_no_mode_has() {
        let (head, direct) = ("version: 1, generation: 1", PROXY.replace("Proxy", "Direct").replace(", ttl: 1h", ""));
        for (modes, well, ill) in [
            (format!("inForce: {PROXY}"), Displacing::Nothing, Displacing::Nothing),
            (
                format!("inForce: {PROXY}, coming: {{mode: Local, phase: filling}}"),
                Displacing::Replaceable,
                Displacing::Nothing,
            ),
            (format!("inForce: {{mode: Local}}, previous: [{PROXY}]"), Displacing::Replaceable, Displacing::Nothing),
            (
                format!("inForce: {{mode: Local}}, coming: {}, phase: ready}}", PROXY.trim_end_matches('}')),
                Displacing::Replaceable,
                Displacing::Nothing,
            ),
            (format!("inForce: {PROXY}, previous: [{{mode: Local}}]"), Displacing::Nothing, Displacing::Nothing),
            (
                format!("inForce: {direct}, coming: {{mode: Local, phase: ready}}"),
                Displacing::Unused,
                Displacing::Unused,
            ),
            ("inForce: {mode: Local}".to_owned(), Displacing::Unused, Displacing::Unused),
            ("inForce: {mode: Unmanaged}".to_owned(), Displacing::Nothing, Displacing::Nothing),
        ] {
            let plan = plan(&format!("{{{head}, {modes}}}"));
            assert_eq!((plan.displacing(|_| true), plan.displacing(|_| false)), (well, ill), "{modes}");
        }
    }

    #[test]
    fn an_upstream_of_several_modes_is_one() {
        let direct = PROXY.replace("Proxy", "Direct").replace(", ttl: 1h", "");
        let other = direct.replace("a.example", "b.example");
        let plan = plan(&format!(
            "{{version: 1, generation: 1, inForce: {PROXY}, coming: {{mode: Local, phase: ready}}, previous: [{direct}, {other}]}}"
        ));
        assert_eq!(plan.modes().count(), 4);
        let hosts: Vec<&str> = plan.upstreams().iter().map(|upstream| upstream.endpoint.host.as_str()).collect();
        assert_eq!(hosts, ["a.example", "b.example"]);
        assert_eq!((plan.in_force_name(), plan.upstream().unwrap().endpoint.host.as_str()), ("Proxy", "a.example"));
    }
}
