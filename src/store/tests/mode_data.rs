//! Data of modes that are not in force: counted, and dropped by order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::cached::{cached, fill};
use super::*;
use crate::oci::UpstreamId;
use crate::values::StoringMode;

/// A repository of another upstream's cache.
fn other() -> RepoName {
    RepoName::cached(UpstreamId::of("other.example.com", "x"), "").unwrap()
}

/// Nothing but the data of one mode is used.
pub(super) fn used(mode: StoringMode) -> UsedData {
    match mode {
        StoringMode::Local => UsedData { pushed: true, upstreams: [].into(), switching: false },
        StoringMode::Proxy => UsedData {
            pushed: false,
            upstreams: [&cached(""), &other()].map(|repo| repo.upstream().unwrap()).into(),
            switching: false,
        },
    }
}

pub(super) const fn opposite(mode: StoringMode) -> StoringMode {
    match mode {
        StoringMode::Local => StoringMode::Proxy,
        StoringMode::Proxy => StoringMode::Local,
    }
}

async fn counted(store: &Store) -> Vec<UnusedData> {
    store.0.dropper.count(&CancellationToken::new()).await.unwrap();
    store.unused_data().unwrap().0
}

pub(super) async fn dropped(store: &Store, mode: StoringMode) -> Result<Dropped, StoreError> {
    store.drop_data(mode, &CancellationToken::new(), &crate::jobs::Progress::default()).await
}

/// Five repositories: two that clients push to, two of one upstream, one of another.
fn repositories() -> [RepoName; 5] {
    [repo("a"), repo("a/b"), cached(""), cached("m"), other()]
}

fn mode_of(number: usize) -> StoringMode {
    if number < 2 { StoringMode::Local } else { StoringMode::Proxy }
}

/// Blobs by what they hold: in which repositories each is.
async fn filled_by(store: &Store, blobs: &[BTreeSet<usize>]) {
    let all = repositories();
    for (number, places) in blobs.iter().enumerate() {
        let content = content_of_number(number);
        let taught: Vec<RepoName> =
            places.iter().filter(|place| **place >= 2).map(|place| all[*place].clone()).collect();
        if !taught.is_empty() {
            fill(store, &taught, &content).await;
        }
        for place in places.iter().filter(|place| **place < 2) {
            push(store, &all[*place], &content).await;
        }
    }
    for (number, repo) in all.iter().enumerate() {
        let tag = vec!["v1".parse().unwrap()];
        store.put_manifest(repo, numbered(number as u64 / 2), tag).await.unwrap();
    }
    store.keep_list(&cached("m"), ListKind::Tags, Bytes::from_static(b"[\"v1\"]")).await.unwrap();
}

fn content_of_number(number: usize) -> Vec<u8> {
    vec![u8::try_from(number).unwrap(); 10 + number]
}

