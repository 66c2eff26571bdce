use proptest::prelude::*;
use tokio::task::JoinSet;

use super::*;

#[tokio::test]
async fn a_blob_is_its_repositorys_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let digest = push(&store, &repo("a/b"), b"content").await;
    for (asked, wanted) in [("a/b", Some(b"content".to_vec())), ("a", None), ("a/b/c", None), ("b", None)] {
        // From the disk, then from memory.
        for _again in 0..2 {
            assert_eq!(read(&store, &repo(asked), digest).await, wanted, "{asked}");
        }
    }
    assert_eq!(read(&store, &repo("a/b"), sha256(b"other")).await, None);
    assert_tidy(&store);
}

#[tokio::test]
async fn what_is_no_file_is_no_blob() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let digest = push(&store, &repo("a"), b"content").await;
    let odd = sha256(b"odd");
    let member = store.0.contents.layout.member(&repo("a"), Membership::Blob, &odd);
    let secret = dir.path().join("VERSION");
    std::os::unix::fs::symlink(&secret, &member).unwrap();
    for _again in 0..2 {
        assert!(matches!(store.blob(&repo("a"), odd).await, Err(StoreError::Io { .. })));
    }
    std::fs::remove_file(&member).unwrap();
    std::fs::create_dir(&member).unwrap();
    for _again in 0..2 {
        assert!(matches!(store.blob(&repo("a"), odd).await, Err(StoreError::Io { .. })));
    }
    std::fs::remove_dir(&member).unwrap();
    assert!(read(&store, &repo("a"), digest).await.is_some());
}

#[tokio::test]
async fn a_reader_reads_on_after_the_delete() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let digest = push(&store, &repo("a"), b"content").await;
    let open = store.blob(&repo("a"), digest).await.unwrap();
    store.delete_blob(&repo("a"), digest).await.unwrap();
    assert_eq!(content_of(&open), b"content");
    assert_eq!(read(&store, &repo("a"), digest).await, None);
    assert!(matches!(store.delete_blob(&repo("a"), digest).await, Err(StoreError::BlobUnknown)));
    assert!(!store.0.contents.layout.content(&digest).exists());
    assert_eq!(store.usage().used, Some(0));
    assert_tidy(&store);
}

#[tokio::test]
async fn bytes_go_with_the_last_repository() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let digest = push(&store, &repo("a"), b"content").await;
    push(&store, &repo("b"), b"content").await;
    assert!(store.mount_blob(Some(&repo("b")), &repo("c"), digest).await.unwrap());
    assert_eq!(store.usage().used, Some(7));
    for name in ["a", "b", "c"] {
        assert_eq!(read(&store, &repo(name), digest).await.as_deref(), Some(&b"content"[..]));
        store.delete_blob(&repo(name), digest).await.unwrap();
        assert_tidy(&store);
    }
    assert_eq!(store.usage().used, Some(0));
}

#[tokio::test]
async fn a_mount_needs_a_source() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let digest = push(&store, &repo("a"), b"content").await;
    assert!(!store.mount_blob(Some(&repo("x")), &repo("b"), digest).await.unwrap());
    assert!(!store.mount_blob(None, &repo("b"), sha256(b"other")).await.unwrap());
    assert!(!store.repository_exists(&repo("b")).await.unwrap());
    assert!(store.mount_blob(None, &repo("b"), digest).await.unwrap());
    assert!(store.mount_blob(Some(&repo("b")), &repo("b"), digest).await.unwrap());
    assert!(store.repository_exists(&repo("b")).await.unwrap());
    // A content that is in no repository can't be mounted: nobody may read it.
    store.delete_blob(&repo("a"), digest).await.unwrap();
    let kept = store.0.contents.layout.content(&digest);
    store.delete_blob(&repo("b"), digest).await.unwrap();
    std::fs::write(&kept, b"content").unwrap();
    assert!(!store.mount_blob(None, &repo("c"), digest).await.unwrap());
    std::fs::remove_file(kept).unwrap();
    assert_tidy(&store);
}

#[tokio::test]
async fn a_damaged_content_is_replaced_by_the_next_push() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path());
    let digest = push(&first, &repo("a"), b"content").await;
    std::fs::write(first.0.contents.layout.content(&digest), b"cut").unwrap();
    drop(first);
    let store = store(dir.path());
    store.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
    assert_eq!(store.usage().used, Some(3));
    push(&store, &repo("b"), b"content").await;
    assert_eq!(read(&store, &repo("b"), digest).await.as_deref(), Some(&b"content"[..]));
    push(&store, &repo("a"), b"content").await;
    assert_eq!(read(&store, &repo("a"), digest).await.as_deref(), Some(&b"content"[..]));
    assert_tidy(&store);
}

