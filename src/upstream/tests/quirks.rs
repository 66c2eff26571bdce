//! What registries do that the standard does not expect, and manifests in general.

use super::*;

fn with_digest(bytes: &[u8], digest: &Digest) -> Reply {
    let headers = vec![
        ("docker-content-digest", digest.to_string()),
        ("content-type", "application/vnd.oci.image.index.v1+json".to_owned()),
    ];
    Reply::Answer(200, headers, bytes.to_vec())
}

#[tokio::test]
async fn a_tag_is_resolved_by_head() {
    let server = Server::start(|_| with_digest(MANIFEST, &sha256(MANIFEST))).await;
    let upstream = upstream(anonymous(&server));
    let resolved = upstream.resolve("app", &"v1".parse().unwrap(), soon()).await.unwrap();
    assert_eq!(resolved.digest, sha256(MANIFEST));
    assert!(resolved.manifest.is_none());
    let [asked] = server.seen().try_into().unwrap();
    assert!(asked.is("HEAD", "/v2/base/app/manifests/v1"), "{asked:?}");
    for kind in crate::oci::ManifestKind::ALL {
        assert!(asked.header("accept").contains(kind.as_str()));
    }
}

#[tokio::test]
async fn where_head_is_refused_or_tells_nothing_get_answers() {
    for status in [200, 400, 401, 403, 405, 501] {
        let server = Server::start(move |request| match request.method.as_str() {
            "HEAD" => Reply::status(status),
            _ => Reply::ok(MANIFEST),
        })
        .await;
        let upstream = upstream(anonymous(&server));
        let resolved = upstream.resolve("app", &"v1".parse().unwrap(), soon()).await.unwrap();
        assert_eq!(resolved.digest, sha256(MANIFEST), "{status}");
        assert_eq!(resolved.manifest.unwrap().bytes, MANIFEST);
        assert_eq!(server.seen().len(), 2);
    }
    // A HEAD has no body that says whose 404 it is, a registry's header does.
    for (header, requests) in [("docker-distribution-api-version", 1), ("x-nobodys", 2)] {
        let server = Server::start(move |_| Reply::with(404, header, "registry/2.0")).await;
        let upstream = upstream(anonymous(&server));
        let error = upstream.resolve("app", &"v1".parse().unwrap(), soon()).await.unwrap_err();
        assert_eq!(error.cause(), UpstreamCause::NotFound);
        assert_eq!(server.seen().len(), requests, "{header}");
    }
}

