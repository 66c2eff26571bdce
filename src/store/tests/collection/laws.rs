//! The laws by their letters.

use super::*;

/// What a client does whose answer of 200 or 201 is a promise.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Head,
    Get,
    Mount,
    Upload,
    Put,
}

impl Ask {
    const ALL: [Self; 5] = [Self::Head, Self::Get, Self::Mount, Self::Upload, Self::Put];

    async fn of(self, store: &Store, name: &RepoName, content: &[u8]) {
        let digest = sha256(content);
        match self {
            Self::Head => drop(store.blob(name, digest).await.unwrap()),
            Self::Get => drop(store.blob_content(name, digest).await.unwrap()),
            Self::Mount => assert!(store.mount_blob(Some(&repo("source")), name, digest).await.unwrap()),
            Self::Upload => drop(push(store, name, content).await),
            Self::Put => {
                assert_eq!(store.missing_references(name, &image(b"{}", &[content])).await.unwrap(), []);
            }
        }
    }
}

/// Law (a): who heard 200 or 201 about a digest can put a manifest that names it until the grace is over, and the grace counts
/// from the verdict behind that answer.
#[tokio::test]
async fn law_a_an_answer_is_good_for_the_grace() {
    for ask in Ask::ALL {
        let dir = quick_dir();
        let store = store(dir.path());
        let name = repo("a");
        for content in [&b"{}"[..], b"left"] {
            push(&store, &name, content).await;
            push(&store, &repo("source"), content).await;
        }
        let named = image(b"{}", &[b"left"]);
        collect(&store).await;
        assert_eq!(suspects(&store), 4, "{ask:?}");
        run_for(&store, GRACE + ANSWER_TIME - SECOND);
        for content in [&b"{}"[..], b"left"] {
            ask.of(&store, &name, content).await;
        }
        let left = suspects(&store);
        assert_eq!(left, 2, "{ask:?}: those of the other repository");
        run_for(&store, SECOND);
        assert!(collect(&store).await.removed.named.iter().all(|gone| gone.repository == "source"), "{ask:?}");
        run_for(&store, GRACE + ANSWER_TIME - SECOND);
        collect(&store).await;
        assert_eq!(store.missing_references(&name, &named).await.unwrap(), [], "{ask:?}");
        store.put_manifest(&name, named, tags(&["v1"])).await.unwrap();
        assert_eq!(collect_twice(&store).await.removed.blobs, 0, "{ask:?}");
        assert_tidy(&store);
    }
}

/// Law (a) behind a kill: the promise was on the disk before the answer.
#[tokio::test]
async fn law_a_an_answer_is_good_behind_a_kill() {
    for ask in Ask::ALL {
        let dir = quick_dir();
        let first = store(dir.path());
        let name = repo("a");
        push(&first, &name, b"{}").await;
        push(&first, &repo("source"), b"{}").await;
        collect(&first).await;
        run_for(&first, GRACE + ANSWER_TIME - SECOND);
        first.0.manifests.ledger.note_time();
        ask.of(&first, &name, b"{}").await;
        drop(first);
        let second = store(dir.path());
        run_for(&second, SECOND);
        assert!(collect(&second).await.removed.named.iter().all(|gone| gone.repository == "source"), "{ask:?}");
        assert_eq!(read(&second, &name, sha256(b"{}")).await.unwrap(), b"{}", "{ask:?}");
    }
}

/// Law (a), the fast path: what is in memory and a suspect is not answered from there, and what is no suspect is.
#[tokio::test]
async fn law_a_memory_answers_for_no_suspect() {
    let dir = quick_dir();
    let store = store(dir.path());
    store.set_collection(CollectionOptions { untagged_after: Some(GRACE), ..CollectionOptions::default() });
    let name = repo("a");
    let kept = numbered(1);
    for content in [&b"{}"[..], b"[]"] {
        push(&store, &name, content).await;
        store.blob_content(&name, sha256(content)).await.unwrap();
    }
    store.put_manifest(&name, image(b"[]", &[]), tags(&["v1"])).await.unwrap();
    store.put_manifest(&name, kept.clone(), Vec::new()).await.unwrap();
    let by_digest = Reference::Digest(kept.digest);
    let in_memory = |store: &Store| {
        let blob = |content: &[u8]| store.blob_in_memory(&name, &sha256(content)).is_some();
        (blob(b"{}"), blob(b"[]"), store.manifest_in_memory(&name, &by_digest).is_some())
    };
    store.manifest(&name, &by_digest).await.unwrap();
    assert_eq!(in_memory(&store), (true, true, true));
    assert_eq!(collect(&store).await.suspected.manifests, 1);
    assert_eq!(in_memory(&store), (false, true, false));
    store.blob_content(&name, sha256(b"{}")).await.unwrap();
    store.manifest(&name, &by_digest).await.unwrap();
    assert_eq!((suspects(&store), in_memory(&store)), (0, (true, true, true)));
}

