//! Several masters, each with a Local of its own: what one lacks it fetches from another one. Real servers over TLS.

use std::os::unix::fs::FileExt as _;

use futures_util::future::join_all;
use rcgen::SanType;
use reqwest::Method;
use rustix::process::Signal;

use crate::support::{Authority, Client, Image, Masters, address, blob, digest, refusal, seen, uri, within};

mod copies;
mod deleted_everywhere;
mod deletions;
mod dropping;
mod pushes;
mod records;
mod removal;
mod trust;
mod uploads;

const NAME: &str = "system/deckhouse";

fn blob_path(repo: &str, digest: &str) -> String {
    format!("/v2/{repo}/blobs/{digest}")
}

fn manifest_path(repo: &str, reference: &str) -> String {
    format!("/v2/{repo}/manifests/{reference}")
}

async fn status(client: &Client, path: &str) -> u16 {
    client.get(path).await.status().as_u16()
}

/// All of an image, by digest.
async fn pulled(client: &Client, image: &Image) {
    let answer = client.get(&manifest_path(NAME, &image.digest())).await;
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    assert!(answer.bytes().await.unwrap() == image.manifest());
    for content in image.blobs() {
        let answer = client.get(&blob_path(NAME, &digest(content))).await;
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        assert!(answer.bytes().await.unwrap() == *content);
    }
}

#[tokio::test]
async fn an_image_that_one_master_has_is_pulled_by_digest_from_any_of_them() {
    let mut masters = Masters::start(3).await;
    let image = Image::of(1);
    masters.client(0, "rw").push_image(NAME, "v1", &image).await;
    let head = masters.client(1, "ro").head(&manifest_path(NAME, &image.digest())).await;
    assert_eq!(head.status(), 200);
    for master in [1, 2] {
        pulled(&masters.client(master, "ro"), &image).await;
    }
    // What came is kept: the others need nobody any more.
    masters.kill(0);
    for master in [1, 2] {
        within(async {
            while status(&masters.client(master, "mirror-puller"), &manifest_path(NAME, &image.digest())).await != 200 {
            }
        })
        .await;
        pulled(&masters.client(master, "ro"), &image).await;
    }
    masters.end();
}

#[tokio::test]
async fn a_master_that_restarts_is_asked_as_soon_as_it_listens() {
    let mut masters = Masters::start(2).await;
    let path = blob_path(NAME, &masters.client(1, "rw").push_blob(NAME, b"content").await);
    let folder = masters.stop(1);
    assert_eq!(status(&masters.client(0, "ro"), &path).await, 404);
    masters.start_again(1, folder).await;
    assert_eq!(status(&masters.client(0, "ro"), &path).await, 200);
    masters.end();
}

#[tokio::test]
async fn law_f_a_content_leaves_who_has_it_once_for_each_other_master_however_many_ask() {
    let masters = Masters::start(3).await;
    let content = blob(1, 3 << 20);
    let name = masters.client(0, "rw").push_blob(NAME, &content).await;
    let path = blob_path(NAME, &name);
    let readers = (0..16).map(|reader| {
        let (client, path) = (masters.client(1 + reader % 2, "ro"), path.clone());
        async move { client.get(&path).await.bytes().await.unwrap() }
    });
    for read in join_all(readers).await {
        assert!(read == content);
    }
    masters.until_given(0, "blob", 2.0).await;
    // Stored, it is no question any more.
    for master in [1, 2] {
        within(async { while status(&masters.client(master, "mirror-puller"), &path).await != 200 {} }).await;
        assert!(masters.client(master, "ro").get(&path).await.bytes().await.unwrap() == content);
    }
    assert_eq!(masters.given(0, "blob").await, 2.0);
    masters.end();
}

