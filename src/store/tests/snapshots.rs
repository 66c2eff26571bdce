//! Snapshots on real directories. Kills at each step are in `crash.rs`.

mod random;
mod restored;

use std::collections::BTreeSet;

use super::collection::{collect, collect_twice};
use super::*;
use crate::store::contents::snapshot_folders::MOST_SNAPSHOTS;
use crate::store::layout::SnapshotFolder;

fn snapshot(name: &str) -> SnapshotName {
    name.parse().unwrap()
}

fn folder(name: &str) -> SnapshotFolder {
    SnapshotFolder { name: snapshot(name), is_whole: true }
}

async fn create(store: &Store, name: &str) -> SnapshotSummary {
    store.create_snapshot(snapshot(name)).await.unwrap()
}

async fn remove(store: &Store, name: &str) -> RemovedSnapshot {
    store.remove_snapshot(snapshot(name)).await.unwrap()
}

async fn restore(store: &Store, name: &str) -> RestoreReport {
    store.restore_snapshot(snapshot(name), Restoring::default()).await.unwrap()
}

fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

/// Pushes an image of `a`; what it consists of.
async fn push_image(store: &Store, config: &[u8], layer: &[u8], name: &str) -> (StoredManifest, [Digest; 2]) {
    let blobs = [push(store, &repo("a"), config).await, push(store, &repo("a"), layer).await];
    let stored = image(config, &[layer]);
    store.put_manifest(&repo("a"), stored.clone(), vec![tag(name)]).await.unwrap();
    (stored, blobs)
}

async fn delete_image(store: &Store, stored: &StoredManifest, blobs: &[Digest]) {
    store.delete_manifest(&repo("a"), &Reference::Digest(stored.digest)).await.unwrap();
    for blob in blobs {
        store.delete_blob(&repo("a"), *blob).await.unwrap();
    }
}

/// Bytes in use without the index.
fn used(store: &Store) -> u64 {
    store.usage().used.unwrap() - store.0.contents.capacity.index_bytes()
}

/// What is linked in a snapshot.
fn linked(store: &Store, name: &str) -> BTreeSet<Digest> {
    let mut found = BTreeSet::new();
    let each = |digest: &Digest, _: &Path| {
        found.insert(*digest);
        Ok::<(), StoreError>(())
    };
    store.0.contents.each_link(&folder(name), each).unwrap();
    found
}

#[tokio::test]
async fn an_image_deleted_after_a_snapshot_is_free_when_the_snapshot_is_removed() {
    let dir = quick_dir();
    let store = store(dir.path());
    let (stored, blobs) = push_image(&store, b"{}", b"layer", "v1").await;
    let whole = used(&store);
    let taken = create(&store, "s").await;
    let sums = (taken.repositories, taken.manifests, taken.blobs, taken.tags, taken.contents, taken.bytes);
    assert_eq!(sums, (1, 1, 2, 1, 3, whole));
    assert_eq!((used(&store), store.usage().held, store.usage().snapshots), (whole, Some(0), 1));
    assert_tidy(&store);

    delete_image(&store, &stored, &blobs).await;
    let layout = &store.0.contents.layout;
    for digest in [stored.digest, blobs[0], blobs[1]] {
        assert!(!layout.content(&digest).exists(), "its name in blobs/ goes");
        assert!(layout.snapshot_content(&folder("s"), &digest).exists(), "the snapshot keeps the bytes");
    }
    assert_eq!((used(&store), store.usage().held), (whole, Some(whole)), "room counts them");
    let listed = store.list_snapshots().await.unwrap();
    assert_eq!((listed.len(), listed[0].name.as_str(), listed[0].only_here_bytes), (1, "s", whole));
    assert_eq!(listed[0].summary.as_ref(), Some(&taken));
    assert_tidy(&store);

    assert_eq!(remove(&store, "s").await, RemovedSnapshot { links: 3, freed_bytes: whole });
    assert_eq!((used(&store), store.usage().held, store.usage().snapshots), (0, Some(0), 0));
    assert_eq!(files_in(&layout.snapshots()), Vec::<std::path::PathBuf>::new());
    assert_tidy(&store);
}

