//! Bodies that know how much of them went through.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::reading::Reading;
use crate::serve::Stream;

/// How far a request's body was read; shared by the body and the one who answers.
#[derive(Debug, Default)]
pub(in crate::api) struct RequestProgress {
    received: AtomicU64,
    ended: AtomicBool,
}

impl RequestProgress {
    /// Bytes of the body received so far.
    pub(in crate::api) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Whether the body was read to its end.
    pub(in crate::api) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// A request's body that counts.
pub(in crate::api) struct CountedBody {
    inner: Body,
    progress: Arc<RequestProgress>,
    stream: Arc<Stream>,
}

impl CountedBody {
    /// `stream`: what it comes in on; while a frame is waited for the client is to move.
    pub(in crate::api) fn new(inner: Body, stream: Arc<Stream>) -> (Self, Arc<RequestProgress>) {
        let progress = Arc::new(RequestProgress::default());
        progress.ended.store(inner.is_end_stream(), Ordering::Relaxed);
        stream.works();
        (Self { inner, progress: Arc::clone(&progress), stream }, progress)
    }
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) else {
            self.stream.owed();
            return Poll::Pending;
        };
        self.stream.works();
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.progress.received.fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                if self.inner.is_end_stream() {
                    self.progress.ended.store(true, Ordering::Relaxed);
                }
            }
            Some(Err(_)) => {}
            None => self.progress.ended.store(true, Ordering::Relaxed),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What is told when an answer is over: sent whole, or dropped before its end.
pub(in crate::api) trait Finish: Send + 'static {
    /// `sent` bytes were handed to the connection; `whole`: all there were. `failure`: why a stored file could not be read.
    fn finish(self, sent: u64, whole: bool, failure: Option<&str>);
}

/// An answer's body that tells its end.
///
/// At an error hyper closes the connection with all that it has not sent yet, the head too; a break is therefore told one
/// poll later, after hyper has flushed what came before it.
pub(in crate::api) struct ResponseBody<F: Finish> {
    inner: Body,
    stream: Arc<Stream>,
    broken: Option<axum::Error>,
    sent: u64,
    whole: bool,
    finish: Option<F>,
    /// The stored file that it is made of: the end is told when the last of that is gone.
    reading: Option<Arc<Reading>>,
}

impl<F: Finish> ResponseBody<F> {
    /// `head`: the answer is to a HEAD, so its body is never asked for. `stream`: what it goes out on; the client is to move
    /// but while the body waits for its source.
    pub(in crate::api) fn new(inner: Body, head: bool, stream: Arc<Stream>, finish: F) -> Self {
        let whole = head || inner.is_end_stream();
        stream.owed();
        Self { inner, stream, broken: None, sent: 0, whole, finish: Some(finish), reading: None }
    }

    /// Has its end told when the last of a stored file is gone.
    pub(in crate::api) fn made_of(mut self, reading: Option<Arc<Reading>>) -> Self {
        self.reading = reading;
        self
    }
}

impl<F: Finish + Unpin> http_body::Body for ResponseBody<F> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) else {
            self.stream.works();
            return Poll::Pending;
        };
        self.stream.owed();
        self.stream.moved();
        match frame {
            Some(Err(error)) => {
                self.whole = false;
                self.broken = Some(error);
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Ok(ref frame)) => {
                self.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                self.whole = self.inner.is_end_stream();
            }
            None => self.whole = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<F: Finish> Drop for ResponseBody<F> {
    fn drop(&mut self) {
        let Some(finish) = self.finish.take() else { return };
        let (sent, whole) = (self.sent, self.whole);
        match self.reading.take() {
            Some(reading) => reading.at_end(Box::new(move |failure| finish.finish(sent, whole, failure))),
            None => finish.finish(sent, whole, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures_util::stream;
    use http_body_util::BodyExt as _;

    use super::*;

    struct Nothing;

    impl Finish for Nothing {
        fn finish(self, _: u64, _: bool, _: Option<&str>) {}
    }

    #[test]
    fn what_came_before_a_break_can_be_flushed_before_it_is_told() {
        let chunks = [Ok(Bytes::from_static(b"before")), Err(io::Error::from(io::ErrorKind::ConnectionReset))];
        let mut body = ResponseBody::new(Body::from_stream(stream::iter(chunks)), false, Arc::default(), Nothing);
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut poll = || Pin::new(&mut body).poll_frame(&mut context);
        assert!(matches!(poll(), Poll::Ready(Some(Ok(_)))));
        assert!(poll().is_pending());
        assert!(matches!(poll(), Poll::Ready(Some(Err(_)))));
    }

    #[tokio::test]
    async fn a_break_wakes_who_waits() {
        let chunks = [Err::<Bytes, _>(io::Error::from(io::ErrorKind::ConnectionReset))];
        let mut body = ResponseBody::new(Body::from_stream(stream::iter(chunks)), false, Arc::default(), Nothing);
        assert!(body.frame().await.unwrap().is_err());
    }
}
