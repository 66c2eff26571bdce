//! What was said of tags and manifests on one master counts on all of them.

use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::support::{Registry, Setup};

const ALL: &[usize] = &[0, 1, 2];

/// The digest that a tag leads to, by the own store of a master; `None`: 404.
async fn tagged(masters: &Masters, master: usize, tag: &str) -> Option<String> {
    let answer = masters.client(master, "mirror-puller").head(&manifest_path(NAME, tag)).await;
    match answer.status().as_u16() {
        200 => Some(answer.headers()["docker-content-digest"].to_str().unwrap().to_owned()),
        404 => None,
        other => panic!("{other}"),
    }
}

async fn push(masters: &Masters, master: usize, tag: &str, image: &Image) {
    masters.client(master, "rw").push_image(NAME, tag, image).await;
}

async fn delete(masters: &Masters, master: usize, reference: &str) {
    let answer = masters.client(master, "rw").delete(&manifest_path(NAME, reference)).await;
    assert_eq!(answer.status(), 202, "{reference}");
}

/// Damages a content of a master that was stopped.
fn cut(folder: &TempDir, digest: &str) {
    let hex = digest.strip_prefix("sha256:").unwrap();
    let content = folder.path().join("data/blobs/sha256").join(&hex[..2]).join(hex);
    std::fs::OpenOptions::new().write(true).open(content).unwrap().set_len(1).unwrap();
}

#[tokio::test]
async fn what_is_pushed_to_one_master_is_on_all_and_what_is_deleted_on_one_is_on_none() {
    let mut masters = Masters::start(3).await;
    let (first, second) = (Image::of(20), Image::of(21));
    push(&masters, 0, "v1", &first).await;
    push(&masters, 1, "v2", &second).await;
    push(&masters, 2, "same", &second).await;
    masters.until_same(ALL).await;
    for master in ALL {
        assert_eq!(tagged(&masters, *master, "v1").await, Some(first.digest()));
        assert_eq!(tagged(&masters, *master, "same").await, Some(second.digest()));
    }
    // Each by itself: contents came with the record.
    masters.kill(0);
    for master in [1, 2] {
        pulled(&masters.client(master, "mirror-puller"), &first).await;
        pulled(&masters.client(master, "mirror-puller"), &second).await;
    }
    delete(&masters, 1, "v1").await;
    delete(&masters, 2, &second.digest()).await;
    masters.until_same(&[1, 2]).await;
    for master in [1, 2] {
        for tag in ["v1", "v2", "same"] {
            // A deletion is written down before it is done.
            within(async { while tagged(&masters, master, tag).await.is_some() {} }).await;
        }
        let by_digest = manifest_path(NAME, &second.digest());
        assert_eq!(status(&masters.client(master, "ro"), &by_digest).await, 404);
        pulled(&masters.client(master, "mirror-puller"), &first).await;
    }
    masters.end();
}

#[tokio::test]
async fn law_c_behind_partitions_with_pushes_and_deletes_on_all_sides_all_masters_have_the_same() {
    let masters = Masters::start(3).await;
    let images: Vec<Image> = (30..38).map(Image::of).collect();
    push(&masters, 0, "moved", &images[0]).await;
    push(&masters, 0, "deleted", &images[1]).await;
    masters.until_same(ALL).await;
    masters.part(&[&[0], &[1, 2]]).await;
    push(&masters, 0, "moved", &images[2]).await;
    push(&masters, 0, "left", &images[3]).await;
    delete(&masters, 1, "deleted").await;
    push(&masters, 2, "moved", &images[4]).await;
    masters.until_same(&[1, 2]).await;
    assert_eq!(tagged(&masters, 0, "moved").await, Some(images[2].digest()), "who wrote reads what it wrote");
    assert_eq!(tagged(&masters, 0, "deleted").await, Some(images[1].digest()));
    assert_eq!(tagged(&masters, 1, "left").await, None);
    masters.heal().await;
    masters.until_same(ALL).await;
    for master in ALL {
        assert_eq!(tagged(&masters, *master, "moved").await, Some(images[4].digest()), "the later one");
        assert_eq!(tagged(&masters, *master, "left").await, Some(images[3].digest()));
        assert_eq!(tagged(&masters, *master, "deleted").await, None);
        for image in [&images[0], &images[2], &images[3], &images[4]] {
            pulled(&masters.client(*master, "mirror-puller"), image).await;
        }
    }
    masters.part(&[&[0], &[1], &[2]]).await;
    for master in ALL {
        push(&masters, *master, "moved", &images[5 + master]).await;
        push(&masters, *master, &format!("own-{master}"), &images[5 + master]).await;
    }
    delete(&masters, 0, "left").await;
    masters.heal().await;
    masters.until_same(ALL).await;
    for master in ALL {
        assert_eq!(tagged(&masters, *master, "moved").await, Some(images[7].digest()));
        assert_eq!(tagged(&masters, *master, "left").await, None);
        for other in ALL {
            let own = tagged(&masters, *master, &format!("own-{other}")).await;
            assert_eq!(own, Some(images[5 + other].digest()));
            pulled(&masters.client(*master, "mirror-puller"), &images[5 + other]).await;
        }
    }
    masters.end();
}

