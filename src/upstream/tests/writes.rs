//! Pushes: tokens that allow them, uploads that stay at their host, and bodies that are whole or none.

use super::super::{BegunUpload, Upload, forwarded_body};
use super::*;

async fn begun(upstream: &Upstream, mount: Option<(&Digest, &str)>) -> Result<BegunUpload, UpstreamError> {
    upstream.begin_upload("app", mount, soon()).await
}

async fn upload(upstream: &Upstream) -> Upload {
    match begun(upstream, None).await.unwrap() {
        BegunUpload::Begun(upload) => upload,
        BegunUpload::Mounted => panic!("nothing was to be mounted"),
    }
}

async fn send(upstream: &Upstream, upload: &Upload, whole: bool) -> Result<(), UpstreamError> {
    let (sender, body) = forwarded_body();
    let feeding = async {
        sender.send(BLOB.into()).await.unwrap();
        if whole {
            let _ = sender.end().await;
        }
    };
    let (digest, length) = (sha256(BLOB), BLOB.len() as u64 + u64::from(!whole));
    let sending = upstream.finish_upload("app", upload, (&digest, length), body);
    tokio::join!(sending, feeding).0
}

#[tokio::test]
async fn a_push_asks_for_a_token_that_may_push_and_for_a_mount_for_one_that_may_read_its_source() {
    let tokens = Server::start(|request| {
        let mut scopes: Vec<_> =
            request.target.split(['?', '&']).filter_map(|part| part.strip_prefix("scope=")).collect();
        scopes.sort_unstable();
        let scopes = scopes.join("+").replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
        Reply::json(200, &format!(r#"{{"token":"{scopes}"}}"#))
    })
    .await;
    let realm = tokens.url("/token");
    let registry = Server::start(move |request| {
        let token = request.header("authorization").strip_prefix("Bearer ").unwrap_or_default().to_owned();
        match (request.method.as_str(), token.as_str()) {
            // As much as this request needs: less than a push does.
            (_, "") => {
                let scope = r#"scope="repository:base/app:pull""#;
                Reply::with(401, "www-authenticate", format!(r#"Bearer realm="{realm}",service="registry",{scope}"#))
            }
            ("POST", "repository:base/app:pull,push+repository:base/from:pull") => Reply::status(201),
            ("POST", "repository:base/app:pull,push") => {
                Reply::with(202, "location", "/v2/base/app/blobs/uploads/1?_state=x")
            }
            ("PUT", "repository:base/app:pull,push") => Reply::status(201),
            ("HEAD", "repository:base/app:pull,push") => Reply::status(404),
            _ => Reply::status(403),
        }
    })
    .await;
    let upstream = upstream(with_login(&registry));
    let digest = sha256(BLOB);
    assert!(!upstream.has_blob("app", (&digest, 3), soon()).await.unwrap());
    assert!(upstream.has_manifest("app", &tag("a"), soon()).await.unwrap().is_none());
    assert!(matches!(begun(&upstream, Some((&digest, "from"))).await.unwrap(), BegunUpload::Mounted));
    let upload = upload(&upstream).await;
    send(&upstream, &upload, true).await.unwrap();
    let put = registry.seen().into_iter().find(|request| request.method == "PUT").unwrap();
    assert_eq!(
        put.target,
        format!("/v2/base/app/blobs/uploads/1?_state=x&digest={}", digest.to_string().replace(':', "%3A"))
    );
    assert_eq!((put.body.as_slice(), put.header("content-length")), (BLOB, BLOB.len().to_string().as_str()));
    let manifest = bytes::Bytes::from_static(MANIFEST);
    let of = sha256(MANIFEST);
    upstream.put_manifest("app", &tag("v1"), ("application/x", &manifest, &of), soon()).await.unwrap();
    let put = registry.seen().pop().unwrap();
    assert_eq!((put.target.as_str(), put.header("content-type")), ("/v2/base/app/manifests/v1", "application/x"));
    assert_eq!(put.body, MANIFEST);
    assert_eq!(tokens.seen().len(), 2, "one token to push, one to mount");
}

/// Our login goes to one host, whatever a registry, or what stands before it, says of the place of an upload.
#[tokio::test]
async fn an_upload_stays_at_the_host_that_began_it() {
    let elsewhere = Server::start(|_| Reply::status(201)).await;
    let other = format!("http://localhost:{}/v2/base/app/blobs/uploads/1", elsewhere.address.port());
    for location in ["https://127.0.0.1/x/1", "http://127.0.0.1:1/x/1", "/x/1", "//127.0.0.1:9/x/1"] {
        let registry = Server::start(move |request| match request.method.as_str() {
            "POST" => Reply::with(202, "location", location),
            _ => Reply::status(201),
        })
        .await;
        let upstream = upstream(with_login(&registry));
        let upload = upload(&upstream).await;
        send(&upstream, &upload, true).await.unwrap();
        assert_eq!(registry.count("PUT", "/x/1"), 1, "{location}");
    }
    for location in [other, "ftp://127.0.0.1/x".to_owned(), String::new()] {
        let registry = Server::start(move |_| match location.as_str() {
            "" => Reply::status(202),
            location => Reply::with(202, "location", location),
        })
        .await;
        let error = begun(&upstream(with_login(&registry)), None).await.unwrap_err();
        assert_eq!(error.cause(), UpstreamCause::Invalid, "{error}");
    }
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_whole_one_and_another_digest_is_an_error() {
    let registry = Server::start(|request| match request.method.as_str() {
        "POST" => Reply::with(202, "location", "/x/1"),
        _ => Reply::with(201, "docker-content-digest", sha256(b"other").to_string()),
    })
    .await;
    let upstream = upstream(anonymous(&registry));
    let upload = upload(&upstream).await;
    send(&upstream, &upload, false).await.unwrap_err();
    assert_eq!(registry.count("PUT", "/x/1"), 0, "the server reads whole requests alone");
    let error = send(&upstream, &upload, true).await.unwrap_err();
    assert!(error.to_string().contains("where"), "{error}");
    let (bytes, digest) = (bytes::Bytes::from_static(MANIFEST), sha256(MANIFEST));
    let error = upstream.put_manifest("app", &tag("a"), ("a/b", &bytes, &digest), soon()).await.unwrap_err();
    assert_eq!(error.cause(), UpstreamCause::Invalid, "{error}");
}
