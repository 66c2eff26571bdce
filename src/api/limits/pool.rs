//! Places that many share: anybody may use what nobody else wants, and who holds fewest comes next.
//!
//! Up to the limit a place is anybody's. Beyond it lie some more, for those who hold few: a holder gets one of them while
//! what he holds is less than an eighth of what is left of them (a dynamic threshold, as Choudhury and Hahne have it for
//! shared buffers), so that no number of places of one holder keeps another one out, and many holders with one place
//! each use them to the last. Who gets none waits, if the pool has a queue.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::serve::Stream;

/// A stream that moved no byte for so long, and whose client it waits for, is cut when somebody else wants its place.
pub(crate) const STANDING: Duration = Duration::from_secs(60);

/// Places beyond the limit, for those who hold few: a quarter of the limit, and at least so many.
const LEAST_RESERVE: usize = 8;

/// A holder gets a place of the reserve while he holds less than this part of what is left of it.
const RESERVE_PART: usize = 8;

/// Who has waited for half of the longest wait and holds no more than so many comes first, whoever holds fewer: a node
/// with one slow layer must not wait for ever behind nodes with none.
const FEW: usize = 8;

/// Standing streams are looked for at most this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The most places of a pool with this limit that are ever held at once.
pub(crate) const fn most_places(limit: usize) -> usize {
    limit.saturating_add(reserve(limit))
}

const fn reserve(limit: usize) -> usize {
    if limit / 4 > LEAST_RESERVE { limit / 4 } else { LEAST_RESERVE }
}

/// Who holds places: a user at an address, since all nodes of a cluster are one user.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Holder {
    user: Option<Arc<str>>,
    address: IpAddr,
}

impl Holder {
    /// `address`: the client's. IPv6 counts by /64: whoever has one address of it has them all.
    pub(crate) fn new(user: Option<Arc<str>>, address: IpAddr) -> Self {
        let address = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        };
        Self { user, address }
    }
}

/// A pool of places. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: usize,
    /// Most that wait; 0: nobody does.
    queue: usize,
    /// Longest wait.
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Taken places by number; free ones are in `free`.
    places: Vec<Option<(Holder, Arc<Stream>)>>,
    free: Vec<usize>,
    shares: HashMap<Holder, Share>,
    waiting: usize,
    arrivals: u64,
    /// When standing streams were looked for last.
    looked: Option<Instant>,
}

/// What one holder has, and waits for.
#[derive(Debug, Default)]
struct Share {
    held: usize,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    arrival: u64,
    since: Instant,
    stream: Arc<Stream>,
    turn: oneshot::Sender<Place>,
}

/// A place that is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    pool: Pool,
    number: usize,
}

/// No place is to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

