//! What was said of tags and manifests: by every way in, over restarts, cut lines and damage, and by other masters.

#[cfg(feature = "failpoints")]
mod crash;
mod dropping;
pub(super) mod masters;
mod removals;

use super::*;
use crate::store::repositories::records::Record;

fn of(digest: Digest) -> Reference {
    Reference::Digest(digest)
}

fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

fn named(name: &str) -> Reference {
    Reference::Tag(tag(name))
}

/// A store with other masters beside it.
fn recorded(dir: &Path) -> Store {
    let store = store(dir);
    store.keep_records().unwrap();
    store
}

async fn put(store: &Store, stored: &StoredManifest, tags: &[&str]) {
    let tags = tags.iter().map(|name| tag(name)).collect();
    store.put_manifest(&repo("a"), stored.clone(), tags).await.unwrap();
}

async fn delete(store: &Store, reference: &Reference) {
    store.delete_manifest(&repo("a"), reference).await.unwrap();
}

/// What is said to be there, or deleted (`None` within); `None`: nothing is said.
async fn said(store: &Store, of: &Reference) -> Option<Option<Digest>> {
    store.record(&repo("a"), of).await.unwrap().map(|record| record.target())
}

async fn record(store: &Store, of: &Reference) -> Record {
    store.record(&repo("a"), of).await.unwrap().unwrap()
}

fn file(store: &Store) -> std::path::PathBuf {
    store.0.contents.layout.records_of(&repo("a"))
}

#[tokio::test]
async fn without_other_masters_nothing_is_written_and_with_them_what_is_there_is_said_when_it_is_first_read() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two, first) = (numbered(1), numbered(2), store(dir.path()));
    put(&first, &one, &["v1"]).await;
    put(&first, &two, &[]).await;
    delete(&first, &of(two.digest)).await;
    assert!(!first.0.contents.layout.records().exists());
    assert_eq!(said(&first, &named("v1")).await, None);
    let path = first.0.contents.layout.tag(&repo("a"), &tag("v1"));
    let moved = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    std::fs::File::open(path).unwrap().set_modified(moved).unwrap();
    first.keep_records().unwrap();
    assert_eq!(said(&first, &named("v1")).await, Some(Some(one.digest)));
    assert_eq!(record(&first, &named("v1")).await.wall(), moved.into(), "a tag is as old as its file");
    assert_eq!(said(&first, &of(one.digest)).await, Some(Some(one.digest)));
    assert_eq!(said(&first, &of(two.digest)).await, None);
    // From now on for ever, whoever opens it.
    drop(first);
    let second = store(dir.path());
    put(&second, &two, &["v2"]).await;
    drop(second);
    let third = store(dir.path());
    assert_eq!(said(&third, &named("v2")).await, Some(Some(two.digest)));
    assert_tidy(&third);
}