#[tokio::test]
async fn what_only_snapshots_have_is_nobodys() {
    let dir = quick_dir();
    let store = store(dir.path());
    let blob = push(&store, &repo("a"), b"blob").await;
    for name in ["s", "t"] {
        create(&store, name).await;
    }
    assert!(store.mount_blob(None, &repo("b"), blob).await.unwrap(), "a repository has it");
    for name in ["a", "b"] {
        store.delete_blob(&repo(name), blob).await.unwrap();
    }
    assert!(!store.mount_blob(None, &repo("c"), blob).await.unwrap());
    assert!(!store.mount_blob(Some(&repo("a")), &repo("c"), blob).await.unwrap());
    assert!(!store.has_content(blob).await.unwrap());
    assert_eq!(read(&store, &repo("a"), blob).await, None);
    // Two keep it: the removal of one frees nothing.
    assert_eq!(remove(&store, "s").await.freed_bytes, 0);
    assert_eq!((used(&store), store.usage().held), (4, Some(4)));
    // Pushed again it is a content beside the one that is kept.
    push(&store, &repo("a"), b"blob").await;
    assert_eq!((used(&store), store.usage().held), (8, Some(4)));
    assert_tidy(&store);
    assert_eq!(remove(&store, "t").await.freed_bytes, 4);
    assert_eq!((used(&store), store.usage().held), (4, Some(0)));
    assert_tidy(&store);
}

#[tokio::test]
async fn a_collection_beside_a_snapshot_frees_no_bytes_of_it() {
    let dir = quick_dir();
    let store = store(dir.path());
    let (stored, [_, layer]) = push_image(&store, b"{}", b"layer", "v1").await;
    let left = push(&store, &repo("a"), b"left").await;
    create(&store, "s").await;
    let report = collect_twice(&store).await;
    assert_eq!((report.removed.blobs, report.removed.bytes), (1, 0), "{report:?}");
    let layout = &store.0.contents.layout;
    assert!(!layout.content(&left).exists() && layout.content(&layer).exists());
    assert_eq!(store.usage().held, Some(4));
    assert_tidy(&store);
    // What is given back and reached by nothing is found anew.
    assert_eq!(restore(&store, "s").await.blobs, 1);
    assert_eq!(read(&store, &repo("a"), left).await.unwrap(), b"left");
    assert_eq!(remove(&store, "s").await.freed_bytes, 0);
    assert_eq!(collect_twice(&store).await.removed.bytes, 4);
    assert!(store.manifest(&repo("a"), &Reference::Digest(stored.digest)).await.is_ok());
    assert_tidy(&store);
}

#[tokio::test]
async fn an_eviction_frees_nothing_that_a_snapshot_has() {
    let dir = quick_dir();
    let store = store(dir.path());
    let cached = RepoName::cached(crate::oci::UpstreamId::of("registry.example.com", "a"), "").unwrap();
    let (shared, own) = (push(&store, &repo("a"), b"shared").await, push(&store, &cached, b"own").await);
    assert!(store.mount_blob(Some(&repo("a")), &cached, shared).await.unwrap());
    let taken = create(&store, "s").await;
    assert_eq!((taken.repositories, taken.contents), (1, 1), "what an upstream taught is in no snapshot");
    store.delete_blob(&repo("a"), shared).await.unwrap();
    assert_eq!(store.usage().held, Some(0), "the cache has it");
    let evict = async |wanted: Eviction| store.evict(wanted).await.unwrap();
    assert!(evict(Eviction { goal: 4, ..Eviction::default() }).await.hopeless);
    assert_eq!(evict(Eviction { need: 100, ..Eviction::default() }).await.bytes, 3);
    assert_eq!((used(&store), store.usage().held), (6, Some(6)));
    assert_eq!(read(&store, &cached, own).await, None);
    assert_tidy(&store);
    assert_eq!(remove(&store, "s").await.freed_bytes, 6);
    assert_tidy(&store);
}

#[tokio::test]
async fn a_count_behind_an_unclean_stop_takes_the_links_of_snapshots_off() {
    let dir = quick_dir();
    let first = store(dir.path());
    let (stored, blobs) = push_image(&first, b"{}", b"layer", "v1").await;
    let kept = push(&first, &repo("a"), b"kept").await;
    create(&first, "s").await;
    create(&first, "t").await;
    let whole = used(&first);
    delete_image(&first, &stored, &blobs).await;
    // A kill between the last name in a repository and the one in blobs/.
    let layout = first.0.contents.layout.clone();
    std::fs::hard_link(layout.snapshot_content(&folder("s"), &blobs[1]), layout.content(&blobs[1])).unwrap();
    drop(first);
    let second = store(dir.path());
    assert_eq!(second.usage().held, None, "nothing is counted yet");
    second.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
    assert_eq!((used(&second), second.usage().held), (whole, Some(whole - 4)));
    assert!(!layout.content(&blobs[1]).exists() && layout.content(&kept).exists());
    assert_tidy(&second);
}

