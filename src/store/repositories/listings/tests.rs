use std::collections::BTreeSet;
use std::fs;

use proptest::prelude::*;
use tokio_util::task::TaskTracker;

use super::by_hand::rebuild_index;
use super::change::Change;
use super::*;
use crate::oci::Tag;
use crate::store::repositories::rebuild::tests::{Bench, NAMES, Told, contents, histories, step};

/// A server's start: opened or rebuilt, whatever is needed.
fn start(bench: &Bench) -> Listings {
    let listings = Listings::new(&bench.layout);
    assert_eq!(listings.state(), IndexState::Closed);
    tend(&listings, bench);
    listings
}

fn tend(listings: &Listings, bench: &Bench) {
    listings.tend(bench.tree(), &CancellationToken::new()).unwrap();
}

/// The directory of the index that answers: it tells an opened one from a rebuilt one.
fn folder(listings: &Listings) -> u64 {
    let serving = listings.slot().serving.clone().unwrap();
    listings.directory.number_of(serving.dir()).unwrap()
}

fn said(listings: &Listings) -> BTreeSet<String> {
    contents(&listings.slot().serving.clone().unwrap())
}

/// What the tree holds, by a rebuild of its own.
fn truth(bench: &Bench) -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::create(&dir.path().join("1")).unwrap();
    rebuild(bench.tree(), &index, &Progress::default(), &CancellationToken::new()).unwrap();
    contents(&index)
}

fn tell(change: &Change<'_>, told: &Told<'_>) {
    match told {
        Told::PutTag(tag) => change.put_tag(tag),
        Told::RemoveTag(tag) => change.remove_tag(tag),
        Told::PutManifest(stored) => change.put_manifest(stored),
        Told::RemoveManifest(digest, subject) => change.remove_manifest(*digest, *subject),
        Told::RemoveRepository => change.remove_repository(),
    }
}

fn write_tag(bench: &Bench, listings: &Listings, name: &str, tag: &str) {
    let (repo, tag): (RepoName, Tag) = (name.parse().unwrap(), tag.parse().unwrap());
    let change = listings.begin(&repo).unwrap();
    bench.write_tag(&repo, &tag);
    change.put_tag(&tag);
    change.done();
}

fn tags(listings: &Listings, name: &str) -> Vec<String> {
    listings.tags(&name.parse().unwrap(), None, 1000).unwrap().entries
}

fn indexes(bench: &Bench) -> usize {
    fs::read_dir(bench.dir.path().join("index")).unwrap().count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Histories in which the process is closed well, killed, or killed and started while it is written to.
    #[test]
    fn after_any_stop_the_lists_say_what_the_tree_holds(
        parts in proptest::collection::vec((histories(12), any::<bool>()), 1..5),
    ) {
        let bench = Bench::new();
        let mut listings = start(&bench);
        for (history, well) in parts {
            for one in history {
                step(&bench, one, |repo, told| {
                    let change = listings.begin(repo).unwrap();
                    tell(&change, &told);
                    change.done();
                });
            }
            prop_assert_eq!(said(&listings), truth(&bench));
            if well {
                listings.close();
            }
            drop(listings);
            listings = start(&bench);
            prop_assert_eq!(listings.state(), IndexState::Ready);
            prop_assert_eq!(said(&listings), truth(&bench));
            prop_assert_eq!(indexes(&bench), 1);
        }
    }
}

#[test]
fn an_index_that_was_closed_well_is_taken_up_and_one_that_was_not_is_rebuilt() {
    let bench = Bench::new();
    let listings = start(&bench);
    write_tag(&bench, &listings, "a", "one");
    let first = folder(&listings);
    listings.close();
    drop(listings);

    let listings = start(&bench);
    assert_eq!(folder(&listings), first);
    assert_eq!(tags(&listings, "a"), ["one"]);
    // Killed after nothing but reads.
    drop(listings);
    let listings = start(&bench);
    assert_eq!(folder(&listings), first);
    // Killed after a change.
    write_tag(&bench, &listings, "a", "two");
    drop(listings);
    let listings = start(&bench);
    assert_ne!(folder(&listings), first);
    assert_eq!(tags(&listings, "a"), ["one", "two"]);
}

#[test]
fn a_crash_between_the_tree_and_the_index_is_noticed() {
    let bench = Bench::new();
    let listings = start(&bench);
    listings.close();
    let listings = start(&bench);
    let (repo, tag): (RepoName, Tag) = ("a".parse().unwrap(), "t".parse().unwrap());
    let change = listings.begin(&repo).unwrap();
    bench.write_tag(&repo, &tag);
    std::mem::forget(change);
    drop(listings);
    assert_eq!(tags(&start(&bench), "a"), ["t"]);
}

