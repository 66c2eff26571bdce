//! Who sends much next. A worker looks at the network between the turns.
//!
//! A turn of a large answer keeps a worker for some 200 µs. With eight downloads at full speed a small request would
//! wait for all of them, as the runtime looks at the network only after many tasks, or when there are none left. So
//! there are no more turns at once than workers, downloads wait for theirs in the order of asking, and when
//! [`LOOK_BYTES`] have been sent, by whomever, the turn that sent the last of them is free again only after its worker
//! has looked at the network: that is when the runtime wakes who yields, and the tests here hold it to that.
//!
//! Turns belong to no worker: one of several may run those of all before it looks, if nobody takes its tasks from it.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

/// What of a file is sent in one turn at most, in bytes.
pub(super) const TURN_BYTES: usize = 2 << 20;

/// What a turn is good for at least, in however many pieces it is sent.
pub(super) const LEAST_BYTES: usize = 256 * 1024;

/// What is sent before a turn waits for a look at the network.
const LOOK_BYTES: usize = 1 << 20;

/// What a connection sends without waiting for a turn.
pub(super) const SMALL_BYTES: usize = 64 * 1024;

/// The turns of a server's connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    free: Arc<Semaphore>,
    /// Bytes sent since a turn last waited for a look.
    sent: AtomicUsize,
    /// Turns that are free again after the next look.
    used: AtomicUsize,
}

impl Turns {
    /// `at_once`: as many as there are workers.
    pub(super) fn new(at_once: usize) -> Self {
        let free = Arc::new(Semaphore::new(at_once.max(1)));
        Self(Arc::new(Shared { free, sent: AtomicUsize::new(0), used: AtomicUsize::new(0) }))
    }

    /// The place of a connection in the row.
    pub(super) fn place(&self) -> Place {
        Place { waiting: self.0.free(), asked: false, used: false, shared: Arc::clone(&self.0) }
    }
}

/// A connection's place in the row.
#[derive(Debug)]
pub(super) struct Place {
    waiting: PollSemaphore,
    /// It waits, or has been given its turn and does not know yet.
    asked: bool,
    /// Its last turn was followed by a look: the next one has to be too.
    used: bool,
    shared: Arc<Shared>,
}

/// A connection's turn, to be ended with [`Place::end`]. Must not be kept while something is waited for.
#[derive(Debug)]
#[must_use = "the turn is over when this is dropped"]
pub(super) struct Turn(Option<OwnedSemaphorePermit>);

impl Place {
    /// Waits for the turn. Who has asked has to ask on or [`Place::leave`]: until then the turn may be his, and the
    /// others wait. Inside a task of the runtime, as all here; elsewhere no look is waited for.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        if std::mem::take(&mut self.used) && self.waiting.available_permits() > 0 {
            behind_the_look(cx.waker());
            return Poll::Pending;
        }
        self.asked = true;
        let permit = ready!(self.waiting.poll_acquire(cx));
        self.asked = false;
        Poll::Ready(Turn(permit))
    }

    /// Ends the turn, in which `sent` bytes are sent.
    pub(super) fn end(&mut self, turn: Turn, sent: usize) {
        let shared = &self.shared;
        if shared.sent.fetch_add(sent, Ordering::Relaxed) + sent < LOOK_BYTES {
            return;
        }
        shared.sent.store(0, Ordering::Relaxed);
        if let Some(permit) = turn.0 {
            permit.forget();
            shared.used.fetch_add(1, Ordering::Release);
            behind_the_look(&Waker::from(Arc::clone(shared)));
            self.used = true;
        }
    }

    /// Whether a turn was asked for that has not come.
    pub(super) const fn is_asking(&self) -> bool {
        self.asked
    }

    /// No turn is wanted any more.
    pub(super) fn leave(&mut self) {
        if std::mem::take(&mut self.asked) {
            self.waiting = self.shared.free();
        }
    }
}

/// Wakes when this worker has looked at the network.
fn behind_the_look(waker: &Waker) {
    let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(waker));
}

