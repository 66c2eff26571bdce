//! Collection on real directories. The laws (a) to (h) and (k) have their letters; the model of the protocol is in
//! `collection/model.rs`, kills at each step in `crash.rs`.

mod laws;
pub(super) mod random;

use std::collections::BTreeSet;

use testkit::descriptor;
use testkit::media_type::IMAGE;

use super::*;
use crate::store::repositories::collection::ledger::ANSWER_TIME;
use crate::values::Pins;

pub(super) const GRACE: Duration = Duration::from_secs(86_400);
const SECOND: Duration = Duration::from_secs(1);

pub(super) async fn collect(store: &Store) -> CollectionReport {
    store.collect(&CancellationToken::new(), &crate::jobs::Progress::default()).await.unwrap()
}

/// Lets the server run for a time that did not pass.
pub(super) fn run_for(store: &Store, time: Duration) {
    store.0.manifests.ledger.advance(time);
}

/// A run, the grace, and a run that removes what the first one found.
pub(super) async fn collect_twice(store: &Store) -> CollectionReport {
    collect(store).await;
    run_for(store, GRACE + ANSWER_TIME);
    collect(store).await
}

/// A document of pins of this moment that names these.
pub(super) fn pinned(images: &[Digest]) -> FoundPins {
    FoundPins::Read(Arc::new(Pins {
        written_at: crate::clock::now(),
        releases: BTreeSet::new(),
        images: images.iter().copied().collect(),
    }))
}

fn suspects(store: &Store) -> u64 {
    store.collection().suspects
}

fn index_of(children: &[&StoredManifest]) -> StoredManifest {
    manifest(&testkit::index(&children.iter().map(|child| descriptor(IMAGE, &child.bytes)).collect::<Vec<_>>()))
}

fn tags(names: &[&str]) -> Vec<Tag> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// All contents that lie in `blobs/`.
fn contents(store: &Store) -> BTreeSet<Digest> {
    let layout = &store.0.contents.layout;
    let folders = Algorithm::ALL.into_iter().flat_map(|algorithm| (0..=u8::MAX).map(move |first| (algorithm, first)));
    let files = folders.flat_map(|(algorithm, first)| {
        let names = files_in(&layout.content_folder(algorithm, first)).into_iter();
        names.map(move |path| Digest::from_hex(algorithm, path.file_name().unwrap().to_str().unwrap()).unwrap())
    });
    files.collect()
}

#[tokio::test]
async fn what_nothing_reaches_goes_behind_its_grace_and_nothing_else() {
    let dir = quick_dir();
    let store = store(dir.path());
    let name = repo("a");
    let (config, layer, left) =
        (push(&store, &name, b"{}").await, push(&store, &name, b"layer").await, push(&store, &name, b"left").await);
    let kept = image(b"{}", &[b"layer"]);
    store.put_manifest(&name, kept.clone(), tags(&["v1"])).await.unwrap();
    let first = collect(&store).await;
    assert_eq!((first.marked, first.suspected.blobs, first.removed.blobs), (1, 1, 0));
    assert_eq!(first.suspected.named[0].digest, left.to_string());
    run_for(&store, GRACE + ANSWER_TIME - 60 * SECOND);
    assert_eq!(collect(&store).await.removed.blobs, 0, "a minute before");
    run_for(&store, 60 * SECOND);
    let last = collect(&store).await;
    assert_eq!((last.removed.blobs, last.removed.manifests, last.removed.bytes), (1, 0, 4));
    assert_eq!(contents(&store), BTreeSet::from([config, layer, kept.digest]));
    assert_eq!(suspects(&store), 0);
    let quiet = collect(&store).await;
    assert_eq!((quiet.marked, quiet.suspected.blobs), (0, 0), "a collection with nothing to do reads no manifest");
    assert_tidy(&store);
}