#[tokio::test]
async fn every_way_in_and_out_is_said_at_that_moment() {
    let dir = quick_dir();
    let store = recorded(dir.path());
    let began = crate::clock::now();
    let (one, two, three) = (numbered(1), numbered(2), numbered(3));
    put(&store, &one, &["v1", "v2"]).await;
    assert_eq!(record(&store, &named("v1")).await.wall(), record(&store, &of(one.digest)).await.wall());
    store.create_snapshot("s".parse().unwrap()).await.unwrap();
    // A tag alone, then a manifest with what leads to it.
    delete(&store, &named("v1")).await;
    assert_eq!(
        (said(&store, &named("v1")).await, said(&store, &named("v2")).await),
        (Some(None), Some(Some(one.digest)))
    );
    delete(&store, &of(one.digest)).await;
    for of in [named("v1"), named("v2"), of(one.digest)] {
        assert_eq!(said(&store, &of).await, Some(None), "{of}");
        assert!(record(&store, &of).await.wall() >= began);
    }
    let deleted = record(&store, &of(one.digest)).await;
    store.restore_snapshot("s".parse().unwrap(), Restoring::default()).await.unwrap();
    for of in [named("v1"), named("v2"), of(one.digest)] {
        assert_eq!(said(&store, &of).await, Some(Some(one.digest)), "{of}");
    }
    assert!(record(&store, &of(one.digest)).await.is_later(&deleted));
    // A take-over, whose tags may be old.
    let inner = store.clone();
    let (taken, old) = (two.clone(), Timestamp::from_millis(1_700_000_000_000));
    let take = move || {
        inner.intake().add_manifests(&repo("a"), std::slice::from_ref(&taken)).unwrap();
        let (tag, digest, from) = (tag("v2"), taken.digest, MovedFrom::Anywhere);
        let moved = inner.intake().set_tags(&repo("a"), &[TagMove { tag, digest, at: Some(old), from }]).unwrap();
        assert!(moved.is_empty(), "{moved:?}");
    };
    tokio::task::spawn_blocking(take).await.unwrap();
    assert_eq!(said(&store, &named("v2")).await, Some(Some(two.digest)));
    assert!(record(&store, &named("v2")).await.wall() >= began);
    let exact = Restoring { exact: true, ..Restoring::default() };
    put(&store, &three, &["newer"]).await;
    store.restore_snapshot("s".parse().unwrap(), exact).await.unwrap();
    assert_eq!(said(&store, &named("newer")).await, Some(None));
    assert_eq!(said(&store, &of(three.digest)).await, Some(Some(three.digest)));
    // What another master has and somebody asked for here is no news.
    let before = std::fs::read(file(&store)).unwrap();
    store.put_fetched_manifest(&repo("a"), numbered(4), None).await.unwrap();
    assert_eq!(said(&store, &of(numbered(4).digest)).await, None);
    let unknown = store.delete_manifest(&repo("a"), &of(sha256(b"never there"))).await;
    assert!(matches!(unknown, Err(StoreError::ManifestUnknown)));
    assert_eq!(std::fs::read(file(&store)).unwrap(), before);
    assert_tidy(&store);
}

/// The file of records with each own one as if the clock had been ahead by so much.
fn ahead(text: &str, millis: u64) -> String {
    let later = |line: &str| {
        let (text, _) = line.rsplit_once(' ').unwrap();
        let (at, rest) = text.split_once(' ').unwrap();
        let at = u64::from_str_radix(at, 16).unwrap() + (millis << 16);
        let text = format!("{at:016x} {rest}");
        format!("{text} {}\n", &sha256(text.as_bytes()).hex()[..8])
    };
    let (head, lines) = text.split_once('\n').unwrap();
    format!("{head}\n{}", lines.lines().map(later).collect::<String>())
}

#[tokio::test]
async fn what_was_said_while_the_clock_was_ahead_is_said_again_when_it_is_read() {
    const DAY: u64 = 24 * 3_600_000;
    let dir = tempfile::tempdir().unwrap();
    let (one, two, first) = (numbered(1), numbered(2), recorded(dir.path()));
    put(&first, &one, &["v1"]).await;
    put(&first, &two, &["v2"]).await;
    delete(&first, &of(two.digest)).await;
    let path = file(&first);
    drop(first);
    let text = std::fs::read_to_string(&path).unwrap();
    for (days, is_said_again) in [(365, true), (2, true), (0, false)] {
        std::fs::write(&path, ahead(&text, days * DAY)).unwrap();
        let second = store(dir.path());
        let began = crate::clock::now();
        second.read_records(CancellationToken::new()).await.unwrap();
        for (of, to) in [
            (named("v1"), Some(one.digest)),
            (of(one.digest), Some(one.digest)),
            (named("v2"), None),
            (of(two.digest), None),
        ] {
            let said = record(&second, &of).await;
            assert_eq!(said.target(), to, "{of}");
            assert!(said.wall() <= crate::clock::now(), "{days} {said}");
            assert_eq!(said.wall() >= began, is_said_again, "{days} {said}");
        }
        // What is said from now on is believed too, and it is written down so.
        put(&second, &two, &["v3"]).await;
        assert!(record(&second, &named("v3")).await.wall() <= crate::clock::now());
        delete(&second, &of(two.digest)).await;
        let sum = second.records_sum();
        drop(second);
        let third = store(dir.path());
        third.read_records(CancellationToken::new()).await.unwrap();
        assert_eq!(third.records_sum(), sum, "{days}");
    }
}

