//! What goes by itself goes on all masters or on none, does not come back, and takes nothing away that somebody was told of.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use super::masters::{assert_true, hear};
use super::*;
use crate::store::repositories::collection::ledger::ANSWER_TIME;
use crate::store::tests::collection::random::Chance;
use crate::store::tests::collection::{GRACE, collect, pinned, run_for};

/// Masters that are asked before anything goes.
struct Asked {
    dirs: Vec<tempfile::TempDir>,
    stores: Vec<Store>,
    /// Those that don't answer.
    away: Arc<Mutex<Vec<usize>>>,
    /// What is done when all have answered.
    then: Arc<Mutex<Option<Then>>>,
}

type Then = Box<dyn FnOnce() -> futures_util::future::BoxFuture<'static, ()> + Send>;

impl Asked {
    fn start(count: usize) -> Self {
        let dirs: Vec<_> = (0..count).map(|_| quick_dir()).collect();
        let stores = dirs.iter().map(|dir| recorded(dir.path())).collect();
        let asked = Self { dirs, stores, away: Arc::default(), then: Arc::default() };
        (0..count).for_each(|at| asked.connect(at));
        asked
    }

    /// Opens one again.
    fn open_again(&mut self, at: usize) {
        let spare = quick_dir();
        self.stores.push(store(spare.path()));
        drop(self.stores.swap_remove(at));
        self.stores.push(store(self.dirs[at].path()));
        drop(self.stores.swap_remove(at));
        for at in 0..self.stores.len() {
            self.connect(at);
        }
    }

    fn connect(&self, at: usize) {
        let untagged_after = Some(GRACE);
        self.stores[at].set_collection(CollectionOptions { untagged_after, ..CollectionOptions::default() });
        let others: Vec<(usize, std::sync::Weak<_>)> = (0..self.stores.len())
            .filter(|other| *other != at)
            .map(|other| (other, Arc::downgrade(&self.stores[other].0)))
            .collect();
        let (away, then) = (Arc::clone(&self.away), Arc::clone(&self.then));
        self.stores[at].ask_masters_by(Arc::new(move |question| {
            let (others, away, then) = (others.clone(), away.lock().unwrap().clone(), Arc::clone(&then));
            Box::pin(async move {
                let RemovalQuestion::Unreached(name) = question else { panic!("{question:?}") };
                let mut all: Option<HashSet<Record>> = None;
                for (number, other) in others {
                    if away.contains(&number) {
                        return Err(format!("{number} is away"));
                    }
                    let other = Store(other.upgrade().ok_or("it is gone")?);
                    let told: HashSet<Record> = other.removable(&name, None).await?.into_iter().collect();
                    all = Some(all.map_or(told.clone(), |all| all.intersection(&told).cloned().collect()));
                }
                let then = then.lock().unwrap().take();
                if let Some(then) = then {
                    then().await;
                }
                Ok(Agreed::Records(HashMap::from([(name, all.unwrap_or_default())])))
            })
        }));
    }

    async fn settle(&self) {
        for _ in 0..3 {
            for to in &self.stores {
                for from in self.stores.iter().filter(|from| !std::ptr::eq(*from, to)) {
                    hear(to, from).await;
                }
            }
        }
    }

    async fn collect_all(&self) -> u64 {
        let mut removed = 0;
        for store in &self.stores {
            removed += collect(store).await.removed.manifests;
        }
        removed
    }

    /// All find what nothing reaches, and their graces end.
    async fn suspect(&self) {
        self.collect_all().await;
        self.stores.iter().for_each(|store| run_for(store, GRACE + ANSWER_TIME));
    }

    async fn assert_same(&self, manifests: &[&StoredManifest]) {
        self.settle().await;
        for store in &self.stores {
            assert_eq!(store.repository_sums(), self.stores[0].repository_sums());
            assert_true(store).await;
            assert_tidy(store);
            for stored in manifests {
                assert!(store.manifest(&repo("a"), &of(stored.digest)).await.is_ok());
            }
        }
    }

    async fn assert_gone(&self, stored: &StoredManifest) {
        self.settle().await;
        for store in &self.stores {
            assert_eq!(store.repository_sums(), self.stores[0].repository_sums());
            assert_true(store).await;
            assert!(store.manifest(&repo("a"), &of(stored.digest)).await.is_err());
            assert_eq!(said(store, &of(stored.digest)).await, Some(None));
        }
    }
}

#[tokio::test]
async fn what_no_master_needs_goes_on_all_and_comes_back_by_nothing() {
    let mut masters = Asked::start(3);
    let (gone, kept) = (numbered(1), numbered(2));
    put(&masters.stores[0], &gone, &[]).await;
    put(&masters.stores[1], &kept, &["v1"]).await;
    masters.settle().await;
    masters.suspect().await;
    assert_eq!(collect(&masters.stores[2]).await.removed.manifests, 1);
    masters.assert_gone(&gone).await;
    // Nor by the next reading of any of them.
    for at in 0..3 {
        masters.open_again(at);
    }
    for store in &masters.stores {
        store.read_records(CancellationToken::new()).await.unwrap();
    }
    masters.assert_gone(&gone).await;
    masters.assert_same(&[&kept]).await;
    assert_eq!(masters.collect_all().await, 0);
    // Who pushes it again has it on all.
    put(&masters.stores[1], &gone, &[]).await;
    masters.assert_same(&[&gone, &kept]).await;
}

