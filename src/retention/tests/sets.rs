//! What goes and what stays, case by case.

use super::*;

/// Four releases: each has an image of its own, one that it shares with the next one, and one that all share.
pub(super) fn images(number: u64) -> Vec<Image> {
    vec![Image::of(100 + number), Image::of(200 + number), Image::of(200 + number + 1), Image::of(300)]
}

pub(super) const RELEASES: [&str; 4] = ["v1.68.9", "v1.69.0", "v1.70.0", "v1.70.1"];

pub(super) async fn push_all(kept: &Kept) {
    for (number, release) in (0..).zip(RELEASES) {
        kept.push_release(release, &images(number)).await;
    }
}

/// Everything of a set is there, under every name that nodes and Deckhouse ask for.
pub(super) async fn assert_whole(kept: &Kept, number: u64) {
    let release = RELEASES[usize::try_from(number).unwrap()];
    for image in images(number) {
        assert!(kept.has(ROOT, &image).await, "{release}");
        assert!(kept.tags(ROOT).contains(&hex(&image)), "{release}");
    }
    for name in [ROOT.to_owned(), format!("{ROOT}/install"), format!("{ROOT}/install-standalone")] {
        assert!(kept.tags(&name).contains(release), "{name}:{release}");
    }
    assert!(kept.has(ROOT, &platform(release)).await);
}

#[tokio::test]
async fn a_dropped_set_has_its_bytes_free_behind_the_grace_with_default_settings() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), Some(3));
    push_all(&kept).await;
    let preview = kept.retention.preview().await.unwrap();
    let (rules, collected) = kept.run().await;
    assert_eq!(
        preview,
        RetentionReport { dry_run: true, estimate: preview.estimate, ..rules.clone() },
        "a preview names what goes"
    );
    let estimate = preview.estimate.unwrap();
    let gone: BTreeSet<(&str, &str)> =
        rules.going_named.iter().map(|going| (going.repository.as_str(), going.tag.as_str())).collect();
    let own = images(0);
    let (install, standalone_, channels) =
        (format!("{ROOT}/install"), format!("{ROOT}/install-standalone"), format!("{ROOT}/release-channel"));
    let (first, second) = (hex(&own[0]), hex(&own[1]));
    let wanted = [(ROOT, &*first), (ROOT, &*second), (ROOT, "v1.68.9"), (&*install, "v1.68.9")];
    assert_eq!(
        gone,
        wanted.into_iter().chain([(&*standalone_, "v1.68.9"), (&*channels, "v1.68.9")]).collect::<BTreeSet<_>>()
    );
    assert_eq!(rules.going_named.last().unwrap().repository, install, "its list goes last");
    assert_eq!(collected.removed.manifests, 0);
    assert_eq!(collected.suspected.manifests, 6);
    kept.store.let_run_for(BEHIND_THE_GRACE);
    let (_, collected) = kept.run().await;
    assert_eq!(collected.removed.manifests, 6);
    assert_eq!(collected.removed.blobs, 12, "two of each, in its repository");
    let Contents { manifests, blobs, bytes, .. } = &collected.removed;
    // Of a configuration that two repositories lose it knows the bytes of none.
    assert_eq!(estimate, Estimate { manifests: *manifests, blobs: *blobs, bytes: bytes - RELEASES[0].len() as u64 });
    for image in &own[..2] {
        assert!(kept.lacks(ROOT, image));
    }
    for number in 1..4 {
        assert_whole(&kept, number).await;
    }
    let (rules, collected) = kept.run_twice().await;
    assert_eq!((rules.going, collected.removed.manifests, collected.suspected.blobs), (0, 0, 0), "done");
    assert_eq!(kept.store.collection().given_up, 0);
}

