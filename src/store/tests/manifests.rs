use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use testkit::descriptor;
use testkit::media_type::{CONFIG, IMAGE, INDEX};
use tokio::task::JoinSet;

use super::*;

fn list(children: &[&StoredManifest]) -> StoredManifest {
    let children: Vec<_> =
        children.iter().map(|child| descriptor(child.manifest.kind.as_str(), &child.bytes)).collect();
    manifest(&testkit::index(&children))
}

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

fn by_tag(text: &str) -> Reference {
    Reference::Tag(tag(text))
}

fn by_digest(stored: &StoredManifest) -> Reference {
    Reference::Digest(stored.digest)
}

async fn digest_at(store: &Store, name: &RepoName, reference: &Reference) -> Option<Digest> {
    match store.manifest(name, reference).await {
        Ok(stored) => Some(stored.digest),
        Err(StoreError::ManifestUnknown) => None,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn manifests_and_tags_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = store(dir.path());
    let name = repo("a/b");
    let (one, two) = (numbered(1), numbered(2));
    opened.put_manifest(&name, one.clone(), vec![tag("x"), tag("y")]).await.unwrap();
    opened.put_manifest(&name, two.clone(), vec![tag("y")]).await.unwrap();
    for round in 0..3 {
        assert_eq!(digest_at(&opened, &name, &by_tag("x")).await, Some(one.digest), "round {round}");
        assert_eq!(digest_at(&opened, &name, &by_tag("y")).await, Some(two.digest));
        assert_eq!(opened.manifest(&name, &by_digest(&one)).await.unwrap().bytes, one.bytes);
        assert_eq!(digest_at(&opened, &name, &by_tag("z")).await, None);
        assert_eq!(digest_at(&opened, &repo("a"), &by_tag("x")).await, None);
        if round == 1 {
            // Nothing in memory any more.
            drop(opened);
            opened = store(dir.path());
        }
    }
    opened.delete_manifest(&name, &by_tag("x")).await.unwrap();
    assert_eq!(digest_at(&opened, &name, &by_tag("x")).await, None);
    assert_eq!(digest_at(&opened, &name, &by_digest(&one)).await, Some(one.digest));
    assert!(matches!(opened.delete_manifest(&name, &by_tag("x")).await, Err(StoreError::ManifestUnknown)));
    opened.put_manifest(&name, two.clone(), vec![tag("also")]).await.unwrap();
    opened.delete_manifest(&name, &by_digest(&two)).await.unwrap();
    for gone in [by_tag("y"), by_tag("also"), by_digest(&two)] {
        assert_eq!(digest_at(&opened, &name, &gone).await, None);
        assert!(matches!(opened.delete_manifest(&name, &gone).await, Err(StoreError::ManifestUnknown)));
    }
    assert!(opened.repository_exists(&name).await.unwrap());
    opened.delete_manifest(&name, &by_digest(&one)).await.unwrap();
    assert!(!opened.repository_exists(&name).await.unwrap());
    assert_tidy(&opened);
}

#[tokio::test]
async fn a_full_disk_takes_no_manifest_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    store.put_manifest(&repo("a"), numbered(1), vec![tag("t")]).await.unwrap();
    limits(&store, None, Reserve::Percent(101));
    let put = store.put_manifest(&repo("a"), numbered(2), vec![tag("t")]).await;
    assert!(matches!(put, Err(StoreError::Full(Refusal::ReserveExhausted { .. }))));
    assert_eq!(digest_at(&store, &repo("a"), &by_tag("t")).await, Some(numbered(1).digest));
    // What takes room away is refused, what gives it back is not.
    store.delete_manifest(&repo("a"), &by_digest(&numbered(1))).await.unwrap();
    assert_eq!(store.usage().used, Some(0));
    assert_tidy(&store);
}

#[tokio::test]
async fn a_put_that_fails_half_way_leaves_no_temporary_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    store.put_manifest(&repo("a"), numbered(1), Vec::new()).await.unwrap();
    // A folder where the tag's file should go.
    std::fs::create_dir_all(store.0.contents.layout.tag(&repo("a"), &tag("t"))).unwrap();
    let put = store.put_manifest(&repo("a"), numbered(2), vec![tag("s"), tag("t")]).await;
    assert!(matches!(put, Err(StoreError::Io { .. })));
    std::fs::remove_dir(store.0.contents.layout.tag(&repo("a"), &tag("t"))).unwrap();
    assert_eq!(digest_at(&store, &repo("a"), &by_tag("s")).await, Some(numbered(2).digest));
    assert_tidy(&store);
}