#[tokio::test]
async fn one_tag_pushed_to_all_masters_at_once_leads_to_one_manifest_everywhere() {
    let masters = Masters::start(3).await;
    let images: Vec<Image> = (40..43).map(Image::of).collect();
    for (master, image) in images.iter().enumerate() {
        for content in image.blobs() {
            masters.client(master, "rw").push_blob(NAME, content).await;
        }
    }
    let clients = [0, 1, 2].map(|master| masters.client(master, "rw"));
    let pushes = images.iter().zip(&clients).map(|(image, client)| client.put_image(NAME, "v1", image));
    for answer in join_all(pushes).await {
        assert_eq!(answer.status(), 201);
    }
    masters.until_same(ALL).await;
    let winner = tagged(&masters, 0, "v1").await.unwrap();
    assert!(images.iter().any(|image| image.digest() == winner));
    for master in ALL {
        assert_eq!(tagged(&masters, *master, "v1").await.as_ref(), Some(&winner));
        // Those that lost stay by digest.
        for image in &images {
            pulled(&masters.client(*master, "mirror-puller"), image).await;
        }
    }
    masters.end();
}

#[tokio::test]
async fn law_e_what_was_deleted_while_a_master_was_away_does_not_come_back_with_it() {
    let mut masters = Masters::start(3).await;
    let (gone, kept) = (Image::of(50), Image::of(51));
    push(&masters, 0, "gone", &gone).await;
    push(&masters, 0, "untagged", &kept).await;
    masters.until_same(ALL).await;
    let folder = masters.stop(2);
    delete(&masters, 0, &gone.digest()).await;
    delete(&masters, 1, "untagged").await;
    masters.until_same(&[0, 1]).await;
    masters.start_again(2, folder).await;
    masters.until_same(ALL).await;
    for master in ALL {
        assert_eq!(
            (tagged(&masters, *master, "gone").await, tagged(&masters, *master, "untagged").await),
            (None, None)
        );
        assert_eq!(status(&masters.client(*master, "ro"), &manifest_path(NAME, &gone.digest())).await, 404);
        assert_eq!(status(&masters.client(*master, "ro"), &manifest_path(NAME, &kept.digest())).await, 200);
    }
    // Also behind starts of all of them.
    for master in ALL {
        let folder = masters.stop(*master);
        masters.start_again(*master, folder).await;
    }
    masters.until_same(ALL).await;
    for master in ALL {
        assert_eq!(status(&masters.client(*master, "ro"), &manifest_path(NAME, "gone")).await, 404);
        assert_eq!(status(&masters.client(*master, "ro"), &manifest_path(NAME, "untagged")).await, 404);
    }
    masters.end();
}

