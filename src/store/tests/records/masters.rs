//! Stores that tell each other what was said: they end with the same, whatever was done and in whatever order they spoke.

use super::*;
use crate::store::tests::collection::random::Chance;

/// What `to` hears of `from`, as masters do it: deletions, then what is there, contents first.
pub(in crate::store::tests) async fn hear(to: &Store, from: &Store) {
    for (name, _) in from.repository_sums() {
        let all: Vec<u8> = (0..=255).collect();
        let records = from.records_in(&name, &all).await.unwrap();
        let records = to.later_records(&name, records).await.unwrap();
        let (deleted, there): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record.target().is_none());
        to.take_records(&name, deleted).await.unwrap();
        let there = to.later_records(&name, there).await.unwrap();
        for record in &there {
            let digest = record.target().unwrap();
            if let Ok(stored) = from.manifest(&name, &of(digest)).await {
                let _ = to.put_fetched_manifest(&name, stored, Some(record.clone())).await;
            }
        }
        to.take_records(&name, there).await.unwrap();
    }
}

/// Tags and manifests of a store, as its tree has them.
pub(in crate::store::tests) async fn tree(
    store: &Store,
) -> (std::collections::BTreeMap<String, Digest>, std::collections::BTreeSet<Digest>) {
    use crate::store::repositories::walk::{Members, SkippedEntries, Tags};
    let (layout, skipped) = (&store.0.contents.layout, SkippedEntries::default());
    let mut tags = std::collections::BTreeMap::new();
    for tag in Tags::new(layout, &repo("a"), &skipped) {
        tags.insert(tag.to_string(), store.manifest(&repo("a"), &Reference::Tag(tag)).await.unwrap().digest);
    }
    (tags, Members::manifests(layout, &repo("a"), &skipped).collect())
}

/// The tree has what the records say, and nothing else.
pub(in crate::store::tests) async fn assert_true(store: &Store) {
    let (tags, manifests) = tree(store).await;
    let all: Vec<u8> = (0..=255).collect();
    let records = store.records_in(&repo("a"), &all).await.unwrap();
    for record in &records {
        let found = match record.of() {
            Reference::Tag(tag) => tags.get(tag.as_str()).copied(),
            Reference::Digest(digest) => manifests.get(digest).copied(),
        };
        assert_eq!(found, record.target(), "{record}");
    }
    let there = records.iter().filter(|record| record.target().is_some()).count();
    assert_eq!(there, tags.len() + manifests.len());
}

async fn settle(stores: &[Store]) {
    for _ in 0..3 {
        for to in stores {
            for from in stores.iter().filter(|from| !std::ptr::eq(*from, to)) {
                hear(to, from).await;
            }
        }
    }
}

#[tokio::test]
async fn whatever_is_pushed_and_deleted_anywhere_and_whoever_hears_of_it_when_all_end_with_the_same() {
    for seed in 0..12 {
        let mut chance = Chance(seed + 1);
        let dirs: Vec<_> = (0..3).map(|_| quick_dir()).collect();
        let mut stores: Vec<Store> = dirs.iter().map(|dir| recorded(dir.path())).collect();
        let spare = quick_dir();
        for _ in 0..60 {
            let at = chance.below(3);
            let (stored, name) = (numbered(chance.below(4) as u64), format!("v{}", chance.below(4)));
            match chance.below(10) {
                0..=3 => put(&stores[at], &stored, &[&name]).await,
                4 => put(&stores[at], &stored, &[]).await,
                5 => drop(stores[at].delete_manifest(&repo("a"), &named(&name)).await),
                6 => drop(stores[at].delete_manifest(&repo("a"), &of(stored.digest)).await),
                7 => {
                    // It starts again.
                    stores.push(store(&spare.path().join("other")));
                    drop(stores.swap_remove(at));
                    stores.push(store(dirs[at].path()));
                    drop(stores.swap_remove(at));
                }
                _ => hear(&stores[at], &stores[(at + 1) % 3]).await,
            }
        }
        settle(&stores).await;
        let sums: Vec<_> = stores.iter().map(Store::repository_sums).collect();
        assert!(sums.windows(2).all(|two| two[0] == two[1]), "{seed} {sums:?}");
        assert_eq!(stores[0].records_sum(), stores[1].records_sum(), "{seed}");
        let first = tree(&stores[0]).await;
        for store in &stores {
            assert_eq!(tree(store).await, first, "{seed}");
            assert_true(store).await;
            assert_tidy(store);
        }
    }
}

