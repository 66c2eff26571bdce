//! Verification: each kind of damage is named exactly and nothing else is, whatever goes on beside it.

mod planted;

use std::collections::BTreeSet;

use futures_util::future::join_all;
use proptest::prelude::*;

use self::planted::{Harm, Planted};
use super::*;
use crate::store::repositories::verify::finding::MOST_OF_ONE;
use crate::store::verify_stopped;

/// What a report names: problems and paths.
fn named(report: &VerifyReport) -> BTreeSet<(Problem, String)> {
    report.findings.iter().map(|finding| (finding.problem, finding.path.clone())).collect()
}

fn look(dir: &Path, quick: bool) -> VerifyReport {
    let options = VerifyOptions { quick, ..VerifyOptions::default() };
    verify_stopped(dir, options, &CancellationToken::new()).unwrap()
}

/// All files of a tree with their bytes and inodes, but for the index, which sled opens as it likes.
fn snapshot(dir: &Path) -> Vec<(std::path::PathBuf, u64, Vec<u8>)> {
    let mut found = Vec::new();
    for path in files_in(dir).into_iter().filter(|path| path.file_name().unwrap() != "index") {
        let facts = std::fs::symlink_metadata(&path).unwrap();
        let content = if facts.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        found.push((path.clone(), facts.ino(), content));
        if facts.is_dir() {
            found.extend(snapshot(&path));
        }
    }
    found.sort();
    found
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_is_planted_is_named_exactly_and_nothing_else(
        harms in proptest::collection::vec(proptest::sample::select(Harm::ALL.to_vec()), 0..6),
        quick: bool,
        seed: u64,
    ) {
        let (dir, runtime) = (quick_dir(), runtime());
        let planted = runtime.block_on(Planted::new(dir.path(), harms.len(), seed));
        let mut expected = BTreeSet::new();
        let mut broken = Vec::new();
        for (image, harm) in harms.iter().enumerate() {
            let harmed = planted.strike(*harm, image);
            if quick && harmed.is_blobs_bytes {
                continue;
            }
            broken.extend(harmed.breaks.map(|tag| (harmed.found.iter().next().unwrap().1.clone(), tag)));
            expected.extend(harmed.found);
        }
        if planted.noted() != planted.bytes() {
            expected.insert((Problem::UsageWrong, "usage".to_owned()));
        }
        let before = snapshot(dir.path());
        let report = look(dir.path(), quick);
        prop_assert_eq!(named(&report), expected.clone(), "{:?}: {:#?}", harms, report);
        prop_assert_eq!(report.whole, expected.is_empty());
        for (path, tag) in broken {
            let finding = report.findings.iter().find(|finding| finding.path == path).unwrap();
            prop_assert_eq!(&finding.breaks, &[tag], "{:?}", finding);
        }
        // Nothing was changed, and asked again it says the same.
        prop_assert_eq!(snapshot(dir.path()), before);
        prop_assert_eq!(look(dir.path(), quick), report);
        // A running server's store says the same of what an opening does not tidy.
        let at_start = |(problem, _): &(Problem, String)| matches!(problem, Problem::LeftOver | Problem::UsageWrong);
        let opened = store(dir.path());
        let running = runtime.block_on(opened.verify(VerifyOptions { quick, ..VerifyOptions::default() }, CancellationToken::new()));
        let running: BTreeSet<_> = named(&running.unwrap()).into_iter().filter(|found| !at_start(found)).collect();
        let expected: BTreeSet<_> = expected.into_iter().filter(|found| !at_start(found)).collect();
        prop_assert_eq!(running, expected, "{:?}", harms);
    }
}

#[tokio::test]
async fn one_repository_is_looked_at_alone() {
    let dir = quick_dir();
    let planted = Planted::new(dir.path(), 3, 7).await;
    let first = planted.strike(Harm::Flipped, 0);
    planted.strike(Harm::TagOfNothing, 1);
    let look = |name: &str| {
        let options = VerifyOptions { repository: Some(repo(name)), ..VerifyOptions::default() };
        verify_stopped(dir.path(), options, &CancellationToken::new()).unwrap()
    };
    // Under the repository's own name of it.
    let report = look("r0");
    assert_eq!((report.findings.len(), report.findings[0].problem), (1, Problem::WrongBytes), "{report:#?}");
    assert_eq!(report.findings[0].breaks, [first.breaks.unwrap()]);
    assert_eq!(
        named(&look("r1")),
        BTreeSet::from([(Problem::TagLeadsNowhere, "repositories/r1/_tags/nothing".to_owned())])
    );
    let clean = look("r2");
    assert!(clean.whole && clean.repositories == 1 && clean.manifests > 0, "{clean:#?}");
}

