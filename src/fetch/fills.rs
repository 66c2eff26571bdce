//! All fills that run: one per digest, shared by everyone who asks.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fill::{Fill, FillProgress, run};
use super::reader::FillReader;
use super::{Evictor, FillError, Source};
use crate::clock::CLIENT_PATIENCE;
use crate::oci::{Digest, RepoName};
use crate::store::{Blob, Store};
use crate::telemetry::Metrics;

/// The longest wait for the head of the upstream's answer.
pub(super) const HEAD_BUDGET: Duration = CLIENT_PATIENCE;

/// Most fills that wait at once for a first byte later than [`HEAD_BUDGET`]: others still find a place.
pub(super) const MOST_SLOW: usize = 32;

/// Longest wait for a fill of another upstream that has not answered yet; then the client goes on without it.
const FOREIGN_PATIENCE: Duration = Duration::from_secs(5);

/// Longest content in bytes that is handed out only after its digest was verified, if it comes in time: then a part of it
/// that does not reach its end is right too.
pub(super) const HELD_BYTES: u64 = 1 << 20;

/// Bounds of fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillOptions {
    /// Most fills at once; more wait.
    pub at_once: usize,
    /// The first wait before a broken fill is resumed; it doubles with every try without progress.
    pub pause: Duration,
}

impl Default for FillOptions {
    fn default() -> Self {
        Self { at_once: 128, pause: Duration::from_millis(200) }
    }
}

/// The fills of a store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fills(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) evictor: Evictor,
    pub(super) metrics: Metrics,
    pub(super) options: FillOptions,
    pub(super) stop: CancellationToken,
    pub(super) permits: Semaphore,
    /// Places of fills that wait for a late first byte.
    pub(super) slow: Semaphore,
    pub(super) tasks: TaskTracker,
    running: DashMap<Digest, Arc<Fill>>,
}

/// A content whose first bytes are there.
#[derive(Debug)]
pub enum Opened {
    /// Nothing had to be fetched: it was stored a moment before.
    Stored(Blob),
    /// It comes in, or just came.
    Filling {
        /// Reads it.
        reader: FillReader,
        /// Its length, if the upstream said it or it is whole.
        length: Option<u64>,
        /// Whether this call began the fill.
        began: bool,
    },
}

impl Shared {
    /// Takes the fill off the list, unless another has taken its place.
    pub(super) fn forget(&self, fill: &Fill) {
        self.running.remove_if(&fill.digest(), |_, listed| std::ptr::eq(Arc::as_ptr(listed), fill));
    }
}

impl Fills {
    /// Fills `store`; tasks are spawned on `tasks` and end when `stop` is cancelled.
    #[must_use]
    pub fn new(
        store: Store,
        evictor: Evictor,
        metrics: Metrics,
        options: FillOptions,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let permits = Semaphore::new(options.at_once);
        let slow = Semaphore::new(MOST_SLOW.min(options.at_once.div_ceil(4)));
        let running = DashMap::new();
        Self(Arc::new(Shared { store, evictor, metrics, options, stop, permits, slow, tasks, running }))
    }

