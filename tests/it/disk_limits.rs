//! What the system refuses beside room: a long file, an inode, a file descriptor, a membership. Each is called by its name,
//! and reads go on.

use reqwest::Method;
use serde_json::Value;

use crate::support::{
    ALIAS, Image, REPO, Raw, Registry, Setup, Upstream, blob, cache, digest, is_root, refusal, within,
};

const MIB: usize = 1 << 20;

fn here(rest: &str) -> String {
    format!("/v2/{ALIAS}/{rest}")
}

async fn push(registry: &Registry, content: &[u8]) -> reqwest::Response {
    let path = format!("/v2/a/blobs/uploads/?digest={}", digest(content));
    registry.client().request(Method::POST, &path).body(content.to_vec()).send().await.unwrap()
}

/// `ulimit -f` counts blocks of 512 bytes.
const FOUR_MIB_A_FILE: &str = "ulimit -f 8192";

#[tokio::test]
async fn a_file_beyond_the_limit_on_sizes_is_refused_and_ends_nothing() {
    let registry = Registry::start(&Setup::open().before(FOUR_MIB_A_FILE));
    let refused = refusal(push(&registry, &blob(1, 6 * MIB)).await).await;
    assert_eq!((refused.status, &refused.detail["reason"]), (507, &"FileTooLong".into()), "{refused:?}");
    // What is short enough is taken, and the store counts as writable.
    registry.client().push_image("a", "v1", &Image::of(2)).await;
    assert_eq!(registry.metric("d8_registry_store_writable").await, 1.0);
    registry.stop();
}

#[tokio::test]
async fn a_blob_beyond_the_limit_on_sizes_is_passed_on_whole() {
    let upstream = Upstream::start();
    let contents = [blob(1, 6 * MIB), blob(2, MIB)];
    for content in &contents {
        upstream.put_blob(REPO, content);
    }
    let registry = Registry::start(&Setup::proxy(&upstream).before(FOUR_MIB_A_FILE));
    for content in [&contents[0], &contents[1], &contents[0]] {
        let got = registry.client().get(&here(&format!("blobs/{}", digest(content)))).await;
        assert_eq!(got.status(), 200);
        assert!(got.bytes().await.unwrap() == *content);
    }
    registry.until_metric("d8_registry_fills_running", 0.0).await;
    registry.stop();
}

#[tokio::test]
async fn a_lack_of_inodes_is_called_that_and_reads_go_on() {
    if !is_root("a file system with few inodes") {
        return;
    }
    let registry =
        Registry::start(&Setup::open().mounting("mkdir -p $DIR && mount -t tmpfs -o size=64m,nr_inodes=800 none $DIR"));
    let client = registry.client();
    let image = Image::of(1);
    client.push_image("a", "v1", &image).await;
    let mut stored = Vec::new();
    let refused = loop {
        let content = blob(1000 + stored.len() as u64, 100);
        let answer = push(&registry, &content).await;
        if answer.status() != 201 {
            break refusal(answer).await;
        }
        stored.push(content);
        assert!(stored.len() < 1000, "the inodes do not run out");
    };
    assert_eq!((refused.status, &refused.detail["reason"]), (507, &"InodesExhausted".into()), "{refused:?}");
    assert!(refused.message.contains("inode"), "{refused:?}");
    assert_eq!(registry.metric("d8_registry_store_writable").await, 0.0);
    for content in image.blobs() {
        assert_eq!(client.get(&format!("/v2/a/blobs/{}", digest(content))).await.bytes().await.unwrap(), *content);
    }
    for content in &stored[..100] {
        assert_eq!(client.delete(&format!("/v2/a/blobs/{}", digest(content))).await.status(), 202);
    }
    registry.until_metric("d8_registry_store_writable", 1.0).await;
    assert_eq!(push(&registry, b"there is room again").await.status(), 201);
    registry.kill();
}

#[tokio::test]
async fn without_a_file_descriptor_the_disk_is_not_blamed() {
    let registry = Registry::start(&Setup::open().before("ulimit -n 48"));
    let content = blob(1, 300_000);
    registry.client().push_blob("a", &content).await;
    let path = format!("/v2/a/blobs/{}", digest(&content));
    let mut asking = Raw::get(registry.address(), &path, "").await;
    asking.read(content.len()).await;
    // Connections take all that there are; the one that is open asks again.
    let mut idle = Vec::new();
    loop {
        idle.push(tokio::net::TcpStream::connect(registry.address()).await.unwrap());
        asking.ask(&path, "").await;
        if asking.status() != 200 {
            break;
        }
        asking.read(content.len()).await;
        assert!(idle.len() < 500, "descriptors do not run out");
    }
    assert_eq!(asking.status(), 503);
    assert!(asking.header("retry-after").is_some());
    drop(idle);
    drop(asking);
    let failed = within(async {
        loop {
            let lines = registry.logged().into_iter().filter(|line| line["message"] == "request failed");
            match lines.collect::<Vec<Value>>() {
                failed if failed.is_empty() => tokio::task::yield_now().await,
                failed => return failed,
            }
        }
    })
    .await;
    assert!(failed.iter().all(|line| line["origin"] == "Limits"), "{failed:?}");
    assert!(failed[0]["cause"].as_str().unwrap().contains("no file descriptor"), "{failed:?}");
    registry.stop();
}