#[tokio::test]
async fn untagged_manifests_go_only_where_asked_for_and_their_blobs_behind_them() {
    let dir = quick_dir();
    let store = store(dir.path());
    let name = repo("a");
    for content in [&b"{}"[..], b"old", b"new"] {
        push(&store, &name, content).await;
    }
    let (old, new) = (image(b"{}", &[b"old"]), image(b"{}", &[b"new"]));
    let list = index_of(&[&old]);
    store.put_manifest(&name, old.clone(), Vec::new()).await.unwrap();
    store.put_manifest(&name, list.clone(), tags(&["v1"])).await.unwrap();
    store.put_manifest(&name, new.clone(), tags(&["v1"])).await.unwrap();
    assert_eq!(collect_twice(&store).await.removed, CollectedContents::default());
    assert_eq!(contents(&store).len(), 6);

    let untagged_after = Some(10 * GRACE);
    store.set_collection(CollectionOptions { untagged_after, ..CollectionOptions::default() });
    let found = collect(&store).await;
    assert_eq!((found.suspected.manifests, found.suspected.blobs), (2, 0), "no repository changed since");
    run_for(&store, GRACE + ANSWER_TIME);
    assert_eq!(collect(&store).await.removed.manifests, 0);
    run_for(&store, 9 * GRACE);
    let gone = collect(&store).await;
    assert_eq!((gone.removed.manifests, gone.removed.blobs, gone.suspected.blobs), (2, 0, 1));
    run_for(&store, GRACE + ANSWER_TIME);
    assert_eq!(collect(&store).await.removed.named[0].digest, sha256(b"old").to_string());
    assert_eq!(contents(&store), BTreeSet::from([sha256(b"{}"), sha256(b"new"), new.digest]));
    assert_tidy(&store);
}

#[tokio::test]
async fn turned_off_again_untagged_manifests_stay() {
    let dir = quick_dir();
    let store = store(dir.path());
    let name = repo("a");
    store.put_manifest(&name, numbered(1), Vec::new()).await.unwrap();
    store.set_collection(CollectionOptions { untagged_after: Some(GRACE), ..CollectionOptions::default() });
    assert_eq!(collect(&store).await.suspected.manifests, 1);
    store.set_collection(CollectionOptions::default());
    run_for(&store, GRACE + ANSWER_TIME);
    let report = collect(&store).await;
    assert_eq!((report.removed.manifests, report.cleared, suspects(&store)), (0, 1, 0));
}

/// Damage an index, run past the grace: its children are there.
#[tokio::test]
async fn a_repository_with_damage_is_left_alone_until_it_is_mended() {
    type Harm = fn(&Store, &RepoName, &StoredManifest);
    let harms: [(&str, Harm); 5] = [
        ("an index with other bytes", |store, _, list| {
            std::fs::write(store.0.contents.layout.content(&list.digest), b"{}").unwrap();
        }),
        ("an index that is no manifest", |store, name, _| {
            let layout = &store.0.contents.layout;
            let digest = sha256(b"no manifest");
            std::fs::write(layout.content(&digest), b"no manifest").unwrap();
            std::fs::hard_link(layout.content(&digest), layout.member(name, Membership::Manifest, &digest)).unwrap();
        }),
        ("a tag without a digest", |store, name, _| {
            std::fs::write(store.0.contents.layout.tag(name, &"v1".parse().unwrap()), b"sha256:0").unwrap();
        }),
        ("a tag that leads to nothing", |store, name, _| {
            let text = format!("{}\n", sha256(b"never pushed"));
            std::fs::write(store.0.contents.layout.tag(name, &"v1".parse().unwrap()), text).unwrap();
        }),
        ("a name that is none", |store, name, _| {
            std::fs::write(store.0.contents.layout.members(name, Membership::Blob, Algorithm::Sha256).join("x"), b"")
                .unwrap();
        }),
    ];
    for (what, harm) in harms {
        let dir = quick_dir();
        let store = store(dir.path());
        store.set_collection(CollectionOptions { untagged_after: Some(GRACE), ..CollectionOptions::default() });
        let name = repo("a");
        for content in [&b"{}"[..], b"layer", b"left"] {
            push(&store, &name, content).await;
        }
        let child = image(b"{}", &[b"layer"]);
        let list = index_of(&[&child]);
        store.put_manifest(&name, child.clone(), Vec::new()).await.unwrap();
        store.put_manifest(&name, list.clone(), tags(&["v1"])).await.unwrap();
        harm(&store, &name, &list);
        let before = files_in(&store.0.contents.layout.members(&name, Membership::Blob, Algorithm::Sha256)).len();
        for _ in 0..3 {
            let report = collect_twice(&store).await;
            assert_eq!(report.left_alone.len(), 1, "{what}");
            assert_eq!(report.removed, CollectedContents::default(), "{what}");
        }
        assert_eq!(store.collection().left_alone[0].repository, "a", "{what}");
        let after = files_in(&store.0.contents.layout.members(&name, Membership::Blob, Algorithm::Sha256)).len();
        assert_eq!(after, before, "{what}");
        assert!(read(&store, &name, sha256(b"layer")).await.is_some(), "{what}");
        assert!(store.manifest(&name, &Reference::Digest(child.digest)).await.is_ok(), "{what}");
    }
}

