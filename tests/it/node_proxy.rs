//! `node-proxy`: the real binary between real sockets.

mod port;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use super::support::{Registry, Setup, within};

/// A server whose connections the test plays itself. Health checks are answered behind its back.
struct Server {
    address: String,
    connections: mpsc::UnboundedReceiver<TcpStream>,
    checks: watch::Receiver<usize>,
}

impl Server {
    async fn start() -> Self {
        Self::with_health("127.0.0.1:0", "200 OK").await
    }

    async fn with_health(address: &str, status: &'static str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, connections) = mpsc::unbounded_channel();
        let (checked, checks) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (sender, checked) = (sender.clone(), checked.clone());
                tokio::spawn(async move {
                    let mut first = [0];
                    // A connection shows what it is with its first byte; tests send an `x`.
                    if !stream.peek(&mut first).await.is_ok_and(|count| count == 1) {
                        // A client that only looked whether anyone takes connections.
                    } else if first[0] == b'G' {
                        let mut request = vec![0; 4096];
                        let _ = stream.read(&mut request).await;
                        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                        let _ = stream.write_all(answer.as_bytes()).await;
                        checked.send_modify(|count| *count += 1);
                    } else {
                        let _ = sender.send(stream);
                    }
                });
            }
        });
        Self { address, connections, checks }
    }

    /// The next connection that is no health check; its first byte is taken.
    async fn connection(&mut self) -> TcpStream {
        let mut stream = within(self.connections.recv()).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        stream
    }

    /// Waits for more health checks: time passes by the proxy's own clock.
    async fn more_checks(&mut self, count: usize) {
        let goal = *self.checks.borrow() + count;
        within(self.checks.wait_for(|seen| *seen >= goal)).await.unwrap();
    }
}

/// An address at which nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    command.arg("node-proxy").args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A running balancer, killed when dropped.
struct Proxy {
    process: Child,
    log: Arc<Mutex<Vec<Value>>>,
    lines: watch::Receiver<usize>,
    address: String,
}

impl Proxy {
    async fn start(arguments: &[&str]) -> Self {
        Self::listening("127.0.0.1:0", arguments).await
    }

    async fn listening(address: &str, arguments: &[&str]) -> Self {
        let mut proxy = Self::beginning(address, arguments);
        proxy.address = proxy.line("listening").await["address"].as_str().unwrap().to_owned();
        proxy
    }

