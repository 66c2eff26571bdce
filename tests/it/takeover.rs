//! Taking over another registry's images as an administrator orders it: in a running server, on a stopped store, and out again.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use testkit::distribution::Tree;

use crate::support::{Cut, Image, Registry, Setup, Upstream, assert_store_is_tidy, blob, digest};

fn command(words: &[&str], data: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    command.args(words).arg("--data-dir").arg(data).output().unwrap()
}

/// The report of an import that ends with `code`.
fn import(code: i32, words: &[&str], data: &Path) -> Value {
    // The machine's disk may be fuller than a store's default allows.
    let config = data.with_extension("import.yaml");
    std::fs::write(&config, "store: { reserveBytes: 0 }\n").unwrap();
    let output = command(&[&["import", "--json", "--config", text(&config)], words].concat(), data);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {error}"))
}

/// Writes images as distribution keeps them.
fn write(root: &Path, images: &[(&str, &str, &Image)]) -> Tree {
    let tree = Tree::new(root).unwrap();
    for (repository, tag, image) in images {
        for content in image.blobs() {
            let digest = tree.content(content).unwrap();
            tree.layer(repository, &digest).unwrap();
        }
        let digest = tree.content(image.manifest()).unwrap();
        tree.revision(repository, &digest).unwrap();
        tree.tag(repository, tag, &digest).unwrap();
    }
    tree
}

async fn assert_pulled(registry: &Registry, repository: &str, tag: &str, image: &Image) {
    let client = registry.client();
    let response = client.get(&format!("/v2/{repository}/manifests/{tag}")).await;
    assert_eq!(response.status(), 200, "{repository}:{tag}");
    assert_eq!(response.bytes().await.unwrap(), image.manifest());
    for content in image.blobs() {
        let response = client.get(&format!("/v2/{repository}/blobs/{}", digest(content))).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.bytes().await.unwrap(), content.as_slice());
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn a_running_server_takes_a_tree_over_and_serves_it_at_once() {
    let (one, two, broken) = (Image::of(1), Image::of(2), Image::of(3));
    let registry = Registry::start(&Setup::open());
    let source = registry.folder().path().join("source");
    let tree = write(
        &source,
        &[("system/deckhouse", "v1", &one), ("system/deckhouse/install", "v2", &two), ("a", "broken", &broken)],
    );
    std::fs::remove_file(tree.data(&digest(&broken.blobs()[1]))).unwrap();
    // A tag list that was asked for before has the new ones behind.
    registry.client().push_image("system/deckhouse", "v0", &two).await;
    let report = import(1, &["--from-distribution", text(&source), "--move"], &registry.data());
    assert_eq!((&report["tags"]["taken"], &report["tags"]["left"]), (&2.into(), &1.into()), "{report}");
    assert_eq!(report["left"][0]["image"], "a:broken", "{report}");
    assert_pulled(&registry, "system/deckhouse", "v1", &one).await;
    assert_pulled(&registry, "system/deckhouse/install", "v2", &two).await;
    let tags: Value = registry.client().get("/v2/system/deckhouse/tags/list").await.json().await.unwrap();
    assert_eq!(tags["tags"], serde_json::json!(["v0", "v1"]));
    let again = import(0, &["--from-distribution", text(&source), "--allow-missing"], &registry.data());
    assert_eq!((&again["tags"]["present"], &again["bytes"]), (&2.into(), &0.into()), "{again}");
    let status: Value = registry.admin().get("/status").await.json().await.unwrap();
    let jobs = status["jobs"].as_array().unwrap();
    assert!(jobs.iter().any(|job| job["name"] == "import" && job["runs"]["ok"] == 2), "{jobs:?}");
    let nowhere = registry.folder().path().join("nowhere");
    let refused = command(&["import", "--from-oci", text(&nowhere)], &registry.data());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("nowhere can't be read by user "), "{said}");
    let (data, folder) = (registry.data(), registry.folder());
    registry.stop();
    assert_store_is_tidy(&data);
    drop(folder);
}