#[tokio::test]
async fn damage_is_told_and_repaired_by_a_put() {
    let dir = tempfile::tempdir().unwrap();
    let opened = store(dir.path());
    let name = repo("a");
    opened.put_manifest(&name, numbered(1), vec![tag("t")]).await.unwrap();
    drop(opened);
    let opened = store(dir.path());
    std::fs::write(opened.0.contents.layout.tag(&name, &tag("t")), b"nonsense\n").unwrap();
    std::fs::write(opened.0.contents.layout.content(&numbered(1).digest), b"{").unwrap();
    assert!(matches!(opened.manifest(&name, &by_tag("t")).await, Err(StoreError::Io { .. })));
    assert_eq!(digest_at(&opened, &name, &by_digest(&numbered(1))).await, None);
    opened.put_manifest(&name, numbered(1), vec![tag("t")]).await.unwrap();
    assert_eq!(digest_at(&opened, &name, &by_tag("t")).await, Some(numbered(1).digest));
    assert_tidy(&opened);
}

#[tokio::test]
async fn a_manifest_is_whole_only_while_all_it_references_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let name = repo("a");
    let (first, second) = (image(b"c1", &[b"l1", b"l2"]), image(b"c2", &[b"l2"]));
    let outer = list(&[&list(&[&first]), &second]);
    let inner = list(&[&first]);
    let missing = async |stored: &StoredManifest| {
        let mut missing = store.missing_references(&name, stored).await.unwrap();
        missing.sort();
        missing
    };
    let sorted = |mut digests: Vec<Digest>| {
        digests.sort();
        digests
    };
    assert_eq!(missing(&outer).await, sorted(vec![inner.digest, second.digest]));
    for stored in [&inner, &second, &first] {
        store.put_manifest(&name, stored.clone(), Vec::new()).await.unwrap();
    }
    assert_eq!(missing(&outer).await, sorted([b"c1", b"l1", b"l2", b"c2"].map(|c| sha256(c)).to_vec()));
    // Elsewhere is not here.
    for content in [b"c1", b"l1", b"l2", b"c2"] {
        push(&store, &repo("b"), content).await;
    }
    assert_eq!(missing(&outer).await.len(), 4);
    for content in [b"c1", b"l1", b"l2", b"c2"] {
        push(&store, &name, content).await;
    }
    for _ in 0..2 {
        assert_eq!(missing(&outer).await, []);
        assert_eq!(missing(&first).await, []);
    }
    store.delete_blob(&name, sha256(b"l1")).await.unwrap();
    assert_eq!(missing(&outer).await, [sha256(b"l1")]);
    assert_eq!(missing(&first).await, [sha256(b"l1")]);
    assert_eq!(missing(&second).await, []);
    push(&store, &name, b"l1").await;
    assert_eq!(missing(&outer).await, []);
    store.delete_manifest(&name, &by_digest(&second)).await.unwrap();
    assert_eq!(missing(&outer).await, [second.digest]);
    assert_tidy(&store);
}

#[tokio::test]
async fn subjects_and_foreign_layers_need_not_be_there_and_odd_places_count() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let name = repo("a");
    push(&store, &name, b"c").await;
    push(&store, &name, b"data").await;
    let child = numbered(1);
    store.put_manifest(&name, child.clone(), Vec::new()).await.unwrap();
    let layers = [
        descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", b"foreign"),
        descriptor(INDEX, &child.bytes),
    ];
    let subject = json!({"subject": descriptor(IMAGE, b"nowhere")});
    let artifact = manifest(&testkit::with(testkit::image(&descriptor(CONFIG, b"c"), &layers), &subject));
    assert_eq!(store.missing_references(&name, &artifact).await.unwrap(), []);
    let odd = manifest(&testkit::index(&[descriptor("application/octet-stream", b"data")]));
    assert_eq!(store.missing_references(&name, &odd).await.unwrap(), []);
}

