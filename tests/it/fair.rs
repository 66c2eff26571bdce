//! Nobody takes what others need: limits are shared fairly between users and addresses.

use std::net::{Ipv4Addr, SocketAddr};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Image, Registry, Setup, blob, digest, within};

/// More than what sockets hold.
const LARGE: usize = 24 << 20;

/// Asks from an address of its own and reads the status line, no more.
async fn ask(registry: &Registry, from: u8, path: &str) -> (TcpStream, u16) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, from), 0))).unwrap();
    within(async {
        let mut stream = socket.connect(registry.address().parse().unwrap()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut line = [0; 12];
        stream.read_exact(&mut line).await.unwrap();
        let status = String::from_utf8_lossy(&line[9..]).parse().unwrap();
        (stream, status)
    })
    .await
}

#[tokio::test]
async fn who_holds_all_places_keeps_nobody_else_out_of_pulls_and_lists() {
    let registry = Registry::start(&Setup::open().config("limits: { pulls: 2, listings: 1, queueWait: 1s }"));
    let client = registry.client();
    let large = blob(1, LARGE);
    let layer = client.push_blob("a", &large).await;
    let image = Image::of(1);
    client.push_image("a", "v1", &image).await;
    let small = format!("/v2/a/blobs/{}", digest(&blob(2, 100 << 10)));
    client.push_blob("a", &blob(2, 100 << 10)).await;
    let path = format!("/v2/a/blobs/{layer}");
    let held = join_all((0..2).map(|_| ask(&registry, 2, &path))).await;
    assert!(held.iter().all(|(_, status)| *status == 200));
    assert_eq!(ask(&registry, 2, &path).await.1, 503, "it has all places, and nobody else wants one");
    for from in 3..8 {
        let (stream, status) = ask(&registry, from, &path).await;
        assert_eq!(status, 200, "another address");
        drop(stream);
    }
    // What is little is not kept back by downloads, not even one's own.
    assert_eq!(ask(&registry, 2, "/v2/a/manifests/v1").await.1, 200);
    assert_eq!(ask(&registry, 2, &format!("/v2/a/manifests/{}", image.digest())).await.1, 200);
    assert_eq!(ask(&registry, 2, &small).await.1, 200);
    drop(held);
    within(async {
        // The server notices that they are gone when it writes.
        while ask(&registry, 2, &path).await.1 != 200 {}
    })
    .await;
    registry.stop();
}

#[tokio::test]
async fn many_nodes_of_one_user_are_all_served() {
    // Limits, nodes and pulls of a cluster, all by 64.
    let registry = Registry::start(&Setup::with_users().config("limits: { pulls: 8 }"));
    let pusher = registry.client_as("rw");
    let content = blob(3, 1 << 20);
    let path = format!("/v2/a/blobs/{}", pusher.push_blob("a", &content).await);
    let nodes = (1..9_u8).map(|node| {
        let (registry, path, content) = (&registry, &path, &content);
        async move {
            let address = Ipv4Addr::new(127, 0, 1, node);
            let client = reqwest::Client::builder().local_address(Some(address.into())).no_proxy().build().unwrap();
            for _ in 0..10 {
                let pulls = (0..4).map(|_| async {
                    let url = format!("http://{}{path}", registry.address());
                    let answer = client.get(url).basic_auth("ro", Some("secret")).send().await.unwrap();
                    let status = answer.status();
                    let bytes = answer.bytes().await.unwrap();
                    assert!(status == 200 && bytes == *content, "{status}: {:.500}", String::from_utf8_lossy(&bytes));
                });
                join_all(pulls).await;
            }
        }
    });
    join_all(nodes).await;
    registry.stop();
}

#[tokio::test]
async fn uploads_that_are_begun_and_left_are_bounded_and_leave_room_for_others() {
    let registry = Registry::start(&Setup::with_users());
    let (greedy, other) = (registry.client_as("rw"), registry.client_as("mirror-pusher"));
    let begin = |client: &crate::support::Client| client.request(reqwest::Method::POST, "/v2/a/blobs/uploads/").send();
    let before = registry.metric("d8_registry_store_used_bytes").await;
    let mut begun = 0.0;
    let refused = loop {
        let answer = begin(&greedy).await.unwrap();
        if answer.status() != 202 {
            break answer;
        }
        begun += 1.0;
        assert!(begun <= 2048.0, "no end");
    };
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    assert!(registry.metric("d8_registry_store_uploads").await >= begun);
    assert!(registry.metric("d8_registry_store_used_bytes").await > before + begun * 4096.0);
    other.push_blob("a", b"another user's").await;
    registry.stop();
}