#[tokio::test]
async fn what_is_pinned_and_what_a_channel_leads_to_stays() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), Some(1));
    push_all(&kept).await;
    kept.push(&format!("{ROOT}/release-channel"), &channel("v1.69.0"), &["stable"]).await;
    kept.pin(&["v1.68.9"], &[digest(&images(2)[0])]);
    let (rules, _) = kept.run_twice().await;
    let because = |release: &str| {
        let staying = rules.staying_named.iter().find(|staying| staying.tag == release);
        staying.map(|staying| staying.because.clone()).unwrap_or_default()
    };
    assert_eq!(because("v1.70.1"), "it is among the newest 1");
    assert_eq!(because("v1.69.0"), "channel stable leads to it");
    assert_eq!(because("v1.68.9"), "it is pinned");
    for number in [0, 1, 3] {
        assert_whole(&kept, number).await;
    }
    assert!(!kept.tags(ROOT).contains("v1.70.0"));
    assert!(kept.has(ROOT, &images(2)[0]).await && kept.tags(ROOT).contains(&hex(&images(2)[0])), "it is pinned");
    assert!(kept.tags(&format!("{ROOT}/install")).contains("v1.70.0"), "its list stays while an image of it is pinned");
    kept.pin(&["v1.68.9"], &[]);
    kept.run_twice().await;
    assert!(kept.lacks(ROOT, &images(2)[0]) && !kept.tags(&format!("{ROOT}/install")).contains("v1.70.0"));
    // Moved to another release, which was pushed under its own tag before, the channel lets the one before go.
    kept.push(&format!("{ROOT}/release-channel"), &channel("v1.70.1"), &["stable"]).await;
    let (rules, _) = kept.run_twice().await;
    assert!(rules.going_named.iter().all(|going| going.because.contains("v1.69.0")) && rules.going > 0);
    assert!(kept.lacks(ROOT, &images(1)[0]));
}

#[tokio::test]
async fn without_pins_that_can_be_gone_by_nothing_goes() {
    let old = Timestamp::from_millis(clock::now().as_millis() - 90_000_000);
    let releases = BTreeSet::from(["v1.70.1".parse().unwrap()]);
    let of_yesterday = Pins { written_at: old, releases, images: BTreeSet::new() };
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), Some(1));
    push_all(&kept).await;
    let before = kept.tags(ROOT);
    for found in [
        FoundPins::Unset,
        FoundPins::Missing,
        FoundPins::Unreadable("no digest".to_owned()),
        FoundPins::Read(Arc::new(of_yesterday)),
        FoundPins::Read(Arc::new(Pins::none(clock::now()))),
    ] {
        kept.store.set_pins(found.clone());
        let (rules, collected) = kept.run_twice().await;
        assert!(rules.pins_unusable.is_some() && rules.going == 0, "{found:?}");
        assert_eq!((collected.removed.manifests, kept.tags(ROOT)), (0, before.clone()), "{found:?}");
    }
    kept.pin(&["v1.70.1"], &[]);
    kept.store.hold_collection(true);
    assert_eq!(kept.run().await.0.going, 0, "while another mode is in force, coming or not over");
    kept.store.hold_collection(false);
    assert!(kept.run().await.0.going > 0);
}

#[tokio::test]
async fn a_root_with_damage_or_a_list_that_can_not_be_read_has_no_verdict() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), Some(1));
    push_all(&kept).await;
    let layer = install(RELEASES[3], &images(3)).blobs()[1].clone();
    let at = |content: &[u8]| {
        let hex = testkit::digest(content)["sha256:".len()..].to_owned();
        dir.path().join("blobs/sha256").join(&hex[..2]).join(hex)
    };
    std::fs::write(at(&layer), b"other bytes").unwrap();
    let (rules, _) = kept.run_twice().await;
    assert_eq!((rules.going, rules.left_alone.len()), (0, 1));
    assert!(rules.left_alone[0].reason.starts_with("what v1.70.1 needs is not known"), "{rules:?}");
    std::fs::write(at(&layer), &layer).unwrap();
    // A manifest of the root that is no manifest.
    let manifest = images(3)[0].manifest().to_vec();
    std::fs::write(at(&manifest), b"{}").unwrap();
    let (rules, _) = kept.run_twice().await;
    assert_eq!((rules.going, rules.left_alone.len()), (0, 1), "{rules:?}");
    kept.push(ROOT, &images(3)[0], &[&hex(&images(3)[0])]).await;
    assert!(kept.run().await.0.going > 0, "mended");
}

