//! The list on disk, and what is damaged beside contents.

use super::*;

#[tokio::test]
async fn the_folder_is_the_list() {
    let dir = quick_dir();
    let opened = store(dir.path());
    let (name, blob) = (repo("a"), bytes(90_000, 3));
    let digest = push(&opened, &name, &blob).await;
    // Found by an administrator's own hash, and named by hand.
    std::fs::create_dir_all(opened.0.contents.layout.damaged_of(Algorithm::Sha256)).unwrap();
    let by_hand = opened.0.contents.layout.damaged(&digest, "by-hand");
    std::fs::hard_link(opened.0.contents.layout.content(&digest), &by_hand).unwrap();
    look_after(&opened);
    assert!(content(&opened, &name, digest).await.is_none());
    // What is no entry harms nothing.
    let folder = opened.0.contents.layout.damaged_of(Algorithm::Sha256);
    std::fs::write(folder.join("nonsense"), b"").unwrap();
    std::fs::create_dir(opened.0.contents.layout.damaged(&digest, "folder")).unwrap();
    drop(opened);
    let opened = store(dir.path());
    assert!(content(&opened, &name, digest).await.is_none());
    // Taken off by hand, it is what it was.
    std::fs::remove_file(by_hand).unwrap();
    look_after(&opened);
    assert!(content(&opened, &name, digest).await.unwrap() == blob);
    drop(opened);
    // A list that can't be read is no list.
    std::fs::remove_dir_all(dir.path().join("damaged")).unwrap();
    std::fs::create_dir(dir.path().join("damaged")).unwrap();
    std::fs::write(dir.path().join("damaged/sha256"), b"not a folder").unwrap();
    let opened = store(dir.path());
    assert!(content(&opened, &name, digest).await.unwrap() == blob);
    // It can't be written either: what is found counts all the same, and is noted when it can be.
    Harm::Cut.strike_at(&opened.0.contents.layout.member(&name, Membership::Blob, &digest));
    opened.0.contents.damage.learn(&image(&blob, &[]).manifest);
    assert!(content(&opened, &name, digest).await.is_none());
    std::fs::remove_file(dir.path().join("damaged/sha256")).unwrap();
    look_after(&opened);
    assert_eq!(damaged_names(&opened).len(), 1);
    drop(opened);
    let store = store(dir.path());
    store.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
    assert!(content(&store, &name, digest).await.is_none());
    push(&store, &name, &blob).await;
    assert_tidy(&store);
}

#[tokio::test]
async fn a_copy_of_the_tree_without_links_is_not_misled() {
    let dir = quick_dir();
    let opened = store(dir.path());
    let digest = push(&opened, &repo("a"), b"content").await;
    Harm::Flipped.strike(&opened, &digest);
    assert!(content(&opened, &repo("a"), digest).await.is_none());
    drop(opened);
    // Every name a file of its own, and the number of the damaged one may be another's now.
    for path in [
        Layout::new(dir.path()).member(&repo("a"), Membership::Blob, &digest),
        damaged_names(&store(dir.path())).remove(0),
    ] {
        let copied = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, copied).unwrap();
    }
    let store = store(dir.path());
    store.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
    assert!(content(&store, &repo("a"), digest).await.is_none(), "hashed again");
    push(&store, &repo("a"), b"content").await;
    look_after(&store);
    assert_tidy(&store);
}

#[tokio::test]
async fn unreadable_tags_and_lists_are_asked_for_again_and_what_is_left_of_a_fill_begins_anew() {
    let dir = quick_dir();
    let store = store(dir.path());
    let name = RepoName::cached(UpstreamId::of("registry.example.com", "x"), "a").unwrap();
    let tags: [Tag; 2] = ["t".parse().unwrap(), "u".parse().unwrap()];
    store.put_manifest(&name, image(b"{}", &[]), tags.to_vec()).await.unwrap();
    for damage in [&b""[..], b"sha256:12", b"\xff\xfe"] {
        std::fs::write(store.0.contents.layout.tag(&name, &tags[0]), damage).unwrap();
        assert_eq!(store.verified_tag(&name, &tags[0]).await.unwrap(), None);
    }
    assert!(store.verified_tag(&name, &tags[1]).await.unwrap().is_some());
    // Nor does it keep anything from being evicted.
    store.evict(Eviction { need: u64::MAX, spare: Spare::Tagged, ..Eviction::default() }).await.unwrap();
    store.keep_list(&name, ListKind::Tags, Bytes::from_static(b"[\"t\"]")).await.unwrap();
    assert!(store.kept_list(&name, ListKind::Tags).await.unwrap().is_some());
    for damage in [&b""[..], b"[\"t", b"{}", b"\0\0\0\0\0"] {
        std::fs::write(store.0.contents.layout.list(&name, ListKind::Tags), damage).unwrap();
        assert!(store.kept_list(&name, ListKind::Tags).await.unwrap().is_none());
    }
    assert_eq!(store.damage().found[DamageCause::List as usize], 4);
    assert_eq!(store.damage().found[DamageCause::Tag as usize], 4);
    assert_eq!(store.damage().contents, 0);
}
