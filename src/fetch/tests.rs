//! Work done once for many. Fills are tested against a scripted upstream in `tests/it`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::SingleFlight;

#[tokio::test]
async fn many_who_ask_get_the_outcome_of_one_piece_of_work() {
    let single_flight: SingleFlight<&str, usize> = SingleFlight::new(TaskTracker::new(), CancellationToken::new());
    let (runs, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let ask = || {
        let (single_flight, runs, go) = (single_flight.clone(), Arc::clone(&runs), Arc::clone(&go));
        async move {
            let work = || async move {
                let _ = go.acquire().await;
                runs.fetch_add(1, Ordering::SeqCst) + 1
            };
            single_flight.join("key", work).await
        }
    };
    // The first one gives up: the work goes on without it.
    {
        let mut first = Box::pin(ask());
        assert!(first.as_mut().now_or_never().is_none());
    }
    let mut waiting: Vec<_> = (0..50).map(|_| Box::pin(ask())).collect();
    for one in &mut waiting {
        assert!(one.as_mut().now_or_never().is_none());
    }
    go.add_permits(1);
    for one in waiting {
        assert_eq!(one.await, (Some(1), false));
    }
    go.add_permits(1);
    assert_eq!(ask().await, (Some(2), true), "what has ended is not joined");
}

#[tokio::test]
async fn work_that_panics_keeps_nobody_waiting() {
    let single_flight: SingleFlight<u8, u8> = SingleFlight::new(TaskTracker::new(), CancellationToken::new());
    let (outcome, began) = single_flight.join(1, || async { panic!("on purpose") }).await;
    assert_eq!((outcome, began), (None, true));
    assert_eq!(single_flight.join(1, || async { 2 }).await, (Some(2), true));
}

#[tokio::test]
async fn work_for_an_upstream_that_says_nothing_ends_with_the_server() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let single_flight: SingleFlight<u8, u8> = SingleFlight::new(tasks.clone(), stop.clone());
    let mut waiting = Box::pin(single_flight.join(1, std::future::pending));
    assert!(waiting.as_mut().now_or_never().is_none());
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    assert_eq!(waiting.await, (None, true));
}

/// A content that was last used two hours ago goes for its age, but only after a good probe of its upstream.
#[tokio::test]
async fn nothing_goes_for_its_age_while_it_could_not_be_fetched_again() {
    use std::time::{Duration, UNIX_EPOCH};

    use crate::oci::{Algorithm, RepoName, UpstreamId};
    use crate::store::{Store, StoreOptions};

    let (dir, hour) = (tempfile::tempdir().unwrap(), Duration::from_secs(3600));
    let store = Store::open(&StoreOptions::at(dir.path())).unwrap();
    let repo = RepoName::cached(UpstreamId::of("registry.example.com", "deckhouse"), "").unwrap();
    let digest = Algorithm::Sha256.digest(b"content");
    let partial = store.begin_fill(digest).await.unwrap();
    partial.append(vec![bytes::Bytes::from_static(b"content")]).await.unwrap();
    partial.verify().unwrap();
    store.commit_fill(partial, vec![repo], &CancellationToken::new()).await.unwrap();
    let hex = digest.hex();
    let file = std::fs::File::open(dir.path().join(format!("blobs/sha256/{}/{hex}", &hex[..2]))).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_millis(crate::clock::now().as_millis()) - 2 * hour).unwrap();
    let evictor = super::Evictor::new(store.clone(), crate::telemetry::Metrics::new().unwrap());
    evictor.set_ttl(hour);
    evictor.remove_old().await.unwrap();
    assert!(store.has_content(digest).await.unwrap());
    evictor.set_replaceable(true);
    evictor.remove_old().await.unwrap();
    assert!(!store.has_content(digest).await.unwrap());
}