#[tokio::test]
async fn a_repository_that_the_store_does_not_have_is_not_whole() {
    let dir = quick_dir();
    let opened = store(dir.path());
    push(&opened, &repo("team/app"), b"content").await;
    for name in ["team/ap", "team"] {
        let options = VerifyOptions { repository: Some(repo(name)), ..VerifyOptions::default() };
        let outcome = opened.verify(options, CancellationToken::new()).await;
        let Err(StoreError::Layout(sentence)) = outcome else { panic!("{name}: {outcome:?}") };
        assert_eq!(sentence, format!("the store has no repository {name}"));
    }
}

/// A store that is damaged through and through has a bound for the memory that it takes to say so.
#[tokio::test]
async fn of_each_kind_a_thousand_are_named_and_the_rest_is_counted() {
    const MANY: u64 = MOST_OF_ONE as u64 + 30;
    let dir = quick_dir();
    let opened = store(dir.path());
    push(&opened, &repo("a"), b"first").await;
    numbered_in(&opened, "a", 0).await;
    opened.close();
    drop(opened);
    let layout = Layout::new(dir.path());
    let put = |digest: &Digest, kind: Membership, bytes: &[u8]| {
        std::fs::write(layout.content(digest), bytes).unwrap();
        std::fs::hard_link(layout.content(digest), layout.member(&repo("a"), kind, digest)).unwrap();
    };
    for number in 0..MANY {
        put(&sha256(&number.to_be_bytes()), Membership::Blob, b"rotten");
        let lacks = image(format!("config {number}").as_bytes(), &[]);
        put(&lacks.digest, Membership::Manifest, &lacks.bytes);
        let rotten = image(format!("other config {number}").as_bytes(), &[]);
        put(&rotten.digest, Membership::Manifest, b"rotten");
    }
    std::fs::remove_file(layout.usage()).unwrap();
    let report = look(dir.path(), false);
    let named = |problem: Problem| report.findings.iter().filter(|finding| finding.problem == problem).count();
    assert_eq!((named(Problem::WrongBytes), named(Problem::ReferenceMissing)), (MOST_OF_ONE, MOST_OF_ONE));
    // What the first look at a content counted the second one, at its manifest, does not count again.
    let more = [(Problem::WrongBytes, 2 * MANY - MOST_OF_ONE as u64), (Problem::ReferenceMissing, 30)];
    assert_eq!((&report.more_of, report.more), (&more.into(), more.iter().map(|(_, more)| more).sum()));
    assert!(!report.whole && report.findings.iter().all(|finding| finding.breaks.len() <= 1));
    let lacks = report.findings.iter().filter(|finding| finding.problem == Problem::ReferenceMissing);
    assert!(lacks.into_iter().all(|finding| finding.breaks == [format!("a@{}", finding.digest.as_deref().unwrap())]));
}

async fn numbered_in(store: &Store, name: &str, number: u64) {
    store.put_manifest(&repo(name), numbered(number), Vec::new()).await.unwrap();
}

#[tokio::test]
async fn a_store_that_may_lack_what_manifests_name_is_whole_without_it() {
    let dir = quick_dir();
    let planted = Planted::new(dir.path(), 1, 3).await;
    planted.strike(Harm::ReferenceGone, 0);
    assert!(!look(dir.path(), true).whole);
    let options = VerifyOptions { allow_missing: true, ..VerifyOptions::default() };
    let report = verify_stopped(dir.path(), options, &CancellationToken::new()).unwrap();
    assert!(report.whole, "{report:#?}");
}

#[test]
fn what_is_no_store_or_is_in_use_is_not_verified() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |dir: &Path| match verify_stopped(dir, VerifyOptions::default(), &CancellationToken::new()) {
        Err(error @ (StoreError::Layout(_) | StoreError::InUse(_))) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(refused(dir.path()).contains("is not a store"));
    assert!(files_in(dir.path()).is_empty());
    let held = store(&dir.path().join("store"));
    assert!(refused(&dir.path().join("store")).contains("is using"));
    held.close();
    drop(held);
    let stopped = CancellationToken::new();
    stopped.cancel();
    let outcome = verify_stopped(&dir.path().join("store"), VerifyOptions::default(), &stopped);
    assert!(matches!(outcome, Err(StoreError::Layout(sentence)) if sentence.contains("stopped before its end")));
}

