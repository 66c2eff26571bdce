//! The bytes of a fill come in: over as many answers as it takes, each asked for from where the one before it ended.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::evictor::{Stake, Wanted};
use super::fill::{Fill, FillProgress};
use super::fills::{HEAD_BUDGET, Shared};
use super::ways::Way;
use super::{Feed, FillError, Gather, Part, PartAnswer};
use crate::oci::Hasher;
use crate::store::{PartialBlob, Refusal, StoreError, TURN_BYTES};
use crate::telemetry::{UpstreamCause, with_causes};
use crate::upstream::{BlobRange, Patience, UpstreamBlob};

/// Tries to go on after a break, without a byte in between, before the fill is given up.
const TRIES: u32 = 5;

/// From this try on without a byte in between, a range that fails is asked for in another way.
const SAME_WAY_TRIES: u32 = 2;

/// Longest wait for the first byte of an answer, whether or not a client still waits: a proxy that looks for viruses gives
/// it when it has the last one. At most [`super::fills::MOST_SLOW`] fills wait longer than [`HEAD_BUDGET`] at once.
const FIRST_BYTE_PATIENCE: Duration = Duration::from_secs(600);

/// Most bytes of one write to the file. Each write costs two changes of threads and a wake of every follower.
pub const BATCH_BYTES: usize = 1024 * 1024;

/// Most bytes that were written and not sent to the disk: the fills of small layers never wait for it.
const AHEAD_BYTES: u64 = 8 * 1024 * 1024;

/// Longest wait for room: clients go on without the store then, and want headers in time.
const ROOM_BUDGET: Duration = Duration::from_secs(5);

/// Whether asking again may help.
fn is_passing(error: &FillError) -> bool {
    match error {
        FillError::Upstream(error) => matches!(
            error.cause(),
            UpstreamCause::Unreachable
                | UpstreamCause::Timeout
                | UpstreamCause::ServerError
                | UpstreamCause::RateLimited
        ),
        FillError::Unfit(_) => true,
        _ => false,
    }
}

/// Brings a content into its file.
pub(super) struct Filler<'a> {
    shared: &'a Shared,
    fill: &'a Fill,
    partial: &'a PartialBlob,
    /// Length of the whole content, once the upstream said it.
    length: Option<u64>,
    /// The form of request for the rest.
    way: Way,
    /// Tries since the last byte.
    tries: u32,
    /// Followers may have read bytes: what they read is never replaced by others.
    announced: bool,
    /// Sends bytes to the disk while the next ones come in.
    writing: Option<JoinHandle<()>>,
    /// The length that stored manifests give the content, once somebody had to know: `None` if none does, or another.
    named: Option<Option<u64>>,
    /// Its part of the cache, if no manifest names its length.
    stake: Option<Stake>,
}

impl<'a> Filler<'a> {
    pub(super) fn new(shared: &'a Shared, fill: &'a Fill, partial: &'a PartialBlob) -> Self {
        Self {
            shared,
            fill,
            partial,
            length: None,
            way: Way::default(),
            tries: 0,
            announced: false,
            writing: None,
            named: None,
            stake: None,
        }
    }

    /// Length of the whole content, once the upstream said it.
    pub(super) const fn length(&self) -> Option<u64> {
        self.length
    }

