//! What mode Proxy keeps: fills, kept lists, times of tags, recency and eviction.

use proptest::prelude::*;

use super::super::contents::fills;
use super::*;
use crate::fs::set_modified;
use crate::oci::UpstreamId;
use tokio_util::sync::CancellationToken;

pub(super) fn cached(child: &str) -> RepoName {
    RepoName::cached(UpstreamId::of("registry.example.com", "deckhouse"), child).unwrap()
}

pub(super) async fn fill(store: &Store, repositories: &[RepoName], content: &[u8]) -> Digest {
    let digest = sha256(content);
    let partial = store.begin_fill(digest).await.unwrap();
    partial.append(vec![Bytes::copy_from_slice(content)]).await.unwrap();
    partial.verify().unwrap();
    store.commit_fill(partial, repositories.to_vec(), &CancellationToken::new()).await.unwrap();
    digest
}

/// Sets the last use of a content to `age` ago.
fn last_used(store: &Store, digest: &Digest, age: Duration) {
    let file = std::fs::File::open(store.0.contents.layout.content(digest)).unwrap();
    let then = crate::clock::now().as_millis() - u64::try_from(age.as_millis()).unwrap();
    set_modified(&file, Timestamp::from_millis(then)).unwrap();
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

const ROOM: Eviction = Eviction { need: 1, contents: 0, goal: 0, idle: None, spare: Spare::Nothing };

#[tokio::test]
async fn a_fill_goes_on_where_a_restart_left_it() {
    let dir = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
    let digest = sha256(&content);
    {
        let store = store(dir.path());
        let partial = store.begin_fill(digest).await.unwrap();
        partial.append(vec![Bytes::copy_from_slice(&content[..60_000])]).await.unwrap();
        assert!(matches!(fills::begin_now(&store.0.fills, &store.0.contents, digest), Err(StoreError::FillBusy(_))));
        drop(partial);
        assert_tidy(&store);
    }
    let store = store(dir.path());
    let partial = store.begin_fill(digest).await.unwrap();
    assert_eq!(partial.written(), 60_000);
    partial.append(vec![Bytes::copy_from_slice(&content[60_000..])]).await.unwrap();
    partial.verify().unwrap();
    let file = partial.file();
    store.commit_fill(partial, vec![cached(""), cached("modules/console")], &CancellationToken::new()).await.unwrap();
    assert_eq!(read(&store, &cached(""), digest).await.unwrap(), content);
    assert_eq!(read(&store, &cached("modules/console"), digest).await.unwrap(), content);
    assert_eq!(file.metadata().unwrap().len(), 100_000, "a reader's file outlives the commit");
    assert_tidy(&store);
}

#[tokio::test]
async fn a_fill_with_other_bytes_is_never_a_content() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let digest = sha256(b"right");
    let partial = store.begin_fill(digest).await.unwrap();
    partial.append(vec![Bytes::from_static(b"wrong")]).await.unwrap();
    assert!(matches!(partial.verify(), Err(StoreError::DigestMismatch { .. })));
    partial.restart().await.unwrap();
    assert_eq!(partial.written(), 0);
    partial.append(vec![Bytes::from_static(b"right")]).await.unwrap();
    partial.verify().unwrap();
    partial.discard().await.unwrap();
    assert!(!store.has_content(digest).await.unwrap());
    assert_eq!(files_in(&store.0.contents.layout.fills_of(Algorithm::Sha256)).len(), 0);
    assert_tidy(&store);
}

#[tokio::test]
async fn an_abandoned_fill_is_reaped_and_a_held_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let held = store.begin_fill(sha256(b"held")).await.unwrap();
    held.append(vec![Bytes::from_static(b"he")]).await.unwrap();
    let left = store.begin_fill(sha256(b"left")).await.unwrap();
    left.append(vec![Bytes::from_static(b"le")]).await.unwrap();
    drop(left);
    let later = Timestamp::from_millis(crate::clock::now().as_millis() + 2 * 3_600_000);
    assert_eq!(store.0.maintenance.reap(crate::clock::now()).unwrap(), 0);
    assert_eq!(store.0.maintenance.reap(later).unwrap(), 1);
    held.append(vec![Bytes::from_static(b"ld")]).await.unwrap();
    store.commit_fill(held, vec![cached("")], &CancellationToken::new()).await.unwrap();
    assert_tidy(&store);
}