#[tokio::test]
async fn what_one_master_pins_or_was_asked_for_or_may_need_stays_on_all() {
    let masters = Asked::start(2);
    let (pinned_there, pulled_there) = (numbered(1), numbered(2));
    put(&masters.stores[0], &pinned_there, &[]).await;
    put(&masters.stores[0], &pulled_there, &[]).await;
    masters.settle().await;
    masters.stores[0].set_pins(pinned(&[sha256(b"another")]));
    masters.stores[1].set_pins(pinned(&[pinned_there.digest]));
    masters.suspect().await;
    // All pulls are on that one.
    masters.stores[1].manifest(&repo("a"), &of(pulled_there.digest)).await.unwrap();
    let report = collect(&masters.stores[0]).await;
    assert_eq!((report.removed.manifests, report.kept_by_masters, report.masters_away), (0, 2, None));
    masters.assert_same(&[&pinned_there, &pulled_there]).await;
    // Pins that can't be gone by, and a collection that is held, keep everything.
    masters.suspect().await;
    for (fault, is_held) in [(FoundPins::Missing, false), (pinned(&[pinned_there.digest]), true)] {
        masters.stores[1].set_pins(fault);
        masters.stores[1].hold_collection(is_held);
        let report = collect(&masters.stores[0]).await;
        assert!(report.masters_away.is_some() && report.removed.manifests == 0, "{report:?}");
        assert!(masters.stores[0].collection().masters_away.is_some());
        masters.stores[0].begin_questions();
    }
    masters.stores[1].hold_collection(false);
    assert_eq!(collect(&masters.stores[0]).await.removed.manifests, 1);
    masters.assert_gone(&pulled_there).await;
    masters.assert_same(&[&pinned_there]).await;
}

#[tokio::test]
async fn with_a_master_away_no_manifest_goes_and_blobs_do() {
    let masters = Asked::start(3);
    let image = numbered(1);
    put(&masters.stores[0], &image, &[]).await;
    push(&masters.stores[0], &repo("a"), b"left").await;
    masters.settle().await;
    masters.suspect().await;
    *masters.away.lock().unwrap() = vec![2];
    let report = collect(&masters.stores[0]).await;
    assert_eq!((report.removed.manifests, report.removed.blobs), (0, 1));
    assert_eq!(report.masters_away.as_deref(), Some("2 is away"));
    masters.settle().await;
    for store in &masters.stores {
        assert!(store.stored_manifest(&repo("a"), image.digest).unwrap().is_some());
    }
    masters.away.lock().unwrap().clear();
    masters.stores[0].begin_questions();
    let report = collect(&masters.stores[0]).await;
    assert_eq!((report.removed.manifests, report.masters_away), (1, None));
    masters.assert_gone(&image).await;
}

#[tokio::test]
async fn a_store_that_keeps_records_and_has_nobody_to_ask_removes_blobs_alone() {
    let dir = quick_dir();
    let store = recorded(dir.path());
    store.set_collection(CollectionOptions { untagged_after: Some(GRACE), ..CollectionOptions::default() });
    put(&store, &numbered(1), &[]).await;
    push(&store, &repo("a"), b"left").await;
    collect(&store).await;
    run_for(&store, GRACE + ANSWER_TIME);
    let report = collect(&store).await;
    assert_eq!((report.removed.manifests, report.removed.blobs), (0, 1));
    assert!(report.masters_away.is_some());
    // With no other master in the list nobody needs to be asked.
    store.ask_masters_by(Arc::new(|_| Box::pin(async { Ok(Agreed::All) })));
    assert_eq!(collect(&store).await.removed.manifests, 1);
    assert_eq!(said(&store, &of(numbered(1).digest)).await, Some(None));
}

/// A yes binds nobody: whoever is told behind it that something is there has it, on all masters.
#[tokio::test]
async fn a_pull_or_a_push_behind_the_yes_wins() {
    for what in 0..3 {
        let masters = Asked::start(2);
        let image = numbered(1);
        put(&masters.stores[0], &image, &[]).await;
        masters.settle().await;
        masters.suspect().await;
        let (other, stored) = (masters.stores[1].clone(), image.clone());
        let then: Then = Box::new(move || {
            Box::pin(async move {
                match what {
                    0 => drop(other.manifest(&repo("a"), &of(stored.digest)).await.unwrap()),
                    1 => put(&other, &stored, &[]).await,
                    _ => put(&other, &stored, &["v1"]).await,
                }
            })
        });
        *masters.then.lock().unwrap() = Some(then);
        assert_eq!(collect(&masters.stores[0]).await.removed.manifests, 1, "{what}");
        masters.assert_same(&[&image]).await;
        // The next time it goes, unless a tag leads to it.
        masters.suspect().await;
        masters.collect_all().await;
        match what {
            0 | 1 => masters.assert_gone(&image).await,
            _ => masters.assert_same(&[&image]).await,
        }
    }
}

