//! The orderly close of an HTTP/1 connection whose client may still send.
//!
//! A socket that is closed with unread bytes, or that gets some after it was closed, answers them with a reset, and a reset
//! may overtake the answer: a client whose push was refused early would see a broken connection instead of its status,
//! and one that sends requests ahead would lose the end of an answer behind which the connection is closed. So the write
//! side is closed first, then what the client still sends is read away until it ends too, then the socket is closed (RFC
//! 9112, 9.6). Only a connection on which nothing is under way is closed at once.
//!
//! A client that sends more than is read away stands still after it: the socket stays open and unread for the rest of
//! the time. nginx without request buffering writes as long as it can and only then looks for an answer; closed at once
//! it would find a broken pipe and make a 502 of our status.
//!
//! On HTTP/2 the body of the one stream is read away by [`ReadAway`].
//!
//! This sits in `poll_shutdown` and not behind hyper's `without_shutdown`: hyper calls it only after everything it
//! has buffered is written, which `without_shutdown` does not wait for.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::task::TaskTracker;

use super::admission::Guest;
use super::http1_state::Flow;
use super::transport::Transport;

/// Most bytes that are read away, on the wire.
const LINGER_BYTES: usize = 8 * 1024 * 1024;

/// Read away at once, on the stack: a buffer for each connection would be memory that anybody can have taken.
const SCRATCH: usize = 16 * 1024;

#[derive(Debug)]
enum Stage {
    Open,
    /// `timer`: made when nothing is there to be read.
    ReadingAway {
        timer: Option<Pin<Box<Sleep>>>,
        left: usize,
    },
    Done,
}

/// The I/O of one HTTP/1 connection.
#[derive(Debug)]
pub(super) struct Lingering {
    transport: Transport,
    flow: Arc<Flow>,
    time: Duration,
    ended: bool,
    stage: Stage,
}

impl Lingering {
    /// Takes the connection over. `time`: how long its end may take.
    pub(super) const fn new(transport: Transport, flow: Arc<Flow>, time: Duration) -> Self {
        Self { transport, flow, time, ended: false, stage: Stage::Open }
    }

    fn poll_read_away(
        transport: &mut Transport,
        cx: &mut Context<'_>,
        time: Duration,
        timer: &mut Option<Pin<Box<Sleep>>>,
        left: &mut usize,
    ) -> Poll<()> {
        let mut scratch = [MaybeUninit::uninit(); SCRATCH];
        while *left > 0 {
            let mut buf = ReadBuf::uninit(&mut scratch);
            match Pin::new(transport.raw()).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => *left = left.saturating_sub(buf.filled().len()),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        timer.get_or_insert_with(|| Box::pin(sleep(time))).as_mut().poll(cx)
    }
}

impl AsyncRead for Lingering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match ready!(Pin::new(&mut self.transport).poll_read(cx, buf)) {
            Ok(()) if buf.filled().len() > before => self.flow.received(),
            Ok(()) => self.ended = true,
            // TCP ended where TLS did not (RFC 9112, 9.8). A request tells its own length: what is cut is not taken for whole.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.ended = true,
            Err(error) => return Poll::Ready(Err(error)),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        loop {
            match &mut me.stage {
                Stage::Open => {
                    ready!(Pin::new(&mut me.transport).poll_shutdown(cx))?;
                    me.transport.raw().read_away();
                    me.stage = if me.ended || me.flow.ends_at_once() {
                        Stage::Done
                    } else {
                        Stage::ReadingAway { timer: None, left: LINGER_BYTES }
                    };
                }
                Stage::ReadingAway { timer, left } => {
                    ready!(Self::poll_read_away(&mut me.transport, cx, me.time, timer, left));
                    me.stage = Stage::Done;
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Reads away, beside the answer, what the service left of an HTTP/2 request's body.
///
/// Without it the stream is reset as soon as the answer is written, and curl 7.88 then throws the answer away.
#[derive(Clone, Debug)]
pub(super) struct ReadAway {
    /// Where it is done.
    pub(super) tasks: TaskTracker,
    /// How long it may take.
    pub(super) time: Duration,
    /// To whom what comes in was charged.
    pub(super) guest: Arc<Guest>,
}

impl ReadAway {
    /// Reads until the body's end, as far as bytes and time go; then the stream is reset.
    pub(super) fn take(self, mut body: Incoming) {
        let time = self.time;
        self.tasks.spawn(async move {
            let reading = async {
                let mut left = LINGER_BYTES;
                while let Some(Ok(frame)) = body.frame().await {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    self.guest.has_dropped(bytes);
                    left = left.saturating_sub(bytes);
                    if left == 0 {
                        break;
                    }
                }
            };
            // Too slow is as good as too much.
            let _ = timeout(time, reading).await;
        });
    }
}
