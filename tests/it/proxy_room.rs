//! Mode Proxy, room: what goes first, what never goes, and that pulls go on when nothing can.

use crate::support::{ALIAS, Image, REPO, Raw, Registry, Setup, Upstream, blob, cache, digest};

const MIB: usize = 1 << 20;

fn here(rest: &str) -> String {
    format!("/v2/{ALIAS}/{rest}")
}

fn setup(upstream: &Upstream, max_bytes: &str) -> Setup {
    Setup::proxy(upstream)
        .config(&format!("store: {{ dir: $DIR, reserveBytes: 0, maxBytes: {max_bytes} }}"))
        .config("proxy: { tagTtl: 0s }")
}

/// An upstream with blobs of 1 MiB, and their contents.
fn with_blobs(count: u64) -> (Upstream, Vec<Vec<u8>>) {
    let upstream = Upstream::start();
    let contents: Vec<_> = (1..=count).map(|seed| blob(seed, MIB)).collect();
    for content in &contents {
        upstream.put_blob(REPO, content);
    }
    (upstream, contents)
}

/// Reads a blob, waits until it is stored, and says how it was served.
async fn read(registry: &Registry, content: &[u8]) -> String {
    let response = registry.client().get(&here(&format!("blobs/{}", digest(content)))).await;
    assert_eq!(response.status(), 200);
    let cache = cache(&response);
    assert!(response.bytes().await.unwrap() == content);
    registry.until_metric("d8_registry_fills_running", 0.0).await;
    cache
}

#[tokio::test]
async fn the_least_recently_used_goes_first() {
    let (upstream, contents) = with_blobs(4);
    let registry = Registry::start(&setup(&upstream, "3584Ki"));
    registry.until_metric("d8_registry_upstream_probes_total{outcome=\"ok\"}", 1.0).await;
    for content in &contents[..3] {
        assert_eq!(read(&registry, content).await, "filled");
    }
    // The oldest is used again, so the second is the one that goes.
    assert_eq!(read(&registry, &contents[0]).await, "hit");
    assert_eq!(read(&registry, &contents[3]).await, "filled");
    registry.until_metric("d8_registry_evictions_total{cause=\"room\"}", 1.0).await;
    assert_eq!(registry.metric("d8_registry_evicted_bytes_total{cause=\"room\"}").await, MIB as f64);
    for index in [0, 2, 3] {
        assert_eq!(read(&registry, &contents[index]).await, "hit", "{index}");
    }
    assert_eq!(read(&registry, &contents[1]).await, "filled");
    registry.stop();
}

#[tokio::test]
async fn recency_outlives_a_restart() {
    let (upstream, contents) = with_blobs(4);
    let registry = Registry::start(&setup(&upstream, "3584Ki"));
    for content in &contents[..3] {
        read(&registry, content).await;
    }
    assert_eq!(read(&registry, &contents[0]).await, "hit");
    let folder = registry.folder();
    registry.stop();
    let registry = Registry::start_in(folder, &setup(&upstream, "3584Ki"));
    registry.until_metric("d8_registry_upstream_probes_total{outcome=\"ok\"}", 1.0).await;
    assert_eq!(read(&registry, &contents[3]).await, "filled");
    for index in [0, 2, 3] {
        assert_eq!(read(&registry, &contents[index]).await, "hit", "{index}");
    }
    registry.stop();
}

#[tokio::test]
async fn what_is_being_read_is_read_to_its_end() {
    let upstream = Upstream::start();
    // More than the kernel's buffers take.
    let contents: Vec<_> = (1..=3).map(|seed| blob(seed, 32 * MIB)).collect();
    for content in &contents {
        upstream.put_blob(REPO, content);
    }
    let registry = Registry::start(&setup(&upstream, "70Mi"));
    read(&registry, &contents[0]).await;
    let mut slow = Raw::get(registry.address(), &here(&format!("blobs/{}", digest(&contents[0]))), "").await;
    slow.read(1).await;
    for content in &contents[1..] {
        read(&registry, content).await;
    }
    slow.read(contents[0].len()).await;
    assert!(slow.body() == contents[0]);
    registry.stop();
}

#[tokio::test]
async fn without_room_blobs_stream_through_unstored() {
    let upstream = Upstream::start();
    let contents = [blob(1, 2 * MIB), blob(2, 3 * MIB)];
    for content in &contents {
        upstream.put_blob(REPO, content);
    }
    let registry = Registry::start(&setup(&upstream, "1Mi"));
    for _ in 0..2 {
        for content in &contents {
            assert_eq!(read(&registry, content).await, "bypassed");
        }
    }
    let clients = futures_util::future::join_all((0..8).map(|_| read(&registry, &contents[0]))).await;
    assert!(clients.iter().all(|cache| ["bypassed", "joined"].contains(&&**cache)), "{clients:?}");
    let left: Vec<_> = std::fs::read_dir(registry.data().join("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    registry.stop();
}

#[tokio::test]
async fn manifests_pass_too_when_there_is_no_room() {
    let upstream = Upstream::start();
    let image = Image::of(1);
    upstream.put_image(REPO, "v1", &image);
    let registry = Registry::start(
        &Setup::proxy(&upstream).config("store: { dir: $DIR, reserveBytes: 1000000Gi }\nproxy: { tagTtl: 0s }"),
    );
    for _ in 0..2 {
        let response = registry.client().get(&here("manifests/v1")).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.bytes().await.unwrap(), image.manifest());
    }
    assert_eq!(read(&registry, &image.blobs()[1]).await, "bypassed");
    registry.stop();
}

#[tokio::test]
async fn what_a_tag_reaches_stays_while_the_upstream_cannot_give_it_again() {
    let (upstream, contents) = with_blobs(3);
    let image = Image::of(9);
    upstream.put_image(REPO, "v1", &image);
    let registry = Registry::start(&setup(&upstream, "2560Ki"));
    registry.until_metric("d8_registry_upstream_probes_total{outcome=\"ok\"}", 1.0).await;
    assert_eq!(registry.client().get(&here("manifests/v1")).await.status(), 200);
    for content in image.blobs() {
        read(&registry, content).await;
    }
    read(&registry, &contents[0]).await;
    // The credentials are refused from now on, and what is public is still given.
    upstream.rule("*", &format!("/v2/{REPO}/manifests/*"), |answer| {
        answer.fail(401, "the license has expired");
    });
    upstream.rule("*", &format!("/v2/{REPO}/tags/*"), |answer| {
        answer.fail(401, "the license has expired");
    });
    upstream.rule("*", "/v2/", |answer| {
        answer.fail(401, "the license has expired");
    });
    registry.reconfigure(&setup(&upstream, "2560Ki").config("log: { level: debug }"));
    for content in &contents[1..] {
        read(&registry, content).await;
    }
    for content in image.blobs() {
        assert_eq!(read(&registry, content).await, "hit");
    }
    let manifest = registry.client().get(&here("manifests/v1")).await;
    assert_eq!((manifest.status().as_u16(), &*cache(&manifest)), (200, "stale"));
    registry.stop();
}
