//! The state of an HTTP/1 connection that its I/O and its requests share: which request runs, whether bytes are unread,
//! and what hyper holds of an answer.
//!
//! hyper owns the protocol and tells nobody where it stands. The parts around it know one fact each: the service when a
//! request begins, the response's body when hyper has taken its end, the I/O when hyper has written all it had.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Most bytes of a response that hyper may hold unwritten on a connection; one frame of the body (64 KiB of a file) may come
/// on top. A slow reader costs this memory. hyper's own bound is the one for its reads too, which is larger.
pub(super) const AHEAD_BYTES: usize = 256 * 1024;
/// The same behind TLS, which holds ciphertext as well: one buffer of a file.
pub(super) const AHEAD_TLS_BYTES: usize = 64 * 1024;

/// The shared state. HTTP/1 has one request at a time.
///
/// Nearly all of it happens in the connection's own task, which orders it: so most operations are relaxed, and the atomics
/// only let the state be shared. Two calls may come from another thread, where the service handed a body to another task:
/// - [`Http1State::over`], when a response's body is dropped there. It releases and [`Http1State::flushed`] acquires, so the
///   connection goes on only after all that the other task did before.
/// - [`Http1State::body_read`], when a request's body ends there. Seen late, it costs a close after the response, which is
///   always allowed.
#[derive(Debug)]
pub(super) struct Http1State {
    /// Bytes of a response that hyper may take ahead of what it writes.
    ahead: usize,
    /// The number of the request that is being answered, or one of [`BETWEEN`] and [`OVER`].
    stage: AtomicU64,
    /// Requests begun.
    begun: AtomicU64,
    /// Bytes came in that no request has taken to its end.
    unread: AtomicBool,
    /// The connection was told to end while nothing was under way on it.
    ends_idle: AtomicBool,
    /// The request being answered has a body that was not read to its end.
    body_open: AtomicBool,
    /// Bytes of the response that hyper has taken since it last wrote all it had.
    taken: AtomicUsize,
    /// The response's body waits until hyper has written what it took.
    held: AtomicBool,
}

/// No request is being answered, and all answers are out.
const BETWEEN: u64 = 0;
/// hyper has taken the last answer, and may not have written it.
const OVER: u64 = u64::MAX;

impl Http1State {
    /// The state of a connection on which nothing was asked. `ahead`: what hyper may hold of a response, in bytes.
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

    /// Notes that the service was called with a request. Answers the request's number.
    pub(super) fn begin(&self, has_body: bool) -> u64 {
        let number = self.handed_over();
        self.body_open.store(has_body, Ordering::Relaxed);
        self.unread.store(has_body, Ordering::Relaxed);
        number
    }

    /// Notes that the head of a request was handed to hyper. Answers the request's number.
    pub(super) fn handed_over(&self) -> u64 {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        self.stage.store(number, Ordering::Relaxed);
        number
    }

    /// Notes that the response's body of request `number` was taken to its end, or dropped.
    pub(super) fn over(&self, number: u64) {
        // Not a store: a body that another task drops late must not end the request that has begun since.
        let _ = self.stage.compare_exchange(number, OVER, Ordering::Release, Ordering::Relaxed);
    }

    /// Notes that hyper has taken `bytes` of the response.
    pub(super) fn took(&self, bytes: usize) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether the response's body has to wait until hyper has written what it took; [`Http1State::go_on`] says when.
    pub(super) fn hold(&self) -> bool {
        let hold = self.taken.load(Ordering::Relaxed) >= self.ahead;
        if hold {
            self.held.store(true, Ordering::Relaxed);
        }
        hold
    }

    /// Notes that hyper has written all it had. Answers whether the response's body waits for that.
    pub(super) fn go_on(&self) -> bool {
        self.taken.store(0, Ordering::Relaxed);
        // The load first: a swap locks the cache line, and this runs at every flush.
        self.held.load(Ordering::Relaxed) && self.held.swap(false, Ordering::Relaxed)
    }

    /// Notes that hyper has written all it had. Answers whether that was the end of a response.
    pub(super) fn flushed(&self) -> bool {
        self.stage.compare_exchange(OVER, BETWEEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Whether no request is being answered, and all answers are out.
    pub(super) fn is_between(&self) -> bool {
        self.stage.load(Ordering::Relaxed) == BETWEEN
    }

    /// Notes that the connection is told to end: at once, if nothing is under way on it now.
    pub(super) fn end(&self) {
        self.ends_idle.store(self.is_between() && !self.unread.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether [`Http1State::end`] found nothing under way.
    pub(super) fn ends_at_once(&self) -> bool {
        self.ends_idle.load(Ordering::Relaxed)
    }

    /// Notes that bytes came in.
    pub(super) fn received(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    /// Notes that the bytes which came in last were a request, which was answered without hyper.
    pub(super) fn answered(&self) {
        self.unread.store(false, Ordering::Relaxed);
    }

    /// Notes that the request's body was read to its end.
    pub(super) fn body_read(&self) {
        self.body_open.store(false, Ordering::Relaxed);
        self.unread.store(false, Ordering::Relaxed);
    }

    /// Whether the request's body was not read to its end.
    pub(super) fn is_body_open(&self) -> bool {
        self.body_open.load(Ordering::Relaxed)
    }
}