#[tokio::test]
async fn a_tag_that_is_pushed_between_verdict_and_removal_stays() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), Some(3));
    push_all(&kept).await;
    let stop = CancellationToken::new();
    for pushed_in in [ROOT.to_owned(), format!("{ROOT}/install")] {
        let (mut looks, going) = kept.verdict(ROOT, Way::Root).await;
        looks.truncate(2);
        assert!(going.contains(&(repo(ROOT), tag("v1.68.9"))));
        kept.push(&pushed_in, &Image::of(7), &["pushed"]).await;
        let retired = kept.store.retire(looks, vec![(repo(ROOT), tag("v1.68.9"))], &stop).await.unwrap();
        assert!(retired.touched && retired.removed.is_empty(), "{pushed_in}");
        assert!(kept.tags(ROOT).contains("v1.68.9"));
        assert_eq!(kept.store.collection().given_up, 0, "what was not removed is not given up");
    }
}

/// A push finds an image there, the verdict takes its tag, the push goes on without it: what its list names stays.
#[tokio::test]
async fn what_a_new_set_names_stays_although_its_tag_went_a_moment_before() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), Some(1));
    push_all(&kept).await;
    let shared = images(0)[0].clone();
    let name = Reference::Tag(tag(&hex(&shared)));
    assert!(kept.store.manifest(&repo(ROOT), &name).await.is_ok());
    kept.run().await;
    assert!(kept.store.manifest(&repo(ROOT), &name).await.is_err());
    let release = "v1.71.0";
    kept.push(ROOT, &platform(release), &[release]).await;
    kept.push(&format!("{ROOT}/install"), &install(release, std::slice::from_ref(&shared)), &[release]).await;
    kept.run_twice().await;
    kept.run_twice().await;
    assert!(kept.has(ROOT, &shared).await);
    let why = kept.retention.why_kept(digest(&shared)).await.unwrap();
    assert_eq!(why[0].because, "a release set that stays names it");
}

#[tokio::test]
async fn who_asks_for_what_was_given_up_begins_its_grace_anew_and_who_pushes_it_keeps_it() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), Some(3));
    push_all(&kept).await;
    let [asked, pushed, ..] = &images(0)[..] else { panic!("four images") };
    kept.run().await;
    kept.store.let_run_for(BEHIND_THE_GRACE - Duration::from_secs(1));
    assert!(kept.store.manifest(&repo(ROOT), &Reference::Digest(digest(asked))).await.is_ok());
    kept.push(ROOT, pushed, &[]).await;
    kept.store.let_run_for(Duration::from_secs(1));
    kept.run().await;
    assert!(kept.has(ROOT, asked).await && kept.has(ROOT, pushed).await);
    kept.run_twice().await;
    assert!(kept.lacks(ROOT, asked), "its grace is over again");
    assert!(kept.has(ROOT, pushed).await, "manifests without a tag stay");
}

#[tokio::test]
async fn a_hex_tag_in_no_set_and_an_attestation_of_what_stays_stay() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), Some(3));
    push_all(&kept).await;
    let (alone, of_gone, of_kept) = (Image::of(900), Image::of(901), Image::of(902));
    kept.push(ROOT, &alone, &[&hex(&alone)]).await;
    let att = |image: &Image| format!("sha256-{}.att", hex(image));
    kept.push(ROOT, &of_gone, &[&att(&images(0)[0])]).await;
    kept.push(ROOT, &of_kept, &[&att(&images(3)[0])]).await;
    kept.run_twice().await;
    assert!(kept.has(ROOT, &alone).await && kept.has(ROOT, &of_kept).await);
    assert!(kept.lacks(ROOT, &of_gone));
    assert!(kept.tags(ROOT).contains(&att(&images(3)[0])) && !kept.tags(ROOT).contains(&att(&images(0)[0])));
}

