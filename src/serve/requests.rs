//! The border between two requests of an HTTP/1 connection.
//!
//! The I/O here lies between hyper and the socket and follows hyper by three facts: the service is called when a head was
//! read ([`Http1State::begin`]), the response's body is dropped when hyper has taken its last byte ([`Http1State::over`]), and
//! hyper flushes the socket only when it has written all it holds. Between the last flush and the next head two things happen:
//! - the time for a head runs (hyper's own clock makes and removes a timer for every request);
//! - an [`EarlyConnection`] may answer a request on the spot, and hyper never sees it.
//!
//! The second is safe because hyper then holds nothing of either direction. Its input was exactly the head of one request
//! without a body, and the response to that was flushed. Input of any other kind ends early answers for the connection.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::admission::{Guest, READ_BYTES};
use super::early::{Early, EarlyConnection};
use super::http1_state::Http1State;
use super::lingering_close::LingeringClose;
use super::receiving::{LEAST_READ_BYTES, Receiving};

/// The I/O of one HTTP/1 connection, as hyper gets it.
#[derive(Debug)]
pub(super) struct Requests {
    io: LingeringClose,
    state: Arc<Http1State>,
    head_clock: HeadClock,
    early: Option<Box<dyn EarlyConnection>>,
    unsent: Unsent,
    receiving: Receiving,
    guest: Arc<Guest>,
    /// Bytes came in, and are not a whole head yet.
    in_head: bool,
}

/// Time limits of heads.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadTimes {
    /// For the first head, and for a guest's later ones from their first byte.
    pub(super) first: Duration,
    /// For later heads, from the end of a response.
    pub(super) next: Duration,
}

impl Requests {
    /// Takes the connection over.
    pub(super) fn new(
        io: LingeringClose,
        state: Arc<Http1State>,
        times: HeadTimes,
        early: Option<Box<dyn EarlyConnection>>,
        receiving: Receiving,
        guest: Arc<Guest>,
    ) -> Self {
        let (head_clock, unsent) = (HeadClock::new(times), Unsent::default());
        Self { io, state, head_clock, early, unsent, receiving, guest, in_head: false }
    }

    /// Answers the request `received` early. `false`: it is hyper's.
    fn answer(&mut self, received: &[u8]) -> bool {
        let Some(early) = self.early.as_mut() else { return false };
        let mut head = HEAD.take();
        match early.answer(received, &mut head) {
            Early::Answered(body) => {
                self.state.answered();
                self.unsent = Unsent { head, at: 0, body, open: true, out: Some(early.answered_at().into()) };
                return true;
            }
            Early::Request => {
                self.state.handed_over();
            }
            Early::Other => self.early = None,
        }
        HEAD.set(head);
        false
    }

    /// Notes that a response is out, and the next request may begin.
    fn between(&mut self) {
        self.in_head = false;
        self.guest.end();
    }

