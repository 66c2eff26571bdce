//! Where one request of an HTTP/1 connection ends and the next begins.
//!
//! Lies between hyper and the socket and sees of hyper what it needs: the service is called when a head was read
//! ([`Http1State::begin`]), the answer's body is dropped when hyper has taken its last byte ([`Http1State::over`]), and hyper
//! flushes the socket only when all it has is written. Between the last flush and the next head two things happen here:
//! - the time that a head may take runs (hyper's own clock makes and removes a timer for every request);
//! - a request that memory answers is answered on the spot, and hyper never sees it (`api::FastLane`).
//!
//! The second is safe because hyper then holds nothing of either direction: what was handed to it was exactly the head
//! of one request without a body, or the lane is closed for good, and its answer was flushed.

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
use super::http1_state::Http1State;
use super::lingering_close::LingeringClose;
use super::receiving::{LEAST_READ_BYTES, Receiving};
use crate::api::{FastLane, Verdict};

/// The I/O of one HTTP/1 connection, as hyper gets it.
#[derive(Debug)]
pub(super) struct Requests {
    io: LingeringClose,
    state: Arc<Http1State>,
    head_clock: HeadClock,
    lane: Option<FastLane>,
    unsent: Unsent,
    receiving: Receiving,
    guest: Arc<Guest>,
    /// Bytes came in that are not yet a whole head.
    in_head: bool,
}

/// How long heads may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadTimes {
    /// The first, and of a guest's later ones what follows their first byte.
    pub(super) first: Duration,
    /// Later ones, from the end of an answer.
    pub(super) next: Duration,
}

impl Requests {
    /// Takes the connection over.
    pub(super) fn new(
        io: LingeringClose,
        state: Arc<Http1State>,
        times: HeadTimes,
        lane: Option<FastLane>,
        receiving: Receiving,
        guest: Arc<Guest>,
    ) -> Self {
        let (head_clock, unsent) = (HeadClock::new(times), Unsent::default());
        Self { io, state, head_clock, lane, unsent, receiving, guest, in_head: false }
    }

    /// Answers what `received` asks for. `false`: it is hyper's.
    fn answer(&mut self, received: &[u8]) -> bool {
        let Some(lane) = self.lane.as_mut() else { return false };
        let mut head = HEAD.take();
        match lane.answer(received, &mut head) {
            Verdict::Answered(body) => {
                self.state.answered();
                self.unsent = Unsent { head, at: 0, body, open: true, out: Some(lane.answered().into()) };
                return true;
            }
            Verdict::Request => {
                self.state.handed_over();
            }
            Verdict::Other => self.lane = None,
        }
        HEAD.set(head);
        false
    }

    /// An answer is out, and the next request may begin.
    fn between(&mut self) {
        self.in_head = false;
        self.guest.end();
    }

    /// Nothing more has come in for now of what is waited for: a head, or part of one.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.in_head && !self.guest.is_let_in() {
            self.head_clock.hurry();
        }
        self.head_clock.poll_late(cx)
    }

    /// Reads, not much at once where nobody signed in yet: what is read lies in memory.
    fn poll_read_some(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let most = match self.guest.is_let_in() {
            true if buf.remaining() <= LEAST_READ_BYTES => return Pin::new(&mut self.io).poll_read(cx, buf),
            true => self.receiving.read_bytes(),
            false => READ_BYTES,
        };
        Pin::new(&mut (&mut self.io).take(most as u64)).poll_read(cx, buf)
    }

    /// Writes what is left of an answer; nothing else may be written or read before.
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
                // hyper looks ahead: what it now holds is the beginning of a request that can't be told from here.
                me.lane = None;
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
            // hyper does not read again before something comes in, so nobody else may ever poll it.
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
    /// Heads are put together here; a connection keeps one only while its answer is not written.
    static HEAD: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// An answer of the fast lane on its way.
#[derive(Debug, Default)]
struct Unsent {
    head: Vec<u8>,
    /// Bytes of the head that are written.
    at: usize,
    body: Bytes,
    /// Until all is written and flushed.
    open: bool,
    /// When it was ready, if the socket took all of it at once.
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
                // Cheaper than a list with one part.
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

    /// The head's buffer, to be used again.
    fn end(&mut self) -> Vec<u8> {
        let mut head = std::mem::take(self).head;
        head.clear();
        head
    }
}

/// How long the next head may take. One timer per connection, armed anew when it runs out and not with every request.
#[derive(Debug)]
struct HeadClock {
    times: HeadTimes,
    deadline: Instant,
    /// The head that is waited for has begun, and has a deadline of its own.
    hurries: bool,
    timer: Option<Pin<Box<Sleep>>>,
    /// Whom the timer wakes.
    waker: Option<Waker>,
}

impl HeadClock {
    fn new(times: HeadTimes) -> Self {
        Self { times, deadline: Instant::now() + times.first, hurries: false, timer: None, waker: None }
    }

    /// The last answer went out at `since`.
    fn start(&mut self, since: Instant) {
        self.deadline = since + self.times.next;
        self.hurries = false;
    }

    /// The head has begun.
    fn hurry(&mut self) {
        if std::mem::replace(&mut self.hurries, true) {
            return;
        }
        let deadline = Instant::now() + self.times.first;
        if deadline < self.deadline {
            self.deadline = deadline;
            // One that is armed is armed for later.
            (self.timer, self.waker) = (None, None);
        }
    }

    /// To be polled while a head is waited for; ready when it is late.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        // It wakes by itself, and is not asked again for every request.
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
