//! The server is killed where it stands at each durable step of a push, a delete and a fill from an upstream; another one
//! starts on what is left. What was acknowledged is there, nothing half is served, what was cut off can be done again,
//! the use is counted right and nothing is left over.

use std::future::Future;
use std::sync::Arc;

use reqwest::Method;
use tempfile::TempDir;

use crate::support::{Client, Image, Registry, Setup, assert_store_is_tidy, blob, digest, files_below};

/// From the bytes under a name of their own to the membership in the repository.
const CONTENT: &[&str] = &[
    "store::content::before_rename",
    "store::content::after_rename",
    "store::content::before_link",
    "store::content::after_link",
];
const TAG: &[&str] = &["store::tag::before_rename", "store::tag::after_rename"];
const UPLOAD: &[&str] = &["store::upload::before_sync"];
const FILL: &[&str] = &["store::fill::after_append", "store::fill::before_sync"];

/// Starts a server in `folder` that stops at `point`, lets `work` run into it and kills the server there.
async fn kill_at<F: Future<Output = ()>>(
    point: &str,
    folder: &Arc<TempDir>,
    setup: Setup,
    work: impl FnOnce(Client) -> F,
) {
    let registry = Registry::start_in(Arc::clone(folder), &setup.pause_at(point));
    tokio::select! {
        () = registry.paused() => {}
        () = work(registry.client()) => panic!("{point} was not reached"),
    }
    registry.kill();
}

/// All of a blob, if it is there: a part of it is never served.
async fn whole_blob(client: &Client, repo: &str, content: &[u8]) -> bool {
    let response = client.get(&format!("/v2/{repo}/blobs/{}", digest(content))).await;
    match response.status().as_u16() {
        404 => false,
        200 => {
            assert_eq!(response.bytes().await.unwrap(), content);
            true
        }
        status => panic!("{status}"),
    }
}

/// The bytes of a manifest, if it is there.
async fn manifest(client: &Client, repo: &str, reference: &str) -> Option<Vec<u8>> {
    let response = client.get(&format!("/v2/{repo}/manifests/{reference}")).await;
    match response.status().as_u16() {
        404 => None,
        200 => Some(response.bytes().await.unwrap().to_vec()),
        status => panic!("{status}"),
    }
}

async fn assert_whole(client: &Client, repo: &str, reference: &str, image: &Image) {
    assert_eq!(manifest(client, repo, reference).await.as_deref(), Some(image.manifest()), "{repo}:{reference}");
    for content in image.blobs() {
        assert!(whole_blob(client, repo, content).await, "{repo} lacks a blob");
    }
}

/// Stops the server and looks at what it leaves; neither uploads nor fills are among it.
async fn assert_tidy(registry: Registry) {
    registry.counted().await;
    let (folder, data) = (registry.folder(), registry.data());
    registry.stop();
    assert_store_is_tidy(&data);
    let left: Vec<_> = ["uploads", "fills"].iter().flat_map(|name| files_below(&data.join(name))).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    drop(folder);
}

/// A folder with a whole image in it.
async fn with_image(image: &Image) -> Arc<TempDir> {
    let registry = Registry::start(&Setup::open());
    registry.client().push_image("a", "kept", image).await;
    let folder = registry.folder();
    registry.stop();
    folder
}

