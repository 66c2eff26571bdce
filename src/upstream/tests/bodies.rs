//! Bodies that are cut, stall, or are not what they should be.

use super::*;

async fn blob_server(reply: impl Fn() -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |_| reply()).await
}

fn head(headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn a_whole_body_ends_and_is_counted() {
    let server = blob_server(|| Reply::ok(BLOB)).await;
    let metrics = Metrics::new().unwrap();
    let upstream = Upstream::new(&options(vec![anonymous(&server)]), metrics.clone(), TaskTracker::new()).unwrap();
    assert_eq!(read_blob(&upstream, None).await.unwrap(), BLOB);
    let shown = metrics.render().unwrap();
    assert!(shown.contains("d8_registry_upstream_received_bytes_total 10"), "{shown}");
    assert!(shown.contains("d8_registry_upstream_requests_total{outcome=\"ok\"} 1"), "{shown}");
    let asked = &server.seen()[0];
    assert_eq!(asked.target, format!("/v2/base/app/blobs/{}", sha256(BLOB)));
    assert_eq!(asked.header("accept-encoding"), "identity");
}

#[tokio::test]
async fn a_body_cut_short_is_never_a_clean_end() {
    let with_length = || Reply::Raw([head("content-length: 10"), b"0123".to_vec()].concat());
    let chunked = || Reply::Raw([head("transfer-encoding: chunked"), b"4\r\n0123\r\n".to_vec()].concat());
    for (server, name) in [(blob_server(with_length).await, "length"), (blob_server(chunked).await, "chunked")] {
        let upstream = upstream(anonymous(&server));
        let mut blob = upstream.blob("app", &sha256(BLOB), None, soon()).await.unwrap();
        assert_eq!(blob.body.chunk().await.unwrap().unwrap(), "0123", "{name}");
        let error = blob.body.chunk().await.unwrap_err();
        assert_eq!(error.cause(), UpstreamCause::Unreachable, "{name}: {error}");
        assert!(error.to_string().contains("cut"), "{error}");
        assert!(matches!(blob.body.chunk().await, Ok(None)));
    }
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up() {
    let server = blob_server(|| Reply::Stall([head("content-length: 10"), b"0123".to_vec()].concat())).await;
    let mut options = options(vec![anonymous(&server)]);
    options.limits.stall = Duration::from_millis(50);
    let upstream = build(&options);
    let mut blob = upstream.blob("app", &sha256(BLOB), None, soon()).await.unwrap();
    assert_eq!(blob.length, Some(10));
    assert_eq!(blob.body.chunk().await.unwrap().unwrap(), "0123");
    let error = blob.body.chunk().await.unwrap_err();
    assert_eq!(error.cause(), UpstreamCause::Timeout, "{error}");
}

#[tokio::test]
async fn an_encoded_answer_is_an_error_but_where_a_digest_judges_the_bytes() {
    let server = Server::start(|_| Reply::Answer(200, vec![("content-encoding", "gzip".to_owned())], b"x".to_vec()));
    let upstream = upstream(anonymous(&server.await));
    assert_eq!(read_blob(&upstream, None).await.unwrap(), b"x");
    let error = upstream.manifest("app", &tag("a"), soon()).await.unwrap_err();
    assert!(error.to_string().contains("gzip"), "{error}");
}

#[tokio::test]
async fn ranges_are_what_was_asked_for_or_the_whole() {
    let range = Some(BlobRange { from: 2, to: Some(3) });
    let partial = |content_range: &str| {
        let content_range = content_range.to_owned();
        move || Reply::Answer(206, vec![("content-range", content_range.clone())], BLOB[2..4].to_vec())
    };
    let good = blob_server(partial("bytes 2-3/10")).await;
    assert_eq!(read_blob(&upstream(anonymous(&good)), range).await.unwrap(), b"23");
    assert_eq!(good.seen()[0].header("range"), "bytes=2-3");
    for wrong in ["bytes 0-1/10", "bytes 2-4/10", "nonsense"] {
        let server = blob_server(partial(wrong)).await;
        let error = read_blob(&upstream(anonymous(&server)), range).await.unwrap_err();
        assert_eq!(error.cause(), UpstreamCause::Invalid, "{wrong}");
    }
    let ignoring = blob_server(|| Reply::ok(BLOB)).await;
    let blob = upstream(anonymous(&ignoring)).blob("app", &sha256(BLOB), range, soon()).await.unwrap();
    assert!(!blob.status_partial);
    assert_eq!((blob.offset, blob.length), (0, Some(10)));
    let behind = blob_server(|| Reply::status(416)).await;
    let error = read_blob(&upstream(anonymous(&behind)), range).await.unwrap_err();
    assert_eq!((error.cause(), error.status()), (UpstreamCause::Invalid, Some(416)));
    let unasked = blob_server(partial("bytes 2-3/10")).await;
    assert!(read_blob(&upstream(anonymous(&unasked)), None).await.is_err());
}

#[tokio::test]
async fn a_body_without_a_length_ends_where_its_connection_does() {
    let server = blob_server(|| Reply::Raw([head("connection: close"), BLOB.to_vec()].concat())).await;
    let upstream = upstream(anonymous(&server));
    let blob = upstream.blob("app", &sha256(BLOB), None, soon()).await.unwrap();
    assert_eq!(blob.length, None);
    assert_eq!(read_blob(&upstream, None).await.unwrap(), BLOB);
}