/// At no moment a tag leads to less than its image, and what was there before is there all the time.
#[tokio::test]
async fn pulls_beside_an_import_find_an_image_whole_or_not_at_all() {
    let registry = Registry::start(&Setup::open());
    let images: Vec<Image> = (10..40).map(Image::of).collect();
    let tags: Vec<String> = (0..images.len()).map(|number| format!("v{number}")).collect();
    let source = registry.folder().path().join("source");
    let named: Vec<_> = images.iter().zip(&tags).map(|(image, tag)| ("team/app", tag.as_str(), image)).collect();
    write(&source, &named);
    registry.client().push_image("before", "v1", &images[0]).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    command.args(["import", "--move", "--from-distribution", text(&source), "--data-dir"]).arg(registry.data());
    let mut importing = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let (client, mut found, mut is_over) = (registry.client(), std::collections::BTreeSet::new(), false);
    while found.len() < images.len() {
        for (tag, image) in tags.iter().zip(&images) {
            match client.get(&format!("/v2/team/app/manifests/{tag}")).await.status().as_u16() {
                200 if found.insert(tag) => assert_pulled(&registry, "team/app", tag, image).await,
                200 => {}
                404 => assert!(!is_over && !found.contains(tag), "{tag}"),
                status => panic!("{tag}: {status}"),
            }
        }
        assert_pulled(&registry, "before", "v1", &images[0]).await;
        is_over = importing.try_wait().unwrap().is_some();
    }
    assert!(importing.wait().unwrap().success());
    let (data, folder) = (registry.data(), registry.folder());
    registry.stop();
    assert_store_is_tidy(&data);
    drop(folder);
}

#[tokio::test]
async fn a_stopped_store_takes_a_tree_over_beside_it_in_the_same_directory() {
    let folder = std::sync::Arc::new(TempDir::new().unwrap());
    let (data, image) = (folder.path().join("data"), Image::of(1));
    // Deckhouse's own directory, in which a store is laid out beside the tree.
    let tree = write(&data, &[("system/deckhouse", "v1", &image)]);
    let refused = command(&["import", "--from-distribution", text(&data)], &data);
    assert_eq!(refused.status.code(), Some(1), "there is no store yet");
    assert!(command(&["init"], &data).status.success());
    let look = import(0, &["--from-distribution", text(&data), "--move", "--dry-run"], &data);
    assert_eq!((&look["dryRun"], &look["tags"]["taken"]), (&true.into(), &1.into()));
    let report = import(0, &["--from-distribution", text(&data), "--move"], &data);
    assert_eq!(report["bytes"], report["movedBytes"], "{report}");
    assert!(!tree.data(&digest(&image.blobs()[0])).exists());
    assert_store_is_tidy(&data);
    let registry = Registry::start_in(std::sync::Arc::clone(&folder), &Setup::open());
    assert_pulled(&registry, "system/deckhouse", "v1", &image).await;
}

#[tokio::test]
async fn images_come_from_a_registry_and_go_out_as_a_layout() {
    let (one, two) = (Image::of(1), Image::of_layers(b"{}".to_vec(), vec![blob(2, 3_000_000)], &Value::Null));
    let from = Registry::start(&Setup::with_users());
    let client = from.client_as("rw");
    client.push_image("up/app", "v1", &one).await;
    client.push_image("up/app", "v2", &two).await;
    let signature = Image::with(3, &serde_json::json!({ "subject": one.descriptor() }));
    client.push_image("up/app", &signature.digest(), &signature).await;
    let dir = TempDir::new().unwrap();
    let (data, layout, password) = (dir.path().join("data"), dir.path().join("layout"), dir.path().join("password"));
    std::fs::write(&password, "secret\n").unwrap();
    assert!(command(&["init"], &data).status.success());
    let url = format!("http://{}/up/app", from.address());
    let words = ["--from-registry", &url, "--repository", "up/app=system/deckhouse", "--username", "ro"];
    let words = [&words[..], &["--password-file", text(&password)]].concat();
    // The password is asked for by nobody who has it not.
    let refused = command(&["import", "--from-registry", &url], &data);
    assert_eq!(refused.status.code(), Some(1));
    let report = import(0, &words, &data);
    assert_eq!((&report["tags"]["taken"], &report["manifests"]["taken"]), (&2.into(), &3.into()), "{report}");
    let again = import(0, &words, &data);
    assert_eq!(again["bytes"], 0, "{again}");
    from.stop();
    assert_store_is_tidy(&data);

    let output = command(&["export", "--json", "--to-oci", text(&layout), "system/deckhouse:v1"], &data);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&said["tags"], &said["manifests"]), (&1.into(), &2.into()), "{said}");
    let exported = |content: &[u8]| {
        let path: PathBuf = layout.join("blobs/sha256").join(digest(content).trim_start_matches("sha256:"));
        path.exists().then(|| std::fs::read(path).unwrap())
    };
    assert_eq!(exported(one.manifest()).as_deref(), Some(one.manifest()));
    assert_eq!(exported(signature.manifest()).as_deref(), Some(signature.manifest()));
    assert_eq!(exported(two.manifest()), None);
    let unknown = command(&["export", "--to-oci", text(&layout), "system/deckhouse:v9"], &data);
    assert_eq!(unknown.status.code(), Some(1));
}

