use std::future::Future as _;
use std::task::Poll;

use proptest::prelude::*;

use super::super::contents::capacity::FOOTPRINT;
use super::*;
use crate::clock::{self, Timestamp};
use crate::telemetry::Metrics;

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Vec<u8>>),
    /// The future is polled once and dropped.
    AppendAndLeave(Vec<u8>),
    Resume,
    Restart {
        clean: bool,
        rebooted: bool,
    },
    Refuse(Vec<u8>),
    Finish {
        right: bool,
        wide: bool,
    },
    Cancel,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let piece = || proptest::collection::vec(any::<u8>(), 0..200);
    let step = prop_oneof![
        5 => proptest::collection::vec(piece(), 0..4).prop_map(Step::Append),
        2 => piece().prop_map(Step::AppendAndLeave),
        2 => Just(Step::Resume),
        2 => any::<(bool, bool)>().prop_map(|(clean, rebooted)| Step::Restart { clean, rebooted }),
        1 => proptest::collection::vec(any::<u8>(), 1..200).prop_map(Step::Refuse),
        2 => any::<(bool, bool)>().prop_map(|(right, wide)| Step::Finish { right, wide }),
        1 => Just(Step::Cancel),
    ];
    proptest::collection::vec(step, 1..25)
}

async fn begin(store: &Store, wide: bool) -> UploadSession {
    let algorithm = wide.then_some(Algorithm::Sha512);
    store.begin_upload(&repo("a/b"), algorithm, None).await.unwrap()
}

