//! What is counted and logged of an answered request: the one place for both paths.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use super::App;
use super::route::Route;
use crate::telemetry::{self, AccessRecord, CacheOutcome, ContentKind};

/// Most bytes of a user agent that the log shows.
const AGENT_BYTES: usize = 256;

/// The facts of an answered request that are counted.
#[derive(Clone, Copy)]
pub(super) struct Tally<'a> {
    pub(super) method: telemetry::Method,
    pub(super) route: Option<&'a Route>,
    pub(super) status: u16,
    /// Bytes of the request's body.
    pub(super) received: u64,
    /// Bytes of the response's body.
    pub(super) sent: u64,
    /// From the request's head to the response's last byte.
    pub(super) duration: Duration,
    /// Logged whatever `log.access` says.
    pub(super) important: bool,
}

/// The facts of an answered request that only the log has.
pub(super) struct Told<'a> {
    pub(super) id: &'a str,
    pub(super) user: Option<&'a str>,
    pub(super) address: IpAddr,
    pub(super) method: &'a str,
    pub(super) reference: Option<Cow<'a, str>>,
    pub(super) cache: Option<CacheOutcome>,
    /// All of the response's body went out.
    pub(super) whole: bool,
    pub(super) error: Option<&'a str>,
    /// By [`user_agent`].
    pub(super) user_agent: Option<&'a str>,
}

/// Counts an answered request, and logs it if such requests are logged; only then `told` is asked for.
#[inline]
pub(super) fn account<'a>(app: &App, tally: Tally<'a>, told: impl FnOnce() -> Told<'a>) {
    let metrics = &app.0.metrics;
    metrics.request(tally.method, route_label(tally.route), tally.status, tally.duration);
    if tally.received > 0 {
        metrics.received(tally.received);
    }
    metrics.sent(tally.sent);
    if is_health(&tally) || !app.0.access_log.wants(tally.status, tally.important) {
        return;
    }
    let told = told();
    app.0.access_log.log(&AccessRecord {
        id: told.id,
        user: told.user,
        address: told.address,
        method: told.method,
        repository: tally.route.and_then(Route::repository).map(crate::oci::RepoName::as_str),
        reference: told.reference.as_deref(),
        status: tally.status,
        cache: told.cache,
        received: tally.received,
        sent: tally.sent,
        duration: tally.duration,
        whole: told.whole,
        error: told.error,
        user_agent: told.user_agent,
        important: tally.important,
    });
}

/// What balancers ask to see that a server is well, each every 2 s: 50 lines a second with a hundred nodes, which say nothing.
const fn is_health(tally: &Tally<'_>) -> bool {
    matches!(tally.route, Some(Route::Root)) && tally.status < 400
}

/// Counts how content came to be answered.
pub(super) fn count_cache_answer(app: &App, route: Option<&Route>, outcome: CacheOutcome) {
    let kind = match route {
        Some(Route::Manifest(..)) => ContentKind::Manifest,
        Some(Route::Tags(_)) => ContentKind::Tags,
        Some(Route::Referrers(..)) => ContentKind::Referrers,
        _ => ContentKind::Blob,
    };
    app.0.metrics.cache_answer(kind, outcome);
}

/// The `User-Agent` header as the log has it: its first 256 bytes; `None` if any of it is not visible ASCII.
pub(super) fn user_agent(header: &[u8]) -> Option<&str> {
    let is_readable = header.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    std::str::from_utf8(&header[..header.len().min(AGENT_BYTES)]).ok().filter(|_| is_readable)
}

const fn route_label(route: Option<&Route>) -> telemetry::Route {
    match route {
        Some(Route::Root | Route::Base) => telemetry::Route::Base,
        Some(Route::Token) => telemetry::Route::Token,
        Some(Route::Catalog) => telemetry::Route::Catalog,
        Some(Route::Blob(..)) => telemetry::Route::Blob,
        Some(Route::Uploads(_) | Route::Upload(..)) => telemetry::Route::Upload,
        Some(Route::Manifest(..)) => telemetry::Route::Manifest,
        Some(Route::Tags(_)) => telemetry::Route::Tags,
        Some(Route::Referrers(..)) => telemetry::Route::Referrers,
        None => telemetry::Route::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_agent_is_cut_and_shown_only_if_it_is_readable() {
        assert_eq!(user_agent(b"containerd/2.0\tx"), Some("containerd/2.0\tx"));
        assert_eq!(user_agent(&[b'x'; 300]), Some(&*"x".repeat(AGENT_BYTES)));
        let mut late = [b'x'; 300];
        late[299] = b'\n';
        assert_eq!((user_agent(&late), user_agent("é".as_bytes()), user_agent(b"\x7f")), (None, None, None));
    }
}
