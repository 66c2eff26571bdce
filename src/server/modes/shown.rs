//! What others show of the modes.

use super::Modes;
use crate::admin::{ComingStatus, ModeFileStatus, UpstreamStatus};
use crate::clock;
use crate::config::{EndpointSettings, ModeSpec};
use crate::oci::UpstreamId;
use crate::telemetry::ProbeOutcome;

/// The modes at one moment, by name.
pub(in crate::server) struct Seen {
    pub(in crate::server) in_force: &'static str,
    pub(in crate::server) coming: Option<ComingStatus>,
    /// The newest first.
    pub(in crate::server) previous: Vec<&'static str>,
    /// `None` where the keys count and no file was refused.
    pub(in crate::server) file: Option<ModeFileStatus>,
}

impl Modes {
    /// What the status shows; `None` in modes without an upstream.
    pub(in crate::server) fn upstream_status(&self) -> Option<UpstreamStatus> {
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
    pub(in crate::server) fn upstream_ids(&self) -> Vec<(UpstreamId, String)> {
        let state = self.state();
        let upstreams = state.plan.upstreams().into_iter().map(|settings| &settings.endpoint);
        let id = |at: &EndpointSettings| (UpstreamId::of(&at.host, &at.path), format!("{}/{}", at.host, at.path));
        upstreams.map(id).map(|(id, address)| (id, address.trim_end_matches('/').to_owned())).collect()
    }

    /// The modes that requests see and the file that says so, at one moment.
    pub(in crate::server) fn seen(&self) -> Seen {
        let super::State { told: plan, file_error, .. } = &*self.state();
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
}
