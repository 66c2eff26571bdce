//! The body of a request as the service gets it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::linger::Flow;
use super::stall::Stall;

/// The bytes a client sends. Cut when none arrives for the stall time while the service waits for one.
///
/// Safe to drop at any point: the client gets its answer, and an HTTP/1 connection is closed behind it. As long as it is
/// not polled, a client that sent `Expect: 100-continue` is not told to go on.
#[derive(Debug)]
pub struct RequestBody {
    inner: Incoming,
    stall: Stall,
    flow: Option<Arc<Flow>>,
}

/// Why a request's body ended early. Both are the client's or the network's doing.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// No byte arrived for so long.
    #[error("the client sent no byte of its body for {} s", .0.as_secs_f32())]
    Stalled(Duration),
    /// The connection broke, or the body is malformed.
    #[error("the request's body broke off")]
    Broken(#[source] hyper::Error),
}

impl RequestBody {
    /// `flow`: of the HTTP/1 connection, to be told of the body's end.
    pub(super) fn new(inner: Incoming, stall_timeout: Duration, flow: Option<Arc<Flow>>) -> Self {
        Self { inner, stall: Stall::new(stall_timeout), flow }
    }

    fn read_to_end(&mut self) {
        if let Some(flow) = self.flow.take() {
            flow.body_read();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.stall.moved();
                if self.inner.is_end_stream() {
                    self.read_to_end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.read_to_end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(RequestBodyError::Broken(error)))),
            Poll::Pending => {
                let limit = self.stall.limit();
                self.stall.poll_stalled(cx).map(|()| Some(Err(RequestBodyError::Stalled(limit))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
