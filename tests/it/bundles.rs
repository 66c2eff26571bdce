//! Bundles as an administrator uses them: looked at, verified, imported, and compared with what a push leaves.

mod checked;
mod damaged;
mod pull;
mod served;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use testkit::bundle::{Edition, Layout, RELEASES, hex};

use crate::support::{Client, Image, Registry, Setup, assert_store_is_tidy, header, within};

pub(crate) const ROOT: &str = "system/deckhouse";

fn run(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_d8-registry")).args(words).output().unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The report of an import that ends with `code`.
fn import(code: i32, words: &[&str], data: &Path) -> Value {
    // The machine's disk may be fuller than a store's default allows.
    let config = data.with_extension("import.yaml");
    std::fs::write(&config, "store: { reserveBytes: 0 }\n").unwrap();
    let all = [&["bundle", "import", "--json", "--config", text(&config), "--data-dir", text(data)], words].concat();
    let output = run(&all);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error} {}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {error}"))
}

pub(crate) fn written(edition: &Edition, chunks: Option<usize>) -> TempDir {
    let dir = TempDir::new().unwrap();
    match chunks {
        Some(size) => edition.write_chunks(dir.path(), size).unwrap(),
        None => edition.write(dir.path()).unwrap(),
    }
    dir
}

fn repository(path: &str) -> String {
    if path.is_empty() { ROOT.to_owned() } else { format!("{ROOT}/{path}") }
}

/// What `d8 mirror push` sends: layout after layout, image after image, blobs before their manifest, then discovery tags.
pub(crate) async fn push(client: &Client, edition: &Edition) {
    for (path, layout) in &edition.layouts {
        let tags: BTreeSet<&str> = layout.tags.iter().map(|(tag, ..)| tag.as_str()).collect();
        for tag in tags {
            push_image(client, &repository(path), layout, layout.tagged(tag).unwrap(), tag).await;
        }
    }
    for (parent, names) in discovered(edition) {
        for (seed, name) in (40..).zip(names) {
            client.push_image(&repository(parent), &name, &Image::of(seed)).await;
        }
    }
}

async fn push_image(client: &Client, repo: &str, layout: &Layout, digest: &str, tag: &str) {
    let mut manifests = vec![(digest.to_owned(), tag.to_owned())];
    let mut next = 0;
    while let Some((digest, _)) = manifests.get(next).cloned() {
        next += 1;
        let manifest: Value = serde_json::from_slice(&layout.contents[hex(&digest)]).unwrap();
        let children = manifest["manifests"].as_array().into_iter().flatten();
        manifests
            .extend(children.map(|child| child["digest"].as_str().unwrap()).map(|child| (child.into(), child.into())));
        for blob in manifest["layers"].as_array().into_iter().flatten().chain(manifest.get("config")) {
            client.push_blob(repo, &layout.contents[hex(blob["digest"].as_str().unwrap())]).await;
        }
    }
    for (digest, reference) in manifests.into_iter().rev() {
        let bytes = layout.contents[hex(&digest)].clone();
        let manifest: Value = serde_json::from_slice(&bytes).unwrap();
        let path = format!("/v2/{repo}/manifests/{reference}");
        let response = client.put(&path, manifest["mediaType"].as_str().unwrap(), bytes).await;
        assert_eq!(response.status(), 201, "{path}");
    }
}

/// The names of modules, packages and plugins, by the repository above them.
fn discovered(edition: &Edition) -> BTreeMap<&'static str, BTreeSet<String>> {
    let mut found: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for parent in ["modules", "packages", "deckhouse-cli/plugins"] {
        for path in edition.layouts.keys() {
            if let Some(below) = path.strip_prefix(parent).and_then(|rest| rest.strip_prefix('/')) {
                found.entry(parent).or_default().insert(below.split('/').next().unwrap().to_owned());
            }
        }
    }
    found
}