#[tokio::test]
async fn a_push_that_can_not_be_written_down_for_other_masters_is_none() {
    let dir = quick_dir();
    let store = recorded(dir.path());
    put(&store, &numbered(1), &["v1"]).await;
    let path = file(&store);
    let text = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let pushed = store.put_manifest(&repo("a"), numbered(2), vec![tag("v2")]).await;
    assert!(matches!(pushed, Err(StoreError::Io { .. })), "{pushed:?}");
    assert_eq!(store.records_sum(), None, "it is to be read again");
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, text).unwrap();
    put(&store, &numbered(2), &["v2"]).await;
    store.read_records(CancellationToken::new()).await.unwrap();
    assert_eq!(said(&store, &named("v2")).await, Some(Some(numbered(2).digest)));
    masters::assert_true(&store).await;
}

#[tokio::test]
async fn records_that_can_not_be_written_down_leave_the_memory_and_keep_their_sums() {
    let dir = quick_dir();
    let name = |number: usize| repo(&format!("r{number}"));
    let first = store(dir.path());
    for number in 0..100 {
        first.put_manifest(&name(number), numbered(1), vec![tag("v1")]).await.unwrap();
    }
    first.keep_records().unwrap();
    drop(first);
    let second = store(dir.path());
    let layout = second.0.contents.layout.clone();
    // Nothing can be written.
    std::fs::remove_dir_all(layout.temporaries()).unwrap();
    second.read_records(CancellationToken::new()).await.unwrap();
    let sum = second.records_sum();
    assert!(sum.is_some() && (0..100).all(|number| !layout.records_of(&name(number)).exists()));
    // Each of them again, of which most have left the memory.
    for number in 0..100 {
        let said = second.record(&name(number), &named("v1")).await.unwrap();
        assert_eq!(said.unwrap().target(), Some(numbered(1).digest));
    }
    assert_eq!((second.records_sum(), second.repository_sums().len()), (sum, 100));
}

#[tokio::test]
async fn a_restore_behind_a_start_says_later_than_what_was_deleted_that_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (one, first) = (numbered(1), recorded(dir.path()));
    put(&first, &one, &["v1"]).await;
    first.create_snapshot("s".parse().unwrap()).await.unwrap();
    delete(&first, &of(one.digest)).await;
    let deleted = [record(&first, &named("v1")).await, record(&first, &of(one.digest)).await];
    drop(first);
    let second = store(dir.path());
    second.restore_snapshot("s".parse().unwrap(), Restoring::default()).await.unwrap();
    for deleted in &deleted {
        let said = record(&second, deleted.of()).await;
        assert_eq!(said.target(), Some(one.digest), "{deleted}");
        assert!(said.is_later(deleted));
    }
    assert!(second.manifest(&repo("a"), &named("v1")).await.is_ok());
    assert_tidy(&second);
}

#[tokio::test]
async fn a_repository_that_somebody_made_up_leaves_nothing_in_memory_and_on_the_disk() {
    let dir = quick_dir();
    let store = recorded(dir.path());
    put(&store, &numbered(1), &[]).await;
    store.read_records(CancellationToken::new()).await.unwrap();
    let made_up = repo("made/up");
    assert_eq!(store.record(&made_up, &named("v1")).await.unwrap(), None);
    assert_eq!(store.records_in(&made_up, &[0, 1]).await.unwrap(), Vec::new());
    assert!(store.bucket_sums(&made_up).await.unwrap().iter().all(|sum| *sum == Default::default()));
    assert!(!store.0.manifests.records.is_known(&made_up));
    assert!(!store.0.contents.layout.records_of(&made_up).exists());
    assert!(store.records_sum().is_some());
}

