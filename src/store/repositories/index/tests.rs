use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::oci::{Algorithm, Manifest};

fn fresh(dir: &tempfile::TempDir) -> Index {
    Index::create(&dir.path().join("1")).unwrap()
}

fn repo(name: &str) -> RepoName {
    name.parse().unwrap()
}

fn stored(subject: Option<Digest>, annotation: &str) -> StoredManifest {
    let mut fields = json!({"artifactType": "a/b", "annotations": {"k": annotation}});
    if let Some(digest) = subject {
        fields["subject"] = testkit::descriptor_of(testkit::media_type::IMAGE, digest, 1);
    }
    let text = testkit::with(testkit::index(&[]), &fields).to_string();
    let manifest = Arc::new(Manifest::parse(None, text.as_bytes()).unwrap());
    StoredManifest { digest: Algorithm::Sha256.digest(text.as_bytes()), bytes: text.into(), manifest }
}

fn all_tags(index: &Index, repo: &RepoName, step: usize) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    loop {
        let page = index.tags(repo, all.last().cloned().as_deref(), step).unwrap();
        assert!(page.entries.len() <= step);
        assert!(!page.more || page.entries.len() == step);
        all.extend(page.entries);
        if !page.more {
            return all;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_page_is_what_a_sorted_list_says(
        tags in proptest::collection::btree_set("[a-c_A-C0-9][a-c._-]{0,3}", 0..40),
        last in proptest::option::of("[a-c_A-C0-9~]{0,3}"),
        limit in 0_usize..12,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let index = fresh(&dir);
        let (here, before, after) = (repo("m/m"), repo("m/l"), repo("m/m/m"));
        for tag in &tags {
            index.put_tag(&here, &tag.parse().unwrap()).unwrap();
        }
        for neighbour in [&before, &after] {
            index.put_tag(neighbour, &"b".parse().unwrap()).unwrap();
        }
        let follow: Vec<&String> = tags.iter().filter(|tag| last.as_ref().is_none_or(|last| *tag > last)).collect();
        let page = index.tags(&here, last.as_deref(), limit).unwrap();
        let expected: Vec<&String> = follow.iter().take(limit).copied().collect();
        prop_assert_eq!(page.entries.iter().collect::<Vec<_>>(), expected);
        prop_assert_eq!(page.more, follow.len() > limit);
        prop_assert_eq!(all_tags(&index, &here, limit.max(1)), tags.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn the_count_of_keys_follows_every_history(
        history in proptest::collection::vec((0_u8..4, 0_u8..3, 0_u8..4), 0..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let index = fresh(&dir);
        let mut model: BTreeMap<u8, BTreeSet<String>> = BTreeMap::new();
        let mut repositories = BTreeSet::new();
        for (what, where_, which) in history {
            let name = repo(&format!("r{where_}"));
            let tag: Tag = format!("t{which}").parse().unwrap();
            match what {
                0 => {
                    index.put_tag(&name, &tag).unwrap();
                    model.entry(where_).or_default().insert(tag.to_string());
                }
                1 => {
                    index.remove_tag(&name, &tag).unwrap();
                    model.entry(where_).or_default().remove(tag.as_str());
                }
                2 => {
                    index.put_repository(&name).unwrap();
                    repositories.insert(name.to_string());
                }
                _ => {
                    index.remove_repository(&name).unwrap();
                    repositories.remove(name.as_str());
                }
            }
        }
        let keys = repositories.len() + model.values().map(BTreeSet::len).sum::<usize>();
        prop_assert_eq!(index.keys.load(Ordering::Relaxed), keys as u64);
        for (where_, tags) in model {
            let found = all_tags(&index, &repo(&format!("r{where_}")), 2);
            prop_assert_eq!(found, tags.into_iter().collect::<Vec<_>>());
        }
        let page = index.repositories(None, usize::MAX).unwrap();
        prop_assert_eq!(page.entries, repositories.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn referrers_come_by_subject_with_what_their_list_shows() {
    let dir = tempfile::tempdir().unwrap();
    let index = fresh(&dir);
    let (name, other) = (repo("a"), repo("a/b"));
    let subject = Algorithm::Sha256.digest(b"subject");
    let long = Algorithm::Sha512.digest(b"subject");
    let mut expected: Vec<StoredManifest> = (0..5).map(|i| stored(Some(subject), &i.to_string())).collect();
    for manifest in &expected {
        index.put_manifest(&name, manifest).unwrap();
    }
    index.put_manifest(&name, &stored(Some(long), "elsewhere")).unwrap();
    index.put_manifest(&name, &stored(None, "no subject")).unwrap();
    index.put_manifest(&other, &stored(Some(subject), "of another repository")).unwrap();
    expected.sort_by_key(|stored| stored.digest);

    let found = index.referrers(&name, subject, None, 100).unwrap();
    let whole: Vec<IndexedReferrer> = expected.iter().map(|s| IndexedReferrer::Whole(Referrer::of(s))).collect();
    assert_eq!(found, whole);
    assert_eq!(index.referrers(&name, subject, Some(expected[1].digest), 2).unwrap(), whole[2..4]);

    let descriptor: serde_json::Value = serde_json::from_slice(&Referrer::of(&expected[0]).descriptor).unwrap();
    assert_eq!(descriptor["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(descriptor["digest"], expected[0].digest.to_string());
    assert_eq!(descriptor["size"], expected[0].bytes.len());
    assert_eq!(descriptor["artifactType"], "a/b");
    assert!(descriptor["annotations"]["k"].is_string());

    index.remove_manifest(&name, expected[0].digest, Some(subject)).unwrap();
    assert_eq!(index.referrers(&name, subject, None, 100).unwrap(), whole[1..]);
    assert_eq!(index.referrer_pairs(&name, None, 100).unwrap().len(), 5);
    let page = index.repositories(None, 10).unwrap();
    assert_eq!(page.entries, ["a", "a/b"]);
}

#[test]
fn a_descriptor_too_long_for_the_index_is_left_to_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let index = fresh(&dir);
    let subject = Algorithm::Sha256.digest(b"subject");
    let huge = stored(Some(subject), &"x".repeat(1 << 20));
    index.put_manifest(&repo("a"), &huge).unwrap();
    assert_eq!(index.referrers(&repo("a"), subject, None, 10).unwrap(), [IndexedReferrer::DigestOnly(huge.digest)]);
}

#[test]
fn only_the_sealed_index_opens_and_only_with_its_stamp() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("1");
    let index = fresh(&dir);
    for i in 0..300 {
        index.put_tag(&repo("a"), &format!("t{i}").parse().unwrap()).unwrap();
    }
    index.seal(b"one").unwrap();
    drop(index);
    assert!(matches!(Index::open(&path, b"two"), Err(IndexError::Stale(_))));
    assert!(matches!(Index::open(&dir.path().join("2"), b"one"), Err(IndexError::Disk(_))));
    let index = Index::open(&path, b"one").unwrap();
    assert_eq!(index.keys.load(Ordering::Relaxed), 300);
    assert_eq!(all_tags(&index, &repo("a"), 7).len(), 300);
}

#[test]
fn an_index_that_was_never_sealed_is_stale() {
    let dir = tempfile::tempdir().unwrap();
    drop(fresh(&dir));
    assert!(matches!(Index::open(&dir.path().join("1"), b""), Err(IndexError::Stale(_))));
}

#[test]
fn a_panic_inside_is_an_error_outside() {
    let error = guarded::<()>("test", || panic!("as sled does on {}", "a bad file")).unwrap_err();
    assert!(matches!(error, IndexError::Panicked { message, .. } if message == "as sled does on a bad file"));
}