#[tokio::test]
async fn a_list_is_kept_whole_with_its_time_until_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (repo, subject) = (cached("modules"), sha256(b"subject"));
    assert!(store.kept_list(&repo, ListKind::Tags).await.unwrap().is_none());
    store.keep_list(&repo, ListKind::Tags, Bytes::from_static(b"[\"a\"]")).await.unwrap();
    store.keep_list(&repo, ListKind::Referrers(subject), Bytes::from_static(b"[]")).await.unwrap();
    let kept = store.kept_list(&repo, ListKind::Tags).await.unwrap().unwrap();
    assert_eq!(kept.bytes, "[\"a\"]");
    assert!(crate::clock::now().since(kept.kept).unwrap() < hours(1));
    store.drop_list(&repo, ListKind::Tags).await.unwrap();
    assert!(store.kept_list(&repo, ListKind::Tags).await.unwrap().is_none());
    assert_eq!(store.kept_list(&repo, ListKind::Referrers(subject)).await.unwrap().unwrap().bytes, "[]");
    assert_tidy(&store);
}

/// Fills the one blob of an image, which is its configuration too, and stores its manifest; the digests of both.
async fn filled(store: &Store, repo: &RepoName, name: &str, tag: Option<&str>) -> (Digest, Digest) {
    let content = name.repeat(100);
    let layer = fill(store, std::slice::from_ref(repo), content.as_bytes()).await;
    let stored = image(content.as_bytes(), &[content.as_bytes()]);
    let digest = stored.digest;
    store.put_manifest(repo, stored, tag.map(|tag| tag.parse().unwrap()).into_iter().collect()).await.unwrap();
    (digest, layer)
}

#[tokio::test]
async fn a_tag_remembers_when_it_was_true() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (repo, tag) = (cached(""), "v1".parse().unwrap());
    assert_eq!(store.verified_tag(&repo, &tag).await.unwrap(), None);
    let (digest, _) = filled(&store, &repo, "image", Some("v1")).await;
    let long_ago = Timestamp::from_millis(1_000_000);
    super::super::repositories::tags::verify_tag(&store.0.contents.layout, &repo, &tag, long_ago).unwrap();
    assert_eq!(store.verified_tag(&repo, &tag).await.unwrap(), Some(VerifiedTag { digest, verified: long_ago }));
    store.verify_tag(&repo, &tag).await.unwrap();
    assert!(store.verified_tag(&repo, &tag).await.unwrap().unwrap().verified > long_ago);
}

#[tokio::test]
async fn the_least_recently_used_goes_first_and_only_what_is_cached() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let old = fill(&store, &[cached("")], &[1; 1000]).await;
    let older_but_pushed = push(&store, &repo("mine"), &[2; 1000]).await;
    let oldest_but_read_now = fill(&store, &[cached("")], &[3; 1000]).await;
    let young = fill(&store, &[cached("")], &[4; 1000]).await;
    for (digest, age) in [(old, 2), (older_but_pushed, 3), (oldest_but_read_now, 4), (young, 1)] {
        last_used(&store, &digest, hours(age));
    }
    let lease = store.lease(oldest_but_read_now);
    assert_eq!(store.evict(ROOM).await.unwrap(), Evicted { contents: 1, bytes: 1000, hopeless: false });
    assert!(!store.has_content(old).await.unwrap());
    drop(lease);
    // The reader is gone, its use is not: it is the youngest now.
    assert_eq!(store.evict(ROOM).await.unwrap().contents, 1);
    assert!(!store.has_content(young).await.unwrap() && store.has_content(oldest_but_read_now).await.unwrap());
    assert_eq!(store.evict(Eviction { need: u64::MAX, ..ROOM }).await.unwrap().contents, 1);
    assert!(store.has_content(older_but_pushed).await.unwrap());
    assert_tidy(&store);
}

#[tokio::test]
async fn a_use_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = {
        let store = store(dir.path());
        let first = fill(&store, &[cached("")], &[1; 1000]).await;
        let second = fill(&store, &[cached("")], &[2; 1000]).await;
        last_used(&store, &first, hours(3));
        last_used(&store, &second, hours(2));
        store.note_use(first);
        store.close();
        (first, second)
    };
    let store = store(dir.path());
    store.evict(ROOM).await.unwrap();
    assert!(store.has_content(first).await.unwrap() && !store.has_content(second).await.unwrap());
}