impl Pool {
    /// `limit` places that are anybody's; at most `queue` wait for one, each for `patience`.
    pub(crate) fn new(limit: usize, queue: usize, patience: Duration) -> Self {
        Self(Arc::new(Inner { limit, queue, patience, state: Mutex::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place if one can be had now. `stream`: cut when it stands still and somebody wants its place.
    pub(crate) fn try_enter(&self, holder: &Holder, stream: &Arc<Stream>) -> Option<Place> {
        let mut state = self.lock();
        let held = state.held_by(holder);
        if !self.admits(&state, held) {
            state.cut_standing(1);
            return None;
        }
        let number = state.take(holder, stream);
        drop(state);
        Some(Place { pool: self.clone(), number })
    }

    /// A place, after waiting for it. Safe to drop: the place in the queue is given up.
    ///
    /// # Errors
    /// [`Refused`] if too many wait or the wait was too long.
    pub(crate) async fn enter(&self, holder: &Holder, stream: &Arc<Stream>) -> Result<Place, Refused> {
        if let Some(place) = self.try_enter(holder, stream) {
            return Ok(place);
        }
        let mut waiting = self.wait(holder, stream).ok_or(Refused)?;
        let ends = tokio::time::Instant::now() + self.0.patience;
        loop {
            let now = tokio::time::Instant::now();
            if now >= ends {
                return Err(Refused);
            }
            match tokio::time::timeout_at(ends.min(now + LOOK_EVERY), &mut waiting.turn).await {
                // The newest of who wants most gave way to another one.
                Ok(turn) => return turn.map_err(|_| Refused),
                Err(_) => {
                    let mut state = self.lock();
                    let wanted = state.waiting;
                    state.cut_standing(wanted);
                }
            }
        }
    }

    /// Takes a place in the queue. If that is full, the newest of who wants most gives way to one who wants less.
    fn wait(&self, holder: &Holder, stream: &Arc<Stream>) -> Option<Waiting> {
        let (sender, turn) = oneshot::channel();
        let mut state = self.lock();
        if state.waiting >= self.0.queue {
            let wants = |share: &Share| share.held + share.waiting.len();
            let ours = state.shares.get(holder).map_or(0, wants) + 1;
            let greedy = state.shares.values_mut().filter(|share| !share.waiting.is_empty()).max_by_key(|s| wants(s));
            greedy.filter(|share| wants(share) > ours)?.waiting.pop_back();
            state.waiting -= 1;
        }
        state.arrivals += 1;
        state.waiting += 1;
        let arrival = state.arrivals;
        let waiter = Waiter { arrival, since: Instant::now(), stream: Arc::clone(stream), turn: sender };
        state.shares.entry(holder.clone()).or_default().waiting.push_back(waiter);
        // One may have become free since it was asked for.
        let unwanted = self.hand_on(&mut state);
        drop(state);
        drop(unwanted);
        Some(Waiting { pool: self.clone(), holder: holder.clone(), arrival, turn })
    }

    /// Whether one who holds `held` gets a place now.
    fn admits(&self, state: &State, held: usize) -> bool {
        let taken = state.places.len() - state.free.len();
        taken < self.0.limit || held.saturating_mul(RESERVE_PART) < most_places(self.0.limit).saturating_sub(taken)
    }

    /// Gives free places to those who wait. What could not be given is to be dropped without the lock.
    fn hand_on(&self, state: &mut State) -> Vec<Place> {
        let mut unwanted = Vec::new();
        while state.waiting > 0 {
            let now = Instant::now();
            let mut fewest: Option<(usize, u64, &Holder)> = None;
            let mut oldest: Option<(u64, usize, &Holder)> = None;
            for (holder, share) in &state.shares {
                let Some(first) = share.waiting.front() else { continue };
                if fewest.is_none_or(|(held, arrival, _)| (share.held, first.arrival) < (held, arrival)) {
                    fewest = Some((share.held, first.arrival, holder));
                }
                let is_old = share.held <= FEW && now.saturating_duration_since(first.since) * 2 >= self.0.patience;
                if is_old && oldest.is_none_or(|(arrival, ..)| first.arrival < arrival) {
                    oldest = Some((first.arrival, share.held, holder));
                }
            }
            let oldest = oldest.map(|(_, held, holder)| (held, holder));
            let fewest = fewest.map(|(held, _, holder)| (held, holder));
            let next = oldest.into_iter().chain(fewest).find(|(held, _)| self.admits(state, *held));
            let Some(holder) = next.map(|(_, holder)| holder.clone()) else { break };
            let Some(waiter) = state.shares.get_mut(&holder).and_then(|share| share.waiting.pop_front()) else { break };
            state.waiting -= 1;
            let number = state.take(&holder, &waiter.stream);
            if let Err(place) = waiter.turn.send(Place { pool: self.clone(), number }) {
                unwanted.push(place);
            }
        }
        unwanted
    }

    /// Places held, and how many wait.
    #[cfg(test)]
    fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.places.len() - state.free.len(), state.waiting)
    }
}

impl State {
    fn held_by(&self, holder: &Holder) -> usize {
        self.shares.get(holder).map_or(0, |share| share.held)
    }

    fn take(&mut self, holder: &Holder, stream: &Arc<Stream>) -> usize {
        let taken = Some((holder.clone(), Arc::clone(stream)));
        self.shares.entry(holder.clone()).or_default().held += 1;
        match self.free.pop() {
            Some(number) => {
                self.places[number] = taken;
                number
            }
            None => {
                self.places.push(taken);
                self.places.len() - 1
            }
        }
    }

    fn release(&mut self, number: usize) {
        let Some((holder, _)) = self.places.get_mut(number).and_then(Option::take) else { return };
        self.free.push(number);
        if let Some(share) = self.shares.get_mut(&holder) {
            share.held -= 1;
            self.forget_if_idle(&holder);
        }
    }

    fn forget_if_idle(&mut self, holder: &Holder) {
        if self.shares.get(holder).is_some_and(|share| share.held == 0 && share.waiting.is_empty()) {
            self.shares.remove(holder);
        }
    }

    /// Cuts streams that stand, at most `wanted`, of those who hold most first.
    fn cut_standing(&mut self, wanted: usize) {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        let standing = self.places.iter().flatten().filter(|(_, stream)| stream.stands() >= STANDING);
        let mut standing: Vec<_> =
            standing.map(|(holder, stream)| (self.held_by(holder), stream.stands(), stream)).collect();
        standing.sort_by_key(|(held, stands, _)| std::cmp::Reverse((*held, *stands)));
        for (_, stands, stream) in standing.into_iter().take(wanted) {
            tracing::debug!(seconds = stands.as_secs(), "a stream stands still and is cut: others want its place");
            stream.cut();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.release(self.number);
        let unwanted = self.pool.hand_on(&mut state);
        drop(state);
        drop(unwanted);
    }
}

/// A place in the queue.
struct Waiting {
    pool: Pool,
    holder: Holder,
    arrival: u64,
    turn: oneshot::Receiver<Place>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        let Some(share) = state.shares.get_mut(&self.holder) else { return };
        let Some(at) = share.waiting.iter().position(|waiter| waiter.arrival == self.arrival) else { return };
        share.waiting.remove(at);
        state.waiting -= 1;
        state.forget_if_idle(&self.holder);
    }
}

#[cfg(test)]
mod tests;
