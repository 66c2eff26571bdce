//! One connection: what it holds, whether somebody signed in, and how long it has been idle.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Admission, GUEST_BYTES, Need, Origin};
use crate::serve::peer::Watch;
use crate::serve::stop::Stop;

/// What a guest on HTTP/1 holds without being charged: a usual head, which takes less than a connection by itself.
pub(in crate::serve) const FREE_BYTES: usize = 8 << 10;

/// The same on HTTP/2, where a frame of ten bytes takes some hundred.
const FREE_BYTES_H2: usize = 1 << 10;

/// A byte that is read costs two: a buffer that grows is copied, and the pieces before it stay with the allocator.
pub(in crate::serve) const COST: usize = 2;

/// What a request on HTTP/2 takes beside its head, until its answer is over.
const STREAM_BYTES: usize = 1 << 10;

/// The highest bit of [`Guest::trust`]; the others count requests that were let in.
const SIGNED_IN: u32 = 1 << 31;

/// One connection.
#[derive(Debug)]
pub(in crate::serve) struct Guest {
    pub(super) admission: Arc<Admission>,
    /// Its key among the guests.
    pub(super) number: u64,
    origin: Mutex<Origin>,
    /// [`SIGNED_IN`], and how many requests that were let in go on.
    trust: AtomicU32,
    /// A request is being answered.
    busy: AtomicBool,
    /// When it was last heard, in milliseconds since the admission's start: its first moment, a whole head, an answer's end.
    since: AtomicU64,
    /// What it is charged for; a copy of what `account` says, to be read by others.
    charged: AtomicUsize,
    account: Mutex<Account>,
    /// Its place is needed.
    leave: Stop,
    /// It was told to go.
    leaves: AtomicBool,
    /// For a place.
    for_place: AtomicBool,
}

/// What a guest holds.
#[derive(Debug)]
struct Account {
    http2: bool,
    /// Read since the last quiet moment.
    read: usize,
    /// HTTP/1: the most of it that there ever was. A buffer that has grown stays.
    peak: usize,
    /// HTTP/2: what was read before the last request began.
    before: usize,
    /// Whatever is read: for a client's certificates, and on HTTP/2 for the requests being answered.
    fixed: usize,
    /// Nothing is charged: it is no guest.
    closed: bool,
}

impl Account {
    const fn new() -> Self {
        Self { http2: false, read: 0, peak: 0, before: 0, fixed: 0, closed: false }
    }

    fn charge(&self) -> usize {
        if self.closed {
            return 0;
        }
        let (bytes, free) = if self.http2 { (self.read, FREE_BYTES_H2) } else { (self.peak, FREE_BYTES) };
        bytes.saturating_sub(free) * COST + self.fixed
    }
}

impl Guest {
    pub(super) fn new(admission: Arc<Admission>, number: u64, origin: Origin) -> Self {
        let since = AtomicU64::new(admission.now());
        Self {
            admission,
            number,
            origin: Mutex::new(origin),
            trust: AtomicU32::new(0),
            busy: AtomicBool::new(false),
            since,
            charged: AtomicUsize::new(0),
            account: Mutex::new(Account::new()),
            leave: Stop::default(),
            leaves: AtomicBool::new(false),
            for_place: AtomicBool::new(false),
        }
    }

    /// One on a server of its own.
    #[cfg(test)]
    pub(in crate::serve) fn alone() -> Arc<Self> {
        Arc::new(Self::new(Arc::new(Admission::new(1)), 0, Origin::V4([127, 0, 0, 1])))
    }