#[tokio::test]
async fn what_was_damaged_behind_its_verdict_keeps_its_repository_and_is_collected_when_mended() {
    let dir = quick_dir();
    let store = store(dir.path());
    let name = repo("a");
    for content in [&b"{}"[..], b"layer", b"left"] {
        push(&store, &name, content).await;
    }
    let kept = image(b"{}", &[b"layer"]);
    store.put_manifest(&name, kept.clone(), tags(&["v1"])).await.unwrap();
    collect(&store).await;
    assert_eq!(suspects(&store), 1);
    std::fs::write(store.0.contents.layout.content(&kept.digest), b"{}").unwrap();
    run_for(&store, GRACE + ANSWER_TIME);
    let report = collect(&store).await;
    assert_eq!((report.removed.blobs, report.left_alone.len(), suspects(&store)), (0, 1, 1));
    store.put_manifest(&name, kept, tags(&["v1"])).await.unwrap();
    let report = collect(&store).await;
    assert_eq!((report.removed.blobs, report.left_alone.len()), (1, 0));
    assert_eq!(store.collection().left_alone, []);
    assert_eq!(read(&store, &name, sha256(b"layer")).await.unwrap(), b"layer");
}

#[tokio::test]
async fn nothing_is_collected_while_it_is_held() {
    let dir = quick_dir();
    let store = store(dir.path());
    push(&store, &repo("a"), b"left").await;
    store.hold_collection(true);
    let report = collect(&store).await;
    assert!(report.held && report.marked == 0 && store.collection().held);
    store.hold_collection(false);
    assert_eq!(collect(&store).await.suspected.blobs, 1);
    store.hold_collection(true);
    run_for(&store, GRACE + ANSWER_TIME);
    assert_eq!(collect(&store).await.removed.blobs, 0);
    store.hold_collection(false);
    assert_eq!(collect(&store).await.removed.blobs, 1);
}

#[tokio::test]
async fn what_an_upstream_taught_is_never_collected() {
    let dir = quick_dir();
    let store = store(dir.path());
    let cached = RepoName::cached(crate::oci::UpstreamId::of("registry.example.com", "a"), "");
    let cached = cached.unwrap();
    push(&store, &cached, b"cached").await;
    push(&store, &repo("a"), b"cached").await;
    assert_eq!(collect_twice(&store).await.removed.bytes, 0, "the cache has it too");
    assert_eq!(read(&store, &cached, sha256(b"cached")).await.unwrap(), b"cached");
    assert_eq!(read(&store, &repo("a"), sha256(b"cached")).await, None);
    assert_tidy(&store);
}

#[tokio::test]
async fn suspects_and_changed_repositories_are_known_behind_a_restart_and_a_grace_goes_on() {
    let dir = quick_dir();
    let first = store(dir.path());
    let name = repo("a");
    push(&first, &name, b"one").await;
    collect(&first).await;
    push(&first, &name, b"two").await;
    run_for(&first, GRACE / 2);
    first.close();
    drop(first);
    let second = store(dir.path());
    assert_eq!((suspects(&second), second.collection().dirty), (1, Some(1)));
    run_for(&second, GRACE / 2 + ANSWER_TIME);
    let report = collect(&second).await;
    assert_eq!((report.removed.blobs, report.suspected.blobs), (1, 1));
    assert_eq!(contents(&second), BTreeSet::from([sha256(b"two")]));
    drop(second);
    // A server that was killed noted no time since: the grace begins again, and nothing goes early.
    let third = store(dir.path());
    run_for(&third, GRACE);
    assert_eq!(collect(&third).await.removed.blobs, 0);
    run_for(&third, ANSWER_TIME);
    assert_eq!(collect(&third).await.removed.blobs, 1);
}

#[tokio::test]
async fn what_was_lost_of_the_notes_makes_everything_dirty_and_loses_no_content() {
    type Lose = fn(&Layout);
    let lose: [(&str, Lose); 4] = [
        ("all of them", |layout| std::fs::remove_dir_all(layout.collection()).unwrap()),
        ("the suspects", |layout| std::fs::remove_file(layout.suspects()).unwrap()),
        ("a piece of the suspects", |layout| std::fs::write(layout.suspects(), b"+ 00000").unwrap()),
        ("the changed ones", |layout| std::fs::remove_file(layout.dirty()).unwrap()),
    ];
    for (what, lose) in lose {
        let dir = quick_dir();
        let first = store(dir.path());
        let name = repo("a");
        push(&first, &name, b"{}").await;
        push(&first, &name, b"left").await;
        first.put_manifest(&name, image(b"{}", &[]), tags(&["v1"])).await.unwrap();
        collect(&first).await;
        first.close();
        let layout = first.0.contents.layout.clone();
        drop(first);
        lose(&layout);
        let second = store(dir.path());
        collect_twice(&second).await;
        assert!(!contents(&second).contains(&sha256(b"left")), "{what}");
        assert_eq!(contents(&second).len(), 2, "{what}");
    }
}