#[tokio::test]
async fn at_most_a_hundred_missing_digests_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let layers: Vec<Vec<u8>> = (0..300u32).map(|i| i.to_le_bytes().to_vec()).collect();
    let stored = image(b"c", &layers.iter().map(Vec::as_slice).collect::<Vec<_>>());
    assert_eq!(store.missing_references(&repo("a"), &stored).await.unwrap().len(), 100);
}

/// A tag moves on; no reader ever sees it go back, and whoever moved it sees where it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moving_tag_never_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let name = repo("a");
    let number = |stored: &StoredManifest| stored.manifest.annotations["number"].parse::<u64>().unwrap();
    store.put_manifest(&name, numbered(0), vec![tag("t")]).await.unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for _ in 0..4 {
        let (store, name, ended) = (store.clone(), name.clone(), Arc::clone(&ended));
        readers.spawn(async move {
            let mut seen = 0;
            while !ended.load(Ordering::Relaxed) {
                let now = number(&store.manifest(&name, &by_tag("t")).await.unwrap());
                assert!(now >= seen, "{now} after {seen}");
                seen = now;
                tokio::task::yield_now().await;
            }
        });
    }
    for i in 1..60 {
        store.put_manifest(&name, numbered(i), vec![tag("t")]).await.unwrap();
        assert_eq!(number(&store.manifest(&name, &by_tag("t")).await.unwrap()), i);
        // What it pointed at before goes at once: followers must not stumble.
        store.delete_manifest(&name, &by_digest(&numbered(i - 1))).await.unwrap();
        assert_eq!(digest_at(&store, &name, &by_digest(&numbered(i - 1))).await, None);
    }
    ended.store(true, Ordering::Relaxed);
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
    assert_tidy(&store);
}

#[tokio::test]
async fn listings_follow_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let name = repo("a/b");
    store.put_manifest(&name, numbered(1), vec![tag("early")]).await.unwrap();
    assert!(matches!(store.tags(&name, None, 10).await, Err(StoreError::IndexNotReady { .. })));
    store.start_jobs(&Runner::new(tasks.clone(), stop.clone()));
    while store.index_state() != IndexState::Ready {
        tokio::task::yield_now().await;
    }
    let subject = numbered(1);
    let referrer = manifest(&testkit::with(
        testkit::index(&[]),
        &json!({"subject": descriptor(INDEX, &subject.bytes), "artifactType": "t/t"}),
    ));
    store.put_manifest(&name, referrer.clone(), vec![tag("late")]).await.unwrap();
    assert_eq!(store.tags(&name, None, 10).await.unwrap().entries, ["early", "late"]);
    assert_eq!(store.repositories(None, 10).await.unwrap().entries, ["a/b"]);
    let listed = store.referrers(&name, subject.digest, None, 100).await.unwrap();
    assert_eq!(listed, [Referrer::of(&referrer)]);
    store.delete_manifest(&name, &by_digest(&referrer)).await.unwrap();
    assert_eq!(store.tags(&name, None, 10).await.unwrap().entries, ["early"]);
    assert_eq!(store.referrers(&name, subject.digest, None, 100).await.unwrap(), []);
    store.delete_manifest(&name, &by_digest(&subject)).await.unwrap();
    assert_eq!(store.repositories(None, 10).await.unwrap().entries, Vec::<String>::new());
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    store.close();
    assert_tidy(&store);
}

#[tokio::test]
async fn a_manifest_that_is_not_what_its_digest_says_is_never_served_and_mended_by_a_push() {
    let dir = tempfile::tempdir().unwrap();
    let opened = store(dir.path());
    let name = repo("a");
    let (right, wrong) = (numbered(1), numbered(2));
    assert_eq!(right.bytes.len(), wrong.bytes.len());
    opened.put_manifest(&name, right.clone(), vec![tag("t")]).await.unwrap();
    drop(opened);
    let opened = store(dir.path());
    std::fs::write(opened.0.contents.layout.content(&right.digest), &wrong.bytes).unwrap();
    for reference in [by_tag("t"), by_digest(&right)] {
        let read = opened.manifest(&name, &reference).await;
        assert!(matches!(read, Err(StoreError::ManifestUnknown)));
    }
    opened.put_manifest(&name, right.clone(), vec![tag("t")]).await.unwrap();
    assert_eq!(opened.manifest(&name, &by_tag("t")).await.unwrap().bytes, right.bytes);
    assert_tidy(&opened);
}

