//! Mode Proxy, room: what goes first, what never goes, and that pulls go on when nothing can.

use testkit::media_type;

use crate::support::{ALIAS, Cut, Image, REPO, Raw, Registry, Setup, Upstream, blob, cache, digest};

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

/// Puts a blob there and a manifest that names it; the path of that.
fn naming(upstream: &Upstream, content: &[u8]) -> String {
    upstream.put_blob(REPO, content);
    upstream.put_blob(REPO, b"{}");
    let layer = testkit::descriptor(media_type::LAYER, content);
    let manifest = testkit::image(&testkit::descriptor(media_type::CONFIG, b"{}"), &[layer]).to_string();
    let digest = upstream.put_manifest(REPO, media_type::IMAGE, manifest.as_bytes());
    here(&format!("manifests/{digest}"))
}

/// A cache of 12 MiB that holds eight blobs of 1 MiB.
async fn with_eight_mib(upstream: &Upstream, contents: &[Vec<u8>]) -> Registry {
    let registry = Registry::start(&setup(upstream, "12Mi"));
    registry.until_metric("d8_registry_upstream_probes_total{outcome=\"ok\"}", 1.0).await;
    for content in contents {
        assert_eq!(read(&registry, content).await, "filled");
    }
    registry
}

/// How many of the blobs are still stored.
async fn hits(registry: &Registry, contents: &[Vec<u8>]) -> usize {
    let mut hits = 0;
    for content in contents {
        let head = registry.client().head(&here(&format!("blobs/{}", digest(content)))).await;
        hits += usize::from(cache(&head) == "hit");
    }
    hits
}

#[tokio::test]
async fn what_cannot_fit_pushes_nothing_out_and_is_passed_on() {
    let (upstream, contents) = with_blobs(8);
    let large = blob(100, 14 * MIB);
    upstream.put_blob(REPO, &large);
    // The same, named with its true length by a stored manifest.
    let named = blob(101, 13 * MIB);
    let naming = naming(&upstream, &named);
    let registry = with_eight_mib(&upstream, &contents).await;
    assert_eq!(registry.client().get(&naming).await.status(), 200);
    for content in [&large, &named] {
        for _ in 0..2 {
            assert_eq!(read(&registry, content).await, "bypassed");
        }
    }
    assert_eq!(hits(&registry, &contents).await, 8);
    assert_eq!(registry.metric("d8_registry_evictions_total{cause=\"room\"}").await, 0.0);
    registry.stop();
}

#[tokio::test]
async fn a_blob_that_a_manifest_names_has_all_the_room_that_can_be_made() {
    let (upstream, contents) = with_blobs(8);
    let named = blob(101, 9 * MIB);
    let naming = naming(&upstream, &named);
    let registry = with_eight_mib(&upstream, &contents).await;
    assert_eq!(registry.client().get(&naming).await.status(), 200);
    assert_eq!(read(&registry, &named).await, "filled");
    assert_eq!(read(&registry, &named).await, "hit");
    registry.stop();
}

#[tokio::test]
async fn lies_about_lengths_cost_a_third_of_the_cache_at_most() {
    let (upstream, contents) = with_blobs(8);
    let lies: Vec<_> = (0..6).map(|seed| blob(200 + seed, 11 * MIB)).collect();
    for (number, lie) in lies.iter().enumerate() {
        upstream.put_blob(REPO, lie);
        upstream.rule("GET", &format!("/v2/{REPO}/blobs/{}", digest(lie)), move |answer| {
            // So long that it can't fit, so long that it could, and no length and other bytes in the end.
            match number % 3 {
                0 => answer.declare(1_000_000_000_000_000),
                1 => answer.ignore_range().cut(100_000, Cut::Fin),
                _ => answer.ignore_range().corrupt(11 * MIB - 1).chunked(),
            };
        });
    }
    let registry = with_eight_mib(&upstream, &contents).await;
    for _ in 0..2 {
        for lie in &lies {
            let answer = registry.client().get(&here(&format!("blobs/{}", digest(lie)))).await;
            // A broken body is right where the upstream breaks off.
            let _ = answer.bytes().await;
            registry.until_metric("d8_registry_fills_running", 0.0).await;
        }
    }
    let left = hits(&registry, &contents).await;
    assert!(left >= 4, "{left} of 8 are left");
    registry.stop();
}
