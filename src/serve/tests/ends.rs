//! Requests that are sent ahead, and clients that shut their sending side: nobody loses an answer.

use super::*;

/// More than a socket holds, and than hyper reads: some of it lies unread when the connection is closed.
const BEHIND: usize = 4 << 20;

/// Sends all of it and reads until the orderly end, at once: neither side waits for the other.
async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin, text: String) -> String {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let writing = async {
        // Whoever has his answer need not be heard to the end.
        let _ = writer.write_all(text.as_bytes()).await;
        let _ = writer.flush().await;
    };
    tokio::join!(read_to_end(&mut reader), writing).0
}

/// What hyper can't read as a request, and how its answer begins. With nothing: it has none.
fn malformed() -> Vec<(String, &'static str)> {
    let long = "x".repeat(LIMITS.max_header_bytes);
    vec![
        ("GET / HTTP/1.1\r\nHost: x\r\nna me: x\r\n\r\n".into(), "HTTP/1.1 400 "),
        ("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n".into(), "HTTP/1.1 400 "),
        ("GET / HTTP/3.7\r\nHost: x\r\n\r\n".into(), "HTTP/1.1 400 "),
        ("\u{16}\u{3}\u{1}\u{0}\r\n\r\n".into(), "HTTP/1.1 400 "),
        ("nonsense\r\n\r\n".into(), "HTTP/1.1 400 "),
        (format!("GET / HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"), "HTTP/1.1 431 "),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000)), "HTTP/1.1 4"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), ""),
    ]
}

fn assert_whole(text: &str, then: &str) {
    let whole = text.bytes().filter(|byte| *byte == 7).count() == LOTS;
    let tail = text.rsplit('\u{7}').next().unwrap();
    assert!(whole && tail.contains(then), "{} bytes, then {tail:?} instead of {then:?}", text.len());
}

#[tokio::test]
async fn what_cannot_be_read_takes_no_answer_before_it_away() {
    let running = Running::start(LIMITS, None);
    for (next, answer) in malformed() {
        let text = format!("GET /lots HTTP/1.1\r\nHost: x\r\n\r\n{next}{}", "y".repeat(BEHIND));
        assert_whole(&exchange(running.connect().await, text).await, answer);
    }
}

#[tokio::test]
async fn nor_over_tls() {
    let files = TlsFiles::new();
    let running = Running::start(LIMITS, Some(files.load()));
    for (next, answer) in malformed() {
        let text = format!("GET /lots HTTP/1.1\r\nHost: x\r\n\r\n{next}{}", "y".repeat(BEHIND));
        assert_whole(&exchange(connect_tls(&running, &files.client(None)).await, text).await, answer);
    }
}

#[tokio::test]
async fn nor_after_an_early_answer() {
    const EARLY: &str = "from memory";
    const PATH: &str = "/v2/a/b/manifests/v1";
    let running = Running::start_with(LIMITS, None, Some(Canned::new(PATH, EARLY)));
    for (next, answer) in malformed() {
        let good = format!("GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n");
        // Answered early when it comes alone, and by the service together with what follows.
        let mut stream = running.connect().await;
        assert_eq!(get(&mut stream, PATH).await, EARLY);
        let text = exchange(stream, format!("{good}{next}{}", "y".repeat(BEHIND))).await;
        assert!(text.contains(&format!("\r\n\r\n{PATH}")) && text.contains(answer), "{text}");
        let mut stream = running.connect().await;
        assert_eq!(get(&mut stream, PATH).await, EARLY);
        let text = exchange(stream, format!("{next}{}", "y".repeat(BEHIND))).await;
        assert!(text.starts_with(answer), "{text}");
    }
}

#[tokio::test]
async fn requests_behind_the_last_one_take_no_answer_away() {
    let running = Running::start(LIMITS, None);
    let behind = "GET /x HTTP/1.1\r\nHost: x\r\n\r\n".repeat(BEHIND / 27);
    for last in ["HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "HTTP/1.0\r\n\r\n"] {
        let text = exchange(running.connect().await, format!("GET /lots {last}{behind}")).await;
        assert_whole(&text, "");
        assert!(!text.contains("/x"), "the connection was to end");
    }
}