async fn indexed(dir: &Path) -> (Store, TaskTracker, CancellationToken) {
    let store = store(dir);
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    store.start_jobs(&Runner::new(tasks.clone(), stop.clone()));
    while store.index_state() != IndexState::Ready {
        tokio::task::yield_now().await;
    }
    (store, tasks, stop)
}

async fn end(store: Store, tasks: TaskTracker, stop: CancellationToken) {
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    store.close();
}

/// Lists of a stopped store are compared with the tree, and a look at them costs no rebuild.
#[tokio::test]
async fn an_index_that_does_not_say_what_the_tree_holds_is_found() {
    let dir = quick_dir();
    let (opened, tasks, stop) = indexed(dir.path()).await;
    let subject = image(b"{}", &[]);
    let about = manifest(&testkit::with(
        testkit::index(&[]),
        &json!({"subject": testkit::descriptor(testkit::media_type::IMAGE, &subject.bytes)}),
    ));
    for name in ["a", "a/b", "c"] {
        push(&opened, &repo(name), b"{}").await;
        opened
            .put_manifest(&repo(name), subject.clone(), vec!["v1".parse().unwrap(), "v2".parse().unwrap()])
            .await
            .unwrap();
        opened.put_manifest(&repo(name), about.clone(), Vec::new()).await.unwrap();
    }
    let report = opened.verify(VerifyOptions::default(), CancellationToken::new()).await.unwrap();
    assert!(report.whole && report.notes.is_empty(), "{report:#?}");
    end(opened, tasks, stop).await;
    let report = look(dir.path(), false);
    assert!(report.whole && report.notes.is_empty(), "{report:#?}");

    let layout = Layout::new(dir.path());
    std::fs::remove_file(layout.tag(&repo("a"), &"v2".parse().unwrap())).unwrap();
    std::fs::write(layout.tag(&repo("a/b"), &"v3".parse().unwrap()), format!("{}\n", subject.digest)).unwrap();
    std::fs::remove_file(layout.member(&repo("c"), Membership::Manifest, &about.digest)).unwrap();
    let report = look(dir.path(), true);
    let wrong =
        ["repositories/a", "repositories/a/b", "repositories/c"].map(|path| (Problem::IndexWrong, path.to_owned()));
    assert_eq!(named(&report), BTreeSet::from(wrong), "{report:#?}");
    assert!(report.findings[0].what.contains("lack 0 entries and have 1 too many, such as tag v2"), "{report:#?}");
    // A whole repository that the tree has lost.
    std::fs::remove_dir_all(layout.repository(&repo("c"))).unwrap();
    let report = look(dir.path(), true);
    assert!(named(&report).contains(&(Problem::IndexWrong, "repositories/c".to_owned())), "{report:#?}");
    // The index is still the one that was closed well.
    assert!(layout.index_stamp().exists());
    super::super::rebuild_index(dir.path(), |_| {}).unwrap();
    let report = look(dir.path(), true);
    assert!(report.whole, "{report:#?}");
    std::fs::remove_file(layout.index_stamp()).unwrap();
    let report = look(dir.path(), true);
    assert!(report.whole && report.notes.len() == 1, "{report:#?}");
}