#[tokio::test]
async fn what_was_deleted_is_known_to_be_until_it_is_pushed_again() {
    let dir = tempfile::tempdir().unwrap();
    let (gone, other) = (numbered(1), numbered(2));
    let first = recorded(dir.path());
    for stored in [&gone, &other] {
        put(&first, stored, &[]).await;
    }
    delete(&first, &of(gone.digest)).await;
    let is_deleted = async |store: &Store, name: &str, digest| store.is_deleted(&repo(name), digest).await.unwrap();
    assert!(is_deleted(&first, "a", gone.digest).await);
    assert!(!is_deleted(&first, "a", other.digest).await && !is_deleted(&first, "b", gone.digest).await);
    drop(first);
    let second = store(dir.path());
    assert!(is_deleted(&second, "a", gone.digest).await);
    let fetched = second.put_fetched_manifest(&repo("a"), gone.clone(), None).await;
    assert!(matches!(fetched, Err(StoreError::ManifestUnknown)), "{fetched:?}");
    put(&second, &gone, &[]).await;
    assert!(!is_deleted(&second, "a", gone.digest).await);
    drop(second);
    let third = store(dir.path());
    assert!(!is_deleted(&third, "a", gone.digest).await);
    assert_tidy(&third);
}

#[tokio::test]
async fn a_line_that_was_cut_is_written_over_and_a_wrong_one_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<_> = (0..3).map(numbered).collect();
    let first = recorded(dir.path());
    for stored in &all {
        put(&first, stored, &[]).await;
    }
    for stored in &all {
        delete(&first, &of(stored.digest)).await;
    }
    let path = file(&first);
    drop(first);
    let whole = std::fs::read(&path).unwrap();
    let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    let (before, last) = (ends[5], ends[6]);
    // Cut anywhere in the last line: the two deletions before count, and a new one stands in its place.
    for length in before..last {
        std::fs::write(&path, &whole[..length]).unwrap();
        let second = store(dir.path());
        for (number, stored) in all.iter().enumerate() {
            assert_eq!(second.is_deleted(&repo("a"), stored.digest).await.unwrap(), number < 2, "{length} {number}");
        }
        if length % 20 == 0 {
            put(&second, &all[2], &[]).await;
            delete(&second, &of(all[2].digest)).await;
            drop(second);
            let third = store(dir.path());
            assert!(third.is_deleted(&repo("a"), all[2].digest).await.unwrap(), "{length}");
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.lines().skip(1).all(|line| line.parse::<Record>().is_ok()), "{length} {text}");
        }
    }
    for at in [ends[4] + 3, ends[4] + 40, ends[5] - 2] {
        let mut wrong = whole.clone();
        wrong[at] ^= 1;
        std::fs::write(&path, &wrong).unwrap();
        let second = store(dir.path());
        let deleted = async |number: usize| second.is_deleted(&repo("a"), all[number].digest).await.unwrap();
        assert!(deleted(0).await && !deleted(1).await && deleted(2).await, "{at}");
    }
}

#[tokio::test]
async fn a_deletion_that_a_kill_interrupted_is_done_when_the_records_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let (gone, kept, first) = (numbered(1), numbered(2), recorded(dir.path()));
    put(&first, &gone, &["v1"]).await;
    put(&first, &kept, &["v2", "v3"]).await;
    let manifests = &first.0.manifests;
    for reference in [of(gone.digest), named("v3")] {
        let locked = manifests.lock(&repo("a"));
        manifests.say_deleted(&repo("a"), &reference, &locked, || false).unwrap();
    }
    drop(first);
    let second = store(dir.path());
    second.read_records(CancellationToken::new()).await.unwrap();
    let there = async |reference: &Reference| second.manifest(&repo("a"), reference).await.is_ok();
    assert!(!there(&named("v1")).await && !there(&of(gone.digest)).await && !there(&named("v3")).await);
    assert!(there(&named("v2")).await);
    assert_tidy(&second);
}

