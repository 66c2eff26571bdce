//! What goes by itself - tags by rules, manifests that nothing reaches - goes on all masters or on none.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::layer::{Tar, gzip};

use super::*;
use crate::collection::write_pins;
use crate::support::order;

/// A day of grace, and the time for answers on their way.
const GRACE_MILLIS: u64 = 86_400_000 + 600_000;

const KEYS: &str =
    "store: { dir: $DIR, reserveBytes: 0, pins: $DIR/../pins.yaml }\nretention: { releases: { keep: 1 } }";

/// A run by order, on the master's own socket.
async fn gc(masters: &Masters, master: usize) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    command.args(["gc", "--json", "--data-dir"]).arg(masters.at(master).data());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Has these masters compare their records, and waits until they are the same.
pub(super) async fn until_same(masters: &Masters, all: &[usize]) {
    for master in all {
        order(&masters.at(*master).data(), "/jobs/comparison/run").await.unwrap();
    }
    masters.until_same(all).await;
}

/// Lets the servers of a stopped master have run for the grace.
fn run_for_the_grace(folder: &Path) {
    let note = folder.join("data/gc/running-time");
    let millis: u64 = std::fs::read_to_string(&note).unwrap().trim().parse().unwrap();
    std::fs::write(&note, format!("{}\n", millis + GRACE_MILLIS)).unwrap();
}

async fn all_run_for_the_grace(masters: &mut Masters, count: usize) {
    for master in 0..count {
        let folder = masters.stop(master);
        run_for_the_grace(folder.path());
        masters.start_again(master, folder).await;
    }
    let all: Vec<usize> = (0..count).collect();
    until_same(masters, &all).await;
    for master in 0..count {
        masters.at(master).until_metric("d8_registry_gc_held", 0.0).await;
        masters.at(master).until_metric("d8_registry_pins_usable", 1.0).await;
    }
}

/// The install image of a release that needs this one image.
fn install(release: &str, image: &Image) -> Image {
    let list = json!({ "common": { "one": image.digest() } }).to_string();
    let layer = gzip(&Tar::new().file("deckhouse/candi/images_digests.json", list).finish()).unwrap();
    Image::of_layers(release.as_bytes().to_vec(), vec![layer], &json!({}))
}

fn pin(masters: &Masters, master: usize, images: &[&str]) {
    write_pins(&masters.at(master).folder().path().join("pins.yaml"), images);
}

async fn head(masters: &Masters, master: usize, repo: &str, reference: &str) -> u16 {
    masters.client(master, "mirror-puller").head(&manifest_path(repo, reference)).await.status().as_u16()
}

async fn start(count: usize) -> Masters {
    let masters = Masters::start_with(count, KEYS).await;
    for master in 0..count {
        pin(&masters, master, &[&digest(b"runs everywhere")]);
        masters.at(master).until_metric("d8_registry_pins_usable", 1.0).await;
    }
    masters
}

/// Two releases on all masters, of which the first is to go; its image, and both tags of it.
async fn push_releases(masters: &Masters, count: usize) -> (Image, [(String, String); 2]) {
    let images = [Image::of(200), Image::of(201)];
    for (release, image) in ["v1.70.0", "v1.70.1"].into_iter().zip(&images) {
        let client = masters.client(0, "rw");
        client.push_image(NAME, &image.digest()["sha256:".len()..], image).await;
        client.push_image(&format!("{NAME}/install"), release, &install(release, image)).await;
    }
    let all: Vec<usize> = (0..count).collect();
    until_same(masters, &all).await;
    let [gone, _] = images;
    let hex = gone.digest()["sha256:".len()..].to_owned();
    (gone, [(NAME.to_owned(), hex), (format!("{NAME}/install"), "v1.70.0".to_owned())])
}

