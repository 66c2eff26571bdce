//! Bodies of answers: never silently short, never waited for without end, counted.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, Response};
use http_body::Body as _;
use tokio::time::{Instant, Sleep, sleep, timeout_at};

use super::error::{Facts, UpstreamError};
use super::failure::{in_body, seconds};
use crate::telemetry::{Metrics, UpstreamCause};

/// A body that arrives. Dropping it ends the transfer.
///
/// It ends without an error only if every byte that was announced has come. When nothing arrives for the stall limit
/// while it is waited for, it fails; the time its reader takes does not count.
pub struct UpstreamBody {
    body: reqwest::Body,
    host: String,
    metrics: Metrics,
    /// Bytes that are to come, if that was announced.
    left: Option<u64>,
    stall: Duration,
    /// Armed anew when it runs out, not with every piece.
    timer: Pin<Box<Sleep>>,
    /// Since when the next piece is waited for.
    waiting: Option<Instant>,
    ended: bool,
}

impl UpstreamBody {
    pub(super) fn new(response: reqwest::Response, host: &str, metrics: &Metrics, stall: Duration) -> Self {
        let left = announced(response.headers());
        let body = Response::<reqwest::Body>::from(response).into_body();
        Self {
            body,
            host: host.to_owned(),
            metrics: metrics.clone(),
            left,
            stall,
            timer: Box::pin(sleep(stall)),
            waiting: None,
            ended: false,
        }
    }

    /// Says how many bytes are to come, where the answer did not announce it: fewer are then an end that came too
    /// early, and more are an error.
    pub fn expect(&mut self, bytes: u64) {
        self.left.get_or_insert(bytes);
    }

    /// The next piece; `None` at the end. Safe to drop: no byte is lost.
    ///
    /// # Errors
    /// [`UpstreamError`] of cause `Unreachable` when the connection broke or bytes are missing, `Timeout` when nothing
    /// came for the stall limit. After an error, or the end, it is always the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        std::future::poll_fn(|context| self.poll_chunk(context)).await.transpose()
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = self.poll_bytes(context);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.ended = true;
        }
        polled
    }

    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                ready!(self.poll_stalled(context));
                let what = format!("sent nothing of its answer for {}", seconds(self.stall));
                return Poll::Ready(Some(Err(UpstreamError::timeout(&self.host, what))));
            };
            self.waiting = None;
            match frame {
                Some(Ok(frame)) => {
                    // Trailers mean nothing here.
                    let Ok(bytes) = frame.into_data() else { continue };
                    if bytes.is_empty() {
                        continue;
                    }
                    return Poll::Ready(Some(self.count(bytes)));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(in_body(&self.host, &error)))),
                None => return Poll::Ready(self.missing().map(Err)),
            }
        }
    }

    /// To be polled while a piece is waited for; ready when it has been for the stall limit.
    fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let deadline = *self.waiting.get_or_insert_with(Instant::now) + self.stall;
        loop {
            ready!(self.timer.as_mut().poll(context));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
    }

    fn count(&mut self, bytes: Bytes) -> Result<Bytes, UpstreamError> {
        let length = bytes.len() as u64;
        self.metrics.upstream_received(length);
        if let Some(left) = &mut self.left {
            *left = left
                .checked_sub(length)
                .ok_or_else(|| UpstreamError::invalid(&self.host, "sent more than it announced"))?;
        }
        Ok(bytes)
    }

    /// The error of an end that came too early.
    fn missing(&self) -> Option<UpstreamError> {
        let left = self.left.filter(|left| *left > 0)?;
        let what = format!("cut its answer short: {left} bytes are missing");
        Some(Facts::new(UpstreamCause::Unreachable, self.host.as_str(), what).again().into())
    }

    /// All of it, at most `limit` bytes.
    pub(super) async fn whole(mut self, limit: usize, deadline: Instant) -> Result<Bytes, UpstreamError> {
        let too_large = |host: &str| UpstreamError::invalid(host, format!("sent an answer larger than {limit} bytes"));
        if self.left.is_some_and(|left| left > limit as u64) {
            return Err(too_large(&self.host));
        }
        let mut all = BytesMut::new();
        loop {
            let next = timeout_at(deadline, self.chunk()).await;
            let next = next.map_err(|_| UpstreamError::timeout(&self.host, "did not finish its answer in time"))?;
            let Some(bytes) = next? else { return Ok(all.freeze()) };
            if all.len() + bytes.len() > limit {
                return Err(too_large(&self.host));
            }
            all.extend_from_slice(&bytes);
        }
    }
}

impl Stream for UpstreamBody {
    type Item = Result<Bytes, UpstreamError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_chunk(context)
    }
}

impl std::fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamBody").field("host", &self.host).field("left", &self.left).finish_non_exhaustive()
    }
}

/// The length of a header, which for HEAD is not that of the body.
pub(super) fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Refuses an answer that is encoded although nothing but `identity` was asked for: its bytes are not the content.
pub(super) fn check_encoding(host: &str, headers: &HeaderMap) -> Result<(), UpstreamError> {
    for value in headers.get_all(CONTENT_ENCODING) {
        let text = value.to_str().unwrap_or("?");
        if !text.trim().is_empty() && !text.trim().eq_ignore_ascii_case("identity") {
            let what = format!("sent an answer encoded as {text:?} although none was asked for");
            return Err(UpstreamError::invalid(host, what));
        }
    }
    Ok(())
}