/// The built-in rule: a push leaves its write check, and moves the tags of its lists of names to new random images.
#[tokio::test]
async fn what_a_push_leaves_of_random_images_goes_without_any_setting() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), None);
    kept.store.set_pins(FoundPins::Unset);
    let modules = format!("{ROOT}/modules");
    for push in 0..3 {
        kept.push(ROOT, &random_image(push), &["d8WriteCheck"]).await;
        kept.push(&modules, &random_image(100 + push), &["console"]).await;
    }
    let untagged = Image::of(5);
    kept.push(ROOT, &untagged, &[]).await;
    let (_, first) = kept.run().await;
    assert_eq!((first.write_checks.len(), first.suspected.manifests), (1, 5));
    kept.store.let_run_for(BEHIND_THE_GRACE);
    let (_, second) = kept.run().await;
    assert_eq!((second.removed.manifests, second.removed.blobs), (5, 10), "{second:?}");
    assert!(kept.has(&modules, &random_image(102)).await, "names are listed by it");
    assert!(kept.has(ROOT, &untagged).await, "other manifests without a tag stay");
    assert_eq!(kept.tags(ROOT), BTreeSet::new());
}

#[tokio::test]
async fn rules_keep_by_name_and_number_and_the_union_of_all_keeps_wins() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), None);
    let rule = |repositories: &str, keep: Keep| Rule { repositories: repositories.parse().unwrap(), keep };
    let rules = vec![
        rule("team/*", Keep { newest: Some(1), ..Keep::default() }),
        rule("team/**", Keep { matching: vec!["v*".parse().unwrap()], ..Keep::default() }),
        rule("fresh", Keep { pushed_within: Some(Duration::from_secs(3600)), ..Keep::default() }),
    ];
    kept.retention.set_options(RetentionOptions { keep_releases: None, rules });
    for (number, name) in (0..).zip(["v1", "one", "two", "three"]) {
        for repo in ["team/a", "team/a/b", "other", "fresh"] {
            kept.push(repo, &Image::of(number), &[name]).await;
            kept.set_pushed(repo, name, 1_000_000 + number);
        }
    }
    kept.push("fresh", &Image::of(9), &["now"]).await;
    kept.pin(&["v0.0.1"], &[digest(&Image::of(1))]);
    kept.run_twice().await;
    let tags = |name: &str| kept.tags(name).into_iter().collect::<Vec<String>>();
    assert_eq!(tags("team/a"), ["one", "three", "v1"], "pinned, newest, matching");
    assert_eq!(tags("team/a/b"), ["one", "v1"], "the first rule is not for it");
    assert_eq!(tags("other").len(), 4, "no rule");
    assert_eq!(tags("fresh"), ["now", "one"]);
    assert!(kept.lacks("team/a", &Image::of(2)) && kept.has("other", &Image::of(2)).await);
}

/// As in the repository of a module: its images are tagged by their hex digits, and its versions' images name them.
#[tokio::test]
async fn a_hex_tag_goes_with_the_last_image_that_names_it() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), None);
    let name = format!("{ROOT}/modules/console");
    let keep = Keep { newest: Some(1), ..Keep::default() };
    let rule = Rule { repositories: "**/modules/*".parse().unwrap(), keep };
    kept.retention.set_options(RetentionOptions { keep_releases: None, rules: vec![rule] });
    let (old, both, new, none) = (Image::of(1), Image::of(2), Image::of(3), Image::of(4));
    for image in [&old, &both, &new, &none] {
        kept.push(&name, image, &[&hex(image)]).await;
    }
    kept.push(&name, &module("v1", &[&old, &both]), &["v1.0.0"]).await;
    kept.set_pushed(&name, "v1.0.0", 1_000_000);
    kept.push(&name, &module("v2", &[&both, &new]), &["v2.0.0"]).await;
    kept.run_twice().await;
    assert_eq!(
        kept.tags(&name),
        [hex(&both), hex(&new), hex(&none), "v2.0.0".to_owned()].into_iter().collect::<BTreeSet<_>>()
    );
    assert!(kept.lacks(&name, &old) && kept.has(&name, &none).await);
}
