//! Runs that end early, are written beside, or have more to do than one may; and pins that come and go meanwhile.

use super::sets::{RELEASES, assert_whole, images, push_all};
use super::*;

const CONSOLE: &str = "system/deckhouse/modules/console";

fn newest_one(repositories: &str) -> RetentionOptions {
    let keep = Keep { newest: Some(1), ..Keep::default() };
    RetentionOptions { keep_releases: None, rules: vec![Rule { repositories: repositories.parse().unwrap(), keep }] }
}

/// The old version of a module with an image of its own and one that the new version needs too, all of them signed.
struct Signed {
    old: Image,
    both: Image,
    v1: Image,
}

async fn push_signed(kept: &Kept) -> Signed {
    kept.retention.set_options(newest_one("**/modules/*"));
    let (old, both, new) = (Image::of(1), Image::of(2), Image::of(3));
    for image in [&old, &both, &new] {
        kept.push(CONSOLE, image, &[&hex(image)]).await;
    }
    let (v1, v2) = (module("v1", &[&old, &both]), module("v2", &[&both, &new]));
    kept.push(CONSOLE, &v1, &["v1.0.0"]).await;
    kept.set_pushed(CONSOLE, "v1.0.0", 1_000_000);
    kept.push(CONSOLE, &v2, &["v2.0.0"]).await;
    for (number, about) in (10..).zip([&old, &both, &new, &v1, &v2]) {
        kept.push(CONSOLE, &Image::of(number), &[&format!("sha256-{}.sig", hex(about))]).await;
    }
    Signed { old, both, v1 }
}

impl Signed {
    /// Nothing of the old version is left, and all of the new one.
    async fn assert_gone(&self, kept: &Kept, place: &str) {
        assert_eq!(kept.tags(CONSOLE).len(), 6, "{place}: {:?}", kept.tags(CONSOLE));
        let signatures = [Image::of(10), Image::of(13)];
        for image in [&self.old, &self.v1].into_iter().chain(&signatures) {
            assert!(kept.lacks(CONSOLE, image), "{place}");
        }
        assert!(kept.has(CONSOLE, &self.both).await, "{place}");
    }
}

#[tokio::test]
async fn a_verdict_of_rules_that_ends_between_any_two_tags_is_carried_out_by_later_runs() {
    let mut ended = 0;
    for place in 0.. {
        let dir = quick_dir();
        let kept = Kept::open(dir.path(), None);
        let signed = push_signed(&kept).await;
        let (looks, going) = kept.verdict(CONSOLE, Way::Rules).await;
        assert_eq!(going.len(), 4, "an image, its version, and a signature of each");
        let Some(begun) = going.get(..place) else { break };
        let retired = kept.store.retire(looks, begun.to_vec(), &CancellationToken::new()).await.unwrap();
        assert_eq!(retired.removed.len(), place);
        ended += 1;
        // Somebody writes before the next tag; what was given up becomes a suspect.
        kept.push(CONSOLE, &Image::of(99), &[]).await;
        for _ in 0..3 {
            kept.run_twice().await;
        }
        signed.assert_gone(&kept, &format!("ended behind {place} tags")).await;
        assert_eq!(kept.store.collection().given_up, 0);
    }
    assert_eq!(ended, 5);
}

#[tokio::test]
async fn while_an_image_is_pinned_a_version_that_names_it_stays_so_that_both_go_with_the_pin() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), None);
    let signed = push_signed(&kept).await;
    kept.pin(&["v0.0.1"], &[digest(&signed.old)]);
    let (rules, _) = kept.run_twice().await;
    assert_eq!(rules.going, 0, "{rules:?}");
    assert!(kept.has(CONSOLE, &signed.old).await && kept.tags(CONSOLE).contains(&hex(&signed.old)));
    assert!(kept.tags(CONSOLE).contains("v1.0.0"));
    kept.pin(&["v0.0.1"], &[]);
    for _ in 0..2 {
        kept.run_twice().await;
    }
    signed.assert_gone(&kept, "no pin").await;
}

#[tokio::test]
async fn a_release_that_is_pinned_between_verdict_and_removal_stays() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), Some(3));
    push_all(&kept).await;
    let (looks, going) = kept.verdict(ROOT, Way::Root).await;
    assert_eq!(going.len(), 6);
    // Pins that are the same, written later, are no reason for another verdict.
    kept.pin(&["v0.0.1"], &[]);
    let one = vec![going[0].clone()];
    let retired = kept.store.retire(looks.clone(), one, &CancellationToken::new()).await.unwrap();
    assert_eq!((retired.removed.len(), retired.touched), (1, false));
    kept.pin(&["v0.0.1", RELEASES[0]], &[]);
    let retired = kept.store.retire(looks, going[1..].to_vec(), &CancellationToken::new()).await.unwrap();
    assert_eq!((retired.removed.len(), retired.touched), (0, true));
    kept.run_twice().await;
    assert_whole(&kept, 0).await;
}

#[tokio::test]
async fn a_release_that_is_pinned_while_a_run_removes_its_tags_keeps_the_rest() {
    // A run may be over before the pins come in between.
    for _ in 0..100 {
        let dir = quick_dir();
        let kept = Kept::open(dir.path(), Some(3));
        push_all(&kept).await;
        let pinned = async {
            while kept.store.collection().removed_tags == 0 {
                tokio::task::yield_now().await;
            }
            kept.pin(&["v0.0.1", RELEASES[0]], &[]);
        };
        let ((rules, _), ()) = tokio::join!(kept.run(), pinned);
        if rules.going == 6 {
            continue;
        }
        let is_kept = |staying: &Staying| staying.tag == RELEASES[0] && staying.because == "it is pinned";
        assert!(rules.staying_named.iter().any(is_kept), "{rules:?}");
        assert!(kept.tags(&format!("{ROOT}/install")).contains(RELEASES[0]));
        kept.run_twice().await;
        for image in images(0) {
            assert!(kept.has(ROOT, &image).await);
        }
        return;
    }
    panic!("no run was met while it removed tags");
}

#[tokio::test]
async fn what_is_more_than_can_be_given_up_at_a_time_goes_in_later_runs() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), Some(3));
    push_all(&kept).await;
    kept.store.give_up_at_most(4);
    let (rules, collected) = kept.run().await;
    assert_eq!((rules.going, rules.waiting, rules.busy), (4, 2, 0), "{rules:?}");
    assert_eq!((kept.store.collection().given_up, collected.suspected.manifests), (4, 4));
    let (rules, _) = kept.run().await;
    assert_eq!((rules.going, rules.waiting), (0, 2), "until there is room");
    for _ in 0..3 {
        kept.run_twice().await;
    }
    assert!(!kept.tags(&format!("{ROOT}/install")).contains(RELEASES[0]));
    for image in &images(0)[..2] {
        assert!(kept.lacks(ROOT, image));
    }
    for number in 1..4 {
        assert_whole(&kept, number).await;
    }
    assert_eq!(kept.run().await.0.waiting, 0);
}
