//! A push refused before its body was read reaches the client as its status.

use super::*;

const MIB: usize = 1024 * 1024;

/// Sends the whole push before it reads a byte of the answer, as the simplest clients do: a reset in between would
/// have thrown the answer away.
async fn push_then_read(mut stream: impl AsyncRead + AsyncWrite + Unpin, expect: bool, chunked: bool) -> String {
    let expect = if expect { "Expect: 100-continue\r\n" } else { "" };
    let length = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {}", 4 * MIB) };
    send(&mut stream, &format!("PUT /refuse HTTP/1.1\r\nHost: x\r\n{expect}{length}\r\n\r\n")).await;
    let piece = vec![b'x'; MIB];
    for _ in 0..4 {
        if chunked {
            send(&mut stream, "100000\r\n").await;
        }
        stream.write_all(&piece).await.unwrap();
        if chunked {
            send(&mut stream, "\r\n").await;
        }
    }
    if chunked {
        send(&mut stream, "0\r\n\r\n").await;
    }
    stream.flush().await.unwrap();
    read_to_end(&mut stream).await
}

fn assert_refused(text: &str) {
    assert!(text.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{text}");
    assert!(text.contains("\r\nconnection: close\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\nrefused"), "{text}");
}

#[tokio::test]
async fn over_plain_http() {
    let running = Running::start(LIMITS, None);
    for (expect, chunked) in [(false, false), (true, false), (false, true), (true, true)] {
        assert_refused(&push_then_read(running.connect().await, expect, chunked).await);
    }
}

#[tokio::test]
async fn over_tls() {
    let files = TlsFiles::new();
    let running = Running::start(LIMITS, Some(files.load()));
    let client = files.client(None);
    for (expect, chunked) in [(false, false), (true, false), (false, true), (true, true)] {
        assert_refused(&push_then_read(connect_tls(&running, &client).await, expect, chunked).await);
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_the_status_instead_and_then_the_end() {
    let running = Running::start(LIMITS, None);
    let mut stream = running.connect().await;
    send(&mut stream, "PUT /refuse HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9000\r\n\r\n").await;
    assert_refused(&read_to_end(&mut stream).await);
}

#[tokio::test]
async fn a_client_that_is_let_in_is_told_to_go_on() {
    let running = Running::start(LIMITS, None);
    let mut stream = running.connect().await;
    send(&mut stream, "PUT /length HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").await;
    let mut told = [0; 25];
    stream.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    send(&mut stream, "abc").await;
    assert_eq!(read_answer(&mut stream).await, "3");
    assert_eq!(get(&mut stream, "/again").await, "/again", "a body that was read leaves the connection usable");
}

#[tokio::test]
async fn the_reading_away_is_bounded() {
    let running = Running::start(ConnectionLimits { linger_time: SOON, ..LIMITS }, None);
    let mut stream = running.connect().await;
    send(&mut stream, "PUT /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n").await;
    let piece = vec![b'x'; MIB];
    let mut sent = 0;
    while stream.write_all(&piece).await.is_ok() {
        sent += 1;
        assert!(sent < 1024, "the server never stops reading");
    }
}

/// What nginx does with `proxy_request_buffering off`: it looks for an answer when it can write no more.
#[tokio::test]
async fn who_writes_until_nothing_goes_finds_the_answer() {
    let running = Running::start(LIMITS, None);
    let mut stream = running.connect().await;
    send(&mut stream, "PUT /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n").await;
    let piece = vec![b'x'; MIB];
    let mut sent = 0;
    loop {
        // Lets the server discard what there is; afterwards a write that has to wait waits for nothing but time.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        match stream.try_write(&piece) {
            Ok(written) => sent += written,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if sent > 8 * MIB {
                    break;
                }
                stream.writable().await.unwrap();
            }
            Err(error) => panic!("after {sent} bytes: {error}"),
        }
        assert!(sent < 1024 * MIB, "the server never stops reading");
    }
    let mut text = [0; 25];
    stream.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"HTTP/1.1 401 Unauthorized");
}

#[tokio::test]
async fn an_unreadable_head_is_answered_too() {
    let running = Running::start(LIMITS, None);
    let mut stream = running.connect().await;
    let long = "x".repeat(LIMITS.max_header_bytes);
    send(&mut stream, &format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\n\r\n{}", "y".repeat(MIB))).await;
    let text = read_to_end(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
}

#[tokio::test]
async fn on_http2_the_rest_is_discarded() {
    let files = TlsFiles::new();
    let running = Running::start(LIMITS, Some(files.load()));
    let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).no_proxy().build().unwrap();
    let (sent, all_sent) = tokio::sync::oneshot::channel();
    let pieces = futures_util::stream::unfold((0, Some(sent)), |(at, mut sent)| async move {
        if at < 6 {
            return Some((Ok::<_, Infallible>(Bytes::from(vec![b'x'; MIB])), (at + 1, sent)));
        }
        sent.take().unwrap().send(()).unwrap();
        None
    });
    let url = format!("https://{}/refuse", running.address);
    let refused = client.put(url).body(reqwest::Body::wrap_stream(pieces)).send().await.unwrap();
    assert_eq!((refused.version(), refused.status()), (http::Version::HTTP_2, StatusCode::UNAUTHORIZED));
    assert_eq!(refused.text().await.unwrap(), "refused");
    all_sent.await.expect("the stream was reset before its end");
}

#[tokio::test]
async fn on_http2_other_streams_go_on() {
    let files = TlsFiles::new();
    let running = Running::start(LIMITS, Some(files.load()));
    let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).no_proxy().build().unwrap();
    let url = |path: &str| format!("https://{}{path}", running.address);
    let refused = client.put(url("/refuse")).body(vec![0; 4 * MIB]).send().await.unwrap();
    assert_eq!(refused.version(), http::Version::HTTP_2);
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.text().await.unwrap(), "refused");
    let taken = client.put(url("/length")).body(vec![0; 4 * MIB]).send().await.unwrap();
    assert_eq!(taken.text().await.unwrap(), (4 * MIB).to_string());
    assert_eq!(running.server.connections(), 1);
}
