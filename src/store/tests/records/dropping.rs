//! Deletions that all masters know of are dropped, and what was deleted does not come back for that.

use super::masters::{assert_true, hear};
use super::*;

fn soon() -> Timestamp {
    Timestamp::from_millis(crate::clock::now().as_millis() + 3_600_000)
}

fn sum(store: &Store) -> Sum {
    store.repository_sums().into_iter().find(|(name, _)| *name == repo("a")).map(|(_, of)| of.sum).unwrap_or_default()
}

async fn drop_deletions(store: &Store) -> Option<usize> {
    store.drop_deletions(&repo("a"), sum(store), soon()).await.unwrap()
}

async fn all_records(store: &Store) -> Vec<Record> {
    let all: Vec<u8> = (0..=u8::MAX).collect();
    store.records_in(&repo("a"), &all).await.unwrap()
}

#[tokio::test]
async fn what_all_know_to_be_deleted_is_dropped_and_does_not_come_back() {
    let dirs = [quick_dir(), quick_dir()];
    let stores = [recorded(dirs[0].path()), recorded(dirs[1].path())];
    put(&stores[0], &numbered(1), &["gone", "moved"]).await;
    put(&stores[0], &numbered(2), &["moved", "stays"]).await;
    hear(&stores[1], &stores[0]).await;
    delete(&stores[1], &named("gone")).await;
    delete(&stores[1], &of(numbered(1).digest)).await;
    hear(&stores[0], &stores[1]).await;
    let began = Timestamp::from_millis(1);
    for store in &stores {
        assert_eq!(store.repositories_with_deletions(), [repo("a")]);
        assert_eq!(store.sum_with_deletions(&repo("a"), began).await.unwrap(), None, "none is that old");
        assert_eq!(store.drop_deletions(&repo("a"), sum(store), began).await.unwrap(), Some(0));
        assert_eq!(store.sum_with_deletions(&repo("a"), soon()).await.unwrap(), Some(sum(store)));
    }
    assert_eq!(drop_deletions(&stores[0]).await, Some(2));
    // Who hears of them again before all have dropped them has them again, and that is all.
    hear(&stores[0], &stores[1]).await;
    assert_eq!(sum(&stores[0]), sum(&stores[1]));
    for store in &stores {
        assert_eq!(drop_deletions(store).await, Some(2));
        assert_eq!(store.repositories_with_deletions(), []);
        assert!(all_records(store).await.iter().all(|record| record.target().is_some()));
    }
    let stores = stores.map(|before| {
        let at = before.0.contents.layout.records().parent().unwrap().to_owned();
        drop(before);
        store(&at)
    });
    for store in &stores {
        store.read_records(CancellationToken::new()).await.unwrap();
    }
    hear(&stores[0], &stores[1]).await;
    hear(&stores[1], &stores[0]).await;
    assert_eq!(stores[0].records_sum(), stores[1].records_sum());
    for store in &stores {
        assert_true(store).await;
        assert_eq!(said(store, &named("gone")).await, None);
        assert_eq!(said(store, &named("moved")).await, Some(Some(numbered(2).digest)));
        assert!(store.manifest(&repo("a"), &of(numbered(1).digest)).await.is_err());
        assert_tidy(store);
    }
}

#[tokio::test]
async fn a_deletion_stays_where_the_records_are_others_or_something_is_on_its_way() {
    let dir = quick_dir();
    let store = recorded(dir.path());
    put(&store, &numbered(1), &["v1"]).await;
    delete(&store, &of(numbered(1).digest)).await;
    let before = sum(&store);
    put(&store, &numbered(2), &["v2"]).await;
    assert_eq!(store.drop_deletions(&repo("a"), before, soon()).await.unwrap(), None);
    let arriving = [store.arriving(&repo("a")), store.arriving(&repo("a"))];
    let other = store.arriving(&repo("b"));
    for arriving in arriving {
        assert_eq!(drop_deletions(&store).await, None);
        drop(arriving);
    }
    assert_eq!(drop_deletions(&store).await, Some(2));
    drop(other);
    // What was deleted and is there all the same is no deletion yet.
    put(&store, &numbered(3), &["v3"]).await;
    delete(&store, &named("v3")).await;
    let path = store.0.contents.layout.tag(&repo("a"), &tag("v3"));
    std::fs::write(&path, format!("{}\n", numbered(3).digest)).unwrap();
    std::fs::File::open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(drop_deletions(&store).await, None);
    assert_eq!(said(&store, &named("v3")).await, Some(None));
    assert!(!path.exists(), "it is done now");
    assert_eq!(drop_deletions(&store).await, Some(1));
}

#[tokio::test]
async fn a_repository_of_which_nothing_is_left_leaves_no_records() {
    let dir = quick_dir();
    let store = recorded(dir.path());
    put(&store, &numbered(1), &["v1"]).await;
    store.read_records(CancellationToken::new()).await.unwrap();
    let other = quick_dir();
    let empty = recorded(other.path());
    empty.read_records(CancellationToken::new()).await.unwrap();
    delete(&store, &of(numbered(1).digest)).await;
    assert!(file(&store).exists());
    assert_eq!(drop_deletions(&store).await, Some(2));
    assert!(!file(&store).exists());
    assert_eq!((store.repository_sums(), store.records_sum()), (Vec::new(), empty.records_sum()));
    assert_eq!(store.0.manifests.records.in_memory(), 0);
    put(&store, &numbered(1), &["v1"]).await;
    assert_eq!(said(&store, &named("v1")).await, Some(Some(numbered(1).digest)));
    assert_tidy(&store);
}

#[tokio::test]
async fn the_records_in_memory_are_bounded_and_their_sums_are_not() {
    let dir = quick_dir();
    let first = recorded(dir.path());
    let names = ["a", "b", "c"].map(repo);
    for name in &names {
        first.put_manifest(name, numbered(1), Vec::new()).await.unwrap();
        let path = first.0.contents.layout.records_of(name);
        let mut text = std::fs::read_to_string(&path).unwrap();
        for number in 0..45_000 {
            let line = format!("0000000000000001 0000000000000001 v{number} -");
            let check = sha256(line.as_bytes()).hex()[..8].to_owned();
            text.push_str(&format!("{line} {check}\n"));
        }
        std::fs::write(&path, text).unwrap();
    }
    drop(first);
    let second = store(dir.path());
    second.read_records(CancellationToken::new()).await.unwrap();
    for (sums, name) in second.repository_sums().iter().zip(&names) {
        assert_eq!((&sums.0, sums.1.records), (name, 45_001));
        assert_eq!(second.bucket_sums(name).await.unwrap().len(), BUCKETS);
        assert!(second.0.manifests.records.in_memory() <= 2);
    }
}
