//! Connections on which nobody signed in: what they may cost, and that they keep nobody out.

use super::*;

fn few(places: usize) -> ConnectionLimits {
    ConnectionLimits { max_connections: places, ..LIMITS }
}

/// Waits until the server closes the connection, whatever it says before.
async fn closed(stream: &mut (impl AsyncRead + Unpin)) {
    let mut said = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut said).await;
}

#[tokio::test]
async fn silent_connections_keep_nobody_out_and_the_oldest_goes() {
    let running = Running::start(few(3), None);
    let mut silent = Vec::new();
    for begin in ["", "GET / HT", ""] {
        let mut stream = running.connect().await;
        send(&mut stream, begin).await;
        silent.push(stream);
    }
    let mut newcomer = running.connect().await;
    assert_eq!(get(&mut newcomer, "/x").await, "/x");
    closed(&mut silent[0]).await;
    assert_eq!(running.server.connections(), 3);
    send(&mut silent[1], "TP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(read_answer(&mut silent[1]).await, "/", "one more goes for each that comes, and not others");
}

#[tokio::test]
async fn neither_do_unfinished_handshakes_nor_silence_behind_one() {
    let files = TlsFiles::new();
    let mut http2 = (*files.client(None)).clone();
    http2.alpn_protocols = vec![b"h2".to_vec()];
    let (http1, http2) = (files.client(None), Arc::new(http2));
    let running = Running::start(few(3), Some(files.load()));
    let mut unfinished = running.connect().await;
    // The beginning of a record that is said to be as long as can be.
    unfinished.write_all(&[22, 3, 1, 64, 0, 1, 0, 63, 252]).await.unwrap();
    let mut silent = connect_tls(&running, &http1).await;
    let mut silent2 = connect_tls(&running, &http2).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut newcomer = connect_tls(&running, &http1).await;
        assert_eq!(get(&mut newcomer, "/sign-in").await, "signed in");
        held.push(newcomer);
    }
    closed(&mut unfinished).await;
    closed(&mut silent).await;
    closed(&mut silent2).await;
    for stream in &mut held {
        assert_eq!(get(stream, "/still").await, "/still");
    }
}

#[tokio::test]
async fn who_signed_in_stays_and_who_was_refused_is_a_guest() {
    let running = Running::start(few(2), None);
    let mut node = running.connect().await;
    assert_eq!(get(&mut node, "/sign-in").await, "signed in");
    let mut refused = running.connect().await;
    assert_eq!(get(&mut refused, "/refuse").await, "refused");
    for _ in 0..5 {
        assert_eq!(get(&mut running.connect().await, "/x").await, "/x");
    }
    closed(&mut refused).await;
    assert_eq!(get(&mut node, "/x").await, "/x");
}

#[tokio::test]
async fn a_request_that_was_let_in_is_not_cut_for_another() {
    let mut running = Running::start(few(2), None);
    let mut pull = running.connect().await;
    send(&mut pull, "GET /let-in HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(running.event().await, "waiting");
    let mut held = running.connect().await;
    send(&mut held, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(running.event().await, "waiting");
    // Its answer takes long and it was not let in.
    assert_eq!(get(&mut running.connect().await, "/x").await, "/x");
    closed(&mut held).await;
    running.gate.add_permits(2);
    assert_eq!(read_answer(&mut pull).await, "waited");
}

#[tokio::test]
async fn the_rest_of_a_head_has_a_short_time_until_somebody_signed_in() {
    let limits = ConnectionLimits { first_head_timeout: Duration::from_secs(1), ..LIMITS };
    let running = Running::start(limits, None);
    let (mut guest, mut node) = (running.connect().await, running.connect().await);
    assert_eq!(get(&mut guest, "/x").await, "/x");
    assert_eq!(get(&mut node, "/sign-in").await, "signed in");
    for stream in [&mut guest, &mut node] {
        send(stream, "GET /y HTTP/1.1\r\nHo").await;
    }
    closed(&mut guest).await;
    send(&mut node, "st: x\r\n\r\n").await;
    assert_eq!(read_answer(&mut node).await, "/y");
}

#[tokio::test]
async fn an_answered_connection_may_be_silent_longer_than_a_first_head() {
    let limits = ConnectionLimits { first_head_timeout: Duration::from_secs(1), ..LIMITS };
    let running = Running::start(limits, None);
    let mut stream = running.connect().await;
    assert_eq!(get(&mut stream, "/x").await, "/x");
    // Another's time runs out meanwhile, which began later.
    closed(&mut running.connect().await).await;
    assert_eq!(get(&mut stream, "/x").await, "/x");
}

#[tokio::test]
async fn heads_that_do_not_end_are_closed_before_they_take_much() {
    const HEADS: usize = 200;
    let limits = ConnectionLimits { max_connections: 500, max_header_bytes: 64 * 1024, ..LIMITS };
    let running = Running::start(limits, None);
    let mut node = running.connect().await;
    assert_eq!(get(&mut node, "/x").await, "/x");
    let mut heads = Vec::new();
    for _ in 0..HEADS {
        let mut stream = running.connect().await;
        // It may be closed while it sends.
        let _ = stream.write_all(format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(60_000)).as_bytes()).await;
        heads.push(stream);
    }
    // The first of them are closed for those that follow, and not the one that asked for little.
    for stream in &mut heads[..HEADS / 2] {
        closed(stream).await;
    }
    assert_eq!(get(&mut node, "/x").await, "/x");
}
