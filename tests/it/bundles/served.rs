//! A bundle that is served from its files, without an import.

use std::os::unix::fs::FileExt as _;

use reqwest::Method;
use reqwest::header::RANGE;
use serde_json::json;

use super::*;

/// Bytes of the largest layer: sent from the file, over the borders of chunks.
const LARGE: usize = 300_000;
const LARGE_SEED: u64 = 900;

/// The edition with a large layer, and a manifest that names another one as its subject.
fn edition() -> Edition {
    let mut edition = Edition::of(&RELEASES);
    let root = edition.layouts.get_mut("").unwrap();
    let config = (testkit::media_type::CONFIG, &b"{}"[..]);
    let large = testkit::noise(LARGE_SEED, LARGE);
    let subject = root.image(Some("large"), config, &[(testkit::media_type::LAYER_GZIP, large)]);
    let mut signature: Value = serde_json::from_slice(&root.contents[hex(&subject)]).unwrap();
    let length = root.contents[hex(&subject)].len();
    signature["subject"] = testkit::descriptor_of(testkit::media_type::IMAGE, &subject, length);
    signature["artifactType"] = json!("application/x.signature");
    let signature = root.content(signature.to_string().as_bytes());
    root.tag("signature", &signature);
    edition
}

fn serve(bundle: &TempDir, setup: Setup) -> Registry {
    Registry::start(&setup.argument("--bundle").argument(bundle.path()))
}

/// Law: what is served of a bundle is what an import leaves, image by image and tag by tag.
#[tokio::test]
async fn a_bundle_is_served_as_an_import_leaves_it() {
    let edition = edition();
    let imported = Registry::start(&Setup::open());
    import(0, &[text(written(&edition, None).path())], &imported.data());
    let expected = held(&imported.client()).await;
    let referrers = async |client: &Client| {
        let subject = edition.layouts[""].tagged("large").unwrap();
        client.get(&format!("/v2/{ROOT}/referrers/{subject}")).await.json::<Value>().await.unwrap()
    };
    let named = referrers(&imported.client()).await;
    assert_eq!(named["manifests"][0]["artifactType"], "application/x.signature", "{named}");
    for (chunks, setup) in [(None, Setup::open()), (Some(10_001), Setup::open()), (Some(99_999), Setup::with_tls())] {
        let bundle = written(&edition, chunks);
        let registry = serve(&bundle, setup);
        let client = registry.client();
        assert_same(&held(&client).await, &expected);
        assert_eq!(referrers(&client).await, named);
        // The second time the bytes are known to be right.
        assert_same(&held(&client).await, &expected);
        let (data, _folder) = (registry.data(), registry.folder());
        registry.stop();
        assert_store_is_tidy(&data);
        assert_eq!(files_below(&data.join("blobs")), 0);
    }
}

fn files_below(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

#[tokio::test]
async fn a_range_goes_over_the_borders_of_chunks_and_heads_and_pages_are_as_in_any_local() {
    let bundle = written(&edition(), Some(10_001));
    let registry = serve(&bundle, Setup::open());
    let client = registry.client();
    let large = testkit::noise(LARGE_SEED, LARGE);
    let path = format!("/v2/{ROOT}/blobs/{}", testkit::digest(&large));
    let head = client.head(&path).await;
    assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, LARGE.to_string()));
    let last = LARGE as u64 - 1;
    for (first, end) in [(0, 0), (0, last), (9_000, 31_000), (last, last), (40_000, 200_123)] {
        let asked = client.request(Method::GET, &path).header(RANGE, format!("bytes={first}-{end}"));
        let response = asked.send().await.unwrap();
        assert_eq!(response.status(), 206);
        assert!(response.bytes().await.unwrap() == large[first as usize..=end as usize], "{first}-{end}");
    }
    let page: Value = client.get(&format!("/v2/{ROOT}/tags/list?n=2")).await.json().await.unwrap();
    let all: Value = client.get(&format!("/v2/{ROOT}/tags/list")).await.json().await.unwrap();
    assert_eq!(page["tags"].as_array().unwrap()[..], all["tags"].as_array().unwrap()[..2]);
    for missing in ["tags/list", "manifests/v1.71.0", "manifests/sha256-0.att"] {
        assert_eq!(client.get(&format!("/v2/{ROOT}/nobody/{missing}")).await.status(), 404, "{missing}");
    }
    // A content is its repositories' alone.
    assert_eq!(client.get(&path.replace(ROOT, &repository("install"))).await.status(), 404);
}

#[tokio::test]
async fn a_bundle_that_is_served_takes_no_pushes_and_deletes() {
    let bundle = written(&edition(), None);
    let registry = serve(&bundle, Setup::with_users());
    assert_eq!(registry.client().get("/v2/").await.status(), 401);
    let client = registry.client_as("rw");
    assert_eq!(client.request(Method::POST, &format!("/v2/{ROOT}/blobs/uploads/")).send().await.unwrap().status(), 405);
    assert_eq!(client.delete(&format!("/v2/{ROOT}/manifests/v1.71.0")).await.status(), 405);
    assert_eq!(registry.client_as("ro").get(&format!("/v2/{ROOT}/manifests/v1.71.0")).await.status(), 200);
}

/// What is damaged or missing is answered as absent, and said in the log.
#[tokio::test]
async fn what_is_damaged_or_missing_in_a_bundle_is_no_answer() {
    let bundle = written(&edition(), None);
    let file = bundle.path().join("platform.tar");
    let bytes = std::fs::read(&file).unwrap();
    let large = testkit::noise(LARGE_SEED, LARGE);
    let at = bytes.windows(64).position(|window| window == &large[..64]).unwrap();
    let opened = std::fs::File::options().write(true).open(&file).unwrap();
    opened.write_all_at(&[bytes[at + 7] ^ 1], at as u64 + 7).unwrap();
    let console = std::fs::read(bundle.path().join("module-console.tar")).unwrap();
    std::fs::write(bundle.path().join("module-console.tar"), &console[..console.len() / 2]).unwrap();
    let registry = serve(&bundle, Setup::open());
    let client = registry.client();
    assert_eq!(client.get(&format!("/v2/{ROOT}/blobs/{}", testkit::digest(&large))).await.status(), 404);
    assert_eq!(client.get(&format!("/v2/{ROOT}/manifests/v1.71.0")).await.status(), 200);
    let there = held_names(&client).await;
    assert!(!there.iter().any(|name| name.contains("console")), "{there:?}");
    let log = registry.stop();
    let said = |message: &str| log.iter().filter(|line| line["message"].as_str().unwrap().contains(message)).count();
    assert_eq!(said("the bundle has other bytes than the digest's"), 1);
    assert!(said("the bundle is damaged or not all there") > 0);
}

async fn held_names(client: &Client) -> Vec<String> {
    let catalog: Value = client.get("/v2/_catalog?n=1000").await.json().await.unwrap();
    catalog["repositories"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_bundle_is_for_mode_local_and_has_to_be_there() {
    let (folder, bundle) = (TempDir::new().unwrap(), written(&edition(), None));
    let data = folder.path().join("data");
    let serve = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data-dir", text(&data)];
    for (words, says) in [
        (&["--bundle", "/nowhere"][..], "/nowhere"),
        (&["--bundle", text(folder.path())], "no *.tar"),
        (&["--bundle", text(bundle.path()), "--mode", "Proxy", "--upstream", "https://a.example/b"], "mode Local"),
    ] {
        let output = run(&[&serve[..], words].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && error.contains(says), "{words:?}: {error}");
    }
}
