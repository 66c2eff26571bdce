//! To storage, and not to where it may not lead.

use super::*;

async fn redirecting(location: String) -> Server {
    Server::start(move |request| match request.header("authorization") {
        "" => Reply::with(401, "www-authenticate", r#"Basic realm="x""#),
        _ => Reply::with(307, "location", location.clone()),
    })
    .await
}

#[tokio::test]
async fn storage_gets_the_range_and_no_credentials() {
    let storage =
        Server::start(|_| Reply::Answer(206, vec![("content-range", "bytes 4-9/10".to_owned())], BLOB[4..].to_vec()))
            .await;
    let registry = redirecting(storage.url("/signed?signature=abc")).await;
    let upstream = upstream(with_login(&registry));
    let range = BlobRange { from: 4, to: None };
    let mut blob = upstream.blob("app", &sha256(BLOB), Some(range), soon()).await.unwrap();
    assert!(blob.status_partial);
    assert_eq!((blob.offset, blob.length), (4, Some(10)));
    assert_eq!(blob.body.chunk().await.unwrap().unwrap(), &BLOB[4..]);
    let asked = &storage.seen()[0];
    assert_eq!(asked.target, "/signed?signature=abc");
    assert_eq!((asked.header("authorization"), asked.header("range")), ("", "bytes=4-"));
    assert_eq!((asked.header("accept-encoding"), asked.header("referer")), ("identity", ""));
}

#[tokio::test]
async fn the_same_host_gets_the_credentials_again() {
    let registry = Server::start(|request| match (request.header("authorization"), request.target.as_str()) {
        ("", _) => Reply::with(401, "www-authenticate", r#"Basic realm="x""#),
        (_, "/elsewhere") => Reply::ok(BLOB),
        _ => Reply::with(302, "location", "/elsewhere"),
    })
    .await;
    assert_eq!(read_blob(&upstream(with_login(&registry)), None).await.unwrap(), BLOB);
}

#[tokio::test]
async fn a_redirect_to_the_inside_is_refused_and_its_query_not_told() {
    for location in [
        "http://169.254.169.254/latest?signature=abc",
        "http://[::ffff:169.254.169.254]/x?signature=abc",
        "http://metadata.google.internal/x?signature=abc",
        "http://me:pw@127.0.0.1/x?signature=abc",
        "file:///etc/passwd?signature=abc",
    ] {
        let registry = redirecting(location.to_owned()).await;
        let error = read_blob(&upstream(with_login(&registry)), None).await.unwrap_err();
        assert_eq!(error.cause(), UpstreamCause::Refused, "{location}: {error}");
        assert!(!format!("{error} {}", error.detail()).contains("signature"), "{error}");
    }
}

#[tokio::test]
async fn a_more_internal_address_is_refused_unless_the_host_is_trusted() {
    let storage = Server::start(|_| Reply::ok(BLOB)).await;
    let registry = redirecting(format!("http://storage.test:{}/x", storage.address.port())).await;
    // The upstream has a name with a public and a loopback address, and is reached by the latter.
    let lookup: dns::Lookup = Arc::new(|name: &str| {
        let addresses: &[&str] = if name == "upstream.test" { &["127.0.0.1", "203.0.114.1"] } else { &["127.0.0.1"] };
        Ok(addresses.iter().map(|text| text.parse().unwrap()).collect())
    });
    let endpoint =
        EndpointOptions { host: format!("upstream.test:{}", registry.address.port()), ..with_login(&registry) };
    let mut options = options(vec![endpoint]);
    let build = |options: &UpstreamOptions| {
        Upstream::with_lookup(options, Metrics::new().unwrap(), TaskTracker::new(), Arc::clone(&lookup)).unwrap()
    };
    let error = read_blob(&build(&options), None).await.unwrap_err();
    assert_eq!(error.cause(), UpstreamCause::Refused, "{error}");
    assert!(error.to_string().contains("trustedHosts"), "{error}");
    assert!(storage.seen().is_empty());
    options.trusted_hosts = vec!["Storage.test".to_owned()];
    assert_eq!(read_blob(&build(&options), None).await.unwrap(), BLOB);
}

#[tokio::test]
async fn redirects_end() {
    let registry = redirecting("/again".to_owned()).await;
    let error = read_blob(&upstream(with_login(&registry)), None).await.unwrap_err();
    assert_eq!(error.cause(), UpstreamCause::Invalid);
    assert_eq!(registry.count("GET", "/again"), limits().redirects);
}

#[tokio::test]
async fn storage_that_refuses_its_own_address_does_not_look_like_refused_credentials() {
    let storage = Server::start(|request| match request.method.as_str() {
        "HEAD" => Reply::status(403),
        _ => Reply::Answer(206, vec![("content-range", "bytes 0-0/10".to_owned())], BLOB[..1].to_vec()),
    })
    .await;
    let registry = redirecting(storage.url("/signed-for-get-only")).await;
    let upstream = upstream(with_login(&registry));
    assert_eq!(upstream.blob_size("app", &sha256(BLOB), soon()).await.unwrap(), Some(10));

    let storage = Server::start(|_| Reply::status(403)).await;
    let registry = redirecting(storage.url("/x")).await;
    let error = read_blob(&super::upstream(with_login(&registry)), None).await.unwrap_err();
    assert_eq!((error.cause(), error.status()), (UpstreamCause::ServerError, Some(403)));
    assert_eq!(storage.seen().len(), 3, "a fresh address was asked for each time");
}

/// A registry that has the blob for anyone with a token of `realm`.
async fn public_registry(realm: String) -> Server {
    Server::start(move |request| match request.header("authorization") {
        "Bearer anyone" => Reply::ok(BLOB),
        _ => Reply::with(401, "www-authenticate", format!(r#"Bearer realm="{realm}",scope="repository:x:pull""#)),
    })
    .await
}

#[tokio::test]
async fn another_registry_gets_an_anonymous_token_of_its_own_and_nothing_of_ours() {
    let tokens = Server::start(|_| Reply::json(200, r#"{"token":"anyone"}"#)).await;
    let other = public_registry(tokens.url("/token")).await;
    let registry = redirecting(other.url("/v2/x/blobs/y")).await;
    let upstream = upstream(with_login(&registry));
    for _ in 0..2 {
        assert_eq!(read_blob(&upstream, None).await.unwrap(), BLOB);
    }
    let [asked] = tokens.seen().try_into().unwrap();
    assert_eq!((asked.header("authorization"), asked.target.contains("account")), ("", false));
    assert!(asked.target.contains("repository%3Ax%3Apull"), "{asked:?}");
    assert!(other.seen().iter().all(|request| matches!(request.header("authorization"), "" | "Bearer anyone")));
    assert!(registry.seen().iter().all(|request| !request.header("authorization").contains("anyone")));

    // Who gives no token to just anyone does not make our pair a refused one.
    let tokens = Server::start(|_| Reply::status(401)).await;
    let other = public_registry(tokens.url("/token")).await;
    let registry = redirecting(other.url("/v2/x/blobs/y")).await;
    let upstream = super::upstream(with_login(&registry));
    read_blob(&upstream, None).await.unwrap_err();
    assert!(upstream.left_alone().is_none());
}

#[tokio::test]
async fn the_token_server_of_another_registry_is_gone_to_only_where_a_redirect_may_lead() {
    let tokens = Server::start(|_| Reply::json(200, r#"{"token":"anyone"}"#)).await;
    let lookup: dns::Lookup = Arc::new(|name: &str| {
        let addresses: &[&str] = if name == "upstream.test" { &["127.0.0.1", "203.0.114.1"] } else { &["127.0.0.1"] };
        Ok(addresses.iter().map(|text| text.parse().unwrap()).collect())
    });
    for realm in [
        format!("http://inside.test:{}/token", tokens.address.port()),
        tokens.url("/token"),
        "http://169.254.169.254/token".to_owned(),
        "http://me:pw@inside.test/token".to_owned(),
    ] {
        let other = public_registry(realm.clone()).await;
        let registry = redirecting(format!("http://other.test:{}/v2/x/blobs/y", other.address.port())).await;
        let endpoint =
            EndpointOptions { host: format!("upstream.test:{}", registry.address.port()), ..with_login(&registry) };
        let mut options = options(vec![endpoint]);
        options.trusted_hosts = vec!["other.test".to_owned()];
        let upstream =
            Upstream::with_lookup(&options, Metrics::new().unwrap(), TaskTracker::new(), Arc::clone(&lookup)).unwrap();
        let error = read_blob(&upstream, None).await.unwrap_err();
        assert_eq!(error.cause(), UpstreamCause::Refused, "{realm}: {error}");
    }
    assert!(tokens.seen().is_empty());
}