/// Law (b): what a root reached at any instant behind its verdict has a verdict anew before it goes.
#[tokio::test]
async fn law_b_what_a_root_reached_for_an_instant_has_its_grace_again() {
    let dir = quick_dir();
    let store = store(dir.path());
    store.set_collection(CollectionOptions { untagged_after: Some(GRACE), ..CollectionOptions::default() });
    let name = repo("a");
    for content in [&b"{}"[..], b"layer", b"pinned"] {
        push(&store, &name, content).await;
    }
    let child = image(b"{}", &[b"layer"]);
    let list = index_of(&[&child]);
    store.put_manifest(&name, child.clone(), Vec::new()).await.unwrap();
    store.put_manifest(&name, list.clone(), Vec::new()).await.unwrap();
    let found = collect(&store).await;
    assert_eq!((found.suspected.manifests, found.suspected.blobs), (2, 1));
    run_for(&store, GRACE + ANSWER_TIME);
    // For an instant: a tag of the index, of which the child is two steps away, and a pin.
    store.put_manifest(&name, list.clone(), tags(&["v1"])).await.unwrap();
    store.delete_manifest(&name, &Reference::Tag("v1".parse().unwrap())).await.unwrap();
    store.set_pins(pinned(&[sha256(b"pinned")]));
    store.set_pins(FoundPins::Unset);
    let report = collect(&store).await;
    assert_eq!(report.removed, CollectedContents::default());
    assert_eq!((report.suspected.manifests, report.suspected.blobs), (2, 1));
    run_for(&store, GRACE + ANSWER_TIME);
    assert_eq!(collect(&store).await.removed.named.len(), 3);
}

/// Law (d): nothing that can be set makes a suspect older: the times of files, a note of the running time that is lost or
/// cut, a restart. (The wall clock is asked only for when a run begins.)
#[tokio::test]
async fn law_d_no_clock_makes_a_suspect_older() {
    const YEAR: u64 = 365 * 86_400_000;
    let now = crate::clock::now().as_millis();
    let set: [fn(&Layout); 3] = [
        |_| {},
        |layout| std::fs::remove_file(layout.running_time()).unwrap(),
        |layout| {
            std::fs::write(layout.running_time(), b"9x").unwrap();
        },
    ];
    for millis in [now - YEAR, now + YEAR] {
        for lose in set {
            let dir = quick_dir();
            let first = store(dir.path());
            let name = repo("a");
            let left = push(&first, &name, b"left").await;
            collect(&first).await;
            first.close();
            let layout = first.0.contents.layout.clone();
            drop(first);
            for path in [layout.content(&left), layout.suspects(), layout.dirty(), layout.marker()] {
                let file = File::options().write(true).open(&path).unwrap();
                crate::fs::set_modified(&file, Timestamp::from_millis(millis)).unwrap();
            }
            lose(&layout);
            let second = store(dir.path());
            run_for(&second, GRACE + ANSWER_TIME - SECOND);
            assert_eq!((collect(&second).await.removed.blobs, suspects(&second)), (0, 1));
            run_for(&second, SECOND);
            assert_eq!(collect(&second).await.removed.blobs, 1);
        }
    }
}

/// Every path below a directory, with its bytes and the time of its last change.
fn tree(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>, std::time::SystemTime)> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        for path in files_in(&folder) {
            let changed = std::fs::metadata(&path).unwrap().modified().unwrap();
            if path.is_dir() {
                waiting.push(path.clone());
                found.push((path, Vec::new(), changed));
            } else {
                found.push((path.clone(), std::fs::read(&path).unwrap(), changed));
            }
        }
    }
    found.sort();
    found
}

