use serde_json::json;
use testkit::media_type::{CONFIG, LAYER};

use super::*;
use crate::oci::Algorithm;

fn digest(number: u32) -> Digest {
    Algorithm::Sha256.digest(&number.to_le_bytes())
}

fn descriptor(number: u32, media_type: &str) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": digest(number).to_string(), "size": 4 })
}

/// A manifest of these blobs and children; `subject` is named if it is one.
fn manifest(blobs: &[u32], children: &[u32], subject: Option<u32>) -> Manifest {
    let mut manifest = if children.is_empty() {
        let layers: Vec<_> = blobs.iter().skip(1).map(|blob| descriptor(*blob, LAYER)).collect();
        testkit::image(&descriptor(blobs.first().copied().unwrap_or(0), CONFIG), &layers)
    } else {
        let image = "application/vnd.oci.image.manifest.v1+json";
        testkit::index(&children.iter().map(|child| descriptor(*child, image)).collect::<Vec<_>>())
    };
    if let Some(subject) = subject {
        manifest["subject"] = descriptor(subject, "application/vnd.oci.image.manifest.v1+json");
    }
    Manifest::parse(None, &serde_json::to_vec(&manifest).unwrap()).unwrap()
}

type Given<'a> = (u32, &'a [u32], &'a [u32], Option<u32>);

