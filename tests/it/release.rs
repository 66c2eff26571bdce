//! `check --release`: what a release needs is read from its install image, whatever that image is like.

use std::process::{Command, Output};

use serde_json::{Value, json};
use testkit::layer::{Tar, gzip, zstd};

use crate::support::{Cut, Image, REPO, Registry, Setup, Upstream, descriptor, digest};

const RELEASE: &str = "v1.70.1";
const DIGESTS: &str = "deckhouse/candi/images_digests.json";
const TAGS: &str = "deckhouse/candi/images_tags.json";

async fn check(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"] {
        command.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    command.args(["check", "--release", RELEASE]).args(arguments);
    let output: Output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn url(upstream: &Upstream) -> String {
    format!("http://{}/{REPO}", upstream.address())
}

/// The images of a release: two modules share one of the three.
fn images() -> [Image; 3] {
    [Image::of(1), Image::of(2), Image::of(3)]
}

fn digests() -> String {
    let [a, b, c] = images().map(|image| image.digest());
    json!({"nodeManager": {"bashibleApiserver": a}, "common": {"pause": b, "alpine": c}, "prometheus": {"alpine": c}})
        .to_string()
}

fn layers(tars: impl IntoIterator<Item = Tar>) -> Vec<Vec<u8>> {
    tars.into_iter().map(|tar| gzip(&tar.finish()).unwrap()).collect()
}

fn install_image(layers: Vec<Vec<u8>>) -> Image {
    Image::of_layers(b"{}".to_vec(), layers, &json!({}))
}

/// An upstream with a release, whose install image has these layers.
fn with_release(layers: Vec<Vec<u8>>) -> Upstream {
    let upstream = Upstream::start();
    for image in &images() {
        upstream.put_image(REPO, "any", image);
    }
    upstream.put_image(REPO, RELEASE, &Image::of(9));
    upstream.put_image(&format!("{REPO}/install"), RELEASE, &install_image(layers));
    upstream
}

fn plain() -> Vec<Vec<u8>> {
    let base = Tar::new().directory("usr/").file("usr/dhctl", vec![7; 100_000]);
    let list = Tar::new().directory("deckhouse/").directory("deckhouse/candi/").file(DIGESTS, digests());
    layers([base, list])
}

#[tokio::test]
async fn what_a_release_needs_is_looked_for_in_the_documented_words() {
    let upstream = with_release(plain());
    let (source, local) = (url(&upstream), Registry::start(&Setup::open()));
    let (code, said, _) = check(&["--registry", &source]).await;
    assert_eq!((code, said), (0, format!("Mode: Default\n{}: all 4 items are checked\n", upstream.address())));
    // Only the layer on top was needed, once.
    let blobs = upstream.asked("GET", &format!("/v2/{REPO}/install/blobs/*"));
    assert_eq!(blobs.len(), 1);
    // A copy that lacks all but the image of Deckhouse itself and one that two modules share.
    let client = local.client();
    client.push_image("system/deckhouse", RELEASE, &Image::of(9)).await;
    client.push_image("system/deckhouse", "x", &images()[2]).await;
    let copy = format!("master-1=http://{}/system/deckhouse", local.address());
    let (code, said, _) = check(&["--from-registry", &source, "--registry", &copy]).await;
    assert_eq!(code, 1);
    let mut missing = [("common/pause", 1), ("node-manager/bashible-apiserver", 0)]
        .map(|(label, index)| (images()[index].digest(), format!("- source: module/{label}\n")));
    missing.sort();
    let blocks: Vec<_> = said.lines().filter(|line| line.starts_with('-')).map(|line| format!("{line}\n")).collect();
    assert_eq!(blocks, missing.map(|(_, block)| block), "sorted by image");
    assert!(said.starts_with("Mode: Default\nmaster-1: 2 of 4 items processed, 2 items with errors:\n"), "{said}");
    let (code, said, _) = check(&["--from-registry", &source, "--registry", &copy, "--mode", "Relax"]).await;
    assert_eq!((code, said.as_str()), (0, "Mode: Relax\nmaster-1: all 1 items are checked\n"));
    local.stop();
}

#[tokio::test]
async fn the_list_is_the_one_that_the_layers_leave() {
    let (list, old) = (digests(), json!({"common": {"old": digest(b"old")}}).to_string());
    let tagged = json!({"common": {"alpine": "any"}}).to_string();
    let file = |name: &str, content: &str| Tar::new().file(name, content);
    for (name, layers, items) in [
        ("later layers win", layers([file(DIGESTS, &old), file(DIGESTS, &list)]), 4),
        ("what is behind it is not read", vec![b"no archive".to_vec(), layers([file(DIGESTS, &list)]).remove(0)], 4),
        ("tags in an old release", layers([file(TAGS, &tagged)]), 2),
        ("digests before tags", layers([file(DIGESTS, &list), file(TAGS, &tagged)]), 4),
        (
            "removed",
            layers([file(DIGESTS, &list), file(TAGS, &tagged), file("deckhouse/candi/.wh.images_digests.json", "")]),
            2,
        ),
        (
            "an opaque directory",
            layers([file(DIGESTS, &old), file("deckhouse/.wh..wh..opq", "").file(TAGS, &tagged)]),
            2,
        ),
        ("plain", vec![file(DIGESTS, &list).finish()], 4),
        ("zstd", vec![zstd(&file(DIGESTS, &list).finish()).unwrap()], 4),
    ] {
        let upstream = with_release(layers);
        let (code, said, error) = check(&["--registry", &url(&upstream)]).await;
        let address = upstream.address();
        assert_eq!(
            (code, said),
            (0, format!("Mode: Default\n{address}: all {items} items are checked\n")),
            "{name}: {error}"
        );
    }
}

#[tokio::test]
async fn an_index_stands_for_its_image_for_linux() {
    let upstream = with_release(plain());
    let repo = format!("{REPO}/install");
    let (right, other) = (install_image(plain()), install_image(layers([Tar::new().file("attestation", "")])));
    let entry = |image: &Image, os: &str, architecture: &str| {
        let mut entry = image.descriptor();
        entry["platform"] = json!({"os": os, "architecture": architecture});
        entry
    };
    for image in [&right, &other] {
        upstream.put_image(&repo, "child", image);
    }
    let put = |children: &[Value]| {
        let index = testkit::index(children).to_string();
        let digest = upstream.put_manifest(&repo, testkit::media_type::INDEX, index.as_bytes());
        upstream.tag(&repo, RELEASE, &digest);
    };
    for (children, good) in [
        (
            vec![entry(&other, "unknown", "unknown"), entry(&other, "linux", "arm64"), entry(&right, "linux", "amd64")],
            true,
        ),
        (vec![entry(&other, "windows", "amd64"), entry(&right, "linux", "arm64")], true),
        (vec![entry(&other, "unknown", "unknown"), right.descriptor()], true),
        (vec![entry(&right, "", "")], true),
        (vec![entry(&right, "windows", "amd64")], false),
        (Vec::new(), false),
    ] {
        put(&children);
        let (code, _, error) = check(&["--registry", &url(&upstream)]).await;
        assert_eq!(code, i32::from(!good), "{error}");
        assert!(good || error.contains("its index has no image for Linux"), "{error}");
    }
}

#[tokio::test]
async fn an_install_image_that_can_not_be_used_is_told_and_nothing_is_checked() {
    let file = |name: &str, content: &str| Tar::new().file(name, content);
    for (layers, words) in [
        (
            layers([file("deckhouse/candi/other.json", "{}")]),
            "the install image has neither deckhouse/candi/images_digests.json nor",
        ),
        (layers([file(DIGESTS, &digests()), file(".wh.deckhouse", "")]), "the install image has neither"),
        (Vec::new(), "the install image has neither"),
        (layers([file(DIGESTS, "{")]), "images_digests.json of the install image can't be used: it is not of the form"),
        (layers([file(DIGESTS, "{\"a\":{\"b\":\"v1\"}}")]), "module/a/b is \"v1\", which is no digest"),
        (layers([Tar::new().link("deckhouse/candi")]), "is a link there, or behind one"),
        (layers([file("../x", "")]), "it has an entry \"../x\""),
        (vec![b"no archive, nor anything else".to_vec()], "of the install image can't be read: "),
    ] {
        let upstream = with_release(layers);
        let (code, said, error) = check(&["--registry", &url(&upstream)]).await;
        assert_eq!((code, said.as_str()), (1, ""), "{error}");
        assert!(error.starts_with(&format!("d8-registry: --release {RELEASE}: http://")), "{error}");
        assert!(error.contains(words), "{error}");
        assert_eq!(upstream.count("HEAD", "*"), 0);
    }
}

#[tokio::test]
async fn bytes_count_only_with_their_digest_and_what_breaks_off_is_gone_on_with() {
    let upstream = with_release(plain());
    let layer = plain().remove(1);
    let there = format!("/v2/{REPO}/install/blobs/{}", digest(&layer));
    // Another list in the same number of bytes, in a layer that unpacks well.
    let other = digests().replace("pause", "pauze");
    let forged = layers([Tar::new().file(DIGESTS, other)]).remove(0);
    for bytes in [forged, layer[..layer.len() - 4].to_vec(), [&layer[..], b"more"].concat()] {
        upstream.rule("GET", &there, move |answer| {
            answer.body(bytes.clone());
        });
        let (code, said, error) = check(&["--registry", &url(&upstream)]).await;
        assert_eq!((code, said.as_str()), (1, ""));
        assert!(error.contains("a layer of the install image can't be had: the blob "), "{error}");
        upstream.heal();
    }
    upstream.once("GET", &there, |answer| {
        answer.cut(50, Cut::Fin);
    });
    let (code, _, error) = check(&["--registry", &url(&upstream)]).await;
    assert_eq!((code, error.as_str()), (0, ""));
}

#[tokio::test]
async fn a_release_that_is_not_there_is_told_by_its_name() {
    let upstream = Upstream::start();
    upstream.put_image(REPO, RELEASE, &Image::of(9));
    let (code, said, error) = check(&["--registry", &url(&upstream)]).await;
    assert_eq!((code, said.as_str()), (1, ""));
    assert!(error.contains(&format!("the install image install:{RELEASE} can't be had: ")), "{error}");
    let source = format!("{}:{RELEASE}", url(&upstream));
    for wrong in [
        &["--registry", "http://127.0.0.1:1/a", "--images", "x"][..],
        &["--from-registry", &source, "--registry", &source],
    ] {
        assert_eq!(check(wrong).await.0, 2, "{wrong:?}");
    }
    // A layer that is announced larger than any image is not begun.
    let mut huge = descriptor(testkit::media_type::LAYER, b"x");
    huge["size"] = json!(9_u64 << 30);
    let manifest = testkit::image(&descriptor(testkit::media_type::CONFIG, b"{}"), &[huge]).to_string();
    let repo = format!("{REPO}/install");
    let put = upstream.put_manifest(&repo, testkit::media_type::IMAGE, manifest.as_bytes());
    upstream.tag(&repo, RELEASE, &put);
    let (code, _, error) = check(&["--registry", &url(&upstream)]).await;
    assert!(code == 1 && error.contains("its layers have more than 8589934592 bytes"), "{error}");
    assert_eq!(upstream.count("GET", &format!("/v2/{repo}/blobs/*")), 0);
}