/// As [`Store::resume_upload`], after the work that a dropped session left running.
async fn resume(store: &Store, id: UploadId) -> UploadSession {
    loop {
        match store.resume_upload(&repo("a/b"), id).await {
            Ok(session) => return session,
            Err(StoreError::UploadBusy(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// An upload against a vector of bytes.
struct Model {
    dir: tempfile::TempDir,
    store: Store,
    session: Option<UploadSession>,
    bytes: Vec<u8>,
}

impl Model {
    async fn step(&mut self, step: Step) {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => {
                self.bytes.clear();
                begin(&self.store, self.bytes.len() % 2 == 1).await
            }
        };
        let id = session.id();
        match step {
            Step::Append(pieces) => {
                self.bytes.extend(pieces.concat());
                session.append(pieces.into_iter().map(Bytes::from).collect()).await.unwrap();
            }
            Step::AppendAndLeave(piece) => {
                {
                    let mut append = Box::pin(session.append(vec![Bytes::from(piece.clone())]));
                    std::future::poll_fn(|context| Poll::Ready(append.as_mut().poll(context))).await.is_ready();
                }
                // The next append comes after the one that was left, whether or not that was begun.
                session.append(vec![Bytes::new()]).await.unwrap();
                drop(session);
                session = resume(&self.store, id).await;
                if session.offset() != self.bytes.len() as u64 {
                    self.bytes.extend(piece);
                }
            }
            Step::Resume => {
                assert!(matches!(
                    self.store.resume_upload(&repo("a/b"), id).await,
                    Err(StoreError::UploadBusy(busy)) if busy == id
                ));
                drop(session);
                assert!(matches!(self.store.resume_upload(&repo("a"), id).await, Err(StoreError::UploadUnknown)));
                session = resume(&self.store, id).await;
            }
            Step::Restart { clean, rebooted } => {
                drop(session);
                self.restart(clean, rebooted, id);
                session = resume(&self.store, id).await;
            }
            Step::Refuse(piece) => {
                limits(&self.store, None, Reserve::Bytes(u64::MAX));
                let refused = session.append(vec![Bytes::from(piece)]).await;
                assert!(matches!(refused, Err(StoreError::Full(Refusal::ReserveExhausted { .. }))));
                limits(&self.store, None, Reserve::Bytes(0));
            }
            Step::Finish { right, wide } => return self.finish(session, right, wide).await,
            Step::Cancel => {
                assert!(matches!(
                    self.store.cancel_upload(&repo("a/b"), id).await,
                    Err(StoreError::UploadBusy(busy)) if busy == id
                ));
                drop(session);
                self.store.cancel_upload(&repo("a/b"), id).await.unwrap();
                assert!(matches!(self.store.upload_offset(&repo("a/b"), id).await, Err(StoreError::UploadUnknown)));
                return;
            }
        }
        assert_eq!(session.offset(), self.bytes.len() as u64);
        assert_eq!(self.store.upload_offset(&repo("a/b"), id).await.unwrap(), self.bytes.len() as u64);
        self.session = Some(session);
    }

    fn restart(&mut self, clean: bool, rebooted: bool, id: UploadId) {
        let state = self.store.0.contents.layout.upload_state(id);
        if clean {
            self.store.close();
        }
        let elsewhere = quick_dir();
        self.store = store(elsewhere.path());
        if rebooted {
            // Of a note that was half-written nothing but the owner is known: the content is hashed again.
            let note: serde_json::Value = serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
            let mut note = note;
            note["hash"] = "".into();
            std::fs::write(&state, note.to_string()).unwrap();
        }
        self.store = store(self.dir.path());
        self.store.0.contents.count(&CancellationToken::new(), &crate::jobs::Progress::default()).unwrap();
    }

    async fn finish(&mut self, session: UploadSession, right: bool, wide: bool) {
        let id = session.id();
        let algorithm = if wide { Algorithm::Sha512 } else { Algorithm::Sha256 };
        let actual = algorithm.digest(&self.bytes);
        if right {
            session.finish(actual).await.unwrap();
            assert_eq!(read(&self.store, &repo("a/b"), actual).await.as_deref(), Some(&self.bytes[..]));
        } else {
            let expected = algorithm.digest(b"something else");
            match session.finish(expected).await {
                Err(StoreError::DigestMismatch { expected: e, actual: a }) => assert_eq!((*e, *a), (expected, actual)),
                other => panic!("{other:?}"),
            }
            assert_eq!(read(&self.store, &repo("a/b"), expected).await, None);
        }
        assert!(matches!(self.store.resume_upload(&repo("a/b"), id).await, Err(StoreError::UploadUnknown)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn an_upload_is_a_vector_of_bytes(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = quick_dir();
            let store = store(dir.path());
            let mut model = Model { dir, store, session: None, bytes: Vec::new() };
            for step in steps {
                model.step(step).await;
                assert_tidy(&model.store);
            }
            drop(model.session.take());
            model.store.0.maintenance.reap(Timestamp::from_millis(u64::MAX)).unwrap();
            assert!(model.store.0.uploads.is_empty());
            assert_tidy(&model.store);
        });
    }
}

#[tokio::test]
async fn idle_uploads_are_reaped_once_and_held_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut held = begin(&store, false).await;
    held.append(vec![Bytes::from_static(b"held")]).await.unwrap();
    let mut left = begin(&store, false).await;
    left.append(vec![Bytes::from_static(b"left")]).await.unwrap();
    let id = left.id();
    drop(left);
    let later = Timestamp::from_millis(clock::now().as_millis() + 3_600_000 * 2);
    assert_eq!(store.0.maintenance.reap(clock::now()).unwrap(), 0);
    assert_eq!(store.usage().used, Some(8 + 2 * FOOTPRINT));
    assert_eq!(store.0.maintenance.reap(later).unwrap(), 1);
    assert_eq!(store.0.maintenance.reap(later).unwrap(), 0);
    assert_eq!(store.usage().used, Some(4 + FOOTPRINT));
    assert!(matches!(store.upload_offset(&repo("a/b"), id).await, Err(StoreError::UploadUnknown)));
    held.finish(sha256(b"held")).await.unwrap();
    assert_eq!(store.usage().used, Some(4));
    assert_tidy(&store);
}

#[tokio::test]
async fn the_budget_counts_an_upload_once_and_gives_it_back() {
    /// An upload is charged for its folder until it ends.
    const BUDGET: u64 = 100 + FOOTPRINT;
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(dir.path(), BUDGET);
    let full = |error| matches!(error, StoreError::Full(Refusal::BudgetExhausted { budget: BUDGET, .. }));
    assert!(full(store.begin_upload(&repo("a"), None, Some(BUDGET + 1)).await.unwrap_err()));
    let mut session = store.begin_upload(&repo("a"), None, Some(100)).await.unwrap();
    session.append(vec![Bytes::from(vec![1; 60])]).await.unwrap();
    assert!(full(session.append(vec![Bytes::from(vec![1; 41])]).await.unwrap_err()));
    assert_eq!((session.offset(), store.usage().used), (60, Some(60 + FOOTPRINT)));
    session.append(vec![Bytes::from(vec![1; 40])]).await.unwrap();
    assert!(store.usage().refusal.is_some());
    // Ending an upload needs no room.
    session.finish(sha256(&[1; 100])).await.unwrap();
    assert_eq!(store.usage().used, Some(100));
    assert_eq!(read(&store, &repo("a"), sha256(&[1; 100])).await.map(|content| content.len()), Some(100));
    let stored = annotated(&json!({"padding": "x".repeat(usize::try_from(FOOTPRINT).unwrap())}));
    let name = repo("a");
    let put = store.put_manifest(&name, stored, vec!["t".parse().unwrap()]).await;
    assert!(full(put.unwrap_err()));
    // A further name of what is there takes no byte of the budget.
    assert!(store.mount_blob(None, &repo("b"), sha256(&[1; 100])).await.unwrap());
    assert_tidy(&store);
    store.delete_blob(&name, sha256(&[1; 100])).await.unwrap();
    assert_eq!(store.usage().used, Some(100));
    store.delete_blob(&repo("b"), sha256(&[1; 100])).await.unwrap();
    assert_eq!(store.usage().used, Some(0));
    assert_eq!(store.usage().refusal, None);
    assert_tidy(&store);
}

#[tokio::test]
async fn open_uploads_are_counted_charged_and_bounded_also_those_of_an_earlier_process() {
    let dir = quick_dir();
    let opened = store(dir.path());
    let mut begun = Vec::new();
    for _ in 0..MOST_UPLOADS {
        // Nobody writes it.
        begun.push(begin(&opened, false).await.id());
    }
    let usage = opened.usage();
    assert_eq!((usage.uploads, usage.used), (MOST_UPLOADS, Some(MOST_UPLOADS as u64 * FOOTPRINT)));
    let name = repo("a/b");
    let one_more = || opened.begin_upload(&name, None, None);
    assert!(matches!(one_more().await.unwrap_err(), StoreError::TooManyUploads));
    opened.cancel_upload(&name, begun.pop().unwrap()).await.unwrap();
    let mut last = one_more().await.unwrap();
    last.append(vec![Bytes::from_static(b"last")]).await.unwrap();
    last.finish(sha256(b"last")).await.unwrap();
    assert_eq!(opened.usage().uploads, MOST_UPLOADS - 1);
    opened.close();
    drop(opened);
    let again = store(dir.path());
    let left = MOST_UPLOADS - 1;
    assert_eq!((again.usage().uploads, again.usage().used), (left, Some(left as u64 * FOOTPRINT + 4)));
    let later = Timestamp::from_millis(clock::now().as_millis() + 2 * 3600 * 1000);
    assert_eq!(again.0.maintenance.reap(later).unwrap(), left);
    assert_eq!((again.usage().uploads, again.usage().used), (0, Some(4)));
}

#[tokio::test]
async fn the_store_s_numbers_are_its_samples() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(dir.path(), 1 << 20);
    push(&store, &repo("a"), b"7 bytes").await;
    let _open = begin(&store, false).await;
    let text = Metrics::new().unwrap().render_with(store.samples()).unwrap();
    let used = format!("d8_registry_store_used_bytes {}", 7 + FOOTPRINT);
    for line in [
        used.as_str(),
        "d8_registry_store_budget_bytes 1048576",
        "d8_registry_store_reserve_bytes 0",
        "d8_registry_store_writable 1",
        "d8_registry_store_uploads 1",
        "d8_registry_damaged_contents 0",
        "d8_registry_damaged_bytes 0",
        "d8_registry_disk_fault 0",
        "d8_registry_damage_found_total{cause=\"hash\"} 0",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is missing in:\n{text}");
    }
}

#[tokio::test]
async fn a_finish_that_nobody_waits_for_runs_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut session = begin(&store, false).await;
    session.append(vec![Bytes::from_static(b"content")]).await.unwrap();
    let mut finish = Box::pin(session.finish(sha256(b"content")));
    std::future::poll_fn(|context| Poll::Ready(finish.as_mut().poll(context))).await.is_ready();
    drop(finish);
    // Waits for what still runs.
    while !store.0.uploads.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(read(&store, &repo("a/b"), sha256(b"content")).await.as_deref(), Some(&b"content"[..]));
    store.close();
    assert_tidy(&store);
}

/// A reader, and a server that starts after a kill, sees one note or the other: a note is never written in place.
#[tokio::test]
async fn a_note_is_replaced_and_never_half_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut session = begin(&store, false).await;
    let path = store.0.contents.layout.upload_state(session.id());
    let before = std::fs::read(&path).unwrap();
    let open = std::fs::File::open(&path).unwrap();
    session.append(vec![Bytes::from(vec![7; 17 << 20])]).await.unwrap();
    assert_ne!(std::fs::read(&path).unwrap(), before, "no new note was written");
    assert_eq!(std::io::read_to_string(open).unwrap().as_bytes(), before);
    assert_eq!(files_in(path.parent().unwrap()).len(), 2, "something is left beside the note");
}

/// A kill between the bytes' file and the note leaves what nobody can go on with.
#[test]
fn what_a_killed_server_had_begun_goes_at_the_next_start() {
    let dir = quick_dir();
    let first = store(dir.path());
    let layout = first.0.contents.layout.clone();
    drop(first);
    let (without_note, without_bytes, garbled) = (UploadId::random(), UploadId::random(), UploadId::random());
    for id in [without_note, without_bytes, garbled] {
        std::fs::create_dir(layout.upload(id)).unwrap();
    }
    std::fs::write(layout.upload_data(without_note), b"").unwrap();
    std::fs::write(layout.upload_data(garbled), b"x").unwrap();
    std::fs::write(layout.upload_state(garbled), b"{").unwrap();
    let opened = store(dir.path());
    assert_eq!(files_in(&layout.uploads()), Vec::<std::path::PathBuf>::new());
    assert_eq!(opened.0.contents.capacity.uploads(), 0);
}

#[tokio::test]
async fn the_more_sessions_there_are_the_less_each_gathers() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let alone = begin(&store, false).await;
    let all_of_it = alone.batch_bytes();
    let mut others = Vec::new();
    for _ in 0..31 {
        others.push(begin(&store, false).await);
    }
    assert!(alone.batch_bytes() <= all_of_it / 4, "{} of {all_of_it}", alone.batch_bytes());
    for other in others {
        other.cancel().await.unwrap();
    }
    assert_eq!(alone.batch_bytes(), all_of_it);
    alone.cancel().await.unwrap();
    assert_tidy(&store);
}
