//! Pushing blobs in every way that clients use.

use reqwest::Method;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::{Client, Registry, Setup, blob, digest, header, refusal, within};

async fn patch(client: &Client, location: &str, range: Option<&str>, body: &[u8]) -> reqwest::Response {
    let mut request = client.request(Method::PATCH, location).body(body.to_vec());
    if let Some(range) = range {
        request = request.header("content-range", range);
    }
    request.send().await.unwrap()
}

async fn put(client: &Client, location: &str, digest: &str, body: &[u8]) -> reqwest::Response {
    client.request(Method::PUT, &format!("{location}?digest={digest}")).body(body.to_vec()).send().await.unwrap()
}

#[tokio::test]
async fn a_post_then_a_put() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let content = blob(1, 300_000);
    let location = client.begin("a/b").await;
    assert!(location.starts_with("/v2/a/b/blobs/uploads/") && !location.contains('?'), "{location}");
    let response = put(&client, &location, &digest(&content), &content).await;
    assert_eq!(response.status(), 201);
    assert_eq!(header(&response, "location"), format!("/v2/a/b/blobs/{}", digest(&content)));
    // The answer was lost and the client asks again.
    assert_eq!(put(&client, &location, &digest(&content), b"").await.status(), 201);
    registry.stop();
}

#[tokio::test]
async fn chunks_follow_one_another_and_nothing_else() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let content = blob(2, 3000);
    let location = client.begin("a").await;
    let first = patch(&client, &location, Some("0-999"), &content[..1000]).await;
    assert_eq!((first.status().as_u16(), header(&first, "range")), (202, "0-999".into()));
    assert_eq!(header(&first, "docker-upload-uuid"), location.rsplit('/').next().unwrap());
    for (range, body) in
        [("0-999", &content[..1000]), ("1001-1999", &content[1001..2000]), ("500-1499", &content[500..1500])]
    {
        let refused = patch(&client, &location, Some(range), body).await;
        assert_eq!((refused.status().as_u16(), header(&refused, "range")), (416, "0-999".into()), "{range}");
        assert_eq!(header(&refused, "location"), location);
    }
    for range in ["1000-", "x", "1999-1000"] {
        assert_eq!(patch(&client, &location, Some(range), &content[1000..2000]).await.status(), 400, "{range}");
    }
    assert_eq!(patch(&client, &location, Some("1000-1500"), &content[1000..2000]).await.status(), 400);
    let status = client.get(&location).await;
    assert_eq!((status.status().as_u16(), header(&status, "range")), (204, "0-999".into()));
    assert_eq!(patch(&client, &location, Some("1000-1999"), &content[1000..2000]).await.status(), 202);
    let out_of_order = client
        .request(Method::PUT, &format!("{location}?digest={}", digest(&content)))
        .header("content-range", "0-999")
        .body(content[2000..].to_vec());
    assert_eq!(out_of_order.send().await.unwrap().status(), 416);
    assert_eq!(put(&client, &location, &digest(&content), &content[2000..]).await.status(), 201);
    let stored = client.get(&format!("/v2/a/blobs/{}", digest(&content))).await;
    assert_eq!(stored.bytes().await.unwrap(), content);
    registry.stop();
}

#[tokio::test]
async fn a_wrong_digest_is_refused_and_leaves_nothing() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let location = client.begin("a").await;
    let response = put(&client, &location, &digest(b"other"), b"content").await;
    assert_eq!(response.status(), 400);
    assert!(response.text().await.unwrap().contains("DIGEST_INVALID"));
    assert_eq!(client.get(&format!("/v2/a/blobs/{}", digest(b"other"))).await.status(), 404);
    assert_eq!(client.get(&format!("/v2/a/blobs/{}", digest(b"content"))).await.status(), 404);
    for bad in ["", "sha256:zz", "md5:d41d8cd98f00b204e9800998ecf8427e", "x"] {
        let location = client.begin("a").await;
        assert_eq!(put(&client, &location, bad, b"content").await.status(), 400, "{bad}");
        assert_eq!(client.delete(&location).await.status(), 204);
    }
    let post =
        client.request(Method::POST, &format!("/v2/a/blobs/uploads/?digest={}", digest(b"other"))).body("content");
    assert_eq!(post.send().await.unwrap().status(), 400);
    assert_eq!(std::fs::read_dir(registry.data().join("uploads")).unwrap().count(), 0);
    registry.stop();
}

#[tokio::test]
async fn a_cancelled_upload_is_gone() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let location = client.begin("a").await;
    assert_eq!(patch(&client, &location, None, b"abc").await.status(), 202);
    assert_eq!(client.delete(&location).await.status(), 204);
    assert_eq!(client.delete(&location).await.status(), 404);
    assert_eq!(client.get(&location).await.status(), 404);
    assert_eq!(patch(&client, &location, None, b"abc").await.status(), 404);
    assert_eq!(put(&client, &location, &digest(b"abc"), b"").await.status(), 404);
    registry.stop();
}

