//! Reading a content while it is being filled.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::fill::{Fill, FillProgress};
use super::fills::{HEAD_BUDGET, HELD_BYTES};
use super::{Feed, FillError, Part, PartAnswer, Proof, Source};
use crate::oci::{Digest, Hasher};
use crate::store::{Lease, StoreError};
use crate::upstream::BlobRange;

/// Bytes that are read in one go to be hashed again.
const HASHED_BYTES: usize = 256 * 1024;

/// A follower of a fill. Every client that is served from a fill has one; it reads at its own speed, and dropping it
/// changes nothing for the rest.
#[derive(Debug)]
pub struct FillReader {
    fill: Arc<Fill>,
    progress: watch::Receiver<FillProgress>,
    file: Arc<File>,
    /// Gives the rest if the store can't take it.
    source: Source,
    _lease: Lease,
}

/// The bytes that can be had behind an offset.
#[derive(Debug)]
pub enum Beyond {
    /// The bytes up to this offset can be read from the file.
    Upto(u64),
    /// Nothing: the content ends here.
    End,
    /// The fill has failed; this is the rest, straight from the upstream.
    Relay(Box<Relayed>),
}

/// The rest of a content from the upstream.
#[derive(Debug)]
pub struct Relayed {
    /// Its bytes.
    pub feed: Feed,
    /// Has seen all bytes before; `None`: they were not all there.
    pub proof: Option<Proof>,
    /// Length of the whole content, if the upstream said it.
    pub length: Option<u64>,
}

impl FillReader {
    pub(super) const fn new(
        fill: Arc<Fill>,
        progress: watch::Receiver<FillProgress>,
        file: Arc<File>,
        source: Source,
        lease: Lease,
    ) -> Self {
        Self { fill, progress, file, source, _lease: lease }
    }

    /// The file that is being filled, and holds this content alone. It stays readable whatever becomes of the fill.
    #[must_use]
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Ends when the fill is over: what came is stored by then, or could not be. Safe to drop.
    pub async fn over(&self) {
        self.fill.over.cancelled().await;
    }

    /// Why the fill has failed; `None`: it has not.
    #[must_use]
    pub fn failure(&self) -> Option<FillError> {
        match &*self.progress.borrow() {
            FillProgress::Failed(error) => Some(error.clone()),
            FillProgress::Connecting | FillProgress::Filling { .. } | FillProgress::Whole { .. } => None,
        }
    }

    /// Digest of the content.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.fill.digest()
    }

    /// Waits until a byte behind `offset` can be read, or the content ends there. `end`: where the read will end; `None`: at
    /// the content's end. The content's last byte is never given out before the whole was verified. Of a small content, if
    /// the read does not reach its end, no byte is. Safe to drop.
    ///
    /// # Errors
    /// [`FillError`]: the rest does not come.
    pub async fn beyond(&mut self, offset: u64, end: Option<u64>) -> Result<Beyond, FillError> {
        loop {
            let progress = self.progress.borrow_and_update().clone();
            match progress {
                FillProgress::Filling { ready, length } if ready > offset && !is_inside_small(end, length) => {
                    return Ok(Beyond::Upto(ready));
                }
                FillProgress::Connecting | FillProgress::Filling { .. } => {}
                FillProgress::Whole { size } if size > offset => return Ok(Beyond::Upto(size)),
                FillProgress::Whole { .. } => return Ok(Beyond::End),
                FillProgress::Failed(error @ FillError::Store(StoreError::DigestMismatch { .. })) => return Err(error),
                // The upstream still has it: the client gets it without the store.
                FillProgress::Failed(FillError::Store(_)) => {
                    return self.relay(offset).await;
                }
                // Another upstream has failed, not the client's own.
                FillProgress::Failed(FillError::Upstream(_) | FillError::Unfit(_))
                    if !self.fill.is_from(&self.source) =>
                {
                    return self.relay(offset).await;
                }
                FillProgress::Failed(error) => return Err(error),
            }
            if self.progress.changed().await.is_err() {
                return Err(FillError::Stopping);
            }
        }
    }

    /// Goes on without the fill: with the bytes in the file first, then with the rest from the upstream.
    async fn relay(&self, offset: u64) -> Result<Beyond, FillError> {
        let (digest, left) = (self.fill.digest(), self.fill.left());
        let hasher = match left {
            Some(left) if left.hasher.is_some() && left.written > offset => return Ok(Beyond::Upto(left.written)),
            Some(left) if left.written == offset && left.hasher.is_some() => left.hasher.clone(),
            Some(left) if left.written < offset => None,
            _ => Some(self.hash(offset).await.ok_or(FillError::Unfit("what was stored of it can't be read"))?),
        };
        let length = left.and_then(|left| left.length);
        let range = BlobRange { from: offset, to: None };
        let part = Part { length, ..Part::of(range) };
        let blob = match self.source.part(&digest, part, Instant::now() + HEAD_BUDGET).await? {
            PartAnswer::Blob(blob) => blob,
            PartAnswer::Behind(length) if length == offset => return Ok(Beyond::End),
            PartAnswer::Behind(_) => return Err(FillError::Unfit("the content is shorter than it was")),
        };
        let mut feed = Feed::new(blob.body);
        if !feed.skip(offset.saturating_sub(blob.offset), None).await? {
            return Err(FillError::Unfit("the content is shorter than it was"));
        }
        let proof = hasher.map(|hasher| Proof::behind(hasher, digest, self.source.clone()));
        Ok(Beyond::Relay(Box::new(Relayed { feed, proof, length: blob.length })))
    }

    /// Hashes what is in the file before `offset`; `None`: it can't be read, or not all of it is there.
    async fn hash(&self, offset: u64) -> Option<Hasher> {
        let (file, mut hasher) = (Arc::clone(&self.file), Hasher::new(self.fill.digest().algorithm()));
        let hashed = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; HASHED_BYTES];
            let mut at = 0;
            while at < offset {
                let most = usize::try_from(offset - at).map_or(HASHED_BYTES, |left| left.min(HASHED_BYTES));
                let read = file.read_at(&mut buffer[..most], at).ok().filter(|read| *read > 0)?;
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
            Some(hasher)
        });
        hashed.await.ok().flatten()
    }
}

/// Whether a read of a small content does not reach its end.
fn is_inside_small(end: Option<u64>, length: Option<u64>) -> bool {
    end.zip(length).is_some_and(|(end, length)| end < length && length <= HELD_BYTES)
}
