//! Damage on the disk: what is known to be damaged is absent everywhere, a push mends it for all, and the use stays what it
//! is. Pushes and reads go the way of clients; the disk is played by writing into stored files.

use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use serde_json::json;
use testkit::media_type::{CONFIG, IMAGE, INDEX};

mod list;

use super::*;
use crate::oci::{Reference, Tag, UpstreamId};
use crate::telemetry::DamageCause;

const SECOND_LOOK: Duration = super::super::contents::damage::list::AGAIN;

/// What a disk does to a file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Flipped,
    Cut,
    Extended,
    Zeroed,
    Emptied,
}

const HARMS: [Harm; 5] = [Harm::Flipped, Harm::Cut, Harm::Extended, Harm::Zeroed, Harm::Emptied];

impl Harm {
    /// Of every name of the content at once, as it is one file.
    fn strike(self, store: &Store, digest: &Digest) {
        self.strike_at(&store.0.contents.layout.content(digest));
    }

    fn strike_at(self, path: &Path) {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len();
        match self {
            Self::Flipped => {
                let mut byte = [0];
                file.read_exact_at(&mut byte, length / 2).unwrap();
                file.write_all_at(&[byte[0] ^ 1], length / 2).unwrap();
            }
            Self::Cut => file.set_len(length / 2).unwrap(),
            Self::Extended => file.set_len(length + 512).unwrap(),
            Self::Zeroed => file.write_all_at(&vec![0; usize::try_from(length).unwrap()], 0).unwrap(),
            Self::Emptied => file.set_len(0).unwrap(),
        }
    }
}

fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + usize::from(seed) * 7 + at / 251) as u8).collect()
}

/// As a client sees it: all bytes, or nothing.
async fn content(store: &Store, name: &RepoName, digest: Digest) -> Option<Vec<u8>> {
    match store.blob_content(name, digest).await {
        Ok(StoredContent::Memory(bytes)) => Some(bytes.to_vec()),
        Ok(StoredContent::File(blob)) => Some(content_of(&blob)),
        Err(StoreError::BlobUnknown) => None,
        Err(error) => panic!("{error}"),
    }
}