    /// Ready when the head, or the rest of a head, that is waited for is late.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.in_head && !self.guest.is_let_in() {
            self.head_clock.hurry();
        }
        self.head_clock.poll_late(cx)
    }

    /// Reads; at most [`READ_BYTES`] at once where nobody signed in yet, as input lies in memory.
    fn poll_read_some(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let most = match self.guest.is_let_in() {
            true if buf.remaining() <= LEAST_READ_BYTES => return Pin::new(&mut self.io).poll_read(cx, buf),
            true => self.receiving.read_bytes(),
            false => READ_BYTES,
        };
        Pin::new(&mut (&mut self.io).take(most as u64)).poll_read(cx, buf)
    }

    /// Writes the rest of an early answer; nothing else may be written or read before.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsent.open {
            if self.unsent.poll_out(&mut self.io, cx)?.is_pending() {
                self.unsent.out = None;
                return Poll::Pending;
            }
            self.head_clock.start(self.unsent.out.unwrap_or_else(Instant::now));
            HEAD.set(self.unsent.end());
            self.between();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Requests {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let before = buf.filled().len();
        loop {
            ready!(me.poll_unsent(cx))?;
            if me.poll_read_some(cx, buf)?.is_pending() {
                let late = || io::Error::new(io::ErrorKind::TimedOut, "no request came in time");
                return if me.state.is_between() { me.poll_late(cx).map(|()| Err(late())) } else { Poll::Pending };
            }
            let received = &buf.filled()[before..];
            if received.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if !me.state.is_between() {
                // hyper reads ahead: it now holds the beginning of a request whose end can't be told from here.
                me.early = None;
            } else if me.answer(received) {
                buf.set_filled(before);
                continue;
            } else {
                me.in_head = true;
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for Requests {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        ready!(me.poll_unsent(cx))?;
        Pin::new(&mut me.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        ready!(me.poll_unsent(cx))?;
        Pin::new(&mut me.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        ready!(me.poll_unsent(cx))?;
        ready!(Pin::new(&mut me.io).poll_flush(cx))?;
        if me.state.go_on() {
            cx.waker().wake_by_ref();
        }
        if me.state.flushed() {
            me.head_clock.start(Instant::now());
            me.between();
            // The timer needs a waker now: hyper reads again only when something comes in, and nothing else polls it.
            let _ = me.head_clock.poll_late(cx);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        ready!(me.poll_unsent(cx))?;
        Pin::new(&mut me.io).poll_shutdown(cx)
    }
}

thread_local! {
    /// The buffer for heads. A connection takes it, and keeps it only while its early answer is not written.
    static HEAD: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// An early answer on its way.
#[derive(Debug, Default)]
struct Unsent {
    head: Vec<u8>,
    /// Bytes of the head written so far.
    at: usize,
    body: Bytes,
    /// Not all is written and flushed.
    open: bool,
    /// When it was ready; `None` once the socket did not take all of it at once.
    out: Option<Instant>,
}

impl Unsent {
    fn poll_out(&mut self, io: &mut LingeringClose, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write(io, cx))?;
        Pin::new(io).poll_flush(cx)
    }

    fn poll_write(&mut self, io: &mut LingeringClose, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.head.len() || !self.body.is_empty() {
            let (head, io) = (&self.head[self.at..], Pin::new(&mut *io));
            let written = if self.body.is_empty() {
                // `send` costs less than `writev` of one part.
                ready!(io.poll_write(cx, head))?
            } else {
                ready!(io.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(&self.body)]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_head = written.min(self.head.len() - self.at);
            self.at += of_head;
            self.body.advance(written - of_head);
        }
        Poll::Ready(Ok(()))
    }

    /// Ends it. Answers the head's buffer, emptied for the next use.
    fn end(&mut self) -> Vec<u8> {
        let mut head = std::mem::take(self).head;
        head.clear();
        head
    }
}

/// The time limit of the next head. One timer per connection, re-armed when it runs out and not with every request.
#[derive(Debug)]
struct HeadClock {
    times: HeadTimes,
    deadline: Instant,
    /// The head has begun, and has a deadline of its own.
    hurries: bool,
    timer: Option<Pin<Box<Sleep>>>,
    /// The waker that the timer holds.
    waker: Option<Waker>,
}

impl HeadClock {
    fn new(times: HeadTimes) -> Self {
        Self { times, deadline: Instant::now() + times.first, hurries: false, timer: None, waker: None }
    }

    /// Starts the time: the last response went out at `since`.
    fn start(&mut self, since: Instant) {
        self.deadline = since + self.times.next;
        self.hurries = false;
    }

    /// Shortens the time: the head has begun.
    fn hurry(&mut self) {
        if std::mem::replace(&mut self.hurries, true) {
            return;
        }
        let deadline = Instant::now() + self.times.first;
        if deadline < self.deadline {
            self.deadline = deadline;
            // The armed timer would fire too late.
            (self.timer, self.waker) = (None, None);
        }
    }

    /// Ready when the head is late. To be polled while it is waited for.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        // An armed timer wakes by itself: polling it for every request would cost a lock of the runtime's timers.
        if !timer.is_elapsed() && self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        loop {
            if timer.as_mut().poll(cx).is_pending() {
                self.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests;
