//! Law (h): pushes, mounts, tags, deletes, questions, runs, restarts and time in any order, held against sets.

use std::collections::{BTreeMap, HashMap};

use super::*;

/// Contents that are pushed, and manifests: each names two of them, or two other manifests.
const BLOBS: usize = 6;
const IMAGES: usize = 6;
const LISTS: usize = 4;

/// xorshift64*: the same steps for the same seed.
pub(in crate::store::tests) struct Chance(pub(in crate::store::tests) u64);

impl Chance {
    pub(in crate::store::tests) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound as u64).unwrap()
    }
}

/// What a repository has, as sets.
#[derive(Clone, Debug, Default)]
struct Expected {
    /// With the running time until which nothing but a delete may take it.
    members: BTreeMap<Digest, Duration>,
    tags: BTreeMap<usize, Digest>,
}

struct World {
    blobs: Vec<Vec<u8>>,
    manifests: Vec<StoredManifest>,
    names: HashMap<Digest, Vec<Digest>>,
}

impl World {
    fn new() -> Self {
        let blobs: Vec<Vec<u8>> = (0..BLOBS).map(|number| format!("{{\"n\":{number}}}").into_bytes()).collect();
        let mut manifests: Vec<StoredManifest> =
            (0..IMAGES).map(|n| image(&blobs[n % BLOBS], &[&blobs[(n * 2 + 1) % BLOBS]])).collect();
        for number in 0..LISTS {
            let children: Vec<&StoredManifest> = [number, number + 2].map(|child| &manifests[child]).to_vec();
            let list = index_of(&children);
            manifests.push(list);
        }
        let names = manifests.iter().map(|stored| {
            let all = stored.manifest.config.iter().chain(&stored.manifest.layers).chain(&stored.manifest.manifests);
            (stored.digest, all.map(|named| named.digest).collect())
        });
        Self { names: names.collect(), blobs, manifests }
    }

    /// What the tags of a repository reach.
    fn reached(&self, expected: &Expected) -> BTreeSet<Digest> {
        let (mut reached, mut waiting) = (BTreeSet::new(), expected.tags.values().copied().collect::<Vec<_>>());
        while let Some(digest) = waiting.pop() {
            if expected.members.contains_key(&digest) && reached.insert(digest) {
                waiting.extend(self.names.get(&digest).into_iter().flatten());
            }
        }
        reached
    }
}

async fn walk(seed: u64, steps: usize) {
    let (world, dir, mut chance) = (World::new(), quick_dir(), Chance(seed));
    let options = CollectionOptions { untagged_after: Some(GRACE), ..CollectionOptions::default() };
    let open = || {
        let store = store(dir.path());
        store.set_collection(options.clone());
        store
    };
    let mut store = open();
    let repositories = ["a", "a/b"].map(repo);
    let mut expected = [Expected::default(), Expected::default()];
    // Running time, as a reference that never stands still for a restart has it.
    let mut time = Duration::ZERO;
    for step in 0..steps {
        let at = chance.below(2);
        let (name, promise) = (&repositories[at], time + GRACE);
        let (blob, number) = (&world.blobs[chance.below(BLOBS)], chance.below(world.manifests.len()));
        let (digest, stored) = (sha256(blob), &world.manifests[number]);
        let context = format!("seed {seed}, step {step}");
        match chance.below(20) {
            0..3 => {
                push(&store, name, blob).await;
                expected[at].members.insert(digest, promise);
            }
            3 => {
                let from = &repositories[1 - at];
                let mounted = store.mount_blob(Some(from), name, digest).await.unwrap();
                if expected[1 - at].members.get(&digest).is_some_and(|until| *until > time) {
                    assert!(mounted, "{context}: a blob that was promised is not there");
                }
                if mounted {
                    expected[at].members.insert(digest, promise);
                }
            }
            4..9 => {
                let tag = chance.below(3);
                let missing = store.missing_references(name, stored).await.unwrap();
                for missing in &missing {
                    // What is below a child that was promised was asked for with it.
                    let until = expected[at].members.get(missing);
                    assert!(until.is_none_or(|until| *until <= time), "{context}: {missing} was promised");
                }
                let whole = |digest: &Digest| expected[at].members.contains_key(digest);
                if missing.is_empty() && world.names[&stored.digest].iter().all(whole) {
                    let tags = if tag == 2 { Vec::new() } else { vec![format!("t{tag}").parse().unwrap()] };
                    if tag < 2 {
                        expected[at].tags.insert(tag, stored.digest);
                    }
                    store.put_manifest(name, stored.clone(), tags).await.unwrap();
                    let mut waiting = vec![stored.digest];
                    while let Some(digest) = waiting.pop() {
                        let reached = expected[at].members.entry(digest).or_default();
                        *reached = promise.max(*reached);
                        waiting.extend(world.names.get(&digest).into_iter().flatten());
                    }
                }
            }
            9 => {
                let deleted = store.delete_blob(name, digest).await.is_ok();
                let had = expected[at].members.remove(&digest).is_some_and(|until| until > time);
                assert!(deleted || !had, "{context}");
            }
            10 => {
                let tag: Tag = "t0".parse().unwrap();
                let deleted = store.delete_manifest(name, &Reference::Tag(tag)).await.is_ok();
                assert_eq!(deleted, expected[at].tags.remove(&0).is_some(), "{context}");
            }
            11 => {
                let _ = store.delete_manifest(name, &Reference::Digest(stored.digest)).await;
                expected[at].members.remove(&stored.digest);
                expected[at].tags.retain(|_, target| *target != stored.digest);
            }
            12 | 13 => {
                let found = read(&store, name, digest).await;
                if let Some(until) = expected[at].members.get_mut(&digest) {
                    assert!(found.is_some() || *until <= time, "{context}: a promised blob is gone");
                    if found.is_some() {
                        *until = promise.max(*until);
                    }
                }
                assert!(found.is_none_or(|found| found == *blob), "{context}");
            }
            14..17 => drop(collect(&store).await),
            17 | 18 => {
                let passed = GRACE / 3 * u32::try_from(chance.below(4)).unwrap();
                run_for(&store, passed + ANSWER_TIME);
                time += passed + ANSWER_TIME;
            }
            _ => {
                if chance.below(2) == 0 {
                    store.close();
                } else {
                    store.0.manifests.ledger.note_time();
                }
                drop(store);
                store = open();
            }
        }
        // Whatever went: nothing that a tag reaches did.
        for (expected, name) in expected.iter().zip(&repositories) {
            for digest in world.reached(expected) {
                let layout = &store.0.contents.layout;
                let is_there = [Membership::Blob, Membership::Manifest]
                    .into_iter()
                    .any(|kind| layout.member(name, kind, &digest).exists());
                assert!(is_there, "{context}: {digest} of {name} is reached and gone");
            }
        }
    }
    // Quiet: untagged manifests, then their blobs, then nothing more.
    for _ in 0..4 {
        collect_twice(&store).await;
    }
    let closure: BTreeSet<Digest> = expected.iter().flat_map(|expected| world.reached(expected)).collect();
    assert_eq!(contents(&store), closure, "seed {seed}: what is left is not what the tags reach");
    store.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
    assert_tidy(&store);
}

#[tokio::test]
async fn law_h_no_order_of_steps_loses_what_is_promised_or_leaves_what_is_not() {
    for seed in 1..=6 {
        walk(seed, 150).await;
    }
}

#[tokio::test]
#[ignore = "minutes: make torture"]
async fn law_h_at_length() {
    for seed in 100..200 {
        walk(seed, 1500).await;
    }
}