#[tokio::test]
async fn a_drain_takes_no_answer_away_from_who_sent_more_than_one_request() {
    let mut running = Running::start(LIMITS, None);
    let stream = running.connect().await;
    let behind = "GET /x HTTP/1.1\r\nHost: x\r\n\r\n".repeat(BEHIND / 27);
    let (server, gate) = (running.server.clone(), Arc::clone(&running.gate));
    let asking = exchange(stream, format!("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n{behind}"));
    let draining = async {
        assert_eq!(running.event().await, "waiting");
        let drain = server.drain(LIMITS.stall_timeout);
        let open = async { gate.add_permits(1) };
        tokio::join!(drain, open).0
    };
    let (text, drained) = tokio::join!(asking, draining);
    assert!(text.ends_with("\r\n\r\nwaited"), "{text}");
    assert_eq!(drained, Drained::default());
}

/// Requests that came whole, and how the answer to the last of them ends.
fn whole() -> Vec<(String, String)> {
    let lots = "x".repeat(300_000);
    vec![
        ("GET /a HTTP/1.1\r\nHost: x\r\n\r\n".into(), "/a".into()),
        ("HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n".into(), "\r\n\r\n".into()),
        ("GET /a HTTP/1.0\r\n\r\n".into(), "/a".into()),
        ("GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n".into(), "/b".into()),
        ("PUT /length HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello".into(), "\r\n\r\n5".into()),
        (format!("PUT /length HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n{lots}"), "\r\n\r\n300000".into()),
        (
            format!(
                "PUT /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n493e0\r\n{lots}\r\n0\r\n\r\n"
            ),
            "\r\n\r\n300000".into(),
        ),
        ("PUT /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello".into(), "refused".into()),
        ("GET /lots HTTP/1.1\r\nHost: x\r\n\r\n".into(), "\u{7}\r\n0\r\n\r\n".into()),
    ]
}

/// Sends, then says that nothing more comes, and reads to the end.
async fn ask_and_shut(mut stream: impl AsyncRead + AsyncWrite + Unpin, text: &str) -> String {
    send(&mut stream, text).await;
    stream.shutdown().await.unwrap();
    read_to_end(&mut stream).await
}

#[tokio::test]
async fn who_shuts_the_sending_side_gets_the_answer() {
    let running = Running::start(LIMITS, None);
    for (text, end) in whole() {
        let answer = ask_and_shut(running.connect().await, &text).await;
        assert!(answer.ends_with(&end), "{answer}");
    }
}

#[tokio::test]
async fn and_over_tls() {
    let files = TlsFiles::new();
    let running = Running::start(LIMITS, Some(files.load()));
    for (text, end) in whole() {
        let answer = ask_and_shut(connect_tls(&running, &files.client(None)).await, &text).await;
        assert!(answer.ends_with(&end), "{answer}");
        // With the end of TCP alone, as clients that know nothing of TLS below them.
        let mut stream = connect_tls(&running, &files.client(None)).await;
        send(&mut stream, &text).await;
        stream.get_mut().0.shutdown().await.unwrap();
        let answer = read_to_end(&mut stream).await;
        assert!(answer.ends_with(&end), "{answer}");
    }
}

#[tokio::test]
async fn also_if_the_answer_takes_its_time() {
    let mut running = Running::start(LIMITS, None);
    let mut stream = running.connect().await;
    send(&mut stream, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    stream.shutdown().await.unwrap();
    assert_eq!(running.event().await, "waiting");
    // Time enough for the server to see the end first.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    running.gate.add_permits(1);
    assert!(read_to_end(&mut stream).await.ends_with("waited"));
}

#[tokio::test]
async fn also_of_an_early_answer() {
    const EARLY: &str = "from memory";
    let running = Running::start_with(LIMITS, None, Some(Canned::new("/v2/a/b/manifests/v1", EARLY)));
    let get = "GET /v2/a/b/manifests/v1 HTTP/1.1\r\nHost: x\r\n\r\n";
    assert!(ask_and_shut(running.connect().await, get).await.ends_with(EARLY));
}

#[tokio::test]
async fn an_end_in_the_middle_of_a_body_breaks_it() {
    let mut running = Running::start(LIMITS, None);
    for head in [
        "Content-Length: 90000\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "Transfer-Encoding: chunked\r\n\r\nff\r\nhello",
    ] {
        let mut stream = running.connect().await;
        send(&mut stream, &format!("PUT /pieces HTTP/1.1\r\nHost: x\r\n{head}")).await;
        stream.shutdown().await.unwrap();
        let event = running.event().await;
        assert!(event.starts_with("broken: 5, "), "{event}");
    }
}
