//! Left half-way at each durable step: what was acknowledged is there, the rest can be done again, nothing is left over.
//! The points are compiled in by the feature `failpoints`; `make torture` runs this.

use fail::FailScenario;

use super::*;

const POINTS: &[&str] = &[
    "store::upload::before_sync",
    "store::content::before_rename",
    "store::content::after_rename",
    "store::content::before_link",
    "store::content::after_link",
    "store::tag::before_rename",
    "store::tag::after_rename",
];

async fn push_image(store: &Store, config: &[u8], tag: &str) -> Result<(), StoreError> {
    push_as(store, &repo("a"), config, sha256(config)).await?;
    store.put_manifest(&repo("a"), image(config, &[]), vec![tag.parse().unwrap()]).await
}

#[tokio::test]
async fn a_push_that_ends_at_any_step_can_be_done_again() {
    let scenario = FailScenario::setup();
    for point in POINTS {
        let dir = tempfile::tempdir().unwrap();
        let first = store(dir.path());
        push_image(&first, b"before", "kept").await.unwrap();
        fail::cfg(*point, "panic").unwrap();
        let ended = push_image(&first, b"after", "new").await;
        fail::remove(*point);
        assert!(matches!(ended, Err(StoreError::Bug(_))), "{point}: {ended:?}");
        drop(first);

        let second = store(dir.path());
        second.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
        let kept = second.manifest(&repo("a"), &Reference::Tag("kept".parse().unwrap())).await.unwrap();
        assert_eq!(second.missing_references(&repo("a"), &kept).await.unwrap(), [], "{point}");
        push_image(&second, b"after", "new").await.unwrap();
        second.0.maintenance.reap(Timestamp::from_millis(u64::MAX)).unwrap();
        assert_tidy(&second);
    }
    scenario.teardown();
}

const REPAIR: &[&str] = &[
    "store::damage::before_name",
    "store::damage::after_name",
    "store::damage::after_move",
    "store::content::before_rename",
    "store::content::after_rename",
    "store::content::before_link",
    "store::content::after_link",
    "store::damage::after_relink",
    "store::damage::before_drop",
];

#[tokio::test]
async fn a_repair_that_ends_at_any_step_can_be_done_again() {
    let scenario = FailScenario::setup();
    let (names, content, digest) = ([repo("a"), repo("b")], b"content", sha256(b"content"));
    let found = async |store: &Store, name: &RepoName| match store.blob_content(name, digest).await {
        Ok(StoredContent::Memory(bytes)) => Ok(Some(bytes)),
        Ok(StoredContent::File(_)) => panic!("a small blob is answered from memory"),
        Err(StoreError::BlobUnknown) => Ok(None),
        Err(error) => Err(error),
    };
    // The content or nothing, whatever was left.
    let is_right = |found: &Option<Bytes>| found.as_ref().is_none_or(|bytes| bytes == &content[..]);
    for point in REPAIR {
        let dir = tempfile::tempdir().unwrap();
        let first = store(dir.path());
        for name in &names {
            push(&first, name, content).await;
        }
        std::fs::write(first.0.contents.layout.content(&digest), b"CONTENT").unwrap();
        fail::cfg(*point, "panic").unwrap();
        let mut left = 0;
        for name in &names {
            match found(&first, name).await {
                Ok(found) => assert!(is_right(&found), "{point}"),
                Err(_) => left += 1,
            }
            left += usize::from(push_as(&first, name, content, digest).await.is_err());
        }
        let inner = Arc::clone(&first.0);
        let looked =
            tokio::task::spawn_blocking(move || inner.manifests.look_after_damage(std::time::Instant::now())).await;
        assert!(left > 0 || looked.is_err(), "{point} is not on the way");
        fail::remove(*point);
        drop(first);

        let second = store(dir.path());
        second.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
        for name in &names {
            assert!(is_right(&found(&second, name).await.unwrap()), "{point}");
        }
        for name in &names {
            push(&second, name, content).await;
            assert_eq!(found(&second, name).await.unwrap().as_deref(), Some(&content[..]), "{point}");
        }
        second.0.manifests.look_after_damage(std::time::Instant::now());
        second.0.maintenance.reap(Timestamp::from_millis(u64::MAX)).unwrap();
        assert_tidy(&second);
    }
    scenario.teardown();
}

const COLLECTION: &[&str] = &[
    "store::collection::before_list",
    "store::collection::after_list",
    "store::collection::before_save",
    "store::collection::after_save",
    "store::collection::before_unlink",
    "store::content::before_reclaim",
    "store::collection::after_unlink",
];

