//! What the I/O of an HTTP/1 connection and the requests on it tell each other.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

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

    /// Bytes came in.
    pub(super) fn received(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    /// Whether [`Flow::end`] found nothing under way.
    pub(super) fn ends_at_once(&self) -> bool {
        self.ends_idle.load(Ordering::Relaxed)
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