#[test]
fn an_older_copy_of_the_index_is_not_believed() {
    let bench = Bench::new();
    let (index, copy) = (bench.dir.path().join("index"), bench.dir.path().join("copy"));
    let listings = start(&bench);
    write_tag(&bench, &listings, "a", "one");
    listings.close();
    drop(listings);
    copy_folder(&index, &copy);
    let listings = start(&bench);
    write_tag(&bench, &listings, "a", "two");
    listings.close();
    drop(listings);
    fs::remove_dir_all(&index).unwrap();
    copy_folder(&copy, &index);
    assert_eq!(tags(&start(&bench), "a"), ["one", "two"]);
}

#[test]
fn a_deleted_index_is_rebuilt() {
    let bench = Bench::new();
    let listings = start(&bench);
    write_tag(&bench, &listings, "a", "one");
    listings.close();
    drop(listings);
    fs::remove_dir_all(bench.dir.path().join("index")).unwrap();
    let listings = start(&bench);
    assert_eq!(tags(&listings, "a"), ["one"]);
    // And it can be closed well again, although the stamp named another.
    listings.close();
    drop(listings);
    let listings = Listings::new(&bench.layout);
    assert!(listings.slot().stamp.is_some());
}

#[test]
fn a_damaged_index_never_panics_and_never_lies() {
    let bench = Bench::new();
    let listings = start(&bench);
    for i in 0..400 {
        write_tag(&bench, &listings, NAMES[i % 4], &format!("t{i}"));
    }
    listings.close();
    drop(listings);
    let expected = truth(&bench);
    let (index, stamp) = (bench.dir.path().join("index"), bench.dir.path().join("index.stamp"));
    let (copy, stamp_copy) = (bench.dir.path().join("copy"), fs::read(&stamp).unwrap());
    copy_folder(&index, &copy);
    for damage in damages(&copy.join("1")) {
        let _ = fs::remove_dir_all(&index);
        copy_folder(&copy, &index);
        fs::write(&stamp, &stamp_copy).unwrap();
        damage.apply(&index.join("1"));
        let listings = start(&bench);
        // Damage that only shows when a page is read: that one question is not answered.
        for name in NAMES {
            let _ = listings.tags(&name.parse().unwrap(), None, 1000);
        }
        tend(&listings, &bench);
        assert_eq!(said(&listings), expected, "{damage:?}");
        listings.close();
    }
}

#[derive(Debug)]
enum Damage {
    Truncate(String, u64),
    Flip(String, usize),
    Garbage(String),
    Remove(String),
}

impl Damage {
    fn apply(&self, dir: &std::path::Path) {
        match self {
            Self::Truncate(file, len) => {
                fs::OpenOptions::new().write(true).open(dir.join(file)).unwrap().set_len(*len).unwrap();
            }
            Self::Flip(file, at) => {
                let mut bytes = fs::read(dir.join(file)).unwrap();
                bytes[*at] ^= 0x40;
                fs::write(dir.join(file), bytes).unwrap();
            }
            Self::Garbage(file) => fs::write(dir.join(file), [0xa5; 5000]).unwrap(),
            Self::Remove(file) => fs::remove_file(dir.join(file)).unwrap(),
        }
    }
}

/// Some of each kind for every file that sled keeps.
fn damages(dir: &std::path::Path) -> Vec<Damage> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten().filter(|entry| entry.file_type().unwrap().is_file()) {
        let name = entry.file_name().into_string().unwrap();
        let bytes = fs::read(entry.path()).unwrap();
        // Where something is written: sled's file is mostly holes.
        let written: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] != 0).collect();
        for part in 0..6 {
            all.push(Damage::Truncate(name.clone(), bytes.len() as u64 * part / 6));
        }
        for part in 0..8 {
            if let Some(&at) = written.get(written.len() * part / 8) {
                all.push(Damage::Flip(name.clone(), at));
            }
        }
        all.push(Damage::Garbage(name.clone()));
        all.push(Damage::Remove(name));
    }
    assert!(all.len() > 20, "{all:?}");
    all
}

#[test]
fn changes_before_the_index_is_open_are_caught_up() {
    let bench = Bench::new();
    let listings = start(&bench);
    write_tag(&bench, &listings, "a", "one");
    listings.close();
    let first = 1;
    drop(listings);

    let listings = Listings::new(&bench.layout);
    write_tag(&bench, &listings, "a", "two");
    assert!(matches!(listings.tags(&"a".parse().unwrap(), None, 1), Err(IndexError::NotReady)));
    tend(&listings, &bench);
    assert_eq!(folder(&listings), first);
    assert_eq!(tags(&listings, "a"), ["one", "two"]);
}