#[tokio::test]
async fn a_running_server_takes_all_that_a_registry_lists_or_what_is_below_a_name() {
    let images = [Image::of(1), Image::of(2), Image::of(3)];
    let from = Registry::start(&Setup::with_users());
    let client = from.client_as("rw");
    for (image, name) in images.iter().zip(["up/app", "up/app/sub", "other"]) {
        client.push_image(name, "v1", image).await;
    }
    let to = Registry::start(&Setup::open());
    let (data, url) = (to.data(), format!("http://{}", from.address()));
    let password = to.folder().path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let words = ["--from-registry", &url, "--username", "mirror-puller", "--password-file", text(&password)];
    let some = [&words[..], &["--repository", "up=system"]].concat();
    let report = import(0, &some, &data);
    assert_eq!((&report["tags"]["taken"], &report["repositories"]), (&2.into(), &2.into()), "{report}");
    assert_pulled(&to, "system/app", "v1", &images[0]).await;
    assert_pulled(&to, "system/app/sub", "v1", &images[1]).await;
    assert_eq!(to.client().get("/v2/other/manifests/v1").await.status(), 404);
    let report = import(0, &words, &data);
    assert_eq!((&report["tags"]["taken"], &report["tags"]["present"]), (&3.into(), &0.into()), "{report}");
    assert_pulled(&to, "other", "v1", &images[2]).await;
    let refused = command(&["import", "--from-registry", &url], &data);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("can't be listed") && !said.contains("secret"), "{said}");
    let folder = to.folder();
    to.stop();
    assert_store_is_tidy(&data);
    drop(folder);
}

/// What came of it is in the store, and only the rest is asked for.
#[tokio::test]
async fn a_large_blob_is_gone_on_with_by_the_next_run() {
    const CAME: usize = 18_000_000;
    let upstream = Upstream::start();
    let image = Image::of_layers(b"{}".to_vec(), vec![blob(2, 20_000_000)], &Value::Null);
    upstream.put_image("up/app", "v1", &image);
    let path = format!("/v2/up/app/blobs/{}", digest(&image.blobs()[1]));
    upstream.once("GET", &path, |answer| {
        answer.cut(CAME, Cut::Fin);
    });
    upstream.rule("GET", &path, |answer| {
        answer.status(403);
    });
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    assert!(command(&["init"], &data).status.success());
    let url = format!("http://{}/up/app", upstream.address());
    let report = import(1, &["--from-registry", &url], &data);
    assert_eq!((&report["tags"]["left"], &report["blobs"]["left"]), (&1.into(), &1.into()), "{report}");
    upstream.heal();
    upstream.forget_seen();
    let report = import(0, &["--from-registry", &url], &data);
    assert_eq!((&report["tags"]["taken"], &report["bytes"]), (&1.into(), &20_000_000.into()), "{report}");
    let asked = upstream.asked("GET", &path);
    let ranges: Vec<_> = asked.iter().map(|asked| asked.header("range")).collect();
    assert_eq!(ranges, [Some(&*format!("bytes={CAME}-"))]);
    assert_store_is_tidy(&data);
    let registry = Registry::start_in(std::sync::Arc::new(dir), &Setup::open());
    assert_pulled(&registry, "up/app", "v1", &image).await;
}