    /// One that may have to wait for its address.
    fn beginning(address: &str, arguments: &[&str]) -> Self {
        let mut process = command(&["--listen", address]).args(arguments).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (counter, lines) = watch::channel(0);
        let (stderr, into) = (process.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                into.lock().unwrap().push(serde_json::from_str(&line).unwrap_or(Value::String(line)));
                counter.send_modify(|count| *count += 1);
            }
        });
        Self { process, log, lines, address: address.to_owned() }
    }

    /// Asks its admin address: status and body.
    async fn admin(&self, path: &str) -> (u16, String) {
        let line = self.line("answering for health and metrics").await;
        let url = format!("http://{}{path}", line["address"].as_str().unwrap());
        let answer = within(reqwest::get(url)).await.unwrap();
        (answer.status().as_u16(), within(answer.text()).await.unwrap())
    }

    async fn servers(servers: &[&Server]) -> Self {
        let arguments: Vec<&str> = servers.iter().flat_map(|server| ["--backend", &server.address]).collect();
        Self::start(&arguments).await
    }

    fn said(&self, message: &str) -> Vec<Value> {
        self.log.lock().unwrap().iter().filter(|line| line["message"] == message).cloned().collect()
    }

    /// The first line with this message; waits for it.
    async fn line(&self, message: &str) -> Value {
        let mut lines = self.lines.clone();
        let seen = within(lines.wait_for(|_| !self.said(message).is_empty())).await.is_ok();
        assert!(seen, "no {message:?} in {:#?}", self.log.lock().unwrap());
        self.said(message)[0].clone()
    }

    /// A client that sent its first byte.
    async fn client(&self) -> TcpStream {
        let mut client = TcpStream::connect(&self.address).await.unwrap();
        client.write_u8(b'x').await.unwrap();
        client
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    async fn ended(mut self) -> ExitStatus {
        within(tokio::task::spawn_blocking(move || self.process.wait().unwrap())).await.unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Closes a socket the rude way.
fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(stream);
}

/// Everything up to FIN; a reset is a failure.
async fn all(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    within(stream.read_to_end(&mut bytes)).await.expect("the end has to be FIN");
    bytes
}

/// A byte goes there and one comes back.
async fn talk(client: &mut TcpStream, server: &mut TcpStream) {
    client.write_u8(b'?').await.unwrap();
    assert_eq!(within(server.read_u8()).await.unwrap(), b'?');
    server.write_u8(b'!').await.unwrap();
    assert_eq!(within(client.read_u8()).await.unwrap(), b'!');
}

#[tokio::test]
async fn the_next_connection_goes_where_the_fewest_are() {
    let (mut a, mut b) = (Server::start().await, Server::start().await);
    let proxy = Proxy::servers(&[&a, &b]).await;
    let (mut clients, mut of_a, mut of_b) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..6 {
        clients.push(proxy.client().await);
    }
    for _ in 0..3 {
        of_a.push(a.connection().await);
        of_b.push(b.connection().await);
    }
    // A server that loses its connections gets the next ones: they are counted out before the clients hear of the end.
    of_b.drain(..).for_each(reset);
    let mut heard = 0;
    while heard < 3 {
        let (ended, _, _) =
            futures_util::future::select_all(clients.iter_mut().map(|client| Box::pin(client.readable()))).await;
        ended.unwrap();
        clients.retain(|client| match client.try_read(&mut [0]) {
            Ok(0) => {
                heard += 1;
                false
            }
            Ok(_) => panic!("nobody sent anything"),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                true
            }
        });
    }
    for _ in 0..3 {
        clients.push(proxy.client().await);
        of_b.push(b.connection().await);
    }
    assert!(a.connections.try_recv().is_err());
}

#[tokio::test]
async fn a_server_that_refuses_is_passed_over_before_the_client_notices() {
    let mut alive = Server::start().await;
    let dead = nobody().await;
    let proxy = Proxy::start(&["--backend", &dead, "--backend", &alive.address]).await;
    for _ in 0..4 {
        let mut client = proxy.client().await;
        let mut server = alive.connection().await;
        talk(&mut client, &mut server).await;
    }
    assert!(proxy.line("backend is down").await["backend"].as_str().unwrap().ends_with(&dead));
    alive.more_checks(2).await;
    assert_eq!(proxy.said("backend is down").len(), 1, "one line a change");
    assert_eq!(proxy.said("backend is up").len(), 1);
}

#[tokio::test]
async fn a_reset_in_the_middle_becomes_an_orderly_end() {
    let mut server = Server::start().await;
    let proxy = Proxy::servers(&[&server]).await;
    let mut client = proxy.client().await;
    let mut theirs = server.connection().await;
    // What the client sent and nobody read would make a careless close a reset.
    client.write_all(&[b'u'; 200_000]).await.unwrap();
    theirs.write_all(&[b'd'; 100_000]).await.unwrap();
    let mut begin = vec![0; 100_000];
    within(client.read_exact(&mut begin)).await.unwrap();
    reset(theirs);
    assert_eq!(all(&mut client).await, b"");
    // And what it sends now is taken, not answered with a reset.
    client.write_all(&[b'u'; 100_000]).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(all(&mut client).await, b"");
    proxy.line("a backend broke a connection").await;
}