#[test]
fn a_change_that_breaks_off_has_its_repository_read_again() {
    let bench = Bench::new();
    let listings = start(&bench);
    let (repo, tag): (RepoName, Tag) = ("a".parse().unwrap(), "t".parse().unwrap());
    let change = listings.begin(&repo).unwrap();
    bench.write_tag(&repo, &tag);
    drop(change);
    // Not sealed before it is put right.
    listings.seal().unwrap();
    assert!(listings.slot().stamp.is_none());
    tend(&listings, &bench);
    assert_eq!(tags(&listings, "a"), ["t"]);
    listings.seal().unwrap();
    assert!(listings.slot().stamp.is_some());
}

#[test]
fn nothing_is_sealed_while_a_change_runs() {
    let bench = Bench::new();
    let listings = start(&bench);
    let repo: RepoName = "a".parse().unwrap();
    let change = listings.begin(&repo).unwrap();
    listings.seal().unwrap();
    assert!(listings.slot().stamp.is_none());
    change.done();
    listings.seal().unwrap();
    assert!(listings.slot().stamp.is_some());
    drop(listings.begin(&repo).unwrap());
    assert!(Listings::new(&bench.layout).slot().stamp.is_none());
}

#[test]
fn an_index_that_fails_is_replaced() {
    let bench = Bench::new();
    let listings = start(&bench);
    write_tag(&bench, &listings, "a", "one");
    let index = listings.slot().serving.clone().unwrap();
    listings.fail(&index, &IndexError::Entry("a test"));
    assert_eq!(listings.state(), IndexState::Rebuilding { done: 0 });
    write_tag(&bench, &listings, "a", "two");
    tend(&listings, &bench);
    assert_eq!(listings.state(), IndexState::Ready);
    assert_eq!(tags(&listings, "a"), ["one", "two"]);
}

#[test]
fn a_replaced_index_answers_until_the_fresh_one_does() {
    let bench = Bench::new();
    let listings = start(&bench);
    write_tag(&bench, &listings, "a", "one");
    let first = folder(&listings);
    listings.replace(bench.tree(), &CancellationToken::new()).unwrap();
    assert_ne!(folder(&listings), first);
    assert_eq!(indexes(&bench), 1);
    let stopped = CancellationToken::new();
    stopped.cancel();
    assert!(matches!(listings.replace(bench.tree(), &stopped), Err(IndexError::Cancelled)));
    assert_eq!(tags(&listings, "a"), ["one"]);
    assert_eq!(indexes(&bench), 1);
}

#[test]
fn a_folder_that_can_not_be_written_is_tried_again_later() {
    let bench = Bench::new();
    fs::write(bench.dir.path().join("index"), "in the way").unwrap();
    let listings = Listings::new(&bench.layout);
    assert!(listings.tend(bench.tree(), &CancellationToken::new()).is_err());
    fs::remove_file(bench.dir.path().join("index")).unwrap();
    tend(&listings, &bench);
    assert_eq!(listings.state(), IndexState::Ready);
}

#[test]
fn by_hand_it_is_rebuilt_and_sealed_and_a_running_server_keeps_it_out() {
    let bench = Bench::new();
    for i in 0..300 {
        bench.write_tag(&"a".parse().unwrap(), &format!("t{i}").parse().unwrap());
    }
    let shown = std::cell::Cell::new(0);
    assert_eq!(rebuild_index(bench.dir.path(), |done| shown.set(done)).unwrap(), 300);
    assert_eq!(shown.get(), 300);
    let listings = start(&bench);
    assert_eq!(folder(&listings), 1);
    assert_eq!(tags(&listings, "a").len(), 300);

    let _server = crate::store::opening::hold(&bench.layout).unwrap();
    let error = rebuild_index(bench.dir.path(), |_| ()).unwrap_err();
    assert!(matches!(&error, StoreError::InUse(_)), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(rebuild_index(empty.path(), |_| ()), Err(StoreError::Layout(_))));
}

#[tokio::test]
async fn the_job_opens_replaces_and_stops() {
    let bench = Arc::new(Bench::new());
    bench.write_tag(&"a".parse().unwrap(), &"t".parse().unwrap());
    let store = Arc::new((Listings::new(&bench.layout), Arc::clone(&bench)));
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    jobs::Runner::new(tasks.clone(), stop.clone())
        .start(KeepIndex::new(Arc::clone(&store), |store| (&store.0, store.1.tree())));
    for _ in 0..2 {
        while store.0.state() != IndexState::Ready {
            tokio::task::yield_now().await;
        }
        assert_eq!(tags(&store.0, "a"), ["t"]);
        let index = store.0.slot().serving.clone().unwrap();
        store.0.fail(&index, &IndexError::Entry("a test"));
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
