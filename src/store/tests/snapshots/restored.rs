//! What a restore gives back.

use super::*;

fn time_of(store: &Store, name: &str) -> std::time::SystemTime {
    let path = store.0.contents.layout.tag(&repo("a"), &tag(name));
    std::fs::metadata(path).unwrap().modified().unwrap()
}

async fn target(store: &Store, name: &str) -> Option<Digest> {
    match store.manifest(&repo("a"), &Reference::Tag(tag(name))).await {
        Ok(found) => Some(found.digest),
        Err(StoreError::ManifestUnknown) => None,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn contents_and_tags_are_as_they_were_and_what_came_since_stays() {
    let dir = quick_dir();
    let store = store(dir.path());
    let (old, old_blobs) = push_image(&store, b"{}", b"old", "v1").await;
    let (other, other_blobs) = push_image(&store, b"{}", b"other", "stays").await;
    // A tag as it was an hour ago.
    let path = store.0.contents.layout.tag(&repo("a"), &tag("v1"));
    let before = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    std::fs::File::open(path).unwrap().set_modified(before).unwrap();
    create(&store, "s").await;
    let (new, _) = push_image(&store, b"{}", b"new", "v1").await;
    push_image(&store, b"{}", b"newer", "newer").await;
    push(&store, &repo("b"), b"{}").await;
    store.put_manifest(&repo("b"), image(b"{}", &[]), vec![tag("elsewhere")]).await.unwrap();
    delete_image(&store, &old, &old_blobs[1..]).await;

    let dry = Restoring { dry_run: true, exact: true };
    let look = store.restore_snapshot(snapshot("s"), dry).await.unwrap();
    let sums = |report: &RestoreReport| {
        let RestoreReport { blobs, manifests, tags_added, tags_moved, tags_removed, tags_newer, missing, .. } = report;
        [*blobs, *manifests, *tags_added, *tags_moved, *tags_removed, *tags_newer, *missing]
    };
    assert_eq!((look.dry_run, sums(&look)), (true, [1, 1, 0, 1, 2, 0, 0]));
    assert_eq!(target(&store, "v1").await, Some(new.digest), "a look changes nothing");
    assert_tidy(&store);

    let report = restore(&store, "s").await;
    assert_eq!((report.repositories, sums(&report)), (1, [1, 1, 0, 1, 0, 2, 0]));
    assert_eq!(target(&store, "v1").await, Some(old.digest));
    assert_eq!(time_of(&store, "v1"), before, "with the time that it had");
    assert_eq!(target(&store, "stays").await, Some(other.digest));
    assert!(target(&store, "newer").await.is_some());
    assert_eq!(read(&store, &repo("a"), old_blobs[1]).await.unwrap(), b"old");
    assert_eq!(read(&store, &repo("a"), other_blobs[1]).await.unwrap(), b"other");
    let by_digest = store.manifest(&repo("a"), &Reference::Digest(new.digest)).await;
    assert!(by_digest.is_ok(), "no content is taken away");
    assert_tidy(&store);
    assert_eq!(sums(&restore(&store, "s").await), [0, 0, 0, 0, 0, 2, 0], "there is nothing left to do");

    let exact = Restoring { exact: true, ..Restoring::default() };
    let report = store.restore_snapshot(snapshot("s"), exact).await.unwrap();
    assert_eq!(sums(&report), [0, 0, 0, 0, 2, 0, 0]);
    assert_eq!(target(&store, "newer").await, None);
    assert_tidy(&store);
}

#[tokio::test]
async fn lists_have_what_was_given_back_at_once() {
    let dir = quick_dir();
    let store = store(dir.path());
    let jobs = Runner::new(TaskTracker::new(), CancellationToken::new());
    store.start_jobs(&jobs);
    push(&store, &repo("a"), b"{}").await;
    let subject = image(b"{}", &[]);
    let descriptor = testkit::descriptor(testkit::media_type::IMAGE, &subject.bytes);
    let referrer = manifest(&testkit::with(testkit::index(&[]), &json!({ "subject": descriptor })));
    for (stored, name) in [(&subject, "one"), (&referrer, "two")] {
        store.put_manifest(&repo("a"), stored.clone(), vec![tag(name)]).await.unwrap();
    }
    create(&store, "s").await;
    while store.index_state() != IndexState::Ready {
        tokio::task::yield_now().await;
    }
    for stored in [&subject, &referrer] {
        store.delete_manifest(&repo("a"), &Reference::Digest(stored.digest)).await.unwrap();
    }
    assert!(store.repositories(None, 10).await.unwrap().entries.is_empty());
    restore(&store, "s").await;
    assert_eq!(store.tags(&repo("a"), None, 10).await.unwrap().entries, ["one", "two"]);
    assert_eq!(store.repositories(None, 10).await.unwrap().entries, ["a"]);
    assert_eq!(store.referrers(&repo("a"), subject.digest, None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_only_the_snapshot_has_is_hashed_and_nothing_on_the_list_of_damaged_contents_is_believed() {
    let dir = quick_dir();
    let store = store(dir.path());
    let (stored, blobs) = push_image(&store, b"{}", b"layer", "v1").await;
    let (spoilt, spoilt_blobs) = push_image(&store, b"{}", b"spoilt", "v2").await;
    create(&store, "s").await;
    delete_image(&store, &stored, &blobs[1..]).await;
    delete_image(&store, &spoilt, &spoilt_blobs).await;
    // It rots where nobody reads it; its length is the same.
    let link = store.0.contents.layout.snapshot_content(&folder("s"), &spoilt_blobs[1]);
    std::fs::write(&link, b"SPOILT").unwrap();
    let report = restore(&store, "s").await;
    assert_eq!((report.manifests, report.missing), (2, 1), "{report:?}");
    let missing = &report.missing_named[0];
    let name = spoilt_blobs[1].to_string();
    assert_eq!((missing.repository.as_str(), missing.kind, &missing.name), ("a", "blob", &name));
    assert_eq!((store.damage().contents, store.damage().bytes, store.usage().held), (1, 6, Some(0)));
    assert_eq!(read(&store, &repo("a"), spoilt_blobs[1]).await, None);
    assert_eq!(read(&store, &repo("a"), blobs[1]).await.unwrap(), b"layer");
    // It is on the list now: asked again, it is not even read.
    assert_eq!(restore(&store, "s").await.missing, 1);
    let look = store.restore_snapshot(snapshot("s"), Restoring { dry_run: true, exact: false }).await.unwrap();
    assert_eq!(look.missing, 1);
    // A push of it mends the snapshot too.
    push(&store, &repo("b"), b"spoilt").await;
    store.0.manifests.look_after_damage(std::time::Instant::now());
    assert_eq!(store.damage().contents, 0);
    assert_eq!(std::fs::read(&link).unwrap(), b"spoilt");
    assert_eq!(restore(&store, "s").await.missing, 0);
    assert_eq!(read(&store, &repo("a"), spoilt_blobs[1]).await.unwrap(), b"spoilt");
    assert_tidy(&store);
}

#[tokio::test]
async fn a_damaged_content_is_kept_by_no_snapshot_and_stays_on_the_list_while_one_links_it() {
    let dir = quick_dir();
    let store = store(dir.path());
    let blob = push(&store, &repo("a"), b"blob").await;
    create(&store, "before").await;
    std::fs::write(store.0.contents.layout.content(&blob), b"BLOB").unwrap();
    assert!(store.blob_content(&repo("a"), blob).await.is_err(), "it is found");
    assert_eq!(create(&store, "behind").await.damaged, 1);
    assert_eq!(linked(&store, "behind"), BTreeSet::new());
    store.delete_blob(&repo("a"), blob).await.unwrap();
    assert_eq!((store.damage().contents, used(&store), store.usage().held), (1, 4, Some(0)));
    assert_eq!(restore(&store, "before").await.missing, 1, "it is damaged");
    assert_eq!(restore(&store, "behind").await.missing, 1, "it is not there");
    remove(&store, "before").await;
    assert_eq!((store.damage().contents, used(&store)), (0, 0));
    remove(&store, "behind").await;
    assert_tidy(&store);
}

#[tokio::test]
async fn what_a_snapshot_holds_of_a_damaged_content_is_taken_off_once_however_often_the_store_is_opened() {
    let dir = quick_dir();
    let opened = store(dir.path());
    let (bad, good) = (push(&opened, &repo("a"), b"bad").await, push(&opened, &repo("a"), b"good bytes").await);
    create(&opened, "s").await;
    for blob in [bad, good] {
        opened.delete_blob(&repo("a"), blob).await.unwrap();
    }
    assert_eq!(opened.usage().held, Some(13));
    std::fs::write(opened.0.contents.layout.snapshot_content(&folder("s"), &bad), b"BAD").unwrap();
    assert_eq!(restore(&opened, "s").await.missing, 1);
    opened.delete_blob(&repo("a"), good).await.unwrap();
    let seen = |store: &Store| (store.usage().held, store.damage().bytes);
    assert_eq!(seen(&opened), (Some(10), 3));
    let mut last = opened;
    for _ in 0..4 {
        last.close();
        drop(last);
        last = store(dir.path());
        if last.usage().used.is_none() {
            last.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
        }
        assert_eq!(seen(&last), (Some(10), 3));
    }
}

#[tokio::test]
async fn what_a_restore_finds_there_is_no_suspect_any_more() {
    let dir = quick_dir();
    let store = store(dir.path());
    let (stored, _) = push_image(&store, b"{}", b"layer", "v1").await;
    create(&store, "s").await;
    store.delete_manifest(&repo("a"), &Reference::Digest(stored.digest)).await.unwrap();
    collect(&store).await;
    assert_eq!(store.collection().suspects, 2, "its blobs are there");
    let look = Restoring { dry_run: true, exact: false };
    store.restore_snapshot(snapshot("s"), look).await.unwrap();
    assert_eq!(store.collection().suspects, 2);
    assert_eq!(restore(&store, "s").await.missing, 0);
    assert_eq!(store.collection().suspects, 0);
}

#[tokio::test]
async fn exactly_is_not_restored_what_could_not_be_read_whole() {
    let dir = quick_dir();
    let store = store(dir.path());
    push_image(&store, b"{}", b"layer", "v1").await;
    push_image(&store, b"{}", b"layer", "v2").await;
    let path = store.0.contents.layout.tag(&repo("a"), &tag("v2"));
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, b"?").unwrap();
    assert!(create(&store, "s").await.left_out > 0);
    std::fs::write(&path, text).unwrap();
    let exact = Restoring { exact: true, ..Restoring::default() };
    let refused = store.restore_snapshot(snapshot("s"), exact).await.unwrap_err();
    assert!(matches!(&refused, SnapshotError::Unfit { what, .. } if what.contains("--exact")), "{refused}");
    assert_eq!(restore(&store, "s").await.missing, 0);
    assert!(target(&store, "v2").await.is_some());
}

/// Its pages are not those that clients need.
#[tokio::test]
async fn what_only_the_snapshot_had_is_read_from_the_disk_and_does_not_stay_in_memory() {
    use rustix::fs::{Advice, fadvise};
    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let layer = testkit::noise(5, 3_000_000);
    let (stored, blobs) = push_image(&store, b"{}", &layer, "v1").await;
    create(&store, "s").await;
    delete_image(&store, &stored, &blobs).await;
    let kept = File::open(store.0.contents.layout.snapshot_content(&folder("s"), &blobs[1])).unwrap();
    let other = File::create_new(dir.path().join("looked at")).unwrap();
    other.set_len(3_000_000).unwrap();
    let other = File::open(dir.path().join("looked at")).unwrap();
    let drop_pages = |file: &File| fadvise(file, 0, None, Advice::DontNeed).unwrap();
    // The look has a page read that is not there: each file is looked at once.
    let is_cached = |file| match preadv2(file, &mut [std::io::IoSliceMut::new(&mut [0])], 0, ReadWriteFlags::NOWAIT) {
        Ok(read) => Some(read > 0),
        Err(Errno::AGAIN) => Some(false),
        Err(_) => None,
    };
    drop_pages(&other);
    if is_cached(&other) != Some(false) {
        eprintln!("this file system keeps its pages or can't tell: nothing is tested");
        return;
    }
    drop_pages(&kept);
    let report = restore(&store, "s").await;
    assert_eq!((report.blobs, report.manifests, report.missing), (2, 1, 0));
    assert_eq!(is_cached(&kept), Some(false));
    assert_tidy(&store);
}

/// A killed restore may have linked it and not come to its sync: the next one answers for it too.
#[tokio::test]
async fn what_is_there_already_is_synced_once_more() {
    let dir = quick_dir();
    let store = store(dir.path());
    push_image(&store, b"{}", b"layer", "v1").await;
    create(&store, "s").await;
    let syncs = || store.0.contents.disk.whole_syncs.load(std::sync::atomic::Ordering::SeqCst);
    let before = syncs();
    let look = Restoring { dry_run: true, ..Restoring::default() };
    store.restore_snapshot(snapshot("s"), look).await.unwrap();
    assert_eq!(syncs(), before, "a look syncs nothing");
    let report = restore(&store, "s").await;
    assert_eq!((report.blobs, report.manifests, report.tags_added), (0, 0, 0));
    // Of blobs, and of manifests.
    assert_eq!(syncs(), before + 2);
}

/// As behind a crash: the repository's name leads to a file that is not in `blobs/`.
#[tokio::test]
async fn what_has_no_place_in_blobs_is_charged_while_a_snapshot_keeps_it() {
    let dir = quick_dir();
    let first = store(dir.path());
    let blob = push(&first, &repo("a"), b"blob").await;
    let layout = first.0.contents.layout.clone();
    drop(first);
    std::fs::remove_file(layout.content(&blob)).unwrap();
    let second = store(dir.path());
    second.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
    assert_eq!((used(&second), second.usage().held), (0, Some(0)));
    create(&second, "s").await;
    create(&second, "t").await;
    assert_eq!((used(&second), second.usage().held), (4, Some(4)), "once, however many keep it");
    remove(&second, "s").await;
    assert_eq!(second.usage().held, Some(4));
    remove(&second, "t").await;
    assert_eq!((used(&second), second.usage().held), (0, Some(0)));
}

fn flip(path: &Path) {
    use std::os::unix::fs::FileExt as _;
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 0).unwrap();
}

/// Nobody else reads it, and it is needed on the day of a restore.
#[tokio::test]
async fn what_only_snapshots_have_is_verified_and_scrubbed() {
    let dir = quick_dir();
    let store = store(dir.path());
    let (stored, blobs) = push_image(&store, b"{}", b"layer", "v1").await;
    create(&store, "s").await;
    create(&store, "t").await;
    delete_image(&store, &stored, &blobs).await;
    // Beside it the same, pushed again.
    push(&store, &repo("a"), b"layer").await;
    let layout = &store.0.contents.layout;
    let verify = || store.verify(VerifyOptions::default(), CancellationToken::new());
    let report = verify().await.unwrap();
    assert!(report.whole && report.contents == 4, "{report:#?}");
    let kept = layout.snapshot_content(&folder("s"), &blobs[1]);
    flip(&kept);
    let report = verify().await.unwrap();
    assert_eq!(report.findings.len(), 1, "{report:#?}");
    let finding = &report.findings[0];
    assert_eq!(
        (finding.problem, &*finding.breaks),
        (Problem::WrongBytes, &["snapshot s".into(), "snapshot t".into()][..])
    );
    assert!(dir.path().join(&finding.path) == kept || finding.path.starts_with("snapshots/t/"), "{finding:?}");

    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let jobs = Runner::new(tasks.clone(), stop.clone());
    store.start_jobs(&jobs);
    assert_eq!(jobs.run_now("scrub").await.unwrap().result, crate::jobs::RunResult::Ok);
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    let [contents, _, found] = store.scrub().since_start;
    assert_eq!((contents, found), (4, 1));
    assert_eq!(read(&store, &repo("a"), blobs[1]).await.unwrap(), b"layer", "what was pushed again is sound");
    // A restore takes what is in the store, and of the other what the snapshot has.
    let report = restore(&store, "s").await;
    assert_eq!((report.blobs, report.manifests, report.missing), (1, 1, 0), "{report:?}");
    // What is damaged is charged as such, and by the end of its last link by nobody.
    for name in ["s", "t"] {
        remove(&store, name).await;
    }
    assert_eq!((store.usage().held, store.damage().contents), (Some(0), 0));
    assert_tidy(&store);
}
