//! One fill: from the first request to the upstream to the content in the store.
//!
//! The task is nobody's: it goes on when every client has left. Bytes are announced after they were written, so a reader
//! never runs ahead; the last byte is announced after the digest was verified.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::filler::Filler;
use super::fills::Shared;
use super::{FillError, Source};
use crate::oci::{Digest, Hasher, RepoName};
use crate::store::{Blob, PartialBlob, Refusal, StoreError};
use crate::telemetry::{FillCause, with_causes};

/// Longest wait of a fill for a place among those that run: its clients go on without the store then, and want headers in
/// time.
const PERMIT_BUDGET: Duration = Duration::from_secs(5);

/// The state of a fill, as its followers see it.
#[derive(Clone, Debug)]
pub(super) enum FillProgress {
    /// The upstream has not answered yet.
    Connecting,
    /// Bytes come in.
    Filling {
        /// Length of the whole content, if the upstream said it.
        length: Option<u64>,
        /// Bytes that may be read.
        ready: u64,
    },
    /// All bytes are there and verified.
    Whole {
        /// Their number.
        size: u64,
    },
    /// It ended without its content.
    Failed(FillError),
}

/// The repositories that a fill is for.
#[derive(Debug)]
struct Repositories {
    all: Vec<RepoName>,
    /// They were handed to the store: no more come.
    closed: bool,
}

/// The remains of a fill that failed, in its file.
#[derive(Clone)]
pub(super) struct Left {
    /// Bytes that can be read.
    pub(super) written: u64,
    /// Length of the whole content, if the upstream said it.
    pub(super) length: Option<u64>,
    /// Has seen these bytes; `None`: the file may hold other bytes than were written.
    pub(super) hasher: Option<Hasher>,
}

impl std::fmt::Debug for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Left").field("written", &self.written).finish_non_exhaustive()
    }
}

/// A fill as its followers see it.
#[derive(Debug)]
pub(super) struct Fill {
    digest: Digest,
    source: Source,
    repositories: Mutex<Repositories>,
    file: OnceLock<Arc<File>>,
    /// The remains, once it has failed.
    left: OnceLock<Left>,
    /// The content was stored already: the fill before this one ended between a look into the store and this one.
    stored: OnceLock<Blob>,
    progress: watch::Sender<FillProgress>,
    /// Cancelled when nothing of it runs any more.
    pub(super) over: CancellationToken,
}

impl Fill {
    pub(super) fn new(digest: Digest, source: Source, repo: RepoName) -> Self {
        Self {
            digest,
            source,
            repositories: Mutex::new(Repositories { all: vec![repo], closed: false }),
            file: OnceLock::new(),
            left: OnceLock::new(),
            stored: OnceLock::new(),
            progress: watch::channel(FillProgress::Connecting).0,
            over: CancellationToken::new(),
        }
    }

    pub(super) const fn source(&self) -> &Source {
        &self.source
    }

    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    pub(super) fn follow(&self) -> watch::Receiver<FillProgress> {
        self.progress.subscribe()
    }

    /// The content, if nothing had to be fetched; known once the fill has settled.
    pub(super) fn stored(&self) -> Option<&Blob> {
        self.stored.get()
    }

    /// The file that is being filled; there is one once the fill has settled, unless the content was stored.
    pub(super) fn file(&self) -> Option<Arc<File>> {
        self.file.get().cloned()
    }

    pub(super) fn left(&self) -> Option<&Left> {
        self.left.get()
    }

    pub(super) fn length(&self) -> Option<u64> {
        match *self.progress.borrow() {
            FillProgress::Filling { length, .. } => length,
            FillProgress::Whole { size } => Some(size),
            FillProgress::Connecting | FillProgress::Failed(_) => None,
        }
    }

    /// Whether it asks the repository that `source` leads to: only then its failure says something of what is there.
    pub(super) fn is_from(&self, source: &Source) -> bool {
        self.source.is(source)
    }

    /// Whether the content is being filled for that repository.
    pub(super) fn is_for(&self, repo: &RepoName) -> bool {
        self.repositories().all.contains(repo)
    }

    /// Makes it for that repository too, unless it is too late: then the repository gets it when it is asked for next.
    pub(super) fn add(&self, repo: &RepoName) {
        let mut repositories = self.repositories();
        if !repositories.closed && !repositories.all.contains(repo) {
            repositories.all.push(repo.clone());
        }
    }

    /// All repositories that it is for by now.
    pub(super) fn for_whom(&self) -> Vec<RepoName> {
        self.repositories().all.clone()
    }

    /// All repositories that it is for; none is added any more.
    fn close(&self) -> Vec<RepoName> {
        let mut repositories = self.repositories();
        repositories.closed = true;
        repositories.all.clone()
    }

