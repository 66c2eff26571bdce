//! Passes over real stores.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pass::Pass;
use super::scrubber::{Hand, Scrubber, Stand, Way};
use crate::clock::{self, Timestamp};
use crate::jobs::{RunResult, Runner};
use crate::oci::{Algorithm, Digest, RepoName};
use crate::store::tests::{quick_dir, store};
use crate::store::{Store, StoredContent};
use crate::telemetry::DamageCause;

const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// Blobs of these lengths in repository `a`; their digests.
async fn filled(store: &Store, lengths: impl IntoIterator<Item = usize>) -> Vec<Digest> {
    let name: RepoName = "a".parse().unwrap();
    let mut digests = Vec::new();
    for (number, length) in lengths.into_iter().enumerate() {
        let bytes: Vec<u8> = (0..length).map(|at| (at * 7 + number * 31) as u8).chain(number.to_le_bytes()).collect();
        let digest = Algorithm::Sha256.digest(&bytes);
        let mut upload = store.begin_upload(&name, None, None).await.unwrap();
        upload.append(vec![Bytes::from(bytes)]).await.unwrap();
        upload.finish(digest).await.unwrap();
        digests.push(digest);
    }
    digests
}

fn scrubber(store: &Store) -> Arc<Scrubber> {
    Arc::new(Scrubber::new(Arc::clone(&store.0.contents)))
}

/// Slices until there is nothing to do, at most so many.
async fn read(scrubber: &Arc<Scrubber>, mut hand: Hand, way: Way, slices: usize) -> Stand {
    let mut owed = Duration::ZERO;
    for _ in 0..slices {
        let stand;
        (hand, stand) = scrubber.slice(hand, way, u64::MAX, &mut owed).await.unwrap();
        if stand != Stand::More {
            return stand;
        }
    }
    Stand::More
}

fn flip(path: &Path) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let (mut byte, at) = ([0], file.metadata().unwrap().len() - 1);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[tokio::test]
async fn a_restart_in_the_middle_goes_on_and_reads_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let opened = store(dir.path());
    let digests = filled(&opened, std::iter::repeat_n(300_000, 40)).await;
    let first = scrubber(&opened);
    assert_eq!(read(&first, first.begin_anew(), Way::Whole, 4).await, Stand::More);
    let before = first.status();
    assert!(before.contents > 0 && before.contents < 40, "{before:?}");
    first.note();
    let second = scrubber(&opened);
    let known = second.status();
    assert_eq!((known.contents, known.bytes, known.permille), (before.contents, before.bytes, before.permille));
    assert_eq!(known.began.as_secs(), before.began.as_secs());
    assert_eq!(read(&second, second.go_on(), Way::Whole, usize::MAX).await, Stand::Through);
    let [contents, bytes, found] = second.status().since_start;
    assert_eq!((contents, found), (40 - before.contents, 0));
    assert_eq!(bytes + before.bytes, digests.len() as u64 * 300_008);
    // The next pass begins, and a restart knows it.
    let after = scrubber(&opened).status();
    assert_eq!((after.contents, after.permille), (0, 0));
    assert!(after.ended.is_some() && after.began >= after.ended.unwrap());
}

#[tokio::test]
async fn what_is_due_by_the_clock_is_read_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let opened = store(dir.path());
    let digests = filled(&opened, std::iter::repeat_n(100, 200)).await;
    let now = clock::now();
    // A third of the interval has passed.
    let began = Timestamp::from_millis(now.as_millis() - u64::try_from(WEEK.as_millis() / 3).unwrap());
    Pass::begin(began, None).note(&opened.0.contents.layout, &opened.0.contents.disk).unwrap();
    let scrubber = scrubber(&opened);
    let stand = read(&scrubber, scrubber.go_on(), Way::Due(WEEK), usize::MAX).await;
    let third = u64::MAX / 3;
    let share = |digest: &Digest| u64::from_be_bytes(*digest.as_bytes().first_chunk().unwrap());
    let due = digests.iter().filter(|digest| share(digest) < third).count() as u64;
    assert_eq!(scrubber.status().contents, due);
    let Stand::Until(next) = stand else { panic!("{stand:?}") };
    assert!(next > now && next.since(now).unwrap() < WEEK);
    // All is due long ago: the pass is through, and the next one has its whole time.
    Pass::begin(Timestamp::from_millis(0), None).note(&opened.0.contents.layout, &opened.0.contents.disk).unwrap();
    let late = self::scrubber(&opened);
    assert_eq!(read(&late, late.go_on(), Way::Due(WEEK), usize::MAX).await, Stand::Through);
    assert_eq!(late.status().since_start, [200, 200 * 108, 0]);
    assert!(matches!(read(&late, late.go_on(), Way::Due(WEEK), usize::MAX).await, Stand::Until(_)));
}

/// Killed: nothing is noted at its end.
#[tokio::test]
async fn a_kill_forgets_neither_when_the_pass_began_nor_what_a_short_run_read() {
    let dir = tempfile::tempdir().unwrap();
    let opened = store(dir.path());
    filled(&opened, std::iter::repeat_n(100, 30)).await;
    let first = scrubber(&opened);
    // Nothing is due yet, but from now on the time counts.
    assert!(matches!(read(&first, first.go_on(), Way::Due(WEEK), 1).await, Stand::Until(_)));
    let began = first.status().began;
    assert_eq!(scrubber(&opened).status().began.as_secs(), began.as_secs());
    assert!(opened.0.contents.layout.scrub().exists());
    // All is due: one slice reads some of it, and the next process knows.
    Pass::begin(Timestamp::from_millis(0), None).note(&opened.0.contents.layout, &opened.0.contents.disk).unwrap();
    let second = scrubber(&opened);
    read(&second, second.go_on(), Way::Due(WEEK), 1).await;
    let known = scrubber(&opened).status();
    assert!(known.contents > 0 || known.ended.is_some(), "{known:?}");
}