#[tokio::test]
async fn law_f_a_manifest_leaves_who_has_it_once_for_each_other_master() {
    let masters = Masters::start(2).await;
    let image = Image::of(2);
    masters.client(0, "rw").push_image(NAME, "v1", &image).await;
    let path = manifest_path(NAME, &image.digest());
    let readers = (0..8).map(|_| {
        let (client, path) = (masters.client(1, "ro"), path.clone());
        async move { client.get(&path).await.status().as_u16() }
    });
    assert_eq!(join_all(readers).await, vec![200; 8]);
    // None, if the other master took it before anybody asked.
    assert!(masters.given(0, "manifest").await <= 1.0);
    masters.end();
}

#[tokio::test]
async fn law_g_a_question_makes_one_hop() {
    let masters = Masters::start(3).await;
    let absent = digest(b"nobody has it");
    for path in [blob_path(NAME, &absent), manifest_path(NAME, &absent)] {
        assert_eq!(status(&masters.client(0, "ro"), &path).await, 404);
    }
    assert_eq!(masters.asked(0).await, [0.0, 2.0, 0.0]);
    assert_eq!((masters.asked(1).await, masters.asked(2).await), ([0.0; 3], [0.0; 3]));
    // A client may ask so too: whoever checks a master wants to know of that one.
    let there = masters.client(1, "rw").push_blob(NAME, b"there").await;
    let path = blob_path(NAME, &there);
    let hop = async |value: &'static str| {
        let request = masters.client(0, "ro").request(Method::GET, &path).header("d8-hop", value);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!((hop("1").await, hop("2").await, hop("").await, hop("1, 1").await), (404, 400, 400, 400));
    assert_eq!(status(&masters.client(0, "ro"), &path).await, 200);
    assert_eq!(hop("0").await, 400, "also where memory could answer");
    masters.end();
}

#[tokio::test]
async fn law_h_a_yes_is_about_one_repository() {
    let masters = Masters::start(2).await;
    let content = blob(3, 100_000);
    let name = masters.client(0, "rw").push_blob("a", &content).await;
    assert_eq!(status(&masters.client(1, "ro"), &blob_path("b", &name)).await, 404);
    // This master has it in one repository, the other one in another: both have it in the latter, without a transfer.
    masters.client(1, "rw").push_blob("c", &content).await;
    assert_eq!(status(&masters.client(1, "ro"), &blob_path("b", &name)).await, 404);
    assert!(masters.client(1, "ro").get(&blob_path("a", &name)).await.bytes().await.unwrap() == content);
    assert_eq!(masters.given(0, "blob").await, 0.0);
    assert_eq!(status(&masters.client(0, "ro"), &blob_path("c", &name)).await, 200);
    assert_eq!(status(&masters.client(0, "ro"), &blob_path("b", &name)).await, 404);
    masters.end();
}

#[tokio::test]
async fn with_a_master_away_what_never_existed_is_404_and_pushes_and_pulls_go_on() {
    let mut masters = Masters::start(3).await;
    let image = Image::of(4);
    masters.client(0, "rw").push_image(NAME, "v1", &image).await;
    masters.kill(2);
    let absent = blob_path(NAME, &digest(b"never"));
    for _ in 0..3 {
        let refused = refusal(masters.client(1, "ro").get(&absent).await).await;
        assert_eq!((refused.status, refused.code.as_str()), (404, "BLOB_UNKNOWN"));
    }
    assert_eq!(status(&masters.client(1, "ro"), &manifest_path(NAME, "never")).await, 404);
    assert_eq!(masters.asked(1).await[1..], [0.0, 4.0]);
    masters.client(1, "rw").push_image(NAME, "v2", &Image::of(5)).await;
    pulled(&masters.client(1, "ro"), &image).await;
    masters.end();
}

#[tokio::test]
async fn a_master_that_stands_still_costs_no_answer() {
    let masters = Masters::start(3).await;
    let image = Image::of(6);
    masters.client(0, "rw").push_image(NAME, "v1", &image).await;
    // Its system takes connections, it says nothing.
    masters.at(2).signal(Signal::STOP);
    assert_eq!(status(&masters.client(1, "ro"), &blob_path(NAME, &digest(b"never"))).await, 404);
    pulled(&masters.client(1, "ro"), &image).await;
    masters.at(2).signal(Signal::CONT);
    masters.end();
}

