//! The body of a request as the service gets it, and that of an HTTP/1 response as hyper gets it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::http1_state::Http1State;
use super::lingering_close::Discard;
use super::stall::Stall;

/// The bytes a client sends. Cut when none arrives for the stall time while the service waits for one.
///
/// Safe to drop at any point: the client gets its response; then an HTTP/1 connection is closed, and the rest of an HTTP/2
/// stream is discarded. Until the first poll a client that sent `Expect: 100-continue` is not told to go on.
#[derive(Debug)]
pub struct RequestBody {
    /// `None` only while this is dropped.
    inner: Option<Incoming>,
    stall: Stall,
    rest: Rest,
}

/// The fate of a body that the service does not read to its end.
#[derive(Debug)]
pub(super) enum Rest {
    /// HTTP/1: the connection is told of the body's end, and is closed after the response where it is told of none.
    Http1(Arc<Http1State>),
    /// HTTP/2: the rest of the stream is discarded.
    Discard(Discard),
    /// Nothing is left to be done.
    Nothing,
}

/// Why a request's body ended early. Both are the client's or the network's doing.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// No byte arrived for this time.
    #[error("the client sent no byte of its body for {} s", .0.as_secs_f32())]
    Stalled(Duration),
    /// The connection broke, or the body is malformed.
    #[error("the request's body broke off")]
    Broken(#[source] hyper::Error),
}

impl RequestBody {
    /// `stall_timeout`: longest wait for a byte. `rest`: the fate of what is not read.
    pub(super) fn new(inner: Incoming, stall_timeout: Duration, rest: Rest) -> Self {
        Self { inner: Some(inner), stall: Stall::new(stall_timeout), rest }
    }

    fn read_to_end(&mut self) {
        if let Rest::Http1(state) = std::mem::replace(&mut self.rest, Rest::Nothing) {
            state.body_read();
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let (Some(inner), Rest::Discard(rest)) =
            (self.inner.take(), std::mem::replace(&mut self.rest, Rest::Nothing))
            && !inner.is_end_stream()
        {
            rest.start(inner);
        }
    }
}

/// The body of an HTTP/1 response. Tells the connection the number of bytes that hyper has taken, and when hyper is done.
/// HTTP/2's is [`super::streams::StreamBody`].
#[derive(Debug)]
pub(super) struct Http1ResponseBody<B> {
    pub(super) body: B,
    pub(super) state: Arc<Http1State>,
    /// Of the request, by [`Http1State::begin`].
    pub(super) number: u64,
}

impl<B> Drop for Http1ResponseBody<B> {
    fn drop(&mut self) {
        self.state.over(self.number);
    }
}

impl<B: Body + Unpin> Body for Http1ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        if self.state.hold() {
            // hyper flushes next; the flush wakes it to poll here again.
            return Poll::Pending;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.state.took(data.remaining());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.stall.moved();
                if self.is_end_stream() {
                    self.read_to_end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.read_to_end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                if matches!(self.rest, Rest::Discard(_)) {
                    self.rest = Rest::Nothing;
                }
                Poll::Ready(Some(Err(RequestBodyError::Broken(error))))
            }
            Poll::Pending => {
                let limit = self.stall.limit();
                self.stall.poll_stalled(cx).map(|()| Some(Err(RequestBodyError::Stalled(limit))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
