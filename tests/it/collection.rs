//! Collection as an administrator and clients see it: of a running server, of a stopped store, beside the fast path.

use std::path::Path;
use std::process::{Command, Output};

use reqwest::Method;
use serde_json::{Value, json};
use testkit::layer::{Tar, gzip};

use crate::support::{Image, Registry, Setup, assert_store_is_tidy, blob, digest};

/// A day of grace, and the time for answers on their way.
const GRACE_MILLIS: u64 = 86_400_000 + 600_000;

fn gc(data: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    command.arg("gc").args(words).arg("--data-dir").arg(data).output().unwrap()
}

fn said(data: &Path, words: &[&str]) -> String {
    let output = gc(data, words);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// As [`said`], with a configuration.
fn said_with(data: &Path, config: &Path) -> String {
    said(data, &["--config", config.to_str().unwrap()])
}

fn json(data: &Path, words: &[&str]) -> Value {
    serde_json::from_str(&said(data, &[words, &["--json"]].concat())).unwrap()
}

/// Lets the servers of a stopped store have run for the grace.
fn run_for_the_grace(data: &Path) {
    let note = data.join("gc/running-time");
    let millis: u64 = std::fs::read_to_string(&note).unwrap().trim().parse().unwrap();
    std::fs::write(&note, format!("{}\n", millis + GRACE_MILLIS)).unwrap();
}

fn blob_path(content: &[u8]) -> String {
    format!("/v2/a/blobs/{}", digest(content))
}

#[tokio::test]
async fn a_running_server_finds_what_nothing_reaches_and_a_stopped_store_loses_it() {
    let (image, left, large) = (Image::of(1), b"left".to_vec(), blob(2, 100_000));
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    client.push_image("a", "v1", &image).await;
    for content in [&left, &large] {
        client.push_blob("a", content).await;
    }
    let data = registry.data();
    let first = json(&data, &[]);
    assert_eq!((&first["suspected"]["blobs"], &first["removed"]["blobs"]), (&2.into(), &0.into()), "{first}");
    assert_eq!(registry.metric("d8_registry_gc_suspects").await, 2.0);
    let status: Value = registry.admin().get("/status").await.json().await.unwrap();
    assert_eq!((&status["collection"]["suspects"], &status["collection"]["held"]), (&2.into(), &false.into()));
    let why = said(&data, &["--why", &digest(&left)]);
    assert!(why.starts_with("a blob goes: nothing reaches it: it goes when the server has run for "), "{why}");
    let why = said(&data, &["--why", &digest(&image.blobs()[0])]);
    assert!(why.starts_with("a blob stays: tag v1 leads to "), "{why}");
    assert!(said(&data, &["--dry-run"]).starts_with("would go now: 0 blobs"));

    let folder = registry.folder();
    registry.stop();
    run_for_the_grace(&data);
    let look = said(&data, &["--dry-run"]);
    let line = |content: &[u8]| format!("goes a blob {} {}", digest(content), content.len());
    assert!(look.contains(&line(&left)) && look.contains(&line(&large)), "{look}");
    assert!(look.contains("would go now: 2 blobs and 0 manifests, 100004 bytes"), "{look}");
    // What a server holds back a stopped store holds back too: the file says so that was in force when the server ended.
    let mode_file = data.join("mode.yaml");
    let head = "version: 1, generation: 1, inForce";
    for held in [
        format!("{{{head}: {{mode: Local}}, previous: [{{mode: Direct, upstream: {{imagesRepo: a.example/x}}}}]}}"),
        format!("{{{head}: {{mode: Unmanaged}}, coming: {{mode: Local, phase: filling}}}}"),
        "no mode file".to_owned(),
    ] {
        std::fs::write(&mode_file, held).unwrap();
        assert!(said(&data, &[]).starts_with("nothing is collected now"));
    }
    std::fs::remove_file(&mode_file).unwrap();
    // And what its configuration has another mode for.
    let config = folder.path().join("proxy.yaml");
    std::fs::write(&config, "mode: Proxy\nupstream: { imagesRepo: a.example/x }\n").unwrap();
    assert!(said_with(&data, &config).starts_with("nothing is collected now"));
    std::fs::write(&mode_file, format!("{{{head}: {{mode: Local}}}}")).unwrap();
    assert!(said(&data, &[]).contains("removed: 2 blobs and 0 manifests, 100004 bytes"));
    std::fs::remove_file(&mode_file).unwrap();
    assert_store_is_tidy(&data);

    let registry = Registry::start_in(folder, &Setup::open());
    let client = registry.client();
    for content in [&left, &large] {
        assert_eq!(client.head(&blob_path(content)).await.status(), 404);
    }
    for content in image.blobs() {
        assert_eq!(client.get(&blob_path(content)).await.bytes().await.unwrap(), content);
    }
    assert_eq!(client.get("/v2/a/manifests/v1").await.bytes().await.unwrap(), image.manifest());
}

/// Each way to ask takes a suspect off, on the fast path (small, in memory), and on the general one.
#[tokio::test]
async fn who_is_asked_about_stays() {
    type Ways<'a> = [(&'a str, Method, String)];
    let (small, large) = (b"{\"small\":1}".to_vec(), blob(3, 50_000));
    let image = Image::of(4);
    let untagged = "gc: { untaggedAfter: 24h }";
    let registry = Registry::start(&Setup::open().config(untagged));
    let client = registry.client();
    let manifest = format!("/v2/a/manifests/{}", image.digest());
    for content in [&small, &large] {
        client.push_blob("a", content).await;
    }
    client.push_image("a", &image.digest(), &image).await;
    let ways: &Ways<'_> = &[
        ("a small blob", Method::GET, blob_path(&small)),
        ("a small blob", Method::HEAD, blob_path(&small)),
        ("a large blob", Method::HEAD, blob_path(&large)),
        ("a large blob", Method::GET, blob_path(&large)),
        ("a manifest", Method::HEAD, manifest.clone()),
        ("a manifest", Method::GET, manifest.clone()),
    ];
    for (what, method, path) in ways {
        // So that memory has what it can have.
        for path in [blob_path(&small), manifest.clone()] {
            assert_eq!(client.get(&path).await.status(), 200);
        }
        json(&registry.data(), &[]);
        assert_eq!(registry.metric("d8_registry_gc_suspects").await, 3.0, "{what} {method}");
        assert_eq!(client.request(method.clone(), path).send().await.unwrap().status(), 200);
        assert_eq!(registry.metric("d8_registry_gc_suspects").await, 2.0, "{what} {method}");
    }
    // A push of the same blob, and a manifest that names it.
    json(&registry.data(), &[]);
    client.push_blob("a", &small).await;
    client.push_image("a", "v1", &image).await;
    assert_eq!(registry.metric("d8_registry_gc_suspects").await, 1.0);
}

