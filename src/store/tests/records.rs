//! What was deleted is remembered: over restarts, cut lines and damage.

use super::*;

async fn put(store: &Store, stored: &StoredManifest) {
    store.put_manifest(&repo("a"), stored.clone(), Vec::new()).await.unwrap();
}

async fn delete(store: &Store, digest: Digest) {
    store.delete_manifest(&repo("a"), &Reference::Digest(digest)).await.unwrap();
}

fn file(store: &Store) -> std::path::PathBuf {
    store.0.contents.layout.records_of(&repo("a"))
}

#[tokio::test]
async fn what_was_deleted_is_known_to_be_until_it_is_pushed_again() {
    let dir = tempfile::tempdir().unwrap();
    let (gone, other) = (numbered(1), numbered(2));
    let first = store(dir.path());
    for stored in [&gone, &other] {
        put(&first, stored).await;
    }
    assert!(!file(&first).exists(), "what is not deleted needs no record");
    delete(&first, gone.digest).await;
    let is_deleted = async |store: &Store, name: &str, digest| store.is_deleted(&repo(name), digest).await.unwrap();
    assert!(is_deleted(&first, "a", gone.digest).await);
    assert!(!is_deleted(&first, "a", other.digest).await && !is_deleted(&first, "b", gone.digest).await);
    drop(first);
    let second = store(dir.path());
    assert!(is_deleted(&second, "a", gone.digest).await);
    put(&second, &gone).await;
    assert!(!is_deleted(&second, "a", gone.digest).await);
    drop(second);
    let third = store(dir.path());
    assert!(!is_deleted(&third, "a", gone.digest).await);
    // Who deletes what is not there writes nothing.
    let before = std::fs::read(file(&third)).unwrap();
    let unknown = Reference::Digest(sha256(b"never there"));
    assert!(matches!(third.delete_manifest(&repo("a"), &unknown).await, Err(StoreError::ManifestUnknown)));
    assert_eq!(std::fs::read(file(&third)).unwrap(), before);
    assert_tidy(&third);
}

#[tokio::test]
async fn a_line_that_was_cut_is_written_over_and_a_wrong_one_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<_> = (0..3).map(numbered).collect();
    let first = store(dir.path());
    for stored in &all {
        put(&first, stored).await;
        delete(&first, stored.digest).await;
    }
    let path = file(&first);
    drop(first);
    let whole = std::fs::read(&path).unwrap();
    let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    // Cut anywhere in the last line: the two before count, and a new one stands in its place.
    for length in ends[2]..ends[3] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let second = store(dir.path());
        for (number, stored) in all.iter().enumerate() {
            assert_eq!(second.is_deleted(&repo("a"), stored.digest).await.unwrap(), number < 2, "{length} {number}");
        }
        if length % 20 == 0 {
            put(&second, &all[2]).await;
            delete(&second, all[2].digest).await;
            drop(second);
            let third = store(dir.path());
            assert!(third.is_deleted(&repo("a"), all[2].digest).await.unwrap(), "{length}");
            assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 4, "{length}");
        }
    }
    for at in [ends[1] + 3, ends[1] + 40, ends[2] - 2] {
        let mut wrong = whole.clone();
        wrong[at] ^= 1;
        std::fs::write(&path, &wrong).unwrap();
        let second = store(dir.path());
        let deleted = async |number: usize| second.is_deleted(&repo("a"), all[number].digest).await.unwrap();
        assert!(deleted(0).await && !deleted(1).await && deleted(2).await, "{at}");
    }
}

#[tokio::test]
async fn a_manifest_that_is_there_is_not_deleted_whatever_a_record_says() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, first) = (numbered(1), store(dir.path()));
    put(&first, &kept).await;
    // As a kill leaves it behind the record and before the delete.
    first.0.records.deleting(&repo("a"), &kept.digest);
    drop(first);
    let second = store(dir.path());
    assert!(!second.is_deleted(&repo("a"), kept.digest).await.unwrap());
    drop(second);
    // Written down: it would be fetched from another master if it were lost now.
    let third = store(dir.path());
    let name = third.0.contents.layout.member(&repo("a"), Membership::Manifest, &kept.digest);
    std::fs::remove_file(name).unwrap();
    assert!(!third.is_deleted(&repo("a"), kept.digest).await.unwrap());
}

#[tokio::test]
async fn a_file_does_not_grow_with_what_says_nothing_any_more() {
    let dir = quick_dir();
    let (again, store) = (numbered(1), store(dir.path()));
    for _ in 0..400 {
        put(&store, &again).await;
        delete(&store, again.digest).await;
    }
    let lines = std::fs::read_to_string(file(&store)).unwrap().lines().count();
    assert!(lines < 300, "{lines}");
    assert!(store.is_deleted(&repo("a"), again.digest).await.unwrap());
}