#[tokio::test]
async fn in_a_push_of_a_blob() {
    let (kept, new) = (Image::of(1), blob(2, 300_000));
    for point in UPLOAD.iter().chain(CONTENT) {
        let folder = with_image(&kept).await;
        let location = std::cell::OnceCell::new();
        kill_at(point, &folder, Setup::open(), async |client: Client| {
            let begun = client.begin("a").await;
            location.set(begun.clone()).unwrap();
            let patched = client.request(Method::PATCH, &begun).body(new.clone()).send().await.unwrap();
            assert_eq!(patched.status(), 202);
            let _ = client.put(&format!("{begun}?digest={}", digest(&new)), "application/octet-stream", "").await;
        })
        .await;
        let location = location.into_inner().unwrap();

        let registry = Registry::start_in(folder, &Setup::open());
        let client = registry.client();
        assert_whole(&client, "a", "kept", &kept).await;
        let there = whole_blob(&client, "a", &new).await;
        // What the client does whose answer never came: it asks, goes on from there, and gives the digest once more.
        let asked = client.get(&location).await.status();
        let finish = format!("{location}?digest={}", digest(&new));
        let finished = client.put(&finish, "application/octet-stream", "").await.status();
        match asked.as_u16() {
            204 => assert_eq!(finished, 201, "{point}"),
            404 => assert_eq!(finished, if there { 201 } else { 404 }, "{point}"),
            status => panic!("{point}: {status}"),
        }
        client.push_blob("a", &new).await;
        assert!(whole_blob(&client, "a", &new).await);
        assert_tidy(registry).await;
    }
}

#[tokio::test]
async fn in_a_push_of_a_manifest_that_moves_a_tag() {
    let (old, new) = (Image::of(1), Image::of(2));
    for point in CONTENT.iter().chain(TAG) {
        let folder = with_image(&old).await;
        let before = Registry::start_in(folder, &Setup::open());
        let client = before.client();
        for content in new.blobs() {
            client.push_blob("a", content).await;
        }
        let folder = before.folder();
        before.stop();
        kill_at(point, &folder, Setup::open(), async |client: Client| {
            let _ = client.put_image("a", "kept", &new).await;
        })
        .await;

        let registry = Registry::start_in(folder, &Setup::open());
        let client = registry.client();
        let tagged = manifest(&client, "a", "kept").await.expect("the tag is lost");
        assert!(tagged == old.manifest() || tagged == new.manifest(), "{point}: neither the old nor the new");
        assert_whole(&client, "a", &old.digest(), &old).await;
        if let Some(found) = manifest(&client, "a", &new.digest()).await {
            assert_eq!(found, new.manifest(), "{point}");
        }
        assert_eq!(client.put_image("a", "kept", &new).await.status(), 201);
        assert_whole(&client, "a", "kept", &new).await;
        assert_tidy(registry).await;
    }
}

#[tokio::test]
async fn in_a_delete() {
    let (kept, extra) = (Image::of(1), blob(2, 5000));
    let folder = with_image(&kept).await;
    let before = Registry::start_in(folder, &Setup::open());
    before.client().push_blob("a", &extra).await;
    let folder = before.folder();
    before.stop();
    kill_at("store::content::before_reclaim", &folder, Setup::open(), async |client: Client| {
        client.delete(&format!("/v2/a/blobs/{}", digest(&extra))).await;
    })
    .await;

    let registry = Registry::start_in(folder, &Setup::open());
    let client = registry.client();
    assert_whole(&client, "a", "kept", &kept).await;
    if whole_blob(&client, "a", &extra).await {
        assert_eq!(client.delete(&format!("/v2/a/blobs/{}", digest(&extra))).await.status(), 202);
    }
    assert_tidy(registry).await;
}

/// A Proxy in front of `upstream`.
fn proxy(upstream: &Registry) -> Setup {
    Setup::in_front_of_repo("Proxy", &format!("{}/up", upstream.address()), "scheme: HTTP")
}

