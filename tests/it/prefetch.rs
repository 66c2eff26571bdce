//! `prefetch`: a Proxy has what will be pulled before anybody pulls it.

use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{ALIAS, Image, REPO, Registry, Setup, Upstream, blob, cache};

async fn prefetch(registry: &Registry, images: &[&Image], words: &[&str]) -> Output {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("images");
    let lines: Vec<String> = images.iter().map(|image| format!("m/{0} ee@{0}", image.digest())).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"] {
        command.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    let url = format!("http://{}/{ALIAS}", registry.address());
    command.args(["prefetch", "--json", "--registry", &url, "--images"]).arg(file).args(words);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn said(output: &Output, code: i32) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{error}"))
}

fn large_image(seed: u64) -> Image {
    let layer = blob(seed, 300_000);
    Image::of_layers(format!("{{\"n\":{seed}}}").into_bytes(), vec![layer, blob(1, 200_000)], &serde_json::json!({}))
}

/// Law: behind a prefetch all of it is pulled without the upstream, and a second one fetches nothing.
#[tokio::test]
async fn what_was_prefetched_is_pulled_without_the_upstream() {
    let mut upstream = Upstream::start();
    let (one, two) = (large_image(2), large_image(3));
    let children = [(&one, "amd64"), (&two, "arm64")];
    for (image, tag) in children {
        upstream.put_image(REPO, tag, image);
    }
    let registry = Registry::start(&Setup::proxy(&upstream));
    let first = said(&prefetch(&registry, &[&one, &two], &["--rate", "100MB"]).await, 0);
    let bytes: usize = one.blobs().iter().chain(two.blobs()).map(Vec::len).sum();
    // The layer that both have comes once.
    assert_eq!(first["fetchedBytes"], bytes - 200_000, "{first}");
    assert_eq!((&first["registries"][0]["items"], &first["registries"][0]["processed"]), (&2.into(), &2.into()));
    let again = said(&prefetch(&registry, &[&one, &two], &[]).await, 0);
    assert_eq!(again["fetchedBytes"], 0, "{again}");
    upstream.down();
    for (image, _) in children {
        let manifest = registry.client().get(&format!("/v2/{ALIAS}/manifests/{}", image.digest())).await;
        assert_eq!((manifest.status().as_u16(), cache(&manifest)), (200, "hit".to_owned()));
        for content in image.blobs() {
            let path = format!("/v2/{ALIAS}/blobs/{}", testkit::digest(content));
            let response = registry.client().get(&path).await;
            assert_eq!((response.status().as_u16(), cache(&response)), (200, "hit".to_owned()));
            assert!(response.bytes().await.unwrap() == *content);
        }
    }
}

/// What passes and can't be kept is not there, whatever was downloaded.
#[tokio::test]
async fn what_the_cache_can_not_keep_is_named_and_is_no_success() {
    let upstream = Upstream::start();
    let image = Image::of_layers(b"{}".to_vec(), vec![blob(4, 2 << 20)], &serde_json::json!({}));
    upstream.put_image(REPO, "v1", &image);
    let registry =
        Registry::start(&Setup::proxy(&upstream).config("store: { dir: $DIR, reserveBytes: 0, maxBytes: 1Mi }"));
    let report = said(&prefetch(&registry, &[&image], &[]).await, 1);
    let error = report["registries"][0]["errors"][0]["error"].as_str().unwrap();
    assert!(error.contains("is not kept"), "{report}");
}

#[tokio::test]
async fn what_the_upstream_lacks_and_who_is_no_proxy_is_said() {
    let upstream = Upstream::start();
    let (there, missing) = (large_image(5), large_image(6));
    upstream.put_image(REPO, "v1", &there);
    let registry = Registry::start(&Setup::proxy(&upstream));
    let report = said(&prefetch(&registry, &[&there, &missing], &[]).await, 1);
    assert_eq!(report["registries"][0]["processed"], 1, "{report}");
    assert!(report["registries"][0]["errors"][0]["error"].as_str().unwrap().contains("404"), "{report}");
    let local = Registry::start(&Setup::open());
    local.client().push_image(ALIAS, "v1", &there).await;
    let report = said(&prefetch(&local, &[&there], &[]).await, 1);
    let error = report["registries"][0]["errors"][0]["error"].as_str().unwrap();
    assert!(error.contains("no d8-registry in mode Proxy"), "{report}");
}