/// A device that takes no byte stands for a full disk.
#[tokio::test]
async fn a_deletion_without_room_is_written_down_once_there_is_some_and_else_fails() {
    let dir = tempfile::tempdir().unwrap();
    let (gone, first) = (numbered(1), recorded(dir.path()));
    put(&first, &gone, &["v1", "v2"]).await;
    let path = first.0.contents.layout.records_of(&repo("a"));
    let manifests = &first.0.manifests;
    for (name, is_room) in [("v1", true), ("v2", false)] {
        let before = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let locked = manifests.lock(&repo("a"));
        let mut asked = 0;
        let said = manifests.say_deleted(&repo("a"), &named(name), &locked, || {
            asked += 1;
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, &before).unwrap();
            is_room
        });
        drop(locked);
        assert_eq!((asked, said.is_ok()), (1, is_room), "{name}: {said:?}");
        let known = manifests.record(&repo("a"), &named(name)).unwrap().unwrap();
        assert_eq!(known.target().is_none(), is_room, "{name}");
    }
}

#[tokio::test]
async fn what_is_there_and_was_not_said_is_as_old_as_its_file_and_what_is_said_and_not_there_was_never_heard() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two, first) = (numbered(1), numbered(2), recorded(dir.path()));
    put(&first, &one, &["v1", "lost"]).await;
    put(&first, &two, &["v2"]).await;
    let before = record(&first, &named("v1")).await;
    delete(&first, &named("lost")).await;
    let layout = first.0.contents.layout.clone();
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(crate::clock::now().as_millis() + 5);
    while std::time::UNIX_EPOCH + Duration::from_millis(crate::clock::now().as_millis()) < time {}
    // As a push leaves them that ends before it is written down.
    for name in ["v1", "new", "lost"] {
        std::fs::write(layout.tag(&repo("a"), &tag(name)), format!("{}\n", two.digest)).unwrap();
        std::fs::File::open(layout.tag(&repo("a"), &tag(name))).unwrap().set_modified(time).unwrap();
    }
    std::fs::remove_file(layout.tag(&repo("a"), &tag("v2"))).unwrap();
    std::fs::remove_file(layout.member(&repo("a"), Membership::Manifest, &one.digest)).unwrap();
    drop(first);
    let second = store(dir.path());
    for name in ["v1", "new", "lost"] {
        assert_eq!(said(&second, &named(name)).await, Some(Some(two.digest)), "{name}");
    }
    assert!(record(&second, &named("v1")).await.is_later(&before));
    assert!(record(&second, &of(two.digest)).await.wall() >= record(&second, &named("new")).await.wall());
    assert_eq!((said(&second, &named("v2")).await, said(&second, &of(one.digest)).await), (None, None));
    second.read_records(CancellationToken::new()).await.unwrap();
    let sum = second.records_sum();
    drop(second);
    let third = store(dir.path());
    third.read_records(CancellationToken::new()).await.unwrap();
    assert_eq!(third.records_sum(), sum, "it is written down");
}

#[tokio::test]
async fn a_file_does_not_grow_with_what_says_nothing_any_more() {
    let dir = quick_dir();
    let (again, store) = (numbered(1), recorded(dir.path()));
    for _ in 0..400 {
        put(&store, &again, &[]).await;
        delete(&store, &of(again.digest)).await;
    }
    let lines = std::fs::read_to_string(file(&store)).unwrap().lines().count();
    assert!(lines < 300, "{lines}");
    assert!(store.is_deleted(&repo("a"), again.digest).await.unwrap());
}

#[tokio::test]
async fn a_push_is_written_down_with_one_line_for_each_thing_and_sums_are_those_of_a_new_reading() {
    let dir = quick_dir();
    let store = recorded(dir.path());
    assert_eq!(store.records_sum(), None, "they were not read");
    store.read_records(CancellationToken::new()).await.unwrap();
    for number in 0..40 {
        put(&store, &numbered(number), &["latest", &format!("v{number}")]).await;
    }
    assert_eq!(std::fs::read_to_string(file(&store)).unwrap().lines().count(), 1 + 3 * 40);
    let (sum, buckets) = (store.records_sum(), store.bucket_sums(&repo("a")).await.unwrap());
    drop(store);
    let again = self::store(dir.path());
    again.read_records(CancellationToken::new()).await.unwrap();
    assert_eq!((again.records_sum(), again.bucket_sums(&repo("a")).await.unwrap()), (sum, buckets));
    assert_eq!(again.repository_sums().len(), 1);
    assert_eq!(again.repository_sums()[0].1.records, 81);
}