#[tokio::test]
async fn an_order_finds_what_nobody_reads_and_it_counts_as_absent() {
    let dir = tempfile::tempdir().unwrap();
    let opened = store(dir.path());
    let digests = filled(&opened, [100_000, 2_500_000, 0, 70_000]).await;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let jobs = Runner::new(tasks.clone(), stop.clone());
    opened.start_jobs(&jobs);
    assert_eq!(jobs.run_now("scrub").await.unwrap().result, RunResult::Ok);
    assert_eq!(opened.scrub().since_start, [4, 2_670_032, 0]);
    flip(&opened.0.contents.layout.content(&digests[1]));
    let name: RepoName = "a".parse().unwrap();
    // Of the right length: whoever reads it sees nothing.
    assert!(matches!(opened.blob_content(&name, digests[1]).await, Ok(StoredContent::File(_))));
    assert_eq!(jobs.run_now("scrub").await.unwrap().result, RunResult::Ok);
    assert_eq!(opened.scrub().since_start, [8, 2 * 2_670_032, 1]);
    let damage = opened.damage();
    assert_eq!((damage.contents, damage.found[DamageCause::Hash as usize]), (1, 1));
    assert!(opened.blob_content(&name, digests[1]).await.is_err());
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

/// Whoever has the digest's lock keeps the judgement waiting, and nobody who waits for a turn.
#[tokio::test]
async fn a_content_that_is_wrong_is_judged_without_a_turn() {
    // The note of a pass is synced in the turn: not on a disk that others keep busy.
    let dir = quick_dir();
    let opened = store(dir.path());
    let digests = filled(&opened, [50_000]).await;
    flip(&opened.0.contents.layout.content(&digests[0]));
    let contents = Arc::clone(&opened.0.contents);
    let (holder, (locked, is_locked), (end, ended)) = (Arc::clone(&contents), mpsc::channel(), mpsc::channel::<()>());
    let digest = digests[0];
    let holding = std::thread::spawn(move || {
        let _locked = holder.lock(&digest);
        locked.send(()).unwrap();
        let _ = ended.recv();
    });
    is_locked.recv().unwrap();
    let scrubber = scrubber(&opened);
    let (first, mut owed) = (contents.turn(0).await, Duration::ZERO);
    let mut slice = std::pin::pin!(scrubber.slice(scrubber.begin_anew(), Way::Whole, u64::MAX, &mut owed));
    assert!(futures_util::poll!(slice.as_mut()).is_pending(), "it is the next in line");
    drop(first);
    let behind = async {
        tokio::select! {
            _ = &mut slice => panic!("it was judged beside who has the lock"),
            turn = contents.turn(0) => drop(turn),
        }
    };
    tokio::time::timeout(Duration::from_secs(60), behind).await.expect("the judgement has the turn");
    drop(end);
    slice.await.unwrap();
    holding.join().unwrap();
    assert_eq!((opened.damage().contents, scrubber.status().found), (1, 1));
}

#[tokio::test]
async fn a_directory_that_can_not_be_read_is_found_once_and_the_rest_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let opened = store(dir.path());
    let digests = filled(&opened, std::iter::repeat_n(100, 40)).await;
    let first = digests.iter().map(|digest| digest.as_bytes()[0]).min().unwrap();
    let folder = opened.0.contents.layout.content_folder(Algorithm::Sha256, first);
    std::fs::remove_dir_all(&folder).unwrap();
    // Whoever opens it goes in a circle.
    std::os::unix::fs::symlink(&folder, &folder).unwrap();
    let others = digests.iter().filter(|digest| digest.as_bytes()[0] != first).count() as u64;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let jobs = Runner::new(tasks.clone(), stop.clone());
    opened.start_jobs(&jobs);
    for run in 1..=2 {
        assert_eq!(jobs.run_now("scrub").await.unwrap().result, RunResult::Ok);
        let [contents, _, found] = opened.scrub().since_start;
        assert_eq!((contents, found), (run * others, run));
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    // Runs of one pass come across it again and again.
    let scrubber = scrubber(&opened);
    for _ in 0..3 {
        let stand = read(&scrubber, scrubber.go_on(), Way::Due(WEEK), usize::MAX).await;
        assert!(matches!(stand, Stand::Until(_)), "{stand:?}");
    }
    assert_eq!(scrubber.status().since_start, [0, 0, 1]);
}

#[tokio::test]
async fn half_of_the_finds_that_are_a_fault_of_the_disk_are_left_to_readers() {
    let dir = tempfile::tempdir().unwrap();
    let opened = store(dir.path());
    let digests = filled(&opened, std::iter::repeat_n(50_000, 20)).await;
    for digest in &digests {
        flip(&opened.0.contents.layout.content(digest));
    }
    let scrubber = scrubber(&opened);
    assert_eq!(read(&scrubber, scrubber.begin_anew(), Way::Whole, usize::MAX).await, Stand::Held);
    assert_eq!((opened.damage().contents, scrubber.status().found), (8, 8));
    assert!(!opened.damage().disk_fault);
}
