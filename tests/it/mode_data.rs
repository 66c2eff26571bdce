//! Data of modes that are not in force, as an administrator sees it: how much there is, dropped by order, and what gives way
//! to pushes.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::collection::write_pins;
use crate::support::{
    ALIAS, Image, REPO, Switched, Upstream, assert_store_is_tidy, blob, coming, digest, mode, mode_file, path, refusal,
};

const MIB: usize = 1 << 20;

fn store(data: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    command.args(["store", "drop"]).args(words).arg("--data-dir").arg(data).output().unwrap()
}

fn dropped(data: &Path, words: &[&str]) -> Value {
    let output = store(data, &[words, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(data: &Path, words: &[&str]) -> String {
    let output = store(data, words);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// Contents and bytes of an image.
fn size(image: &Image) -> (u64, u64) {
    let contents = image.blobs().iter().map(Vec::len).chain([image.manifest().len()]);
    contents.fold((0, 0), |(contents, bytes), length| (contents + 1, bytes + length as u64))
}

async fn pull(server: &Switched, image: &Image) {
    let ro = server.client("ro");
    assert_eq!(ro.get(&path("manifests/v1")).await.status(), 200);
    for content in image.blobs() {
        let read = ro.get(&path(&format!("blobs/{}", digest(content)))).await;
        assert_eq!(read.bytes().await.unwrap(), content);
    }
    server.registry.until_metric("d8_registry_fills_running", 0.0).await;
}

#[tokio::test]
async fn the_data_of_a_mode_that_is_over_is_counted_until_it_is_dropped_by_order() {
    let upstream = Upstream::start();
    let (pushed, taught) = (Image::of(1), Image::of(2));
    upstream.put_image(REPO, "v1", &taught);
    let (proxy, local) = (mode("Proxy", Some(&upstream)), mode("Local", None));
    let server = Switched::start(&mode_file(1, &local, None, &[]));
    let data = server.registry.data();
    server.client("rw").push_image(ALIAS, "v1", &pushed).await;
    assert!(refused(&data, &["Local"]).contains("is in force"));
    // Both while it is in force, while the other one comes, and while it still answers.
    for file in [
        mode_file(2, &local, Some(&coming(&proxy, "filling")), &[]),
        mode_file(3, &local, Some(&coming(&proxy, "ready")), &[]),
        mode_file(4, &proxy, None, &[&local]),
    ] {
        server.switch(&file).await;
        for word in ["Local", "proxy"] {
            assert!(refused(&data, &[word]).contains("a switch is not over"), "{word} {file}");
        }
    }
    pull(&server, &taught).await;
    server.switch(&mode_file(5, &proxy, None, &[])).await;
    let (contents, bytes) = size(&pushed);
    let status = server.until(|status| status["unused"].is_array()).await;
    let unused = &status["unused"][0];
    assert_eq!(
        (&unused["mode"], &unused["contents"], &unused["bytes"]),
        (&json!("Local"), &json!(contents), &json!(bytes))
    );
    let metric = "d8_registry_unused_data_bytes{mode=\"Local\"}";
    assert!((server.registry.metric(metric).await - bytes as f64).abs() < f64::EPSILON);
    let look = dropped(&data, &["Local", "--dry-run"]);
    let expected = json!({ "mode": "Local", "dryRun": true, "repositories": 1, "contents": contents, "bytes": bytes, "atLeast": false, "left": null });
    assert_eq!(look, expected);
    let before = server.status().await["store"]["usedBytes"].as_u64().unwrap();
    let gone = dropped(&data, &["Local"]);
    assert_eq!((&gone["contents"], &gone["bytes"], &gone["dryRun"]), (&json!(contents), &json!(bytes), &json!(false)));
    let status = server.status().await;
    assert!(status["unused"].is_null(), "{status}");
    assert_eq!(status["store"]["usedBytes"].as_u64().unwrap(), before - bytes);
    pull(&server, &taught).await;
    server.switch(&mode_file(6, &local, None, &[])).await;
    assert_eq!(server.client("ro").get(&path("manifests/v1")).await.status(), 404);

    // The cache, by a process of its own: where no server runs the configuration says which modes there are.
    let status = server.until(|status| status["unused"].is_array()).await;
    let (contents, bytes) = size(&taught);
    assert_eq!((&status["unused"][0]["mode"], &status["unused"][0]["bytes"]), (&json!("Proxy"), &json!(bytes)));
    assert_eq!(status["unused"][0]["caches"][0]["contents"], json!(contents));
    let (folder, config) = (server.registry.folder(), server.registry.config_file());
    server.registry.stop();
    assert!(refused(&data, &["Proxy"]).contains("--config"));
    let config = ["--config", config.to_str().unwrap()];
    let with = |words: &'static [&str]| [words, &config].concat();
    assert!(refused(&data, &with(&["Local"])).contains("in force"));
    assert_eq!(dropped(&data, &with(&["Proxy", "--dry-run"]))["bytes"], json!(bytes));
    assert_eq!(dropped(&data, &with(&["Proxy"]))["contents"], json!(contents));
    assert_eq!(dropped(&data, &with(&["Proxy"]))["bytes"], json!(0));
    assert_store_is_tidy(&data);
    drop(folder);
}

#[tokio::test]
async fn a_cache_behind_local_gives_way_to_pushes_that_need_room_and_for_what_cannot_fit_nothing_goes() {
    let upstream = Upstream::start();
    let taught = Image::of_layers(b"{}".to_vec(), vec![blob(1, MIB), blob(2, MIB)], &json!({}));
    upstream.put_image(REPO, "v1", &taught);
    let (proxy, local) = (mode("Proxy", Some(&upstream)), mode("Local", None));
    let room = "store: { dir: $DIR, reserveBytes: 0, maxBytes: 4MiB }";
    let server = Switched::start_with(&mode_file(1, &proxy, None, &[]), room);
    pull(&server, &taught).await;
    server.switch(&mode_file(2, &local, None, &[])).await;
    let rw = server.client("rw");
    let push = async |content: Vec<u8>| {
        let request = format!("/v2/{ALIAS}/blobs/uploads/?digest={}", digest(&content));
        rw.request(Method::POST, &request).body(content).send().await.unwrap()
    };
    let evicted = async || server.registry.metric("d8_registry_evictions_total{cause=\"room\"}").await;
    assert_eq!(refusal(push(blob(10, 5 * MIB)).await).await.status, 507);
    assert!(evicted().await < 1.0, "something went for what can't fit");
    for (seed, goes) in [(11, false), (12, true), (13, true)] {
        assert_eq!(push(blob(seed, MIB)).await.status(), 201, "{seed}");
        assert_eq!(evicted().await > 0.0, goes, "{seed}");
    }
    // What was pushed does not go for what is pushed.
    assert_eq!(refusal(push(blob(14, 2 * MIB)).await).await.status, 507);
    for seed in [11, 12, 13] {
        let content = blob(seed, MIB);
        let read = rw.get(&path(&format!("blobs/{}", digest(&content)))).await;
        assert!(read.bytes().await.unwrap() == content, "{seed}");
    }
    server.registry.stop();
}

/// During a switch what runs is known by pins, and what a tag alone leads to could be fetched again.
#[tokio::test]
async fn a_push_into_a_coming_local_spares_what_a_pin_names_and_takes_what_a_tag_alone_reaches() {
    let upstream = Upstream::start();
    let image =
        |seed: u64| Image::of_layers(format!("{{\"n\":{seed}}}").into_bytes(), vec![blob(seed, MIB)], &json!({}));
    let (pinned, tagged) = (image(1), image(2));
    upstream.put_image(REPO, "pinned", &pinned);
    upstream.put_image(REPO, "tagged", &tagged);
    let (proxy, local) = (mode("Proxy", Some(&upstream)), mode("Local", None));
    let room = "store: { dir: $DIR, reserveBytes: 0, maxBytes: 4MiB, pins: $DIR/../pins.yaml }";
    let folder = Arc::new(TempDir::new().unwrap());
    let pins = folder.path().join("pins.yaml");
    write_pins(&pins, &[&pinned.digest()]);
    let server = Switched::start_in(Arc::clone(&folder), Some(&mode_file(1, &proxy, None, &[])), room);
    server.registry.until_metric("d8_registry_pins_usable", 1.0).await;
    let ro = server.client("ro");
    for (tag, image) in [("pinned", &pinned), ("tagged", &tagged)] {
        assert_eq!(ro.get(&path(&format!("manifests/{tag}"))).await.status(), 200);
        let layer = ro.get(&path(&format!("blobs/{}", digest(&image.blobs()[1])))).await;
        assert_eq!(layer.bytes().await.unwrap().len(), MIB);
    }
    server.registry.until_metric("d8_registry_fills_running", 0.0).await;
    server.switch(&mode_file(2, &proxy, Some(&coming(&local, "filling")), &[])).await;
    server.until_probed().await;
    let rw = server.client("rw");
    let push = async |content: Vec<u8>| {
        let request = format!("/v2/{ALIAS}/blobs/uploads/?digest={}", digest(&content));
        rw.request(Method::POST, &request).body(content).send().await.unwrap().status().as_u16()
    };
    assert_eq!(push(blob(10, 2 * MIB)).await, 201);
    // The tagged one went for it, the pinned one stays, and nothing else is there to go.
    assert_eq!(push(blob(11, MIB)).await, 507);
    upstream.forget_seen();
    for (image, is_fetched) in [(&pinned, false), (&tagged, true)] {
        let layer = digest(&image.blobs()[1]);
        assert_eq!(ro.get(&path(&format!("blobs/{layer}"))).await.status(), 200);
        assert_eq!(upstream.count("GET", &format!("/v2/{REPO}/blobs/{layer}")) > 0, is_fetched, "{layer}");
    }
    server.registry.stop();
}