#[tokio::test]
async fn an_upload_belongs_to_its_repository() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let elsewhere = client.begin("a").await.replace("/v2/a/", "/v2/b/");
    assert_eq!(client.get(&elsewhere).await.status(), 404);
    assert_eq!(put(&client, &elsewhere, &digest(b"abc"), b"abc").await.status(), 404);
    registry.stop();
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart_and_after_a_kill() {
    for kill in [false, true] {
        let registry = Registry::start(&Setup::open());
        let client = registry.client();
        let content = blob(4, 1_500_000);
        let location = client.begin("a").await;
        assert_eq!(patch(&client, &location, None, &content[..700_000]).await.status(), 202);
        let folder = registry.folder();
        if kill {
            registry.kill();
        } else {
            registry.stop();
        }
        let registry = Registry::start_in(folder, &Setup::open());
        let client = registry.client();
        let status = client.get(&location).await;
        assert_eq!((status.status().as_u16(), header(&status, "range")), (204, "0-699999".into()));
        assert_eq!(put(&client, &location, &digest(&content), &content[700_000..]).await.status(), 201);
        let stored = client.get(&format!("/v2/a/blobs/{}", digest(&content))).await;
        assert!(stored.bytes().await.unwrap() == content);
        registry.stop();
    }
}

#[tokio::test]
async fn many_clients_push_the_same_blob_at_once() {
    let registry = Registry::start(&Setup::open());
    let content = blob(5, 2_000_000);
    let pushes = (0..8).map(|_| {
        let (client, content) = (registry.client(), content.clone());
        tokio::spawn(async move {
            let location = client.begin("a").await;
            assert_eq!(patch(&client, &location, None, &content).await.status(), 202);
            assert_eq!(put(&client, &location, &digest(&content), b"").await.status(), 201);
        })
    });
    for push in pushes.collect::<Vec<_>>() {
        push.await.unwrap();
    }
    let stored = registry.client().get(&format!("/v2/a/blobs/{}", digest(&content))).await;
    assert!(stored.bytes().await.unwrap() == content);
    assert_eq!(std::fs::read_dir(registry.data().join("uploads")).unwrap().count(), 0);
    registry.stop();
}

#[tokio::test]
async fn the_digest_algorithm_can_be_told_beforehand() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let post = |algorithm: &str| {
        client.request(Method::POST, &format!("/v2/a/blobs/uploads/?digest-algorithm={algorithm}")).send()
    };
    assert_eq!(post("md5").await.unwrap().status(), 400);
    let response = post("sha512").await.unwrap();
    assert_eq!(response.status(), 202);
    let location = header(&response, "location");
    let digest = d8_registry::oci::Algorithm::Sha512.digest(b"abc").to_string();
    assert_eq!(patch(&client, &location, None, b"abc").await.status(), 202);
    assert_eq!(put(&client, &location, &digest, b"").await.status(), 201);
    // A final digest of another algorithm than told is still checked against the content.
    let location = client.begin("a").await;
    assert_eq!(patch(&client, &location, None, b"abc").await.status(), 202);
    assert_eq!(put(&client, &location, &digest, b"").await.status(), 201);
    registry.stop();
}

#[tokio::test]
async fn a_full_store_refuses_writes_and_serves_reads() {
    let setup = Setup::open().config("store: { dir: $DIR, reserveBytes: 0, maxBytes: 3000000 }");
    let registry = Registry::start(&setup);
    let client = registry.client();
    let first = client.push_blob("a", &blob(1, 1_000_000)).await;
    let second = blob(2, 4_000_000);
    let response = client
        .request(Method::POST, &format!("/v2/a/blobs/uploads/?digest={}", digest(&second)))
        .body(second.clone())
        .send()
        .await
        .unwrap();
    let refused = refusal(response).await;
    assert_eq!((refused.status, refused.code.as_str()), (507, "INSUFFICIENT_STORAGE"));
    for word in ["4000000 bytes", "left of the store's 3000000 bytes", "store.maxBytes"] {
        assert!(refused.message.contains(word), "{refused:?}");
    }
    assert_eq!(refused.detail["reason"], "BudgetExhausted");
    assert!(refused.detail.as_object().unwrap().values().all(serde_json::Value::is_string), "{refused:?}");
    // What is small still fits: the counter tells what the gauge does not.
    assert!(registry.metric("d8_registry_store_writable").await > 0.0);
    assert!(registry.metric("d8_registry_pushes_refused_total{reason=\"budget\"}").await > 0.0);
    let location = client.begin("a").await;
    assert_eq!(patch(&client, &location, None, &second).await.status(), 507);
    assert_eq!(client.delete(&location).await.status(), 204);
    assert_eq!(client.get(&format!("/v2/a/blobs/{first}")).await.status(), 200);
    // What was refused is not counted: there is room for as much as before.
    client.push_blob("a", &blob(3, 1_000_000)).await;
    registry.stop();
}

#[tokio::test]
async fn a_body_in_very_small_chunks_does_not_gather_in_memory() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let location = client.begin("a").await;
    let mut stream = TcpStream::connect(registry.address()).await.unwrap();
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // Each keeps a part of the connection's buffer for itself. The body does not end, so nothing else has them stored.
    stream.write_all("1\r\nx\r\n".repeat(300).as_bytes()).await.unwrap();
    within(async { while header(&client.get(&location).await, "range") == "0-0" {} }).await;
    drop(stream);
    registry.stop();
}
