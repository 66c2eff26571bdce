use proptest::prelude::*;

use super::*;

#[expect(clippy::needless_pass_by_value, reason = "its callers make the options for it alone")]
fn refusal(options: StoreOptions) -> String {
    match Store::open(&options) {
        Err(error @ (StoreError::Layout(_) | StoreError::InUse(_))) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_empty_folder_is_laid_out_and_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("not/yet");
    drop(store(&missing));
    assert_eq!(std::fs::read_to_string(missing.join("VERSION")).unwrap(), "1.0\n");
    drop(Store::open(&StoreOptions { must_exist: true, ..StoreOptions::at(&missing) }).unwrap());
    assert!(!Store::init(&missing).unwrap());

    let mounted = dir.path().join("mounted");
    std::fs::create_dir_all(mounted.join("lost+found")).unwrap();
    assert!(Store::init(&mounted).unwrap());
    let store = store(&mounted);
    assert_eq!(store.usage().used, Some(0));
    assert_tidy(&store);
}

#[test]
fn a_folder_that_has_to_be_a_store_and_is_none_names_both_causes() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_path_buf(), dir.path().join("missing")] {
        let sentence = refusal(StoreOptions { must_exist: true, ..StoreOptions::at(&path) });
        assert!(sentence.contains("d8-registry init") && sentence.contains("not mounted"), "{sentence}");
    }
    assert!(!dir.path().join("missing").exists());
    assert!(files_in(dir.path()).is_empty());
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("precious"), b"x").unwrap();
    let sentence = refusal(StoreOptions::at(dir.path()));
    assert!(sentence.contains("neither empty"), "{sentence}");
    assert!(matches!(Store::init(dir.path()), Err(StoreError::Layout(_))));
    assert_eq!(files_in(dir.path()), [dir.path().join("precious")]);
}

#[test]
fn another_registrys_tree_is_named_and_can_have_ours_beside_it_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = dir.path().join("docker/registry/v2/blobs");
    std::fs::create_dir_all(&theirs).unwrap();
    for must_exist in [false, true] {
        let sentence = refusal(StoreOptions { must_exist, ..StoreOptions::at(dir.path()) });
        assert!(sentence.contains("docker/registry/v2"), "{sentence}");
    }
    assert_eq!(files_in(dir.path()), [dir.path().join("docker")]);
    assert!(Store::init(dir.path()).unwrap());
    assert_tidy(&store(dir.path()));
    assert!(theirs.is_dir());
}

#[test]
fn unknown_layouts_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(store(dir.path()));
    for version in ["2.0\n", "0.9\n", "1.1\n", "new\n", ""] {
        std::fs::write(dir.path().join("VERSION"), version).unwrap();
        let sentence = refusal(StoreOptions::at(dir.path()));
        assert!(sentence.contains("VERSION"), "{sentence}");
        assert!(matches!(Store::init(dir.path()), Err(StoreError::Layout(_))));
        assert_eq!(std::fs::read_to_string(dir.path().join("VERSION")).unwrap(), version);
    }
    std::fs::remove_file(dir.path().join("VERSION")).unwrap();
    assert!(refusal(StoreOptions::at(dir.path())).contains("missing"));
}

#[test]
fn a_start_that_was_cut_off_while_laying_out_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    drop(store(dir.path()));
    Disk::default().move_directory(&dir.path().join(".d8-registry"), &dir.path().join(".d8-registry.new")).unwrap();
    std::fs::remove_dir_all(dir.path().join("blobs/sha512")).unwrap();
    let store = store(dir.path());
    assert!(dir.path().join(".d8-registry").exists() && !dir.path().join(".d8-registry.new").exists());
    assert_tidy(&store);
}

#[tokio::test]
async fn two_servers_dont_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path());
    assert!(refusal(StoreOptions::at(dir.path())).contains("another d8-registry"));
    first.close();
    drop(first);
    let second = store(dir.path());
    second.check().await.unwrap();
    assert!(refusal(StoreOptions::at(dir.path())).contains("another d8-registry"));
}