#[tokio::test]
async fn of_a_delete_here_and_a_push_there_the_later_one_counts_everywhere() {
    for push_is_later in [false, true] {
        let dirs = [quick_dir(), quick_dir()];
        let [one, other] = [recorded(dirs[0].path()), recorded(dirs[1].path())];
        let image = numbered(1);
        put(&one, &image, &["v1"]).await;
        hear(&other, &one).await;
        if push_is_later {
            delete(&one, &of(image.digest)).await;
            while crate::clock::now() <= record(&one, &of(image.digest)).await.wall() {}
            put(&other, &image, &["v1"]).await;
        } else {
            put(&other, &image, &["v1"]).await;
            while crate::clock::now() <= record(&other, &of(image.digest)).await.wall() {}
            delete(&one, &of(image.digest)).await;
        }
        settle(&[one.clone(), other.clone()]).await;
        for store in [&one, &other] {
            assert_eq!(store.manifest(&repo("a"), &named("v1")).await.is_ok(), push_is_later);
            assert_true(store).await;
        }
    }
}

/// A record as if it had been said by a clock that is ahead by so many milliseconds.
fn said_ahead(record: &Record, millis: u64) -> Record {
    let line = record.to_string();
    let (_, rest) = line.split_once(' ').unwrap();
    let (text, _) = rest.rsplit_once(' ').unwrap();
    let text = format!("{:016x} {text}", (crate::clock::now().as_millis() + millis) << 16);
    let check = sha256(text.as_bytes()).hex()[..8].to_owned();
    format!("{text} {check}").parse().unwrap()
}

#[tokio::test]
async fn what_is_said_here_is_later_than_what_was_heard_of_and_has_not_come() {
    let dirs = [quick_dir(), quick_dir()];
    let [one, other] = [recorded(dirs[0].path()), recorded(dirs[1].path())];
    put(&one, &numbered(1), &["v1", "v2"]).await;
    put(&other, &numbered(2), &["v2"]).await;
    let there = [record(&one, &named("v1")).await, record(&one, &named("v2")).await];
    // What is refused moves no clock.
    other.hear(&there.each_ref().map(|record| said_ahead(record, 25 * 3_600_000))).await;
    put(&other, &numbered(2), &["v3"]).await;
    assert!(record(&other, &named("v3")).await.wall() <= crate::clock::now());
    let heard = there.each_ref().map(|record| said_ahead(record, 180_000));
    other.hear(&heard).await;
    put(&other, &numbered(2), &["v1"]).await;
    delete(&other, &named("v2")).await;
    // It comes behind that.
    other.put_fetched_manifest(&repo("a"), numbered(1), Some(heard[0].clone())).await.unwrap();
    let taken = other.take_records(&repo("a"), heard.to_vec()).await.unwrap();
    assert_eq!(taken.taken, []);
    settle(&[one.clone(), other.clone()]).await;
    for store in [&one, &other] {
        assert_eq!(said(store, &named("v1")).await, Some(Some(numbered(2).digest)));
        assert_eq!(said(store, &named("v2")).await, Some(None));
        for heard in &heard {
            assert!(record(store, heard.of()).await.is_later(heard), "{heard}");
        }
    }
}

#[tokio::test]
async fn a_start_does_not_go_back_behind_what_was_heard_of() {
    let dirs = [quick_dir(), quick_dir()];
    let [one, other] = [recorded(dirs[0].path()), recorded(dirs[1].path())];
    put(&one, &numbered(1), &["v1"]).await;
    let there = record(&one, &named("v1")).await;
    for minutes in [3, 2, 5] {
        let heard = said_ahead(&there, minutes * 60_000);
        other.hear(std::slice::from_ref(&heard)).await;
    }
    let heard = said_ahead(&there, 4 * 60_000);
    drop(other);
    let again = store(dirs[1].path());
    put(&again, &numbered(2), &["v1"]).await;
    assert!(record(&again, &named("v1")).await.is_later(&heard));
    // What is of no use any more is not believed: the clock was far ahead.
    let path = again.0.contents.layout.records_heard();
    drop(again);
    let far = (crate::clock::now().as_millis() + 48 * 3_600_000) << 16;
    for text in [format!("{far:016x}\n"), "no moment\n".to_owned()] {
        std::fs::write(&path, text).unwrap();
        let third = store(dirs[1].path());
        let name = repo("b");
        third.put_manifest(&name, numbered(2), vec![tag("v1")]).await.unwrap();
        assert!(third.record(&name, &named("v1")).await.unwrap().unwrap().wall() <= crate::clock::now());
        third.delete_manifest(&name, &of(numbered(2).digest)).await.unwrap();
    }
}