/// Marks a repository of `blobs` and manifests (its number, blobs, children, subject).
fn mark(judges_untagged: bool, blobs: &[u32], manifests: &[Given<'_>], tags: &[(&str, u32)], pins: &[u32]) -> Mark {
    mark_given_up(judges_untagged, &[], blobs, manifests, tags, pins)
}

fn mark_given_up(
    judges_untagged: bool,
    given_up: &[u32],
    blobs: &[u32],
    manifests: &[Given<'_>],
    tags: &[(&str, u32)],
    pins: &[u32],
) -> Mark {
    let mut mark = Mark::new(judges_untagged, given_up.iter().map(|number| digest(*number)).collect());
    blobs.iter().for_each(|blob| mark.add(Membership::Blob, &digest(*blob)));
    manifests.iter().for_each(|given| mark.add(Membership::Manifest, &digest(given.0)));
    mark.seal();
    for (tag, target) in tags {
        assert!(mark.tag(&tag.parse().unwrap(), &digest(*target)), "{tag} leads to nothing");
    }
    pins.iter().for_each(|pin| mark.pin(&digest(*pin)));
    for (number, blobs, children, subject) in manifests {
        mark.read(&digest(*number), &manifest(blobs, children, *subject));
    }
    mark.close();
    mark
}

fn unreached(mark: &Mark, kind: Membership, numbers: impl IntoIterator<Item = u32>) -> Vec<u32> {
    numbers.into_iter().filter(|number| mark.judge(kind, &digest(*number)) == Judgement::Unreached).collect()
}

#[test]
fn what_no_manifest_names_is_unreached_and_untagged_manifests_hold_what_they_name() {
    let manifests: &[Given<'_>] = &[(100, &[1, 2], &[], None), (101, &[3, 4], &[], None), (102, &[], &[101, 5], None)];
    let kept = mark(false, &[1, 2, 3, 4, 5, 6], manifests, &[("v1", 100)], &[]);
    assert_eq!(unreached(&kept, Membership::Blob, 1..=6), [6]);
    assert_eq!(unreached(&kept, Membership::Manifest, 100..=102), [0; 0]);
    assert_eq!(kept.judge(Membership::Blob, &digest(7)), Judgement::Unknown);
    assert_eq!(kept.judge(Membership::Blob, &digest(100)), Judgement::Unknown, "a manifest is no blob");

    let judged = mark(true, &[1, 2, 3, 4, 5, 6], manifests, &[("v1", 100)], &[]);
    assert_eq!(unreached(&judged, Membership::Manifest, 100..=102), [101, 102]);
    assert_eq!(unreached(&judged, Membership::Blob, 1..=6), [6], "they go behind their manifests");
}

#[test]
fn pins_hold_contents_of_either_kind_with_all_below() {
    let manifests: &[Given<'_>] = &[(100, &[1], &[], None), (101, &[], &[100], None), (102, &[2], &[], None)];
    let pinned = mark(true, &[1, 2, 3], manifests, &[], &[101, 3, 9]);
    assert_eq!(unreached(&pinned, Membership::Manifest, 100..=102), [102]);
    assert_eq!(unreached(&pinned, Membership::Blob, 1..=3), [0; 0]);
}

#[test]
fn subjects_hold_their_referrers_and_are_held_by_them() {
    // 101 says something about 100, 102 about 101, 104 about 103; 106 about what is not there.
    let manifests: &[Given<'_>] = &[
        (100, &[1], &[], None),
        (101, &[2], &[], Some(100)),
        (102, &[3], &[], Some(101)),
        (103, &[4], &[], None),
        (104, &[5], &[], Some(103)),
        (105, &[6], &[], None),
        (106, &[7], &[], Some(999)),
    ];
    let of_subject = mark(true, &[], manifests, &[("v1", 100)], &[]);
    assert_eq!(unreached(&of_subject, Membership::Manifest, 100..=106), [103, 104, 105, 106]);
    let of_referrer = mark(true, &[], manifests, &[("attestation", 104)], &[]);
    assert_eq!(unreached(&of_referrer, Membership::Manifest, 100..=106), [100, 101, 102, 105, 106]);
}

#[test]
fn a_tag_of_the_referrers_scheme_is_its_subject_s() {
    let manifests: &[Given<'_>] = &[(100, &[1], &[], None), (101, &[2], &[], None), (102, &[3], &[], None)];
    let (of_100, of_none) = (format!("sha256-{}.sig", digest(100).hex()), format!("sha256-{}", digest(7).hex()));
    let tags = [("v1", 100), (&*of_100, 101), (&*of_none, 102)];
    let judged = mark(true, &[], manifests, &tags, &[]);
    assert_eq!(unreached(&judged, Membership::Manifest, 100..=102), [102]);
    let untagged = mark(true, &[], manifests, &tags[1..], &[]);
    assert_eq!(unreached(&untagged, Membership::Manifest, 100..=102), [100, 101, 102]);
}

#[test]
fn a_tag_that_leads_to_nothing_is_told() {
    let mut mark = Mark::new(false, HashSet::new());
    mark.seal();
    assert!(!mark.tag(&"v1".parse().unwrap(), &digest(1)));
}

/// Law (k). A chain of indexes, each of which names the next one, all before it, itself and one blob: each edge is
/// followed once, so that a thousand times a thousand of them are done.
#[test]
fn nested_and_cyclic_indexes_are_linear() {
    const DEEP: u32 = 1000;
    let children: Vec<Vec<u32>> =
        (0..DEEP).map(|number| (0..=(number + 1).min(DEEP - 1)).chain([DEEP + number]).collect()).collect();
    let manifests: Vec<Given<'_>> =
        children.iter().zip(0..).map(|(children, number)| (number, &[][..], &children[..], None)).collect();
    let blobs: Vec<u32> = (DEEP..2 * DEEP).collect();
    let all = mark(true, &blobs, &manifests, &[("root", 0)], &[]);
    assert_eq!(unreached(&all, Membership::Manifest, 0..DEEP), [0; 0]);
    assert_eq!(unreached(&all, Membership::Blob, DEEP..2 * DEEP), [0; 0]);
    let none = mark(true, &blobs, &manifests, &[], &[]);
    assert_eq!(unreached(&none, Membership::Manifest, 0..DEEP).len(), DEEP as usize, "a circle holds nothing");
}

#[test]
fn more_edges_than_can_be_kept_in_mind_keep_every_manifest() {
    const INDEXES: u32 = 1100;
    let mut mark = Mark::new(true, HashSet::new());
    (0..INDEXES).for_each(|number| mark.add(Membership::Manifest, &digest(number)));
    mark.add(Membership::Blob, &digest(9999));
    mark.seal();
    let all = manifest(&[], &(0..INDEXES).collect::<Vec<_>>(), None);
    (0..INDEXES).for_each(|number| mark.read(&digest(number), &all));
    mark.close();
    assert_eq!(unreached(&mark, Membership::Manifest, 0..INDEXES), [0; 0]);
    assert_eq!(unreached(&mark, Membership::Blob, [9999]), [9999]);
}

/// 100 and 101 share blob 2; 102 is an index of 103 and 104, which 105 names too; 106 says something about 100.
const SETS: &[Given<'_>] = &[
    (100, &[1, 2], &[], None),
    (101, &[2, 3], &[], None),
    (102, &[], &[103, 104], None),
    (103, &[4], &[], None),
    (104, &[5], &[], None),
    (105, &[], &[104], None),
    (106, &[6], &[], Some(100)),
];

#[test]
fn what_was_given_up_is_unreached_with_its_blobs_and_all_that_hangs_on_it() {
    let one = mark_given_up(false, &[100], &[1, 2, 3, 4, 5, 6], SETS, &[], &[]);
    assert_eq!(unreached(&one, Membership::Manifest, 100..=106), [100, 106]);
    assert_eq!(unreached(&one, Membership::Blob, 1..=6), [1], "what was found to hang on it is given up next");
    let both = mark_given_up(false, &[100, 106], &[1, 2, 3, 4, 5, 6], SETS, &[], &[]);
    assert_eq!(unreached(&both, Membership::Blob, 1..=6), [1, 6], "2 is another's too");
    let index = mark_given_up(false, &[102, 103], &[4, 5], SETS, &[], &[]);
    assert_eq!(unreached(&index, Membership::Manifest, 100..=106), [102, 103], "104 is another index's too");
    assert_eq!(unreached(&index, Membership::Blob, 4..=5), [4]);
}

#[test]
fn a_tag_a_pin_a_kept_index_and_a_living_subject_hold_what_was_given_up() {
    let all = [100, 102, 103, 104, 106];
    let none = [0; 0];
    let found = |given_up: &[u32], tags: &[(&str, u32)], pins: &[u32]| {
        let mark = mark_given_up(false, given_up, &[1, 2, 3, 4, 5, 6], SETS, tags, pins);
        (unreached(&mark, Membership::Manifest, 100..=106), unreached(&mark, Membership::Blob, 1..=6))
    };
    assert_eq!(found(&all, &[("v1", 100), ("v2", 102)], &[]), (none.to_vec(), none.to_vec()));
    assert_eq!(found(&all, &[("v1", 100)], &[]), (vec![102, 103], vec![4]), "105 is there and names 104");
    assert_eq!(found(&[100, 106], &[], &[100]), (none.to_vec(), none.to_vec()), "its pin");
    assert_eq!(found(&[106], &[], &[]), (none.to_vec(), none.to_vec()), "its subject lives");
    assert_eq!(found(&[104], &[], &[]), (none.to_vec(), none.to_vec()), "indexes that are there");
}

#[test]
fn where_untagged_manifests_are_judged_only_what_was_given_up_loses_its_blobs_with_itself() {
    let mark = mark_given_up(true, &[100], &[1, 2, 3, 4], SETS, &[("v2", 101)], &[]);
    assert_eq!(unreached(&mark, Membership::Manifest, 100..=106), [100, 102, 103, 104, 105, 106]);
    assert_eq!(unreached(&mark, Membership::Blob, 1..=4), [1]);
}
