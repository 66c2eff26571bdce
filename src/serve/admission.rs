//! Places for connections, and what those may cost that have not proven who they are.
//!
//! Whoever can reach the port can open connections, and until credentials were shown nothing tells a node from an
//! attacker. So a connection is a [`Guest`] at first: it may be closed when its place or its memory is needed. Who goes
//! is decided by origin, an IPv4 address or an IPv6 /64 (what one customer gets, RFC 6177): of the origin with the most
//! guests, the one that is idle longest. Who opens many connections closes its own.
//!
//! A connection is no guest any more once valid credentials of a user came in on it. Anonymous proves nothing: its
//! requests are safe while they run, and its idle connections are guests. A trusted proxy speaks for many: each request
//! of its connections counts for the client that it names, and proves nothing for the next one.

mod guest;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

pub(super) use guest::{COST, FREE_BYTES, Guest};

/// What all guests together may hold of what they sent, in bytes, beside what is free ([`guest`]). When they hold more,
/// guests are closed; what is read meanwhile, at most [`READ_BYTES`] for each, comes on top.
pub(super) const GUEST_BYTES: usize = 6 << 20;

/// What is read of a guest at once.
pub(super) const READ_BYTES: usize = 4 << 10;

/// At most one line in the log in so many milliseconds.
const SAID_EVERY_MS: u64 = 60_000;

/// The places of a server's connections. Who gets none waits; the kernel's queue holds the client meanwhile.
#[derive(Debug)]
pub(super) struct Admission {
    most: AtomicUsize,
    taken: AtomicUsize,
    freed: Notify,
    /// Who waits for a place: at most one for each listener.
    waiting: AtomicUsize,
    /// Guests that were told to go for a place and have not yet gone.
    leaving: AtomicUsize,
    /// What guests are charged for.
    held: AtomicUsize,
    guests: Mutex<Guests>,
    started: Instant,
    /// When it was last said that guests are closed, in milliseconds since `started`; 0: never.
    said: AtomicU64,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Origin {
    V4([u8; 4]),
    /// The first 64 bits.
    V6([u8; 8]),
}

/// All connections but those that were told to go; who is [let in](Guest::is_let_in) is no guest at the moment.
#[derive(Debug, Default)]
struct Guests {
    next: u64,
    by_origin: HashMap<Origin, HashMap<u64, Arc<Guest>>>,
}

/// Whether it is being answered, when it was last heard, its number: the least goes first.
type Idle = (bool, u64, u64);

/// What its origin has in all, and its own turn: the greatest goes.
type Rank = (usize, Reverse<Idle>);

/// Why a guest has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Place,
    Bytes,
}

/// A connection's place, given back when it is dropped: also when the connection's task panics.
#[derive(Debug)]
pub(super) struct Place(Arc<Guest>);

