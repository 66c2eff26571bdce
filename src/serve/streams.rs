//! What moves on one HTTP/2 connection.
//!
//! hyper asks a response's body for a frame only when the client has opened its window, so a body that is not asked
//! and has nothing to wait for itself stands still because of the client. Nothing inside the body can end it then: the
//! connection has to. It is told to open no more streams, and is cut once only standing ones are left.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::admission::Guest;

/// Ticks without movement that make a stall; the ticks are a quarter of the limit apart.
pub(super) const TICKS: u32 = 4;

#[derive(Debug, Default)]
struct Stamp {
    asked: AtomicU32,
    waits_for_source: AtomicBool,
}

#[derive(Debug)]
struct Watched {
    stamp: Arc<Stamp>,
    asked: u32,
    quiet_ticks: u32,
}

/// The streams of one connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    active: AtomicUsize,
    begun: AtomicU32,
    bodies: Mutex<Vec<Watched>>,
    /// Whom requests are charged to.
    guest: Option<Arc<Guest>>,
}

/// What [`Streams::tick`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No request is being answered, and none came since the last tick.
    Idle,
    /// Something moves, or is worked on.
    Moving,
    /// At least one body stands still, others do not.
    SomeStalled,
    /// Every request being answered stands still.
    AllStalled,
}

/// Counts a request until its answer is through.
#[derive(Debug)]
pub(super) struct Active {
    streams: Arc<Streams>,
    /// What the connection's guest is charged for it.
    cost: usize,
}

impl Streams {
    /// Those of a connection.
    pub(super) fn new(guest: Arc<Guest>) -> Self {
        Self { guest: Some(guest), ..Self::default() }
    }

    /// A request with a head of so many bytes begins.
    pub(super) fn begin(self: &Arc<Self>, head: usize) -> Active {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        let cost = self.guest.as_ref().map_or(0, |guest| guest.begin_stream(head));
        Active { streams: Arc::clone(self), cost }
    }

    /// Requests begun so far.
    pub(super) fn begun(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }

    fn watch(&self, stamp: Arc<Stamp>) {
        let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        // Ended ones go in bunches: the list stays within twice the open streams.
        if bodies.len() == bodies.capacity() {
            bodies.retain(Watched::is_open);
        }
        bodies.push(Watched { stamp, asked: 0, quiet_ticks: 0 });
    }

    /// Looks at what moved since the last call. `begun_before`: [`Streams::begun`] at the last call.
    pub(super) fn tick(&self, begun_before: u32) -> Verdict {
        let stalled = {
            let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
            bodies.retain(Watched::is_open);
            bodies.iter_mut().filter_map(|body| body.is_stalled().then_some(())).count()
        };
        let active = self.active.load(Ordering::Relaxed);
        match (active, stalled) {
            (0, _) if self.begun() == begun_before => Verdict::Idle,
            (_, 0) => Verdict::Moving,
            _ if stalled >= active => Verdict::AllStalled,
            _ => Verdict::SomeStalled,
        }
    }
}

impl Watched {
    fn is_open(&self) -> bool {
        Arc::strong_count(&self.stamp) > 1
    }

    fn is_stalled(&mut self) -> bool {
        let asked = self.stamp.asked.load(Ordering::Relaxed);
        if asked != self.asked || self.stamp.waits_for_source.load(Ordering::Relaxed) {
            self.asked = asked;
            self.quiet_ticks = 0;
        } else {
            self.quiet_ticks = self.quiet_ticks.saturating_add(1);
        }
        self.quiet_ticks >= TICKS
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let before = self.streams.active.fetch_sub(1, Ordering::Relaxed);
        if let Some(guest) = &self.streams.guest {
            guest.end_stream(self.cost, before == 1);
        }
    }
}

/// The body of an answer on an HTTP/2 connection.
#[derive(Debug)]
pub(super) struct StreamBody<B> {
    inner: B,
    stamp: Option<Arc<Stamp>>,
    _active: Active,
}

impl<B: Body> StreamBody<B> {
    /// Watches `inner` until it is dropped.
    pub(super) fn new(inner: B, active: Active) -> Self {
        let stamp = (!inner.is_end_stream()).then(|| {
            let stamp = Arc::new(Stamp::default());
            active.streams.watch(Arc::clone(&stamp));
            stamp
        });
        Self { inner, stamp, _active: active }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for StreamBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if let Some(stamp) = &self.stamp {
            stamp.asked.fetch_add(1, Ordering::Relaxed);
            stamp.waits_for_source.store(frame.is_pending(), Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    fn ticks(streams: &Streams, count: u32) -> Verdict {
        (0..count).map(|_| streams.tick(streams.begun())).last().unwrap()
    }

    #[tokio::test]
    async fn a_body_nobody_asks_for_is_stalled_and_one_that_is_asked_is_not() {
        let streams = Arc::new(Streams::default());
        assert_eq!(ticks(&streams, 10), Verdict::Idle);
        let standing = StreamBody::new(Full::new(Bytes::from_static(b"a")), streams.begin(0));
        assert_eq!(ticks(&streams, TICKS - 1), Verdict::Moving);
        assert_eq!(ticks(&streams, 1), Verdict::AllStalled);

        let mut moving = StreamBody::new(Full::new(Bytes::from_static(b"a")), streams.begin(0));
        assert_eq!(ticks(&streams, TICKS - 1), Verdict::SomeStalled);
        moving.frame().await.unwrap().unwrap();
        assert_eq!(ticks(&streams, 1), Verdict::SomeStalled, "a frame was taken");
        drop(standing);
        assert_eq!(ticks(&streams, 1), Verdict::Moving);
        drop(moving);
        assert_eq!(streams.tick(0), Verdict::Moving, "requests came since the beginning");
        assert_eq!(streams.tick(streams.begun()), Verdict::Idle);
    }

    #[test]
    fn a_handler_at_work_is_no_stall() {
        let streams = Arc::new(Streams::default());
        let _active = streams.begin(0);
        assert_eq!(ticks(&streams, 100), Verdict::Moving);
    }

    #[test]
    fn ended_bodies_do_not_pile_up() {
        let streams = Arc::new(Streams::default());
        for _ in 0..10_000 {
            drop(StreamBody::new(Full::new(Bytes::from_static(b"a")), streams.begin(0)));
        }
        assert!(streams.bodies.lock().unwrap().len() <= 8);
    }
}