#[tokio::test]
async fn nothing_is_collected_while_another_mode_is_in_force() {
    let upstream = Registry::start(&Setup::open());
    let registry = Registry::start(&Setup::open());
    registry.client().push_blob("a", b"left").await;
    let proxy = Setup::in_front_of_repo("Proxy", &format!("{}/up", upstream.address()), "scheme: HTTP");
    registry.reconfigure(&proxy);
    registry.until_metric("d8_registry_gc_held", 1.0).await;
    assert!(said(&registry.data(), &[]).starts_with("nothing is collected now"));
    registry.reconfigure(&Setup::open());
    registry.until_metric("d8_registry_gc_held", 0.0).await;
    assert_eq!(json(&registry.data(), &[])["suspected"]["blobs"], 1);
}

#[test]
fn what_is_no_store_is_not_collected() {
    let folder = tempfile::TempDir::new().unwrap();
    let output = gc(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not a store of d8-registry"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let output = gc(folder.path(), &["--why", "sha256:0"]);
    assert_eq!(output.status.code(), Some(2));
}

/// A file of pins of this moment.
pub(crate) fn write_pins(path: &Path, images: &[&str]) {
    let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
    let next = path.with_extension("next");
    std::fs::write(&next, format!("writtenAt: {now}\nimages: {images:?}\n")).unwrap();
    std::fs::rename(next, path).unwrap();
}

#[tokio::test]
async fn the_file_of_pins_is_followed_and_nothing_goes_while_it_can_not_be_gone_by() {
    let registry =
        Registry::start(&Setup::open().config("store: { dir: $DIR, reserveBytes: 0, pins: $DIR/../pins.yaml }"));
    registry.client().push_blob("a", b"left").await;
    registry.client().push_blob("a", b"pinned").await;
    let (data, folder) = (registry.data(), registry.folder());
    let (config, pins) = (folder.path().join("config.yaml"), folder.path().join("pins.yaml"));
    let by_config = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
        String::from_utf8(command.arg("gc").args(words).arg("--config").arg(&config).output().unwrap().stdout).unwrap()
    };
    registry.until_metric("d8_registry_pins_usable", 0.0).await;
    let status: Value = registry.admin().get("/status").await.json().await.unwrap();
    assert_eq!((&status["pins"]["state"], &status["pins"]["images"]), (&"missing".into(), &Value::Null));
    write_pins(&pins, &[&digest(b"pinned")]);
    registry.until_metric("d8_registry_pins_usable", 1.0).await;
    let status: Value = registry.admin().get("/status").await.json().await.unwrap();
    assert_eq!((&status["pins"]["state"], &status["pins"]["images"]), (&"usable".into(), &1.into()));
    let why = said(&data, &["--why", &digest(b"pinned")]);
    assert_eq!(why, "a blob stays: it is pinned\n");
    assert_eq!(json(&data, &[])["suspected"]["blobs"], 1);
    std::fs::remove_file(&pins).unwrap();
    registry.until_metric("d8_registry_pins_usable", 0.0).await;
    registry.stop();
    run_for_the_grace(&data);
    assert!(by_config(&[]).starts_with("nothing is removed until store.pins can be used: the file is missing\n"));
    write_pins(&pins, &[&digest(b"pinned")]);
    assert!(by_config(&[]).contains("removed: 1 blobs and 0 manifests, 4 bytes"));
}