#[tokio::test]
async fn a_membership_that_cannot_be_written_costs_no_pull() {
    let upstream = Upstream::start();
    let content = blob(1, 2 * MIB);
    for repo in ["", "/modules/x", "/modules/y"] {
        upstream.put_blob(&format!("{REPO}{repo}"), &content);
    }
    let registry = Registry::start(&Setup::proxy(&upstream));
    let at = |repo: &str| here(&format!("{repo}blobs/{}", digest(&content)));
    assert_eq!(registry.client().get(&at("")).await.bytes().await.unwrap(), content);
    registry.until_metric("d8_registry_fills_running", 0.0).await;
    for (limit, repo) in [("reserveBytes: 1000000Gi", "modules/x/"), ("reserveBytes: 0, maxBytes: 1Mi", "modules/y/")] {
        registry.reconfigure(&Setup::proxy(&upstream).config(&format!("store: {{ dir: $DIR, {limit} }}")));
        registry.until_metric("d8_registry_store_writable", 0.0).await;
        for method in [Method::GET, Method::HEAD] {
            let answer = registry.client().request(method.clone(), &at(repo)).send().await.unwrap();
            assert_eq!((answer.status().as_u16(), &*cache(&answer)), (200, "hit"), "{repo}");
            if method == Method::GET {
                assert_eq!(answer.bytes().await.unwrap(), content);
            }
        }
        // What nobody vouches for stays unknown, however full it is.
        assert_eq!(registry.client().get(&at("modules/z/")).await.status(), 404);
    }
    registry.stop();
}

/// A file that gets shorter while it is read is what a test can have of a disk that fails.
#[tokio::test]
async fn a_stored_blob_that_cannot_be_read_on_is_an_error_with_its_path_and_no_200() {
    for acceleration in ["sendfile", "off"] {
        let setup =
            Setup::open().config(&format!("limits: {{ acceleration: {acceleration} }}\nlog: {{ access: all }}"));
        let registry = Registry::start(&setup);
        // More than the kernel's buffers take.
        let content = blob(1, 64 * MIB);
        let digest = registry.client().push_blob("a", &content).await;
        let mut asking = Raw::get(registry.address(), &format!("/v2/a/blobs/{digest}"), "").await;
        assert_eq!(asking.status(), 200);
        let hex = digest.strip_prefix("sha256:").unwrap().to_owned();
        let path = registry.data().join(format!("blobs/sha256/{}/{hex}", &hex[..2]));
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        asking.end().await;
        assert!(asking.body().len() < content.len());
        registry.until_metric("d8_registry_disk_errors_total", 1.0).await;
        registry.until_metric("d8_registry_http_requests_in_flight", 0.0).await;
        let sample = "d8_registry_http_requests_total{method=\"GET\",route=\"blob\",status=\"500\"}";
        assert_eq!(registry.metric(sample).await, 1.0, "{acceleration}");
        let lines = registry.stop();
        let of_the_edge = |line: &Value| {
            line["level"] == "ERROR"
                && line["target"].as_str().is_some_and(|target| target.starts_with("d8_registry::api"))
        };
        let errors: Vec<_> = lines.iter().filter(|line| of_the_edge(line)).collect();
        assert_eq!(errors.len(), 1, "logged once: {errors:?}");
        let error = errors[0];
        assert!(error["path"].as_str().unwrap().contains(&hex), "{error}");
        assert!(error["cause"].as_str().unwrap().contains("shorter"), "{error}");
        let read = lines.iter().find(|line| line["target"] == "access" && line["method"] == "GET").unwrap();
        assert_eq!((&read["status"], &read["ended"]), (&500.into(), &"early".into()), "{read}");
        assert!(read["error"].as_str().unwrap().contains(&hex), "{read}");
    }
}

#[tokio::test]
async fn a_disk_that_stands_still_is_not_ready_and_alive() {
    const DISK: &str =
        "truncate -s 64M $DIR.img && mkfs.ext4 -q -F $DIR.img && mkdir -p $DIR && mount -o loop $DIR.img $DIR";
    if !is_root("a disk that stands still") {
        return;
    }
    let registry = Registry::start(&Setup::open().mounting(DISK));
    let digest = registry.client().push_blob("a", b"content").await;
    assert_eq!(registry.admin().get("/readyz").await.status(), 200);
    registry.among_its_mounts("fsfreeze --freeze $DIR");
    let client = registry.client();
    let pushing = tokio::task::spawn(async move { client.push_blob("a", b"more").await });
    let told = within(async {
        loop {
            // What is promised to whoever asks.
            let admin = registry.admin();
            let ready = tokio::time::timeout(std::time::Duration::from_secs(2), admin.get("/readyz")).await;
            let ready = ready.expect("an answer within 2 s");
            assert_eq!(registry.admin().get("/healthz").await.status(), 200);
            if ready.status() == 503 {
                return ready.text().await.unwrap();
            }
        }
    })
    .await;
    assert!(told.contains("no operation of the store's disk has ended for 1"), "{told}");
    assert_eq!(registry.client().get(&format!("/v2/a/blobs/{digest}")).await.bytes().await.unwrap(), &b"content"[..]);
    registry.among_its_mounts("fsfreeze --unfreeze $DIR");
    within(pushing).await.unwrap();
    within(async { while registry.admin().get("/readyz").await.status() != 200 {} }).await;
    registry.kill();
}
