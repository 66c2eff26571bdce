//! What an administrator sees: health, metrics, status, reload, shutdown, exit codes.

use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{HASH_OF_SECRET, Image, Registry, Setup};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_d8-registry")).args(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[tokio::test]
async fn the_admin_listener_tells_how_it_is() {
    let registry = Registry::start(&Setup::open());
    registry.client().push_image("a", "v1", &Image::of(1)).await;
    let admin = registry.admin();
    assert_eq!(admin.get("/healthz").await.status(), 200);
    assert_eq!(admin.get("/readyz").await.status(), 200);
    let status: Value = admin.get("/status").await.json().await.unwrap();
    assert_eq!(status["mode"], "Local");
    let metrics = admin.get("/metrics").await.text().await.unwrap();
    for line in [
        "d8_registry_store_writable 1",
        "d8_registry_http_requests_total{method=\"PUT\",route=\"manifest\",status=\"201\"} 1",
        "d8_registry_http_requests_total{method=\"POST\",route=\"upload\",status=\"201\"} 2",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    registry.stop();
}

#[tokio::test]
async fn a_new_user_works_after_a_reload_and_a_bad_file_changes_nothing() {
    let registry = Registry::start(&Setup::with_users());
    registry.client_as("rw").push_image("a", "v1", &Image::of(1)).await;
    let config = std::fs::read_to_string(registry.config_file()).unwrap();
    let added = config.replace(
        "  users:\n",
        &format!("  users:\n    - {{ name: new, role: ro, passwordHash: '{HASH_OF_SECRET}' }}\n"),
    );
    std::fs::write(registry.config_file(), &added).unwrap();
    registry.signal(Signal::HUP);
    let client = registry.client_as("new");
    while client.get("/v2/a/manifests/v1").await.status() != 200 {}
    std::fs::write(registry.config_file(), "listen: [nonsense").unwrap();
    registry.signal(Signal::HUP);
    let admin = registry.admin();
    while !admin.get("/metrics").await.text().await.unwrap().contains("d8_registry_config_valid 0") {}
    assert_eq!(client.get("/v2/a/manifests/v1").await.status(), 200);
    std::fs::write(registry.config_file(), &config).unwrap();
    registry.signal(Signal::HUP);
    while client.get("/v2/a/manifests/v1").await.status() != 401 {}
    assert!(admin.get("/metrics").await.text().await.unwrap().contains("d8_registry_config_valid 1"));
    registry.stop();
}

#[tokio::test]
async fn a_download_under_way_ends_before_the_server_does() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let content = crate::support::blob(1, 30_000_000);
    let digest = client.push_blob("a", &content).await;
    let mut response = client.get(&format!("/v2/a/blobs/{digest}")).await;
    let mut read = response.chunk().await.unwrap().unwrap().len();
    let stopping = tokio::task::spawn_blocking(move || registry.stop());
    while let Some(chunk) = response.chunk().await.unwrap() {
        read += chunk.len();
    }
    assert_eq!(read, content.len());
    stopping.await.unwrap();
}

#[test]
fn exit_codes_are_a_contract() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    assert_eq!(code(&run(&["--version"])), 0);
    assert_eq!(code(&run(&["--help"])), 0);
    assert_eq!(code(&run(&["nonsense"])), 2);
    assert_eq!(code(&run(&["serve", "--config", "/nowhere/config.yaml"])), 2);
    assert_eq!(code(&run(&["serve", "--mode", "proxy"])), 2);
    let unknown =
        run(&["serve", "--check-config", "--config", &file("unknown.yaml", "mode: Local\nstore:\n  dri: x\n")]);
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(code(&unknown), 2);
    assert!(said.contains("store") && said.contains("dri") && said.contains('3'), "{said}");
    assert_eq!(code(&run(&["serve", "--check-config", "--config", &file("good.yaml", "mode: LOCAL\n")])), 0);
    assert_eq!(code(&run(&["serve", "--listen", "0.0.0.0:0"])), 2);
    let data = folder.path().join("data").to_str().unwrap().to_owned();
    let strict = file(
        "strict.yaml",
        &format!("listen: 127.0.0.1:0\nadminListen: 127.0.0.1:0\nstore: {{ dir: {data}, mustExist: true }}\n"),
    );
    std::fs::create_dir(&data).unwrap();
    let refused = run(&["serve", "--config", &strict]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_ne!(code(&refused), 0);
    assert!(said.contains("init") && said.contains("mount"), "{said}");
    assert_eq!(code(&run(&["init", "--data-dir", &data])), 0);
    assert_eq!(code(&run(&["index", "rebuild", "--data-dir", &data])), 0);
    assert!(!run(&["completions", "bash"]).stdout.is_empty());
}

#[test]
fn an_unknown_layout_is_refused() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().to_str().unwrap();
    assert_eq!(code(&run(&["init", "--data-dir", data])), 0);
    std::fs::write(folder.path().join("VERSION"), "2.0\n").unwrap();
    let refused = run(&["serve", "--data-dir", data, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    assert_ne!(code(&refused), 0);
}
