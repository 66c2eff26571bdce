//! Reading a content while it is being filled.

use std::fs::File;
use std::sync::Arc;
use tokio::time::Instant;

use tokio::sync::watch;

use super::fill::{Fill, Progress};
use super::fills::HEAD_BUDGET;
use super::{Feed, FillError, Source};
use crate::oci::Digest;
use crate::store::{Lease, StoreError};
use crate::upstream::BlobRange;

/// A follower of a fill. Every client that is served from a fill has one; it reads at its own speed, and dropping it
/// changes nothing for the rest.
#[derive(Debug)]
pub struct FillReader {
    fill: Arc<Fill>,
    progress: watch::Receiver<Progress>,
    file: Arc<File>,
    /// Where to go on if the store can't take the rest.
    source: Source,
    _lease: Lease,
}

/// What is to be had behind an offset.
#[derive(Debug)]
pub enum Beyond {
    /// The bytes up to this offset can be read from the file.
    Upto(u64),
    /// Nothing: the content ends here.
    End,
    /// The store can't take the rest; this is the rest, straight from the upstream.
    Relay(Box<Feed>),
}

impl FillReader {
    pub(super) const fn new(
        fill: Arc<Fill>,
        progress: watch::Receiver<Progress>,
        file: Arc<File>,
        source: Source,
        lease: Lease,
    ) -> Self {
        Self { fill, progress, file, source, _lease: lease }
    }

    /// The file that is being filled. It stays readable whatever becomes of the fill.
    #[must_use]
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Digest of the content.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.fill.digest()
    }

    /// Waits until something behind `offset` can be read, or the content ends there. The last byte is never given out
    /// before the whole was verified. Safe to drop.
    ///
    /// # Errors
    /// [`FillError`]: the rest does not come.
    pub async fn beyond(&mut self, offset: u64) -> Result<Beyond, FillError> {
        loop {
            let progress = self.progress.borrow_and_update().clone();
            match progress {
                Progress::Connecting => {}
                Progress::Filling { ready, .. } if ready > offset => return Ok(Beyond::Upto(ready)),
                Progress::Filling { .. } => {}
                Progress::Whole { size } if size > offset => return Ok(Beyond::Upto(size)),
                Progress::Whole { .. } => return Ok(Beyond::End),
                // The upstream still has it: the client gets it without the store.
                Progress::Failed(FillError::Store(StoreError::Full(_) | StoreError::Io { .. })) => {
                    return self.relay(offset).await;
                }
                Progress::Failed(error) => return Err(error),
            }
            if self.progress.changed().await.is_err() {
                return Err(FillError::Stopping);
            }
        }
    }

    async fn relay(&self, offset: u64) -> Result<Beyond, FillError> {
        let range = (offset > 0).then_some(BlobRange { from: offset, to: None });
        let deadline = Instant::now() + HEAD_BUDGET;
        let Source { upstream, child } = &self.source;
        let blob = upstream.blob(child, &self.fill.digest(), range, deadline).await?;
        let mut feed = Feed::new(blob.body);
        feed.skip(offset.saturating_sub(blob.offset)).await?;
        Ok(Beyond::Relay(Box::new(feed)))
    }
}