/// Law (c).
#[tokio::test]
async fn a_collection_that_ends_at_any_step_is_done_by_the_next() {
    use super::collection::{collect, collect_twice};

    let scenario = FailScenario::setup();
    for point in COLLECTION {
        let dir = tempfile::tempdir().unwrap();
        let first = store(dir.path());
        let options =
            CollectionOptions { untagged_after: Some(super::collection::GRACE), ..CollectionOptions::default() };
        first.set_collection(options.clone());
        push_image(&first, b"kept", "v1").await.unwrap();
        push_as(&first, &repo("a"), b"left", sha256(b"left")).await.unwrap();
        push_as(&first, &repo("a"), b"asked", sha256(b"asked")).await.unwrap();
        first.put_manifest(&repo("a"), numbered(1), Vec::new()).await.unwrap();
        let stop = (CancellationToken::new(), crate::jobs::Progress::default());
        if !point.ends_with("_list") {
            collect(&first).await;
        }
        fail::cfg(*point, "panic").unwrap();
        let asked = read_or_error(&first, b"asked").await;
        super::collection::run_for(&first, super::collection::GRACE * 2);
        let ended = first.collect(&stop.0, &stop.1).await;
        fail::remove(*point);
        assert!(asked.is_err() || ended.is_err(), "{point} is not on the way: {ended:?}");
        drop(first);

        let second = store(dir.path());
        second.set_collection(options);
        second.0.contents.count(&stop.0, &stop.1).unwrap();
        collect_twice(&second).await;
        collect_twice(&second).await;
        let kept = second.manifest(&repo("a"), &Reference::Tag("v1".parse().unwrap())).await.unwrap();
        assert_eq!(second.missing_references(&repo("a"), &kept).await.unwrap(), [], "{point}");
        for gone in [sha256(b"left"), sha256(b"asked"), numbered(1).digest] {
            assert!(!second.0.contents.layout.content(&gone).exists(), "{point}: {gone} is left");
        }
        assert_tidy(&second);
    }
    scenario.teardown();
}

const DROP: &[&str] = &[
    "store::drop::before_name",
    "store::content::before_reclaim",
    "store::drop::after_name",
    "store::drop::after_directories",
];

#[tokio::test]
async fn a_drop_of_a_modes_data_that_ends_at_any_step_is_done_by_the_next() {
    use super::cached::{cached, fill};
    use super::mode_data::{dropped, opposite, used};
    use crate::values::StoringMode;

    let scenario = FailScenario::setup();
    for mode in StoringMode::ALL {
        for point in DROP {
            let dir = tempfile::tempdir().unwrap();
            let first = store(dir.path());
            push_image(&first, b"config", "v1").await.unwrap();
            let shared = fill(&first, &[cached(""), cached("m")], b"both have it").await;
            push_as(&first, &repo("a"), b"both have it", shared).await.unwrap();
            let alone = fill(&first, &[cached("m")], b"the cache alone").await;
            first.put_manifest(&cached(""), numbered(1), vec!["v1".parse().unwrap()]).await.unwrap();
            let names = [repo("a"), cached(""), cached("m")];
            let going = |name: &RepoName| name.is_cached() == (mode == StoringMode::Proxy);
            first.set_used_data(used(opposite(mode)));
            fail::cfg(*point, "panic").unwrap();
            let ended = dropped(&first, mode).await;
            fail::remove(*point);
            assert!(matches!(ended, Err(StoreError::Bug(_))), "{point} is not on the way: {ended:?}");
            drop(first);

            let second = store(dir.path());
            let stop = (CancellationToken::new(), crate::jobs::Progress::default());
            second.0.contents.count(&stop.0, &stop.1).unwrap();
            second.set_used_data(used(opposite(mode)));
            assert_eq!(dropped(&second, mode).await.unwrap().left, None, "{point}");
            for name in &names {
                assert_eq!(second.0.contents.layout.repository(name).exists(), !going(name), "{point} {name}");
                if !going(name) {
                    let expected =
                        if *name == cached("m") { b"the cache alone".to_vec() } else { b"both have it".to_vec() };
                    assert_eq!(read(&second, name, sha256(&expected)).await, Some(expected), "{point} {name}");
                }
            }
            assert_eq!(second.0.contents.layout.content(&alone).exists(), mode == StoringMode::Local);
            second.0.maintenance.reap(Timestamp::from_millis(u64::MAX)).unwrap();
            assert_tidy(&second);
        }
    }
    scenario.teardown();
}

async fn read_or_error(store: &Store, content: &[u8]) -> Result<(), StoreError> {
    store.blob(&repo("a"), sha256(content)).await.map(drop)
}

