//! Lines of what was given up, the built-in rule, the look at tags, and the last use of an image.

use super::sets::push_all;
use super::*;
use crate::store::UsedData;
use crate::values::StoringMode;

fn lines(dir: &Path) -> usize {
    let text = std::fs::read_to_string(dir.join("gc/given-up")).unwrap();
    text.lines().filter(|line| line.starts_with('+')).count()
}

#[tokio::test]
async fn a_line_goes_with_its_manifest_whoever_removes_it_and_one_that_a_kill_left_in_the_next_run() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), Some(3));
    push_all(&kept).await;
    kept.run().await;
    let given_up = |kept: &Kept| kept.store.collection().given_up;
    assert_eq!((given_up(&kept), lines(dir.path())), (6, 6));
    let before = std::fs::read(dir.path().join("gc/given-up")).unwrap();
    let own = sets::images(0)[0].clone();
    kept.store.delete_manifest(&repo(ROOT), &Reference::Digest(digest(&own))).await.unwrap();
    assert_eq!((given_up(&kept), lines(dir.path())), (5, 5));
    // The kill: the manifest is gone, and its line is not struck out.
    kept.store.close();
    drop(kept);
    std::fs::write(dir.path().join("gc/given-up"), before).unwrap();
    let kept = Kept::open(dir.path(), Some(3));
    assert_eq!(given_up(&kept), 6);
    kept.run().await;
    assert_eq!((given_up(&kept), lines(dir.path())), (5, 5));
    // All of Local goes.
    kept.store.set_used_data(UsedData { pushed: false, ..UsedData::default() });
    let dropped = kept.store.drop_data(StoringMode::Local, &CancellationToken::new(), &Progress::default()).await;
    assert_eq!(dropped.unwrap().left, None);
    assert_eq!((given_up(&kept), lines(dir.path())), (0, 0));
}

#[tokio::test]
async fn what_a_push_leaves_is_settled_in_two_markings_and_an_image_of_that_name_is_not_taken_for_it() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), None);
    let image = Image::of(8);
    kept.push("team/app", &image, &["d8WriteCheck"]).await;
    for push in 0..3 {
        kept.push(ROOT, &random_image(push), &["d8WriteCheck"]).await;
    }
    let (_, first) = kept.run().await;
    assert_eq!(first.write_checks.len(), 1, "{first:?}");
    assert_eq!((first.suspected.manifests, first.marked), (3, 3), "two for one repository, one for the other");
    kept.run_twice().await;
    assert!(kept.has("team/app", &image).await && kept.tags("team/app").contains("d8WriteCheck"));
    assert!(kept.lacks(ROOT, &random_image(2)));
    // What another tag leads to is not given up.
    kept.push(ROOT, &random_image(9), &["d8WriteCheck", "console"]).await;
    kept.run_twice().await;
    assert!(kept.has(ROOT, &random_image(9)).await);
    assert_eq!(kept.store.collection().given_up, 0);
}

#[tokio::test]
async fn a_look_at_many_tags_sees_each_and_ends_when_it_is_to_stop() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), None);
    let (name, image) = ("team/app", Image::of(1));
    kept.push(name, &image, &["v0"]).await;
    let folder = dir.path().join(format!("repositories/{name}/_tags"));
    for number in 1..1000 {
        std::fs::copy(folder.join("v0"), folder.join(format!("v{number}"))).unwrap();
    }
    let stop = CancellationToken::new();
    let look = kept.store.look_at_tags(&repo(name), &stop).await.unwrap().unwrap();
    assert_eq!(look.tags.len(), 1000);
    assert!(look.tags.is_sorted_by(|one, other| one.tag < other.tag));
    assert!(look.tags.iter().all(|record| record.digest == digest(&image)));
    // Others come between its slices, and one of them may be who stops it.
    let stopping = async {
        tokio::task::yield_now().await;
        stop.cancel();
    };
    let asked = repo(name);
    let (look, ()) = tokio::join!(kept.store.look_at_tags(&asked, &stop), stopping);
    assert!(look.unwrap().is_none());
    let keep = Keep { newest: Some(1), ..Keep::default() };
    let rules = vec![Rule { repositories: "**".parse().unwrap(), keep }];
    kept.retention.set_options(RetentionOptions { keep_releases: None, rules });
    assert_eq!(kept.retention.run(&stop).await.unwrap().going, 0);
    assert_eq!(kept.tags(name).len(), 1000);
}

#[tokio::test]
async fn a_tag_stays_while_its_image_was_pulled_within_the_time_of_a_rule() {
    let dir = quick_dir();
    let kept = Kept::open(dir.path(), None);
    let keep = Keep { pulled_within: Some(Duration::from_secs(3600)), ..Keep::default() };
    let rules = vec![Rule { repositories: "team/*".parse().unwrap(), keep }];
    kept.retention.set_options(RetentionOptions { keep_releases: None, rules });
    let images = [Image::of(1), Image::of(2), Image::of(3)];
    for (image, tag) in images.iter().zip(["pulled", "read", "old"]) {
        kept.push("team/app", image, &[tag]).await;
    }
    let (rules, _) = kept.run().await;
    assert_eq!(rules.going, 0, "they came within it");
    let set_used = |image: &Image, ago: Duration| {
        let hex = hex(image);
        let at = dir.path().join("blobs/sha256").join(&hex[..2]).join(hex);
        let used = std::time::UNIX_EPOCH + Duration::from_millis(clock::now().as_millis()) - ago;
        std::fs::File::options().write(true).open(at).unwrap().set_modified(used).unwrap();
    };
    for image in &images {
        set_used(image, Duration::from_secs(4000));
    }
    // One use is in memory still, the other is on the disk.
    kept.store.note_use(digest(&images[0]));
    set_used(&images[1], Duration::from_secs(3000));
    let (rules, _) = kept.run().await;
    assert_eq!(rules.going_named.iter().map(|going| going.tag.as_str()).collect::<Vec<_>>(), ["old"]);
    let because: BTreeSet<&str> = rules.staying_named.iter().map(|staying| staying.because.as_str()).collect();
    assert_eq!(because, BTreeSet::from(["it was pulled within 1h"]));
}