#[tokio::test]
async fn what_a_tag_reaches_is_spared_when_it_can_not_be_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (tagged, tagged_layer) = filled(&store, &cached(""), "tagged", Some("v1")).await;
    let (untagged, untagged_layer) = filled(&store, &cached("child"), "untagged", None).await;
    for digest in [tagged, tagged_layer, untagged, untagged_layer] {
        last_used(&store, &digest, hours(5));
    }
    let all = Eviction { need: u64::MAX, spare: Spare::Tagged, ..ROOM };
    assert_eq!(store.evict(all).await.unwrap().contents, 2);
    assert!(store.has_content(tagged).await.unwrap() && store.has_content(tagged_layer).await.unwrap());
    assert!(!store.has_content(untagged).await.unwrap() && !store.has_content(untagged_layer).await.unwrap());
    assert_eq!(store.evict(Eviction { spare: Spare::Nothing, ..all }).await.unwrap().contents, 2);
    assert_eq!(store.verified_tag(&cached(""), &"v1".parse().unwrap()).await.unwrap(), None);
    assert_tidy(&store);
}

#[tokio::test]
async fn age_counts_from_the_last_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let unused = fill(&store, &[cached(""), cached("child")], &[1; 10]).await;
    let used = fill(&store, &[cached("")], &[2; 10]).await;
    let fresh = fill(&store, &[cached("")], &[3; 10]).await;
    last_used(&store, &unused, hours(10));
    last_used(&store, &used, hours(10));
    last_used(&store, &fresh, hours(1));
    store.note_use(used);
    let aged = Eviction { need: 0, idle: Some(hours(5)), ..ROOM };
    assert_eq!(store.evict(aged).await.unwrap(), Evicted { contents: 1, bytes: 10, hopeless: false });
    assert!(!store.has_content(unused).await.unwrap());
    assert!(store.has_content(used).await.unwrap() && store.has_content(fresh).await.unwrap());
    assert_tidy(&store);
}

#[tokio::test]
async fn a_content_is_named_by_the_manifests_of_its_own_repository() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (_, layer) = filled(&store, &cached(""), "image", Some("v1")).await;
    assert!(store.is_named(&cached(""), layer).await.unwrap());
    assert!(!store.is_named(&cached("child"), layer).await.unwrap());
    assert!(!store.is_named(&cached(""), sha256(b"other")).await.unwrap());
}

#[tokio::test]
async fn what_an_upstream_taught_is_in_no_list_of_local() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    store.start_jobs(&Runner::new(TaskTracker::new(), CancellationToken::new()));
    filled(&store, &cached(""), "a", Some("v1")).await;
    filled(&store, &cached("modules/b"), "b", Some("v1")).await;
    filled(&store, &repo("mine"), "c", Some("v1")).await;
    let upstream = UpstreamId::of("registry.example.com", "deckhouse");
    while store.index_state() != IndexState::Ready {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.repositories(None, 10).await.unwrap().entries, ["mine"]);
    assert_eq!(store.cached_repositories(upstream, None, 10).await.unwrap().entries, ["", "modules/b"]);
    let page = store.cached_repositories(upstream, Some(""), 10).await.unwrap();
    assert_eq!(page.entries, ["modules/b"]);
    let first = store.cached_repositories(upstream, None, 1).await.unwrap();
    assert_eq!((first.entries, first.more), (vec![String::new()], true));
    let other = UpstreamId::of("registry.example.com", "other");
    assert_eq!(store.cached_repositories(other, None, 10).await.unwrap().entries, Vec::<String>::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever is appended, cut off by restarts and gone on with: the content is what was appended.
    #[test]
    fn fills_in_pieces_with_restarts(pieces in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 1..50), any::<bool>()), 1..8)) {
        let dir = quick_dir();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let content: Vec<u8> = pieces.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let digest = sha256(&content);
        let mut opened = store(dir.path());
        runtime.block_on(async {
            let mut partial = opened.begin_fill(digest).await.unwrap();
            for (bytes, restart) in &pieces {
                if *restart {
                    let written = partial.written();
                    drop(partial);
                    drop(opened);
                    opened = store(dir.path());
                    partial = opened.begin_fill(digest).await.unwrap();
                    assert_eq!(partial.written(), written);
                }
                partial.append(vec![Bytes::copy_from_slice(bytes)]).await.unwrap();
            }
            partial.verify().unwrap();
            opened.commit_fill(partial, vec![cached("")], &CancellationToken::new()).await.unwrap();
            assert_eq!(read(&opened, &cached(""), digest).await.unwrap(), content);
            assert_tidy(&opened);
        });
    }
}