#[tokio::test]
async fn only_a_clean_stop_leaves_a_count() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path());
    push(&first, &repo("a"), b"content").await;
    drop(first);
    let second = store(dir.path());
    assert_eq!(second.usage().used, None);
    let text = crate::telemetry::Metrics::new().unwrap().render_with(second.samples()).unwrap();
    assert!(!text.contains("store_used_bytes"), "what is unknown is absent and not zero");
    // What a crash between a rename and its link leaves.
    let orphan = second.0.contents.layout.content(&sha256(b"orphan"));
    std::fs::write(&orphan, b"orphan").unwrap();
    second.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
    assert!(!orphan.exists());
    assert_eq!(second.usage().used, Some(7));
    second.close();
    drop(second);
    let third = store(dir.path());
    assert_eq!(third.usage().used, Some(7));
    push(&third, &repo("a"), b"a change").await;
    assert!(!dir.path().join("usage").exists());
    assert_tidy(&third);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_beside_pushes_and_deletes_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path());
    let name = repo("a");
    let content = |i: u32| i.to_le_bytes().repeat(10);
    for i in 0..200 {
        push(&first, &name, &content(i)).await;
    }
    drop(first);
    let second = store(dir.path());
    let counting = tokio::task::spawn_blocking({
        let inner = Arc::clone(&second.0);
        move || inner.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap()
    });
    for i in 0..100 {
        second.delete_blob(&name, sha256(&content(i))).await.unwrap();
        push(&second, &name, &content(1000 + i)).await;
    }
    counting.await.unwrap();
    assert_eq!(second.usage().used, Some(200 * 40));
    assert_tidy(&second);
}

/// What happens while a folder is being counted.
#[derive(Clone, Debug)]
enum Beside {
    Count(usize),
    Push(usize),
    Delete(usize),
    /// The disk fails, and the count begins again.
    Again,
}

fn besides() -> impl Strategy<Value = Vec<Beside>> {
    let step = prop_oneof![
        3 => (1..4_usize).prop_map(Beside::Count),
        2 => (0..12_usize).prop_map(Beside::Push),
        2 => (0..12_usize).prop_map(Beside::Delete),
        1 => Just(Beside::Again),
    ];
    proptest::collection::vec(step, 0..40)
}

/// Contents of one folder: their digests begin with the same byte.
fn contents_of_one_folder(number: usize) -> Vec<Vec<u8>> {
    let contents = (0_u64..).map(|i| i.to_le_bytes().repeat(1 + usize::try_from(i % 5).unwrap()));
    contents.filter(|content| sha256(content).as_bytes()[0] == 7).take(number).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// No step waits for the count: it holds the folder's lock within one batch only.
    #[test]
    fn a_count_step_by_step_is_right_whatever_happens_between(
        before in proptest::collection::vec(0..12_usize, 0..12),
        steps in besides(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (dir, name, contents) = (quick_dir(), repo("a"), contents_of_one_folder(12));
            let first = store(dir.path());
            for i in before {
                push(&first, &name, &contents[i]).await;
            }
            drop(first);
            let store = store(dir.path());
            let inner = Arc::clone(&store.0);
            let mut counting = inner.contents.begin_count(7);
            for step in steps {
                match step {
                    Beside::Count(limit) => {
                        if let Some(running) = &mut counting && !running.step(limit).unwrap() {
                            counting = None;
                        }
                    }
                    Beside::Push(i) => drop(push(&store, &name, &contents[i]).await),
                    Beside::Delete(i) => drop(store.delete_blob(&name, sha256(&contents[i])).await),
                    Beside::Again => counting = inner.contents.begin_count(7),
                }
            }
            inner.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
            assert_tidy(&store);
        });
    }
}

#[tokio::test]
async fn another_folder_in_the_place_of_the_store_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (place, aside) = (dir.path().join("data"), dir.path().join("aside"));
    let store = store(&place);
    store.check().await.unwrap();
    Disk::default().move_directory(&place, &aside).unwrap();
    let gone = store.check().await.unwrap_err();
    assert!(matches!(&gone, StoreError::Layout(sentence) if sentence.contains("is gone")), "{gone}");
    Store::init(&place).unwrap();
    let other = store.check().await.unwrap_err();
    assert!(matches!(&other, StoreError::Layout(sentence) if sentence.contains("replaced")), "{other}");
    std::fs::remove_dir_all(&place).unwrap();
    Disk::default().move_directory(&aside, &place).unwrap();
    store.check().await.unwrap();
}