/// The install image of a release that needs this one image.
fn install(release: &str, image: &Image) -> Image {
    let list = json!({ "common": { "one": image.digest() } }).to_string();
    let layer = gzip(&Tar::new().file("deckhouse/candi/images_digests.json", list).finish()).unwrap();
    Image::of_layers(release.as_bytes().to_vec(), vec![layer], &json!({}))
}

#[tokio::test]
async fn a_release_set_goes_by_order_as_the_preview_said_and_a_stopped_store_loses_its_bytes() {
    let keys = "store: { dir: $DIR, reserveBytes: 0, pins: $DIR/../pins.yaml }\nretention: { releases: { keep: 1 } }";
    let registry = Registry::start(&Setup::open().config(keys));
    let (client, data, folder) = (registry.client(), registry.data(), registry.folder());
    let images = [Image::of(1), Image::of(2)];
    for (release, image) in ["v1.70.0", "v1.70.1"].into_iter().zip(&images) {
        client.push_image("d8", &image.digest()["sha256:".len()..], image).await;
        client.push_image("d8/install", release, &install(release, image)).await;
    }
    let retention = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
        let output = command.args(["retention", "preview", "--config"]).arg(folder.path().join("config.yaml"));
        String::from_utf8(output.args(words).output().unwrap().stdout).unwrap()
    };
    assert!(retention(&[]).contains("nothing goes until store.pins can be used: the file is missing"));
    write_pins(&folder.path().join("pins.yaml"), &[&digest(b"runs")]);
    registry.until_metric("d8_registry_pins_usable", 1.0).await;
    let said = retention(&[]);
    assert!(said.contains("stays d8:v1.70.1 (it is among the newest 1)"), "{said}");
    assert!(
        said.contains("goes d8/install:v1.70.0 ") && said.contains("would go: 2 tags; 1 tags and sets stay"),
        "{said}"
    );
    let done = json(&data, &[]);
    assert_eq!((&done["retention"]["going"], &done["suspected"]["manifests"]), (&2.into(), &2.into()), "{done}");
    assert_eq!(registry.metric("d8_registry_retention_removed_tags_total").await, 2.0);
    let status: Value = registry.admin().get("/status").await.json().await.unwrap();
    assert_eq!((&status["retention"]["keepReleases"], &status["retention"]["givenUp"]), (&1.into(), &2.into()));
    registry.stop();
    run_for_the_grace(&data);
    let mut gc = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    let output = gc.args(["gc", "--config"]).arg(folder.path().join("config.yaml")).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("removed: 4 blobs and 2 manifests"), "{said}");
    assert!(retention(&["--json"]).contains("\"going\": 0"));
    assert_store_is_tidy(&data);
}

/// On the fast path and on the general one, which a server takes that has nothing in memory.
#[tokio::test]
async fn a_get_of_a_manifest_is_a_use_of_its_image_and_a_head_is_none() {
    let images = [Image::of(1), Image::of(2), Image::of(3)];
    let registry = Registry::start(&Setup::open());
    for (number, image) in images.iter().enumerate() {
        registry.client().push_image("a", &format!("v{number}"), image).await;
    }
    let (data, folder) = (registry.data(), registry.folder());
    registry.stop();
    let content = |image: &Image| {
        let hex = &image.digest()["sha256:".len()..];
        data.join("blobs/sha256").join(&hex[..2]).join(hex)
    };
    let before = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    for gets in [1, 2] {
        for image in &images {
            std::fs::File::options().write(true).open(content(image)).unwrap().set_modified(before).unwrap();
        }
        let registry = Registry::start_in(folder.clone(), &Setup::open());
        let client = registry.client();
        for number in 0..gets {
            // Who has been asked once has it in memory.
            let of_the_first = [Method::HEAD, Method::GET][number].clone();
            assert_eq!(client.request(of_the_first, "/v2/a/manifests/v0").send().await.unwrap().status(), 200);
        }
        client.get(&format!("/v2/a/manifests/{}", images[1].digest())).await;
        client.head("/v2/a/manifests/v2").await;
        registry.stop();
        let is_used =
            images.each_ref().map(|image| std::fs::metadata(content(image)).unwrap().modified().unwrap() > before);
        assert_eq!(is_used, [gets == 2, true, false]);
    }
}
