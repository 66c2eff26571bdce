//! Whether images are whole, for who only looks.

use testkit::media_type::IMAGE;

use super::cached::{cached, fill};
use super::*;

fn index_of(children: &[&StoredManifest]) -> StoredManifest {
    manifest(&testkit::index(
        &children.iter().map(|child| testkit::descriptor(IMAGE, &child.bytes)).collect::<Vec<_>>(),
    ))
}

fn found(store: &Store, name: &RepoName, image: &StoredManifest) -> Held {
    store.has_image(name, image.digest, &CancellationToken::new()).unwrap()
}

/// Law: it is whole as long as each content of each platform is there, and then only; whoever asks for it hears the same.
#[tokio::test]
async fn an_image_is_whole_while_every_content_of_every_platform_is_there() {
    let (dir, name) = (quick_dir(), repo("a"));
    let store = store(dir.path());
    let blobs: [&[u8]; 5] = [b"config 1", b"config 2", b"shared", b"layer 1", b"layer 2"];
    let (one, two) = (image(blobs[0], &[blobs[2], blobs[3]]), image(blobs[1], &[blobs[2], blobs[4]]));
    let top = index_of(&[&one, &two]);
    for blob in blobs {
        push(&store, &name, blob).await;
    }
    for stored in [&one, &two, &top] {
        store.put_manifest(&name, stored.clone(), Vec::new()).await.unwrap();
    }
    assert_eq!(found(&store, &name, &top), Held::Whole);
    for blob in blobs {
        let digest = sha256(blob);
        store.delete_blob(&name, digest).await.unwrap();
        assert_eq!(found(&store, &name, &top), Held::Lacks(Lack::Blob(digest)));
        assert_eq!(store.missing_references(&name, &top).await.unwrap(), [digest]);
        push(&store, &name, blob).await;
        assert_eq!(found(&store, &name, &top), Held::Whole);
    }
    for (stored, lack) in [(&one, Lack::Manifest(one.digest)), (&two, Lack::Manifest(two.digest)), (&top, Lack::Image)]
    {
        store.delete_manifest(&name, &Reference::Digest(stored.digest)).await.unwrap();
        assert_eq!(found(&store, &name, &top), Held::Lacks(lack));
        store.put_manifest(&name, stored.clone(), Vec::new()).await.unwrap();
        assert_eq!(found(&store, &name, &top), Held::Whole);
    }
    let stopped = CancellationToken::new();
    stopped.cancel();
    assert_eq!(store.has_image(&name, top.digest, &stopped).unwrap(), Held::Stopped);
    assert_tidy(&store);
}

#[tokio::test]
async fn what_is_damaged_is_missing_until_there_is_a_whole_file_of_it_anywhere() {
    let (dir, name, other) = (quick_dir(), repo("a"), repo("b"));
    let store = store(dir.path());
    let (layer, stored) = (vec![7; 5000], image(b"{}", &[&[7; 5000]]));
    for blob in [&b"{}"[..], &layer] {
        push(&store, &name, blob).await;
    }
    store.put_manifest(&name, stored.clone(), Vec::new()).await.unwrap();
    let path = store.0.contents.layout.content(&sha256(&layer));
    File::options().write(true).open(path).unwrap().set_len(100).unwrap();
    assert_eq!(found(&store, &name, &stored), Held::Lacks(Lack::Length(sha256(&layer))));
    assert_eq!(read(&store, &name, sha256(&layer)).await, None);
    assert_eq!(store.damage().contents, 1);
    assert_eq!(found(&store, &name, &stored), Held::Lacks(Lack::Blob(sha256(&layer))));
    push(&store, &other, &layer).await;
    assert_eq!(found(&store, &name, &stored), Held::Whole);
    // Nobody asked for it, so its name still leads to the damaged file.
    assert_eq!(store.damage().contents, 1);
    assert_eq!(read(&store, &name, sha256(&layer)).await, Some(layer));
    assert_tidy(&store);
}

#[tokio::test]
async fn a_cache_has_for_an_image_what_any_of_its_repositories_has_and_local_does_not() {
    let dir = quick_dir();
    let store = store(dir.path());
    let stored = image(b"{}", &[b"layer"]);
    let (mine, others) = ([cached(""), repo("d8")], [cached("other"), repo("d8/other")]);
    for (mine, other) in mine.iter().zip(&others) {
        store.put_manifest(mine, stored.clone(), Vec::new()).await.unwrap();
        assert_eq!(found(&store, mine, &stored), Held::Lacks(Lack::Blob(sha256(b"{}"))));
        for blob in [&b"{}"[..], b"layer"] {
            if other.is_cached() {
                fill(&store, std::slice::from_ref(other), blob).await;
            } else {
                push(&store, other, blob).await;
            }
        }
        let is_whole = found(&store, mine, &stored) == Held::Whole;
        assert_eq!(is_whole, mine.is_cached(), "{mine}");
    }
    let stop = CancellationToken::new();
    let anywhere = |repos: &[RepoName]| store.has_image_in(repos, stored.digest, &stop).unwrap();
    assert_eq!(anywhere(&[repo("d8"), cached("")]), Held::Whole);
    assert_eq!(anywhere(&[repo("d8")]), Held::Lacks(Lack::Blob(sha256(b"{}"))));
    assert_eq!(anywhere(&others), Held::Lacks(Lack::Image));
    let below = |root: &RepoName| {
        let mut found = store.repositories_below(std::slice::from_ref(root), 10);
        found.sort();
        found
    };
    assert_eq!(below(&repo("d8")), [repo("d8"), repo("d8/other")]);
    assert_eq!(below(&cached("")), [cached(""), cached("other")]);
    assert_eq!(below(&repo("d")), [repo("d")]);
    assert_eq!(store.repositories_below(&[repo("d8")], 0), [repo("d8")]);
}