/// All that a client can pull: under every tag, and every manifest below it, type and bytes, with all blobs. Of discovery tags their
/// names: their images are random.
pub(crate) async fn held(client: &Client) -> BTreeMap<String, (String, Vec<u8>)> {
    // Behind a store that was written without a server the lists are made anew.
    let listed = async {
        loop {
            let response = client.get("/v2/_catalog?n=1000").await;
            match response.status().as_u16() {
                503 => tokio::task::yield_now().await,
                _ => break response,
            }
        }
    };
    let catalog: Value = within(listed).await.json().await.unwrap();
    let mut held = BTreeMap::new();
    for repo in catalog["repositories"].as_array().unwrap() {
        let repo = repo.as_str().unwrap();
        let listed: Value = client.get(&format!("/v2/{repo}/tags/list?n=1000")).await.json().await.unwrap();
        let is_found = ["modules", "packages", "deckhouse-cli/plugins"].iter().any(|parent| repository(parent) == repo);
        for tag in listed["tags"].as_array().unwrap() {
            let mut waiting = vec![tag.as_str().unwrap().to_owned()];
            while let Some(reference) = waiting.pop() {
                let response = client.get(&format!("/v2/{repo}/manifests/{reference}")).await;
                assert_eq!(response.status(), 200, "{repo}:{reference}");
                let (kind, bytes) = (header(&response, "content-type"), response.bytes().await.unwrap().to_vec());
                let manifest: Value = serde_json::from_slice(&bytes).unwrap();
                let children = manifest["manifests"].as_array().into_iter().flatten();
                waiting.extend(children.map(|child| child["digest"].as_str().unwrap().to_owned()));
                for blob in manifest["layers"].as_array().into_iter().flatten().chain(manifest.get("config")) {
                    let digest = blob["digest"].as_str().unwrap();
                    let response = client.get(&format!("/v2/{repo}/blobs/{digest}")).await;
                    assert_eq!(response.status(), 200, "{repo}@{digest}");
                    let bytes = response.bytes().await.unwrap().to_vec();
                    assert_eq!(testkit::digest(&bytes), digest);
                    if !is_found {
                        held.insert(format!("{repo}@{digest}"), (String::new(), bytes));
                    }
                }
                let shown = if is_found { Vec::new() } else { bytes };
                held.insert(format!("{repo}:{reference}"), (kind, shown));
            }
        }
    }
    held
}

#[track_caller]
fn assert_same(one: &BTreeMap<String, (String, Vec<u8>)>, other: &BTreeMap<String, (String, Vec<u8>)>) {
    let (one_names, other_names): (Vec<_>, Vec<_>) = (one.keys().collect(), other.keys().collect());
    assert_eq!(one_names, other_names);
    for (name, held) in one {
        assert!(held == &other[name], "{name} differs");
    }
}

