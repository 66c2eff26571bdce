//! A body from the upstream that can be looked at before it is taken.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;

use super::FillError;
use crate::oci::{Digest, Hasher};
use crate::upstream::{UpstreamBody, UpstreamError};

/// The next step of a body: bytes, the end, or the break.
type Next = Result<Option<Bytes>, UpstreamError>;

/// The bytes of an answer; the next of them are held after a look at them. Dropping it ends the transfer.
#[derive(Debug)]
pub struct Feed {
    body: UpstreamBody,
    held: VecDeque<Next>,
}

impl Feed {
    /// The bytes of `body`.
    #[must_use]
    pub const fn new(body: UpstreamBody) -> Self {
        Self { body, held: VecDeque::new() }
    }

    /// The next bytes; `None` at the end. Safe to drop.
    ///
    /// # Errors
    /// [`UpstreamError`]: the body broke off or stalled.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        match self.held.pop_front() {
            Some(next) => next,
            None => self.body.chunk().await,
        }
    }

    /// Waits until it is known what comes first: once it has begun, an answer can't become an error. Safe to drop.
    ///
    /// # Errors
    /// [`UpstreamError`]: nothing comes.
    pub async fn peek(&mut self) -> Result<(), UpstreamError> {
        if self.held.is_empty() {
            let next = self.body.chunk().await?;
            self.held.push_back(Ok(next));
        }
        Ok(())
    }

    /// Waits until all of it has come; `None` as soon as it is more than `limit` bytes. What has come stays. Safe to
    /// drop: nothing is lost.
    ///
    /// # Errors
    /// [`UpstreamError`]: it does not come whole.
    pub async fn whole(&mut self, limit: usize) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            let length: usize = self.held.iter().flatten().flatten().map(Bytes::len).sum();
            if length > limit {
                return Ok(None);
            }
            if matches!(self.held.back(), Some(Ok(None))) {
                let mut all = BytesMut::with_capacity(length);
                self.held.iter().flatten().flatten().for_each(|chunk| all.extend_from_slice(chunk));
                return Ok(Some(all.freeze()));
            }
            let next = self.body.chunk().await?;
            self.held.push_back(Ok(next));
        }
    }

    /// Whether something of it has come.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        !self.held.is_empty()
    }

    /// Reads `bytes` away: the upstream ignored a range. `false`: it ended before, and may be all there is.
    pub(super) async fn skip(&mut self, bytes: u64, mut hasher: Option<&mut Hasher>) -> Result<bool, FillError> {
        let mut left = bytes;
        while left > 0 {
            let Some(mut chunk) = self.next().await? else { return Ok(false) };
            let taken = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
            let rest = chunk.split_off(taken);
            if let Some(hasher) = &mut hasher {
                hasher.update(&chunk);
            }
            left -= taken as u64;
            if !rest.is_empty() {
                self.held.push_front(Ok(Some(rest)));
            }
        }
        Ok(true)
    }

    /// Whether all of it, from here to its end, is the content of `digest`.
    pub(super) async fn is(mut self, digest: &Digest) -> Result<bool, UpstreamError> {
        let mut hasher = Hasher::new(digest.algorithm());
        while let Some(chunk) = self.next().await? {
            hasher.update(&chunk);
        }
        Ok(hasher.finish() == *digest)
    }
}

impl Stream for Feed {
    type Item = Result<Bytes, UpstreamError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.held.pop_front() {
            Some(next) => Poll::Ready(next.transpose()),
            None => Pin::new(&mut self.body).poll_next(context),
        }
    }
}
