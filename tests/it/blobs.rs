//! Reading, mounting and deleting blobs: each test once for every way in which files reach a connection.

use std::path::PathBuf;

use reqwest::{Method, StatusCode};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Registry, Setup, blob, digest, header};

/// Each law holds whatever `limits.acceleration` says.
macro_rules! for_each_acceleration {
    ($($law:ident),+ $(,)?) => {
        mod sendfile {
            $(#[tokio::test]
            async fn $law() {
                super::$law("sendfile").await;
            })+
        }
        /// Over TLS files are read into buffers, and over HTTP/2 sent in frames. The client's connection has to answer while the test
        /// waits for the server's end.
        mod tls {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn $law() {
                super::$law("tls").await;
            })+
        }
        mod off {
            $(#[tokio::test]
            async fn $law() {
                super::$law("off").await;
            })+
        }
    };
}

for_each_acceleration!(
    a_blob_is_read_as_it_was_pushed,
    ranges_give_the_slice,
    nothing_but_lists_is_ever_encoded,
    a_digest_is_served_only_where_it_belongs,
    a_mount_makes_a_blob_of_one_repository_one_of_another,
    a_deleted_blob_is_gone_here_and_stays_elsewhere,
    a_reader_keeps_what_is_deleted_under_it,
    sha512_content_has_its_own_name,
    a_blob_that_is_not_in_memory_is_read_from_the_disk,
    many_answers_on_one_connection_are_kept_apart,
    a_file_that_is_cut_ends_the_answers_that_read_it_and_nothing_else,
);

fn start(acceleration: &str) -> Registry {
    match acceleration {
        "tls" => Registry::start(&Setup::with_tls()),
        way => Registry::start(&Setup::open().config(&format!("limits: {{ acceleration: {way} }}"))),
    }
}

/// The file that holds a blob.
fn stored(registry: &Registry, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    registry.data().join("blobs/sha256").join(&hex[..2]).join(hex)
}

