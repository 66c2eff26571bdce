//! Snapshots as an administrator orders them and clients feel them: of a running server, and of a stopped store.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Method;
use serde_json::Value;

use crate::support::{Image, Registry, Setup, blob, digest};

fn snapshot(data: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    command.arg("snapshot").args(words).arg("--data-dir").arg(data).output().unwrap()
}

fn said(data: &Path, words: &[&str]) -> String {
    let output = snapshot(data, words);
    assert_eq!(output.status.code(), Some(0), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(data: &Path, words: &[&str]) -> Value {
    serde_json::from_str(&said(data, &[words, &["--json"]].concat())).unwrap()
}

fn refused(data: &Path, words: &[&str]) -> String {
    let output = snapshot(data, words);
    assert_eq!(output.status.code(), Some(1), "{words:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn a_mount_of_a_blob_that_only_a_snapshot_has_is_202() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let digest = client.push_blob("a", b"mine").await;
    said(&registry.data(), &["create", "s"]);
    let mount = async |query: &str| {
        let path = format!("/v2/b/blobs/uploads/?mount={digest}{query}");
        client.request(Method::POST, &path).send().await.unwrap().status().as_u16()
    };
    assert_eq!(client.delete(&format!("/v2/a/blobs/{digest}")).await.status(), 202);
    for query in ["", "&from=a", "&from=b"] {
        assert_eq!(mount(query).await, 202, "{query}");
    }
    assert_eq!(client.head(&format!("/v2/a/blobs/{digest}")).await.status(), 404);
    said(&registry.data(), &["restore", "s"]);
    assert_eq!(mount("").await, 201);
    registry.stop();
}

#[tokio::test]
async fn a_running_server_takes_restores_and_removes_snapshots_and_a_stopped_store_too() {
    let (first, second) = (Image::of(1), Image::of(2));
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    client.push_image("a", "v1", &first).await;
    let data = registry.data();
    let taken = json(&data, &["create", "before"]);
    assert_eq!((&taken["tags"], &taken["repositories"]), (&1.into(), &1.into()), "{taken}");
    assert!(refused(&data, &["create", "before"]).contains("there is a snapshot before already"));
    assert!(refused(&data, &["rm", "other"]).contains("there is no snapshot other"));
    assert_eq!(snapshot(&data, &["create", "../x"]).status.code(), Some(2));

    client.push_image("a", "v1", &second).await;
    assert_eq!(client.delete(&format!("/v2/a/manifests/{}", first.digest())).await.status(), 202);
    for content in first.blobs() {
        client.delete(&format!("/v2/a/blobs/{}", digest(content))).await;
    }
    let held: f64 = registry.metric("d8_registry_snapshot_bytes").await;
    assert!(held > 0.0);
    assert_eq!(registry.metric("d8_registry_snapshots").await, 1.0);
    let status: Value = registry.admin().get("/status").await.json().await.unwrap();
    assert_eq!(status["store"]["snapshotBytes"].as_f64(), Some(held));
    let listed = json(&data, &["list"]);
    assert_eq!(listed[0]["onlyHereBytes"].as_f64(), Some(held));
    assert!(said(&data, &["list"]).starts_with("before: taken "));

    let look = said(&data, &["restore", "before", "--dry-run"]);
    assert!(look.starts_with("would be given back: "), "{look}");
    assert_eq!(client.get("/v2/a/manifests/v1").await.bytes().await.unwrap(), second.manifest());
    let restored = json(&data, &["restore", "before"]);
    assert_eq!((&restored["tagsMoved"], &restored["missing"]), (&1.into(), &0.into()), "{restored}");
    assert_eq!(client.get("/v2/a/manifests/v1").await.bytes().await.unwrap(), first.manifest());
    for content in first.blobs() {
        let response = client.get(&format!("/v2/a/blobs/{}", digest(content))).await;
        assert_eq!(response.bytes().await.unwrap(), content);
    }

    let folder = registry.folder();
    registry.stop();
    assert_eq!(json(&data, &["list"])[0]["onlyHereBytes"], 0);
    json(&data, &["create", "stopped"]);
    assert!(said(&data, &["rm", "before"]).contains("before is removed: 0 bytes are free"));
    // What rots where nobody looks is not given back, and the command says so.
    let registry = Registry::start_in(folder, &Setup::open());
    let client = registry.client();
    client.push_image("a", "newer", &second).await;
    assert_eq!(client.delete(&format!("/v2/a/manifests/{}", first.digest())).await.status(), 202);
    let layer = digest(&first.blobs()[0]);
    client.delete(&format!("/v2/a/blobs/{layer}")).await;
    let hex = layer.split_once(':').unwrap().1;
    let link = data.join("snapshots/stopped/blobs/sha256").join(&hex[..2]).join(hex);
    std::fs::write(link, b"rot").unwrap();
    let output = snapshot(&data, &["restore", "stopped", "--exact"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("missing a blob {layer}")) && text.contains("1 newer tags removed"), "{text}");
    assert_eq!(client.get("/v2/a/manifests/newer").await.status(), 404);
    said(&data, &["rm", "stopped"]);
    assert_eq!(registry.metric("d8_registry_snapshots").await, 0.0);
    registry.stop();
}

/// A pull that goes on while the last name of its blob goes, and behind it comes a push.
#[tokio::test]
async fn pulls_and_pushes_go_on_beside_snapshots() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let content = blob(7, 3_000_000);
    let name = client.push_blob("a", &content).await;
    let data = registry.data();
    let done = Arc::new(AtomicUsize::new(0));
    let rounds = Arc::clone(&done);
    let orders = std::thread::spawn(move || {
        for number in 0..5 {
            let name = format!("s{number}");
            said(&data, &["create", &name]);
            said(&data, &["restore", &name]);
            said(&data, &["rm", &name]);
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (mut round, mut deletes) = (0, 0);
    while !orders.is_finished() {
        let response = client.get(&format!("/v2/a/blobs/{name}")).await;
        assert_eq!(response.bytes().await.unwrap(), content);
        if round != done.load(Ordering::Relaxed) {
            (round, deletes) = (done.load(Ordering::Relaxed), 0);
        }
        // A snapshot that meets a delete in each of its 64 attempts is refused: each meets fewer, at any load.
        if deletes < 60 {
            let other = client.push_blob("a", b"other").await;
            assert_eq!(client.delete(&format!("/v2/a/blobs/{other}")).await.status(), 202);
            deletes += 1;
        }
    }
    orders.join().unwrap();
    registry.stop();
}