async fn digest_of(store: &Store, name: &RepoName, reference: &Reference) -> Option<Digest> {
    match store.manifest(name, reference).await {
        Ok(stored) => Some(stored.digest),
        Err(StoreError::ManifestUnknown) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Everything that runs beside requests, until it has nothing to do.
fn look_after(store: &Store) {
    store.0.manifests.look_after_damage(Instant::now());
}

/// Stopped and started again. How much of a content was charged that was cut is not known when nobody pushes it again, so a
/// stop after damage leaves no note of what is used.
fn counted(opened: Store, dir: &Path) -> Store {
    opened.close();
    drop(opened);
    let store = store(dir);
    assert_eq!(store.usage().used, None);
    store.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
    store
}

#[tokio::test]
async fn a_damaged_blob_is_absent_everywhere_and_a_push_mends_it_for_all() {
    for harm in HARMS {
        for (length, restarted) in [(5000, false), (200_000, false), (5000, true), (200_000, true)] {
            let case = format!("{harm:?}, {length} bytes, restarted {restarted}");
            let dir = quick_dir();
            let mut opened = store(dir.path());
            let (blob, config) = (bytes(length, 1), b"{}".to_vec());
            let names = [repo("a"), repo("a/b"), repo("c")];
            let image = image(&config, &[&blob]);
            for name in &names {
                push(&opened, name, &config).await;
                push(&opened, name, &blob).await;
                opened.put_manifest(name, image.clone(), vec!["t".parse().unwrap()]).await.unwrap();
                assert_eq!(opened.missing_references(name, &image).await.unwrap(), []);
            }
            let (digest, used) = (sha256(&blob), opened.usage().used);
            // A large one of the right length is not read before somebody pushes it.
            let is_seen = length < 10_000 || !matches!(harm, Harm::Flipped | Harm::Zeroed);
            harm.strike(&opened, &digest);
            if restarted {
                opened.close();
                drop(opened);
                opened = store(dir.path());
            }
            if restarted {
                // Manifests are read before blobs, and say how long those are.
                let by_digest = Reference::Digest(image.digest);
                assert_eq!(digest_of(&opened, &names[2], &by_digest).await, Some(image.digest));
            }
            if is_seen {
                assert!(content(&opened, &names[0], digest).await.is_none(), "{case}");
                for name in &names {
                    assert!(content(&opened, name, digest).await.is_none(), "{case}");
                    assert!(read(&opened, name, digest).await.is_none(), "{case}");
                    let missing = opened.missing_references(name, &image).await.unwrap();
                    assert_eq!(missing, [digest], "{case}");
                }
                assert!(!opened.has_content(digest).await.unwrap());
                assert!(!opened.mount_blob(None, &repo("d"), digest).await.unwrap(), "{case}");
                assert!(!opened.mount_blob(Some(&names[0]), &repo("d"), digest).await.unwrap(), "{case}");
                assert_eq!(opened.damage().contents, 1);
                // It is on the disk, not in this process's head.
                drop(opened);
                opened = store(dir.path());
                opened.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
                assert!(read(&opened, &names[1], digest).await.is_none(), "{case}");
                assert_eq!(opened.damage().contents, 1);
            }
            push(&opened, &names[1], &blob).await;
            assert!(content(&opened, &names[1], digest).await.unwrap() == blob, "{case}: the pusher's own");
            for name in &names {
                assert!(content(&opened, name, digest).await.unwrap() == blob, "{case}: {name}");
                assert_eq!(opened.missing_references(name, &image).await.unwrap(), []);
            }
            assert_eq!(opened.damage().contents, 0, "{case}: the entry goes after the last");
            if let Some(counted) = opened.usage().used {
                assert_eq!(Some(counted), used, "{case}");
            }
            assert_tidy(&opened);
        }
    }
}

#[tokio::test]
async fn a_damaged_manifest_is_absent_and_mended_with_its_lists() {
    for harm in HARMS {
        let dir = quick_dir();
        let opened = store(dir.path());
        let subject = sha256(b"subject");
        let fields = json!({"subject": testkit::descriptor(IMAGE, b"subject")});
        let referrer = manifest(&testkit::with(testkit::index(&[]), &fields));
        let outer = manifest(&testkit::index(&[testkit::descriptor(INDEX, &referrer.bytes)]));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        opened.start_jobs(&Runner::new(tasks.clone(), stop.clone()));
        while opened.index_state() != IndexState::Ready {
            tokio::task::yield_now().await;
        }
        let names = [repo("a"), repo("b")];
        let (tag, by_digest): (Tag, _) = ("t".parse().unwrap(), Reference::Digest(referrer.digest));
        for name in &names {
            opened.put_manifest(name, referrer.clone(), vec![tag.clone()]).await.unwrap();
            opened.put_manifest(name, outer.clone(), Vec::new()).await.unwrap();
        }
        harm.strike(&opened, &referrer.digest);
        // What was in memory is right, and goes with the first look at the disk.
        opened.0.manifests.memory.forget_all();
        for name in &names {
            assert_eq!(digest_of(&opened, name, &by_digest).await, None, "{harm:?}");
            assert_eq!(digest_of(&opened, name, &Reference::Tag(tag.clone())).await, None, "{harm:?}");
            assert_eq!(opened.missing_references(name, &outer).await.unwrap(), [referrer.digest]);
            assert_eq!(opened.referrers(name, subject, None, 10).await.unwrap().len(), 0, "{harm:?}");
        }
        opened.put_manifest(&names[0], referrer.clone(), Vec::new()).await.unwrap();
        for name in &names {
            assert_eq!(digest_of(&opened, name, &Reference::Tag(tag.clone())).await, Some(referrer.digest));
            assert_eq!(opened.missing_references(name, &outer).await.unwrap(), []);
            assert_eq!(opened.referrers(name, subject, None, 10).await.unwrap().len(), 1, "{harm:?}");
        }
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        assert_tidy(&opened);
    }
}

#[tokio::test]
async fn repositories_that_nobody_asks_for_are_mended_too() {
    let dir = quick_dir();
    let store = store(dir.path());
    let names: Vec<RepoName> = (0..20).map(|number| repo(&format!("r{number}/x"))).collect();
    for name in &names {
        push(&store, name, b"content").await;
    }
    let digest = sha256(b"content");
    Harm::Cut.strike(&store, &digest);
    assert!(content(&store, &names[3], digest).await.is_none());
    // A backup that keeps links is no repository.
    let backup = dir.path().join("backup");
    std::fs::hard_link(store.0.contents.layout.member(&names[0], Membership::Blob, &digest), &backup).unwrap();
    push(&store, &names[3], b"content").await;
    assert_eq!(store.damage().contents, 1);
    look_after(&store);
    let inode = |name: &RepoName| {
        std::fs::metadata(store.0.contents.layout.member(name, Membership::Blob, &digest)).unwrap().ino()
    };
    let whole = std::fs::metadata(store.0.contents.layout.content(&digest)).unwrap().ino();
    assert!(names.iter().all(|name| inode(name) == whole));
    assert_eq!(store.damage().contents, 0);
    assert_tidy(&store);
}

#[tokio::test]
async fn a_name_of_another_file_is_whole() {
    let dir = quick_dir();
    let store = store(dir.path());
    let digest = push(&store, &repo("a"), b"content").await;
    push(&store, &repo("b"), b"content").await;
    // Another file under one name, as a backup put back by hand, or a copy after too many links.
    let member = store.0.contents.layout.member(&repo("b"), Membership::Blob, &digest);
    std::fs::remove_file(&member).unwrap();
    std::fs::write(&member, b"content").unwrap();
    Harm::Flipped.strike(&store, &digest);
    assert!(content(&store, &repo("a"), digest).await.is_none());
    assert_eq!(content(&store, &repo("b"), digest).await.as_deref(), Some(&b"content"[..]));
    push(&store, &repo("a"), b"content").await;
    push(&store, &repo("b"), b"content").await;
    assert_tidy(&store);
}

#[tokio::test]
async fn a_descriptor_that_is_wrong_damages_nothing_and_is_looked_into_once() {
    let dir = quick_dir();
    let store = store(dir.path());
    let blob = bytes(100_000, 2);
    let digest = push(&store, &repo("a"), &blob).await;
    let lie = manifest(&testkit::image(&testkit::descriptor_of(CONFIG, digest, 7), &[]));
    store.put_manifest(&repo("a"), lie.clone(), Vec::new()).await.unwrap();
    let facts = std::fs::metadata(store.0.contents.layout.content(&digest)).unwrap();
    assert!(store.0.contents.damage.is_length_odd(&digest, &facts));
    assert!(content(&store, &repo("a"), digest).await.unwrap() == blob);
    assert!(!store.0.contents.damage.is_length_odd(&digest, &facts));
    assert_eq!(store.missing_references(&repo("a"), &lie).await.unwrap(), []);
    assert_eq!(store.damage().contents, 0);
    // Cut afterwards it is looked at again.
    Harm::Cut.strike(&store, &digest);
    assert!(content(&store, &repo("a"), digest).await.is_none());
    store.delete_blob(&repo("a"), digest).await.unwrap();
    store.delete_manifest(&repo("a"), &Reference::Digest(lie.digest)).await.unwrap();
    assert_tidy(&counted(store, dir.path()));
}

/// A blob whose file answers a read with an error, as one on a bad sector does.
fn unreadable(store: &Store, name: &RepoName, digest: &Digest) -> Blob {
    whole(
        std::fs::OpenOptions::new()
            .write(true)
            .open(store.0.contents.layout.member(name, Membership::Blob, digest))
            .unwrap(),
    )
}

fn whole(file: File) -> Blob {
    let length = file.metadata().unwrap().len();
    Blob::whole(file, length)
}

#[tokio::test]
async fn what_can_not_be_read_twice_while_others_can_is_damaged() {
    let dir = quick_dir();
    let store = store(dir.path());
    let (name, error) = (repo("a"), std::io::Error::from_raw_os_error(5));
    let digest = push(&store, &name, b"content").await;
    let other = push(&store, &name, b"other").await;
    push(&store, &repo("b"), b"content").await;
    let now = Instant::now();
    // Once is not enough, nor is a second time too soon.
    store.note_unreadable(&name, &digest, &unreadable(&store, &name, &digest), &error);
    store.0.manifests.look_after_damage(now + SECOND_LOOK / 2);
    assert!(content(&store, &name, digest).await.is_some());
    // One that can be read by then is well.
    let readable = whole(File::open(store.0.contents.layout.content(&other)).unwrap());
    store.note_unreadable(&name, &other, &readable, &error);
    store.0.manifests.look_after_damage(Instant::now() + SECOND_LOOK);
    assert!(content(&store, &name, digest).await.is_none());
    assert!(content(&store, &repo("b"), digest).await.is_none());
    assert!(content(&store, &name, other).await.is_some());
    assert_eq!(store.damage().found[DamageCause::Unreadable as usize], 1);
    push(&store, &repo("b"), b"content").await;
    look_after(&store);
    assert_eq!(content(&store, &name, digest).await.as_deref(), Some(&b"content"[..]));
    assert_tidy(&store);
}

#[tokio::test]
async fn what_ends_too_early_on_its_way_out_is_looked_at_at_once() {
    let dir = quick_dir();
    let store = store(dir.path());
    let (name, blob) = (repo("a"), bytes(100_000, 4));
    let digest = push(&store, &name, &blob).await;
    let open = store.blob(&name, digest).await.unwrap();
    Harm::Cut.strike(&store, &digest);
    let error = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    store.note_unreadable(&name, &digest, &open, &error);
    look_after(&store);
    assert!(content(&store, &name, digest).await.is_none());
    assert_eq!(store.damage().found[DamageCause::Hash as usize], 1);
    push(&store, &name, &blob).await;
    assert_tidy(&store);
}

#[tokio::test]
async fn of_contents_that_share_a_file_each_is_suspected_for_its_own_bytes() {
    let dir = quick_dir();
    let store = store(dir.path());
    let (name, error) = (repo("a"), std::io::Error::from_raw_os_error(5));
    let (sound, broken) = (push(&store, &name, b"content").await, push(&store, &name, b"other").await);
    let shared = dir.path().join("shared");
    std::fs::write(&shared, b"before content between 0ther behind").unwrap();
    let file = Arc::new(File::open(&shared).unwrap());
    for digest in [&sound, &broken] {
        let layout = &store.0.contents.layout;
        for path in [layout.content(digest), layout.member(&name, Membership::Blob, digest)] {
            std::fs::remove_file(&path).unwrap();
            std::fs::hard_link(&shared, &path).unwrap();
        }
    }
    for (digest, offset, length) in [(&sound, 7, 7), (&broken, 23, 5)] {
        let part = Blob::part_of(Arc::clone(&file), offset, length).unwrap();
        store.note_unreadable(&name, digest, &part, &error);
    }
    store.0.manifests.look_after_damage(Instant::now() + SECOND_LOOK);
    let is_damaged = |digest| store.0.contents.damage.has(digest);
    assert_eq!((is_damaged(&sound), is_damaged(&broken)), (false, true));
    assert_eq!(store.damage().found[DamageCause::Hash as usize], 1);
}

#[tokio::test]
async fn while_nothing_can_be_read_nothing_is_damaged() {
    let dir = quick_dir();
    let store = store(dir.path());
    let (name, error) = (repo("a"), std::io::Error::from_raw_os_error(5));
    let digest = push(&store, &name, b"content").await;
    let version = store.0.contents.layout.version();
    let kept = std::fs::read(&version).unwrap();
    std::fs::remove_file(&version).unwrap();
    store.note_unreadable(&name, &digest, &unreadable(&store, &name, &digest), &error);
    for tries in 1..5 {
        store.0.manifests.look_after_damage(Instant::now() + SECOND_LOOK * tries);
        assert_eq!(store.damage().contents, 0);
    }
    std::fs::write(&version, kept).unwrap();
    store.0.manifests.look_after_damage(Instant::now() + SECOND_LOOK * 6);
    assert_eq!(store.damage().contents, 1);
    store.delete_blob(&name, digest).await.unwrap();
    assert_tidy(&store);
}

#[tokio::test]
async fn more_than_sixteen_are_the_disks_fault_and_pushes_still_mend() {
    let dir = quick_dir();
    let opened = store(dir.path());
    let name = repo("a");
    let blobs: Vec<Vec<u8>> = (0..20).map(|seed| bytes(300, seed)).collect();
    for blob in &blobs {
        let digest = push(&opened, &name, blob).await;
        push(&opened, &repo("b"), blob).await;
        Harm::Flipped.strike(&opened, &digest);
    }
    opened.check().await.unwrap();
    for blob in &blobs[..16] {
        assert!(content(&opened, &name, sha256(blob)).await.is_none());
    }
    opened.check().await.unwrap();
    for blob in &blobs[16..] {
        assert!(matches!(opened.blob_content(&name, sha256(blob)).await, Err(StoreError::Io { .. })));
    }
    assert!(opened.damage().disk_fault && opened.damage().contents == 16);
    let told = opened.check().await.unwrap_err().to_string();
    assert!(told.contains("the disk is at fault"), "{told}");
    // A restart does not begin to count anew.
    drop(opened);
    let store = store(dir.path());
    store.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
    assert!(matches!(store.blob_content(&name, sha256(&blobs[19])).await, Err(StoreError::Io { .. })));
    for blob in &blobs {
        push(&store, &name, blob).await;
        push(&store, &repo("b"), blob).await;
        assert!(content(&store, &name, sha256(blob)).await.unwrap() == *blob);
        assert!(content(&store, &repo("b"), sha256(blob)).await.unwrap() == *blob);
    }
    look_after(&store);
    assert_tidy(&store);
}

#[tokio::test]
async fn what_is_damaged_can_be_deleted_and_goes_first() {
    let dir = quick_dir();
    let store = store(dir.path());
    let upstream = UpstreamId::of("registry.example.com", "x");
    let cached = [RepoName::cached(upstream, "a").unwrap(), RepoName::cached(upstream, "b").unwrap()];
    let digest = sha256(b"content");
    for name in &cached {
        let partial = store.begin_fill(digest).await.unwrap();
        partial.append(vec![Bytes::from_static(b"content")]).await.unwrap();
        store.commit_fill(partial, vec![name.clone()], &CancellationToken::new()).await.unwrap();
    }
    let tagged = image(b"content", &[]);
    store.put_manifest(&cached[0], tagged.clone(), vec!["t".parse().unwrap()]).await.unwrap();
    Harm::Zeroed.strike(&store, &digest);
    assert!(content(&store, &cached[0], digest).await.is_none());
    // Also while nothing can be fetched again that a tag reaches: it is of no use to anybody.
    let evicted = store.evict(Eviction { need: 1, spare: Spare::Tagged, ..Eviction::default() }).await.unwrap();
    assert_eq!((evicted.contents, evicted.bytes), (1, 7));
    store.delete_manifest(&cached[0], &Reference::Digest(tagged.digest)).await.unwrap();
    assert_eq!(store.usage().used, Some(0));

    push(&store, &repo("p"), b"pushed").await;
    let pushed = sha256(b"pushed");
    store.put_manifest(&repo("p"), image(b"pushed", &[]), vec!["t".parse().unwrap()]).await.unwrap();
    Harm::Cut.strike(&store, &pushed);
    Harm::Cut.strike(&store, &image(b"pushed", &[]).digest);
    assert!(content(&store, &repo("p"), pushed).await.is_none());
    store.delete_blob(&repo("p"), pushed).await.unwrap();
    store.delete_manifest(&repo("p"), &Reference::Digest(image(b"pushed", &[]).digest)).await.unwrap();
    assert_tidy(&counted(store, dir.path()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_beside_damage_and_repair_gets_the_content_or_nothing() {
    let dir = quick_dir();
    let store = store(dir.path());
    let blob = bytes(3000, 9);
    let digest = sha256(&blob);
    let names = [repo("a"), repo("b"), repo("c")];
    for name in &names {
        push(&store, name, &blob).await;
    }
    let ended = CancellationToken::new();
    let mut readers = tokio::task::JoinSet::new();
    for name in names.clone() {
        let (store, ended, blob) = (store.clone(), ended.clone(), blob.clone());
        readers.spawn(async move {
            while !ended.is_cancelled() {
                if let Some(found) = content(&store, &name, digest).await {
                    assert!(found == blob);
                }
                tokio::task::yield_now().await;
            }
        });
    }
    for round in 0..15 {
        HARMS[round % HARMS.len()].strike(&store, &digest);
        store.0.manifests.memory.forget_all();
        let _ = content(&store, &names[round % 3], digest).await;
        push(&store, &names[(round + 1) % 3], &blob).await;
        let inner = Arc::clone(&store.0);
        tokio::task::spawn_blocking(move || inner.manifests.look_after_damage(Instant::now())).await.unwrap();
        for name in &names {
            assert!(content(&store, name, digest).await.unwrap() == blob, "round {round}");
        }
    }
    ended.cancel();
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
    assert_tidy(&store);
}
