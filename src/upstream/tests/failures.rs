//! Upstreams that are down, slow or busy: retries, mirrors, circuits, names.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;

use super::*;

/// An address where nobody listens, and the socket that keeps others from it.
fn nobody() -> (EndpointOptions, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let host = socket.local_addr().unwrap().as_socket().unwrap().to_string();
    let endpoint = EndpointOptions {
        scheme: Scheme::Http,
        host,
        path: "base".to_owned(),
        ca: None,
        credentials: Credentials::Anonymous,
    };
    (endpoint, socket)
}

#[tokio::test]
async fn what_fails_for_a_moment_is_asked_again() {
    for status in [429, 500, 502, 503, 504] {
        let asked = AtomicUsize::new(0);
        let server = Server::start(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::with(status, "retry-after", "0"),
            1 => Reply::Raw(Vec::new()),
            _ => Reply::ok(MANIFEST),
        })
        .await;
        upstream(anonymous(&server)).manifest("app", &tag("a"), soon()).await.unwrap();
        assert_eq!(server.seen().len(), 3, "{status}");
    }
    let server =
        Server::start(|_| Reply::json(503, r#"{"errors":[{"code":"UNAVAILABLE","message":"maintenance"}]}"#)).await;
    let error = upstream(anonymous(&server)).manifest("app", &tag("a"), soon()).await.unwrap_err();
    assert_eq!((error.cause(), error.status()), (UpstreamCause::ServerError, Some(503)));
    assert!(error.to_string().contains("UNAVAILABLE: maintenance"), "{error}");
    assert_eq!(server.seen().len(), 3);
}

/// More bytes than the answer before declared meet the next request on that connection.
#[tokio::test]
async fn what_an_answer_left_on_its_connection_breaks_no_other() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        1 => Reply::Raw(b"moreHTTP/1.1 404 -\r\ncontent-length: 0\r\n\r\n".to_vec()),
        _ => Reply::ok(MANIFEST),
    })
    .await;
    let upstream = upstream(anonymous(&server));
    for seen in [1, 3] {
        upstream.manifest("app", &tag("a"), soon()).await.unwrap();
        assert_eq!(server.seen().len(), seen);
    }
}

