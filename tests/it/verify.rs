//! Verification and scrub as an administrator and clients see them: what is wrong is named with what it breaks, and a cache
//! mends itself without being asked.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{ALIAS, Image, REPO, Registry, Setup, Upstream, blob, cache, digest};

fn program(words: &[&str], data: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    command.args(words).arg("--data-dir").arg(data).output().unwrap()
}

/// The exit code and the report.
fn verified(words: &[&str], data: &Path) -> (i32, Value) {
    let output = program(&[&["verify", "--json"], words].concat(), data);
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), report)
}

fn content(data: &Path, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    data.join("blobs/sha256").join(&hex[..2]).join(hex)
}

/// One bit, of every name of the content at once.
fn flip(path: &Path) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let (mut byte, at) = ([0], file.metadata().unwrap().len() / 2);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

/// An image whose layer is so large that no memory keeps it.
fn image(seed: u64) -> Image {
    Image::of_layers(format!("{{\"seed\":{seed}}}").into_bytes(), vec![blob(seed, 400_000)], &serde_json::json!({}))
}

#[tokio::test]
async fn a_running_server_and_a_stopped_store_say_what_is_wrong_and_what_it_breaks() {
    let (one, other) = (image(1), image(2));
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    client.push_image("a/b", "v1", &one).await;
    client.push_image("a/b", "v2", &one).await;
    client.push_image("c", "v1", &other).await;
    let data = registry.data();
    let (code, report) = verified(&[], &data);
    assert_eq!((code, &report["whole"], &report["findings"]), (0, &true.into(), &serde_json::json!([])), "{report:#}");
    assert_eq!((&report["repositories"], &report["tags"], &report["contents"]), (&2.into(), &3.into(), &6.into()));
    let said = program(&["verify"], &data);
    assert!(String::from_utf8(said.stdout).unwrap().ends_with("nothing is wrong\n"));

    let layer = one.blobs().last().unwrap();
    flip(&content(&data, &digest(layer)));
    let expected = |report: &Value| {
        let finding = &report["findings"][0];
        assert_eq!(report["findings"].as_array().unwrap().len(), 1, "{report:#}");
        assert_eq!((&finding["problem"], &finding["mend"]), (&"wrongBytes".into(), &"push".into()), "{finding:#}");
        assert_eq!(finding["breaks"], serde_json::json!(["a/b:v1", "a/b:v2"]));
        assert_eq!(finding["digest"], digest(layer));
    };
    let (code, report) = verified(&[], &data);
    assert_eq!(code, 1);
    expected(&report);
    assert_eq!(verified(&["--quick"], &data).0, 0, "its length is right");
    assert_eq!(verified(&["--repository", "c"], &data).0, 0);
    let said = program(&["verify", "--repository", "a/c"], &data);
    assert_eq!(said.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&said.stderr).contains("the store has no repository a/c"), "{said:?}");
    let (code, of_one) = verified(&["--repository", "a/b"], &data);
    assert_eq!((code, &of_one["findings"][0]["breaks"]), (1, &report["findings"][0]["breaks"]));
    let folder = registry.folder();
    // Nothing was changed: the content is still served, to whoever checks it.
    assert_eq!(client.get(&format!("/v2/a/b/blobs/{}", digest(layer))).await.status(), 200);
    registry.stop();

    let (code, report) = verified(&[], &data);
    assert_eq!(code, 1);
    expected(&report);
    let said = program(&["verify"], &data);
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.contains("wrongBytes blobs/sha256/") && text.contains("breaks a/b:v1 a/b:v2"), "{text}");
    assert_eq!(program(&["verify", "--repository", "A"], &data).status.code(), Some(2));
    assert_eq!(program(&["verify"], &data.join("nowhere")).status.code(), Some(1));
    drop(folder);
}