    /// Where it comes from.
    pub(super) fn origin(&self) -> Origin {
        *self.origin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it is charged for.
    pub(super) fn charged(&self) -> usize {
        self.charged.load(Ordering::Relaxed)
    }

    /// Whether a request is being answered, and when it was last heard.
    pub(super) fn idle(&self) -> (bool, u64) {
        (self.busy.load(Ordering::Relaxed), self.since.load(Ordering::Relaxed))
    }

    /// It has to go.
    pub(super) fn tell_to_leave(&self, need: Need) {
        self.for_place.store(need == Need::Place, Ordering::Relaxed);
        self.close_account();
        self.leaves.store(true, Ordering::Relaxed);
        self.leave.say();
    }

    /// Whether it was told to go for a place.
    pub(super) fn leaves_for_place(&self) -> bool {
        self.for_place.load(Ordering::Relaxed)
    }

    /// Heard when it has to go.
    pub(in crate::serve) async fn told_to_leave(&self) {
        self.leave.heard().await;
    }

    /// Whether it may cost what it likes: somebody signed in, or a request of it was let in and goes on.
    pub(in crate::serve) fn is_let_in(&self) -> bool {
        self.trust.load(Ordering::Relaxed) != 0
    }

    /// It has sent `bytes`. Whether it may send more; if not it is [told to leave](Guest::told_to_leave).
    pub(in crate::serve) fn has_read(&self, bytes: usize) -> bool {
        if self.is_let_in() {
            return true;
        }
        let over = self.change(|account| {
            // Of HTTP/1 only heads pile up: what follows is read when it is asked for, and forms are short.
            if account.http2 || !self.busy.load(Ordering::Relaxed) {
                account.read += bytes;
                account.peak = account.peak.max(account.read);
            }
        });
        if over {
            self.admission.relieve();
        }
        !self.leaves.load(Ordering::Relaxed)
    }

    /// `bytes` of a body on HTTP/2 were read and thrown away.
    pub(in crate::serve) fn has_dropped(&self, bytes: usize) {
        self.change(|account| account.read = account.read.saturating_sub(bytes));
    }

    /// The handshake is over, and of what came in `certificates` bytes are kept.
    pub(in crate::serve) fn shook_hands(&self, http2: bool, certificates: usize) {
        self.change(|account| {
            *account = Account { http2, fixed: certificates, closed: account.closed, ..Account::new() }
        });
    }

    /// HTTP/1: a whole head came in.
    pub(in crate::serve) fn begin(&self) {
        if !self.is_let_in() {
            self.heard();
        }
        self.busy.store(true, Ordering::Relaxed);
    }

    /// HTTP/1: the answer is out.
    pub(in crate::serve) fn end(&self) {
        self.busy.store(false, Ordering::Relaxed);
        if !self.is_let_in() {
            self.heard();
            self.change(|account| account.read = 0);
        }
    }

    /// HTTP/2: a request with a head of `bytes` begins. What is to be given back to [`Guest::end_stream`].
    pub(in crate::serve) fn begin_stream(&self, bytes: usize) -> usize {
        self.begin();
        let cost = bytes + STREAM_BYTES;
        let over = self.change(|account| {
            account.before = account.read;
            account.fixed += cost;
        });
        if over {
            self.admission.relieve();
        }
        cost
    }

    /// HTTP/2: its answer is over; `last`: no other is being answered.
    pub(in crate::serve) fn end_stream(&self, cost: usize, last: bool) {
        if last {
            self.busy.store(false, Ordering::Relaxed);
        }
        if !self.is_let_in() {
            self.heard();
        }
        self.change(|account| {
            account.fixed = account.fixed.saturating_sub(cost);
            if last {
                account.read = account.read.saturating_sub(std::mem::take(&mut account.before));
            }
        });
    }

    /// It said something whole.
    fn heard(&self) {
        self.since.store(self.admission.now(), Ordering::Relaxed);
    }

    /// Changes the account, and what is held by all with it. Whether that is too much now.
    fn change(&self, change: impl FnOnce(&mut Account)) -> bool {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut account);
        let (before, now) = (self.charged.load(Ordering::Relaxed), account.charge());
        if now == before {
            return false;
        }
        self.charged.store(now, Ordering::Relaxed);
        let held = &self.admission.held;
        if now < before {
            held.fetch_sub(before - now, Ordering::Relaxed);
            return false;
        }
        held.fetch_add(now - before, Ordering::Relaxed) + (now - before) > GUEST_BYTES
    }

    /// Nothing is charged from now on.
    pub(super) fn close_account(&self) {
        self.change(|account| account.closed = true);
    }
}

impl Watch for Guest {
    fn speaks_for(&self, client: IpAddr) {
        let origin = Origin::of(client);
        let mut guests = self.admission.guests();
        // Who is not there was told to go.
        let Some(guest) = guests.remove(self.origin(), self.number) else { return };
        *self.origin.lock().unwrap_or_else(PoisonError::into_inner) = origin;
        guests.add(origin, &guest);
        self.heard();
        let was_in = self.trust.fetch_and(!SIGNED_IN, Ordering::Relaxed) & SIGNED_IN != 0;
        if was_in && self.change(|account| account.closed = false) {
            drop(guests);
            self.admission.relieve();
        }
    }

    fn signed_in(&self) {
        if self.trust.load(Ordering::Relaxed) & SIGNED_IN == 0 {
            self.trust.fetch_or(SIGNED_IN, Ordering::Relaxed);
            self.close_account();
        }
    }

    fn let_in(&self) {
        self.trust.fetch_add(1, Ordering::Relaxed);
    }

    fn let_out(&self) {
        self.trust.fetch_sub(1, Ordering::Relaxed);
        let admission = &self.admission;
        if admission.waiting.load(Ordering::Relaxed) > 0 && !self.is_let_in() {
            // Somebody may wait because nobody could be told to go.
            admission.freed.notify_waiters();
        }
    }
}