/// What is to be said can't be written down: what was done before that is durable by then.
#[tokio::test]
async fn where_a_tag_leads_is_durable_before_it_is_said() {
    let dirs = [quick_dir(), quick_dir()];
    let [one, other] = [recorded(dirs[0].path()), recorded(dirs[1].path())];
    put(&one, &numbered(1), &["v1", "v2"]).await;
    let records = vec![record(&one, &named("v1")).await, record(&one, &named("v2")).await];
    other.put_fetched_manifest(&repo("a"), numbered(1), None).await.unwrap();
    let path = file(&other);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let taken = other.take_records(&repo("a"), records).await;
    assert!(matches!(taken, Err(StoreError::Io { .. })), "{taken:?}");
    let tags = other.0.contents.layout.tags(&repo("a"));
    let synced = other.0.contents.disk.synced_directories.lock().unwrap().clone();
    assert_eq!(synced.iter().filter(|synced| **synced == tags).count(), 1, "with one sync: {synced:?}");
}

#[tokio::test]
async fn a_clock_that_is_more_than_a_day_ahead_is_refused_with_its_record() {
    let dirs = [quick_dir(), quick_dir()];
    let [one, other] = [recorded(dirs[0].path()), recorded(dirs[1].path())];
    put(&one, &numbered(1), &["v1"]).await;
    let there = record(&one, &named("v1")).await;
    let ahead = |hours: u64| said_ahead(&there, hours * 3_600_000);
    other.put_fetched_manifest(&repo("a"), numbered(1), None).await.unwrap();
    let outcome = other.take_records(&repo("a"), vec![ahead(25)]).await.unwrap();
    assert_eq!((outcome.refused, outcome.taken.len()), (1, 0));
    assert_eq!(said(&other, &named("v1")).await, None);
    let outcome = other.take_records(&repo("a"), vec![ahead(23)]).await.unwrap();
    assert_eq!((outcome.refused, outcome.taken.len()), (0, 2));
    // What is said here from now on is later.
    put(&other, &numbered(2), &["v1"]).await;
    assert!(
        record(&other, &named("v1")).await.is_later(&ahead(23))
            || record(&other, &named("v1")).await.wall() >= ahead(22).wall()
    );
    assert_eq!(said(&other, &named("v1")).await, Some(Some(numbered(2).digest)));
}

#[tokio::test]
async fn a_tag_that_leads_to_what_was_deleted_later_goes_where_it_led_elsewhere_before() {
    let dirs = [quick_dir(), quick_dir()];
    let [one, other] = [recorded(dirs[0].path()), recorded(dirs[1].path())];
    let (before, behind) = (numbered(1), numbered(2));
    put(&one, &before, &["v1"]).await;
    hear(&other, &one).await;
    put(&one, &behind, &["v1"]).await;
    let moved = record(&one, &named("v1")).await;
    delete(&one, &of(behind.digest)).await;
    // The deletion comes first, and of the tag only that it was moved.
    let deletion = record(&one, &of(behind.digest)).await;
    other.take_records(&repo("a"), vec![deletion.clone()]).await.unwrap();
    other.take_records(&repo("a"), vec![moved]).await.unwrap();
    assert_eq!(said(&other, &named("v1")).await, Some(None));
    assert_true(&other).await;
    settle(&[one.clone(), other.clone()]).await;
    assert_eq!(one.repository_sums(), other.repository_sums());
}

#[tokio::test]
async fn what_another_master_told_of_is_deleted_here_later_than_that() {
    let dirs = [quick_dir(), quick_dir()];
    let [one, other] = [recorded(dirs[0].path()), recorded(dirs[1].path())];
    put(&one, &numbered(1), &["v1", "v2"]).await;
    let told = [record(&one, &named("v1")).await, record(&one, &of(numbered(1).digest)).await];
    for told in &told {
        other.delete_told(&repo("a"), told.clone()).await.unwrap();
        assert!(record(&other, told.of()).await.is_later(told));
        let again = other.delete_told(&repo("a"), told.clone()).await;
        assert!(matches!(again, Err(StoreError::ManifestUnknown)), "{again:?}");
    }
    settle(&[one.clone(), other.clone()]).await;
    for store in [&one, &other] {
        assert_eq!(tree(store).await, Default::default());
        assert_eq!(said(store, &named("v2")).await, Some(None));
    }
}

#[tokio::test]
async fn a_record_without_its_manifest_is_not_taken() {
    let dirs = [quick_dir(), quick_dir()];
    let [one, other] = [recorded(dirs[0].path()), recorded(dirs[1].path())];
    put(&one, &numbered(1), &["v1"]).await;
    let records = vec![record(&one, &named("v1")).await, record(&one, &of(numbered(1).digest)).await];
    let outcome = other.take_records(&repo("a"), records).await.unwrap();
    assert_eq!((outcome.lacking.len(), outcome.taken.len()), (2, 0));
    assert_eq!(other.repository_sums(), Vec::new());
}