#[tokio::test]
async fn of_local_the_images_are_named_that_need_what_rotted_until_it_is_pushed() {
    let (one, other) = (image(3), image(4));
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    for tag in ["v1", "v2"] {
        client.push_image("a", tag, &one).await;
    }
    client.push_image("b", "v1", &other).await;
    let (data, layer) = (registry.data(), one.blobs().last().unwrap().clone());
    let said = program(&["scrub"], &data);
    assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stderr));
    flip(&content(&data, &digest(&layer)));
    assert_eq!(registry.metric("d8_registry_damaged_contents_needed").await, 0.0);

    let said = program(&["scrub"], &data);
    assert_eq!(said.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&said.stderr).contains("1 contents are damaged"));
    registry.until_metric("d8_registry_damaged_contents_needed", 1.0).await;
    assert_eq!(registry.metric("d8_registry_scrub_found_total").await, 1.0);
    assert_eq!(registry.metric("d8_registry_scrub_contents_total").await, 12.0);
    let status: Value = serde_json::from_slice(&program(&["admin", "status"], &data).stdout).unwrap();
    let damaged = serde_json::json!([{ "digest": digest(&layer), "images": ["a:v1", "a:v2"], "moreImages": 0 }]);
    assert_eq!(status["store"]["damaged"], damaged);
    assert!(status["scrub"]["lastEnded"].as_u64().is_some() && status["scrub"]["intervalSeconds"] == 604_800);
    let public: Value = registry.admin().get("/status").await.json().await.unwrap();
    assert_eq!(public["store"]["damaged"], Value::Null, "names are for the socket alone");
    assert_eq!(client.get("/v2/a/manifests/v1").await.status(), 404, "not whole");
    let (code, report) = verified(&[], &data);
    assert_eq!((code, &report["findings"][0]["problem"]), (1, &"damaged".into()), "{report:#}");

    client.push_image("a", "v1", &one).await;
    registry.until_metric("d8_registry_damaged_contents", 0.0).await;
    registry.until_metric("d8_registry_damaged_contents_needed", 0.0).await;
    for tag in ["v1", "v2"] {
        assert_eq!(client.get(&format!("/v2/a/manifests/{tag}")).await.status(), 200);
    }
    assert_eq!(verified(&[], &data).0, 0);
    let lines = registry.stop();
    let told = |line: &&Value| line["images"] == "a:v1 a:v2" && line["digest"] == digest(&layer);
    assert_eq!(lines.iter().filter(told).count(), 1);
}

#[tokio::test]
async fn a_cache_fetches_what_rotted_before_anybody_asks() {
    let upstream = Upstream::start();
    let image = image(5);
    upstream.put_image(REPO, "v1", &image);
    let registry = Registry::start(&Setup::proxy(&upstream).config("proxy: { tagTtl: 1h }"));
    let client = registry.client();
    let layer = image.blobs().last().unwrap();
    let mut paths = vec![format!("/v2/{ALIAS}/manifests/v1")];
    paths.extend(image.blobs().iter().map(|blob| format!("/v2/{ALIAS}/blobs/{}", digest(blob))));
    for path in &paths {
        assert!(!client.get(path).await.bytes().await.unwrap().is_empty(), "{path}");
    }
    let data = registry.data();
    // All fills are through.
    let stored = || content(&data, &digest(layer)).exists();
    crate::support::within(async {
        while !stored() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for rotten in [digest(layer), image.digest()] {
        flip(&content(&data, &rotten));
    }
    upstream.forget_seen();
    let (code, report) = verified(&[], &data);
    assert_eq!((code, &report["findings"][0]["mend"]), (1, &"fetch".into()), "{report:#}");
    let blob_path = format!("/v2/{REPO}/blobs/{}", digest(layer));
    assert_eq!(upstream.count("GET", &blob_path), 0, "it only looked");
    assert_eq!(program(&["scrub"], &data).status.code(), Some(1));
    registry.until_metric("d8_registry_damage_found_total{cause=\"hash\"}", 2.0).await;
    registry.until_metric("d8_registry_damaged_contents", 0.0).await;
    assert_eq!(upstream.count("GET", &blob_path), 1);
    upstream.forget_seen();
    for path in &paths {
        let response = client.get(path).await;
        assert_eq!((response.status().as_u16(), cache(&response).as_str()), (200, "hit"), "{path}");
    }
    assert_eq!(upstream.count("GET", &blob_path), 0);
    assert_eq!(verified(&[], &data).0, 0);
    registry.stop();
}

#[tokio::test]
async fn the_interval_is_live_and_off_is_off() {
    let registry = Registry::start(&Setup::open().config("scrub: { interval: off }"));
    assert_eq!(registry.metric("d8_registry_scrub_interval_seconds").await, 0.0);
    registry.reconfigure(&Setup::open().config("scrub: { interval: 1d }"));
    registry.until_metric("d8_registry_scrub_interval_seconds", 86_400.0).await;
    registry.reconfigure(&Setup::open());
    registry.until_metric("d8_registry_scrub_interval_seconds", 604_800.0).await;
    registry.stop();
}
