//! What must hold when something fails half-way or two things happen at once.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;

use super::super::contents::changes::blocking_run;
use super::*;
use crate::oci::{Reference, Tag};

/// The membership's folder can't be made: a file is in its way.
fn block_links(store: &Store, name: &RepoName) -> std::path::PathBuf {
    let way = store.0.contents.layout.members(name, Membership::Blob, Algorithm::Sha256);
    std::fs::create_dir_all(way.parent().unwrap()).unwrap();
    std::fs::write(&way, b"").unwrap();
    way
}

#[tokio::test]
async fn an_upload_whose_link_failed_never_writes_into_a_stored_content() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let name = repo("a");
    let way = block_links(&store, &name);
    let digest = sha256(b"content");
    let mut session = store.begin_upload(&name, None, None).await.unwrap();
    let id = session.id();
    session.append(vec![Bytes::from_static(b"content")]).await.unwrap();
    assert!(session.finish(digest).await.is_err());
    std::fs::remove_file(way).unwrap();
    // Another repository gets the same content, then the client of the failed upload goes on.
    push(&store, &repo("b"), b"content").await;
    if let Ok(mut session) = store.resume_upload(&name, id).await {
        let _ = session.append(vec![Bytes::from_static(b"more")]).await;
        drop(session);
        let _ = store.cancel_upload(&name, id).await;
    }
    assert_eq!(read(&store, &repo("b"), digest).await.as_deref(), Some(&b"content"[..]));
    store.delete_blob(&repo("b"), digest).await.unwrap();
    assert_tidy(&store);
}

#[tokio::test]
async fn a_finish_that_failed_leaves_no_content_of_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let way = block_links(&store, &repo("a"));
    assert!(push_as(&store, &repo("a"), b"content", sha256(b"content")).await.is_err());
    std::fs::remove_file(way).unwrap();
    let _ = store.0.maintenance.reap(Timestamp::from_millis(u64::MAX));
    assert_eq!(store.usage().used, Some(0));
    assert_tidy(&store);
}

#[tokio::test]
async fn a_count_that_failed_can_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path());
    for i in 0..50u8 {
        push(&first, &repo("a"), &[i; 10]).await;
    }
    drop(first);
    let second = store(dir.path());
    let last = second.0.contents.layout.content_folder(Algorithm::Sha512, 255);
    std::fs::remove_dir(&last).unwrap();
    assert!(second.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).is_err());
    std::fs::create_dir(&last).unwrap();
    second.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
    assert_eq!(second.usage().used, Some(500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_take_up_an_upload_of_before_meet_the_same_one() {
    for _ in 0..20 {
        let dir = quick_dir();
        let first = store(dir.path());
        let name = repo("a");
        let mut session = first.begin_upload(&name, None, None).await.unwrap();
        let id = session.id();
        let content = vec![7; 3 << 20];
        session.append(vec![Bytes::from(content.clone())]).await.unwrap();
        drop((session, first));
        let store = store(dir.path());
        let mut asking = tokio::task::JoinSet::new();
        {
            let (store, name, digest) = (store.clone(), name.clone(), sha256(&content));
            asking.spawn(async move {
                store.resume_upload(&name, id).await.unwrap().finish(digest).await.unwrap();
            });
        }
        for _ in 0..8 {
            let (store, name) = (store.clone(), name.clone());
            asking.spawn(async move { drop(store.upload_offset(&name, id).await) });
        }
        while let Some(asked) = asking.join_next().await {
            asked.unwrap();
        }
        assert!(matches!(store.upload_offset(&name, id).await, Err(StoreError::UploadUnknown)), "a ghost is left");
        assert!(store.resume_upload(&name, id).await.is_err(), "a ghost can be written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_moves_is_never_missing_and_never_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let name = repo("a");
    let tag: Tag = "t".parse().unwrap();
    store.put_manifest(&name, numbered(0), vec![tag.clone()]).await.unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (store, name, ended, tag) = (store.clone(), name.clone(), Arc::clone(&ended), tag.clone());
        readers.spawn(async move {
            let mut seen = 0;
            while !ended.load(Ordering::Relaxed) {
                let stored = store.manifest(&name, &Reference::Tag(tag.clone())).await.unwrap();
                let now: u64 = stored.manifest.annotations["number"].parse().unwrap();
                assert!(now >= seen, "{now} after {seen}");
                seen = now;
                tokio::task::yield_now().await;
            }
        });
    }
    for i in 1..300 {
        store.put_manifest(&name, numbered(i), vec![tag.clone()]).await.unwrap();
        store.delete_manifest(&name, &Reference::Digest(numbered(i - 1).digest)).await.unwrap();
    }
    ended.store(true, Ordering::Relaxed);
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
}

#[tokio::test]
async fn a_close_waits_for_what_outlived_its_request() {
    for _ in 0..20 {
        let dir = quick_dir();
        let opened = store(dir.path());
        let content = vec![1; 4 << 20];
        let mut session = opened.begin_upload(&repo("a"), None, None).await.unwrap();
        session.append(vec![Bytes::from(content.clone())]).await.unwrap();
        let mut finish = Box::pin(session.finish(sha256(&content)));
        let _ = futures_util::poll!(finish.as_mut());
        drop(finish);
        let closing = opened.clone();
        tokio::task::spawn_blocking(move || closing.close()).await.unwrap();
        let noted = std::fs::read_to_string(dir.path().join("usage")).unwrap();
        // Either it came before the close and is counted, or it never comes.
        let now = opened.0.contents.layout.content(&sha256(&content)).exists();
        assert_eq!(noted.trim().rsplit(' ').next() != Some("0"), now, "noted {noted}");
    }
}

#[tokio::test]
async fn an_upload_that_nobody_holds_keeps_no_file_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let open = || {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .flatten()
            .filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|at| at.starts_with(dir.path().join("uploads"))))
            .count()
    };
    for _ in 0..20 {
        drop(store.begin_upload(&repo("a"), None, None).await.unwrap());
    }
    assert_eq!(open(), 0);
}

#[tokio::test]
async fn a_panic_of_a_job_on_the_thread_that_waits_for_the_disk_is_its_run_s() {
    let panicking = blocking_run::<()>(|| panic!("as it was told"));
    let caught =
        AssertUnwindSafe(panicking).catch_unwind().await.map_err(|panic| *panic.downcast_ref::<&str>().unwrap());
    assert!(matches!(caught, Err("as it was told")));
    assert_eq!(blocking_run(|| Ok(7)).await.unwrap(), 7);
}