/// Law: image by image and tag by tag an import leaves what the push of the real client leaves.
#[tokio::test]
async fn an_import_leaves_what_the_wire_sequence_of_a_push_leaves() {
    let edition = Edition::of(&RELEASES);
    let pushed = Registry::start(&Setup::open());
    push(&pushed.client(), &edition).await;
    let expected = held(&pushed.client()).await;
    assert!(expected.len() > 60 && expected.contains_key("system/deckhouse/modules:console"));

    // The whole files, into a running server.
    let bundle = written(&edition, None);
    let registry = Registry::start(&Setup::open());
    let look = import(0, &["--dry-run", text(bundle.path())], &registry.data());
    assert!(held(&registry.client()).await.is_empty());
    let report = import(0, &[text(bundle.path())], &registry.data());
    assert_same(&held(&registry.client()).await, &expected);
    assert_eq!((&look["bytes"], &look["tags"]["taken"]), (&report["bytes"], &report["tags"]["taken"]), "{look}");
    // Only what is missing comes: a second run finds all of it.
    let again = import(0, &[text(bundle.path())], &registry.data());
    assert_eq!((&again["bytes"], &again["tags"]["taken"], &again["tags"]["left"]), (&0.into(), &0.into(), &0.into()));
    assert_eq!(again["tags"]["present"], report["tags"]["taken"], "{again}");
    let (data, folder) = (registry.data(), registry.folder());
    registry.stop();
    assert_store_is_tidy(&data);
    drop(folder);

    // Chunks that split headers, names and contents, into a store without a server.
    let bundle = written(&edition, Some(10_001));
    let folder = std::sync::Arc::new(TempDir::new().unwrap());
    let data = folder.path().join("data");
    assert!(run(&["init", "--data-dir", text(&data)]).status.success());
    import(0, &[text(bundle.path())], &data);
    assert_store_is_tidy(&data);
    let registry = Registry::start_in(std::sync::Arc::clone(&folder), &Setup::open());
    assert_same(&held(&registry.client()).await, &expected);
    // A push behind it has nothing to send that is not there.
    push(&registry.client(), &edition).await;
    assert_same(&held(&registry.client()).await, &expected);
}

#[tokio::test]
async fn what_a_missing_chunk_holds_gets_no_tag_and_comes_with_the_chunk() {
    let edition = Edition::of(&RELEASES);
    let bundle = written(&edition, Some(10_001));
    let chunk = bundle.path().join("module-console.tar.0001.chunk");
    let kept = std::fs::read(&chunk).unwrap();
    std::fs::remove_file(&chunk).unwrap();
    let registry = Registry::start(&Setup::open());
    let report = import(1, &[text(bundle.path())], &registry.data());
    assert_eq!(report["left"][0]["image"], "module-console.tar", "{report}");
    assert!(report["left"][0]["reason"].as_str().unwrap().contains("chunk 0001 is missing"), "{report}");
    let client = registry.client();
    let there = held(&client).await;
    assert!(there.keys().all(|name| !name.contains("console")), "{:?}", there.keys());
    assert!(there.contains_key("system/deckhouse:v1.71.0") && there.contains_key("system/deckhouse/packages:shop"));
    import(0, &["--allow-missing", text(bundle.path())], &registry.data());
    std::fs::write(&chunk, kept).unwrap();
    let report = import(0, &[text(bundle.path())], &registry.data());
    assert!(report["tags"]["taken"].as_u64().unwrap() > 8, "{report}");
    let pushed = Registry::start(&Setup::open());
    push(&pushed.client(), &edition).await;
    assert_same(&held(&client).await, &held(&pushed.client()).await);
}

/// Whole files, with damage inside a layer that `modules/console/extra/scanner:7` alone reaches.
pub(crate) fn with_a_flipped_bit(edition: &Edition) -> TempDir {
    let bundle = written(edition, None);
    let file = bundle.path().join("module-console.tar");
    let mut bytes = std::fs::read(&file).unwrap();
    let layer = testkit::noise(602, 3000);
    let at = bytes.windows(64).position(|window| window == &layer[..64]).unwrap();
    bytes[at + 7] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    bundle
}

/// A flipped bit is found as the content comes; the tags that need it stay out, and are named.
#[tokio::test]
async fn damage_inside_a_content_leaves_out_the_tags_that_reach_it() {
    let edition = Edition::of(&RELEASES);
    let bundle = with_a_flipped_bit(&edition);
    let registry = Registry::start(&Setup::open());
    let report = import(1, &[text(bundle.path())], &registry.data());
    assert_eq!(report["tags"]["left"], 1, "{report}");
    assert_eq!(report["left"][0]["image"], "modules/console/extra/scanner:7", "{report}");
    let there = held(&registry.client()).await;
    assert!(there.contains_key("system/deckhouse/modules/console:v1.2.3"));
    assert!(!there.contains_key("system/deckhouse/modules/console/extra/scanner:7"));
}

