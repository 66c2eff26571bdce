//! Collections one after the other beside clients that push, mount, move and delete in the same repositories. No client gets an
//! answer that it did not earn: in a soak of three hours of Quay 3.18 40 pushes of 104,135 events failed, each within
//! 115 ms of the 201 for the blob that was then missing.
//!
//! Half a minute by default; `SOAK_SECONDS=10800` in `make torture`. The running time goes 300 times as fast, so a grace of an hour
//! is over in 12 s, with the time for answers in 14 s; a client needs a fraction of a second from its blobs to its manifest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::support::{Chance, Client, Image, Registry, Setup, blob, digest, header, order};

/// Seconds where `SOAK_SECONDS` says nothing.
const SECONDS: u64 = 30;
const CLIENTS: u64 = 8;
/// Where all of them push, and a busy repository is never collected: a client stays in one for a while.
const REPOSITORIES: usize = 6;
/// Events of a client in one repository, then it takes another one.
const STAY: u64 = 25;
/// Names that are pushed again and again, as builds push them.
const TAGS: usize = 10;
const LAYERS: usize = 40;
/// Between two collections. In 3 hours these are 540; Quay's report had 480.
const COLLECT_EVERY: Duration = Duration::from_secs(20);

/// An image of layers that many others have too, and of a configuration that few have.
fn any_image(chance: &mut Chance) -> Image {
    let config = json!({ "architecture": "amd64", "os": "linux", "n": chance.below(500) }).to_string().into_bytes();
    let layers = (0..3).map(|_| layer(chance.below(LAYERS))).collect();
    Image::of_layers(config, layers, &json!({}))
}

fn layer(number: usize) -> Vec<u8> {
    blob(number as u64, 2_000 + number * 500)
}

fn repository(number: usize) -> String {
    format!("team{number}/app")
}

/// Asks for blobs, sends those that are not there, then the manifest: each answer is a promise for the next step.
async fn push(client: &Client, repo: &str, chance: &mut Chance) -> u64 {
    let image = any_image(chance);
    let mut events = 0;
    for content in image.blobs() {
        let digest = digest(content);
        events += 1;
        match client.head(&format!("/v2/{repo}/blobs/{digest}")).await.status().as_u16() {
            200 => continue,
            404 => {}
            status => panic!("HEAD of a blob: {status}"),
        }
        let from = repository(chance.below(REPOSITORIES));
        let mount = format!("/v2/{repo}/blobs/uploads/?mount={digest}&from={from}");
        let mounted = client.request(Method::POST, &mount).send().await.unwrap();
        events += 1;
        match mounted.status().as_u16() {
            201 => {}
            // An upload has begun in the place of the mount; one that is left open counts for an hour.
            202 => {
                let location = header(&mounted, "location");
                let put = format!("{location}?digest={digest}");
                let put = client.put(&put, "application/octet-stream", content.clone()).await;
                assert_eq!(put.status(), 201, "{}", put.text().await.unwrap());
                events += 1;
            }
            status => panic!("mount: {status}"),
        }
    }
    let tag = format!("t{}", chance.below(TAGS));
    let response = client.put_image(repo, &tag, &image).await;
    let status = response.status().as_u16();
    assert_eq!(status, 201, "{repo}:{tag}: {}", response.text().await.unwrap());
    events + 1
}

/// One tag's image as a node pulls it. While it is pulled others may move or delete the tag, nobody takes its bytes.
async fn pull(client: &Client, repo: &str, chance: &mut Chance) -> u64 {
    let path = format!("/v2/{repo}/manifests/t{}", chance.below(TAGS));
    let response = client.get(&path).await;
    let status = response.status().as_u16();
    assert!(matches!(status, 200 | 404), "{path}: {status}");
    if status == 404 {
        return 1;
    }
    let manifest: serde_json::Value = response.json().await.unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
    let mut events = 1;
    for described in layers {
        let wanted = described["digest"].as_str().unwrap();
        let response = client.get(&format!("/v2/{repo}/blobs/{wanted}")).await;
        assert_eq!(response.status(), 200, "{path} names {wanted}");
        assert_eq!(digest(&response.bytes().await.unwrap()), wanted);
        events += 1;
    }
    events
}

async fn delete(client: &Client, repo: &str, chance: &mut Chance) -> u64 {
    let path = format!("/v2/{repo}/manifests/t{}", chance.below(TAGS));
    let status = client.delete(&path).await.status().as_u16();
    assert!(matches!(status, 202 | 404), "{path}: {status}");
    1
}

/// A blob that nothing names.
async fn leave(client: &Client, repo: &str, chance: &mut Chance) -> u64 {
    client.push_blob(repo, &layer(chance.below(LAYERS))).await;
    1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_push_meets_a_collection_in_the_way() {
    let seconds = std::env::var("SOAK_SECONDS").map_or(SECONDS, |text| text.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let setup = Setup::open()
        .config("gc: { grace: 1h, untaggedAfter: 1h }")
        .env("FAILPOINTS", "store::collection::pace=return(300)");
    let registry = Registry::start(&setup);
    registry.forget_log();
    let (events, collections) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut working = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let (client, events) = (registry.client(), Arc::clone(&events));
        let mut chance = Chance(0x50a_0000 + number);
        working.spawn(async move {
            while Instant::now() < end {
                let repo = repository(chance.below(REPOSITORIES));
                let mut here = 0;
                while here < STAY {
                    here += match chance.below(10) {
                        0..4 => push(&client, &repo, &mut chance).await,
                        4..7 => pull(&client, &repo, &mut chance).await,
                        7..9 => delete(&client, &repo, &mut chance).await,
                        _ => leave(&client, &repo, &mut chance).await,
                    };
                }
                events.fetch_add(here, Ordering::Relaxed);
            }
        });
    }
    let (data, counted) = (registry.data(), Arc::clone(&collections));
    working.spawn(async move {
        let mut ticks = tokio::time::interval(COLLECT_EVERY.min(Duration::from_secs(seconds) / 10));
        while Instant::now() < end {
            ticks.tick().await;
            let answer = order(&data, "/gc").await.unwrap();
            assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    // A client that got an answer it did not earn panicked, and that is this test's panic.
    working.join_all().await;
    let mut removed = 0.0;
    for kind in ["blob", "manifest"] {
        removed += registry.metric(&format!("d8_registry_gc_removed_total{{kind=\"{kind}\"}}")).await;
    }
    println!(
        "{} events beside {} collections, which removed {removed} contents",
        events.load(Ordering::Relaxed),
        collections.load(Ordering::Relaxed)
    );
    assert!(removed > 0.0, "a soak in which nothing is collected shows nothing");
    registry.stop();
}