#[tokio::test]
async fn a_release_goes_when_no_master_pins_it_and_was_asked_for_it_whoever_looks() {
    let mut masters = start(2).await;
    let (gone, tags) = push_releases(&masters, 2).await;
    // One master knows what runs, and all pulls come there.
    pin(&masters, 1, &[&gone.digest(), &digest(b"runs everywhere")]);
    within(async {
        let found = async || {
            let status: Value = masters.at(1).admin().get("/status").await.json().await.unwrap();
            status["pins"]["images"] == 2
        };
        while !found().await {}
    })
    .await;
    let refused = gc(&masters, 0).await;
    assert_eq!((&refused["retention"]["going"], &refused["retention"]["keptByMasters"]), (&0.into(), &2.into()));
    for (repo, tag) in &tags {
        assert_eq!((head(&masters, 0, repo, tag).await, head(&masters, 1, repo, tag).await), (200, 200));
    }
    // It runs no more.
    pin(&masters, 1, &[&digest(b"runs everywhere")]);
    within(async { while gc(&masters, 0).await["retention"]["going"] != 2 {} }).await;
    until_same(&masters, &[0, 1]).await;
    for (repo, tag) in &tags {
        for master in [0, 1] {
            // It is written down before it is done.
            within(async { while head(&masters, master, repo, tag).await != 404 {} }).await;
            assert_eq!(status(&masters.client(master, "ro"), &manifest_path(repo, tag)).await, 404);
        }
    }
    // By digest it is there for its grace, on both.
    for master in [0, 1] {
        pulled(&masters.client(master, "mirror-puller"), &gone).await;
        // Where the rule was carried out both were suspects at once, of which one was asked for now.
        assert_eq!(gc(&masters, master).await["suspected"]["manifests"], 1 + master);
    }
    all_run_for_the_grace(&mut masters, 2).await;
    // Asked for on one of them, it stays on both.
    pulled(&masters.client(1, "ro"), &gone).await;
    let kept = gc(&masters, 0).await;
    assert_eq!((&kept["removed"]["manifests"], &kept["keptByMasters"]), (&1.into(), &1.into()), "{kept}");
    until_same(&masters, &[0, 1]).await;
    for master in [0, 1] {
        pulled(&masters.client(master, "mirror-puller"), &gone).await;
        assert_eq!(gc(&masters, master).await["suspected"]["manifests"], 1);
    }
    all_run_for_the_grace(&mut masters, 2).await;
    let removed = gc(&masters, 1).await;
    assert_eq!(removed["removed"]["manifests"], 1, "{removed}");
    until_same(&masters, &[0, 1]).await;
    // Nor does it come back by a start, and nobody is told to wait for it.
    for master in [0, 1] {
        let folder = masters.stop(master);
        masters.start_again(master, folder).await;
    }
    until_same(&masters, &[0, 1]).await;
    for master in [0, 1] {
        within(async { while head(&masters, master, NAME, &gone.digest()).await != 404 {} }).await;
        assert_eq!(status(&masters.client(master, "ro"), &manifest_path(NAME, &gone.digest())).await, 404);
    }
    masters.end();
}

#[tokio::test]
async fn with_a_master_away_no_tag_and_no_manifest_goes_and_the_status_says_why() {
    let mut masters = start(3).await;
    let (gone, tags) = push_releases(&masters, 3).await;
    let folder: Arc<TempDir> = masters.stop(2);
    let refused = gc(&masters, 0).await;
    let why = refused["retention"]["mastersAway"].as_str().unwrap();
    assert!(why.starts_with(&masters.addresses()[2]), "{why}");
    assert_eq!(refused["retention"]["going"], 0);
    let told: Value = masters.at(0).admin().get("/status").await.json().await.unwrap();
    assert!(told["collection"]["mastersAway"].is_string(), "{told}");
    assert_eq!(masters.at(0).metric("d8_registry_gc_masters_away").await, 1.0);
    for (repo, tag) in &tags {
        assert_eq!((head(&masters, 0, repo, tag).await, head(&masters, 1, repo, tag).await), (200, 200));
    }
    masters.start_again(2, folder).await;
    until_same(&masters, &[0, 1, 2]).await;
    for master in [0, 1, 2] {
        masters.at(master).until_metric("d8_registry_gc_held", 0.0).await;
        masters.at(master).until_metric("d8_registry_pins_usable", 1.0).await;
    }
    // Who was away is asked again when its circuit says so.
    within(async { while gc(&masters, 1).await["retention"]["going"] != 2 {} }).await;
    assert_eq!(masters.at(1).metric("d8_registry_gc_masters_away").await, 0.0);
    until_same(&masters, &[0, 1, 2]).await;
    for (master, suspected) in [2, 0, 2].into_iter().enumerate() {
        assert_eq!(gc(&masters, master).await["suspected"]["manifests"], suspected);
    }
    all_run_for_the_grace(&mut masters, 3).await;
    masters.kill(1);
    let refused = gc(&masters, 0).await;
    assert!(refused["mastersAway"].is_string() && refused["removed"]["manifests"] == 0, "{refused}");
    pulled(&masters.client(2, "mirror-puller"), &gone).await;
    masters.end();
}

#[tokio::test]
async fn to_other_masters_alone_it_is_said_what_would_go() {
    let masters = start(2).await;
    let path = format!("{}/-/peer/v2/{NAME}/removable/by-rule", masters.base(1));
    let ask = async |identity: Option<usize>, hop: bool| {
        let client = masters.authority.client(identity.map(|master| masters.identity(master)).as_ref());
        let question = client.get(&path);
        let question = if hop { question.header("d8-hop", "1") } else { question };
        let answer = question.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    push_releases(&masters, 2).await;
    let (code, text) = ask(Some(0), true).await;
    assert_eq!(code, 200);
    let lines: Vec<&str> = text.trim_start().lines().collect();
    assert_eq!((lines.len(), lines.last()), (3, Some(&"done")), "{text}");
    assert!(
        lines.iter().any(|line| line.starts_with(&format!("{NAME}/install ")) && line.contains(" v1.70.0 sha256:"))
    );
    assert_eq!(ask(Some(0), false).await.0, 400);
    assert_eq!(ask(None, true).await.0, 404);
    masters.end();
}