#[tokio::test]
async fn a_tag_that_goes_by_a_rule_gives_up_its_manifest_on_all_masters() {
    let masters = Asked::start(2);
    for store in &masters.stores {
        // What has no tag stays unless it was given up.
        store.set_collection(CollectionOptions::default());
    }
    let (gone, tagged) = (numbered(1), numbered(2));
    put(&masters.stores[0], &gone, &["v1", "v2"]).await;
    put(&masters.stores[0], &tagged, &["v3", "v4"]).await;
    masters.settle().await;
    let [first, second] = [&masters.stores[0], &masters.stores[1]];
    first.ask_masters_by({
        let records = first.records_of(&repo("a"), vec![named("v1"), named("v2"), named("v3")]).await.unwrap();
        let agreed = Agreed::Records(HashMap::from([(repo("a"), records.into_iter().collect())]));
        Arc::new(move |_| {
            let agreed = agreed.clone();
            Box::pin(async { Ok(agreed) })
        })
    });
    let look = first.look_at_tags(&repo("a"), &CancellationToken::new()).await.unwrap().unwrap();
    let going = ["v1", "v2", "v3", "v4"].map(|name| (repo("a"), tag(name))).to_vec();
    let retired = first.retire(vec![look], going, &CancellationToken::new()).await.unwrap();
    assert_eq!((retired.removed.len(), retired.kept_by_masters), (3, 1));
    masters.settle().await;
    for store in [first, second] {
        for (name, expected) in [("v1", None), ("v2", None), ("v3", None), ("v4", Some(tagged.digest))] {
            assert_eq!(said(store, &named(name)).await, Some(expected), "{name}");
        }
        assert!(store.has_given_up(&repo("a")));
        assert_eq!(store.0.manifests.ledger.given_up.of(&repo("a")), HashSet::from([gone.digest]));
    }
    (0..2).for_each(|at| masters.connect(at));
    for store in &masters.stores {
        store.set_collection(CollectionOptions::default());
    }
    masters.suspect().await;
    assert_eq!(collect(second).await.removed.manifests, 1);
    masters.assert_gone(&gone).await;
    masters.assert_same(&[&tagged]).await;
}

#[tokio::test]
async fn a_removal_that_was_said_and_not_done_is_done_when_the_records_are_read() {
    for is_asked_for in [false, true] {
        let mut masters = Asked::start(2);
        let image = numbered(1);
        put(&masters.stores[0], &image, &[]).await;
        masters.settle().await;
        masters.suspect().await;
        // As a kill behind the record leaves it.
        {
            let manifests = &masters.stores[0].0.manifests;
            let locked = manifests.lock(&repo("a"));
            manifests.say_removed(&repo("a"), &of(image.digest), &Agreed::All, &locked).unwrap();
        }
        assert_eq!(said(&masters.stores[0], &of(image.digest)).await, Some(None));
        if is_asked_for {
            masters.stores[0].manifest(&repo("a"), &of(image.digest)).await.unwrap();
        }
        masters.open_again(0);
        if is_asked_for {
            masters.assert_same(&[&image]).await;
        } else {
            masters.assert_gone(&image).await;
        }
    }
}

/// Pushes, tags, deletes, pulls, removals, restarts in any order: what was told to be there stays for its grace, all end the same.
#[tokio::test]
async fn whatever_is_done_meanwhile_all_end_with_the_same_and_what_a_tag_leads_to_stays() {
    for seed in 0..10 {
        let mut chance = Chance(seed + 1);
        let mut masters = Asked::start(3);
        for _ in 0..60 {
            let at = chance.below(3);
            let (stored, name) = (numbered(chance.below(4) as u64), format!("v{}", chance.below(3)));
            let store = &masters.stores[at];
            match chance.below(12) {
                0 | 1 => put(store, &stored, &[&name]).await,
                2 => put(store, &stored, &[]).await,
                3 => drop(store.delete_manifest(&repo("a"), &named(&name)).await),
                4 => drop(store.delete_manifest(&repo("a"), &of(stored.digest)).await),
                5 => drop(store.manifest(&repo("a"), &of(stored.digest)).await),
                6 => masters.open_again(at),
                7 => {
                    collect(store).await;
                }
                8 => masters.stores.iter().for_each(|store| run_for(store, GRACE / 2 + ANSWER_TIME)),
                _ => hear(store, &masters.stores[(at + 1) % 3]).await,
            }
        }
        masters.assert_same(&[]).await;
        let tags = super::masters::tree(&masters.stores[0]).await.0;
        masters.suspect().await;
        masters.collect_all().await;
        masters.assert_same(&[]).await;
        for store in &masters.stores {
            let (after, manifests) = super::masters::tree(store).await;
            assert_eq!(after, tags, "{seed}");
            assert_eq!(manifests, tags.values().copied().collect(), "{seed}: what no tag leads to went");
        }
    }
}