impl Shared {
    fn free(&self) -> PollSemaphore {
        PollSemaphore::new(Arc::clone(&self.free))
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Of turns that ended on one worker the runtime wakes only one.
        self.free.add_permits(self.used.swap(0, Ordering::Acquire));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::io::Write as _;
    use std::rc::Rc;

    use futures_util::FutureExt as _;
    use tokio::io::AsyncReadExt as _;
    use tokio::task::LocalSet;

    use super::*;
    use crate::serve::file_io::tests::pair;

    async fn turn(place: &mut Place) -> Turn {
        poll_fn(|cx| place.poll_turn(cx)).await
    }

    fn is_waiting(place: &mut Place) -> bool {
        place.poll_turn(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn the_row_moves_on_in_the_order_of_asking_also_past_who_left() {
        let turns = Turns::new(1);
        let [mut first, mut second, mut third, mut fourth, mut fifth] = std::array::from_fn(|_| turns.place());
        let sending = turn(&mut first).await;
        assert!([&mut second, &mut third, &mut fourth, &mut fifth].into_iter().all(is_waiting));
        drop(second);
        first.end(sending, 1);
        assert!(is_waiting(&mut fourth), "the turn is the third's");
        third.leave();
        assert!(is_waiting(&mut fifth), "the turn is the fourth's");
        drop(turn(&mut fourth).await);
        drop(turn(&mut fifth).await);
    }

    #[tokio::test]
    async fn turns_that_end_together_all_come_back() {
        let turns = Turns::new(2);
        let [mut one, mut other] = std::array::from_fn(|_| turns.place());
        for _ in 0..3 {
            let both = (turn(&mut one).await, turn(&mut other).await);
            one.end(both.0, LOOK_BYTES);
            other.end(both.1, LOOK_BYTES);
        }
    }

    #[tokio::test]
    async fn a_look_follows_the_turn_that_sends_the_last_of_what_may_go_without_one() {
        let turns = Turns::new(1);
        let [mut one, mut other] = std::array::from_fn(|_| turns.place());
        let first = turn(&mut one).await;
        one.end(first, LOOK_BYTES - 1);
        let second = poll_fn(|cx| other.poll_turn(cx)).now_or_never().expect("nobody waits for a look");
        other.end(second, 1);
        assert!(is_waiting(&mut one), "now somebody does");
        let third = turn(&mut one).await;
        one.end(third, TURN_BYTES);
        assert!(is_waiting(&mut other));
    }

    #[tokio::test]
    async fn nobody_has_two_turns_without_a_look_between_them() {
        let turns = Turns::new(2);
        let [mut one, mut other] = std::array::from_fn(|_| turns.place());
        let first = turn(&mut one).await;
        one.end(first, LOOK_BYTES);
        assert!(is_waiting(&mut one), "the second turn is free");
        assert!(!one.is_asking() && !is_waiting(&mut other), "and another may have it");
    }

    #[test]
    fn the_network_is_looked_at_between_two_turns_whatever_the_interval() {
        const ROUNDS: usize = 1000;
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().event_interval(1_000_000).build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let (mut ours, theirs) = pair().await;
            let theirs = Rc::new(theirs.into_std().unwrap());
            // Turns until now, and those that were over when the small request was seen.
            let [done, seen_at] = std::array::from_fn(|_| Rc::new(Cell::new(0)));
            let (counter, seen) = (Rc::clone(&done), Rc::clone(&seen_at));
            let small = tokio::task::spawn_local(async move {
                ours.read_u8().await.unwrap();
                seen.set(counter.get());
            });
            let turns = Turns::new(1);
            for _ in 0..8 {
                let (mut place, theirs) = (turns.place(), Rc::clone(&theirs));
                let done = Rc::clone(&done);
                tokio::task::spawn_local(async move {
                    for _ in 0..ROUNDS {
                        let turn = turn(&mut place).await;
                        done.set(done.get() + 1);
                        if done.get() == ROUNDS {
                            (&*theirs).write_all(b"x").unwrap();
                        }
                        place.end(turn, LOOK_BYTES);
                    }
                });
            }
            small.await.unwrap();
            let waited = seen_at.get() - ROUNDS;
            assert!(waited <= 2, "a small request waited for {waited} turns");
        });
    }
}