const SNAPSHOT: &[&str] = &[
    "store::snapshot::after_links",
    "store::snapshot::before_summary",
    "store::snapshot::before_rename",
    "store::snapshot::after_rename",
    "store::snapshot::before_clear",
    "store::snapshot::after_let_go",
    "store::snapshot::after_return",
    "store::snapshot::after_member",
];

#[tokio::test]
async fn what_is_done_with_a_snapshot_and_ends_at_any_step_can_be_done_again() {
    let scenario = FailScenario::setup();
    let (kept, taken): (SnapshotName, SnapshotName) = ("kept".parse().unwrap(), "taken".parse().unwrap());
    let count = |store: &Store| {
        store.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
    };
    for point in SNAPSHOT {
        let dir = tempfile::tempdir().unwrap();
        let first = store(dir.path());
        push_image(&first, b"before", "v1").await.unwrap();
        let stored = image(b"before", &[]);
        first.create_snapshot(kept.clone()).await.unwrap();
        first.delete_manifest(&repo("a"), &Reference::Digest(stored.digest)).await.unwrap();
        first.delete_blob(&repo("a"), sha256(b"before")).await.unwrap();
        push_image(&first, b"behind", "v2").await.unwrap();
        fail::cfg(*point, "panic").unwrap();
        let mut ended = first.create_snapshot(taken.clone()).await.is_err();
        ended |= first.restore_snapshot(kept.clone(), Restoring::default()).await.is_err();
        ended |= first.remove_snapshot(kept.clone()).await.is_err();
        fail::remove(*point);
        assert!(ended, "{point} is not on the way");
        drop(first);

        let second = store(dir.path());
        count(&second);
        // A snapshot is whole or on its way out.
        for listed in second.list_snapshots().await.unwrap() {
            let folders = second.0.contents.snapshots.all();
            let is_whole = folders.iter().any(|folder| folder.is_whole && folder.name.to_string() == listed.name);
            assert_eq!(listed.summary.is_some(), is_whole, "{point}");
        }
        let inner = Arc::clone(&second.0);
        tokio::task::spawn_blocking(move || inner.snapshots.tidy()).await.unwrap().unwrap();
        assert!(second.0.contents.snapshots.all().iter().all(|folder| folder.is_whole), "{point}");
        assert_tidy(&second);
        let is_there = second.list_snapshots().await.unwrap().iter().any(|listed| listed.name == "kept");
        if is_there {
            let report = second.restore_snapshot(kept.clone(), Restoring::default()).await.unwrap();
            assert_eq!(report.missing, 0, "{point}");
            assert_eq!(read(&second, &repo("a"), sha256(b"before")).await.unwrap(), b"before", "{point}");
            second.remove_snapshot(kept.clone()).await.unwrap();
        }
        let found = second.manifest(&repo("a"), &Reference::Tag("v2".parse().unwrap())).await.unwrap();
        assert_eq!(second.missing_references(&repo("a"), &found).await.unwrap(), [], "{point}");
        match second.create_snapshot(taken.clone()).await {
            Ok(_) | Err(SnapshotError::Exists(_)) => {}
            Err(error) => panic!("{point}: {error}"),
        }
        second.remove_snapshot(taken.clone()).await.unwrap();
        assert_tidy(&second);
    }
    scenario.teardown();
}

const RETENTION: &[&str] = &[
    "store::retention::before_give_up",
    "store::retention::after_give_up",
    "store::retention::before_tag",
    "store::retention::after_tag",
];

/// A verdict that ends half-way is found again and carried out; what it was not about is whole.
#[tokio::test]
async fn a_retention_that_ends_at_any_step_is_done_by_the_next() {
    use super::collection::collect_twice;

    let scenario = FailScenario::setup();
    let going = || vec![(repo("a"), "old".parse().unwrap()), (repo("a"), "older".parse().unwrap())];
    for point in RETENTION {
        let dir = tempfile::tempdir().unwrap();
        let first = store(dir.path());
        let stop = CancellationToken::new();
        for (config, tag) in [(&b"kept"[..], "v1"), (b"old", "old"), (b"older", "older")] {
            push_image(&first, config, tag).await.unwrap();
        }
        fail::cfg(*point, "panic").unwrap();
        let look = first.look_at_tags(&repo("a"), &stop).await.unwrap().unwrap();
        let ended = first.retire(vec![look], going(), &stop).await;
        fail::remove(*point);
        assert!(ended.is_err(), "{point} is not on the way: {ended:?}");
        drop(first);

        let second = store(dir.path());
        second.0.contents.count(&stop, &crate::jobs::Progress::default()).unwrap();
        let look = second.look_at_tags(&repo("a"), &stop).await.unwrap().unwrap();
        let retired = second.retire(vec![look], going(), &stop).await.unwrap();
        assert!(!retired.touched && retired.left_alone.is_none(), "{point}");
        collect_twice(&second).await;
        let kept = second.manifest(&repo("a"), &Reference::Tag("v1".parse().unwrap())).await.unwrap();
        assert_eq!(second.missing_references(&repo("a"), &kept).await.unwrap(), [], "{point}");
        for gone in [b"old".as_slice(), b"older"] {
            assert!(!second.0.contents.layout.content(&sha256(gone)).exists(), "{point}");
            assert!(!second.0.contents.layout.content(&image(gone, &[]).digest).exists(), "{point}");
        }
        assert_tidy(&second);
    }
    scenario.teardown();
}