#[tokio::test]
async fn manifests_are_what_their_digests_say() {
    let server = Server::start(|request| match request.target.as_str() {
        "/v2/base/app/manifests/lying" => with_digest(MANIFEST, &sha256(b"other")),
        "/v2/base/app/manifests/sha512" => with_digest(MANIFEST, &Algorithm::Sha512.digest(MANIFEST)),
        "/v2/base/app/manifests/page" => Reply::ok(b"<html>sign in</html>"),
        "/v2/base/app/manifests/half" => Reply::ok(br#"{"schemaVersion":"#),
        "/v2/base/app/manifests/empty" => Reply::status(204),
        _ => Reply::Answer(200, vec![("content-type", "text/plain".to_owned())], MANIFEST.to_vec()),
    })
    .await;
    let upstream = upstream(anonymous(&server));
    let good = upstream.manifest("app", &by_digest(MANIFEST), soon()).await.unwrap();
    assert_eq!((good.digest, good.content_type.as_str()), (sha256(MANIFEST), "text/plain"));
    let long = upstream.manifest("app", &tag("sha512"), soon()).await.unwrap();
    assert_eq!(long.digest, Algorithm::Sha512.digest(MANIFEST));
    for wrong in [by_digest(b"other"), tag("lying"), tag("page"), tag("half"), tag("empty")] {
        let error = upstream.manifest("app", &wrong, soon()).await.unwrap_err();
        assert_eq!(error.cause(), UpstreamCause::Invalid, "{wrong}: {error}");
    }
}

#[tokio::test]
async fn a_digest_counts_in_whichever_field_it_stands() {
    let (good, other) = (sha256(MANIFEST), sha256(b"other"));
    let long = Algorithm::Sha512.digest(MANIFEST);
    for (fields, by_head) in [
        (vec![format!("{good}, {good}")], true),
        (vec!["odd".to_owned(), good.to_string()], true),
        (vec![good.to_string(), long.to_string()], true),
        // These contradict each other: the manifest's own bytes decide.
        (vec![other.to_string(), good.to_string()], false),
        (vec![format!("{good},{other}")], false),
        (vec!["odd".to_owned()], false),
    ] {
        let told = fields.clone();
        let server = Server::start(move |_| {
            let headers = told.iter().map(|field| ("docker-content-digest", field.clone())).collect();
            Reply::Answer(200, headers, MANIFEST.to_vec())
        })
        .await;
        let resolved = upstream(anonymous(&server)).resolve("app", &"v1".parse().unwrap(), soon()).await.unwrap();
        assert_eq!((resolved.digest, resolved.manifest.is_none()), (good, by_head), "{fields:?}");
    }
}

#[tokio::test]
async fn a_manifest_has_a_largest_size() {
    let large = format!(r#"{{"x":"{}"}}"#, "y".repeat(2000)).into_bytes();
    let chunked = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7d9\r\n{}", "y".repeat(2009));
    let server = Server::start(move |request| match request.target.ends_with("chunked") {
        true => Reply::Raw(chunked.clone().into_bytes()),
        false => Reply::ok(&large),
    })
    .await;
    let mut options = options(vec![anonymous(&server)]);
    options.limits.manifest_bytes = 1000;
    let upstream = build(&options);
    for name in ["plain", "chunked"] {
        let error = upstream.manifest("app", &tag(name), soon()).await.unwrap_err();
        assert_eq!(error.cause(), UpstreamCause::Invalid, "{error}");
        assert!(error.to_string().contains("1000 bytes"), "{error}");
    }
}

#[tokio::test]
async fn the_size_of_a_blob_is_found_where_it_is_told() {
    let size = async |reply: fn(&Request) -> Reply| {
        let server = Server::start(reply).await;
        upstream(anonymous(&server)).blob_size("app", &sha256(BLOB), soon()).await
    };
    assert_eq!(size(|_| Reply::ok(BLOB)).await.unwrap(), Some(10));
    let head_refused = |request: &Request| match request.method.as_str() {
        "HEAD" => Reply::status(405),
        _ => Reply::Answer(206, vec![("content-range", "bytes 0-0/10".to_owned())], b"0".to_vec()),
    };
    assert_eq!(size(head_refused).await.unwrap(), Some(10));
    let empty = |request: &Request| Reply::status(if request.method == "HEAD" { 405 } else { 416 });
    assert_eq!(size(empty).await.unwrap(), Some(0));
    let untold = |request: &Request| match request.method.as_str() {
        "HEAD" => Reply::with(200, "transfer-encoding", "chunked"),
        _ => Reply::Answer(200, vec![("transfer-encoding", "chunked".to_owned())], b"1\r\n0\r\n0\r\n\r\n".to_vec()),
    };
    assert_eq!(size(untold).await.unwrap(), None);
    assert_eq!(size(|_| Reply::status(404)).await.unwrap_err().cause(), UpstreamCause::NotFound);
}

#[tokio::test]
async fn children_stand_below_the_configured_path() {
    let server = Server::start(|_| Reply::ok(MANIFEST)).await;
    for (path, child, target) in [
        ("deckhouse/ee", "", "/v2/deckhouse/ee/manifests/a"),
        ("deckhouse/ee", "install", "/v2/deckhouse/ee/install/manifests/a"),
        ("", "modules/x", "/v2/modules/x/manifests/a"),
    ] {
        let endpoint = EndpointOptions { path: path.to_owned(), ..anonymous(&server) };
        upstream(endpoint).manifest(child, &tag("a"), soon()).await.unwrap();
        assert_eq!(server.seen().last().unwrap().target, target);
    }
}
