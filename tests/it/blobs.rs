//! Reading, mounting and deleting blobs.

use reqwest::Method;

use crate::support::{Registry, Setup, blob, digest, header};

#[tokio::test]
async fn a_blob_is_read_as_it_was_pushed() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    for len in [0, 1, 4096, 262_144, 262_145, 1_000_000] {
        let content = blob(len as u64, len);
        let digest = client.push_blob("a/b", &content).await;
        let path = format!("/v2/a/b/blobs/{digest}");
        let head = client.head(&path).await;
        assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, len.to_string()));
        let get = client.get(&path).await;
        assert_eq!(header(&get, "docker-content-digest"), digest);
        assert_eq!(header(&get, "docker-distribution-api-version"), "registry/2.0");
        assert_eq!(header(&get, "etag"), format!("\"{digest}\""));
        assert_eq!(header(&get, "accept-ranges"), "bytes");
        assert_eq!(get.bytes().await.unwrap(), content);
    }
    registry.stop();
}

#[tokio::test]
async fn ranges_give_the_slice() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let content = blob(1, 700_000);
    let digest = client.push_blob("a", &content).await;
    let path = format!("/v2/a/blobs/{digest}");
    for (range, start, end) in [
        ("bytes=0-", 0, 700_000),
        ("bytes=5-9", 5, 10),
        ("bytes=-7", 699_993, 700_000),
        ("bytes=600000-", 600_000, 700_000),
    ] {
        let response = client.request(Method::GET, &path).header("range", range).send().await.unwrap();
        assert_eq!(response.status(), 206, "{range}");
        assert_eq!(header(&response, "content-range"), format!("bytes {start}-{}/700000", end - 1));
        assert_eq!(response.bytes().await.unwrap(), content[start..end], "{range}");
    }
    let response = client.request(Method::GET, &path).header("range", "bytes=700000-").send().await.unwrap();
    assert_eq!((response.status().as_u16(), header(&response, "content-range")), (416, "bytes */700000".into()));
    let response = client.request(Method::GET, &path).header("range", "bytes=0-1,5-6").send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.bytes().await.unwrap().len()), (200, 700_000));
    let response =
        client.request(Method::GET, &path).header("if-none-match", format!("\"{digest}\"")).send().await.unwrap();
    assert_eq!(response.status(), 304);
    registry.stop();
}

#[tokio::test]
async fn nothing_but_lists_is_ever_encoded() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let digest = client.push_blob("a", &vec![0; 100_000]).await;
    let response = client
        .request(Method::GET, &format!("/v2/a/blobs/{digest}"))
        .header("accept-encoding", "zstd, gzip, deflate")
        .send()
        .await
        .unwrap();
    assert!(response.headers().get("content-encoding").is_none());
    assert_eq!(header(&response, "content-length"), "100000");
    registry.stop();
}

#[tokio::test]
async fn a_digest_is_served_only_where_it_belongs() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let digest = client.push_blob("a", b"mine").await;
    assert_eq!(client.get(&format!("/v2/b/blobs/{digest}")).await.status(), 404);
    // A manifest is no blob of its repository, and a blob no manifest.
    assert_eq!(client.get(&format!("/v2/a/manifests/{digest}")).await.status(), 404);
    registry.stop();
}

#[tokio::test]
async fn a_mount_makes_a_blob_of_one_repository_one_of_another() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let digest = client.push_blob("a", b"mine").await;
    let mount = |query: String| client.request(Method::POST, &format!("/v2/b/blobs/uploads/?{query}")).send();
    let missing = digest_of_nothing_stored();
    for (query, status) in [
        (format!("mount={missing}&from=a"), 202),
        (format!("mount={missing}"), 202),
        (format!("mount={digest}&from=nowhere"), 202),
        (format!("mount={digest}&from=../a"), 202),
        ("mount=sha256:00&from=a".to_owned(), 400),
        (format!("mount={digest}&from=a"), 201),
    ] {
        assert_eq!(mount(query.clone()).await.unwrap().status(), status, "{query}");
    }
    let response = client.get(&format!("/v2/b/blobs/{digest}")).await;
    assert_eq!(response.bytes().await.unwrap(), "mine");
    let anonymous = client.request(Method::POST, &format!("/v2/c/blobs/uploads/?mount={digest}")).send().await.unwrap();
    assert_eq!((anonymous.status().as_u16(), header(&anonymous, "location")), (201, format!("/v2/c/blobs/{digest}")));
    registry.stop();
}

fn digest_of_nothing_stored() -> String {
    digest(b"nobody pushed this")
}

#[tokio::test]
async fn a_deleted_blob_is_gone_here_and_stays_elsewhere() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let digest = client.push_blob("a", b"shared").await;
    client.push_blob("b", b"shared").await;
    let path = |repo: &str| format!("/v2/{repo}/blobs/{digest}");
    assert_eq!(client.delete(&path("a")).await.status(), 202);
    assert_eq!(client.delete(&path("a")).await.status(), 404);
    assert_eq!(client.get(&path("a")).await.status(), 404);
    assert_eq!(client.get(&path("b")).await.status(), 200);
    assert_eq!(client.delete(&path("b")).await.status(), 202);
    let hex = digest.strip_prefix("sha256:").unwrap();
    assert!(!registry.data().join("blobs/sha256").join(&hex[..2]).join(hex).exists(), "the bytes are still there");
    registry.stop();
}

#[tokio::test]
async fn a_reader_keeps_what_is_deleted_under_it() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let content = blob(3, 8 << 20);
    let digest = client.push_blob("a", &content).await;
    let mut response = client.get(&format!("/v2/a/blobs/{digest}")).await;
    let mut read = response.chunk().await.unwrap().unwrap().to_vec();
    assert_eq!(client.delete(&format!("/v2/a/blobs/{digest}")).await.status(), 202);
    while let Some(chunk) = response.chunk().await.unwrap() {
        read.extend_from_slice(&chunk);
    }
    assert!(read == content);
    registry.stop();
}

#[tokio::test]
async fn sha512_content_has_its_own_name() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let digest = d8_registry::oci::Algorithm::Sha512.digest(b"long").to_string();
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    assert_eq!(client.request(Method::POST, &path).body("long").send().await.unwrap().status(), 201);
    let response = client.get(&format!("/v2/a/blobs/{digest}")).await;
    assert_eq!(header(&response, "docker-content-digest"), digest);
    assert_eq!(response.bytes().await.unwrap(), "long");
    registry.stop();
}
