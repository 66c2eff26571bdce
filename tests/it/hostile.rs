//! Bad input: the right status, nothing left behind, and the others don't notice.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use reqwest::Method;

use crate::support::{Image, Registry, Setup, blob, digest};

/// Sends bytes as they are; everything the server says until it closes.
fn raw(registry: &Registry, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(registry.address()).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test]
async fn odd_requests_get_a_clear_answer() {
    let registry = Registry::start(&Setup::open());
    let head = |line: &str, host: &str| format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    for (request, expected) in [
        (head("GET /v2/../../etc/passwd", "h"), "404"),
        (head("GET /v2/a/blobs/../../../../etc/passwd", "h"), "404"),
        (head("GET /v2/a/../../etc/manifests/passwd", "h"), "400"),
        (head("GET /v2/%2e%2e/%2e%2e/tags/list", "h"), "400"),
        (head("GET /v2/a%2f..%2fb/tags/list", "h"), "400"),
        (head("GET /v2/a\\b/tags/list", "h"), "400"),
        (head("GET /v2/", "a b"), "400"),
        (head("GET /v2/", "user@host"), "400"),
        (head("GET /", "h"), "200"),
        (head("GET /nothing/here", "h"), "404"),
        (head("PUT /v2/", "h"), "405"),
        (head("BREW /v2/a/tags/list", "h"), "405"),
        (head("POST /v2/a/manifests/x", "h"), "405"),
        (head("GET /v2/a/manifests/sha256:abc", "h"), "400"),
        (format!("GET /v2/ HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(100_000)), "431"),
        ("GET /v2/ HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n".to_owned(), "400"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = raw(&registry, request.as_bytes());
        assert_eq!(status(&answer), expected, "{}", request.lines().next().unwrap());
    }
    assert_eq!(registry.client().get("/v2/").await.status(), 200);
    registry.stop();
}

/// Balancers that can't be taught ask by HTTP/1.0, or with an empty host.
#[tokio::test]
async fn a_probe_needs_no_host() {
    let probes = |path: &str| {
        [
            format!("GET {path} HTTP/1.0\r\n\r\n"),
            format!("HEAD {path} HTTP/1.0\r\n\r\n"),
            format!("GET {path} HTTP/1.0\r\nHost: h\r\n\r\n"),
            format!("GET {path} HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n"),
        ]
    };
    let (open, closed) = (Registry::start(&Setup::open()), Registry::start(&Setup::with_users()));
    let digest = open.client().push_blob("a", b"content").await;
    for (registry, path) in [(&open, "/"), (&open, "/v2/"), (&open, &*format!("/v2/a/blobs/{digest}")), (&closed, "/")]
    {
        for probe in probes(path) {
            assert_eq!(status(&raw(registry, probe.as_bytes())), "200", "{probe}");
        }
    }
    // The challenge names the token service as the client knows it.
    assert_eq!(status(&raw(&closed, b"GET /v2/ HTTP/1.0\r\n\r\n")), "400");
    assert_eq!(status(&raw(&closed, b"GET /v2/ HTTP/1.0\r\nHost: h\r\n\r\n")), "401");
    assert_eq!(status(&raw(&open, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")), "400");
    for registry in [open, closed] {
        registry.stop();
    }
}

#[tokio::test]
async fn a_push_that_came_whole_is_stored_although_its_client_shut_the_sending_side() {
    let registry = Registry::start(&Setup::open());
    let content = blob(5, 300_000);
    let digest = digest(&content);
    let mut stream = TcpStream::connect(registry.address()).unwrap();
    let head =
        format!("POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: h\r\nContent-Length: 300000\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&content).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(status(&answer), "201", "{answer}");
    assert_eq!(registry.client().get(&format!("/v2/a/blobs/{digest}")).await.bytes().await.unwrap(), content);
    registry.stop();
}

#[tokio::test]
async fn failed_handshakes_are_counted_and_told_without_flooding_the_log() {
    let registry = Registry::start(&Setup::with_tls());
    for _ in 0..30 {
        let answer = raw(&registry, b"GET /v2/ HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(status(&answer) == "400" && answer.contains("HTTPS"), "{answer}");
    }
    registry.until_metric("d8_registry_tls_failures_total{reason=\"http\"}", 30.0).await;
    let log = registry.stop();
    let said = |words: &str| log.iter().filter(|line| line["message"] == words).cloned().collect::<Vec<_>>();
    let told = said("a TLS handshake failed");
    assert_eq!((told.len(), &told[0]["level"], &told[0]["reason"]), (1, &"INFO".into(), &"http".into()), "{told:?}");
    assert!(told[0]["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{told:?}");
    let rest = said("more TLS handshakes failed");
    assert_eq!((rest.len(), &rest[0]["left_out"]), (1, &29.into()), "{rest:?}");
}

#[tokio::test]
async fn a_body_cut_short_stores_nothing_but_the_upload() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let location = client.begin("a").await;
    let mut stream = TcpStream::connect(registry.address()).unwrap();
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&blob(1, 500_000)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    // The server may answer or just close; it has to end.
    let _ = stream.read_to_end(&mut answer);
    let response = client.get(&location).await;
    assert_eq!(response.status(), 204);
    assert_eq!(client.delete(&location).await.status(), 204);

    let mut stream = TcpStream::connect(registry.address()).unwrap();
    stream
        .write_all(b"PUT /v2/a/manifests/v1 HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{\"schemaVersion\":2")
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(client.get("/v2/a/manifests/v1").await.status(), 404);
    registry.stop();
}

/// The client sends all it has before it reads: a server that just closes would answer with a reset.
#[tokio::test]
async fn a_push_refused_early_reads_its_status() {
    let registry = Registry::start(&Setup::with_users());
    for expect in ["", "Expect: 100-continue\r\n"] {
        for size in [10, 1_000_000, 6_000_000] {
            let head = format!(
                "PATCH /v2/a/blobs/uploads/9f86d081-0000-4000-8000-000000000000 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{expect}Content-Length: {size}\r\n\r\n"
            );
            let mut stream = TcpStream::connect(registry.address()).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&blob(1, size)).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 401 "), "{size} {expect:?}: {answer}");
            assert!(answer.contains("UNAUTHORIZED"), "{answer}");
        }
    }
    registry.stop();
}

#[tokio::test]
async fn no_continue_is_said_to_a_push_that_is_refused() {
    let registry = Registry::start(&Setup::with_users());
    let request = "PATCH /v2/a/blobs/uploads/9f86d081-0000-4000-8000-000000000000 HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n";
    let mut stream = TcpStream::connect(registry.address()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 401");
    registry.stop();
}

#[tokio::test]
async fn readers_don_t_notice_vandals() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let image = Image::of(1);
    client.push_image("a", "v1", &image).await;
    let vandal = {
        let client = client.clone();
        tokio::spawn(async move {
            for n in 0..50_u64 {
                let content = blob(n, 2000);
                let location = client.begin("a").await;
                let wrong = format!("{location}?digest={}", digest(b"wrong"));
                client.request(Method::PUT, &wrong).body(content).send().await.unwrap();
                client.put("/v2/a/manifests/v1", "text/plain", "{").await;
                client.delete("/v2/a/manifests/nothing").await;
            }
        })
    };
    for _ in 0..50 {
        let response = client.get("/v2/a/manifests/v1").await;
        assert_eq!(response.bytes().await.unwrap(), image.manifest());
    }
    vandal.await.unwrap();
    registry.stop();
}