#[tokio::test]
async fn a_channel_is_not_moved_to_an_older_release_unless_that_is_asked_for() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let digest = async |tag: &str| {
        let response = client.head(&format!("/v2/{ROOT}/release-channel/manifests/{tag}")).await;
        header(&response, "docker-content-digest")
    };
    let bundle = |releases: &[&str]| written(&Edition::of(releases), None);
    let of =
        |releases: &[&str], tag: &str| Edition::of(releases).layouts["release-channel"].tagged(tag).unwrap().to_owned();
    let (old, now, new) = (["v1.69.0", "v1.70.1"], ["v1.70.1", "v1.71.0"], ["v1.71.0", "v1.72.0"]);
    import(0, &[text(bundle(&now).path())], &registry.data());
    let older = bundle(&old);
    let report = import(0, &[text(older.path())], &registry.data());
    let named: BTreeSet<_> =
        report["left"].as_array().unwrap().iter().map(|left| left["image"].as_str().unwrap()).collect();
    let channels = ["alpha", "beta", "early-access", "rock-solid", "stable"];
    assert_eq!(
        named,
        channels.map(|channel| format!("release-channel:{channel}")).iter().map(String::as_str).collect()
    );
    assert!(report["left"][0]["reason"].as_str().unwrap().contains("v1.71.0"), "{report}");
    for channel in channels {
        assert_eq!(digest(channel).await, of(&now, channel), "{channel}");
    }
    // Its releases came all the same.
    assert_eq!(digest("v1.69.0").await, of(&old, "v1.69.0"));
    import(0, &[text(bundle(&new).path())], &registry.data());
    assert_eq!((digest("alpha").await, digest("stable").await), (of(&new, "alpha"), of(&new, "stable")));
    // Whatever the store has stays where it is.
    let kept = import(1, &["--keep-tags", "--channels-back", text(older.path())], &registry.data());
    assert_eq!(digest("alpha").await, of(&new, "alpha"));
    assert!(kept["left"][0]["reason"].as_str().unwrap().contains("not to be overwritten"), "{kept}");
    import(0, &["--channels-back", text(older.path())], &registry.data());
    assert_eq!((digest("alpha").await, digest("stable").await), (of(&old, "alpha"), of(&old, "stable")));
}

#[test]
fn inspect_and_verify_end_with_what_they_found() {
    let edition = Edition::of(&RELEASES);
    let bundle = written(&edition, Some(20_000));
    let inspect = |code: i32| {
        let output = run(&["bundle", "inspect", "--json", text(bundle.path())]);
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let said = inspect(0);
    assert_eq!((&said["whole"], &said["platform"]["versions"]), (&true.into(), &serde_json::json!(RELEASES)));
    let shown = String::from_utf8(run(&["bundle", "inspect", text(bundle.path())]).stdout).unwrap();
    assert!(shown.contains("platform: v1.70.1 v1.71.0 (alpha v1.71.0, beta v1.71.0, early-access v1.70.1"), "{shown}");
    assert!(shown.contains("module console: v1.2.3 (") && shown.contains("with scanner:7"), "{shown}");
    let verified = run(&["bundle", "verify", text(bundle.path())]);
    let shown = String::from_utf8_lossy(&verified.stdout);
    assert!(verified.status.success() && shown.contains(" contents and 0 GOST sums were compared"), "{shown}");
    std::fs::remove_file(bundle.path().join("platform.tar.0001.chunk")).unwrap();
    assert_eq!(inspect(1)["findings"][0]["problem"], "chunkMissing");
    let failed = run(&["bundle", "verify", text(bundle.path())]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stdout).contains("problem platform.tar: chunk 0001 is missing"));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("damaged or not all there"));
    for words in [vec!["bundle", "inspect", "/nowhere"], vec!["bundle", "verify"]] {
        assert_eq!(run(&words).status.code(), Some(2), "{words:?}");
    }
}
