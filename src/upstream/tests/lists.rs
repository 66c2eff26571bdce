//! Lists: whole or not at all.

use super::*;

async fn tags(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Result<Vec<String>, UpstreamError> {
    let server = Server::start(handler).await;
    upstream(anonymous(&server)).tags("app", soon()).await
}

fn page(tags: &str, next: &str) -> Reply {
    let body = format!(r#"{{"name":"x","tags":{tags}}}"#).into_bytes();
    let link = if next.is_empty() { Vec::new() } else { vec![("link", format!("<{next}>; rel=\"next\""))] };
    Reply::Answer(200, link, body)
}

#[tokio::test]
async fn all_pages_are_read_sorted_and_without_doubles() {
    let found = tags(|request| match request.target.as_str() {
        "/v2/base/app/tags/list?n=1000" => page(r#"["c","a"]"#, "/v2/base/app/tags/list?n=1000&last=c"),
        "/v2/base/app/tags/list?n=1000&last=c" => page(r#"["b","a"]"#, "https://127.0.0.1/next"),
        "/next" => page("null", ""),
        _ => Reply::status(500),
    });
    assert_eq!(found.await.unwrap(), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_list_that_cannot_be_had_whole_is_an_error() {
    let late = tags(|request| match request.target.contains("last") {
        true => Reply::status(500),
        false => page(r#"["a"]"#, "?last=a"),
    });
    assert_eq!(late.await.unwrap_err().cause(), UpstreamCause::ServerError);
    let elsewhere = tags(|_| page(r#"["a"]"#, "http://localhost/v2/base/app?last=a"));
    assert_eq!(elsewhere.await.unwrap_err().cause(), UpstreamCause::Refused);
    let refusal = tags(|_| Reply::ok(br#"{"errors":[{"code":"DENIED"}],"tags":null}"#));
    assert_eq!(refusal.await.unwrap_err().cause(), UpstreamCause::Invalid);
    let circle = tags(|_| page(r#"["a"]"#, "?last=a"));
    assert_eq!(circle.await.unwrap_err().cause(), UpstreamCause::Invalid);
    let page_for_people = tags(|_| Reply::ok(b"<html>"));
    assert_eq!(page_for_people.await.unwrap_err().cause(), UpstreamCause::Invalid);
    assert_eq!(tags(|_| Reply::status(404)).await.unwrap_err().cause(), UpstreamCause::NotFound);
}

#[tokio::test]
async fn lists_have_a_largest_size_and_number_of_pages() {
    let server = Server::start(|request| {
        let last: u64 = request.target.rsplit('=').next().unwrap().parse().unwrap();
        page(r#"["a"]"#, &format!("?last={}", last + 1))
    })
    .await;
    let mut options = options(vec![anonymous(&server)]);
    options.limits.list_pages = 3;
    let error = build(&options).tags("app", soon()).await.unwrap_err();
    assert_eq!((error.cause(), server.seen().len()), (UpstreamCause::Invalid, 3));
    options.limits.list_pages = 1000;
    options.limits.list_bytes = 100;
    let error = build(&options).tags("app", soon()).await.unwrap_err();
    assert_eq!(error.cause(), UpstreamCause::Invalid, "{error}");
}

#[tokio::test]
async fn a_registry_that_dislikes_the_page_size_is_asked_without() {
    for status in [400, 405, 413, 416, 422, 501] {
        let found = tags(move |request| match request.target.contains("n=") {
            true => Reply::status(status),
            false => page(r#"["a"]"#, ""),
        });
        assert_eq!(found.await.unwrap(), ["a"], "{status}");
    }
    // These are no words on a size.
    for status in [401, 403, 404, 429] {
        let server = Server::start(move |_| Reply::with(status, "retry-after", "3600")).await;
        upstream(anonymous(&server)).tags("app", soon()).await.unwrap_err();
        assert_eq!(server.seen().len(), 1, "{status}");
    }
    let server = Server::start(|request| match request.target.contains("n=") {
        true => Reply::status(422),
        false => page("[]", ""),
    })
    .await;
    let probe = upstream(anonymous(&server)).probe(None, soon()).await;
    assert_eq!(probe.outcome, crate::telemetry::ProbeOutcome::Ok, "{}", probe.words);
}

#[tokio::test]
async fn a_list_is_whole_however_its_pages_are_linked_and_written() {
    let found = tags(|request| {
        let link = |next: &str| ("link", format!("<{next}>; rel=\"next\""));
        let (tags, links) = match request.target.as_str() {
            "/v2/base/app/tags/list?n=1000" => (
                r#"["a",null,7]"#,
                vec![("link", "</v2/base/app/tags/list?n=1000>; rel=\"first\"".to_owned()), link("/app/tags/list?p=2")],
            ),
            "/v2/base/app/tags/list?p=2" => (
                r#"["b"]"#,
                vec![link("https://registry.internal:5000/v2/other/app/tags/list?p=3"), ("link", "<x>".into())],
            ),
            "/v2/base/app/tags/list?p=3" => ("{}", vec![("link", "</>; rel=last".to_owned())]),
            _ => return Reply::status(500),
        };
        Reply::Answer(200, links, format!(r#"{{"name":null,"tags":{tags},"x":{{}}}}"#).into_bytes())
    });
    assert_eq!(found.await.unwrap(), ["7", "a", "b"]);
}

const REFERRER: &str = r#"{"mediaType":"m","digest":"sha256:aa","size":1,"extra":[1]}"#;

fn index(descriptors: &str) -> Vec<u8> {
    format!(r#"{{"schemaVersion":2,"manifests":[{descriptors}]}}"#).into_bytes()
}

#[tokio::test]
async fn referrers_come_in_pages_and_untouched() {
    let server = Server::start(|request| match request.target.ends_with("page=2") {
        true => Reply::ok(&index(r#"{"two":2}"#)),
        false => Reply::Answer(200, vec![("link", "<?page=2>; rel=next".to_owned())], index(REFERRER)),
    })
    .await;
    let found = upstream(anonymous(&server)).referrers("app", &sha256(BLOB), soon()).await.unwrap();
    let found: Vec<_> = found.iter().map(|one| one.get()).collect();
    assert_eq!(found, [REFERRER, r#"{"two":2}"#]);
}

#[tokio::test]
async fn without_the_list_the_fallback_tag_is_read() {
    let tag_path = format!("/v2/base/app/manifests/sha256-{}", sha256(BLOB).hex());
    for status in [400, 403, 404, 405, 501] {
        let path = tag_path.clone();
        let with_tag = Server::start(move |request| match request.is("GET", &path) {
            true => Reply::ok(&index(REFERRER)),
            false => Reply::status(status),
        })
        .await;
        let found = upstream(anonymous(&with_tag)).referrers("app", &sha256(BLOB), soon()).await.unwrap();
        assert_eq!(found.len(), 1, "{status}");
    }
    let without = Server::start(|_| Reply::status(404)).await;
    assert!(upstream(anonymous(&without)).referrers("app", &sha256(BLOB), soon()).await.unwrap().is_empty());
    let page_for_people = Server::start(|request| match request.target.contains("referrers") {
        true => Reply::ok(b"<html>"),
        false => Reply::status(404),
    })
    .await;
    assert!(upstream(anonymous(&page_for_people)).referrers("app", &sha256(BLOB), soon()).await.unwrap().is_empty());
    for (status, cause) in [(403, UpstreamCause::Forbidden), (500, UpstreamCause::ServerError)] {
        let server = Server::start(move |_| Reply::status(status)).await;
        let error = upstream(anonymous(&server)).referrers("app", &sha256(BLOB), soon()).await.unwrap_err();
        assert_eq!(error.cause(), cause);
    }
    // The tag of a SHA-512 subject is cut.
    let server = Server::start(|_| Reply::status(404)).await;
    let subject = Algorithm::Sha512.digest(BLOB);
    upstream(anonymous(&server)).referrers("app", &subject, soon()).await.unwrap();
    let expected = format!("/v2/base/app/manifests/sha512-{}", &subject.hex()[..64]);
    assert_eq!(server.seen().last().unwrap().target, expected);
}

#[tokio::test]
async fn a_probe_tells_what_is_wrong() {
    use crate::telemetry::ProbeOutcome;
    let last = || Some(("app".to_owned(), sha256(MANIFEST)));
    let probe = async |last: Option<(String, Digest)>, reply: fn(&Request) -> Reply| {
        let server = Server::start(reply).await;
        (upstream(with_login(&server)).probe(last, soon()).await, server)
    };
    let manifest = |_: &Request| Reply::with(200, "docker-content-digest", sha256(MANIFEST).to_string());
    let (found, server) = probe(last(), manifest).await;
    assert_eq!(found.outcome, ProbeOutcome::Ok, "{}", found.words);
    assert_eq!(server.seen().len(), 1);
    // A page passes for a registry nowhere: not for a manifest, a list, or the base.
    for last in [last(), None] {
        let (found, _) = probe(last, |_| Reply::ok(b"<html>sign in</html>")).await;
        assert_eq!(found.outcome, ProbeOutcome::Unreachable, "{}", found.words);
    }
    let (found, server) = probe(last(), |request| match request.method.as_str() {
        "HEAD" => Reply::status(404),
        _ => page("[]", ""),
    })
    .await;
    assert_eq!(found.outcome, ProbeOutcome::Ok, "what was seen there may be gone: {}", found.words);
    assert_eq!(server.seen().last().unwrap().target, "/v2/base/tags/list?n=1");
    let (found, _) = probe(None, |_| Reply::json(403, r#"{"errors":[{"message":"licence expired"}]}"#)).await;
    assert_eq!(found.outcome, ProbeOutcome::Auth);
    assert!(found.words.contains("licence expired"), "{}", found.words);
    let (found, _) = probe(None, |_| Reply::status(404)).await;
    assert_eq!(found.outcome, ProbeOutcome::NotFound, "{}", found.words);
    let (found, _) = probe(last(), |_| Reply::status(503)).await;
    assert_eq!(found.outcome, ProbeOutcome::Unreachable);
    assert_eq!(found.error.unwrap().status(), Some(503));
}
