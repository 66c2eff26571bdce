//! `check` against real registries of mode Local: the documented messages, letter by letter.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Cut, Image, REPO, Registry, Setup, Switched, Upstream, coming, descriptor, mode, mode_file};

const REPOSITORY: &str = "system/deckhouse";

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"] {
        command.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    command.arg("check").args(arguments);
    command
}

async fn check(arguments: &[&str]) -> Output {
    let mut command = command(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn url(name: &str, registry: &Registry) -> String {
    format!("{name}=http://{}/{REPOSITORY}", registry.address())
}

/// A list of images by digest, with the labels of Deckhouse.
fn list(folder: &Path, images: &[Image]) -> String {
    let lines = images.iter().enumerate();
    let lines: Vec<_> =
        lines.map(|(index, image)| format!("module/m/i{index} registry.example/ee@{}", image.digest())).collect();
    let file = folder.join("images");
    std::fs::write(&file, lines.join("\n")).unwrap();
    file.to_str().unwrap().to_owned()
}

fn block(registry: &Registry, index: usize, image: &Image) -> String {
    let (host, digest) = (registry.address(), image.digest());
    format!(
        "- source: module/m/i{index}\n  image: {host}/{REPOSITORY}@{digest}\n  error: HEAD \
         http://{host}/v2/{REPOSITORY}/manifests/{digest}: unexpected status code 404 Not Found (HEAD responses have \
         no body, use GET for details)\n"
    )
}

#[tokio::test]
async fn a_half_filled_local_is_told_in_the_documented_words() {
    let (one, two) = (Registry::start(&Setup::open()), Registry::start(&Setup::open()));
    let folder = TempDir::new().unwrap();
    let images: Vec<_> = (0..12).map(Image::of).collect();
    for (index, image) in images.iter().enumerate() {
        one.client().push_image(REPOSITORY, &format!("v{index}"), image).await;
        if index % 2 == 0 {
            two.client().push_image(REPOSITORY, &format!("v{index}"), image).await;
        }
    }
    let (file, first, second) = (list(folder.path(), &images), url("master-1", &one), url("master-0", &two));
    let found = check(&["--images", &file, "--registry", &first, "--registry", &second]).await;
    let five: String = [1, 3, 5, 7, 9].into_iter().map(|index| block(&two, index, &images[index])).collect();
    assert_eq!(
        stdout(&found),
        format!(
            "Mode: Default\nmaster-0: 6 of 12 items processed, 6 items with errors:\n{five}\n  ...and \
             more\n\nmaster-1: all 12 items are checked\n"
        )
    );
    assert_eq!(found.status.code(), Some(1));
    assert_eq!(stderr(&found), "d8-registry: not everything is at master-0\n");
    // Several behind one flag, and JSON, which leaves nothing out.
    let found = check(&["--images", &file, "--json", "--registry", &first, &second]).await;
    let report: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(report["registries"][0]["errors"].as_array().unwrap().len(), 6);
    assert_eq!(report["registries"][1], json!({ "name": "master-1", "items": 12, "processed": 12, "errors": [] }));
    let good = check(&["--images", &file, "--registry", &first]).await;
    assert_eq!(stdout(&good), "Mode: Default\nmaster-1: all 12 items are checked\n");
    assert!(good.status.success() && good.stderr.is_empty());
    // The full one as the list for the other.
    let from = format!("http://{}/{REPOSITORY}", one.address());
    let found = check(&["--from-registry", &from, "--registry", &second]).await;
    assert!(stdout(&found).starts_with("Mode: Default\nmaster-0: 6 of 12 items processed, 6 items with errors:\n"));
    let good = check(&["--from-registry", &from, "--registry", &first]).await;
    assert_eq!(good.status.code(), Some(0), "{}", stdout(&good));
    // Under a tag of its digits an image is meant that is known by its digest only.
    let only = &images[11].digest()["sha256:".len()..];
    one.client().put_image(REPOSITORY, only, &images[11]).await;
    let found = check(&["--from-registry", &format!("{from}:{only}"), "--registry", &second]).await;
    assert!(stdout(&found).contains(&format!("  image: {}/{REPOSITORY}@sha256:{only}\n", two.address())));
    // A tag that names something else is not there.
    two.client().push_image(REPOSITORY, "v0", &images[2]).await;
    let found = check(&["--from-registry", &format!("{from}:v0"), "--registry", &second]).await;
    assert!(stdout(&found).contains(&format!("the tag names {}", images[2].digest())), "{}", stdout(&found));
    one.stop();
    two.stop();
}

#[tokio::test]
async fn watching_ends_when_everything_is_there() {
    let registry = Registry::start(&Setup::open());
    let folder = TempDir::new().unwrap();
    let images = [Image::of(1), Image::of(2)];
    registry.client().push_image(REPOSITORY, "a", &images[0]).await;
    let (file, master) = (list(folder.path(), &images), url("master-1", &registry));
    let mut watching = command(&["--images", &file, "--registry", &master, "--watch", "--interval", "100ms"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "Initializing");
    assert_eq!(lines.next().unwrap(), "Mode: Default");
    assert_eq!(lines.next().unwrap(), "master-1: 1 of 2 items processed, 1 items with errors:");
    assert_eq!((&mut lines).take(3).collect::<Vec<_>>().join("\n") + "\n", block(&registry, 1, &images[1]));
    registry.client().push_image(REPOSITORY, "b", &images[1]).await;
    assert_eq!(lines.collect::<Vec<_>>(), ["Mode: Default", "master-1: all 2 items are checked"]);
    assert!(watching.wait().unwrap().success());
    registry.stop();
}

#[tokio::test]
async fn a_repeated_check_tells_what_vanishes_and_what_comes_back() {
    let registry = Registry::start(&Setup::open());
    let folder = TempDir::new().unwrap();
    let image = Image::of(1);
    registry.client().push_image(REPOSITORY, "a", &image).await;
    let (file, master) = (list(folder.path(), std::slice::from_ref(&image)), url("master-1", &registry));
    let mut repeating =
        command(&["--images", &file, "--registry", &master, "--repeat", "100ms", "--interval", "100ms"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
    let mut lines = BufReader::new(repeating.stdout.take().unwrap()).lines().map(Result::unwrap);
    let good = ["Mode: Default", "master-1: all 1 items are checked"];
    assert_eq!(lines.next().unwrap(), "Initializing");
    assert_eq!((&mut lines).take(2).collect::<Vec<_>>(), good);
    let deleted = registry.client().delete(&format!("/v2/{REPOSITORY}/manifests/{}", image.digest())).await;
    assert_eq!(deleted.status(), 202);
    assert_eq!(lines.next().unwrap(), "Mode: Default");
    assert_eq!(lines.next().unwrap(), "master-1: 0 of 1 items processed, 1 items with errors:");
    assert_eq!((&mut lines).take(3).collect::<Vec<_>>().join("\n") + "\n", block(&registry, 0, &image));
    registry.client().push_image(REPOSITORY, "a", &image).await;
    assert_eq!((&mut lines).take(2).collect::<Vec<_>>(), good);
    repeating.kill().unwrap();
    repeating.wait().unwrap();
    registry.stop();
}

#[tokio::test]
async fn a_deep_check_finds_the_layer_of_one_platform() {
    let registry = Registry::start(&Setup::open().config("manifests: { missingReferences: allow }"));
    let (client, folder) = (registry.client(), TempDir::new().unwrap());
    let (whole, broken) = (Image::of(1), Image::of(2));
    client.push_image(REPOSITORY, "whole", &whole).await;
    client.push_blob(REPOSITORY, &broken.blobs()[0]).await;
    assert_eq!(client.put_image(REPOSITORY, "broken", &broken).await.status(), 201);
    let kind = testkit::media_type::INDEX;
    let index = testkit::index(&[whole.descriptor(), broken.descriptor()]).to_string().into_bytes();
    let put = client.put(&format!("/v2/{REPOSITORY}/manifests/multi"), kind, index.clone()).await;
    assert_eq!(put.status(), 201);
    let file = folder.path().join("images");
    let digest = descriptor(kind, &index)["digest"].as_str().unwrap().to_owned();
    std::fs::write(&file, format!("good {}\nmulti {digest}", whole.digest())).unwrap();
    let (file, master) = (file.to_str().unwrap(), url("master-1", &registry));
    let shallow = check(&["--images", file, "--registry", &master]).await;
    assert_eq!(stdout(&shallow), "Mode: Default\nmaster-1: all 2 items are checked\n");
    let deep = check(&["--images", file, "--registry", &master, "--deep"]).await;
    let (host, layer) = (registry.address(), crate::support::digest(&broken.blobs()[1]));
    assert_eq!(
        stdout(&deep),
        format!(
            "Mode: Default\nmaster-1: 1 of 2 items processed, 1 items with errors:\n- source: multi\n  image: \
             {host}/{REPOSITORY}@{digest}\n  error: HEAD http://{host}/v2/{REPOSITORY}/blobs/{layer}: unexpected \
             status code 404 Not Found (HEAD responses have no body, use GET for details)\n"
        )
    );
    assert_eq!(deep.status.code(), Some(1));
    client.push_blob(REPOSITORY, &broken.blobs()[1]).await;
    assert!(check(&["--images", file, "--registry", &master, "--deep"]).await.status.success());
    registry.stop();
}

/// `--content` passes if and only if every byte is what the manifests name, whatever else is right about it.
#[tokio::test]
async fn content_is_hashed_and_damage_is_told() {
    let upstream = Upstream::start();
    let folder = TempDir::new().unwrap();
    let images = [Image::of(1), Image::of(2)];
    for (image, tag) in images.iter().zip(["a", "b"]) {
        upstream.put_image(REPO, tag, image);
    }
    let (file, address) = (list(folder.path(), &images), upstream.address());
    let url = format!("http://{address}/{REPO}");
    let base = ["--images", &file, "--registry", &url];
    let good = check(&[&base[..], &["--content"]].concat()).await;
    assert_eq!(stdout(&good), format!("Mode: Default\n{address}: all 2 items are checked\n"));
    let whole = images[1].blobs()[1].clone();
    let layer = crate::support::digest(&whole);
    let mut flipped = whole.clone();
    flipped[500] ^= 1;
    for (bytes, said) in [
        (flipped, "is damaged: its bytes have digest sha256:"),
        (whole[..999].to_vec(), "999 bytes, where its manifest says 1000"),
        ([&whole[..], b"x"].concat(), "1001 bytes or more, where its manifest says 1000"),
        (Vec::new(), "0 bytes, where its manifest says 1000"),
    ] {
        let same_length = bytes.len() == whole.len();
        upstream.rule("GET", &format!("/v2/{REPO}/blobs/{layer}"), move |answer| {
            answer.body(bytes.clone());
        });
        let found = check(&[&base[..], &["--content"]].concat()).await;
        assert_eq!(found.status.code(), Some(1), "{said}");
        let words = stdout(&found);
        assert!(words.contains("1 of 2 items processed") && words.contains(said) && words.contains(&layer), "{words}");
        assert_eq!(stderr(&found), format!("d8-registry: not everything is at {address}\n"));
        if same_length {
            assert!(check(&[&base[..], &["--deep"]].concat()).await.status.success(), "it only asks");
        }
        upstream.heal();
    }
    assert!(check(&[&base[..], &["--content", "--deep"]].concat()).await.status.success());
}

/// An answer that breaks off is gone on with, by a range or by passing over what is known.
#[tokio::test]
async fn content_that_breaks_off_is_gone_on_with() {
    let upstream = Upstream::start();
    let image = Image::of(1);
    let folder = TempDir::new().unwrap();
    upstream.put_image(REPO, "v1", &image);
    let layer = crate::support::digest(&image.blobs()[1]);
    let path = format!("/v2/{REPO}/blobs/{layer}");
    upstream.once("GET", &path, |answer| {
        answer.cut(400, Cut::Fin);
    });
    let (file, address) = (list(folder.path(), &[image]), upstream.address());
    let url = format!("http://{address}/{REPO}");
    let good = check(&["--images", &file, "--registry", &url, "--content"]).await;
    assert_eq!(stdout(&good), format!("Mode: Default\n{address}: all 1 items are checked\n"));
    assert_eq!(upstream.count("GET", &path), 2);
}

#[tokio::test]
async fn credentials_come_from_files_and_are_never_shown() {
    let registry = Registry::start(&Setup::with_users());
    let folder = TempDir::new().unwrap();
    let image = Image::of(1);
    registry.client_as("rw").push_image(REPOSITORY, "v1", &image).await;
    let (file, master) = (list(folder.path(), &[image]), url("master-1", &registry));
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name).to_str().unwrap().to_owned()
    };
    let base = ["--images", &file, "--registry", &master];
    let (right, wrong) = (write("right", "secret\n"), write("wrong", "geheimnis\n"));
    let docker = json!({ "auths": { registry.address(): { "username": "ro", "password": "secret" } } }).to_string();
    let docker = write("docker", &docker);
    for login in [&["--username", "ro", "--password-file", &right][..], &["--docker-config", &docker]] {
        let good = check(&[&base[..], login].concat()).await;
        assert!(good.status.success(), "{}{}", stdout(&good), stderr(&good));
    }
    for login in [&["--username", "ro", "--password-file", &wrong][..], &[]] {
        let found = check(&[&base[..], login].concat()).await;
        assert_eq!(found.status.code(), Some(1));
        assert!(stdout(&found).contains("  error: HEAD http://"), "{}", stdout(&found));
        assert!(!(stdout(&found) + &stderr(&found)).contains("geheimnis"));
    }
    registry.stop();
}

#[tokio::test]
async fn what_passes_is_tried_again_and_what_lasts_is_an_error() {
    let mut upstream = Upstream::start();
    let image = Image::of(1);
    let folder = TempDir::new().unwrap();
    upstream.put_image(REPO, "v1", &image);
    upstream.once("HEAD", "/v2/*", |answer| {
        answer.fail(503, "a moment");
    });
    let file = list(folder.path(), &[image]);
    let address = upstream.address();
    let url = format!("http://{address}/{REPO}");
    let good = check(&["--images", &file, "--registry", &url]).await;
    assert_eq!(stdout(&good), format!("Mode: Default\n{address}: all 1 items are checked\n"));
    assert_eq!(upstream.count("HEAD", "/v2/*"), 2);
    upstream.rule("HEAD", "/v2/*", |answer| {
        answer.fail(503, "no end");
    });
    let found = check(&["--images", &file, "--registry", &url]).await;
    assert!(stdout(&found).contains(": unexpected status code 503 Service Unavailable"), "{}", stdout(&found));
    upstream.down();
    let found = check(&["--images", &file, "--registry", &url]).await;
    assert_eq!(found.status.code(), Some(1));
    let said = stdout(&found);
    assert!(said.starts_with(&format!("Mode: Default\n{address}: 0 of 1 items processed, 1 items with errors:\n")));
    assert!(said.contains("the connection was refused"), "{said}");
}

/// What only the mode in force has does not count, and neither does what it answers.
#[tokio::test]
async fn a_server_that_is_filled_is_asked_in_its_coming_mode() {
    let upstream = Upstream::start();
    let image = Image::of(1);
    let folder = TempDir::new().unwrap();
    upstream.put_image(REPO, "v1", &image);
    let modes = (mode("Proxy", Some(&upstream)), coming(&mode("Local", None), "filling"));
    let server = Switched::start(&mode_file(1, &modes.0, Some(&modes.1), &[]));
    let (file, master) = (list(folder.path(), std::slice::from_ref(&image)), url("master-0", &server.registry));
    let password = folder.path().join("password").to_str().unwrap().to_owned();
    std::fs::write(&password, "secret").unwrap();
    let base =
        ["--images", &file, "--registry", &master, "--deep", "--answered-by", "Local", "--password-file", &password];
    let said = async |user| stdout(&check(&[&base[..], &["--username", user]].concat()).await);
    let missing = said("mirror-puller").await;
    assert!(missing.contains("unexpected status code 404 Not Found"), "{missing}");
    assert!(said("ro").await.contains(" answered by mode Proxy, not Local"));
    server.client("rw").push_image(REPOSITORY, "v1", &image).await;
    assert_eq!(said("mirror-puller").await, "Mode: Default\nmaster-0: all 1 items are checked\n");
    assert!(said("ro").await.contains(" answered by mode Proxy, not Local"));
    server.registry.stop();
}

#[tokio::test]
async fn an_answer_of_another_mode_does_not_count() {
    let upstream = Upstream::start();
    let image = Image::of(1);
    let folder = TempDir::new().unwrap();
    upstream.put_image(REPO, "v1", &image);
    let (file, address) = (list(folder.path(), &[image]), upstream.address());
    let url = format!("http://{address}/{REPO}");
    for (mode, said) in [
        (Some("Local"), "all 1 items are checked"),
        (Some("Proxy"), " answered by mode Proxy, not Local"),
        (None, " does not say which mode answered, where Local was asked"),
    ] {
        if let Some(mode) = mode {
            for method in ["HEAD", "GET"] {
                upstream.rule(method, "/v2/*", move |answer| {
                    answer.header("d8-registry-mode", mode);
                });
            }
        }
        for depth in [&[][..], &["--deep"]] {
            let arguments = ["--images", &file, "--registry", &url, "--answered-by", "Local"];
            let found = check(&[&arguments[..], depth].concat()).await;
            assert_eq!(found.status.success(), mode == Some("Local"), "{}", stdout(&found));
            assert!(stdout(&found).contains(said), "{}", stdout(&found));
        }
        upstream.heal();
    }
}

#[tokio::test]
async fn wrong_usage_is_2_and_shows_no_password() {
    let folder = TempDir::new().unwrap();
    let file = list(folder.path(), &[Image::of(1)]);
    let empty = folder.path().join("empty").to_str().unwrap().to_owned();
    std::fs::write(&empty, "\n").unwrap();
    let url = "http://127.0.0.1:1/a";
    for arguments in [
        &["--images", &file][..],
        &["--registry", url],
        &["--images", &file, "--from-registry", url, "--registry", url],
        &["--images", &empty, "--registry", url],
        &["--images", "/does/not/exist", "--registry", url],
        &["--images", &file, "--registry", url, "--registry", url],
        &["--images", &file, "--registry", "http://ro:geheimnis@127.0.0.1:1/a"],
        &["--images", &file, "--registry", "http://127.0.0.1:1/a:geheimnis"],
        &["--from-registry", "https://ro:geheimnis@h/a", "--registry", url],
        &["--images", &file, "--registry", url, "--mode", "strict"],
        &["--images", &file, "--registry", url, "--mode", "relax"],
        &["--images", &file, "--registry", url, "--username", "ro"],
        &["--images", &file, "--registry", "https://127.0.0.1:1/a", "--ca-file", &empty],
    ] {
        let output = check(arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {}", stderr(&output));
        assert!(output.stdout.is_empty() && !stderr(&output).contains("geheimnis"), "{}", stderr(&output));
    }
}