#[tokio::test]
async fn who_asks_for_a_fill_that_is_being_removed_begins_it_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let digest = sha256(b"content");
    let before = store.begin_fill(digest).await.unwrap();
    let mut asking = Box::pin(store.begin_fill(digest));
    // As long as another holds it there is nothing to take up.
    for _ in 0..3 {
        assert!(futures_util::poll!(asking.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    before.append(vec![Bytes::from_static(b"cont")]).await.unwrap();
    before.discard().await.unwrap();
    let begun = asking.await.unwrap();
    assert_eq!(begun.written(), 0);
    drop(begun);
    assert_tidy(&store);
}

#[tokio::test]
async fn for_what_cannot_fit_nothing_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let alone = fill(&store, &[cached(""), cached("x")], &[1; 1000]).await;
    let pushed_too = fill(&store, &[cached("")], &[2; 500]).await;
    store.mount_blob(None, &repo("pushed"), pushed_too).await.unwrap();
    let read_now = fill(&store, &[cached("")], &[3; 300]).await;
    let lease = store.lease(read_now);
    // A fill that nobody holds.
    let left = store.begin_fill(sha256(b"left")).await.unwrap();
    left.append(vec![Bytes::from_static(b"le")]).await.unwrap();
    drop(left);
    let goal = |goal| Eviction { need: 1, goal, ..ROOM };
    for more_than_there_is in [1003, 5000, u64::MAX] {
        let evicted = store.evict(goal(more_than_there_is)).await.unwrap();
        assert_eq!(evicted, Evicted { contents: 0, bytes: 0, hopeless: true }, "{more_than_there_is}");
        for digest in [alone, pushed_too, read_now] {
            assert!(read(&store, &cached(""), digest).await.is_some());
        }
    }
    // A look alone removes nothing either.
    assert_eq!(store.evict(Eviction { need: 0, goal: 1002, ..ROOM }).await.unwrap(), Evicted::default());
    let evicted = store.evict(Eviction { need: 1002, goal: 1002, ..ROOM }).await.unwrap();
    assert_eq!(evicted.bytes, 1002);
    assert!(read(&store, &cached("x"), alone).await.is_none());
    drop(lease);
    assert_tidy(&store);
}

/// An index of these manifests.
async fn index_of(store: &Store, repo: &RepoName, children: &[Digest]) -> Digest {
    let mut manifests = Vec::new();
    for child in children {
        let stored = store.manifest(repo, &Reference::Digest(*child)).await.unwrap();
        manifests.push(testkit::descriptor(testkit::media_type::IMAGE, &stored.bytes));
    }
    let stored = manifest(&testkit::index(&manifests));
    let digest = stored.digest;
    store.put_manifest(repo, stored, Vec::new()).await.unwrap();
    digest
}

#[tokio::test]
async fn what_a_pin_names_is_spared_down_to_the_last_layer_in_each_repository() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (first, second) = (cached(""), cached("m"));
    let (pinned, pinned_layer) = filled(&store, &second, "pinned", None).await;
    let (child, child_layer) = filled(&store, &first, "child", None).await;
    let index = index_of(&store, &first, &[child]).await;
    let (tagged, tagged_layer) = filled(&store, &first, "tagged", Some("v1")).await;
    let blob = fill(&store, std::slice::from_ref(&first), b"a blob that is pinned by itself").await;
    let loose = fill(&store, std::slice::from_ref(&first), &[9; 500]).await;
    store.set_pins(super::collection::pinned(&[pinned, index, blob]));
    let all = Eviction { need: u64::MAX, spare: Spare::Pinned, ..ROOM };
    assert_eq!(store.evict(all).await.unwrap().contents, 3);
    for gone in [tagged, tagged_layer, loose] {
        assert!(!store.has_content(gone).await.unwrap());
    }
    for (repo, blob) in [(&second, pinned_layer), (&first, child_layer), (&first, blob)] {
        assert!(read(&store, repo, blob).await.is_some());
    }
    for (repo, manifest) in [(&second, pinned), (&first, child), (&first, index)] {
        assert!(store.manifest(repo, &Reference::Digest(manifest)).await.is_ok());
    }
    assert_tidy(&store);
}

#[tokio::test]
async fn contents_can_be_asked_to_go_for_their_inodes() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    for content in 0..5 {
        fill(&store, &[cached("")], &[content; 10]).await;
    }
    assert_eq!(store.evict(Eviction { need: 0, contents: 3, ..ROOM }).await.unwrap().contents, 3);
    assert_tidy(&store);
}
