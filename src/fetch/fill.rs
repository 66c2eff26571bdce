//! One fill: from the first request to the upstream to the content in the store.
//!
//! The task is nobody's: it goes on when every client has left. What it has written is announced after it was written,
//! so a reader never runs ahead; the last byte is announced after the digest was verified.

use std::fs::File;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::fills::{HEAD_BUDGET, Shared};
use super::{Feed, FillError, Gather, Source};
use crate::oci::{Digest, RepoName};
use crate::store::{PartialBlob, StoreError, TURN_BYTES};
use crate::telemetry::{FillCause, UpstreamCause, with_causes};
use crate::upstream::{BlobRange, UpstreamBlob, UpstreamError};

/// Tries to go on after a break, without a byte in between, before the fill is given up.
const TRIES: u32 = 5;

/// How long a fill waits until fewer run: its clients go on without the store then, and want headers in time.
const PERMIT_BUDGET: Duration = Duration::from_secs(5);

/// Bytes that are written in one go, if so many are there: each time costs two changes of threads, and a wake of every
/// follower.
const BATCH_BYTES: usize = 1024 * 1024;

/// So many bytes are ahead of the disk at most: the fills of small layers never wait for it.
const AHEAD_BYTES: u64 = 8 * 1024 * 1024;

/// How far a fill is.
#[derive(Clone, Debug)]
pub(super) enum Progress {
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

/// A fill as its followers see it.
#[derive(Debug)]
pub(super) struct Fill {
    digest: Digest,
    source: Source,
    repositories: Mutex<Repositories>,
    file: OnceLock<Arc<File>>,
    /// The content was stored already: the fill before this one ended between a look into the store and this one.
    stored: AtomicBool,
    progress: watch::Sender<Progress>,
}

impl Fill {
    pub(super) fn new(digest: Digest, source: Source, repo: RepoName) -> Self {
        Self {
            digest,
            source,
            repositories: Mutex::new(Repositories { all: vec![repo], closed: false }),
            file: OnceLock::new(),
            stored: AtomicBool::new(false),
            progress: watch::channel(Progress::Connecting).0,
        }
    }

    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    pub(super) fn follow(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Whether nothing had to be fetched; known once it has settled.
    pub(super) fn was_stored(&self) -> bool {
        self.stored.load(Ordering::Acquire)
    }

    pub(super) fn file(&self) -> Option<Arc<File>> {
        self.file.get().cloned()
    }

    pub(super) fn length(&self) -> Option<u64> {
        match *self.progress.borrow() {
            Progress::Filling { length, .. } => length,
            Progress::Whole { size } => Some(size),
            Progress::Connecting | Progress::Failed(_) => None,
        }
    }

    /// Whether it asks where `source` leads.
    pub(super) fn is_from(&self, source: &Source) -> bool {
        self.source.child == source.child && self.source.upstream.host() == source.upstream.host()
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
            let unfinished = matches!(progress, Progress::Connecting | Progress::Filling { .. });
            if unfinished {
                *progress = Progress::Failed(error);
            }
            unfinished
        });
    }