impl Admission {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: AtomicUsize::new(most.max(1)),
            taken: AtomicUsize::new(0),
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
            leaving: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            guests: Mutex::default(),
            started: Instant::now(),
            said: AtomicU64::new(0),
        }
    }

    /// Another number of places; who has one keeps it.
    pub(super) fn set_most(&self, most: usize) {
        self.most.store(most.max(1), Ordering::Relaxed);
        self.freed.notify_waiters();
    }

    /// Places taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// A place for a connection from `address`, for which a guest is closed if all are taken; waits while nobody can be
    /// closed. Safe to drop: a guest that was told to go goes all the same.
    pub(super) async fn enter(self: &Arc<Self>, address: IpAddr) -> Place {
        let mut waits = None;
        loop {
            let mut freed = pin!(self.freed.notified());
            // From here on no word is missed.
            freed.as_mut().enable();
            let most = self.most.load(Ordering::Relaxed);
            let took = self
                .taken
                .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |taken| (taken < most).then_some(taken + 1));
            if took.is_ok() {
                return Place(self.admit(address));
            }
            waits.get_or_insert_with(|| Waits::new(self));
            // Each that waits is owed one that leaves.
            while self.leaving.load(Ordering::Relaxed) < self.waiting.load(Ordering::Relaxed)
                && self.close_one(Need::Place)
            {}
            freed.await;
        }
    }

    fn admit(self: &Arc<Self>, address: IpAddr) -> Arc<Guest> {
        let origin = Origin::of(address);
        let mut guests = self.guests();
        guests.next += 1;
        let guest = Arc::new(Guest::new(Arc::clone(self), guests.next, origin));
        guests.add(origin, &guest);
        guest
    }

    /// Closes guests until what they hold is within [`GUEST_BYTES`].
    fn relieve(&self) {
        while self.held.load(Ordering::Relaxed) > GUEST_BYTES && self.close_one(Need::Bytes) {}
    }

    /// Tells the guest to go whose turn it is. Whether there was one.
    fn close_one(&self, need: Need) -> bool {
        let mut guests = self.guests();
        let Some(guest) = guests.next_to_go(need) else { return false };
        guests.remove(guest.origin(), guest.number);
        if need == Need::Place {
            self.leaving.fetch_add(1, Ordering::Relaxed);
        }
        guest.tell_to_leave(need);
        drop(guests);
        self.say(need);
        true
    }

    /// Says in the log that guests are closed.
    fn say(&self, need: Need) {
        let (now, before) = (self.now().max(1), self.said.load(Ordering::Relaxed));
        let silent = before != 0 && now.saturating_sub(before) < SAID_EVERY_MS;
        if silent || self.said.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let why = match need {
            Need::Place => "all places for connections are taken",
            Need::Bytes => "connections on which nobody signed in hold too much memory",
        };
        tracing::warn!(
            why,
            places = self.most.load(Ordering::Relaxed),
            taken = self.taken(),
            "connections on which nobody signed in are closed, the longest idle of the address with most of them first"
        );
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one that waits for a place.
struct Waits<'a>(&'a Admission);

impl<'a> Waits<'a> {
    fn new(admission: &'a Admission) -> Self {
        admission.waiting.fetch_add(1, Ordering::Relaxed);
        Self(admission)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Origin {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

impl Guests {
    fn add(&mut self, origin: Origin, guest: &Arc<Guest>) {
        self.by_origin.entry(origin).or_default().insert(guest.number, Arc::clone(guest));
    }

    fn remove(&mut self, origin: Origin, number: u64) -> Option<Arc<Guest>> {
        let same = self.by_origin.get_mut(&origin)?;
        let guest = same.remove(&number);
        if same.is_empty() {
            self.by_origin.remove(&origin);
        }
        guest
    }

    /// Of the origin that has most, the guest that is idle longest: most connections for a place, most bytes for bytes.
    /// One that is being answered is idle only beside others that are. One that was let in does not count.
    fn next_to_go(&self, need: Need) -> Option<Arc<Guest>> {
        let mut best: Option<(Rank, &Arc<Guest>)> = None;
        for same in self.by_origin.values() {
            let mut weight = 0;
            let mut longest: Option<(Idle, &Arc<Guest>)> = None;
            for guest in same.values() {
                let charged = guest.charged();
                if guest.is_let_in() || (need == Need::Bytes && charged == 0) {
                    continue;
                }
                weight += if need == Need::Place { 1 } else { charged };
                let (busy, since) = guest.idle();
                let idle = (busy, since, guest.number);
                if longest.is_none_or(|(least, _)| idle < least) {
                    longest = Some((idle, guest));
                }
            }
            let Some((idle, guest)) = longest else { continue };
            let rank = (weight, Reverse(idle));
            if best.as_ref().is_none_or(|(most, _)| rank > *most) {
                best = Some((rank, guest));
            }
        }
        best.map(|(_, guest)| Arc::clone(guest))
    }
}

impl Place {
    /// The connection that has it.
    pub(super) fn guest(&self) -> &Arc<Guest> {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (guest, admission) = (&self.0, &self.0.admission);
        admission.guests().remove(guest.origin(), guest.number);
        guest.close_account();
        if guest.leaves_for_place() {
            admission.leaving.fetch_sub(1, Ordering::Relaxed);
        }
        admission.taken.fetch_sub(1, Ordering::AcqRel);
        admission.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
