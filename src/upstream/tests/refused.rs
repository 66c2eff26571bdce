//! What was refused is left alone: the pair, limits, repositories; and what the probe finds out.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use futures_util::future::join_all;

use super::*;
use crate::telemetry::ProbeOutcome;

const LONG: Duration = Duration::from_secs(3600);

/// With pauses that nobody lives to see the end of.
fn patient(endpoint: EndpointOptions) -> UpstreamOptions {
    let mut options = options(vec![endpoint]);
    for pause in [
        &mut options.limits.refused_pause,
        &mut options.limits.limited_pause,
        &mut options.limits.denied_pause,
        &mut options.limits.refused_pause_max,
    ] {
        *pause = LONG;
    }
    options
}

/// A token server that gives `Bearer t` with status 200, and a registry that takes it.
async fn with_tokens(status: &Arc<AtomicU16>) -> (Server, Server) {
    let status = Arc::clone(status);
    let tokens = Server::start(move |_| match status.load(Ordering::Relaxed) {
        200 => Reply::json(200, r#"{"token":"t"}"#),
        429 => Reply::with(429, "retry-after", "3600"),
        refused => Reply::status(refused),
    })
    .await;
    let realm = tokens.url("/token");
    let registry = Server::start(move |request| match request.header("authorization") {
        "Bearer t" => page_or_manifest(request),
        _ => Reply::with(401, "www-authenticate", format!(r#"Bearer realm="{realm}",service="s""#)),
    })
    .await;
    (tokens, registry)
}

fn page_or_manifest(request: &Request) -> Reply {
    if request.target.contains("tags/list") { Reply::json(200, r#"{"tags":[]}"#) } else { Reply::ok(MANIFEST) }
}

fn signed(server: &Server) -> usize {
    server.seen().iter().filter(|request| !request.header("authorization").is_empty()).count()
}

#[tokio::test]
async fn a_refused_sign_in_is_not_repeated_until_the_probe_finds_it_taken() {
    for refusal in [401, 403] {
        let status = Arc::new(AtomicU16::new(refusal));
        let (tokens, registry) = with_tokens(&status).await;
        let upstream = build(&patient(with_login(&registry)));
        let (reference, children) = (tag("a"), ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]);
        for _ in 0..2 {
            let all = join_all(children.map(|child| upstream.manifest(child, &reference, soon()))).await;
            assert!(all.iter().all(Result::is_err));
        }
        // A scope may be refused with 403: one more question, for no scope, tells that from a refused pair.
        let questions = if refusal == 403 { 2 } else { 1 };
        assert_eq!(tokens.seen().len(), questions, "ten repositories, twice");
        let told = upstream.manifest("a", &reference, soon()).await.unwrap_err();
        assert!(told.is_circuit_open() && told.to_string().contains("refuses the user"), "{told}");
        assert_eq!(told.status(), Some(refusal));
        assert!(told.retry_after().is_some_and(|left| left > LONG / 2 && left <= LONG));
        assert!(upstream.left_alone().is_some());

        assert_eq!(upstream.probe(None, soon()).await.outcome, ProbeOutcome::Auth);
        assert_eq!(tokens.seen().len(), 2 * questions, "the probe asks");
        status.store(200, Ordering::Relaxed);
        upstream.manifest("a", &reference, soon()).await.unwrap_err();
        assert_eq!(upstream.probe(None, soon()).await.outcome, ProbeOutcome::Ok);
        upstream.manifest("a", &reference, soon()).await.unwrap();
        assert!(upstream.left_alone().is_none());
    }
}

#[tokio::test]
async fn a_scope_that_is_refused_is_no_refused_pair() {
    let tokens = Server::start(|request| match request.target.contains("secret") {
        true => Reply::status(403),
        false => Reply::json(200, r#"{"token":"t"}"#),
    })
    .await;
    let realm = tokens.url("/token");
    let registry = Server::start(move |request| match request.header("authorization") {
        "Bearer t" => Reply::ok(MANIFEST),
        _ => Reply::with(401, "www-authenticate", format!(r#"Bearer realm="{realm}""#)),
    })
    .await;
    let upstream = build(&patient(with_login(&registry)));
    let error = upstream.manifest("secret", &tag("a"), soon()).await.unwrap_err();
    assert_eq!(error.cause(), UpstreamCause::Forbidden);
    upstream.manifest("app", &tag("a"), soon()).await.unwrap();
}

#[tokio::test]
async fn basic_is_refused_by_its_base_alone() {
    let (right, wrong) = ("Basic bWU6Z2VoZWlt", Arc::new(AtomicBool::new(true)));
    let switch = Arc::clone(&wrong);
    let registry = Server::start(move |request| {
        let is_right = request.header("authorization") == right && !switch.load(Ordering::Relaxed);
        match is_right && !request.target.contains("secret") {
            true => page_or_manifest(request),
            false => Reply::with(401, "www-authenticate", r#"Basic realm="x""#),
        }
    })
    .await;
    let upstream = build(&patient(with_login(&registry)));
    let reference = tag("a");
    for _ in 0..2 {
        let all = join_all((0..20).map(|_| upstream.manifest("app", &reference, soon()))).await;
        assert!(all.iter().all(Result::is_err));
    }
    assert_eq!(signed(&registry), 2, "once for the content and once at /v2/");
    wrong.store(false, Ordering::Relaxed);
    assert_eq!(upstream.probe(None, soon()).await.outcome, ProbeOutcome::Ok);
    upstream.manifest("app", &reference, soon()).await.unwrap();
    // One repository is refused, the pair is not.
    let error = upstream.manifest("secret", &reference, soon()).await.unwrap_err();
    assert_eq!((error.cause(), error.is_circuit_open()), (UpstreamCause::Unauthorized, false));
    upstream.manifest("app", &reference, soon()).await.unwrap();
}

#[tokio::test]
async fn while_another_pair_waits_the_refused_one_is_not_tried() {
    let status = Arc::new(AtomicU16::new(401));
    let (tokens, registry) = with_tokens(&status).await;
    let mut options = patient(with_login(&registry));
    options.limits.refused_pause = Duration::ZERO;
    let upstream = build(&options);
    upstream.manifest("app", &tag("a"), soon()).await.unwrap_err();
    upstream.hold_refused(true);
    for _ in 0..3 {
        assert!(upstream.manifest("app", &tag("a"), soon()).await.unwrap_err().is_circuit_open());
    }
    assert_eq!(tokens.seen().len(), 1);
    upstream.hold_refused(false);
    status.store(200, Ordering::Relaxed);
    upstream.manifest("app", &tag("a"), soon()).await.unwrap();
}

#[tokio::test]
async fn a_repository_that_is_refused_after_a_token_is_left_alone_and_no_other() {
    for (status, challenge) in [(403, ""), (401, "Bearer")] {
        let denied = Arc::new(AtomicBool::new(true));
        let switch = Arc::clone(&denied);
        let tokens = Server::start(|_| Reply::json(200, r#"{"token":"t"}"#)).await;
        let realm = tokens.url("/token");
        let registry = Server::start(move |request| {
            let ask = Reply::with(401, "www-authenticate", format!(r#"Bearer realm="{realm}""#));
            let is_denied = switch.load(Ordering::Relaxed) && request.target.contains("secret");
            match request.header("authorization") {
                "Bearer t" if !is_denied => page_or_manifest(request),
                "Bearer t" if challenge.is_empty() => Reply::status(status),
                _ => ask,
            }
        })
        .await;
        let upstream = build(&patient(with_login(&registry)));
        upstream.manifest("app", &tag("a"), soon()).await.unwrap();
        let asked = || signed(&registry);
        let before = asked();
        upstream.manifest("secret", &tag("a"), soon()).await.unwrap_err();
        let each = asked() - before;
        assert_eq!(each, if status == 401 { 2 } else { 1 }, "a token gets a second look");
        let told = upstream.manifest("secret", &tag("a"), soon()).await.unwrap_err();
        assert!(told.is_circuit_open() && told.status() == Some(status), "{told}");
        upstream.manifest("secret", &tag("b"), soon()).await.unwrap_err();
        // Two contents are refused: so is the repository.
        for name in ["c", "d", "e"] {
            assert!(upstream.manifest("secret", &tag(name), soon()).await.unwrap_err().is_circuit_open());
            upstream.tags("secret", soon()).await.unwrap_err();
        }
        assert_eq!(asked() - before, each + 1, "the second look is not given each time");
        upstream.manifest("app", &tag("a"), soon()).await.unwrap();
        assert!(upstream.left_alone().is_none(), "the pair is not refused");
    }
}

#[tokio::test]
async fn a_limit_is_heeded_by_all_but_the_probe() {
    let in_a_year = httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(4_000_000_000));
    for told in ["3600", "99999999999999999999999", &in_a_year, "3600, 10", "", "soon"] {
        let (limited, value) = (Arc::new(AtomicBool::new(true)), told.to_owned());
        let switch = Arc::clone(&limited);
        let server = Server::start(move |request| match switch.load(Ordering::Relaxed) {
            true => Reply::with(429, "retry-after", value.clone()),
            false => page_or_manifest(request),
        })
        .await;
        let upstream = build(&patient(anonymous(&server)));
        for child in ["a", "a", "b", "c"] {
            let error = upstream.manifest(child, &tag("a"), soon()).await.unwrap_err();
            assert_eq!(error.cause(), UpstreamCause::RateLimited, "{told}: {error}");
            let left = upstream.left_alone().unwrap();
            assert!(left > LONG / 2 && left <= LONG, "{told}: {left:?}");
        }
        assert_eq!(server.seen().len(), 1, "{told}");
        limited.store(false, Ordering::Relaxed);
        assert_eq!(upstream.probe(None, soon()).await.outcome, ProbeOutcome::Ok);
        upstream.manifest("a", &tag("a"), soon()).await.unwrap();
    }
}

#[tokio::test]
async fn a_limited_token_server_stops_only_those_who_need_a_token() {
    let status = Arc::new(AtomicU16::new(200));
    let (tokens, registry) = with_tokens(&status).await;
    let upstream = build(&patient(with_login(&registry)));
    upstream.manifest("one", &tag("a"), soon()).await.unwrap();
    status.store(429, Ordering::Relaxed);
    for child in ["two", "two", "three"] {
        let error = upstream.manifest(child, &tag("a"), soon()).await.unwrap_err();
        assert_eq!(error.cause(), UpstreamCause::RateLimited, "{error}");
    }
    assert_eq!(tokens.seen().len(), 2);
    upstream.manifest("one", &tag("b"), soon()).await.unwrap();
}

#[tokio::test]
async fn whether_head_is_known_only_the_manifest_itself_tells() {
    let status = Arc::new(AtomicU16::new(403));
    let (_tokens, registry) = with_tokens(&status).await;
    let upstream = build(&patient(with_login(&registry)));
    upstream.resolve("app", &"v1".parse().unwrap(), soon()).await.unwrap_err();
    upstream.exists("app", &tag("v1"), soon()).await.unwrap_err();
    upstream.blob_size("app", &sha256(BLOB), soon()).await.unwrap_err();
    assert!(registry.seen().iter().all(|request| request.method == "HEAD"), "{:?}", registry.seen());
}

#[tokio::test]
async fn an_upstream_that_fails_is_asked_again_at_once() {
    let down = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&down);
    let server = Server::start(move |_| match switch.load(Ordering::Relaxed) {
        true => Reply::with(503, "retry-after", "3600"),
        false => Reply::ok(MANIFEST),
    })
    .await;
    let upstream = build(&patient(anonymous(&server)));
    for _ in 0..3 {
        upstream.manifest("app", &tag("a"), soon()).await.unwrap_err();
    }
    down.store(false, Ordering::Relaxed);
    upstream.manifest("app", &tag("a"), soon()).await.unwrap();
    let limits = UpstreamLimits::default();
    assert!(limits.circuit_pause_max + limits.circuit_trial_wait < Duration::from_secs(5));
}

#[tokio::test]
async fn requests_to_an_endpoint_are_bounded_and_the_probe_is_not_kept_out() {
    let server = Server::start(|request| match request.target.contains("tags/list") {
        true => page_or_manifest(request),
        false => Reply::Stall(Vec::new()),
    })
    .await;
    let mut options = options(vec![anonymous(&server)]);
    (options.limits.requests, options.limits.queued) = (2, 1);
    let upstream = build(&options);
    let reference = tag("a");
    let mut running: Vec<_> = (0..3).map(|_| Box::pin(upstream.exists("app", &reference, soon()))).collect();
    for one in &mut running {
        assert!(futures_util::poll!(one).is_pending());
    }
    let error = upstream.manifest("app", &reference, soon()).await.unwrap_err();
    assert!(error.is_busy() && error.retry_after().is_some(), "{error}");
    assert_eq!(upstream.probe(None, soon()).await.outcome, ProbeOutcome::Ok);
    // Places come back with whoever leaves.
    drop(running);
    upstream.tags("app", soon()).await.unwrap();
}