/// Ext4 allows 65,000 names of a file; file systems that allow more pass without a check.
#[tokio::test]
async fn a_content_with_too_many_links_goes_on_in_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let digest = push(&store, &repo("a"), b"content").await;
    let content = store.0.contents.layout.content(&digest);
    let links = tempfile::tempdir_in(dir.path()).unwrap();
    let full = (0..70_000).any(|i| std::fs::hard_link(&content, links.path().join(i.to_string())).is_err());
    if !full {
        return;
    }
    push(&store, &repo("b"), b"content").await;
    assert!(store.mount_blob(Some(&repo("a")), &repo("c"), digest).await.unwrap());
    for name in ["a", "b", "c"] {
        assert_eq!(read(&store, &repo(name), digest).await.as_deref(), Some(&b"content"[..]));
        store.delete_blob(&repo(name), digest).await.unwrap();
    }
    assert!(!content.exists());
    links.close().unwrap();
    assert_tidy(&store);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_push_mount_and_delete_the_same_blob() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let content = vec![7; 100_000];
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let (store, content) = (store.clone(), content.clone());
        tasks.spawn(async move {
            let mine = repo(&format!("r{}", task % 3));
            for _ in 0..6 {
                let digest = push(&store, &mine, &content).await;
                // Whatever comes back is whole.
                if let Some(found) = read(&store, &mine, digest).await {
                    assert!(found == content);
                }
                let other = repo(&format!("r{}", (task + 1) % 3));
                store.mount_blob(Some(&mine), &other, digest).await.unwrap();
                store.mount_blob(None, &other, digest).await.unwrap();
                match store.delete_blob(&mine, digest).await {
                    Ok(()) | Err(StoreError::BlobUnknown) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert_tidy(&store);
    let digest = push(&store, &repo("r0"), &content).await;
    assert!(read(&store, &repo("r0"), digest).await.unwrap() == content);
}

#[derive(Clone, Debug)]
enum Step {
    Push { repo: usize, content: u8 },
    Mount { from: Option<usize>, to: usize, content: u8 },
    Delete { repo: usize, content: u8 },
    Reopen { clean: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let repo = || 0..3usize;
    let content = || 0..3u8;
    let step = prop_oneof![
        3 => (repo(), content()).prop_map(|(repo, content)| Step::Push { repo, content }),
        2 => (proptest::option::of(repo()), repo(), content())
            .prop_map(|(from, to, content)| Step::Mount { from, to, content }),
        3 => (repo(), content()).prop_map(|(repo, content)| Step::Delete { repo, content }),
        1 => any::<bool>().prop_map(|clean| Step::Reopen { clean }),
    ];
    proptest::collection::vec(step, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    /// The store against a set of pairs.
    #[test]
    fn memberships_are_a_set(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = quick_dir();
            let mut store = store(dir.path());
            let repos = [repo("a"), repo("a/b"), repo("c")];
            let mut model = std::collections::BTreeSet::new();
            for step in steps {
                match step {
                    Step::Push { repo, content } => {
                        push(&store, &repos[repo], &[content; 10]).await;
                        model.insert((repo, content));
                    }
                    Step::Mount { from, to, content } => {
                        let source = from.map(|from| &repos[from]);
                        let mounted = store.mount_blob(source, &repos[to], sha256(&[content; 10])).await.unwrap();
                        let there = (0..3).any(|repo| from.unwrap_or(repo) == repo && model.contains(&(repo, content)));
                        assert_eq!(mounted, there);
                        if there {
                            model.insert((to, content));
                        }
                    }
                    Step::Delete { repo, content } => {
                        let deleted = store.delete_blob(&repos[repo], sha256(&[content; 10])).await;
                        assert_eq!(deleted.is_ok(), model.remove(&(repo, content)));
                    }
                    Step::Reopen { clean } => {
                        if clean {
                            store.close();
                        }
                        drop(store);
                        store = super::store(dir.path());
                        // Also known if nothing was changed since a clean stop.
                        assert!(!clean || store.usage().used.is_some());
                        store.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
                    }
                }
                for (index, repo) in repos.iter().enumerate() {
                    for content in 0..3 {
                        let found = read(&store, repo, sha256(&[content; 10])).await;
                        assert_eq!(found.is_some(), model.contains(&(index, content)));
                    }
                }
                let contents: std::collections::BTreeSet<u8> = model.iter().map(|&(_, content)| content).collect();
                assert_eq!(store.usage().used, Some(contents.len() as u64 * 10));
                assert_tidy(&store);
            }
        });
    }
}

#[tokio::test]
async fn reading_a_blob_or_a_fill_sets_no_time_of_access() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let digest = push(&store, &repo("a"), b"content").await;
    let blob = store.blob(&repo("a"), digest).await.unwrap();
    let fill = store.begin_fill(sha256(b"other")).await.unwrap();
    for file in [blob.file(), &fill.file()] {
        assert!(rustix::fs::fcntl_getfl(file).unwrap().contains(rustix::fs::OFlags::NOATIME));
    }
}
