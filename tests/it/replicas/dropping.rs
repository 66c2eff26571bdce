//! Records of deletions go when every master has them, and what was deleted stays so.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use super::removal::until_same;
use super::trust::into_force;
use super::*;
use crate::support::{Upstream, mode, mode_file, order};

/// Makes all that a stopped master's records say 25 hours older.
fn age(folder: &Path) {
    for entry in std::fs::read_dir(folder.join("data/records")).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("writer") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        let mut aged = format!("{}\n", lines.next().unwrap());
        for line in lines {
            let (moment, rest) = line.split_once(' ').unwrap();
            let (said, _) = rest.rsplit_once(' ').unwrap();
            let moment = u64::from_str_radix(moment, 16).unwrap() - ((25 * 3_600_000) << 16);
            let said = format!("{moment:016x} {said}");
            aged.push_str(&format!("{said} {}\n", &digest(said.as_bytes())["sha256:".len()..][..8]));
        }
        std::fs::write(path, aged).unwrap();
    }
}

/// Has a master look for what can be dropped.
async fn look(masters: &Masters, master: usize) {
    let answer = order(&masters.at(master).data(), "/jobs/record-deletions/run").await.unwrap();
    assert!(answer.contains("\"result\":\"ok\"") || answer.contains("\"result\": \"ok\""), "{answer}");
}

/// How many records a master has.
async fn records(masters: &Masters, master: usize) -> usize {
    let other = (master + 1) % masters.addresses().len();
    let client = masters.authority.client(Some(&masters.identity(other)));
    let path = format!("{}/-/peer/records/repositories", masters.base(master));
    let answer = client.get(path).header("d8-hop", "1").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let text = answer.text().await.unwrap();
    text.lines().map(|line| line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap()).sum()
}

/// Masters with an image that stays and one that was deleted 25 hours ago: four records, two of them deletions.
async fn start(count: usize, keys: &str) -> (Masters, Image, Image) {
    let mut masters = Masters::start_with(count, keys).await;
    let (kept, gone) = (Image::of(300), Image::of(301));
    let all: Vec<usize> = (0..count).collect();
    for (image, tag) in [(&kept, "kept"), (&gone, "gone")] {
        masters.client(0, "rw").push_image(NAME, tag, image).await;
    }
    let answer = masters.client(1, "rw").delete(&manifest_path(NAME, &gone.digest())).await;
    assert!([202, 404].contains(&answer.status().as_u16()));
    until_same(&masters, &all).await;
    if answer.status() == 404 {
        assert_eq!(masters.client(1, "rw").delete(&manifest_path(NAME, &gone.digest())).await.status(), 202);
        until_same(&masters, &all).await;
    }
    let folders: Vec<Arc<TempDir>> = all.iter().map(|master| masters.stop(*master)).collect();
    for (master, folder) in folders.into_iter().enumerate() {
        age(folder.path());
        masters.start_again(master, folder).await;
    }
    until_same(&masters, &all).await;
    (masters, kept, gone)
}

async fn assert_gone(masters: &Masters, master: usize, gone: &Image, kept: &Image) {
    for reference in [gone.digest(), "gone".to_owned()] {
        assert_eq!(status(&masters.client(master, "ro"), &manifest_path(NAME, &reference)).await, 404);
    }
    pulled(&masters.client(master, "mirror-puller"), kept).await;
}

#[tokio::test]
async fn deletions_that_all_masters_have_are_dropped_on_all_and_nothing_comes_back() {
    let (mut masters, kept, gone) = start(3, "").await;
    let all = [0, 1, 2];
    for master in all {
        assert_eq!(records(&masters, master).await, 4);
        assert_gone(&masters, master, &gone, &kept).await;
    }
    // While one is away all stay: it may have what was deleted.
    let folder = masters.stop(2);
    look(&masters, 0).await;
    assert_eq!((records(&masters, 0).await, records(&masters, 1).await), (4, 4));
    masters.start_again(2, folder).await;
    until_same(&masters, &all).await;
    // One has to do it.
    look(&masters, 1).await;
    assert_eq!(records(&masters, 1).await, 4);
    within(async {
        while records(&masters, 0).await != 2 {
            look(&masters, 0).await;
        }
    })
    .await;
    until_same(&masters, &all).await;
    for master in all {
        assert_eq!(records(&masters, master).await, 2);
        assert_gone(&masters, master, &gone, &kept).await;
    }
    for master in all {
        let folder = masters.stop(master);
        masters.start_again(master, folder).await;
    }
    until_same(&masters, &all).await;
    for master in all {
        assert_eq!(records(&masters, master).await, 2);
        assert_gone(&masters, master, &gone, &kept).await;
    }
    // What is deleted now is known for a day.
    let answer = masters.client(0, "rw").delete(&manifest_path(NAME, &kept.digest())).await;
    assert_eq!(answer.status(), 202);
    until_same(&masters, &all).await;
    look(&masters, 0).await;
    assert_eq!(records(&masters, 1).await, 2);
    masters.end();
}

#[tokio::test]
async fn while_local_rests_its_records_do_nothing_goes_and_no_deletion_is_dropped() {
    let (masters, kept, gone) = start(2, "modeFile: $DIR/../mode.yaml").await;
    let upstream = Upstream::start();
    let direct = mode("Direct", Some(&upstream));
    into_force(&masters, 1, 1, &mode_file(1, &direct, None, &[])).await;
    look(&masters, 0).await;
    assert_eq!(records(&masters, 0).await, 4);
    let image = Image::of(302);
    masters.client(0, "rw").push_image(NAME, "meanwhile", &image).await;
    let told: Value = masters.at(1).admin().get("/status").await.json().await.unwrap();
    assert_eq!(told["replicas"]["masters"], serde_json::json!([]), "it asks nobody");
    let client = masters.authority.client(Some(&masters.identity(0)));
    for path in ["/-/peer/records".to_owned(), format!("/-/peer/v2/{NAME}/removable/unreached")] {
        let answer = client.get(format!("{}{path}", masters.base(1))).header("d8-hop", "1").send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
    }
    into_force(&masters, 1, 2, &mode_file(2, &mode("Local", None), None, &[])).await;
    until_same(&masters, &[0, 1]).await;
    pulled(&masters.client(1, "mirror-puller"), &image).await;
    within(async {
        while records(&masters, 1).await != 4 {
            look(&masters, 0).await;
        }
    })
    .await;
    assert_gone(&masters, 1, &gone, &kept).await;
    masters.end();
}