/// The first look at the records tells what a kill left.
async fn deleted(store: &Store, digest: Digest) -> bool {
    let is_deleted = store.is_deleted(&repo("a"), digest).await.unwrap();
    let is_there = store.manifest(&repo("a"), &Reference::Digest(digest)).await.is_ok();
    assert_ne!(is_deleted, is_there);
    is_deleted
}

#[tokio::test]
async fn a_delete_that_ends_at_any_step_is_not_begun_or_ends_when_the_records_are_read() {
    let scenario = FailScenario::setup();
    for (point, was_said) in [("store::record::before_append", false), ("store::record::after_append", true)] {
        let dir = tempfile::tempdir().unwrap();
        let first = store(dir.path());
        first.keep_records().unwrap();
        let digest = image(b"config", &[]).digest;
        push_image(&first, b"config", "v1").await.unwrap();
        fail::cfg(point, "panic").unwrap();
        let ended = first.delete_manifest(&repo("a"), &Reference::Digest(digest)).await;
        fail::remove(point);
        assert!(matches!(ended, Err(StoreError::Bug(_))), "{point}: {ended:?}");
        drop(first);

        let second = store(dir.path());
        assert_eq!(deleted(&second, digest).await, was_said, "{point}");
        push_image(&second, b"config", "v1").await.unwrap();
        assert!(!deleted(&second, digest).await);
        second.delete_manifest(&repo("a"), &Reference::Digest(digest)).await.unwrap();
        assert!(deleted(&second, digest).await, "{point}");
    }
    scenario.teardown();
}

#[tokio::test]
async fn what_is_said_and_ends_at_any_step_is_as_the_tree_has_it_and_is_heard_again() {
    use super::records::masters::{assert_true, hear, tree};
    let scenario = FailScenario::setup();
    let points = [
        "store::tag::after_rename",
        "store::record::before_push",
        "store::record::before_append",
        "store::record::after_append",
        "store::record::before_deletion",
        "store::record::before_taking",
    ];
    for point in points {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, other] = [0, 1].map(|at| store(dirs[at].path()));
        one.keep_records().unwrap();
        other.keep_records().unwrap();
        for (number, name) in [(1, "v1"), (2, "v2"), (3, "v3")] {
            one.put_manifest(&repo("a"), numbered(number), vec![name.parse().unwrap()]).await.unwrap();
        }
        hear(&other, &one).await;
        one.put_manifest(&repo("a"), numbered(2), vec!["v1".parse().unwrap()]).await.unwrap();
        one.delete_manifest(&repo("a"), &Reference::Digest(numbered(3).digest)).await.unwrap();
        fail::cfg(point, "panic").unwrap();
        // A push of its own, and what the other one said.
        let _ = other.put_manifest(&repo("a"), numbered(4), vec!["v4".parse().unwrap()]).await;
        let task = (other.clone(), one.clone());
        let local = tokio::task::LocalSet::new();
        let heard =
            local.run_until(async move { tokio::task::spawn_local(async move { hear(&task.0, &task.1).await }).await });
        let _ = heard.await;
        fail::remove(point);
        drop(other);

        let other = store(dirs[1].path());
        for store in [&one, &other] {
            store.read_records(CancellationToken::new()).await.unwrap();
        }
        assert_true(&other).await;
        for _ in 0..2 {
            hear(&other, &one).await;
            hear(&one, &other).await;
        }
        assert_eq!(one.records_sum(), other.records_sum(), "{point}");
        assert_eq!(tree(&one).await, tree(&other).await, "{point}");
        let tags = tree(&one).await.0;
        assert_eq!((tags.get("v1"), tags.get("v3")), (Some(&numbered(2).digest), None), "{point}");
        assert_tidy(&other);
    }
    scenario.teardown();
}