#[tokio::test]
async fn all_but_one_are_replaced_with_empty_disks_fill_themselves_and_answer_meanwhile() {
    let mut masters = Masters::start(3).await;
    let images: Vec<Image> = (60..66).map(Image::of).collect();
    for (number, image) in images.iter().enumerate() {
        push(&masters, number % 3, &format!("v{number}"), image).await;
    }
    masters.until_same(ALL).await;
    for master in [1, 2] {
        masters.kill(master);
    }
    for master in [1, 2] {
        masters.start_again(master, Arc::new(TempDir::new().unwrap())).await;
        // What it has not got yet is asked of the others, tags too.
        for (number, image) in images.iter().enumerate() {
            let answer = masters.client(master, "ro").get(&manifest_path(NAME, &format!("v{number}"))).await;
            assert_eq!(answer.status(), 200);
            assert!(answer.bytes().await.unwrap() == image.manifest());
            pulled(&masters.client(master, "ro"), image).await;
        }
        assert_eq!(status(&masters.client(master, "ro"), &manifest_path(NAME, "never")).await, 404);
    }
    masters.until_same(ALL).await;
    let told: serde_json::Value = masters.at(1).admin().get("/status").await.json().await.unwrap();
    let of_all = told["replicas"]["masters"].as_array().unwrap();
    assert_eq!(of_all.len(), 2, "{told}");
    masters
        .at(1)
        .until_metric(&format!("d8_registry_records_lacking{{master=\"{}\"}}", masters.addresses()[0]), 0.0)
        .await;
    masters.kill(0);
    for master in [1, 2] {
        for (number, image) in images.iter().enumerate() {
            assert_eq!(tagged(&masters, master, &format!("v{number}")).await, Some(image.digest()));
            pulled(&masters.client(master, "mirror-puller"), image).await;
        }
    }
    masters.end();
}

#[tokio::test]
async fn equal_masters_tell_each_other_32_bytes_whatever_they_hold() {
    let masters = Masters::start(2).await;
    let empty = masters.sum(0).await;
    for number in 0..20 {
        push(&masters, 0, &format!("v{number}"), &Image::of(70 + number)).await;
    }
    masters.until_same(&[0, 1]).await;
    let sum = masters.sum(0).await.unwrap();
    assert_eq!(sum.len(), 32);
    assert!(sum.iter().any(|byte| *byte > 0) && empty.is_none_or(|empty| empty != sum));
    for master in [0, 1] {
        let other = &masters.addresses()[1 - master];
        let equal = format!("d8_registry_records_equal_timestamp_seconds{{master=\"{other}\"}}");
        within(async { while masters.at(master).metric(&equal).await <= 0.0 {} }).await;
    }
    masters.end();
}

#[tokio::test]
async fn a_store_that_was_no_masters_joins_with_what_it_has() {
    let mut masters = Masters::start(2).await;
    let (here, there, both) = (Image::of(90), Image::of(91), Image::of(92));
    push(&masters, 0, "here", &here).await;
    push(&masters, 0, "both", &both).await;
    masters.kill(1);
    let folder = Arc::new(TempDir::new().unwrap());
    let alone = Registry::start_in(Arc::clone(&folder), &Setup::with_users());
    let client = alone.client_as("rw");
    client.push_image(NAME, "there", &there).await;
    client.push_image(NAME, "both", &there).await;
    drop(alone.stop());
    masters.start_again(1, folder).await;
    masters.until_same(&[0, 1]).await;
    for master in [0, 1] {
        assert_eq!(tagged(&masters, master, "here").await, Some(here.digest()));
        assert_eq!(tagged(&masters, master, "there").await, Some(there.digest()));
        assert_eq!(tagged(&masters, master, "both").await, Some(there.digest()), "the later one");
        for image in [&here, &there, &both] {
            pulled(&masters.client(master, "mirror-puller"), image).await;
        }
    }
    masters.end();
}

#[tokio::test]
async fn what_a_record_names_and_no_master_that_answers_has_is_503_and_what_none_names_404() {
    let mut masters = Masters::start(2).await;
    let image = Image::of(95);
    push(&masters, 0, "v1", &image).await;
    masters.until_same(&[0, 1]).await;
    masters.kill(0);
    let folder = masters.stop(1);
    cut(&folder, &image.digest());
    masters.start_again(1, folder).await;
    let client = masters.client(1, "ro");
    assert_eq!(status(&client, &manifest_path(NAME, &image.digest())).await, 503);
    assert_eq!(status(&client, &manifest_path(NAME, "v1")).await, 503);
    assert_eq!(status(&client, &manifest_path(NAME, &digest(b"never"))).await, 404);
    assert_eq!(status(&client, &manifest_path(NAME, "never")).await, 404);
    masters.end();
}

