//! What a connection may cost: silent, slow and standing clients, and handlers that fail.

use std::future::poll_fn;

use super::body::Http1ResponseBody;
use super::http1_state::{AHEAD_BYTES, Http1State};
use super::*;

#[tokio::test]
async fn a_silent_and_a_slow_client_are_cut() {
    let running = Running::start(ConnectionLimits { first_head_timeout: SOON, ..LIMITS }, None);
    for begin in ["", "GET / HTTP/1.1\r\nHost"] {
        let mut stream = running.connect().await;
        send(&mut stream, begin).await;
        assert_eq!(read_to_end(&mut stream).await, "");
    }
    // Long enough for one request on a machine that has much to do.
    let running = Running::start(ConnectionLimits { header_timeout: Duration::from_secs(1), ..LIMITS }, None);
    let mut idle = running.connect().await;
    assert_eq!(get(&mut idle, "/x").await, "/x");
    assert_eq!(read_to_end(&mut idle).await, "");
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_cut() {
    let files = TlsFiles::new();
    let running = Running::start(ConnectionLimits { handshake_timeout: SOON, ..LIMITS }, Some(files.load()));
    assert_eq!(read_to_end(&mut running.connect().await).await, "");
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed() {
    let files = TlsFiles::new();
    let limits = ConnectionLimits { first_head_timeout: SOON, ..LIMITS };
    let running = Running::start(limits, Some(files.load()));
    let mut config = (*files.client(None)).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut stream = connect_tls(&running, &Arc::new(config)).await;
    // Neither a greeting nor a request: hyper alone would keep it for ever.
    let mut greeting = Vec::new();
    let _ = stream.read_to_end(&mut greeting).await;
    assert_eq!(running.server.drain(LIMITS.stall_timeout).await, Drained::default());
}

#[tokio::test]
async fn a_download_nobody_reads_is_cut() {
    let mut running = Running::start(ConnectionLimits { stall_timeout: SOON, ..LIMITS }, None);
    let mut stream = running.connect().await;
    send(&mut stream, "GET /flood HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(running.event().await, "flood dropped");
    drop(stream);
}

#[tokio::test]
async fn a_download_nobody_reads_is_cut_over_tls_and_http2() {
    let files = TlsFiles::new();
    let mut running = Running::start(ConnectionLimits { stall_timeout: SOON, ..LIMITS }, Some(files.load()));
    let builder = || reqwest::Client::builder().tls_danger_accept_invalid_certs(true).no_proxy();
    for client in [builder().build().unwrap(), builder().http1_only().build().unwrap()] {
        let answer = client.get(format!("https://{}/flood", running.address)).send().await.unwrap();
        assert_eq!(running.event().await, "flood dropped");
        drop(answer);
    }
}

#[tokio::test]
async fn what_is_cut_from_outside_ends_and_other_streams_go_on() {
    let files = TlsFiles::new();
    let mut running = Running::start(LIMITS, Some(files.load()));
    let builder = || reqwest::Client::builder().tls_danger_accept_invalid_certs(true).no_proxy();
    for (client, is_http2) in [(builder().build().unwrap(), true), (builder().http1_only().build().unwrap(), false)] {
        let url = |path: &str| format!("https://{}{path}", running.address);
        let before = is_http2.then(|| client.get(url("/lots")).send());
        let standing = client.get(url("/cut")).send().await.unwrap();
        let before = match before {
            Some(before) => Some(before.await.unwrap()),
            None => None,
        };
        running.gate.add_permits(1);
        assert_eq!(running.events.recv().await.unwrap(), "flood dropped");
        assert!(standing.bytes().await.is_err(), "cut short, not ended");
        if let Some(before) = before {
            assert_eq!(before.bytes().await.unwrap().len(), LOTS, "another stream of the connection");
        }
    }
}

#[tokio::test]
async fn an_upload_that_stands_still_is_answered_and_cut() {
    let running = Running::start(ConnectionLimits { stall_timeout: SOON, ..LIMITS }, None);
    let mut stream = running.connect().await;
    send(&mut stream, "PUT /length HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc").await;
    // The client goes, too, once it has its answer: else the server would discard for its five seconds.
    assert_eq!(read_answer(&mut stream).await, "stalled");
    stream.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, "");
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_an_error_and_not_an_end() {
    let running = Running::start(LIMITS, None);
    let mut stream = running.connect().await;
    send(&mut stream, "PUT /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").await;
    let text = read_to_end_after_shutdown(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 400 ") && text.ends_with("broken"), "{text}");
}

async fn read_to_end_after_shutdown(stream: &mut TcpStream) -> String {
    let text = read_answer_with_head(stream).await;
    stream.shutdown().await.unwrap();
    text + &read_to_end(stream).await
}

async fn read_answer_with_head(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"broken") {
        text.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_handler_that_panics_takes_nobody_with_it() {
    let running = Running::start(LIMITS, None);
    let mut other = running.connect().await;
    assert_eq!(get(&mut other, "/x").await, "/x");
    let mut stream = running.connect().await;
    send(&mut stream, "GET /panic HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(read_to_end(&mut stream).await, "");
    assert_eq!(get(&mut other, "/y").await, "/y");
    assert_eq!(get(&mut running.connect().await, "/z").await, "/z");
}

#[tokio::test]
async fn who_finds_no_place_waits_for_one() {
    let running = Running::start(ConnectionLimits { max_connections: 1, ..LIMITS }, None);
    let mut first = running.connect().await;
    assert_eq!(get(&mut first, "/sign-in").await, "signed in");
    let mut second = running.connect().await;
    send(&mut second, "GET /second HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(running.server.connections(), 1);
    assert_eq!(get(&mut first, "/still").await, "/still");
    drop(first);
    assert_eq!(read_answer(&mut second).await, "/second");
    assert_eq!(running.server.connections(), 1);
}

#[tokio::test]
async fn a_raised_limit_lets_the_waiting_in() {
    let limits = ConnectionLimits { max_connections: 1, ..LIMITS };
    let running = Running::start(limits, None);
    let mut first = running.connect().await;
    assert_eq!(get(&mut first, "/sign-in").await, "signed in");
    let mut second = running.connect().await;
    send(&mut second, "GET /second HTTP/1.1\r\nHost: x\r\n\r\n").await;
    running.server.set_limits(ConnectionLimits { max_connections: 2, ..limits });
    assert_eq!(read_answer(&mut second).await, "/second");
}

#[tokio::test]
async fn several_addresses_and_an_ipv4_peer_of_an_ipv6_socket() {
    let listeners =
        bind(&["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap(), "[::]:0".parse().unwrap()]).unwrap();
    let addresses: Vec<SocketAddr> = listeners.iter().map(Listener::address).collect();
    let server = Server::new(LIMITS);
    for listener in listeners {
        let service = tower::service_fn(|request: Request<RequestBody>| async move {
            let peer = request.extensions().get::<Peer>().unwrap().address.ip().to_string();
            Ok::<_, Infallible>(answer(StatusCode::OK, &peer))
        });
        server.listen(listener, None, service, None);
    }
    let all_families = SocketAddr::from(([127, 0, 0, 1], addresses[2].port()));
    for (address, peer) in [(addresses[0], "127.0.0.1"), (addresses[1], "::1"), (all_families, "127.0.0.1")] {
        assert_eq!(get(&mut TcpStream::connect(address).await.unwrap(), "/").await, peer);
    }
    let taken = bind(&[addresses[0]]).unwrap_err();
    assert_eq!(taken.address, addresses[0]);
}

/// Sends a body of 2 MiB and says how long the longest piece was in which it came.
async fn longest_piece_of_a_push(stream: &mut TcpStream) -> usize {
    let content = vec![7; 2 << 20];
    send(stream, &format!("PUT /pieces HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", content.len())).await;
    stream.write_all(&content).await.unwrap();
    stream.flush().await.unwrap();
    let text = read_answer(stream).await;
    text.strip_prefix("whole: 2097152, longest ").unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_push_comes_in_shorter_pieces_while_many_are_under_way() {
    let mut running = Running::start(LIMITS, None);
    let mut stream = running.connect().await;
    let longest = longest_piece_of_a_push(&mut stream).await;
    assert!(longest < 1 << 20, "{longest}");
    let mut others = Vec::new();
    for _ in 0..40 {
        let mut other = running.connect().await;
        send(&mut other, "PUT /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na").await;
        while running.event().await != "waiting" {}
        others.push(other);
    }
    let longest = longest_piece_of_a_push(&mut stream).await;
    assert!(longest < 256 << 10, "{longest}");
}

#[tokio::test]
async fn what_came_over_tls_before_its_connection_broke_is_not_lost() {
    let files = TlsFiles::new();
    let mut running = Running::start(LIMITS, Some(files.load()));
    let mut stream = connect_tls(&running, &files.client(None)).await;
    send(&mut stream, "PUT /pieces HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n").await;
    send(&mut stream, &"a".repeat(60_000)).await;
    // Without the word that nothing follows.
    stream.get_mut().0.shutdown().await.unwrap();
    let event = running.event().await;
    assert!(event.starts_with("broken: 60000, "), "{event}");
}

#[tokio::test]
async fn hyper_takes_no_more_of_an_answer_than_a_little_ahead_of_the_socket() {
    let state = Arc::new(Http1State::new(AHEAD_BYTES));
    let (events, _dropped) = mpsc::unbounded_channel();
    let number = state.begin(false);
    let mut body = Http1ResponseBody { body: Flood(events), state: Arc::clone(&state), number };
    for _ in 0..3 {
        let taken = poll_fn(|cx| {
            let mut taken = 0;
            while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(cx) {
                taken += frame.into_data().unwrap().len();
            }
            Poll::Ready(taken)
        });
        assert_eq!(taken.await, 256 << 10);
        assert!(state.go_on(), "nobody asks for more");
        assert!(!state.go_on(), "asked for twice");
    }
}

#[tokio::test]
async fn an_answer_longer_than_hyper_takes_at_once_comes_whole() {
    let running = Running::start(LIMITS, None);
    let mut stream = running.connect().await;
    send(&mut stream, "GET /lots HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let text = read_to_end(&mut stream).await;
    assert_eq!(text.bytes().filter(|byte| *byte == 7).count(), LOTS);
}