#[tokio::test]
async fn a_disk_that_was_called_full_is_not_writable_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    assert_eq!(store.usage().refusal, None);
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let told = store.0.contents.capacity.explain(StoreError::io("write", dir.path())(full));
    assert!(matches!(told, StoreError::Full(Refusal::ReserveExhausted { reserve: 0, .. })), "{told}");
    assert!(store.usage().refusal.is_some());
    push(&store, &repo("a"), b"it fits").await;
    assert_eq!(store.usage().refusal, None);
}

/// What a start that lays a folder out does, one step after the other; some of the 512 folders stand for all.
fn laying_out(root: &Path) -> Vec<Box<dyn Fn() + '_>> {
    let folder = move |name: &'static str| Box::new(move || std::fs::create_dir(root.join(name)).unwrap());
    let file =
        move |name: &'static str, text: &'static str| Box::new(move || std::fs::write(root.join(name), text).unwrap());
    let put = move |from: &'static str, to: &'static str| {
        Box::new(move || {
            std::fs::copy(root.join(from), root.join(to)).unwrap();
            std::fs::remove_file(root.join(from)).unwrap();
        })
    };
    vec![
        Box::new(move || std::fs::create_dir(root).unwrap()),
        file(".laying-out", ""),
        put(".laying-out", ".d8-registry.new"),
        folder("repositories"),
        folder("uploads"),
        folder("tmp"),
        folder("blobs"),
        folder("blobs/sha256"),
        folder("blobs/sha256/00"),
        folder("blobs/sha512"),
        folder("blobs/sha512/00"),
        file("tmp/version", ""),
        file("tmp/version", "1.0\n"),
        put("tmp/version", "VERSION"),
        file("tmp/link", "1.0\n"),
        file("tmp/marker", "d8-registry\n"),
        put("tmp/marker", ".d8-registry"),
    ]
}

#[test]
fn a_first_start_that_was_killed_after_any_step_can_be_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let steps = laying_out(dir.path()).len();
    for cut in 0..=steps {
        let root = dir.path().join(cut.to_string());
        laying_out(&root).iter().take(cut).for_each(|step| step());
        for start in 0..2 {
            let opened =
                Store::open(&StoreOptions::at(&root)).unwrap_or_else(|error| panic!("{cut}, start {start}: {error}"));
            opened.close();
        }
        assert!(!Store::init(&root).unwrap(), "{cut}");
        for left in [".laying-out", ".d8-registry.new"] {
            assert!(!root.join(left).exists(), "{cut}: {left}");
        }
        // A folder between two kills is a folder after one.
        let root = dir.path().join(format!("{cut}-init"));
        laying_out(&root).iter().take(cut).for_each(|step| step());
        Store::init(&root).unwrap();
        Store::open(&StoreOptions::at(&root)).unwrap();
    }
}

#[tokio::test]
async fn what_the_system_says_of_a_write_is_called_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let told =
        |errno: rustix::io::Errno| store.0.contents.capacity.explain(StoreError::io("write", dir.path())(errno.into()));
    use rustix::io::Errno;
    assert!(matches!(told(Errno::ROFS), StoreError::Full(Refusal::ReadOnly)));
    assert_eq!(store.usage().refusal, Some(Refusal::ReadOnly));
    push(&store, &repo("a"), b"it can be written again").await;
    assert!(matches!(told(Errno::DQUOT), StoreError::Full(Refusal::QuotaExhausted)));
    assert_eq!(store.usage().refusal, Some(Refusal::QuotaExhausted));
    push(&store, &repo("a"), b"and the quota was raised").await;
    // A file that is too long says nothing of others.
    assert!(matches!(told(Errno::FBIG), StoreError::Full(Refusal::FileTooLong)));
    assert_eq!(store.usage().refusal, None);
    assert!(matches!(told(Errno::IO), StoreError::Io { .. }));
    for errno in [Errno::MFILE, Errno::NFILE] {
        assert!(matches!(told(errno), StoreError::Descriptors { .. }));
    }
    assert_eq!(store.usage().refusal, None);
}

#[tokio::test]
async fn a_store_that_was_only_read_from_since_a_clean_stop_need_not_be_counted() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path());
    push(&first, &repo("a"), b"content").await;
    first.close();
    drop(first);
    for _ in 0..2 {
        // Killed, without a change.
        let killed = store(dir.path());
        assert_eq!(killed.usage().used, Some(7));
    }
    let changed = store(dir.path());
    push(&changed, &repo("a"), b"more").await;
    drop(changed);
    assert_eq!(store(dir.path()).usage().used, None);
}