    fn announce(&self, progress: Progress) {
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
    tracing::warn!(
        digest = %fill.digest,
        repository = %fill.source.child,
        upstream = fill.source.upstream.host(),
        error = %with_causes(&error),
        "a blob could not be fetched into the store"
    );
    // Off the list first: who comes from now on begins anew.
    shared.forget(fill);
    fill.fail_if_unfinished(error);
}

const fn cause(error: &FillError) -> Option<FillCause> {
    match error {
        FillError::Upstream(_) | FillError::Timeout | FillError::Contradiction(_) => Some(FillCause::Upstream),
        FillError::Store(StoreError::DigestMismatch { .. }) => Some(FillCause::DigestMismatch),
        FillError::Store(StoreError::Full(_)) => Some(FillCause::Full),
        FillError::Store(_) => Some(FillCause::Disk),
        FillError::Busy | FillError::Unvouched(_) | FillError::Stopping => None,
    }
}

async fn attempt(shared: &Shared, fill: &Fill) -> Result<(), FillError> {
    let fetched = tokio::select! {
        fetched = fetch(shared, fill) => fetched?,
        () = shared.stop.cancelled() => return Err(FillError::Stopping),
    };
    // What is whole is stored also when the server shuts down, without waiting for its turn then.
    if let Some(partial) = fetched {
        partial.commit(fill.close(), &shared.stop).await?;
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
    let partial = shared.store.begin_fill(fill.digest).await?;
    let _ = fill.file.set(partial.file());
    let mut filler =
        Filler { shared, fill, partial: &partial, length: None, tries: 0, announced: false, writing: None };
    let filled = filler.fill().await;
    let verified = filled.and_then(|()| Ok(partial.verify()?));
    if let Err(error) = verified {
        // As long as something is written the fill can't be taken up again.
        filler.stop_writing().await;
        if is_hopeless(&error) {
            partial.discard().await?;
        }
        return Err(error);
    }
    fill.announce(Progress::Whole { size: partial.written() });
    Ok(Some(partial))
}

/// A request that looked into the store just before the fill before this one ended finds the content there.
async fn found_stored(shared: &Shared, fill: &Fill) -> bool {
    let Some(repo) = fill.repositories().all.first().cloned() else { return false };
    match shared.store.blob(&repo, fill.digest).await {
        Ok(blob) => {
            let _ = fill.file.set(Arc::new(blob.file));
            fill.stored.store(true, Ordering::Release);
            fill.announce(Progress::Whole { size: blob.size });
            true
        }
        Err(_) => false,
    }
}

/// Whether what was stored so far will never become the content.
fn is_hopeless(error: &FillError) -> bool {
    match error {
        FillError::Store(StoreError::DigestMismatch { .. }) | FillError::Contradiction(_) => true,
        FillError::Upstream(error) => matches!(error.cause(), UpstreamCause::NotFound | UpstreamCause::Invalid),
        _ => false,
    }
}

/// Whether asking again may help.
fn is_passing(error: &UpstreamError) -> bool {
    matches!(
        error.cause(),
        UpstreamCause::Unreachable | UpstreamCause::Timeout | UpstreamCause::ServerError | UpstreamCause::RateLimited
    )
}

struct Filler<'a> {
    shared: &'a Shared,
    fill: &'a Fill,
    partial: &'a PartialBlob,
    /// Length of the whole content, once the upstream said it.
    length: Option<u64>,
    /// Tries since the last byte.
    tries: u32,
    /// Followers may have read bytes: what they read is never replaced by others.
    announced: bool,
    /// What sends bytes to the disk beside the next ones.
    writing: Option<JoinHandle<()>>,
}

impl Filler<'_> {
    /// Brings all bytes in, over as many answers as it takes.
    async fn fill(&mut self) -> Result<(), FillError> {
        let mut answered = false;
        loop {
            let outcome = match self.ask().await {
                Ok(Some(blob)) => {
                    answered = true;
                    self.receive(blob).await
                }
                // All of it is there already.
                Ok(None) => return Ok(()),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(Received::All) => return Ok(()),
                Ok(Received::Nothing) => {}
                // The client's own budget runs before the first byte: it hears at once.
                Err(FillError::Upstream(error)) if answered && is_passing(&error) && self.tries < TRIES => {
                    let pause = error.retry_after().unwrap_or_default().max(self.pause()).min(Duration::from_secs(30));
                    self.tries += 1;
                    tracing::info!(digest = %self.fill.digest, written = self.partial.written(), %error, "a fill broke off and is resumed");
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn pause(&self) -> Duration {
        let doubled = self.shared.options.pause.saturating_mul(1 << self.tries.min(6));
        // Half of it is left to chance, so that many broken fills don't come back together.
        doubled / 2 + doubled.mul_f64(f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 512.0)
    }

    /// Asks for the content from where the file ends; `None`: the file is whole.
    async fn ask(&mut self) -> Result<Option<UpstreamBlob>, FillError> {
        let written = self.partial.written();
        if self.length.is_some_and(|length| length == written && written > 0) {
            return Ok(None);
        }
        let range = (written > 0).then_some(BlobRange { from: written, to: None });
        let Source { upstream, child } = &self.fill.source;
        let deadline = Instant::now() + HEAD_BUDGET;
        match upstream.blob(child, &self.fill.digest, range, deadline).await {
            Ok(blob) => Ok(Some(blob)),
            // Nothing lies behind what an earlier process wrote: it is whole, or it is not this content.
            Err(error) if error.status() == Some(416) && written > 0 && self.length.is_none() => {
                if self.partial.verify().is_ok() {
                    return Ok(None);
                }
                self.restart().await?;
                Ok(Some(upstream.blob(child, &self.fill.digest, None, deadline).await?))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn receive(&mut self, blob: UpstreamBlob) -> Result<Received, FillError> {
        let UpstreamBlob { offset, length, body, .. } = blob;
        let mut feed = Feed::new(body);
        let written = self.partial.written();
        if self.length.is_some() && length.is_some() && self.length != length {
            // Two lengths of one digest: one of them is a lie, and the bytes can't be put together.
            return Err(FillError::Contradiction("one digest has two lengths"));
        }
        self.length = self.length.or(length);
        if self.length.is_some_and(|length| written > length) {
            // What an earlier process left is not this content.
            self.restart().await?;
            return Ok(Received::Nothing);
        }
        feed.skip(written.saturating_sub(offset)).await?;
        if let Some(length) = self.length {
            self.make_room(length.saturating_sub(written)).await?;
        }
        self.announce();
        let mut gather = Gather::new(BATCH_BYTES, BATCH_BYTES);
        while let Some(batch) = poll_fn(|context| gather.poll_batch(Pin::new(&mut feed), context)).await {
            let batch = batch?;
            self.append(batch).await?;
            self.tries = 0;
            self.announce();
            self.write_back().await?;
        }
        Ok(Received::All)
    }

    /// Keeps the disk busy with what was appended, and not far behind.
    async fn write_back(&mut self) -> Result<(), FillError> {
        let idle = self.writing.as_ref().is_none_or(JoinHandle::is_finished);
        match self.partial.behind() {
            AHEAD_BYTES.. => Ok(self.partial.write_back(AHEAD_BYTES).await?),
            TURN_BYTES.. if idle => {
                let (work, stop) = (self.partial.write_back(TURN_BYTES), self.shared.stop.clone());
                // What comes of it the next one hears, or the commit.
                self.writing = Some(self.shared.tasks.spawn(async move {
                    let _ = stop.run_until_cancelled(work).await;
                }));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn stop_writing(&mut self) {
        self.partial.stop_write_back();
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
    }

    /// Begins at the first byte again, if nobody has read what an earlier process left.
    async fn restart(&self) -> Result<(), FillError> {
        if self.announced {
            return Err(FillError::Contradiction("the content is shorter than what it gave"));
        }
        Ok(self.partial.restart().await?)
    }

    /// Tells the followers what can be read. The last byte is kept back until all is verified.
    fn announce(&mut self) {
        let written = self.partial.written();
        let ready = match self.length {
            Some(length) if written < length => written,
            _ => written.saturating_sub(1),
        };
        // Nobody is told that bytes come before one did.
        if ready > 0 {
            self.announced = true;
            self.fill.announce(Progress::Filling { length: self.length, ready });
        }
    }

    async fn append(&self, batch: Vec<Bytes>) -> Result<(), FillError> {
        match self.partial.append(batch.clone()).await {
            Err(StoreError::Full(_)) => {
                let bytes = batch.iter().map(|piece| piece.len() as u64).sum();
                self.shared.room.make(bytes).await?;
                Ok(self.partial.append(batch).await?)
            }
            appended => Ok(appended?),
        }
    }

    async fn make_room(&self, bytes: u64) -> Result<(), FillError> {
        match self.partial.admit(bytes) {
            Err(StoreError::Full(_)) => Ok(self.shared.room.make(bytes).await?),
            admitted => Ok(admitted?),
        }
    }
}

/// What came of an answer.
enum Received {
    /// All bytes up to the end.
    All,
    /// What was stored did not fit it and is gone: ask again from the first byte.
    Nothing,
}