#[tokio::test]
async fn a_pause_that_is_longer_than_the_deadline_is_not_waited_for() {
    let server = Server::start(|_| Reply::with(429, "retry-after", "3600")).await;
    let error = upstream(anonymous(&server)).manifest("app", &tag("a"), soon()).await.unwrap_err();
    assert_eq!(error.cause(), UpstreamCause::RateLimited);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn mirrors_are_tried_in_order_and_never_on_404() {
    // What is no registry's answer, 400 and 405 among them, says nothing about what the mirror has.
    for status in [400, 401, 403, 405, 418, 429, 500, 503] {
        let first = Server::start(move |_| Reply::status(status)).await;
        let second = Server::start(|_| Reply::ok(MANIFEST)).await;
        let both = build(&options(vec![anonymous(&first), anonymous(&second)]));
        both.manifest("app", &tag("a"), soon()).await.unwrap();
        assert_eq!((first.seen().len(), second.seen().len()), (1, 1), "{status}");
    }
    let mirror = Server::start(|_| Reply::ok(MANIFEST)).await;
    let mut path = anonymous(&mirror);
    path.path = "mirrored/here".to_owned();
    let (endpoint, _reserved) = nobody();
    let down = build(&options(vec![endpoint, path]));
    down.manifest("app", &tag("a"), soon()).await.unwrap();
    assert_eq!(mirror.seen()[0].target, "/v2/mirrored/here/app/manifests/a");

    let first = Server::start(|_| Reply::status(404)).await;
    let second = Server::start(|_| Reply::ok(MANIFEST)).await;
    let both = build(&options(vec![anonymous(&first), anonymous(&second)]));
    let error = both.manifest("app", &tag("a"), soon()).await.unwrap_err();
    assert_eq!(error.status(), Some(404));
    assert!(second.seen().is_empty());
}

#[tokio::test]
async fn a_silent_upstream_leaves_time_for_its_mirror() {
    let silent = Server::start(|_| Reply::Stall(Vec::new())).await;
    let mirror = Server::start(|_| Reply::ok(MANIFEST)).await;
    let both = build(&options(vec![anonymous(&silent), anonymous(&mirror)]));
    let deadline = Instant::now() + Duration::from_secs(2);
    both.manifest("app", &tag("a"), deadline).await.unwrap();
    assert_eq!((silent.count("GET", "/v2/base/app/manifests/a"), mirror.seen().len()), (1, 1));
}

#[tokio::test]
async fn a_short_deadline_opens_the_circuit_only_of_who_is_silent_altogether() {
    for (is_up, open) in [(true, 0), (false, 1)] {
        let server = Server::start(move |request| match is_up && request.is("GET", "/v2/") {
            true => Reply::status(401),
            false => Reply::Stall(Vec::new()),
        })
        .await;
        let mut options = options(vec![anonymous(&server)]);
        // How long a trial may take: no matter for who is up, little for who is not.
        options.limits.connect = if is_up { Duration::from_secs(20) } else { Duration::from_millis(100) };
        let (metrics, tasks) = (Metrics::new().unwrap(), TaskTracker::new());
        let upstream = Upstream::new(&options, metrics.clone(), tasks.clone()).unwrap();
        let deadline = Instant::now() + Duration::from_millis(50);
        let error = upstream.manifest("app", &tag("a"), deadline).await.unwrap_err();
        assert_eq!(error.cause(), UpstreamCause::Timeout);
        tasks.close();
        tasks.wait().await;
        let shown = metrics.render().unwrap();
        assert!(shown.contains(&format!("d8_registry_upstream_circuits_open {open}")), "{is_up}: {shown}");
    }
}

#[tokio::test]
async fn the_error_is_that_of_the_upstream_itself() {
    let first = Server::start(|_| Reply::status(403)).await;
    let second = Server::start(|_| Reply::status(500)).await;
    let both = build(&options(vec![anonymous(&first), anonymous(&second)]));
    let error = both.manifest("app", &tag("a"), soon()).await.unwrap_err();
    assert_eq!((error.cause(), error.host()), (UpstreamCause::Forbidden, first.host().as_str()));
}

#[tokio::test]
async fn who_refuses_connections_is_told_and_then_not_dialled() {
    let (endpoint, socket) = nobody();
    let mut options = options(vec![endpoint.clone()]);
    options.limits.circuit_pause = Duration::from_secs(3600);
    let upstream = build(&options);
    let error = upstream.manifest("app", &tag("a"), soon()).await.unwrap_err();
    assert_eq!(error.cause(), UpstreamCause::Unreachable);
    let said = error.to_string();
    assert!(said.starts_with(&endpoint.host) && said.contains("the connection was refused"), "{said}");
    // Somebody listens there now, but the circuit stays open for its pause.
    socket.listen(16).unwrap();
    socket.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(socket.into()).unwrap();
    let reference = tag("a");
    let errors = join_all((0..20).map(|_| upstream.manifest("app", &reference, soon()))).await;
    assert!(errors.iter().all(|result| result.as_ref().is_err_and(UpstreamError::is_circuit_open)));
    assert!(futures_util::poll!(Box::pin(listener.accept())).is_pending(), "nobody dialled");
}

#[tokio::test]
async fn who_gives_no_answer_is_not_waited_for_twice_and_found_when_back() {
    let silent = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&silent);
    let server = Server::start(move |_| match switch.load(Ordering::Relaxed) {
        true => Reply::Stall(Vec::new()),
        false => Reply::ok(MANIFEST),
    })
    .await;
    let mut options = options(vec![anonymous(&server)]);
    options.limits.first_byte = Duration::from_millis(100);
    options.limits.circuit_pause = Duration::ZERO;
    options.limits.circuit_trial_wait = Duration::from_secs(20);
    let metrics = Metrics::new().unwrap();
    let upstream = Upstream::new(&options, metrics.clone(), TaskTracker::new()).unwrap();
    let error = upstream.manifest("app", &tag("a"), soon()).await.unwrap_err();
    assert_eq!((error.cause(), error.is_circuit_open()), (UpstreamCause::Timeout, false), "{error}");
    assert!(metrics.render().unwrap().contains("d8_registry_upstream_circuits_open 1"));
    // The next one sets off a trial, which fails too, and is never sent itself.
    let error = upstream.manifest("app", &tag("a"), soon()).await.unwrap_err();
    assert!(error.is_circuit_open() && error.cause() == UpstreamCause::Timeout, "{error}");
    assert_eq!((server.count("GET", "/v2/"), server.count("GET", "/v2/base/app/manifests/a")), (1, 1));
    silent.store(false, Ordering::Relaxed);
    upstream.manifest("app", &tag("a"), soon()).await.unwrap();
    assert!(metrics.render().unwrap().contains("d8_registry_upstream_circuits_open 0"));
}