/// Kills a Proxy at `point` while it gets `path`; then another one gets it whole and keeps it when the upstream is gone.
async fn fill_killed_at(point: &str, upstream: Registry, path: &str, content: &[u8]) {
    let folder = Arc::new(TempDir::new().unwrap());
    kill_at(point, &folder, proxy(&upstream), async |client: Client| {
        let response = client.get(path).await;
        // A client may have got all of it; never less, as if it were all.
        if let Ok(bytes) = response.bytes().await {
            assert_eq!(bytes, content);
        }
        std::future::pending::<()>().await;
    })
    .await;

    let registry = Registry::start_in(Arc::clone(&folder), &proxy(&upstream));
    let setup = proxy(&upstream);
    let response = registry.client().get(path).await;
    assert_eq!(response.status(), 200, "{point}");
    assert_eq!(response.bytes().await.unwrap(), content, "{point}");
    assert_tidy(registry).await;
    upstream.kill();
    let alone = Registry::start_in(folder, &setup);
    let response = alone.client().get(path).await;
    assert_eq!(response.status(), 200, "{point}: what was fetched is not kept");
    assert_eq!(response.bytes().await.unwrap(), content, "{point}");
    alone.stop();
}

#[tokio::test]
async fn in_a_fill_of_a_blob() {
    let content = blob(3, 900_000);
    for point in FILL.iter().chain(CONTENT) {
        let upstream = Registry::start(&Setup::open());
        upstream.client().push_blob("up/app", &content).await;
        let path = format!("/v2/system/deckhouse/app/blobs/{}", digest(&content));
        fill_killed_at(point, upstream, &path, &content).await;
    }
}

#[tokio::test]
async fn in_a_fill_of_a_manifest() {
    let image = Image::of(4);
    for point in CONTENT.iter().chain(TAG) {
        let upstream = Registry::start(&Setup::open());
        upstream.client().push_image("up/app", "v1", &image).await;
        fill_killed_at(point, upstream, "/v2/system/deckhouse/app/manifests/v1", image.manifest()).await;
    }
}

/// Lets the servers of a stopped store have run for the longest grace here.
fn run_for_the_grace(data: &std::path::Path) {
    let note = data.join("gc/running-time");
    let millis: u64 = std::fs::read_to_string(&note).unwrap().trim().parse().unwrap();
    std::fs::write(&note, format!("{}\n", millis + 2 * 86_400_000)).unwrap();
}

async fn collect(data: std::path::PathBuf) {
    let collected = tokio::task::spawn_blocking(move || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_d8-registry"));
        command.args(["gc", "--data-dir"]).arg(&data).output().unwrap()
    });
    let _ = collected.await.unwrap();
}

/// In a verdict, in an answer about a suspect, and in a removal.
#[tokio::test]
async fn in_a_collection() {
    let (kept, left) = (Image::of(1), blob(2, 5000));
    for point in [
        "store::collection::before_list",
        "store::collection::after_list",
        "store::collection::before_save",
        "store::collection::after_save",
        "store::collection::before_unlink",
        "store::content::before_reclaim",
        "store::collection::after_unlink",
    ] {
        let folder = with_image(&kept).await;
        let before = Registry::start_in(folder, &Setup::open());
        before.client().push_blob("a", &left).await;
        let (folder, data) = (before.folder(), before.data());
        if !point.ends_with("_list") {
            collect(data.clone()).await;
        }
        before.stop();
        if point.ends_with("unlink") || point.ends_with("reclaim") {
            run_for_the_grace(&data);
        }
        kill_at(point, &folder, Setup::open(), async |client: Client| {
            if point.ends_with("_save") {
                client.get(&format!("/v2/a/blobs/{}", digest(&left))).await;
            } else {
                collect(data.clone()).await;
            }
        })
        .await;

        let registry = Registry::start_in(folder, &Setup::open());
        let client = registry.client();
        assert_whole(&client, "a", "kept", &kept).await;
        let _ = whole_blob(&client, "a", &left).await;
        registry.counted().await;
        collect(data.clone()).await;
        let folder = registry.folder();
        registry.stop();
        run_for_the_grace(&data);
        let registry = Registry::start_in(folder, &Setup::open());
        collect(data.clone()).await;
        let client = registry.client();
        assert!(!whole_blob(&client, "a", &left).await, "{point}: what nothing reaches is left");
        assert_whole(&client, "a", "kept", &kept).await;
        assert_tidy(registry).await;
    }
}