#[tokio::test]
async fn a_clean_stop_notes_what_snapshots_hold_and_other_snapshots_than_noted_are_counted() {
    let dir = quick_dir();
    let first = store(dir.path());
    let blob = push(&first, &repo("a"), b"blob").await;
    create(&first, "s").await;
    first.delete_blob(&repo("a"), blob).await.unwrap();
    first.close();
    let layout = first.0.contents.layout.clone();
    drop(first);
    let second = store(dir.path());
    assert_eq!((second.usage().used, second.usage().held), (Some(4), Some(4)));
    second.close();
    drop(second);
    // Somebody removes the directory while no server runs.
    std::fs::remove_dir_all(layout.snapshot(&folder("s"))).unwrap();
    let third = store(dir.path());
    assert_eq!(third.usage().used, None);
    third.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
    assert_eq!(used(&third), 0);
    assert_tidy(&third);
}

#[tokio::test]
async fn a_snapshot_that_is_copied_in_is_one() {
    let (dir, other, away) = (quick_dir(), quick_dir(), quick_dir());
    let first = store(dir.path());
    let (stored, blobs) = push_image(&first, b"{}", b"layer", "v1").await;
    create(&first, "s").await;
    copy(&first.0.contents.layout.snapshot(&folder("s")), &away.path().join("s"));
    let second = store(other.path());
    copy(&away.path().join("s"), &second.0.contents.layout.snapshot(&folder("t")));
    let listed = second.list_snapshots().await.unwrap();
    assert_eq!((listed.len(), listed[0].name.as_str(), listed[0].summary.as_ref().unwrap().tags), (1, "t", 1));
    assert_eq!((used(&second), second.usage().held), (used(&first), Some(used(&first))));
    let report = restore(&second, "t").await;
    assert_eq!((report.blobs, report.manifests, report.tags_added, report.missing), (2, 1, 1, 0));
    assert_eq!(second.usage().held, Some(0));
    let found = second.manifest(&repo("a"), &Reference::Tag(tag("v1"))).await.unwrap();
    assert_eq!(found.digest, stored.digest);
    assert_eq!(read(&second, &repo("a"), blobs[1]).await.unwrap(), b"layer");
    assert_tidy(&second);
}

/// As a backup does it: files, and no links.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for path in files_in(from) {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[tokio::test]
async fn what_can_not_be_is_refused_with_a_sentence() {
    let dir = quick_dir();
    let store = store(dir.path());
    push(&store, &repo("a"), b"blob").await;
    create(&store, "s").await;
    assert!(matches!(store.create_snapshot(snapshot("s")).await, Err(SnapshotError::Exists(_))));
    assert!(matches!(store.remove_snapshot(snapshot("t")).await, Err(SnapshotError::Unknown(_))));
    let restored = store.restore_snapshot(snapshot("t"), Restoring::default()).await;
    assert!(matches!(restored, Err(SnapshotError::Unknown(_))));
    for number in 1..MOST_SNAPSHOTS {
        create(&store, &format!("s{number}")).await;
    }
    assert!(matches!(store.create_snapshot(snapshot("more")).await, Err(SnapshotError::TooMany(MOST_SNAPSHOTS))));
    assert_tidy(&store);
    remove(&store, "s3").await;
    create(&store, "more").await;
    // A list that is not the one that was written gives nothing back.
    let list = store.0.contents.layout.snapshot_list(&folder("s"));
    let text = std::fs::read_to_string(&list).unwrap().replace("repository a", "repository b");
    std::fs::write(&list, text).unwrap();
    let restored = store.restore_snapshot(snapshot("s"), Restoring::default()).await;
    assert!(matches!(restored, Err(SnapshotError::Unfit { .. })), "{restored:?}");
    assert_eq!(remove(&store, "s").await.links, 1);
    assert_tidy(&store);
}