#[tokio::test]
async fn who_is_patient_with_a_blob_waits_only_for_a_host_that_answers_others() {
    for is_up in [true, false] {
        let server = Server::start(move |request| match is_up && request.is("GET", "/v2/") {
            true => Reply::status(401),
            false => Reply::Stall(Vec::new()),
        })
        .await;
        let mut options = options(vec![anonymous(&server)]);
        options.limits.first_byte = Duration::from_millis(50);
        // How long a trial may take: no matter for who is up, little for who is not.
        options.limits.connect = if is_up { Duration::from_secs(20) } else { Duration::from_millis(50) };
        let upstream = build(&options);
        let deadline = Instant::now() + Duration::from_secs(1);
        let patience = if is_up {
            Patience::from(deadline)
        } else {
            Patience { asking: soon(), answer: deadline + Duration::from_secs(3600) }
        };
        let error = upstream.blob("app", &sha256(BLOB), None, patience).await.unwrap_err();
        assert_eq!((error.cause(), error.is_circuit_open()), (UpstreamCause::Timeout, false), "{error}");
        // Of who is up the first byte was waited for as long as was said, and nothing else was held against it.
        assert_eq!(is_up, Instant::now() >= patience.answer);
        assert_eq!(server.count("GET", "/v2/") > 1, is_up);
        assert_eq!(
            matches!(upstream.manifest("app", &tag("a"), soon()).await, Err(error) if error.is_circuit_open()),
            !is_up
        );
    }
}

#[tokio::test]
async fn no_deadline_is_passed_by() {
    let server = Server::start(|_| Reply::Stall(Vec::new())).await;
    let upstream = upstream(anonymous(&server));
    let deadline = Instant::now() + Duration::from_millis(50);
    let error = upstream.manifest("app", &tag("a"), deadline).await.unwrap_err();
    assert_eq!(error.cause(), UpstreamCause::Timeout);
    let error = super::upstream(anonymous(&server)).tags("app", Instant::now()).await.unwrap_err();
    assert_eq!(error.cause(), UpstreamCause::Timeout, "{error}");
}

#[tokio::test]
async fn a_server_of_another_protocol_is_told() {
    let server = Server::start(|_| Reply::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())).await;
    let error = upstream(anonymous(&server)).manifest("app", &tag("a"), soon()).await.unwrap_err();
    assert_eq!(error.cause(), UpstreamCause::Invalid, "{error}");
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_name_is_looked_up_once_and_old_addresses_are_better_than_none() {
    let server = Server::start(|_| Reply::ok(MANIFEST)).await;
    let (asked, works) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
    let (counter, switch) = (Arc::clone(&asked), Arc::clone(&works));
    let lookup: dns::Lookup = Arc::new(move |_: &str| {
        counter.fetch_add(1, Ordering::Relaxed);
        match switch.load(Ordering::Relaxed) {
            true => Ok(vec!["127.0.0.1".parse().unwrap()]),
            false => Err(std::io::Error::other("server failure")),
        }
    });
    let resolver = dns::Resolver::new(Arc::clone(&lookup), Duration::from_secs(3600), Duration::from_secs(20));
    let all = join_all((0..20).map(|_| resolver.addresses("name.test"))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    works.store(false, Ordering::Relaxed);
    resolver.expire("name.test");
    assert!(resolver.addresses("Name.test").await.is_ok(), "the old address");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    let error = resolver.addresses("other.test").await.unwrap_err();
    assert_eq!(error.to_string(), "the name other.test can't be looked up: server failure");

    let endpoint = EndpointOptions { host: format!("gone.test:{}", server.address.port()), ..anonymous(&server) };
    let upstream =
        Upstream::with_lookup(&options(vec![endpoint]), Metrics::new().unwrap(), TaskTracker::new(), lookup).unwrap();
    let error = upstream.manifest("app", &tag("a"), soon()).await.unwrap_err();
    assert_eq!(error.cause(), UpstreamCause::Unreachable);
    assert!(error.to_string().contains("the name gone.test can't be looked up: server failure"), "{error}");
    works.store(true, Ordering::Relaxed);
}