async fn a_file_that_is_cut_ends_the_answers_that_read_it_and_nothing_else(acceleration: &str) {
    // More than sockets and windows hold.
    const LENGTH: usize = 24 << 20;
    let registry = start(acceleration);
    let client = registry.client();
    let (cut, whole) = (client.push_blob("a", &blob(1, LENGTH)).await, blob(2, LENGTH));
    let other = client.push_blob("a", &whole).await;
    let mut reading = client.get(&format!("/v2/a/blobs/{cut}")).await;
    // Over HTTP/2 on the same connection.
    let beside = client.get(&format!("/v2/a/blobs/{other}")).await;
    assert_eq!((reading.status(), beside.status()), (StatusCode::OK, StatusCode::OK));
    std::fs::OpenOptions::new().write(true).open(stored(&registry, &cut)).unwrap().set_len(4096).unwrap();
    let mut came = 0;
    let broken = loop {
        match reading.chunk().await {
            Ok(Some(chunk)) => came += chunk.len(),
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(broken && came < LENGTH, "{came} bytes came, broken: {broken}");
    assert!(beside.bytes().await.unwrap() == whole);
    registry.stop();
}

async fn a_blob_that_is_not_in_memory_is_read_from_the_disk(acceleration: &str) {
    let registry = start(acceleration);
    let client = registry.client();
    let content = blob(9, 5_000_000);
    let digest = client.push_blob("a", &content).await;
    let stored = std::fs::File::open(stored(&registry, &digest)).unwrap();
    rustix::fs::fadvise(&stored, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let read = client.get(&format!("/v2/a/blobs/{digest}")).await.bytes().await.unwrap();
    assert_eq!(read, content);
    registry.stop();
}

async fn many_answers_on_one_connection_are_kept_apart(acceleration: &str) {
    if acceleration == "tls" {
        // HTTP/1 by hand; over TLS the other laws share connections too.
        return;
    }
    let registry = start(acceleration);
    let client = registry.client();
    let contents: Vec<_> = [40_000, 1_100_000, 10, 33_000].map(|len| blob(len as u64, len)).into();
    let mut digests = Vec::new();
    for content in &contents {
        digests.push(client.push_blob("a", content).await);
    }
    let mut stream = tokio::net::TcpStream::connect(registry.address()).await.unwrap();
    let requests: String =
        digests.iter().map(|digest| format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: r\r\n\r\n")).collect();
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut reader = tokio::io::BufReader::new(stream);
    for content in &contents {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).await.unwrap();
        }
        let mut body = vec![0; content.len()];
        reader.read_exact(&mut body).await.unwrap();
        assert!(body == *content, "a body of {} bytes", content.len());
    }
    registry.stop();
}

async fn a_blob_is_read_as_it_was_pushed(acceleration: &str) {
    let registry = start(acceleration);
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

async fn ranges_give_the_slice(acceleration: &str) {
    let registry = start(acceleration);
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
    for range in ["bytes=700000-", "bytes=500-0"] {
        let response = client.request(Method::GET, &path).header("range", range).send().await.unwrap();
        assert_eq!((response.status().as_u16(), header(&response, "content-range")), (416, "bytes */700000".into()));
    }
    let several = client.request(Method::GET, &path).header("range", "bytes=0-1,5-6");
    let outdated = several.try_clone().unwrap().header("if-range", "\"x\"").send().await.unwrap();
    assert_eq!((outdated.status().as_u16(), outdated.bytes().await.unwrap().len()), (200, 700_000));
    let response = several.send().await.unwrap();
    assert_eq!(response.status(), 206);
    let found = parts(&header(&response, "content-type"), &response.bytes().await.unwrap());
    let expected = [(0, 2), (5, 7)]
        .map(|(start, end)| (format!("bytes {start}-{}/700000", end - 1), content[start..end].to_vec()));
    assert_eq!(found, expected);
    let response =
        client.request(Method::GET, &path).header("if-none-match", format!("\"{digest}\"")).send().await.unwrap();
    assert_eq!(response.status(), 304);
    registry.stop();
}

async fn nothing_but_lists_is_ever_encoded(acceleration: &str) {
    let registry = start(acceleration);
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

async fn a_digest_is_served_only_where_it_belongs(acceleration: &str) {
    let registry = start(acceleration);
    let client = registry.client();
    let digest = client.push_blob("a", b"mine").await;
    assert_eq!(client.get(&format!("/v2/b/blobs/{digest}")).await.status(), 404);
    // A manifest is no blob of its repository, and a blob no manifest.
    assert_eq!(client.get(&format!("/v2/a/manifests/{digest}")).await.status(), 404);
    registry.stop();
}

async fn a_mount_makes_a_blob_of_one_repository_one_of_another(acceleration: &str) {
    let registry = start(acceleration);
    let client = registry.client();
    let digest = client.push_blob("a", b"mine").await;
    let mount = |query: String| client.request(Method::POST, &format!("/v2/b/blobs/uploads/?{query}")).send();
    let missing = digest_of_nothing_stored();
    for (query, status) in [
        (format!("mount={missing}&from=a"), 202),
        (format!("mount={missing}"), 202),
        (format!("mount={digest}&from=nowhere"), 202),
        (format!("mount={digest}&from=../a"), 202),
        ("mount=sha256:00&from=a".to_owned(), 202),
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

async fn a_deleted_blob_is_gone_here_and_stays_elsewhere(acceleration: &str) {
    let registry = start(acceleration);
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

async fn a_reader_keeps_what_is_deleted_under_it(acceleration: &str) {
    let registry = start(acceleration);
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

async fn sha512_content_has_its_own_name(acceleration: &str) {
    let registry = start(acceleration);
    let client = registry.client();
    let digest = d8_registry::oci::Algorithm::Sha512.digest(b"long").to_string();
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    assert_eq!(client.request(Method::POST, &path).body("long").send().await.unwrap().status(), 201);
    let response = client.get(&format!("/v2/a/blobs/{digest}")).await;
    assert_eq!(header(&response, "docker-content-digest"), digest);
    assert_eq!(response.bytes().await.unwrap(), "long");
    registry.stop();
}

/// The parts of a `multipart/byteranges` body: what Content-Range says, and the bytes.
fn parts(content_type: &str, body: &[u8]) -> Vec<(String, Vec<u8>)> {
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut rest = body.strip_prefix(format!("--{boundary}\r\n").as_bytes()).unwrap();
    let delimiter = format!("\r\n--{boundary}");
    let find = |text: &[u8], wanted: &[u8]| text.windows(wanted.len()).position(|window| window == wanted).unwrap();
    let mut parts = Vec::new();
    loop {
        let head = find(rest, b"\r\n\r\n");
        let text = std::str::from_utf8(&rest[..head]).unwrap();
        let range = text.lines().find_map(|line| line.strip_prefix("Content-Range: ")).unwrap().to_owned();
        assert!(text.contains("Content-Type: application/octet-stream"), "{text}");
        rest = &rest[head + 4..];
        let end = find(rest, delimiter.as_bytes());
        parts.push((range, rest[..end].to_vec()));
        rest = &rest[end + delimiter.len()..];
        match rest.strip_prefix(b"\r\n".as_slice()) {
            Some(more) => rest = more,
            None => {
                assert_eq!(rest, b"--\r\n");
                return parts;
            }
        }
    }
}

#[tokio::test]
async fn several_ranges_come_in_one_answer_on_every_way_out() {
    let ways = [Setup::open(), Setup::open().config("limits: { acceleration: off }"), Setup::with_tls()];
    for setup in ways {
        let registry = Registry::start(&setup);
        let client = registry.client();
        for length in [5_000_usize, 9_000_000] {
            let content = blob(length as u64, length);
            let path = format!("/v2/a/blobs/{}", client.push_blob("a", &content).await);
            let ask = |range: String| client.request(Method::GET, &path).header("range", range).send();
            let half = length / 2;
            let asked = [(half, length - 10), (0, 0), (10, 20), (21, 30)];
            let list: Vec<String> = asked.iter().map(|(first, last)| format!("{first}-{last}")).collect();
            for _ in 0..2 {
                let answer = ask(format!("bytes={},-5,99999999-", list.join(", "))).await.unwrap();
                assert_eq!(answer.status(), 206);
                assert!(!answer.headers().contains_key("content-range"));
                let (announced, content_type) = (header(&answer, "content-length"), header(&answer, "content-type"));
                let body = answer.bytes().await.unwrap();
                assert_eq!(announced, body.len().to_string());
                let found = parts(&content_type, &body);
                let expected = asked.iter().copied().chain([(length - 5, length - 1)]);
                let expected: Vec<_> = expected
                    .map(|(first, last)| (format!("bytes {first}-{last}/{length}"), content[first..=last].to_vec()))
                    .collect();
                assert!(found == expected, "{:?}", found.iter().map(|(range, _)| range).collect::<Vec<_>>());
            }
            // One range is left: an ordinary part.
            let answer = ask("bytes=0-9,5-19".into()).await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), header(&answer, "content-range")),
                (206, format!("bytes 0-19/{length}"))
            );
            assert!(answer.bytes().await.unwrap() == content[..20]);
            assert_eq!(ask("bytes=99999999-,88888888-".into()).await.unwrap().status(), 416);
            // More than are read at once, and more headers than bytes: the whole.
            let many: Vec<String> = (0..1025).map(|at| format!("{}-{}", at * 4, at * 4)).collect();
            let answer = ask(format!("bytes={}", many.join(","))).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert!(answer.bytes().await.unwrap() == content);
        }
        registry.stop();
    }
}