/// A delete that is never over, as one that begins anew in every attempt.
#[tokio::test]
async fn a_repository_that_never_rests_leaves_no_snapshot_and_is_named() {
    let dir = quick_dir();
    let store = store(dir.path());
    push_image(&store, b"{}", b"layer", "v1").await;
    let name = repo("a");
    let deleting = store.0.manifests.memory.deleting(&name);
    let refused = store.create_snapshot(snapshot("s")).await;
    assert!(matches!(&refused, Err(SnapshotError::Restless { repository, .. }) if *repository == name), "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("from repository a in each of"));
    assert!(store.list_snapshots().await.unwrap().is_empty());
    assert_eq!(files_in(&store.0.contents.layout.snapshots()), Vec::<std::path::PathBuf>::new());
    assert_tidy(&store);
    drop(deleting);
    assert_eq!(create(&store, "s").await.tags, 1);
}

/// Images come and go, tags move, and each snapshot that is taken meanwhile has for each tag all that it leads to.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_tag_in_a_snapshot_that_is_taken_beside_pushes_and_deletes_leads_to_nothing() {
    let dir = quick_dir();
    let store = store(dir.path());
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    for worker in 0..3_u32 {
        let (store, stop) = (store.clone(), stop.clone());
        tasks.spawn(async move {
            for round in 0.. {
                if stop.is_cancelled() {
                    break;
                }
                let (config, layer) = (format!("{{\"n\":{worker}}}"), format!("{worker} {}", round % 5));
                let name = format!("t{worker}-{}", round % 3);
                let (stored, blobs) = push_image(&store, config.as_bytes(), layer.as_bytes(), &name).await;
                if round % 2 == 1 {
                    store.delete_manifest(&repo("a"), &Reference::Digest(stored.digest)).await.unwrap();
                    store.delete_blob(&repo("a"), blobs[1]).await.unwrap();
                }
            }
        });
    }
    let (mut tags, mut tries) = (0, 0);
    while tags < 40 {
        let name = format!("s{}", tries % 4);
        tries += 1;
        let taken = match store.create_snapshot(snapshot(&name)).await {
            Ok(taken) => taken,
            Err(SnapshotError::Restless { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        tags += taken.tags;
        let kept = linked(&store, &name);
        let list = std::fs::read_to_string(store.0.contents.layout.snapshot_list(&folder(&name))).unwrap();
        let members: BTreeSet<&str> = list.lines().filter_map(|line| line.strip_prefix("manifest ")).collect();
        for line in list.lines().filter_map(|line| line.strip_prefix("tag ")) {
            let target = line.split(' ').nth(1).unwrap();
            assert!(members.contains(target), "{line} leads to nothing");
            let bytes = store.0.contents.layout.snapshot_content(&folder(&name), &target.parse().unwrap());
            let led_to = Manifest::kept(&std::fs::read(bytes).unwrap()).unwrap();
            for blob in led_to.required_blobs() {
                assert!(kept.contains(&blob.digest), "{line} lacks {}", blob.digest);
            }
        }
        remove(&store, &name).await;
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    assert_tidy(&store);
}

/// The figure: `cargo test --release --lib hundred_thousand -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a figure: minutes to lay out"]
async fn hundred_thousand_blobs_in_seconds() {
    const BLOBS: u32 = 100_000;
    let dir = tempfile::tempdir_in(std::env::var("SNAPSHOT_DIR").unwrap_or_else(|_| "/var/tmp".to_owned())).unwrap();
    let first = store(dir.path());
    push(&first, &repo("a"), b"first").await;
    let layout = first.0.contents.layout.clone();
    for number in 0..BLOBS {
        let content = number.to_be_bytes();
        let digest = sha256(&content);
        std::fs::write(layout.content(&digest), content).unwrap();
        let name = repo(if number % 2 == 0 { "a" } else { "b" });
        let member = layout.member(&name, Membership::Blob, &digest);
        if number < 2 {
            std::fs::create_dir_all(member.parent().unwrap()).unwrap();
        }
        std::fs::hard_link(layout.content(&digest), member).unwrap();
    }
    drop(first);
    let store = store(dir.path());
    store.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
    let timed = |what: &str, since: std::time::Instant| println!("{what}: {:.2} s", since.elapsed().as_secs_f64());
    for name in ["s", "t"] {
        let since = std::time::Instant::now();
        assert_eq!(create(&store, name).await.contents, u64::from(BLOBS) + 1);
        timed("create", since);
    }
    let since = std::time::Instant::now();
    store.list_snapshots().await.unwrap();
    timed("list of two", since);
    let since = std::time::Instant::now();
    assert_eq!(restore(&store, "s").await.blobs, 0);
    timed("restore with nothing to do", since);
    for name in ["a", "b"] {
        std::fs::remove_dir_all(layout.repository(&repo(name))).unwrap();
    }
    let since = std::time::Instant::now();
    assert_eq!(restore(&store, "s").await.blobs, u64::from(BLOBS) + 1);
    timed("restore of all names", since);
    let since = std::time::Instant::now();
    remove(&store, "s").await;
    timed("rm", since);
}
