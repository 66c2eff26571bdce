//! Walks for completeness: shared, bounded, remembered apart from the bytes.

use std::fs;

use futures_util::FutureExt as _;
use serde_json::json;
use testkit::descriptor;
use testkit::media_type::{CONFIG, IMAGE};

use super::*;

/// An image of a configuration alone, with `pad` bytes more.
fn padded(number: usize, pad: usize, config: &[u8]) -> StoredManifest {
    let fields = json!({"annotations": {"n": number.to_string(), "p": "x".repeat(pad)}});
    manifest(&testkit::with(testkit::image(&descriptor(CONFIG, config), &[]), &fields))
}

fn index(children: &[StoredManifest], pad: usize) -> StoredManifest {
    let children: Vec<_> = children.iter().map(|child| descriptor(IMAGE, &child.bytes)).collect();
    manifest(&testkit::with(testkit::index(&children), &json!({"annotations": {"p": "x".repeat(pad)}})))
}

/// A store with an index of `count` children of `pad` bytes; the index itself is larger than what memory keeps.
async fn with_index(dir: &Path, count: usize, pad: usize) -> (Store, RepoName, StoredManifest, Vec<StoredManifest>) {
    let (store, name) = (store(dir), repo("a"));
    push(&store, &name, b"{}").await;
    let children: Vec<_> = (0..count).map(|number| padded(number, pad, b"{}")).collect();
    for child in &children {
        store.put_manifest(&name, child.clone(), Vec::new()).await.unwrap();
    }
    let index = index(&children, 300_000);
    store.put_manifest(&name, index.clone(), Vec::new()).await.unwrap();
    (store, name, index, children)
}

#[tokio::test]
async fn the_verdict_on_a_large_manifest_is_remembered_and_so_are_those_on_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let (store, name, index, children) = with_index(dir.path(), 3, 300_000).await;
    assert_eq!(store.missing_references(&name, &index).await.unwrap(), []);
    // Behind the store's back: who walks finds it missing.
    let path = store.0.contents.layout.member(&name, Membership::Manifest, &children[0].digest);
    let kept = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(store.missing_references(&name, &index).await.unwrap(), []);
    assert_eq!(store.missing_references(&name, &children[0]).await.unwrap(), []);
    // Any delete in the repository ends that.
    let other = push(&store, &name, b"other").await;
    store.delete_blob(&name, other).await.unwrap();
    assert_eq!(store.missing_references(&name, &index).await.unwrap(), [children[0].digest]);
    // That it is not whole is remembered until something comes.
    fs::write(&path, kept).unwrap();
    assert_eq!(store.missing_references(&name, &index).await.unwrap(), [children[0].digest]);
    push(&store, &name, b"another").await;
    assert_eq!(store.missing_references(&name, &index).await.unwrap(), []);
}

#[tokio::test]
async fn those_who_ask_at_once_share_a_walk_and_a_change_begins_another() {
    let dir = tempfile::tempdir().unwrap();
    let (store, name, index, _) = with_index(dir.path(), 3, 10).await;
    let all = store.0.references.first.available_permits();
    let held = store.0.references.first.acquire_many(u32::try_from(all).unwrap()).await.unwrap();
    let mut asking: Vec<_> = (0..50).map(|_| Box::pin(store.missing_references(&name, &index))).collect();
    assert!(asking.iter_mut().all(|asking| asking.as_mut().now_or_never().is_none()));
    assert_eq!(store.0.references.running.len(), 1);
    push(&store, &name, b"new").await;
    let mut later = Box::pin(store.missing_references(&name, &index));
    assert!(later.as_mut().now_or_never().is_none());
    assert_eq!(store.0.references.running.len(), 2, "what came meanwhile counts for who asks now");
    // The walk is nobody's.
    asking.truncate(10);
    drop(held);
    for asking in asking {
        assert_eq!(asking.await.unwrap(), []);
    }
    assert_eq!(later.await.unwrap(), []);
    assert!(store.0.references.running.is_empty());
}

#[tokio::test]
async fn a_long_walk_keeps_no_short_one_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let (store, name, index, children) = with_index(dir.path(), 6, 4 << 20).await;
    let long = store.0.references.long.acquire_many(2).await.unwrap();
    let walks: Vec<_> = (0..20).map(|number| super::walks::index(&children, number)).collect();
    let mut heavy: Vec<_> = walks.iter().map(|index| Box::pin(store.missing_references(&name, index))).collect();
    heavy.push(Box::pin(store.missing_references(&name, &index)));
    for heavy in &mut heavy {
        assert!(heavy.as_mut().now_or_never().is_none());
    }
    assert_eq!(store.missing_references(&name, &padded(100, 10, b"{}")).await.unwrap(), []);
    drop(long);
    for heavy in heavy {
        assert_eq!(heavy.await.unwrap(), []);
    }
}

#[tokio::test]
async fn readers_of_a_large_manifest_share_one_copy() {
    let dir = tempfile::tempdir().unwrap();
    let (store, name, index, _) = with_index(dir.path(), 1, 10).await;
    let reference = Reference::Digest(index.digest);
    let (first, second) = tokio::join!(store.manifest(&name, &reference), store.manifest(&name, &reference));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.bytes, index.bytes);
    assert_eq!(first.bytes.as_ptr(), second.bytes.as_ptr());
    // It is the repository's own affair whether it has it.
    assert!(matches!(store.manifest(&repo("b"), &reference).await, Err(StoreError::ManifestUnknown)));
    let stored = store.manifest_file(&name, index.digest).await.unwrap();
    assert_eq!(content_of(&stored), index.bytes);
}