    /// The store that is filled.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Cancelled when the server shuts down.
    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.0.stop
    }

    /// Makes room for fills.
    #[must_use]
    pub fn evictor(&self) -> &Evictor {
        &self.0.evictor
    }

    /// Joins the fill of `digest` or begins it, and waits until its first bytes can be read. The content becomes a blob
    /// of `repo`. `vouched`: the upstream, or a stored manifest, said that the digest is that repository's; without it a
    /// fill for another repository is not joined. Safe to drop: the fill goes on.
    ///
    /// # Errors
    /// [`FillError`]; [`FillError::Timeout`] at the deadline.
    pub async fn open(
        &self,
        source: &Source,
        repo: &RepoName,
        digest: Digest,
        vouched: bool,
        deadline: Instant,
    ) -> Result<Opened, FillError> {
        let (mut fill, mut began) = self.join(source, repo, digest, vouched)?;
        while !began && !fill.is_from(source) {
            let patience = deadline.min(Instant::now() + FOREIGN_PATIENCE);
            match settled(&mut fill.follow(), patience).await {
                // Ours may give what another upstream does not.
                Ok(FillProgress::Failed(error)) if error.is_of_the_source() => {
                    (fill, began) = self.join(source, repo, digest, vouched)?;
                }
                // It may wait for long; ours need not.
                Err(FillError::Timeout) => return Err(FillError::Busy),
                _ => break,
            }
        }
        let lease = self.0.store.lease(digest);
        let mut progress = fill.follow();
        let settled = settled(&mut progress, deadline).await?;
        let length = match held(&mut progress, settled, deadline).await? {
            FillProgress::Filling { length, .. } => length,
            FillProgress::Whole { size } => Some(size),
            FillProgress::Failed(error) => return Err(error),
            FillProgress::Connecting => None,
        };
        if let Some(stored) = fill.stored() {
            return Ok(Opened::Stored(stored.leased(lease)));
        }
        let Some(file) = fill.file() else { return Err(FillError::Stopping) };
        let reader = FillReader::new(fill, progress, file, source.clone(), lease);
        Ok(Opened::Filling { reader, length, began })
    }

    /// The length of the content if it is being filled for `repo` and the upstream has said it.
    #[must_use]
    pub fn length(&self, repo: &RepoName, digest: &Digest) -> Option<u64> {
        let fill = self.0.running.get(digest).map(|fill| Arc::clone(fill.value()))?;
        if fill.is_for(repo) { fill.length() } else { None }
    }

    /// Ends when no fill of `digest` for `repo` runs any more, or at the deadline. Safe to drop.
    pub async fn ended(&self, repo: &RepoName, digest: &Digest, deadline: Instant) {
        let running = self.0.running.get(digest).map(|fill| Arc::clone(fill.value()));
        if let Some(fill) = running.filter(|fill| fill.is_for(repo)) {
            // Out of time: the content comes behind whatever is done now.
            let _ = tokio::time::timeout_at(deadline, fill.over.cancelled()).await;
        }
    }

    fn join(
        &self,
        source: &Source,
        repo: &RepoName,
        digest: Digest,
        vouched: bool,
    ) -> Result<(Arc<Fill>, bool), FillError> {
        match self.0.running.entry(digest) {
            Entry::Occupied(running) => {
                let fill = Arc::clone(running.get());
                if !vouched && !fill.is_for(repo) {
                    return Err(FillError::Unvouched(Box::new(digest)));
                }
                fill.add(repo);
                Ok((fill, false))
            }
            Entry::Vacant(free) => {
                let fill = Arc::new(Fill::new(digest, source.clone(), repo.clone()));
                free.insert(Arc::clone(&fill));
                let ending = Ending { shared: Arc::clone(&self.0), fill: Arc::clone(&fill) };
                let shared = Arc::clone(&self.0);
                let task = Arc::clone(&fill);
                self.0.tasks.spawn(async move {
                    let ending = ending;
                    run(&shared, &task).await;
                    drop(ending);
                });
                Ok((fill, true))
            }
        }
    }
}

/// The state of a fill once the upstream has answered.
async fn settled(progress: &mut watch::Receiver<FillProgress>, deadline: Instant) -> Result<FillProgress, FillError> {
    let answered = progress.wait_for(|progress| !matches!(progress, FillProgress::Connecting));
    let answered = tokio::time::timeout_at(deadline, answered).await.map_err(|_| FillError::Timeout)?;
    Ok(answered.map_err(|_| FillError::Stopping)?.clone())
}

/// A content that is small is waited for until it is whole and verified, or until the deadline: then it goes out as it
/// comes, without its last byte.
async fn held(
    progress: &mut watch::Receiver<FillProgress>,
    settled: FillProgress,
    deadline: Instant,
) -> Result<FillProgress, FillError> {
    if !is_held(&settled) {
        return Ok(settled);
    }
    let through = progress.wait_for(|progress| !is_held(progress));
    match tokio::time::timeout_at(deadline, through).await {
        Ok(Ok(progress)) => Ok(progress.clone()),
        Ok(Err(_)) => Err(FillError::Stopping),
        Err(_) => Ok(settled),
    }
}

/// Whether a fill is of a content that may be small, and not at its end.
fn is_held(progress: &FillProgress) -> bool {
    match progress {
        FillProgress::Filling { length, ready } => length.unwrap_or(*ready) <= HELD_BYTES,
        FillProgress::Connecting | FillProgress::Whole { .. } | FillProgress::Failed(_) => false,
    }
}

/// Takes a fill off the list, however it ends.
struct Ending {
    shared: Arc<Shared>,
    fill: Arc<Fill>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.forget(&self.fill);
        // Nobody waits for ever if the task panicked.
        self.fill.fail_if_unfinished(FillError::Stopping);
        self.fill.over.cancel();
    }
}