#[tokio::test]
async fn whoever_checks_hears_of_one_master_and_whoever_pushes_of_all() {
    let masters = Masters::start(2).await;
    let image = Image::of(7);
    masters.client(0, "rw").push_image(NAME, "v1", &image).await;
    masters.until_same(&[0, 1]).await;
    let before = masters.asked(1).await;
    // A blob is deleted on one master alone.
    let (manifest, layer) = (manifest_path(NAME, &image.digest()), blob_path(NAME, &digest(&image.blobs()[0])));
    assert_eq!(masters.client(1, "rw").delete_here(&layer).await.status(), 202);
    for path in [&manifest, &layer] {
        for user in ["mirror-puller", "mirror-pusher"] {
            assert_eq!(masters.client(1, user).head(path).await.status(), 404, "{user} {path}");
        }
        let alone = masters.client(1, "rw").request(Method::HEAD, path).header("d8-hop", "1");
        assert_eq!(alone.send().await.unwrap().status(), 404, "{path}");
        for user in ["mirror-puller", "mirror-pusher"] {
            assert_eq!(status(&masters.client(1, user), path).await, 404, "{user} {path}");
        }
    }
    assert_eq!(masters.asked(1).await, before);
    // `check` says so in its questions, whoever it asks as.
    let folder = masters.folder().to_owned();
    let list = folder.join("images");
    std::fs::write(&list, format!("module/m/i registry.example/ee@{}", image.digest())).unwrap();
    std::fs::write(folder.join("password"), "secret").unwrap();
    let check = async |master: usize| {
        let registry = format!("{}/{NAME}", masters.base(master));
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_d8-registry"));
        command.arg("check").arg("--images").arg(&list).args(["--registry", &registry, "--username", "ro"]);
        command.arg("--password-file").arg(folder.join("password")).arg("--ca-file").arg(folder.join("ca.crt"));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = check(0).await;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = check(1).await;
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(masters.asked(1).await, before);
    for path in [&manifest, &layer] {
        assert_eq!(masters.client(1, "rw").head(path).await.status(), 200, "{path}");
    }
    assert_eq!(status(&masters.client(1, "rw"), &layer).await, 200, "who may push may pull as well");
    masters.end();
}

#[tokio::test]
async fn damaged_contents_come_from_another_master_before_a_client_notices() {
    let mut masters = Masters::start(2).await;
    let image = Image::of(8);
    for master in [0, 1] {
        masters.client(master, "rw").push_image(NAME, "v1", &image).await;
    }
    let folder = masters.stop(1);
    let content = |digest: &str| {
        let hex = digest.strip_prefix("sha256:").unwrap();
        folder.path().join("data/blobs/sha256").join(&hex[..2]).join(hex)
    };
    let contents: Vec<String> = image.blobs().iter().map(|content| digest(content)).chain([image.digest()]).collect();
    for name in &contents {
        std::fs::OpenOptions::new().write(true).open(content(name)).unwrap().set_len(1).unwrap();
    }
    masters.start_again(1, folder).await;
    let answer = masters.client(1, "ro").get(&manifest_path(NAME, "v1")).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.unwrap() == image.manifest());
    pulled(&masters.client(1, "ro"), &image).await;
    masters.at(1).until_metric("d8_registry_damaged_contents", 0.0).await;
    masters.kill(0);
    pulled(&masters.client(1, "mirror-puller"), &image).await;
    masters.end();
}