/// Pushes, mounts, moving tags and deletes of many, in the order that clients keep to, over and over.
async fn client(store: Store, number: u64, rounds: u64) {
    let (own, shared) = (repo(&format!("own{}", number % 3)), repo("shared"));
    let layer = format!("a layer of all {}", number % 2).into_bytes();
    for round in 0..rounds {
        let config = format!("{{\"client\":{number},\"round\":{round}}}").into_bytes();
        let pushed = image(&config, &[&layer]);
        for name in [&own, &shared] {
            push(&store, name, &config).await;
            if !store.mount_blob(None, name, sha256(&layer)).await.unwrap() {
                push(&store, name, &layer).await;
            }
            let tags = vec![format!("client{number}").parse().unwrap(), format!("c{number}r{round}").parse().unwrap()];
            store.put_manifest(name, pushed.clone(), tags).await.unwrap();
        }
        // An upload that stays open, and one that is given up.
        let mut upload = store.begin_upload(&own, None, None).await.unwrap();
        upload.append(vec![Bytes::from(config.clone())]).await.unwrap();
        if round % 2 == 0 {
            upload.cancel().await.unwrap();
        }
        if round % 3 != 0 {
            for name in [&own, &shared] {
                store.delete_manifest(name, &Reference::Digest(pushed.digest)).await.unwrap();
                store.delete_blob(name, sha256(&config)).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn beside_pushes_and_deletes_there_is_no_finding() {
    let dir = quick_dir();
    let (store, tasks, stop) = indexed(dir.path()).await;
    const CLIENTS: u64 = 6;
    let over = CancellationToken::new();
    let looking = {
        let (store, over) = (store.clone(), over.clone());
        async move {
            let mut looks = 0;
            while !over.is_cancelled() {
                for quick in [true, false] {
                    let options = VerifyOptions { quick, ..VerifyOptions::default() };
                    let report = store.verify(options, CancellationToken::new()).await.unwrap();
                    assert!(report.whole, "{report:#?}");
                    looks += 1;
                }
            }
            looks
        }
    };
    let working = async {
        join_all((0..CLIENTS).map(|number| client(store.clone(), number, 40))).await;
        over.cancel();
    };
    let (looks, ()) = tokio::join!(looking, working);
    assert!(looks > 3, "{looks} looks were all that came beside");
    let report = store.verify(VerifyOptions::default(), CancellationToken::new()).await.unwrap();
    assert!(report.whole && report.repositories == 4 && report.notes.is_empty(), "{report:#?}");
    end(store, tasks, stop).await;
    assert!(look(dir.path(), false).whole);
}

/// What is charged, and what is there, are compared.
#[tokio::test]
async fn what_is_counted_and_not_there_is_found_on_a_running_server() {
    let dir = quick_dir();
    let opened = store(dir.path());
    push(&opened, &repo("a"), b"content").await;
    opened.0.contents.capacity.add_content(&sha256(b"nothing"), 5);
    let report = opened.verify(VerifyOptions::default(), CancellationToken::new()).await.unwrap();
    assert_eq!(named(&report), BTreeSet::from([(Problem::UsageWrong, "usage".to_owned())]), "{report:#?}");
    opened.0.contents.capacity.remove_content(&sha256(b"nothing"), 5);
    opened.0.contents.capacity.charge_upload(9).unwrap();
    let report = opened.verify(VerifyOptions::default(), CancellationToken::new()).await.unwrap();
    assert_eq!(named(&report), BTreeSet::from([(Problem::UsageWrong, "uploads".to_owned())]), "{report:#?}");
}

/// It waits for no change, so that none that is begun meanwhile waits behind it.
#[tokio::test]
async fn a_change_that_does_not_end_keeps_no_verification_and_no_other_change_waiting() {
    let dir = quick_dir();
    let opened = store(dir.path());
    push(&opened, &repo("a"), b"content").await;
    let (contents, (begin, begun), (end, ended)) =
        (Arc::clone(&opened.0.contents), std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let lasting = std::thread::spawn(move || {
        let _change = contents.changes.begin().unwrap();
        begin.send(()).unwrap();
        let _ = ended.recv();
    });
    begun.recv().unwrap();
    let looking = opened.verify(VerifyOptions::default(), CancellationToken::new());
    let name = repo("a");
    let (report, _) = tokio::join!(looking, push(&opened, &name, b"another content"));
    let report = report.unwrap();
    let left_out = "what uploads and fills are charged was not compared";
    let is_compared = |report: &VerifyReport| !report.notes.iter().any(|note| note.ends_with(left_out));
    assert!(report.whole && !is_compared(&report), "{report:#?}");
    drop(end);
    lasting.join().unwrap();
    // What a take-over has in hand is charged and in no change yet.
    let charge = opened.0.contents.capacity.charge(7).unwrap();
    let report = opened.verify(VerifyOptions::default(), CancellationToken::new()).await.unwrap();
    assert!(report.whole && !is_compared(&report), "{report:#?}");
    drop(charge);
    let report = opened.verify(VerifyOptions::default(), CancellationToken::new()).await.unwrap();
    assert!(report.whole && is_compared(&report), "{report:#?}");
}
