//! What lists name by digest is kept, wherever something was given up; where a list can't be read nothing is collected.

use super::sets::{RELEASES, images, push_all};
use super::*;

const CONSOLE: &str = "system/deckhouse/modules/console";

fn rules() -> RetentionOptions {
    let keep = Keep { newest: Some(1), ..Keep::default() };
    RetentionOptions { keep_releases: None, rules: vec![Rule { repositories: "**/modules/*".parse().unwrap(), keep }] }
}

/// A push found the one image of the module there a moment before its tag went: the last version, whose list this says how to
/// read, names it all the same. The image is given up, and a suspect.
async fn named_by_list_alone(kept: &Kept) -> (Image, Image) {
    kept.retention.set_options(rules());
    let image = Image::of(1);
    kept.push(CONSOLE, &image, &[&hex(&image)]).await;
    kept.push(CONSOLE, &module("v1", &[&image]), &["v1.0.0"]).await;
    kept.set_pushed(CONSOLE, "v1.0.0", 1_000_000);
    kept.push(CONSOLE, &module("v2", &[]), &["v2.0.0"]).await;
    let (went, _) = kept.run().await;
    assert_eq!(went.going, 2, "the version and its image");
    let last = module("v3", &[&image]);
    kept.push(CONSOLE, &last, &["v3.0.0"]).await;
    (image, last)
}

/// The file of a blob's bytes.
fn at(dir: &Path, content: &[u8]) -> std::path::PathBuf {
    let hex = testkit::digest(content)["sha256:".len()..].to_owned();
    dir.join("blobs/sha256").join(&hex[..2]).join(hex)
}

#[tokio::test]
async fn what_a_list_names_stays_without_its_tag_whatever_the_rules_are_now() {
    let team: RetentionOptions = RetentionOptions {
        rules: vec![Rule { repositories: "team/*".parse().unwrap(), keep: Keep::default() }],
        keep_releases: None,
    };
    for options in [rules(), RetentionOptions::default(), team] {
        let dir = quick_dir();
        let kept = Kept::open(dir.path(), None);
        let (image, _) = named_by_list_alone(&kept).await;
        // Behind a restart nothing is known, until it is asked.
        kept.store.close();
        drop(kept);
        let kept = Kept::open(dir.path(), None);
        kept.retention.set_options(options.clone());
        kept.store.let_run_for(BEHIND_THE_GRACE);
        let (_, would) = kept.retention.preview_all().await.unwrap();
        let named: Vec<&str> = would.removed.named.iter().map(|content| content.digest.as_str()).collect();
        assert!(!named.is_empty() && !named.contains(&image.digest().as_str()), "{options:?} {named:?}");
        let why = kept.retention.why_kept(digest(&image)).await.unwrap();
        assert_eq!(why[0].because, "a release set that stays names it", "{options:?}");
        for _ in 0..2 {
            kept.run_twice().await;
        }
        assert!(kept.has(CONSOLE, &image).await, "{options:?}");
    }
}

#[tokio::test]
async fn while_a_list_can_not_be_read_nothing_is_collected_where_something_was_given_up() {
    for options in [rules(), RetentionOptions::default()] {
        let dir = quick_dir();
        let kept = Kept::open(dir.path(), None);
        let (image, last) = named_by_list_alone(&kept).await;
        kept.retention.set_options(options.clone());
        let list = last.blobs()[1].clone();
        std::fs::write(at(dir.path(), &list), b"other bytes").unwrap();
        kept.store.let_run_for(BEHIND_THE_GRACE);
        let (would_go, would) = kept.retention.preview_all().await.unwrap();
        let (rules, collected) = kept.run().await;
        for (rules, collected) in [(would_go, would), (rules, collected)] {
            assert_eq!((rules.going, rules.left_alone.len()), (0, 1), "{options:?} {rules:?}");
            assert_eq!((collected.removed.manifests, collected.left_alone.len()), (0, 1), "{options:?} {collected:?}");
            assert_eq!(collected.left_alone[0].reason, rules.left_alone[0].reason);
        }
        assert!(!kept.retention.why_kept(digest(&image)).await.unwrap().is_empty());
        assert!(kept.has(CONSOLE, &image).await);
        // It is noticed in the run in which it can be read again.
        std::fs::write(at(dir.path(), &list), &list).unwrap();
        let (rules, collected) = kept.run().await;
        assert!(rules.left_alone.is_empty() && collected.left_alone.is_empty(), "{rules:?} {collected:?}");
        kept.run_twice().await;
        assert!(kept.has(CONSOLE, &image).await);
    }
}

#[tokio::test]
async fn a_root_is_not_collected_while_a_list_of_it_can_not_be_read_although_no_release_goes_any_more() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), Some(3));
    push_all(&kept).await;
    kept.run().await;
    let own = images(0)[0].clone();
    let last = install("v1.71.0", std::slice::from_ref(&own));
    kept.push(&format!("{ROOT}/install"), &last, &["v1.71.0"]).await;
    kept.retention.set_options(RetentionOptions::default());
    std::fs::write(at(dir.path(), &last.blobs()[1]), b"other bytes").unwrap();
    kept.store.let_run_for(BEHIND_THE_GRACE);
    let (rules, collected) = kept.run().await;
    assert_eq!((rules.left_alone.len(), collected.left_alone.len()), (1, 1), "{rules:?} {collected:?}");
    assert!(kept.has(ROOT, &own).await);
    std::fs::write(at(dir.path(), &last.blobs()[1]), &last.blobs()[1]).unwrap();
    // In the run that finds it mended the rest of the set goes, and in none what the list names.
    kept.retention.set_options(RetentionOptions { keep_releases: Some(4), rules: Vec::new() });
    let (rules, collected) = kept.run().await;
    assert!(rules.left_alone.is_empty() && collected.left_alone.is_empty(), "{rules:?} {collected:?}");
    assert!(collected.removed.manifests > 0);
    kept.run_twice().await;
    assert!(kept.has(ROOT, &own).await);
}

/// A verdict is carried out in the run in which its list can be read again.
#[tokio::test]
async fn a_root_that_is_mended_has_its_verdict_carried_out_in_the_same_run() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), Some(3));
    push_all(&kept).await;
    kept.run().await;
    kept.push_release("v1.72.0", &images(3)).await;
    let list = install("v1.72.0", &images(3)).blobs()[1].clone();
    kept.retention.set_options(RetentionOptions { keep_releases: Some(1), rules: Vec::new() });
    std::fs::write(at(dir.path(), &list), b"other bytes").unwrap();
    assert_eq!(kept.run().await.1.left_alone.len(), 1);
    std::fs::write(at(dir.path(), &list), &list).unwrap();
    let (rules, _) = kept.run().await;
    assert!(rules.going > 0 && rules.left_alone.is_empty(), "{rules:?}");
    assert!(!kept.tags(ROOT).contains(RELEASES[3]));
}

#[tokio::test]
async fn a_run_that_is_stopped_forgets_nothing_of_what_is_kept() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), None);
    let (image, _) = named_by_list_alone(&kept).await;
    kept.retention.run(&CancellationToken::new()).await.unwrap();
    let stopped = CancellationToken::new();
    stopped.cancel();
    kept.retention.run(&stopped).await.unwrap();
    kept.store.let_run_for(BEHIND_THE_GRACE);
    kept.store.collect(&CancellationToken::new(), &Progress::default()).await.unwrap();
    assert!(kept.has(CONSOLE, &image).await);
}
