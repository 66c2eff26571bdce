//! The orderly close of an HTTP/1 connection whose client may still send.
//!
//! A socket that is closed with unread bytes, or that receives some after its close, answers with a reset, and a reset may
//! overtake the response. A client whose push was refused early would see a broken connection instead of its status; a
//! client that sends requests ahead would lose the end of the last response. So the write side is closed first, then
//! input is discarded until the client closes too, then the socket is closed (RFC 9112, 9.6; nginx calls it lingering
//! close). Only a connection on which nothing is under way is closed at once.
//!
//! The socket of a client that sends more than [`LINGER_BYTES`] stays open and unread for the rest of the time. nginx
//! without request buffering writes until it can't and only then looks for a response: closed at once, it would find a
//! broken pipe and answer 502 instead of our status.
//!
//! On HTTP/2 the rest of the one stream is discarded, by [`Discard`].
//!
//! The close sits in `poll_shutdown` and does not use hyper's `without_shutdown`: hyper calls `poll_shutdown` only after
//! all that it holds is written, which `without_shutdown` does not wait for.

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
use super::http1_state::Http1State;
use super::transport::Transport;

/// Most bytes discarded, on the wire.
const LINGER_BYTES: usize = 8 * 1024 * 1024;

/// Bytes discarded by one read. The buffer is on the stack: one on the heap for each connection would be memory that any
/// client can claim.
const SCRATCH: usize = 16 * 1024;

#[derive(Debug)]
enum Stage {
    Open,
    /// The write side is closed.
    Discarding {
        /// Made when nothing is there to be read.
        timer: Option<Pin<Box<Sleep>>>,
        /// Bytes that may still be discarded.
        left: usize,
    },
    Done,
}

/// The I/O of one HTTP/1 connection.
#[derive(Debug)]
pub(super) struct LingeringClose {
    transport: Transport,
    state: Arc<Http1State>,
    time: Duration,
    /// The client has closed its side.
    ended: bool,
    stage: Stage,
}

impl LingeringClose {
    /// Takes the connection over. `time`: longest time that the close may take.
    pub(super) const fn new(transport: Transport, state: Arc<Http1State>, time: Duration) -> Self {
        Self { transport, state, time, ended: false, stage: Stage::Open }
    }

    fn poll_discard(
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

impl AsyncRead for LingeringClose {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match ready!(Pin::new(&mut self.transport).poll_read(cx, buf)) {
            Ok(()) if buf.filled().len() > before => self.state.received(),
            Ok(()) => self.ended = true,
            // TCP ended and TLS did not (RFC 9112, 9.8). A request tells its own length: one that is cut is not taken for whole.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.ended = true,
            Err(error) => return Poll::Ready(Err(error)),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LingeringClose {
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
                    me.transport.raw().charge_nobody();
                    me.stage = if me.ended || me.state.ends_at_once() {
                        Stage::Done
                    } else {
                        Stage::Discarding { timer: None, left: LINGER_BYTES }
                    };
                }
                Stage::Discarding { timer, left } => {
                    ready!(Self::poll_discard(&mut me.transport, cx, me.time, timer, left));
                    me.stage = Stage::Done;
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Discards, beside the response, the rest of an HTTP/2 request's body that the service did not read.
///
/// Without it the stream is reset as soon as the response is written, and curl 7.88 then drops the response.
#[derive(Clone, Debug)]
pub(super) struct Discard {
    /// The tracker that the work runs on.
    pub(super) tasks: TaskTracker,
    /// Longest time that it may take.
    pub(super) time: Duration,
    /// Was charged with the bytes that come in.
    pub(super) guest: Arc<Guest>,
}

impl Discard {
    /// Reads to the body's end, up to [`LINGER_BYTES`] and the time; then the stream is reset. Returns at once.
    pub(super) fn start(self, mut body: Incoming) {
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
            // Out of time ends as out of bytes does.
            let _ = timeout(time, reading).await;
        });
    }
}