#[tokio::test]
async fn what_a_record_names_and_all_masters_say_they_lack_is_404() {
    let mut masters = Masters::start(2).await;
    let image = Image::of(97);
    push(&masters, 0, "v1", &image).await;
    masters.until_same(&[0, 1]).await;
    let folders = [masters.stop(0), masters.stop(1)];
    for (master, folder) in folders.into_iter().enumerate() {
        cut(&folder, &image.digest());
        masters.start_again(master, folder).await;
    }
    masters.until_same(&[0, 1]).await;
    let (client, by_digest) = (masters.client(1, "ro"), manifest_path(NAME, &image.digest()));
    assert_eq!((status(&client, &by_digest).await, status(&client, &manifest_path(NAME, "v1")).await), (404, 404));
    // Who does not answer may have it.
    masters.kill(0);
    assert_eq!(status(&client, &by_digest).await, 503);
    push(&masters, 1, "v1", &image).await;
    assert_eq!(status(&client, &by_digest).await, 200);
    masters.end();
}

#[tokio::test]
async fn an_image_that_lacks_a_part_here_is_503_while_a_master_does_not_answer_and_404_where_all_lack_one() {
    let mut masters = Masters::start(2).await;
    let image = Image::of(98);
    push(&masters, 0, "v1", &image).await;
    masters.until_same(&[0, 1]).await;
    let (first, second) = (masters.stop(0), masters.stop(1));
    let part = digest(&image.blobs()[0]);
    cut(&second, &part);
    masters.start_again(1, second).await;
    let paths = [image.digest(), "v1".to_owned()].map(|reference| manifest_path(NAME, &reference));
    let (client, alone) = (masters.client(1, "ro"), masters.client(1, "mirror-puller"));
    for path in &paths {
        let refused = refusal(client.get(path).await).await;
        assert_eq!((refused.status, refused.code.as_str()), (503, "UNAVAILABLE"), "{path}");
        assert_eq!(client.head(path).await.status(), 503, "{path}");
        assert_eq!(status(&alone, path).await, 404, "{path}: of this master the truth");
    }
    assert_eq!(status(&client, &blob_path(NAME, &part)).await, 404, "a blob has no record");
    // Who has a part of it alone says no.
    cut(&first, &part);
    masters.start_again(0, first).await;
    for path in &paths {
        let refused = refusal(client.get(path).await).await;
        assert_eq!((refused.status, refused.code.as_str()), (404, "MANIFEST_UNKNOWN"), "{path}");
        assert_eq!(refused.detail["missing"], serde_json::json!([part]), "{path}");
    }
    masters.kill(0);
    for path in &paths {
        assert_eq!(status(&client, path).await, 503, "{path}");
    }
    masters.client(1, "rw").push_blob(NAME, &image.blobs()[0]).await;
    for path in &paths {
        assert_eq!(status(&client, path).await, 200, "{path}");
    }
    masters.end();
}

#[tokio::test]
async fn a_master_asked_to_take_something_says_when_it_is_there_and_takes_it_from_who_asks_alone() {
    let masters = Masters::start(2).await;
    let image = Image::of(96);
    push(&masters, 0, "v1", &image).await;
    let take = async |as_master: usize, of: &str| {
        let client = masters.authority.client(Some(&masters.identity(as_master)));
        let path = format!("{}/-/peer/v2/{NAME}/records/take/{of}", masters.base(1));
        let answer = client.post(path).header("d8-hop", "1").send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (code, words) = take(0, "v1").await;
    assert!(code == 200 && words.ends_with("\ndone\n"), "{words}");
    assert_eq!(tagged(&masters, 1, "v1").await, Some(image.digest()));
    pulled(&masters.client(1, "mirror-puller"), &image).await;
    assert_eq!(take(1, "v1").await.0, 404, "it is itself");
    // Who can't hear what was said has not taken it.
    let (code, words) = take(0, "never").await;
    assert!(code == 200 && words.lines().last().unwrap().starts_with("failed "), "{words}");
    masters.end();
}
