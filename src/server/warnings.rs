//! What of a configuration can be put into force and is probably not meant so: said at the start, after a reload, and by
//! `--check-config`.

use super::options;
use crate::auth::Authenticator;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::mode::Transition;
use crate::serve::{Tls, of_authorities};
use crate::store::Usage;

/// Sentences without secrets, each with the key that it is about. Reads no file.
pub(super) fn of(config: &Config, auth: &Authenticator, tls: Option<&Tls>, now: Timestamp) -> Vec<String> {
    let mut found = config.warnings();
    found.extend(auth.warnings());
    if let (Some(tls), Some(files)) = (tls, options::tls(config)) {
        found.extend(tls.warnings(&files, now));
    }
    let upstream =
        config.upstream.iter().flat_map(|upstream| std::iter::once(&upstream.endpoint).chain(&upstream.mirrors));
    // Those of routes are among the upstream's mirrors, if they are its own.
    let routes = config.upstream_routes.mirrors().map(|(_, mirror)| mirror);
    for (host, pem) in upstream.chain(routes).filter_map(|at| Some((&at.host, at.ca.as_ref()?))) {
        let about = of_authorities(&format!("upstream: the ca for {host}"), pem.as_bytes(), now);
        found.extend(about.filter(|about| !found.contains(about)));
    }
    found
}

/// Logs those that were not said yet; what is said is remembered in `said`, what is mended forgotten.
pub(super) fn log(found: Vec<String>, said: &mut Vec<String>) {
    for warning in found.iter().filter(|warning| !said.contains(warning)) {
        tracing::warn!("{warning}");
    }
    *said = found;
}

/// Logs at the start that nothing can be pushed, whatever said which mode is in force. A cache at its bounds is as it should be.
pub(super) fn log_room(modes: &Transition, usage: &Usage) {
    let taken = modes.in_force().writable().is_ok() || modes.coming().is_some_and(|(mode, _)| mode.writable().is_ok());
    if taken && let Some(refusal) = usage.refusal {
        let Usage { used, budget, free, reserve, .. } = *usage;
        tracing::warn!(used, budget, free, reserve, "pushes are refused: {refusal}");
    }
}
