//! Handshakes that come to nothing.

use super::*;
use crate::telemetry::{Metrics, TlsFailureReason};

/// A server with TLS whose failed handshakes are counted.
struct Counted {
    running: Running,
    metrics: Metrics,
    files: TlsFiles,
}

impl Counted {
    fn start(limits: ConnectionLimits) -> Self {
        let (files, metrics) = (TlsFiles::new(), Metrics::new().unwrap());
        let tls = files.load();
        tls.failures().count_in(metrics.clone());
        Self { running: Running::start(limits, Some(tls)), metrics, files }
    }

    /// Waits until so many are counted for `reason`.
    async fn until(&self, reason: TlsFailureReason, count: u64) {
        let line = format!("d8_registry_tls_failures_total{{reason=\"{}\"}} {count}\n", reason.as_str());
        let counted = async {
            while !self.metrics.render().unwrap().contains(&line) {
                tokio::task::yield_now().await;
            }
        };
        let counted = tokio::time::timeout(LIMITS.stall_timeout, counted).await;
        assert!(counted.is_ok(), "no {line}{}", self.metrics.render().unwrap());
    }
}

/// A ClientHello of TLS 1.0 with one cipher suite.
fn hello_of_tls_1_0() -> Vec<u8> {
    let mut body = vec![3, 1];
    body.extend_from_slice(&[9; 32]);
    body.extend_from_slice(&[0, 0, 2, 0, 0x2f, 1, 0]);
    let mut hello =
        vec![22, 3, 1, 0, u8::try_from(body.len() + 4).unwrap(), 1, 0, 0, u8::try_from(body.len()).unwrap()];
    hello.append(&mut body);
    hello
}

#[tokio::test]
async fn who_asks_without_tls_is_told_so() {
    let counted = Counted::start(LIMITS);
    let long = format!("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(1_000_000));
    let requests = ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\r\nGET / HTTP/1.0\r\n\r\n", "get / http/1.1\r\n\r\n", &long];
    for (request, count) in requests.iter().zip(1..) {
        let mut stream = counted.running.connect().await;
        send(&mut stream, request).await;
        let text = read_to_end(&mut stream).await;
        assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{text}");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())) && body.contains("https://"),
            "{text}"
        );
        counted.until(TlsFailureReason::Http, count).await;
    }
    let mut stream = counted.running.connect().await;
    send(&mut stream, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(read_to_end(&mut stream).await.ends_with("connection: close\r\n\r\n"), "HEAD has no body");
}

#[tokio::test]
async fn a_failure_is_counted_by_its_reason() {
    let counted = Counted::start(LIMITS);
    let running = &counted.running;
    // Another authority, and one of the same name with another key.
    let (mut stranger, namesake) = (TlsFiles::new(), TlsFiles::new());
    stranger.authority = Authority::new("another ca");
    for (files, host, count) in [(&stranger, "localhost", 1), (&namesake, "localhost", 2), (&counted.files, "other", 3)]
    {
        let name = ServerName::try_from(host).unwrap();
        let refused = TlsConnector::from(files.client(None)).connect(name, running.connect().await).await;
        assert!(refused.is_err(), "the certificate is not of its authority, or of another name");
        counted.until(TlsFailureReason::CertificateRefused, count).await;
    }

    let say = async |bytes: &[u8]| {
        let mut stream = running.connect().await;
        stream.write_all(bytes).await.unwrap();
        stream
    };
    drop(say(&[22, 3, 1, 0, 5, 9, 9, 9, 9, 9]).await);
    counted.until(TlsFailureReason::NotTls, 1).await;
    drop(say(&[0, 1, 2, 3, 4, 5, 6, 7]).await);
    counted.until(TlsFailureReason::NotTls, 2).await;
    let _old = say(&hello_of_tls_1_0()).await;
    counted.until(TlsFailureReason::Incompatible, 1).await;
    drop(say(&hello_of_tls_1_0()[..20]).await);
    counted.until(TlsFailureReason::Closed, 1).await;
    drop(running.connect().await);
    counted.until(TlsFailureReason::Closed, 2).await;
    assert_eq!(get(&mut connect_tls(running, &counted.files.client(None)).await, "/x").await, "/x");
}

#[tokio::test]
async fn who_says_nothing_or_half_of_it_is_not_waited_for() {
    let counted = Counted::start(ConnectionLimits { handshake_timeout: SOON, ..LIMITS });
    let _silent = counted.running.connect().await;
    counted.until(TlsFailureReason::Timeout, 1).await;
    let mut half = counted.running.connect().await;
    half.write_all(&hello_of_tls_1_0()[..20]).await.unwrap();
    counted.until(TlsFailureReason::Timeout, 2).await;
}
