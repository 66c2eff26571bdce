//! What somebody can do who never signs in: keep nobody out, and fill no memory.

use std::time::Duration;

use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Raw, Registry, Setup, within};

/// Basic of `ro` with its password.
const RO: &str = "Authorization: Basic cm86c2VjcmV0\r\n";

fn with_tls() -> Setup {
    let mut setup = Setup::with_tls();
    setup.users = true;
    setup
}

/// The server's anonymous memory in MiB.
fn memory(registry: &Registry) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", registry.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

async fn connect(address: &str) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// A GET of `/v2/` on a connection that goes on; its status.
async fn ask(stream: &mut TcpStream, headers: &str) -> u16 {
    within(async {
        stream.write_all(format!("GET /v2/ HTTP/1.1\r\nHost: h\r\n{headers}\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Both answers to it, the one refused too, are short and end like this.
        while !answer.ends_with(b"}") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "closed");
        }
        std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap()
    })
    .await
}

/// Waits until the server has closed the connection.
async fn closed(mut stream: TcpStream) {
    let mut said = Vec::new();
    // A reset is an end too.
    let _ = within(stream.read_to_end(&mut said)).await;
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    for setup in [Setup::with_users(), with_tls()] {
        let registry = Registry::start(&setup.config("limits: { connections: 20 }"));
        let mut silent = Vec::new();
        for _ in 0..30 {
            silent.push(connect(registry.address()).await);
        }
        assert_eq!(within(registry.client_as("ro").get("/v2/")).await.status(), 200);
        for stream in silent.drain(..10) {
            closed(stream).await;
        }
        registry.stop();
    }
}

/// As many nodes behind one address as a gateway has, and somebody among them who opens all connections there are.
#[tokio::test]
async fn nodes_that_signed_in_keep_their_connections() {
    let registry = Registry::start(&Setup::with_users().config("limits: { connections: 100 }"));
    let mut nodes = Vec::new();
    for _ in 0..80 {
        let mut node = connect(registry.address()).await;
        assert_eq!(ask(&mut node, RO).await, 200);
        nodes.push(node);
    }
    let mut others = Vec::new();
    for _ in 0..150 {
        let mut other = connect(registry.address()).await;
        assert_eq!(ask(&mut other, "").await, 401);
        others.push(other);
    }
    for node in &mut nodes {
        assert_eq!(ask(node, "").await, 401, "the same connection");
        assert_eq!(ask(node, RO).await, 200);
    }
    registry.stop();
}

