//! The end of the server.

use super::*;

#[tokio::test]
async fn idle_connections_end_at_once_and_running_downloads_to_their_end() {
    let files = TlsFiles::new();
    let mut running = Running::start(LIMITS, Some(files.load()));
    let client = files.client(None);
    let mut idle = connect_tls(&running, &client).await;
    assert_eq!(get(&mut idle, "/x").await, "/x");
    let mut fresh = connect_tls(&running, &client).await;
    let mut busy = connect_tls(&running, &client).await;
    send(&mut busy, "GET /download HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(running.event().await, "downloading");
    let http2 = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).no_proxy().build().unwrap();
    let download = http2.get(format!("https://{}/download", running.address)).send().await.unwrap();
    assert_eq!(running.event().await, "downloading");
    assert_eq!(download.version(), http::Version::HTTP_2);

    let server = running.server.clone();
    let mut drained = Box::pin(server.drain(LIMITS.stall_timeout));
    let others = async {
        assert_eq!(read_to_end(&mut idle).await, "");
        assert_eq!(read_to_end(&mut fresh).await, "");
        assert!(TcpStream::connect(running.address).await.is_err(), "nobody listens any more");
    };
    tokio::select! {
        biased;
        drained = &mut drained => panic!("drained while downloads ran: {drained:?}"),
        () = others => {}
    }
    running.gate.add_permits(6);
    let (drained, text, download) = tokio::join!(drained, read_and_leave(busy), download.text());
    assert_eq!(drained, Drained::default());
    assert!(text.ends_with("\r\n0\r\n\r\n"), "the last chunk: {text}");
    assert_eq!(download.unwrap(), "piecepiecepiece");
}

#[tokio::test]
async fn a_client_that_never_greets_does_not_hold_up_the_end() {
    let files = TlsFiles::new();
    let running = Running::start(LIMITS, Some(files.load()));
    let mut config = (*files.client(None)).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut silent = connect_tls(&running, &Arc::new(config)).await;
    // The server's own greeting: its handshake is over.
    silent.read_exact(&mut [0; 9]).await.unwrap();
    assert_eq!(running.server.drain(Duration::from_secs(5)).await, Drained::default());
    drop(silent);
}

#[tokio::test]
async fn a_request_without_end_is_cut_at_the_deadline_and_named() {
    let mut running = Running::start(LIMITS, None);
    let mut stream = running.connect().await;
    send(&mut stream, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(running.event().await, "waiting");
    let drained = running.server.drain(SOON).await;
    assert_eq!(drained, Drained { cut: 1, peers: vec![stream.local_addr().unwrap()] });
    assert_eq!(running.server.connections(), 0);
    let mut rest = Vec::new();
    // The end may be a reset: it was cut.
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn a_running_request_is_answered_with_a_farewell() {
    let mut running = Running::start(LIMITS, None);
    let mut stream = running.connect().await;
    send(&mut stream, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(running.event().await, "waiting");
    let server = running.server.clone();
    let mut drained = Box::pin(server.drain(LIMITS.stall_timeout));
    // The first poll closes everything that does not run.
    tokio::select! {
        biased;
        drained = &mut drained => panic!("drained while a request ran: {drained:?}"),
        () = std::future::ready(()) => {}
    }
    running.gate.add_permits(1);
    let (drained, text) = tokio::join!(drained, read_and_leave(stream));
    assert_eq!(drained, Drained::default());
    assert!(text.contains("\r\nconnection: close\r\n") && text.ends_with("waited"), "{text}");
}

#[tokio::test]
async fn a_client_that_has_its_answer_and_does_not_leave_is_not_waited_for_long_nor_called_cut() {
    let mut running = Running::start(LIMITS, None);
    let mut stream = running.connect().await;
    send(&mut stream, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(running.event().await, "waiting");
    let server = running.server.clone();
    let (gate, reading) = (Arc::clone(&running.gate), async { read_to_end(&mut stream).await });
    let answered = async {
        gate.add_permits(1);
        reading.await
    };
    let (drained, text) = tokio::join!(server.drain(SOON), answered);
    assert_eq!((drained, running.server.connections()), (Drained::default(), 0));
    assert!(text.ends_with("waited"), "{text}");
}

#[tokio::test]
async fn an_axum_router_is_a_service() {
    let [listener] = bind(&[SocketAddr::from(([127, 0, 0, 1], 0))]).unwrap().try_into().unwrap();
    let address = listener.address();
    let router = axum::Router::new().route("/healthz", axum::routing::get(|| async { "ok\n" }));
    Server::new(LIMITS).listen(listener, None, router, None);
    assert_eq!(get(&mut TcpStream::connect(address).await.unwrap(), "/healthz").await, "ok\n");
}