/// What is in each repository, manifests among it, by digest.
fn members(blobs: &[BTreeSet<usize>]) -> BTreeMap<Digest, (u64, BTreeSet<usize>)> {
    let mut found: BTreeMap<Digest, (u64, BTreeSet<usize>)> = BTreeMap::new();
    for (number, places) in blobs.iter().enumerate().filter(|(_, places)| !places.is_empty()) {
        let content = content_of_number(number);
        found.insert(sha256(&content), (content.len() as u64, places.clone()));
    }
    for place in 0..5 {
        let stored = numbered(place as u64 / 2);
        found.entry(stored.digest).or_insert((stored.bytes.len() as u64, BTreeSet::new())).1.insert(place);
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The figure is what is freed, whichever repositories share what; the other mode's data is as it was.
    #[test]
    fn a_drop_frees_what_was_counted_and_nothing_that_the_other_mode_has(
        blobs in proptest::collection::vec(proptest::collection::btree_set(0..5_usize, 0..4), 0..8),
        is_local in any::<bool>(),
    ) {
        let mode = if is_local { StoringMode::Local } else { StoringMode::Proxy };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = quick_dir();
            let store = store(dir.path());
            filled_by(&store, &blobs).await;
            store.set_used_data(used(opposite(mode)));
            let all = members(&blobs);
            let freed = |has: &dyn Fn(usize) -> bool| {
                let alone = all.values().filter(|(_, places)| places.iter().all(|place| has(*place)));
                alone.fold((0, 0), |(contents, bytes), (size, _)| (contents + 1, bytes + size))
            };
            let expected = freed(&|place| mode_of(place) == mode);
            let before = store.usage().used.unwrap();

            let counted = counted(&store).await;
            assert_eq!(counted.len(), 1);
            assert_eq!((counted[0].mode, counted[0].all.contents, counted[0].all.bytes), (mode, expected.0, expected.1));
            let caches: Vec<_> = counted[0].upstreams.iter().map(|(id, count)| (*id, (count.contents, count.bytes))).collect();
            if is_local {
                assert_eq!(caches, []);
            } else {
                let id = |repo: RepoName| repo.upstream().unwrap();
                for expected in [(id(cached("")), freed(&|place| place == 2 || place == 3)), (id(other()), freed(&|place| place == 4))] {
                    assert!(caches.contains(&expected), "{caches:?} lacks {expected:?}");
                }
            }
            let look = store.look_at_drop(mode).await.unwrap();
            assert_eq!((look.contents, look.bytes), expected);

            let gone = dropped(&store, mode).await.unwrap();
            assert_eq!(gone, look);
            assert_eq!(before - store.usage().used.unwrap(), expected.1);
            for (number, repo) in repositories().into_iter().enumerate() {
                let is_there = mode_of(number) != mode;
                assert_eq!(store.0.contents.layout.repository(&repo).exists(), is_there, "{repo}");
                assert_eq!(store.manifest(&repo, &Reference::Tag("v1".parse().unwrap())).await.is_ok(), is_there, "{repo}");
            }
            for (number, places) in blobs.iter().enumerate() {
                let content = content_of_number(number);
                for place in places.iter().filter(|place| mode_of(**place) != mode) {
                    assert_eq!(read(&store, &repositories()[*place], sha256(&content)).await.as_ref(), Some(&content));
                }
            }
            assert_eq!(self::counted(&store).await, []);
            assert_eq!(dropped(&store, mode).await.unwrap(), Dropped::default());
            assert_tidy(&store);
        });
    }
}

#[tokio::test]
async fn data_that_a_mode_uses_or_may_use_never_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    filled_by(&store, &[[0, 1, 2, 4].into()]).await;
    let before = store.usage();
    // Until it is said what is used, all is.
    for data in [None, Some(used(StoringMode::Local)), Some(used(StoringMode::Proxy))] {
        let is_used = |mode| data.as_ref().is_none_or(|data| data.has(mode));
        if let Some(data) = &data {
            store.set_used_data(data.clone());
        }
        for mode in StoringMode::ALL.into_iter().filter(|mode| is_used(*mode)) {
            assert!(!store.want_drop(mode));
            let gone = dropped(&store, mode).await.unwrap();
            assert_eq!(gone, Dropped { left: Some(Left::Used), ..Dropped::default() });
        }
    }
    // Nobody's, while a switch is not over.
    store.set_used_data(UsedData { switching: true, ..UsedData::default() });
    assert_eq!(counted(&store).await.len(), 2);
    assert!(StoringMode::ALL.into_iter().all(|mode| !store.want_drop(mode)));
    // One cache of two: the other one stays, and is counted.
    let upstreams = [cached("").upstream().unwrap()].into();
    store.set_used_data(UsedData { pushed: true, upstreams, switching: false });
    assert_eq!(counted(&store).await[0].upstreams[0].0, other().upstream().unwrap());
    assert_eq!(dropped(&store, StoringMode::Proxy).await.unwrap().left, Some(Left::Used));
    assert_eq!(store.usage(), before);
    assert_tidy(&store);
}

/// A mode that comes into force in the middle keeps all that is still there.
#[tokio::test]
async fn a_drop_ends_when_a_mode_uses_the_data_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    filled_by(&store, &[[0].into(), [1].into()]).await;
    store.set_used_data(used(StoringMode::Proxy));
    assert!(store.want_drop(StoringMode::Local));
    let turn = store.0.contents.turn(1).await;
    let dropping = dropped(&store, StoringMode::Local);
    tokio::pin!(dropping);
    // Nothing goes without a turn, and this one is held.
    assert!(futures_util::poll!(dropping.as_mut()).is_pending());
    store.add_used_data(&used(StoringMode::Local));
    drop(turn);
    assert_eq!(dropping.await.unwrap(), Dropped { left: Some(Left::Used), ..Dropped::default() });
    let all = [(repo("a"), content_of_number(0)), (repo("a/b"), content_of_number(1))];
    for (repo, content) in all {
        assert_eq!(read(&store, &repo, sha256(&content)).await, Some(content));
    }
    assert_tidy(&store);
}