#[tokio::test]
async fn a_repository_that_is_written_to_meanwhile_has_its_verdict_later() {
    let dir = quick_dir();
    let store = store(dir.path());
    let name = repo("a");
    push(&store, &name, b"left").await;
    let naming = store.naming(&name);
    let report = collect(&store).await;
    assert_eq!((report.busy, report.suspected.blobs, suspects(&store)), (1, 0, 0));
    drop(naming);
    assert_eq!(collect(&store).await.suspected.blobs, 1);
    run_for(&store, GRACE + ANSWER_TIME);
    let naming = store.naming(&name);
    let report = collect(&store).await;
    assert_eq!((report.busy, report.removed.blobs, suspects(&store)), (1, 0, 1));
    drop(naming);
    assert_eq!(collect(&store).await.removed.blobs, 1);
}

#[tokio::test]
async fn why_a_content_stays_is_said() {
    let dir = quick_dir();
    let store = store(dir.path());
    let name = repo("a");
    for content in [&b"{}"[..], b"layer", b"left", b"pinned"] {
        push(&store, &name, content).await;
    }
    let child = image(b"{}", &[b"layer"]);
    let list = index_of(&[&child]);
    store.put_manifest(&name, child.clone(), Vec::new()).await.unwrap();
    store.put_manifest(&name, list.clone(), tags(&["v1"])).await.unwrap();
    store.set_pins(pinned(&[sha256(b"pinned")]));
    let why = async |digest: Digest| store.why_kept(digest, &Arc::default()).await.unwrap();
    let layer = why(sha256(b"layer")).await;
    let way =
        format!("tag v1 leads to {}, which names {}, which names {}", list.digest, child.digest, sha256(b"layer"));
    assert_eq!((layer.len(), layer[0].stays, layer[0].because.as_str()), (1, true, way.as_str()));
    assert_eq!(why(sha256(b"pinned")).await[0].because, "it is pinned");
    assert!(why(sha256(b"left")).await[0].because.ends_with("in the next run"));
    collect(&store).await;
    assert!(!why(sha256(b"left")).await[0].stays);
    assert!(why(sha256(b"left")).await[0].because.starts_with("nothing reaches it: it goes when the server has run"));
    assert_eq!(why(sha256(b"never pushed")).await, []);
    store.delete_manifest(&name, &Reference::Tag("v1".parse().unwrap())).await.unwrap();
    let layer = why(sha256(b"layer")).await;
    assert!(layer[0].stays && layer[0].because.ends_with("(gc.untaggedAfter)"), "{layer:?}");
    std::fs::write(store.0.contents.layout.content(&list.digest), b"{}").unwrap();
    let layer = why(sha256(b"layer")).await;
    assert!(layer[0].stays && layer[0].because.contains("until it is mended"), "{layer:?}");
}

/// Missing, empty, unreadable or old: what nothing reaches is found, and nothing of it goes until the pins are good again. What
/// was pinned last is a root still.
#[tokio::test]
async fn while_the_pins_can_not_be_gone_by_nothing_is_collected() {
    let old = Timestamp::from_millis(crate::clock::now().as_millis() - 90_000_000);
    let of_yesterday = Pins { written_at: old, releases: BTreeSet::new(), images: BTreeSet::from([sha256(b"other")]) };
    for fault in [
        FoundPins::Missing,
        FoundPins::Unreadable("line 3: no digest".to_owned()),
        pinned(&[]),
        FoundPins::Read(Arc::new(of_yesterday)),
    ] {
        let dir = quick_dir();
        let store = store(dir.path());
        let name = repo("a");
        for content in [&b"left"[..], b"pinned"] {
            push(&store, &name, content).await;
        }
        store.set_pins(pinned(&[sha256(b"pinned")]));
        store.set_pins(fault.clone());
        let found = collect(&store).await;
        assert!(found.pins_unusable.is_some(), "{fault:?}");
        run_for(&store, GRACE + ANSWER_TIME);
        assert_eq!(collect(&store).await.removed, CollectedContents::default(), "{fault:?}");
        assert_eq!(store.look_at_collection(&Arc::default()).await.unwrap().removed.blobs, 0, "{fault:?}");
        store.set_pins(pinned(&[sha256(b"pinned")]));
        let report = collect(&store).await;
        let gone: Vec<&str> = report.removed.named.iter().map(|gone| gone.digest.as_str()).collect();
        assert_eq!(gone, [sha256(b"left").to_string()], "{fault:?}");
        assert_eq!(read(&store, &name, sha256(b"pinned")).await.unwrap(), b"pinned", "{fault:?}");
    }
}