#[tokio::test]
async fn what_a_scrub_finds_is_fetched_from_another_master_before_anybody_asks() {
    let masters = Masters::start(2).await;
    let layer = blob(9, 200_000);
    for master in [0, 1] {
        masters.client(master, "rw").push_blob(NAME, &layer).await;
    }
    let hex = digest(&layer).strip_prefix("sha256:").unwrap().to_owned();
    let file = masters.at(1).data().join("blobs/sha256").join(&hex[..2]).join(&hex);
    let damaged = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    damaged.write_all_at(&[layer[1000] ^ 1], 1000).unwrap();
    let mut scrub = std::process::Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    scrub.args(["scrub", "--data-dir"]).arg(masters.at(1).data());
    tokio::task::spawn_blocking(move || scrub.output().unwrap()).await.unwrap();
    masters.at(1).until_metric("d8_registry_damage_found_total{cause=\"hash\"}", 1.0).await;
    masters.at(1).until_metric("d8_registry_damaged_contents", 0.0).await;
    masters.until_given(0, "blob", 1.0).await;
    let whole = masters.client(1, "mirror-puller").get(&blob_path(NAME, &digest(&layer))).await;
    assert!(whole.bytes().await.unwrap() == layer);
    masters.end();
}

#[tokio::test]
async fn what_was_deleted_here_does_not_come_back_from_another_master() {
    let mut masters = Masters::start(2).await;
    let image = Image::of(12);
    for master in [0, 1] {
        masters.client(master, "rw").push_image(NAME, "v1", &image).await;
    }
    let path = manifest_path(NAME, &image.digest());
    assert_eq!(masters.client(1, "rw").delete(&path).await.status(), 202);
    assert_eq!(status(&masters.client(1, "ro"), &path).await, 404);
    let folder = masters.stop(1);
    masters.start_again(1, folder).await;
    assert_eq!(status(&masters.client(1, "ro"), &path).await, 404);
    // Pushed again it is there, and would be fetched if it were lost.
    masters.client(1, "rw").push_image(NAME, "v1", &image).await;
    pulled(&masters.client(1, "ro"), &image).await;
    masters.end();
}

#[tokio::test]
async fn an_image_of_which_a_part_is_lost_here_is_answered_while_another_master_has_it_whole() {
    let mut masters = Masters::start(2).await;
    let image = Image::of(10);
    for master in [0, 1] {
        masters.client(master, "rw").push_image(NAME, "v1", &image).await;
    }
    let lost = blob_path(NAME, &digest(&image.blobs()[0]));
    assert_eq!(masters.client(1, "rw").delete_here(&lost).await.status(), 202);
    let tag = manifest_path(NAME, "v1");
    assert_eq!(status(&masters.client(1, "ro"), &tag).await, 200);
    assert_eq!(status(&masters.client(1, "mirror-puller"), &tag).await, 404, "of this master the truth");
    masters.kill(0);
    assert_eq!(status(&masters.client(1, "ro"), &tag).await, 503, "who does not answer may have it whole");
    assert_eq!(status(&masters.client(1, "mirror-puller"), &tag).await, 404);
    masters.end();
}

#[tokio::test]
async fn a_blob_that_came_from_another_master_makes_an_image_whole_that_lacked_it() {
    let masters = Masters::start(2).await;
    let image = Image::of(11);
    let lacked = &image.blobs()[0];
    masters.client(0, "rw").push_blob(NAME, lacked).await;
    for content in &image.blobs()[1..] {
        masters.client(1, "rw").push_blob(NAME, content).await;
    }
    // The verdict that it is not whole is remembered until something comes.
    let alone = masters.client(1, "mirror-puller");
    assert_eq!(masters.client(1, "rw").put_image(NAME, "v1", &image).await.status(), 201);
    assert_eq!(status(&alone, &manifest_path(NAME, "v1")).await, 200);
    masters.client(1, "rw").delete_here(&blob_path(NAME, &digest(lacked))).await;
    assert_eq!(status(&alone, &manifest_path(NAME, "v1")).await, 404);
    let path = blob_path(NAME, &digest(lacked));
    assert!(masters.client(1, "ro").get(&path).await.bytes().await.unwrap() == *lacked);
    within(async { while status(&masters.client(1, "mirror-puller"), &path).await != 200 {} }).await;
    assert_eq!(status(&alone, &manifest_path(NAME, "v1")).await, 200);
    masters.end();
}
