//! Restores and pushes that end half-way over what was deleted before. The points are compiled in by the feature `failpoints`.

use fail::FailScenario;

use super::masters::assert_true;
use super::*;

#[tokio::test]
async fn a_restore_that_ends_at_any_step_is_not_undone_by_what_was_deleted_before() {
    let scenario = FailScenario::setup();
    let names = ["v1", "v2", "v3"];
    let points = [
        "store::snapshot::after_member",
        "1*off->store::snapshot::after_member",
        "store::snapshot::after_tag",
        "1*off->store::snapshot::after_tag",
        "store::record::before_append",
    ];
    for point in points {
        let dir = tempfile::tempdir().unwrap();
        let first = store(dir.path());
        first.keep_records().unwrap();
        for (number, name) in (1..).zip(names) {
            first.put_manifest(&repo("a"), numbered(number), vec![name.parse().unwrap()]).await.unwrap();
        }
        first.create_snapshot("s".parse().unwrap()).await.unwrap();
        for number in 1..=3 {
            first.delete_manifest(&repo("a"), &Reference::Digest(numbered(number).digest)).await.unwrap();
        }
        let deleted = first.record(&repo("a"), &Reference::Tag("v1".parse().unwrap())).await.unwrap().unwrap();
        // Of the clock by which files are timed, too.
        while crate::clock::now().as_millis() <= deleted.wall().as_millis() + 20 {}
        let (actions, name) = point.split_once("->").map_or(("panic", point), |(_, name)| ("1*off->panic", name));
        fail::cfg(name, actions).unwrap();
        let ended = first.restore_snapshot("s".parse().unwrap(), Restoring::default()).await;
        fail::remove(name);
        assert!(ended.is_err(), "{point}");
        drop(first);

        let second = store(dir.path());
        second.read_records(CancellationToken::new()).await.unwrap();
        assert_true(&second).await;
        // Tags that came back stay.
        if name.ends_with("after_tag") {
            let is_there =
                async |name: &&str| second.manifest(&repo("a"), &Reference::Tag(name.parse().unwrap())).await.is_ok();
            let mut back = 0;
            for name in &names {
                back += usize::from(is_there(name).await);
            }
            assert_eq!(back, if point == name { 1 } else { 2 }, "{point}");
        }
        second.restore_snapshot("s".parse().unwrap(), Restoring::default()).await.unwrap();
        for name in names {
            let said = second.record(&repo("a"), &Reference::Tag(name.parse().unwrap())).await.unwrap().unwrap();
            assert!(said.target().is_some() && said.is_later(&deleted), "{point} {name}");
        }
        assert_true(&second).await;
        assert_tidy(&second);
    }
    scenario.teardown();
}

#[tokio::test]
async fn a_push_again_of_what_was_deleted_that_ends_before_it_is_said_counts_by_its_tag_alone() {
    let scenario = FailScenario::setup();
    for tags in [&["v1"][..], &[]] {
        let dir = tempfile::tempdir().unwrap();
        let (first, image) = (store(dir.path()), numbered(1));
        let of = Reference::Digest(image.digest);
        first.keep_records().unwrap();
        first.put_manifest(&repo("a"), image.clone(), vec!["v1".parse().unwrap()]).await.unwrap();
        first.delete_manifest(&repo("a"), &of).await.unwrap();
        let deleted = first.record(&repo("a"), &of).await.unwrap().unwrap();
        while crate::clock::now().as_millis() <= deleted.wall().as_millis() + 20 {}
        fail::cfg("store::record::before_push", "panic").unwrap();
        let tags: Vec<_> = tags.iter().map(|name| name.parse().unwrap()).collect();
        let is_tagged = !tags.is_empty();
        let pushed = first.put_manifest(&repo("a"), image, tags).await;
        fail::remove("store::record::before_push");
        assert!(pushed.is_err());
        drop(first);

        let second = store(dir.path());
        second.read_records(CancellationToken::new()).await.unwrap();
        assert_true(&second).await;
        let said = second.record(&repo("a"), &of).await.unwrap().unwrap();
        assert_eq!((said.target().is_some(), said.is_later(&deleted)), (is_tagged, is_tagged));
        assert_eq!(second.manifest(&repo("a"), &of).await.is_ok(), is_tagged);
        assert_tidy(&second);
    }
    scenario.teardown();
}
