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
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

use super::admission::Guest;
use super::socket::Socket;

/// Most bytes that are read away, on the wire.
const LINGER_BYTES: usize = 8 * 1024 * 1024;

/// Read away at once, on the stack: a buffer for each connection would be memory that anybody can have taken.
const SCRATCH: usize = 16 * 1024;

/// hyper takes no more of an answer once it has so much that it has not written: a slow reader holds so much memory, and
/// less than one frame of the body (64 KiB of a file) more. Its own bound is that of what it reads too, which is larger.
pub(super) const AHEAD_BYTES: usize = 256 * 1024;
/// The same behind TLS, which holds ciphertext as well. One buffer of a file at a time.
pub(super) const AHEAD_TLS_BYTES: usize = 64 * 1024;

/// What the connection's I/O and the requests on it tell each other. HTTP/1 has one request at a time. Everything
/// happens in the connection's own task, but for a body that is dropped elsewhere.
#[derive(Debug)]
pub(super) struct Flow {
    /// What hyper takes of an answer ahead of what it writes.
    ahead: usize,
    /// The number of the request that is being answered, or one of [`BETWEEN`] and [`OVER`].
    stage: AtomicU64,
    begun: AtomicU64,
    /// Bytes came in that no request has taken to its end.
    unread: AtomicBool,
    /// The connection was told to end while nothing was under way on it.
    ends_idle: AtomicBool,
    /// The request being answered has a body that was not read to its end.
    body_open: AtomicBool,
    /// Bytes of the answer that hyper has taken since it wrote all it had.
    taken: AtomicUsize,
    /// The answer's body waits until hyper has written what it took.
    held: AtomicBool,
}

/// No request is being answered, and all answers are out.
const BETWEEN: u64 = 0;
/// hyper has taken the last answer, and may not have written it.
const OVER: u64 = u64::MAX;

impl Flow {
    /// Of a connection on which nothing was asked. `ahead`: what hyper may hold of an answer, in bytes.
    pub(super) fn new(ahead: usize) -> Self {
        Self {
            ahead,
            stage: AtomicU64::new(BETWEEN),
            begun: AtomicU64::default(),
            unread: AtomicBool::default(),
            ends_idle: AtomicBool::default(),
            body_open: AtomicBool::default(),
            taken: AtomicUsize::default(),
            held: AtomicBool::default(),
        }
    }

    /// A request begins. Its number.
    pub(super) fn begin(&self, has_body: bool) -> u64 {
        let number = self.handed_over();
        self.body_open.store(has_body, Ordering::Relaxed);
        self.unread.store(has_body, Ordering::Relaxed);
        number
    }

    /// The head of a request was handed to hyper.
    pub(super) fn handed_over(&self) -> u64 {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        self.stage.store(number, Ordering::Relaxed);
        number
    }

    /// The body of that request's answer was taken to the end, or dropped.
    pub(super) fn over(&self, number: u64) {
        // If another has begun, it counts.
        let _ = self.stage.compare_exchange(number, OVER, Ordering::Release, Ordering::Relaxed);
    }

    /// hyper has taken so many bytes of the answer.
    pub(super) fn took(&self, bytes: usize) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether the answer's body has to wait until hyper has written what it took; [`Flow::go_on`] says when.
    pub(super) fn hold(&self) -> bool {
        let hold = self.taken.load(Ordering::Relaxed) >= self.ahead;
        if hold {
            self.held.store(true, Ordering::Relaxed);
        }
        hold
    }

    /// hyper has written all it had. Whether the answer's body waits for that.
    pub(super) fn go_on(&self) -> bool {
        self.taken.store(0, Ordering::Relaxed);
        self.held.load(Ordering::Relaxed) && self.held.swap(false, Ordering::Relaxed)
    }

    /// hyper has written all it had. Whether that was the end of an answer.
    pub(super) fn flushed(&self) -> bool {
        self.stage.compare_exchange(OVER, BETWEEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Whether no request is being answered, and all answers are out.
    pub(super) fn is_between(&self) -> bool {
        self.stage.load(Ordering::Relaxed) == BETWEEN
    }

    /// The connection is told to end: at once if nothing is under way on it.
    pub(super) fn end(&self) {
        self.ends_idle.store(self.is_between() && !self.unread.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// What came in last was a request, and was answered without hyper.
    pub(super) fn answered(&self) {
        self.unread.store(false, Ordering::Relaxed);
    }

    /// Its body was read to its end.
    pub(super) fn body_read(&self) {
        self.body_open.store(false, Ordering::Relaxed);
        self.unread.store(false, Ordering::Relaxed);
    }

    /// Whether its body was not read to its end.
    pub(super) fn is_body_open(&self) -> bool {
        self.body_open.load(Ordering::Relaxed)
    }
}

/// A connection, with or without TLS.
#[derive(Debug)]
pub(super) enum Transport {
    /// As it is.
    Plain(Socket),
    /// Behind TLS.
    Tls(Box<TlsStream<Socket>>),
}

impl Transport {
    /// Below TLS: what is read away needs no deciphering.
    fn raw(&mut self) -> &mut Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_mut().0,
        }
    }
}

macro_rules! forward {
    ($self:expr, $method:ident $(, $argument:expr)*) => {
        match $self {
            Transport::Plain(socket) => Pin::new(socket).$method($($argument),*),
            Transport::Tls(stream) => Pin::new(&mut **stream).$method($($argument),*),
        }
    };
}

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
            Ok(()) if buf.filled().len() > before => self.flow.unread.store(true, Ordering::Relaxed),
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
                    me.stage = if me.ended || me.flow.ends_idle.load(Ordering::Relaxed) {
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

/// The I/O of one HTTP/2 connection: it outlives a refused push, nothing lingers.
impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        forward!(self.get_mut(), poll_read, cx, buf)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        forward!(self.get_mut(), poll_write, cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        forward!(self.get_mut(), poll_write_vectored, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self.get_mut(), poll_flush, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self.get_mut(), poll_shutdown, cx)
    }
}