#[tokio::test]
async fn a_token_that_is_shown_is_a_sign_in_and_one_that_is_got_too() {
    let registry = Registry::start(&Setup::with_users().config("limits: { connections: 3 }"));
    let answer: serde_json::Value = registry.client_as("ro").get("/auth/token").await.json().await.unwrap();
    let bearer = format!("Authorization: Bearer {}\r\n", answer["token"].as_str().unwrap());
    let mut shown = connect(registry.address()).await;
    assert_eq!(ask(&mut shown, &bearer).await, 200);
    let mut got = connect(registry.address()).await;
    let form = "grant_type=password&service=x&username=ro&password=secret";
    let head = "POST /auth/token HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\n";
    got.write_all(format!("{head}Content-Length: {}\r\n\r\n{form}", form.len()).as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        assert!(within(got.read_buf(&mut answer)).await.unwrap() > 0);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    for _ in 0..6 {
        assert_eq!(ask(&mut connect(registry.address()).await, "").await, 401);
    }
    assert_eq!((ask(&mut shown, &bearer).await, ask(&mut got, RO).await), (200, 200));
    registry.stop();
}

#[tokio::test]
async fn a_form_has_8_kib_and_10_seconds() {
    let registry = Registry::start(&Setup::with_users());
    let client = registry.client();
    let form = |padding: usize| {
        let form = format!("username=ro&password=secret&x={}", "x".repeat(padding));
        let request = client.request(Method::POST, "/auth/token");
        request.header("content-type", "application/x-www-form-urlencoded").body(form)
    };
    assert_eq!(form(8000).send().await.unwrap().status(), 200);
    assert_eq!(form(8192).send().await.unwrap().status(), 413);
    let head = "POST /auth/token HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\n";
    // Without a length; each piece is one byte.
    let mut chunked = connect(registry.address()).await;
    let pieces = "1\r\nx\r\n".repeat(8193);
    chunked.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n{pieces}").as_bytes()).await.unwrap();
    // Bytes come all the time, and never the last.
    let slow = connect(registry.address()).await;
    let (mut slow, mut sender) = slow.into_split();
    sender.write_all(format!("{head}Content-Length: 8000\r\n\r\nusername=ro").as_bytes()).await.unwrap();
    let drip = tokio::spawn(async move {
        while sender.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut status = [0; 12];
    within(chunked.read_exact(&mut status)).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 413");
    within(slow.read_exact(&mut status)).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 408");
    drip.abort();
    registry.stop();
}

/// Each of the connections could hold some MiB.
#[tokio::test]
async fn forms_and_heads_on_http2_fill_no_memory() {
    const CONNECTIONS: usize = 12;
    const STREAMS: usize = 150;
    const HEADERS: usize = 14;
    let registry = Registry::start(&with_tls());
    assert_eq!(registry.client_as("ro").get("/v2/").await.status(), 200);
    registry.until_metric("d8_registry_index_state{state=\"ready\"}", 1.0).await;
    let before = memory(&registry);
    let mut ends = tokio::task::JoinSet::new();
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = registry.client();
        // A connection that is there carries them all; without one each would open its own.
        assert_eq!(client.get("/v2/").await.status(), 401);
        clients.push(client);
    }
    for client in clients {
        for _ in 0..STREAMS {
            let mut request = client.request(Method::POST, "/auth/token");
            for n in 0..HEADERS {
                request = request.header(format!("x-{n}"), "v".repeat(4000));
            }
            // It begins and does not go on.
            let begun = futures_util::stream::once(async { Ok::<_, std::io::Error>("username=ro") });
            let body = futures_util::StreamExt::chain(begun, futures_util::stream::pending());
            let request = request.header("content-type", "application/x-www-form-urlencoded");
            ends.spawn(request.body(reqwest::Body::wrap_stream(body)).send());
        }
    }
    let (mut most, mut looks) = (0, 0);
    while within(ends.join_next()).await.is_some() {
        most = most.max(memory(&registry));
        looks += 1;
    }
    assert_eq!(looks, CONNECTIONS * STREAMS);
    let all = CONNECTIONS * STREAMS * HEADERS * 4000 / (1 << 20);
    assert!(most - before < 32, "{} MiB of {all}", most - before);
    assert_eq!(registry.client_as("ro").get("/v2/").await.status(), 200);
    registry.stop();
}

#[tokio::test]
async fn the_admin_listener_is_not_filled_either() {
    let registry = Registry::start(&Setup::with_users());
    let mut silent = Vec::new();
    for n in 0..80 {
        let mut stream = connect(registry.admin_address()).await;
        if n % 2 == 0 {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost").await.unwrap();
        }
        silent.push(stream);
    }
    assert_eq!(within(registry.admin().get("/healthz")).await.status(), 200);
    for stream in silent.drain(..10) {
        closed(stream).await;
    }
    registry.stop();
}

#[tokio::test]
async fn probes_have_a_listener_of_their_own() {
    let registry = Registry::start(&Setup::with_users().config("probeListen: 127.0.0.1:0\nlimits: { connections: 2 }"));
    let address = registry.probe_address();
    // All places of the others are taken by those who may stay.
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let mut node = connect(registry.address()).await;
        assert_eq!(ask(&mut node, RO).await, 200);
        nodes.push(node);
    }
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(connect(address).await);
    }
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/metrics", 404), ("/status", 404), ("/v2/", 404)] {
        assert_eq!(Raw::get(address, path, "").await.status(), status, "{path}");
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (method, status) in [(Method::HEAD, 200), (Method::POST, 405), (Method::PUT, 405), (Method::DELETE, 405)] {
        for path in ["healthz", "readyz"] {
            let answer = client.request(method.clone(), format!("http://{address}/{path}")).send();
            assert_eq!(within(answer).await.unwrap().status(), status, "{method} {path}");
        }
    }
    registry.stop();
}
