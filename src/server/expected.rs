//! What has to be in the store: which repositories are looked at, and what is shown of what was found.

use super::modes::Modes;
use super::{options, plan};
use crate::admin::{ExpectedModeStatus, ExpectedStatus, MissingStatus};
use crate::config::{Config, Mode};
use crate::expected::{Expected, ExpectedState, FileState, Findings, MissingImage, Root, Side};
use crate::telemetry::Samples;
use crate::telemetry::families::{EXPECTED_IMAGES, EXPECTED_LOOKED, EXPECTED_MISSING, EXPECTED_USABLE, EXPECTED_WHOLE};

/// The repositories of Local, and those of a coming Proxy or the one in force. Of a bundle that is served nothing is in the store.
pub(super) fn sides(modes: &Modes) -> Vec<Side> {
    modes.look(|config, plan, has_bundle| {
        let local = (!has_bundle).then(|| local(config, plan));
        local.into_iter().chain(proxy(config, plan)).collect()
    })
}

fn local(config: &Config, plan: &plan::Plan) -> Side {
    let root = |name: &crate::oci::RepoName| Root { name: name.clone(), stored: name.clone() };
    let roots = match &config.repositories[..] {
        [] => vec![root(&config.repository)],
        named => named.iter().map(|named| root(&named.name)).collect(),
    };
    let mode = Mode::Local.as_str();
    Side { mode, is_wanted: plan.wanted().any(|spec| spec.as_str() == mode), roots, needs_install: true }
}

fn proxy(config: &Config, plan: &plan::Plan) -> Option<Side> {
    let upstream = plan.wanted().filter(|spec| spec.is_cache()).last()?.upstream()?;
    let mapping = options::mapping(config, &upstream.endpoint);
    let roots = mapping.roots().map(|(name, stored)| Root { name, stored }).collect();
    Some(Side { mode: Mode::Proxy.as_str(), is_wanted: true, roots, needs_install: false })
}

/// For the status; `None`: `store.expected` is not set.
pub(super) fn status(expected: &Expected) -> Option<ExpectedStatus> {
    let ExpectedState { file, list, found } = expected.state();
    if file == FileState::Unset {
        return None;
    }
    Some(ExpectedStatus {
        state: file.as_str(),
        reason: file.fault(),
        written: list.as_ref().map(|list| list.written_at.as_secs()),
        images: list.as_ref().map(|list| list.images.len()),
        releases: list.as_ref().map(|list| list.releases.len()),
        modes: found.into_iter().map(shown).collect(),
    })
}

fn shown(found: Findings) -> ExpectedModeStatus {
    let missing = |MissingImage { image, source, why }| MissingStatus { image, source, why };
    ExpectedModeStatus {
        mode: found.mode,
        whole: found.missing == 0,
        images: found.images,
        missing: found.missing,
        looked: found.looked.as_secs(),
        missing_images: found.named.into_iter().map(missing).collect(),
    }
}

/// The same as metrics.
pub(super) fn add_samples(expected: &Expected, samples: &mut Samples) {
    let ExpectedState { file, list: _, found } = expected.state();
    if file == FileState::Unset {
        return;
    }
    samples.add(&EXPECTED_USABLE, &[], u64::from(file == FileState::Usable));
    for found in found {
        let mode = [found.mode];
        samples.add(&EXPECTED_IMAGES, &mode, found.images);
        samples.add(&EXPECTED_MISSING, &mode, found.missing);
        samples.add(&EXPECTED_WHOLE, &mode, u64::from(found.missing == 0));
        samples.add(&EXPECTED_LOOKED, &mode, found.looked.as_secs());
    }
}