#[tokio::test]
async fn a_delete_of_nothing_leaves_the_index_believed() {
    let dir = tempfile::tempdir().unwrap();
    let name = repo("a");
    let ready = async || {
        let (store, tasks, stop) = (store(dir.path()), TaskTracker::new(), CancellationToken::new());
        store.start_jobs(&Runner::new(tasks.clone(), stop.clone()));
        while store.index_state() != IndexState::Ready {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        store
    };
    let first = ready().await;
    first.put_manifest(&name, numbered(1), vec![tag("t")]).await.unwrap();
    first.close();
    drop(first);
    let store = ready().await;
    let stamp = store.0.contents.layout.index_stamp();
    assert!(stamp.exists());
    for nothing in [by_tag("u"), by_digest(&numbered(2))] {
        for name in [&name, &repo("b")] {
            let deleted = store.delete_manifest(name, &nothing).await;
            assert!(matches!(deleted, Err(StoreError::ManifestUnknown)));
        }
    }
    assert!(stamp.exists(), "a crash from here on would cost a rebuild");
    store.delete_manifest(&name, &by_tag("t")).await.unwrap();
    assert!(!stamp.exists());
    assert_tidy(&store);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_at_once_do_not_pass_the_budget_together() {
    let large = |number: u64| annotated(&json!({"number": number.to_string(), "padding": "x".repeat(100_000)}));
    let size = large(0).bytes.len() as u64;
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(dir.path(), 3 * size);
    let mut puts = JoinSet::new();
    for number in 0..10 {
        let store = store.clone();
        puts.spawn(async move { store.put_manifest(&repo(&format!("r{number}")), large(number), Vec::new()).await });
    }
    while let Some(put) = puts.join_next().await {
        assert!(matches!(put.unwrap(), Ok(()) | Err(StoreError::Full(Refusal::BudgetExhausted { .. }))));
    }
    assert!(store.usage().used.unwrap() <= 3 * size, "{:?}", store.usage());
    assert_tidy(&store);
    // What was charged for puts that were refused was given back.
    for number in 0..10 {
        let _ = store.delete_manifest(&repo(&format!("r{number}")), &by_digest(&large(number))).await;
    }
    assert_eq!(store.usage().used, Some(0));
}

/// Whoever decides by what a tag leads to moves it only if it still leads there.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_moved_from_what_was_seen_and_from_nothing_else() {
    let dir = quick_dir();
    let store = store(dir.path());
    let (one, two, three) = (numbered(1), numbered(2), numbered(3));
    for stored in [&one, &two, &three] {
        store.put_manifest(&repo("a"), stored.clone(), Vec::new()).await.unwrap();
    }
    let at = |store: &Store| {
        let found = store.intake().tag(&repo("a"), &"x".parse().unwrap());
        found.unwrap()
    };
    let set = async |digest: Digest, from: MovedFrom| {
        let store = store.clone();
        let moved = TagMove { tag: "x".parse().unwrap(), digest, at: None, from };
        let left = tokio::task::spawn_blocking(move || store.intake().set_tags(&repo("a"), &[moved])).await.unwrap();
        left.unwrap().first().map(|(_, why)| *why)
    };
    assert_eq!(set(one.digest, MovedFrom::Only(Some(two.digest))).await, Some(NotMoved::MovedMeanwhile));
    assert_eq!((set(one.digest, MovedFrom::Only(None)).await, at(&store)), (None, Some(one.digest)));
    assert_eq!(set(two.digest, MovedFrom::Only(None)).await, Some(NotMoved::MovedMeanwhile));
    assert_eq!(set(two.digest, MovedFrom::Only(Some(three.digest))).await, Some(NotMoved::MovedMeanwhile));
    assert_eq!(at(&store), Some(one.digest));
    assert_eq!((set(two.digest, MovedFrom::Only(Some(one.digest))).await, at(&store)), (None, Some(two.digest)));
    assert_eq!((set(three.digest, MovedFrom::Anywhere).await, at(&store)), (None, Some(three.digest)));
    let gone = numbered(4).digest;
    assert_eq!(set(gone, MovedFrom::Only(Some(three.digest))).await, Some(NotMoved::ManifestGone));
}
