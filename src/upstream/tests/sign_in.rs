//! Basic, Bearer, and who gets to see credentials.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;

use super::*;

fn challenge(realm: &str, repository: &str) -> Reply {
    let value = format!(r#"Bearer realm="{realm}",service="registry",scope="repository:{repository}:pull""#);
    Reply::with(401, "www-authenticate", value)
}

/// A token server: tokens are numbered.
async fn token_server() -> Server {
    let given = AtomicUsize::new(0);
    Server::start(move |_| {
        let number = given.fetch_add(1, Ordering::Relaxed) + 1;
        Reply::json(200, &format!(r#"{{"token":"t{number}"}}"#))
    })
    .await
}

/// A registry that takes tokens from the `first` on.
async fn registry(realm: &str, first: Arc<AtomicUsize>) -> Server {
    let realm = realm.to_owned();
    Server::start(move |request| {
        let number = request.header("authorization").strip_prefix("Bearer t").and_then(|text| text.parse().ok());
        if number.is_some_and(|number: usize| number >= first.load(Ordering::Relaxed)) {
            return Reply::ok(MANIFEST);
        }
        let repository = request.target.trim_start_matches("/v2/").split("/manifests").next().unwrap();
        challenge(&realm, repository)
    })
    .await
}

#[tokio::test]
async fn one_token_for_all_who_wait_and_one_per_repository() {
    let tokens = token_server().await;
    let registry = registry(&tokens.url("/token"), Arc::default()).await;
    let upstream = upstream(with_login(&registry));
    let (first, reference) = (tag("a"), tag("b"));
    upstream.manifest("one", &first, soon()).await.unwrap();
    assert_eq!(tokens.seen().len(), 1);
    let all = join_all((0..30).map(|_| upstream.manifest("two", &reference, soon()))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(tokens.seen().len(), 2, "thirty waited for one token");
    assert_eq!(registry.seen().len(), 2 + 30, "the way to sign in is learnt once, and nothing else is asked");
    assert_eq!(registry.count("GET", "/v2/"), 0);

    let asked = &tokens.seen()[1];
    assert_eq!(asked.target, "/token?service=registry&scope=repository%3Abase%2Ftwo%3Apull&account=me");
    assert_eq!(asked.header("authorization"), "Basic bWU6Z2VoZWlt");
    assert!(upstream.last_accepted().is_some());
}

#[tokio::test]
async fn a_token_that_ends_early_is_replaced_once() {
    let tokens = token_server().await;
    let first = Arc::new(AtomicUsize::new(1));
    let registry = registry(&tokens.url("/token"), Arc::clone(&first)).await;
    let upstream = upstream(with_login(&registry));
    let reference = tag("a");
    upstream.manifest("app", &reference, soon()).await.unwrap();
    assert_eq!((registry.seen().len(), tokens.seen().len()), (2, 1));
    first.store(2, Ordering::Relaxed);
    upstream.manifest("app", &reference, soon()).await.unwrap();
    assert_eq!((registry.seen().len(), tokens.seen().len()), (4, 2));

    first.store(usize::MAX, Ordering::Relaxed);
    let error = upstream.manifest("app", &reference, soon()).await.unwrap_err();
    assert_eq!((error.cause(), error.status()), (UpstreamCause::Unauthorized, Some(401)));
    assert_eq!((registry.seen().len(), tokens.seen().len()), (6, 3), "one retry and no more");
}

#[tokio::test]
async fn refused_credentials_are_told_in_the_upstreams_words_and_ours_stay_secret() {
    let tokens = Server::start(|_| Reply::json(401, r#"{"details":"licence of geheim has expired"}"#)).await;
    let registry = registry(&tokens.url("/token"), Arc::default()).await;
    let upstream = upstream(with_login(&registry));
    let error = upstream.manifest("app", &tag("a"), soon()).await.unwrap_err();
    assert_eq!(error.cause(), UpstreamCause::Unauthorized);
    let shown = format!("{error} {error:?} {}", error.detail());
    assert!(shown.contains("licence of *** has expired") && !shown.contains("geheim"), "{shown}");
    assert_eq!(error.detail()["status"], 401);
    assert_eq!(tokens.seen().len(), 1);
}

#[tokio::test]
async fn over_plain_http_credentials_go_to_the_same_host_only() {
    let tokens = token_server().await;
    let realm = format!("http://localhost:{}/token", tokens.address.port());
    let registry = registry(&realm, Arc::default()).await;
    let error = upstream(with_login(&registry)).manifest("app", &tag("a"), soon()).await.unwrap_err();
    assert_eq!(error.cause(), UpstreamCause::Refused);
    assert!(tokens.seen().is_empty());
    // Nobody's credentials may go there.
    upstream(anonymous(&registry)).manifest("app", &tag("a"), soon()).await.unwrap();
    assert_eq!(tokens.seen()[0].header("authorization"), "");
}

#[tokio::test]
async fn realms_that_are_no_address_or_inside_the_machine_are_not_asked() {
    for (realm, cause) in [
        ("nonsense", UpstreamCause::Invalid),
        ("file:///etc/passwd", UpstreamCause::Invalid),
        ("http://a:b@127.0.0.1/token", UpstreamCause::Refused),
        ("http://169.254.169.254/token", UpstreamCause::Refused),
    ] {
        let registry = registry(realm, Arc::default()).await;
        let error = upstream(anonymous(&registry)).manifest("app", &tag("a"), soon()).await.unwrap_err();
        assert_eq!(error.cause(), cause, "{realm}: {error}");
    }
}

#[tokio::test]
async fn basic_is_learnt_once() {
    let registry = Server::start(|request| match request.header("authorization") {
        "Basic bWU6Z2VoZWlt" => Reply::ok(MANIFEST),
        _ => Reply::with(401, "www-authenticate", r#"Basic realm="x""#),
    })
    .await;
    let signed_in = upstream(with_login(&registry));
    for child in ["a", "b", "c"] {
        signed_in.manifest(child, &tag("a"), soon()).await.unwrap();
    }
    assert_eq!(registry.seen().len(), 4);

    let error = upstream(anonymous(&registry)).manifest("a", &tag("a"), soon()).await.unwrap_err();
    assert_eq!(error.cause(), UpstreamCause::Unauthorized);
    assert!(error.to_string().contains("none are configured"), "{error}");
    assert_eq!(registry.seen().len(), 5, "what can't be answered is not asked twice");
}

#[tokio::test]
async fn a_token_server_that_answers_nonsense_is_told() {
    for body in ["<html>", "{}", &format!(r#"{{"token":"{}"}}"#, "x".repeat(300 << 10))] {
        let body = body.to_owned();
        let tokens = Server::start(move |_| Reply::ok(body.as_bytes())).await;
        let registry = registry(&tokens.url("/token"), Arc::default()).await;
        let error = upstream(anonymous(&registry)).manifest("app", &tag("a"), soon()).await.unwrap_err();
        assert_eq!(error.cause(), UpstreamCause::Invalid, "{error}");
        assert_eq!(error.host(), tokens.host());
    }
    // A missing token server is no missing image.
    let tokens = Server::start(|_| Reply::status(404)).await;
    let registry = registry(&tokens.url("/token"), Arc::default()).await;
    let error = upstream(anonymous(&registry)).manifest("app", &tag("a"), soon()).await.unwrap_err();
    assert_eq!((error.cause(), error.status()), (UpstreamCause::Invalid, Some(404)));
}

#[tokio::test]
async fn a_client_that_leaves_does_not_end_the_token_of_the_others() {
    let tokens = token_server().await;
    let registry = registry(&tokens.url("/token"), Arc::default()).await;
    let upstream = upstream(with_login(&registry));
    upstream.manifest("app", &tag("a"), soon()).await.unwrap();
    let (reference, other) = (tag("a"), tag("b"));
    {
        let mut first = Box::pin(upstream.manifest("new", &reference, soon()));
        // Far enough that the token is being asked for.
        assert!(futures_util::poll!(&mut first).is_pending());
    }
    upstream.manifest("new", &other, soon()).await.unwrap();
    assert_eq!(tokens.seen().len(), 2);
}

#[tokio::test]
async fn a_token_server_that_moved_is_found() {
    let old = Server::start(|request| match request.target.contains("first") {
        true => Reply::json(200, r#"{"token":"t1"}"#),
        false => Reply::status(500),
    })
    .await;
    let new = token_server().await;
    let (first, second) = (old.url("/token"), new.url("/token"));
    let registry = Server::start(move |request| match request.header("authorization") {
        "Bearer t1" => Reply::ok(MANIFEST),
        _ if request.target.contains("first") => challenge(&first, "base/first"),
        _ => challenge(&second, "base/second"),
    })
    .await;
    let upstream = upstream(with_login(&registry));
    upstream.manifest("first", &tag("a"), soon()).await.unwrap();
    upstream.manifest("second", &tag("a"), soon()).await.unwrap();
    assert_eq!(new.seen().len(), 1);
}

#[tokio::test]
async fn a_new_token_that_is_refused_gets_a_second_look() {
    let tokens = token_server().await;
    let registry = registry(&tokens.url("/token"), Arc::new(AtomicUsize::new(2))).await;
    upstream(with_login(&registry)).manifest("app", &tag("a"), soon()).await.unwrap();
    assert_eq!((registry.seen().len(), tokens.seen().len()), (3, 2));
}

#[tokio::test]
async fn a_token_server_may_redirect_to_itself_and_to_nobody_else() {
    let other = token_server().await;
    for (hops, elsewhere) in [(1, false), (3, false), (4, false), (1, true)] {
        let to = if elsewhere { other.url("/token") } else { String::new() };
        let tokens = Server::start(move |request| {
            let done = request.target.split("hop=").nth(1).map_or(0, |number| number[..1].parse().unwrap());
            match done == hops {
                true => Reply::json(200, r#"{"token":"t9"}"#),
                false if elsewhere => Reply::with(307, "location", to.clone()),
                false => Reply::with(302, "location", format!("/token?hop={}", done + 1)),
            }
        })
        .await;
        let registry = registry(&tokens.url("/token"), Arc::default()).await;
        let result = upstream(with_login(&registry)).manifest("app", &tag("a"), soon()).await;
        match (hops, elsewhere) {
            (_, true) => assert_eq!(result.unwrap_err().cause(), UpstreamCause::Refused),
            (4.., false) => assert_eq!(result.unwrap_err().cause(), UpstreamCause::Invalid),
            (_, false) => {
                result.unwrap();
                assert_eq!(tokens.seen().len(), hops + 1);
                assert!(tokens.seen().iter().all(|request| !request.header("authorization").is_empty()));
            }
        }
    }
    assert!(other.seen().is_empty(), "the password stays with whom it is for");
}

#[tokio::test]
async fn an_upstream_that_shows_our_credentials_does_not_make_us_show_them() {
    for realm in ["Basic", "Bearer"] {
        let tokens = Server::start(|_| Reply::json(200, r#"{"token":"tok-ttttttttttttttttt"}"#)).await;
        let token_url = tokens.url("/token");
        let registry = Server::start(move |request| match request.header("authorization") {
            "" if realm == "Basic" => Reply::with(401, "www-authenticate", r#"Basic realm="x""#),
            "" => Reply::with(401, "www-authenticate", format!(r#"Bearer realm="{token_url}""#)),
            sent => {
                let value = sent.split(' ').next_back().unwrap();
                let said = format!("bad header: {sent} ({value}), me%3Ageheim, header={value}");
                Reply::json(400, &serde_json::json!({"errors": [{"code": "BAD", "message": said}]}).to_string())
            }
        })
        .await;
        let error = upstream(with_login(&registry)).manifest("app", &tag("a"), soon()).await.unwrap_err();
        let shown = format!("{error} {error:?} {}", error.detail());
        assert!(shown.contains("bad header"), "{shown}");
        for secret in ["bWU6Z2VoZWlt", "tok-ttt", "geheim"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }
}
