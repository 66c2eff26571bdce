//! A body from the upstream that can be looked at before it is taken.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;

use super::FillError;
use crate::upstream::{UpstreamBody, UpstreamError};

/// What comes next: bytes, the end, or the break.
type Next = Result<Option<Bytes>, UpstreamError>;

/// The bytes of an answer, with the next of them held if somebody has looked. Dropping it ends the transfer.
#[derive(Debug)]
pub struct Feed {
    body: UpstreamBody,
    held: Option<Next>,
}

impl Feed {
    /// The bytes of `body`.
    #[must_use]
    pub const fn new(body: UpstreamBody) -> Self {
        Self { body, held: None }
    }

    /// The next bytes; `None` at the end. Safe to drop.
    ///
    /// # Errors
    /// [`UpstreamError`]: the body broke off or stalled.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        match self.held.take() {
            Some(next) => next,
            None => self.body.chunk().await,
        }
    }

    /// Waits until it is known what comes first: once it has begun, an answer can't become an error. Safe to drop.
    ///
    /// # Errors
    /// [`UpstreamError`]: nothing comes.
    pub async fn peek(&mut self) -> Result<(), UpstreamError> {
        if self.held.is_none() {
            self.held = Some(Ok(self.body.chunk().await?));
        }
        Ok(())
    }

    /// Reads `bytes` away: the upstream ignored a range.
    pub(super) async fn skip(&mut self, bytes: u64) -> Result<(), FillError> {
        let mut left = bytes;
        while left > 0 {
            let Some(mut chunk) = self.next().await? else {
                return Err(FillError::Contradiction("the content is shorter than it was"));
            };
            let taken = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
            let rest = chunk.split_off(taken);
            left -= taken as u64;
            if !rest.is_empty() {
                self.held = Some(Ok(Some(rest)));
            }
        }
        Ok(())
    }
}

impl Stream for Feed {
    type Item = Result<Bytes, UpstreamError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.held.take() {
            Some(next) => Poll::Ready(next.transpose()),
            None => Pin::new(&mut self.body).poll_next(context),
        }
    }
}
