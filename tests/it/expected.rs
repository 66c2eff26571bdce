//! `store.expected`: whether the store holds whole what it has to, as it comes and goes.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use testkit::bundle::{Edition, RELEASES};

use crate::bundles::{ROOT, push, text};
use crate::support::{ALIAS, Image, REPO, Registry, Setup, Upstream, within};

const LOCAL: &str = "mode=\"Local\"";
const PROXY: &str = "mode=\"Proxy\"";

fn expecting(file: &str) -> Setup {
    Setup::open().config(&format!("store: {{ dir: $DIR, reserveBytes: 0, expected: $DIR/../{file} }}"))
}

/// Puts a list in the place of the one before, as who writes it does.
fn write_list(path: &Path, releases: &[&str], images: &[&str]) {
    let next = path.with_extension("next");
    let document = format!("writtenAt: \"2026-11-29T15:30:00Z\"\nreleases: {releases:?}\nimages: {images:?}\n");
    std::fs::write(&next, document).unwrap();
    std::fs::rename(next, path).unwrap();
}

fn file(registry: &Registry, name: &str) -> PathBuf {
    registry.folder().path().join(name)
}

fn command(data: &Path, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    let output = command.arg("admin").args(words).arg("--data-dir").arg(data).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the socket's status says behind a look.
fn looked(registry: &Registry) -> Value {
    command(&registry.data(), &["run", "expected"]);
    let status: Value = serde_json::from_str(&command(&registry.data(), &["status"])).unwrap();
    status["expected"].clone()
}

/// What a mode has: images, missing ones, and these by name with what they lack.
fn of_mode(expected: &Value, mode: &str) -> (u64, u64, Vec<String>) {
    let of = expected["modes"].as_array().unwrap().iter().find(|of| of["mode"] == mode);
    let of = of.unwrap_or_else(|| panic!("{mode} is not in {expected}"));
    let named = of["missingImages"].as_array().into_iter().flatten();
    let named: Vec<String> = named
        .map(|missing| format!("{} ({})", missing["image"].as_str().unwrap(), missing["why"].as_str().unwrap()))
        .collect();
    assert_eq!(of["whole"], of["missing"] == 0, "{of}");
    assert!(of["looked"].as_u64().unwrap() > 1_700_000_000, "{of}");
    (of["images"].as_u64().unwrap(), of["missing"].as_u64().unwrap(), named)
}

fn local(registry: &Registry) -> (u64, u64, Vec<String>) {
    of_mode(&looked(registry), "Local")
}

fn lines(registry: &Registry, words: &str) -> usize {
    let logged = registry.logged();
    logged.iter().filter(|line| line["message"].as_str().is_some_and(|message| message.contains(words))).count()
}

async fn metrics(registry: &Registry, mode: &str) -> [f64; 3] {
    let mut found = [0.0; 3];
    for (place, name) in found.iter_mut().zip(["images", "missing_images", "whole"]) {
        *place = registry.metric(&format!("d8_registry_expected_{name}{{{mode}}}")).await;
    }
    found
}

/// Law: at each moment what is missing is what was not pushed or was deleted, down to the last layer of each platform.
#[tokio::test]
async fn whether_all_that_has_to_be_there_is_there_is_said_as_it_comes_and_goes() {
    let edition = Edition::of(&RELEASES);
    let (release, plugin) = (RELEASES[0], "deckhouse-cli/plugins/stronghold");
    let index = edition.layouts[plugin].tagged("v0.3.1").unwrap();
    let registry = Registry::start(&expecting("list"));
    let (client, list) = (registry.client(), file(&registry, "list"));
    let extra = Image::of(77);
    let expected = looked(&registry);
    assert_eq!((&expected["state"], &expected["modes"]), (&"missing".into(), &Value::Array(Vec::new())), "{expected}");

    // It is read, and looked for, when it changes.
    write_list(&list, &RELEASES, &[index, &extra.digest()]);
    registry.until_metric(&format!("d8_registry_expected_missing_images{{{LOCAL}}}"), 6.0).await;
    let (images, missing, named) = local(&registry);
    assert_eq!((images, missing), (6, 6), "a release without its list are two images");
    assert!(named[0].starts_with(&format!("{ROOT}/install:{release} (there is no such tag")), "{named:?}");

    push(&client, &edition).await;
    let (images, missing, named) = local(&registry);
    assert_eq!((images, missing), (10, 1), "install image, Deckhouse, two of each list, two by digest: {named:?}");
    assert_eq!(named, [format!("{} (its manifest is not there)", extra.digest())]);
    assert_eq!(metrics(&registry, LOCAL).await, [10.0, 1.0, 0.0]);
    client.push_image("elsewhere/than", "v1", &extra).await;
    assert_eq!(local(&registry).1, 1, "it is not below the root");
    client.push_image(&format!("{ROOT}/modules/some"), "v1", &extra).await;
    assert_eq!(local(&registry).1, 0);
    assert_eq!(metrics(&registry, LOCAL).await, [10.0, 0.0, 1.0]);
    assert!(registry.metric(&format!("d8_registry_expected_look_timestamp_seconds{{{LOCAL}}}")).await > 1e9);

    // A layer of one platform, an image of the list, and the tag of a release go.
    let layer = testkit::digest(&testkit::noise(901, 3000));
    assert_eq!(client.delete(&format!("/v2/{ROOT}/{plugin}/blobs/{layer}")).await.status(), 202);
    let (_, missing, named) = local(&registry);
    assert_eq!((missing, &named[..]), (1, &[format!("{index} (its blob {layer} is not there)")][..]));
    let listed = edition.tags().into_iter().find(|(name, digest)| name == &format!(":{}", &digest["sha256:".len()..]));
    let listed = listed.unwrap().1;
    assert_eq!(client.delete(&format!("/v2/{ROOT}/manifests/{listed}")).await.status(), 202);
    assert_eq!(client.delete(&format!("/v2/{ROOT}/manifests/{release}")).await.status(), 202);
    let (_, missing, named) = local(&registry);
    assert_eq!(missing, 3, "{named:?}");
    assert!(named.contains(&format!("{ROOT}@{listed} (its manifest is not there)")), "{named:?}");
    assert!(named.contains(&format!("{ROOT}:{release} (there is no such tag)")), "{named:?}");
    // Who has not proven who he is sees numbers alone.
    let shown: Value = registry.admin().get("/status").await.json().await.unwrap();
    assert_eq!(shown["expected"]["modes"][0]["missing"], 3, "{shown}");
    assert_eq!(shown["expected"]["modes"][0]["missingImages"], Value::Null);
    push(&client, &edition).await;
    assert_eq!(local(&registry).1, 0);

    // Once for each change, and not for each look.
    assert_eq!(lines(&registry, "not all that store.expected names is there"), 2);
    assert_eq!(lines(&registry, "all that store.expected names is there, whole"), 2);
}

#[tokio::test]
async fn a_file_that_is_wrong_leaves_the_list_before_in_force_and_another_file_takes_its_place() {
    let registry = Registry::start(&expecting("list"));
    let (list, other) = (file(&registry, "list"), file(&registry, "other"));
    let (one, two) = (Image::of(1), Image::of(2));
    registry.client().push_image(ROOT, "v1", &one).await;
    write_list(&list, &[], &[&one.digest()]);
    assert_eq!(of_mode(&looked(&registry), "Local").0, 1);
    registry.until_metric("d8_registry_expected_usable", 1.0).await;
    for (wrong, state, says) in [
        ("writtenAt: \"2026-11-29T15:30:00Z\"\nimages: [\"sha256:0\"]\n", "unreadable", "line 2"),
        ("writtenAt: \"2026-11-29T15:30:00Z\"\n", "empty", "no image and no release"),
        ("", "unreadable", "line 1"),
    ] {
        std::fs::write(&list, wrong).unwrap();
        let expected = looked(&registry);
        assert_eq!(expected["state"], state, "{expected}");
        assert!(expected["reason"].as_str().unwrap().contains(says), "{expected}");
        assert_eq!(of_mode(&expected, "Local"), (1, 0, Vec::new()));
        assert_eq!(registry.metric("d8_registry_expected_usable").await, 0.0);
    }
    std::fs::remove_file(&list).unwrap();
    assert_eq!((&looked(&registry)["state"], local(&registry).0), (&"missing".into(), 1));
    assert!(lines(&registry, "the list before stays in force") >= 4);

    // A reload names another file, and then none.
    write_list(&other, &[], &[&one.digest(), &two.digest()]);
    registry.reconfigure(&expecting("other"));
    registry.until_metric(&format!("d8_registry_expected_images{{{LOCAL}}}"), 2.0).await;
    assert_eq!(local(&registry).1, 1);
    registry.reconfigure(&Setup::open());
    let gone = async {
        loop {
            let status: Value = registry.admin().get("/status").await.json().await.unwrap();
            if status["expected"].is_null() {
                break;
            }
        }
    };
    within(gone).await;
    let metrics = registry.admin().get("/metrics").await.text().await.unwrap();
    assert!(!metrics.contains("\nd8_registry_expected_"), "nothing is expected");
    let log = registry.stop();
    assert!(log.iter().all(|line| line["level"] != "ERROR"), "{log:?}");
}

/// In a Proxy the cache counts, and Local is told beside it.
#[tokio::test]
async fn a_cache_is_whole_when_it_has_every_layer() {
    let upstream = Upstream::start();
    let (one, two) = (Image::of(1), Image::of(2));
    for (image, tag) in [(&one, "one"), (&two, "two")] {
        upstream.put_image(REPO, tag, image);
    }
    let setup = Setup::proxy(&upstream).config("store: { dir: $DIR, reserveBytes: 0, expected: $DIR/../list }");
    let registry = Registry::start(&setup);
    let client = registry.client();
    write_list(&file(&registry, "list"), &[], &[&one.digest(), &two.digest()]);
    let proxy = || of_mode(&looked(&registry), "Proxy");
    assert_eq!(proxy().1, 2);
    for image in [&one, &two] {
        let path = format!("/v2/{ALIAS}/manifests/{}", image.digest());
        assert_eq!(client.get(&path).await.bytes().await.unwrap(), image.manifest());
    }
    let (images, missing, named) = proxy();
    assert_eq!((images, missing), (2, 2));
    assert!(named[0].contains("its blob ") && named[1].contains("its blob "), "{named:?}");
    for content in one.blobs().iter().chain(two.blobs()) {
        let path = format!("/v2/{ALIAS}/blobs/{}", testkit::digest(content));
        assert!(client.get(&path).await.bytes().await.unwrap() == *content);
    }
    // The last byte may be there before the content has its name.
    within(async { while proxy().1 > 0 {} }).await;
    assert_eq!(metrics(&registry, PROXY).await, [2.0, 0.0, 1.0]);
    assert_eq!(metrics(&registry, LOCAL).await, [2.0, 2.0, 0.0]);
    let log = registry.stop();
    let said = |mode: &str, level: &str, message: &str| {
        let is = |line: &&Value| line["mode"] == mode && line["level"] == level && line["message"] == message;
        log.iter().filter(is).count()
    };
    assert_eq!(said("Proxy", "WARN", "not all that store.expected names is there"), 1);
    assert_eq!(said("Local", "INFO", "not all that store.expected names is there"), 1);
    assert_eq!(said("Proxy", "INFO", "all that store.expected names is there, whole"), 1);
}

/// What `check` writes of a release is what a server takes, and is replaced whole or not at all.
#[tokio::test]
async fn the_list_that_check_writes_is_the_one_that_is_looked_for() {
    let (edition, release) = (Edition::of(&RELEASES), RELEASES[1]);
    let source = Registry::start(&Setup::open());
    push(&source.client(), &edition).await;
    let folder = TempDir::new().unwrap();
    let list = folder.path().join("list.yaml");
    let url = format!("http://{}/{ROOT}", source.address());
    let check = async |words: &[&str], code: i32| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"] {
            command.env_remove(name).env_remove(name.to_ascii_lowercase());
        }
        command.args(["check", "--registry", &url, "--output", text(&list)]).args(words);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stderr).unwrap()
    };
    check(&["--release", release], 0).await;
    let written = std::fs::read_to_string(&list).unwrap();
    let own = edition.layouts[""].tagged(release).unwrap();
    assert!(written.contains(&format!("- \"{release}\"\n")) && written.contains(own), "{written}");
    assert_eq!(written.matches("sha256:").count(), 3, "{written}");
    let setup = format!("store: {{ dir: $DIR, reserveBytes: 0, expected: '{}' }}", list.display());
    let registry = Registry::start(&Setup::open().config(&setup));
    assert!(local(&registry).1 > 0);
    push(&registry.client(), &edition).await;
    assert_eq!(local(&registry), (4, 0, Vec::new()));

    // A tag that nobody has: the list stays as it was.
    let images = folder.path().join("images");
    std::fs::write(&images, "registry.example/ee:v9.9.9\n").unwrap();
    let error = check(&["--images", text(&images)], 1).await;
    assert!(error.contains("--output"), "{error}");
    assert_eq!(std::fs::read_to_string(&list).unwrap(), written);
    // A list by digest needs nobody.
    std::fs::write(&images, format!("a/b registry.example/ee@{own}\n")).unwrap();
    check(&["--images", text(&images)], 0).await;
    let written = std::fs::read_to_string(&list).unwrap();
    assert_eq!(written.lines().skip(1).collect::<Vec<_>>(), ["releases: []", "images:", &format!("- \"{own}\"")]);
}
