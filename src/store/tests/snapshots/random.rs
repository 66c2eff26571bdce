//! Random orders of pushes, deletes, snapshots, restores, collections and kills, against sets.

use std::collections::BTreeMap;

use super::*;
use crate::store::tests::collection::random::Chance;

const BLOBS: usize = 6;
const IMAGES: usize = 4;
const NAMES: [&str; 3] = ["s", "t", "u"];

/// What a repository has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Expected {
    blobs: BTreeSet<Digest>,
    manifests: BTreeSet<Digest>,
    tags: BTreeMap<String, Digest>,
}

impl Expected {
    fn members(&self) -> impl Iterator<Item = Digest> {
        self.blobs.iter().chain(&self.manifests).copied()
    }
}

fn found(store: &Store, name: &RepoName) -> Expected {
    let (layout, skipped) = (&store.0.contents.layout, SkippedEntries::default());
    let members = |kind| Members::new(layout, name, kind, &skipped).collect();
    let tags = Tags::new(layout, name, &skipped).map(|tag| {
        let target = std::fs::read_to_string(layout.tag(name, &tag)).unwrap();
        (tag.to_string(), target.trim_end().parse().unwrap())
    });
    Expected { blobs: members(Membership::Blob), manifests: members(Membership::Manifest), tags: tags.collect() }
}

async fn walk(seed: u64, steps: usize) {
    let (dir, mut chance) = (quick_dir(), Chance(seed));
    let blobs: Vec<Vec<u8>> = (0..BLOBS).map(|number| format!("{{\"n\":{number}}}").into_bytes()).collect();
    let images: Vec<StoredManifest> = (0..IMAGES).map(|n| image(&blobs[n], &[&blobs[(n * 2 + 1) % BLOBS]])).collect();
    let repositories = ["a", "a/b"].map(repo);
    let mut store = store(dir.path());
    let mut expected = [Expected::default(), Expected::default()];
    let mut snapshots: BTreeMap<&str, [Expected; 2]> = BTreeMap::new();
    for step in 0..steps {
        let context = format!("seed {seed}, step {step}");
        let at = chance.below(2);
        let (name, blob, stored) = (&repositories[at], &blobs[chance.below(BLOBS)], &images[chance.below(IMAGES)]);
        let (digest, of) = (sha256(blob), NAMES[chance.below(NAMES.len())]);
        match chance.below(20) {
            0..4 => {
                push(&store, name, blob).await;
                expected[at].blobs.insert(digest);
            }
            4..7 => {
                let to = format!("t{}", chance.below(3));
                store.put_manifest(name, stored.clone(), vec![tag(&to)]).await.unwrap();
                expected[at].manifests.insert(stored.digest);
                expected[at].tags.insert(to, stored.digest);
            }
            7..10 => {
                let deleted = store.delete_blob(name, digest).await.is_ok();
                assert_eq!(deleted, expected[at].blobs.remove(&digest), "{context}");
            }
            10 | 11 => {
                let deleted = store.delete_manifest(name, &Reference::Digest(stored.digest)).await.is_ok();
                assert_eq!(deleted, expected[at].manifests.remove(&stored.digest), "{context}");
                expected[at].tags.retain(|_, target| *target != stored.digest);
            }
            12 => {
                let mounted = store.mount_blob(None, name, digest).await.unwrap();
                let is_there = expected.iter().any(|expected| expected.blobs.contains(&digest));
                assert_eq!(mounted, is_there, "{context}");
                if mounted {
                    expected[at].blobs.insert(digest);
                }
            }
            13 | 14 => match store.create_snapshot(snapshot(of)).await {
                Ok(_) => assert!(snapshots.insert(of, expected.clone()).is_none(), "{context}"),
                Err(SnapshotError::Exists(_)) => assert!(snapshots.contains_key(of), "{context}"),
                Err(error) => panic!("{context}: {error}"),
            },
            15 => {
                let removed = store.remove_snapshot(snapshot(of)).await.is_ok();
                assert_eq!(removed, snapshots.remove(of).is_some(), "{context}");
            }
            16 | 17 => {
                let exact = chance.below(2) == 0;
                let restored = store.restore_snapshot(snapshot(of), Restoring { dry_run: false, exact }).await;
                assert_eq!(restored.is_ok(), snapshots.contains_key(of), "{context}");
                if let (Ok(report), Some(before)) = (restored, snapshots.get(of)) {
                    assert_eq!(report.missing, 0, "{context}");
                    for (now, before) in expected.iter_mut().zip(before) {
                        now.blobs.extend(&before.blobs);
                        now.manifests.extend(&before.manifests);
                        if exact {
                            now.tags.clear();
                        }
                        now.tags.extend(before.tags.clone());
                    }
                }
            }
            18 => {
                collect_twice(&store).await;
                for expected in &mut expected {
                    let kept = images.iter().filter(|image| expected.manifests.contains(&image.digest));
                    let named: BTreeSet<Digest> =
                        kept.flat_map(|image| image.manifest.required_blobs().map(|blob| blob.digest)).collect();
                    expected.blobs.retain(|blob| named.contains(blob));
                }
            }
            _ => {
                if chance.below(2) == 0 {
                    store.close();
                }
                drop(store);
                store = super::store(dir.path());
                store.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
            }
        }
        for (expected, name) in expected.iter().zip(&repositories) {
            assert_eq!(found(&store, name), *expected, "{context}: {name}");
        }
        for (name, kept) in &snapshots {
            let members: BTreeSet<Digest> = kept.iter().flat_map(Expected::members).collect();
            assert_eq!(linked(&store, name), members, "{context}: {name}");
        }
        if step % 5 == 4 {
            assert_tidy(&store);
        }
    }
    assert_tidy(&store);
}

#[tokio::test]
async fn whatever_the_order_each_repository_and_each_snapshot_has_what_the_sets_say() {
    for seed in 1..=4 {
        walk(seed, 60).await;
    }
}

#[tokio::test]
#[ignore = "minutes: make torture"]
async fn whatever_the_order_at_length() {
    for seed in 100..160 {
        walk(seed, 600).await;
    }
}