/// Law (e): a look changes no byte and no time, and names what a run then does in a store that stands still.
#[tokio::test]
async fn law_e_a_look_changes_nothing_and_is_right() {
    let dir = quick_dir();
    let store = store(dir.path());
    store.set_collection(CollectionOptions { untagged_after: Some(GRACE), ..CollectionOptions::default() });
    for name in ["a", "b"].map(repo) {
        for content in [&b"{}"[..], b"layer", b"left", b"more"] {
            push(&store, &name, content).await;
        }
        store.put_manifest(&name, image(b"{}", &[b"layer"]), Vec::new()).await.unwrap();
        store.put_manifest(&name, image(b"{}", &[]), tags(&["v1"])).await.unwrap();
    }
    for _ in 0..4 {
        let before = tree(dir.path());
        let look = store.look_at_collection(&Arc::default()).await.unwrap();
        assert_eq!(tree(dir.path()), before);
        let run = collect(&store).await;
        let sorted = |contents: &CollectedContents| {
            let mut named = contents.named.clone();
            // Of a content that two repositories lose the last one frees the bytes: a look can't say which that is.
            named.iter_mut().for_each(|content| content.bytes = 0);
            named.sort();
            (named, contents.blobs, contents.manifests)
        };
        assert!(look.dry_run && !run.dry_run);
        assert_eq!(sorted(&look.removed), sorted(&run.removed));
        if run.removed.manifests == 0 {
            assert_eq!(sorted(&look.suspected), sorted(&run.suspected));
        }
        run_for(&store, GRACE + ANSWER_TIME);
    }
    assert_eq!(contents(&store).len(), 2);
    assert_tidy(&store);
}

/// Laws (f) and (g): two runs of a quiet store leave what its roots reach, each repository for itself.
#[tokio::test]
async fn law_f_and_g_two_runs_leave_what_the_roots_reach_in_each_repository() {
    let dir = quick_dir();
    let store = store(dir.path());
    let [one, other] = ["a", "a/b"].map(repo);
    for name in [&one, &other] {
        for content in [&b"{}"[..], b"shared", b"own"] {
            push(&store, name, content).await;
        }
    }
    let (kept, dropped) = (image(b"{}", &[b"shared"]), image(b"{}", &[b"shared", b"own"]));
    store.put_manifest(&one, kept.clone(), tags(&["v1"])).await.unwrap();
    store.put_manifest(&one, dropped.clone(), tags(&["v2"])).await.unwrap();
    store.put_manifest(&other, dropped.clone(), tags(&["v2"])).await.unwrap();
    store.delete_manifest(&one, &Reference::Digest(dropped.digest)).await.unwrap();
    let report = collect_twice(&store).await;
    assert_eq!((report.removed.blobs, report.removed.bytes), (1, 0), "the other repository has its bytes");
    assert_eq!(read(&store, &one, sha256(b"own")).await, None);
    assert_eq!(read(&store, &other, sha256(b"own")).await.unwrap(), b"own");
    let found = store.manifest(&other, &Reference::Tag("v2".parse().unwrap())).await.unwrap();
    assert_eq!(store.missing_references(&other, &found).await.unwrap(), []);
    store.delete_manifest(&other, &Reference::Digest(dropped.digest)).await.unwrap();
    let report = collect_twice(&store).await;
    assert_eq!((report.removed.blobs, report.removed.bytes), (3, 3));
    assert_eq!(contents(&store), BTreeSet::from([kept.digest, sha256(b"{}"), sha256(b"shared")]));
    assert_tidy(&store);
}

/// Law (k) on the disk: each manifest is read once, however deep and circular they name each other.
#[tokio::test]
async fn law_k_a_deep_chain_of_indexes_is_marked_and_goes() {
    let dir = quick_dir();
    let store = store(dir.path());
    store.set_collection(CollectionOptions { untagged_after: Some(GRACE), ..CollectionOptions::default() });
    let name = repo("a");
    let mut chain = vec![numbered(0)];
    for depth in 0..300 {
        // Each names the two before it: as many ways down as Fibonacci's numbers.
        let before: Vec<&StoredManifest> = chain[depth.max(1) - 1..].iter().collect();
        chain.push(index_of(&before));
    }
    for manifest in &chain {
        store.put_manifest(&name, manifest.clone(), Vec::new()).await.unwrap();
    }
    store.put_manifest(&name, chain[300].clone(), tags(&["v1"])).await.unwrap();
    assert_eq!(collect(&store).await.suspected.manifests, 0);
    store.delete_manifest(&name, &Reference::Tag("v1".parse().unwrap())).await.unwrap();
    assert_eq!(collect(&store).await.suspected.manifests, 301);
    run_for(&store, GRACE + ANSWER_TIME);
    assert_eq!(collect(&store).await.removed.manifests, 301);
    assert_tidy(&store);
}