#[tokio::test]
async fn a_reset_in_both_directions_full_loses_nothing_that_was_taken_over() {
    let mut server = Server::start().await;
    let proxy = Proxy::servers(&[&server]).await;
    let (mut reader, mut writer) = proxy.client().await.into_split();
    let mut theirs = server.connection().await;
    // Nobody reads it, so the proxy has unread bytes of the client's: to close the socket now would be a reset that throws
    // away what the client has yet to read.
    let sending = tokio::spawn(async move {
        let _ = writer.write_all(&vec![b'u'; 64 << 20]).await;
        writer
    });
    let bytes = vec![b'd'; 64 << 20];
    let mut begin = vec![0; 1 << 20];
    tokio::select! {
        _ = theirs.write_all(&bytes) => panic!("so much does not fit between them"),
        read = within(reader.read_exact(&mut begin)) => { read.unwrap(); }
    }
    reset(theirs);
    assert!(all(&mut reader).await.iter().all(|byte| *byte == b'd'));
    within(sending).await.unwrap();
}

#[tokio::test]
async fn bytes_before_an_end_arrive_whole_in_both_directions() {
    let mut server = Server::start().await;
    let proxy = Proxy::servers(&[&server]).await;
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect();
    // The client ends first.
    let mut client = proxy.client().await;
    let mut theirs = server.connection().await;
    let sent = bytes.clone();
    let sending = tokio::spawn(async move {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        client
    });
    assert!(all(&mut theirs).await == bytes);
    let mut client = sending.await.unwrap();
    let sent = bytes.clone();
    let sending = tokio::spawn(async move { theirs.write_all(&sent).await.unwrap() });
    assert!(all(&mut client).await == bytes);
    sending.await.unwrap();
    // The server ends first.
    let mut client = proxy.client().await;
    let mut theirs = server.connection().await;
    theirs.shutdown().await.unwrap();
    assert_eq!(all(&mut client).await, b"");
    client.write_all(b"still here").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(all(&mut theirs).await, b"still here");
}