    fn repositories(&self) -> MutexGuard<'_, Repositories> {
        self.repositories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fail_if_unfinished(&self, error: FillError) {
        self.progress.send_if_modified(|progress| {
            let unfinished = matches!(progress, FillProgress::Connecting | FillProgress::Filling { .. });
            if unfinished {
                *progress = FillProgress::Failed(error);
            }
            unfinished
        });
    }

    pub(super) fn announce(&self, progress: FillProgress) {
        self.progress.send_replace(progress);
    }
}

/// Runs a fill to its end and tells its followers.
pub(super) async fn run(shared: &Shared, fill: &Fill) {
    let _running = shared.metrics.fill_running();
    let Err(error) = attempt(shared, fill).await else { return };
    if let Some(cause) = cause(&error) {
        shared.metrics.fill_error(cause);
    }
    // A store that takes nothing is told of by metrics and status; a line here would come for every blob.
    if !matches!(error, FillError::Store(StoreError::Full(Refusal::ReadOnly))) {
        tracing::warn!(
            digest = %fill.digest,
            repository = fill.source.repository(),
            upstream = fill.source.upstream.host(),
            error = %with_causes(&error),
            "a blob could not be fetched into the store"
        );
    }
    // Off the list first: a request from now on begins anew.
    shared.forget(fill);
    fill.fail_if_unfinished(error);
}

const fn cause(error: &FillError) -> Option<FillCause> {
    match error {
        FillError::Upstream(_) | FillError::Timeout | FillError::Contradiction(_) | FillError::Unfit(_) => {
            Some(FillCause::Upstream)
        }
        FillError::Store(StoreError::DigestMismatch { .. }) => Some(FillCause::DigestMismatch),
        FillError::Store(StoreError::Full(Refusal::ReadOnly)) => Some(FillCause::ReadOnly),
        FillError::Store(StoreError::Full(_)) => Some(FillCause::Full),
        FillError::Store(StoreError::Descriptors { .. }) => Some(FillCause::Descriptors),
        FillError::Store(_) => Some(FillCause::Disk),
        FillError::Busy | FillError::Unvouched(_) | FillError::Stopping => None,
    }
}

async fn attempt(shared: &Shared, fill: &Fill) -> Result<(), FillError> {
    let fetched = tokio::select! {
        fetched = fetch(shared, fill) => fetched?,
        () = shared.stop.cancelled() => return Err(FillError::Stopping),
    };
    // A whole content is stored also when the server shuts down, and then without a wait for its turn.
    if let Some(partial) = fetched {
        shared.store.commit_fill(partial, fill.close(), &shared.stop).await?;
    }
    Ok(())
}

/// Brings the content in, verified and announced; `None`: it was stored already.
async fn fetch(shared: &Shared, fill: &Fill) -> Result<Option<PartialBlob>, FillError> {
    let permit = tokio::time::timeout(PERMIT_BUDGET, shared.permits.acquire()).await.map_err(|_| FillError::Busy)?;
    // Given back before what is left waits for the disk, not for the upstream.
    let _permit = permit.map_err(|_| FillError::Stopping)?;
    if found_stored(shared, fill).await {
        return Ok(None);
    }
    let partial = match shared.store.begin_fill(fill.digest).await {
        Err(StoreError::Full(refusal)) => {
            shared.evictor.make_room_after(refusal, 1).await?;
            shared.store.begin_fill(fill.digest).await?
        }
        begun => begun?,
    };
    let _ = fill.file.set(partial.file());
    let mut filler = Filler::new(shared, fill, &partial);
    let filled = filler.fill().await;
    let verified = filled.and_then(|()| Ok(partial.verify()?));
    if let Err(error) = verified {
        // While something is written the fill can't be taken up again.
        filler.stop_writing().await;
        let _ = fill.left.set(Left { written: partial.written(), length: filler.length(), hasher: partial.hasher() });
        if is_hopeless(&error) {
            partial.discard().await?;
        } else if partial.written() == 0
            && let Err(left) = partial.discard().await
        {
            tracing::debug!(error = %with_causes(&left), "an empty file is left to the next fill");
        }
        return Err(error);
    }
    fill.announce(FillProgress::Whole { size: partial.written() });
    Ok(Some(partial))
}

/// Finds the content in the store, for a request that looked there just before the previous fill ended.
async fn found_stored(shared: &Shared, fill: &Fill) -> bool {
    let Some(repo) = fill.repositories().all.first().cloned() else { return false };
    match shared.store.blob(&repo, fill.digest).await {
        Ok(blob) => {
            let size = blob.length();
            // Before the announcement, which wakes those who look for it.
            let _ = fill.stored.set(blob);
            fill.announce(FillProgress::Whole { size });
            true
        }
        Err(_) => false,
    }
}

/// Whether what was stored so far will never become the content, or takes room that there is not. What an upstream says
/// instead of the rest proves nothing about the bytes that came.
const fn is_hopeless(error: &FillError) -> bool {
    matches!(
        error,
        FillError::Store(StoreError::DigestMismatch { .. } | StoreError::Full(_)) | FillError::Contradiction(_)
    )
}
