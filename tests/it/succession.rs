//! A server in the place of another one of the same data directory: first master before the cluster, the cluster's own after it.

use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;
use testkit::bundle::{Edition, RELEASES};

use crate::bundles::{ROOT, text, written};
use crate::support::{Image, Registry, Setup, within};

/// The second server of a folder, at the same address; by the time it listens the first one has ended.
fn successor(first: &Registry, setup: Setup) -> Registry {
    let (folder, setup) = (first.folder(), setup.config(&format!("listen: {}", first.address())));
    Registry::start_in(folder, &setup)
}

#[tokio::test]
async fn a_server_that_gives_way_is_followed_at_its_address_and_with_its_data() {
    let first = Registry::start(&Setup::open().argument("--give-way"));
    let image = Image::of(1);
    first.client().push_image("a", "v1", &image).await;
    let second = successor(&first, Setup::open());
    assert_eq!(second.address(), first.address());
    let log = first.ended();
    assert!(log.iter().any(|line| line["message"] == "gives way to another server of this data directory"), "{log:?}");
    assert_eq!(log.last().unwrap()["message"], "ended");
    let answer = second.client().get("/v2/a/manifests/v1").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.bytes().await.unwrap(), image.manifest());
    // It was not asked to give way, so it stays whoever comes.
    let third = Command::new(env!("CARGO_BIN_EXE_d8-registry"))
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--give-way", "--data-dir"])
        .arg(second.data())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&third.stderr).into_owned();
    assert_eq!(third.status.code(), Some(1), "{said}");
    assert!(said.contains("does not give way") && said.contains("started without --give-way"), "{said}");
    assert!(said.contains("another d8-registry is using"), "{said}");
    assert_eq!(second.client().get("/v2/a/manifests/v1").await.status(), 200);
    second.stop();
}

#[tokio::test]
async fn a_request_that_runs_ends_whole_before_the_next_server_begins() {
    const BYTES: usize = 16 << 20;
    let first = Registry::start(&Setup::open().argument("--give-way"));
    let content: Vec<u8> = (0..BYTES).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let digest = first.client().push_blob("a", &content).await;
    let mut answer = first.client().get(&format!("/v2/a/blobs/{digest}")).await;
    let mut read = answer.chunk().await.unwrap().unwrap().to_vec();
    let (folder, setup) = (first.folder(), Setup::open().config(&format!("listen: {}", first.address())));
    let starting = tokio::task::spawn_blocking(move || Registry::start_in(folder, &setup));
    let is_told = || first.logged().iter().any(|line| line["message"] == "shutting down");
    within(async {
        while !is_told() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // More than sockets hold is on its way still, so the first server can't have ended.
    while let Some(piece) = within(answer.chunk()).await.unwrap() {
        read.extend_from_slice(&piece);
    }
    assert!(read == content, "the answer is not the content");
    let follower = within(starting).await.unwrap();
    first.ended();
    assert_eq!(follower.client().head(&format!("/v2/a/blobs/{digest}")).await.status(), 200);
    follower.stop();
}

#[tokio::test]
async fn from_a_bundle_on_a_disk_to_a_store_of_ones_own() {
    let bundle = written(&Edition::of(&RELEASES), None);
    let path = format!("/v2/{ROOT}/manifests/{}", RELEASES[0]);
    let first = Registry::start(&Setup::open().argument("--give-way").argument("--bundle").argument(bundle.path()));
    let served = first.client().get(&path).await;
    assert_eq!(served.status(), 200);
    let served = served.bytes().await.unwrap();
    // What comes behind it is there before: the store that this server holds and does not serve is filled.
    let imported = Command::new(env!("CARGO_BIN_EXE_d8-registry"))
        .args(["bundle", "import", "--data-dir"])
        .args([text(&first.data()), text(bundle.path())])
        .output()
        .unwrap();
    assert_eq!(imported.status.code(), Some(0), "{}", String::from_utf8_lossy(&imported.stderr));
    let second = successor(&first, Setup::open());
    first.ended();
    drop(bundle);
    assert_eq!(second.client().get(&path).await.bytes().await.unwrap(), served);
    second.stop();
}

#[test]
fn a_command_that_holds_the_store_is_not_asked_to_end() {
    let folder = Arc::new(TempDir::new().unwrap());
    let data = folder.path().join("data");
    let held = d8_registry::store::Store::init(&data).unwrap();
    assert!(held);
    let marker = std::fs::File::open(data.join(".d8-registry")).unwrap();
    rustix::fs::flock(&marker, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let refused = Command::new(env!("CARGO_BIN_EXE_d8-registry"))
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("takes no orders") && said.contains("another d8-registry is using"), "{said}");
}