#[expect(clippy::disallowed_methods, reason = "the kubelet moves the link this way")]
fn swap(dir: &Path, generation: &str, content: &str) {
    std::fs::create_dir(dir.join(generation)).unwrap();
    std::fs::write(dir.join(generation).join("backends"), content).unwrap();
    std::os::unix::fs::symlink(generation, dir.join("..data_tmp")).unwrap();
    std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

#[tokio::test]
async fn a_changed_list_takes_effect_and_a_bad_one_does_not() {
    let (mut a, mut b) = (Server::start().await, Server::start().await);
    let folder = tempfile::TempDir::new().unwrap();
    swap(folder.path(), "..1", &format!("# masters\n{}\n", a.address));
    let file = folder.path().join("backends");
    std::os::unix::fs::symlink("..data/backends", &file).unwrap();
    let proxy = Proxy::start(&["--backends-file", file.to_str().unwrap()]).await;
    let mut old = proxy.client().await;
    let mut theirs = a.connection().await;
    swap(folder.path(), "..2", &format!("{}\nnot a server\n", b.address));
    let refused = proxy.line("the list of backends is refused, the old one stays").await;
    assert!(refused["error"].as_str().unwrap().starts_with("line 2"), "{refused}");
    let _client = proxy.client().await;
    let _server = a.connection().await;
    swap(folder.path(), "..3", &b.address);
    proxy.line("the list of backends is read again").await;
    let mut client = proxy.client().await;
    let mut server = b.connection().await;
    talk(&mut client, &mut server).await;
    talk(&mut old, &mut theirs).await;
}

#[tokio::test]
async fn sigterm_lets_connections_finish() {
    let mut server = Server::start().await;
    let proxy = Proxy::servers(&[&server]).await;
    let mut client = proxy.client().await;
    let mut theirs = server.connection().await;
    proxy.terminate();
    // Until then it may still take some.
    within(async { while TcpStream::connect(&proxy.address).await.is_ok() {} }).await;
    talk(&mut client, &mut theirs).await;
    drop(theirs);
    assert_eq!(all(&mut client).await, b"");
    drop(client);
    assert_eq!(proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_drain_deadline_closes_connections_in_order() {
    let mut server = Server::start().await;
    let proxy = Proxy::start(&["--drain-deadline", "0s", "--backend", &server.address]).await;
    let mut client = proxy.client().await;
    let mut theirs = server.connection().await;
    client.write_all(&[b'u'; 100_000]).await.unwrap();
    proxy.terminate();
    assert_eq!(all(&mut client).await, b"");
    drop(client);
    let mut rest = Vec::new();
    let _ = within(theirs.read_to_end(&mut rest)).await;
    assert_eq!(proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn without_a_server_clients_are_closed_in_order_and_the_log_says_so_once() {
    let proxy = Proxy::start(&["--backend", &nobody().await, "--backend", &nobody().await]).await;
    for _ in 0..3 {
        let mut client = proxy.client().await;
        client.write_all(&[b'u'; 100_000]).await.unwrap();
        assert_eq!(all(&mut client).await, b"");
    }
    let line = proxy.line("no backend takes a connection, the client's is closed").await;
    assert_eq!(line["tried"], 2);
    proxy.terminate();
    proxy.line("stopped").await;
    assert_eq!(proxy.said("no backend takes a connection, the client's is closed").len(), 1);
}

#[tokio::test]
async fn an_unhealthy_server_gets_nothing() {
    let (mut well, mut ill) =
        (Server::start().await, Server::with_health("127.0.0.1:0", "503 Service Unavailable").await);
    let proxy = Proxy::servers(&[&ill, &well]).await;
    let line = proxy.line("backend is down").await;
    assert_eq!(line["reason"], "health check: status 503");
    assert!(line["backend"].as_str().unwrap().ends_with(&ill.address));
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push((proxy.client().await, well.connection().await));
    }
    assert!(ill.connections.try_recv().is_err());
}

#[tokio::test]
async fn no_more_connections_than_allowed() {
    let mut server = Server::start().await;
    let proxy = Proxy::start(&["--max-connections", "1", "--backend", &server.address]).await;
    let first = proxy.client().await;
    let theirs = server.connection().await;
    let mut second = proxy.client().await;
    server.more_checks(2).await;
    assert!(server.connections.try_recv().is_err(), "the second has to wait");
    drop((first, theirs));
    let mut theirs = server.connection().await;
    talk(&mut second, &mut theirs).await;
}

#[tokio::test]
async fn both_address_families() {
    let mut server = Server::with_health("[::1]:0", "200 OK").await;
    let proxy = Proxy::listening("[::1]:0", &["--listen", "127.0.0.1:0", "--backend", &server.address]).await;
    let mut client = proxy.client().await;
    let mut theirs = server.connection().await;
    talk(&mut client, &mut theirs).await;
    proxy.line("backend is up").await;
}

#[tokio::test]
async fn health_is_asked_for_over_tls_and_clients_tls_is_passed_through() {
    let registry = Registry::start(&Setup::with_tls());
    let proxy = Proxy::start(&["--backend-tls", "--backend", registry.address()]).await;
    let line = proxy.line("backend is up").await;
    assert_eq!(line["backend"], format!("https://{}", registry.address()));
    let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
    let answer = within(client.get(format!("https://{}/v2/", proxy.address)).send()).await.unwrap();
    assert_eq!(answer.status(), 200);
    // The same server asked in plain HTTP is not well.
    let plain = Proxy::start(&["--backend", &format!("http://{}", registry.address())]).await;
    plain.line("backend is down").await;
}

#[tokio::test]
async fn exit_codes() {
    let code = |arguments: &[&str]| command(arguments).output().unwrap().status.code();
    assert_eq!(code(&["--listen", "127.0.0.1:0"]), Some(2));
    assert_eq!(code(&["--backend", "a:1", "--backends-file", "b"]), Some(2));
    assert_eq!(code(&["--backend", "no-port"]), Some(2));
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("backends");
    let from_file = ["--listen", "127.0.0.1:0", "--backends-file", file.to_str().unwrap()];
    assert_eq!(code(&from_file), Some(2), "no file");
    std::fs::write(&file, "# nobody\n").unwrap();
    assert_eq!(code(&from_file), Some(2), "an empty list");
    // An address for documentation (RFC 5737), of no machine.
    assert_eq!(code(&["--listen", "192.0.2.1:5001", "--backend", "127.0.0.1:1"]), Some(1));
}