    /// Brings all bytes in, over as many answers as it takes.
    pub(super) async fn fill(&mut self) -> Result<(), FillError> {
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
                Ok(Received::Part) => {}
                // The client's own budget runs before the first byte: it hears at once.
                Err(error) if answered && is_passing(&error) && self.tries < TRIES => self.rest(&error).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits before the next try.
    async fn rest(&mut self, error: &FillError) {
        let (asked_for, is_of_server) = match error {
            FillError::Upstream(error) => (error.retry_after(), error.cause() == UpstreamCause::ServerError),
            _ => (None, true),
        };
        if is_of_server && self.tries >= SAME_WAY_TRIES {
            self.way = self.way.next();
        }
        let pause = asked_for.unwrap_or_default().max(self.pause()).min(Duration::from_secs(30));
        self.tries += 1;
        let (digest, written) = (self.fill.digest(), self.partial.written());
        tracing::info!(%digest, written, error = %with_causes(error), "a fill broke off and is resumed");
        tokio::time::sleep(pause).await;
    }

    fn pause(&self) -> Duration {
        let doubled = self.shared.options.pause.saturating_mul(1 << self.tries.min(6));
        // Half of it is left to chance, so that many broken fills don't come back together.
        doubled / 2 + doubled.mul_f64(f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 512.0)
    }

    /// Asks for the content from where the file ends; `None`: the file is whole. The first byte is waited for longer than
    /// any client waits, by [`super::fills::MOST_SLOW`] fills at once.
    async fn ask(&mut self) -> Result<Option<UpstreamBlob>, FillError> {
        let written = self.partial.written();
        if self.length.is_some_and(|length| length == written && written > 0) {
            return Ok(None);
        }
        let (source, digest, now) = (self.fill.source(), &self.fill.digest(), Instant::now());
        let part = Part { range: BlobRange { from: written, to: None }, length: self.length, slices: true };
        let patience = Patience { asking: now + HEAD_BUDGET, answer: now + FIRST_BYTE_PATIENCE };
        let asked = {
            let mut asking = pin!(source.part_by(digest, part, &mut self.way, patience));
            match tokio::time::timeout(HEAD_BUDGET, asking.as_mut()).await {
                Ok(asked) => asked?,
                Err(_) => {
                    let Ok(_slow) = self.shared.slow.try_acquire() else { return Err(FillError::Timeout) };
                    asking.await?
                }
            }
        };
        match asked {
            PartAnswer::Blob(blob) => Ok(Some(blob)),
            // The bytes that an earlier process left are all of the content, or not its own.
            PartAnswer::Behind(_) if self.partial.verify().is_ok() => Ok(None),
            PartAnswer::Behind(_) => {
                self.restart().await?;
                let patience = Patience { asking: Instant::now() + HEAD_BUDGET, ..patience };
                Ok(Some(source.upstream.blob(&source.child, digest, None, patience).await?))
            }
        }
    }

    async fn receive(&mut self, blob: UpstreamBlob) -> Result<Received, FillError> {
        let UpstreamBlob { offset, end, length, mut body, .. } = blob;
        let written = self.partial.written();
        if let (Some(known), Some(told)) = (self.length, length)
            && known != told
        {
            // One of them is a lie. Not taken: a page of a portal must not end what has come.
            return Err(FillError::Unfit("one digest has two lengths"));
        }
        let known = self.length.or(length);
        if let Some(length) = known
            && end.is_none()
        {
            body.expect(length.saturating_sub(offset));
        }
        let mut feed = Feed::new(body);
        if known.is_some_and(|length| written > length) {
            return self.begin_anew_if(feed.is(&self.fill.digest()).await?).await;
        }
        // Nobody knows how much comes: it may be all there is, and less than what is stored.
        let mut hasher = (known.is_none() && offset == 0).then(|| Hasher::new(self.fill.digest().algorithm()));
        if !feed.skip(written.saturating_sub(offset), hasher.as_mut()).await? {
            let is_content = hasher.is_some_and(|hasher| hasher.finish() == self.fill.digest());
            return self.begin_anew_if(is_content).await;
        }
        self.length = known;
        if let Some(length) = self.length {
            self.expect(length.saturating_sub(written)).await?;
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
        // Only a part that was announced as such ends before the content does.
        Ok(if self.length.is_some_and(|length| self.partial.written() < length) {
            Received::Part
        } else {
            Received::All
        })
    }

    /// The upstream's whole answer is shorter than what is stored: if it is the content, what is stored is not.
    async fn begin_anew_if(&self, is_content: bool) -> Result<Received, FillError> {
        if !is_content {
            return Err(FillError::Unfit("it sends less than it gave before, and that is not the content"));
        }
        self.restart().await?;
        Ok(Received::Part)
    }

    /// Keeps the disk busy with what was appended, and not far behind.
    async fn write_back(&mut self) -> Result<(), FillError> {
        let idle = self.writing.as_ref().is_none_or(JoinHandle::is_finished);
        match self.partial.behind() {
            AHEAD_BYTES.. => Ok(self.partial.write_back(AHEAD_BYTES).await?),
            TURN_BYTES.. if idle => {
                let (work, stop) = (self.partial.write_back(TURN_BYTES), self.shared.stop.clone());
                // Its error is heard by the next write-back, or by the commit.
                self.writing = Some(self.shared.tasks.spawn(async move {
                    let _ = stop.run_until_cancelled(work).await;
                }));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Ends what is sent to the disk beside the next bytes.
    pub(super) async fn stop_writing(&mut self) {
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
            self.fill.announce(FillProgress::Filling { length: self.length, ready });
        }
    }

    async fn append(&mut self, batch: Vec<Bytes>) -> Result<(), FillError> {
        match self.partial.append(batch.clone()).await {
            Err(StoreError::Full(refusal)) => {
                let bytes = batch.iter().map(|piece| piece.len() as u64).sum();
                self.make_room(refusal, bytes).await?;
                Ok(self.partial.append(batch).await?)
            }
            appended => Ok(appended?),
        }
    }

    /// Looks whether what is still to come can have room, and makes it for the first of it.
    async fn expect(&mut self, bytes: u64) -> Result<(), FillError> {
        match self.partial.admit(bytes).await {
            Err(StoreError::Full(refusal)) => self.make_room(refusal, bytes.min(BATCH_BYTES as u64)).await,
            admitted => Ok(admitted?),
        }
    }

    /// Makes room for `now` more bytes, for [`ROOM_BUDGET`] at most. The walk goes on behind it, for the next fill.
    async fn make_room(&mut self, refusal: Refusal, now: u64) -> Result<(), FillError> {
        if !matches!(refusal, Refusal::BudgetExhausted { .. } | Refusal::ReserveExhausted { .. }) {
            return Ok(self.shared.evictor.make_room_after(refusal, now).await?);
        }
        let written = self.partial.written();
        let left = self.length.map_or(now, |length| length.saturating_sub(written)).max(now);
        if !self.is_named(written + now).await {
            self.stake.get_or_insert_with(|| self.shared.evictor.stake()).raise(written + left).await?;
        }
        let (evictor, wanted) = (self.shared.evictor.clone(), Wanted { now, all: left });
        let mut making = self.shared.tasks.spawn(async move { evictor.make_room(wanted).await });
        match tokio::time::timeout(ROOM_BUDGET, &mut making).await {
            Ok(made) => Ok(made.unwrap_or(Err(StoreError::Full(refusal)))?),
            Err(_) => Ok(self.partial.admit(now).await?),
        }
    }

    /// Whether a stored manifest gives the content a length that is the upstream's, if that said one, and at least `bytes`.
    async fn is_named(&mut self, bytes: u64) -> bool {
        let named = match self.named {
            Some(named) => named,
            None => {
                let mut lengths = Vec::new();
                for repo in self.fill.for_whom() {
                    // Manifests that can't be read name nothing.
                    lengths
                        .extend(self.shared.store.named_lengths(&repo, self.fill.digest()).await.unwrap_or_default());
                }
                let named = match self.length {
                    Some(length) => lengths.contains(&length).then_some(length),
                    None => lengths.into_iter().max(),
                };
                *self.named.insert(named)
            }
        };
        named.is_some_and(|length| bytes <= length)
    }
}

/// The outcome of one answer.
enum Received {
    /// All bytes up to the end.
    All,
    /// Some, or none because what was stored was not the content and is gone: the rest is to be asked for.
    Part,
}
