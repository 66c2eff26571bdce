//! The queue in which connections send large answers. A worker polls the network (the runtime's I/O driver) between quanta.
//!
//! One quantum of a large answer keeps a worker for some 200 µs. The runtime polls its I/O driver only every few tasks, or
//! when no task is ready, so beside eight downloads at full speed a small request would wait for all eight. Three rules
//! bound that wait:
//! - at most as many quanta are out as there are workers; downloads get theirs in the order of asking;
//! - a connection sends [`UNQUEUED_BYTES`] without a quantum;
//! - after [`POLL_BYTES`], summed over all connections, the quantum that sent the last of them comes back only when its
//!   worker has polled the driver. The runtime wakes a task that yields just then; the tests here hold it to that.
//!
//! A quantum belongs to no worker: one of several may run those of all before it polls, if no other takes its tasks.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

/// Most bytes of a file that are sent in one quantum.
pub(super) const QUANTUM_BYTES: usize = 2 << 20;

/// Bytes that one quantum is good for at least, in however many pieces they are sent.
pub(super) const MIN_QUANTUM_BYTES: usize = 256 * 1024;

/// Bytes sent, by all connections, before a quantum waits for a poll of the I/O driver.
const POLL_BYTES: usize = 1 << 20;

/// Bytes that a connection sends without a quantum.
pub(super) const UNQUEUED_BYTES: usize = 64 * 1024;

/// The queue of a server's connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct SendQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// A permit is the right to one quantum. Fair: permits are given in the order of asking.
    permits: Arc<Semaphore>,
    /// Bytes sent since a quantum last waited for a poll.
    sent: AtomicUsize,
    /// Permits to be given back after the next poll.
    spent: AtomicUsize,
}

impl SendQueue {
    /// A queue of `quanta` at once: the number of workers, and at least 1.
    pub(super) fn new(quanta: usize) -> Self {
        let permits = Arc::new(Semaphore::new(quanta.max(1)));
        Self(Arc::new(Shared { permits, sent: AtomicUsize::new(0), spent: AtomicUsize::new(0) }))
    }

    /// The slot of one connection.
    pub(super) fn slot(&self) -> Slot {
        Slot { waiting: self.0.permits(), asked: false, spent: false, shared: Arc::clone(&self.0) }
    }
}

/// A connection's slot in the queue.
#[derive(Debug)]
pub(super) struct Slot {
    waiting: PollSemaphore,
    /// A quantum was asked for: it is waited for, or assigned and not yet taken.
    asked: bool,
    /// The last quantum waited for a poll; the next one of this slot has to wait for one too.
    spent: bool,
    shared: Arc<Shared>,
}

/// The right to send one quantum, to be ended with [`Slot::end`]. Must not be held across a wait.
#[derive(Debug)]
#[must_use = "the quantum is over when this is dropped"]
pub(super) struct Quantum(Option<OwnedSemaphorePermit>);

impl Slot {
    /// Waits for a quantum. The caller has to poll on or call [`Slot::leave`]: a quantum that is assigned and not taken
    /// keeps the others waiting. Polls of the I/O driver are waited for inside a task of the runtime only.
    pub(super) fn poll_quantum(&mut self, cx: &mut Context<'_>) -> Poll<Quantum> {
        if std::mem::take(&mut self.spent) && self.waiting.available_permits() > 0 {
            // Another permit is free, so the acquire below would not wait: one download would take permit after permit
            // before its worker polls.
            wake_after_io_poll(cx.waker());
            return Poll::Pending;
        }
        self.asked = true;
        let permit = ready!(self.waiting.poll_acquire(cx));
        self.asked = false;
        Poll::Ready(Quantum(permit))
    }

    /// Ends the quantum, in which `sent` bytes were sent.
    pub(super) fn end(&mut self, quantum: Quantum, sent: usize) {
        let shared = &self.shared;
        // Relaxed: the sum orders no other memory. Bytes that another worker adds between the two operations are lost to
        // the sum, and the next poll is late by these bytes at most.
        if shared.sent.fetch_add(sent, Ordering::Relaxed) + sent < POLL_BYTES {
            return;
        }
        shared.sent.store(0, Ordering::Relaxed);
        if let Some(permit) = quantum.0 {
            // The permit is forgotten before it is counted as spent, and counted before the wake-up is asked for: the
            // wake-up adds to the semaphore what it finds counted, so no permit is added twice and none is lost.
            permit.forget();
            shared.spent.fetch_add(1, Ordering::Release);
            wake_after_io_poll(&Waker::from(Arc::clone(shared)));
            self.spent = true;
        }
    }

    /// Whether a quantum was asked for and not taken.
    pub(super) const fn is_queued(&self) -> bool {
        self.asked
    }

    /// Gives up the quantum that was asked for, assigned or not.
    pub(super) fn leave(&mut self) {
        if std::mem::take(&mut self.asked) {
            // Dropping the old one takes it out of the semaphore's queue, or gives an assigned permit back.
            self.waiting = self.shared.permits();
        }
    }
}

/// Wakes `waker` when this worker has polled the I/O driver: the runtime defers who yields until then.
fn wake_after_io_poll(waker: &Waker) {
    let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(waker));
}

impl Shared {
    fn permits(&self) -> PollSemaphore {
        PollSemaphore::new(Arc::clone(&self.permits))
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // The runtime wakes one waker for all quanta that ended on a worker since its last poll, so one wake-up gives
        // back all that are spent. Acquire pairs with the Release in `end`: what is counted was forgotten before.
        self.permits.add_permits(self.spent.swap(0, Ordering::Acquire));
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

    async fn quantum(slot: &mut Slot) -> Quantum {
        poll_fn(|cx| slot.poll_quantum(cx)).await
    }

    fn is_waiting(slot: &mut Slot) -> bool {
        slot.poll_quantum(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn quanta_come_in_the_order_of_asking_also_past_slots_that_left() {
        let queue = SendQueue::new(1);
        let [mut first, mut second, mut third, mut fourth, mut fifth] = std::array::from_fn(|_| queue.slot());
        let sending = quantum(&mut first).await;
        assert!([&mut second, &mut third, &mut fourth, &mut fifth].into_iter().all(is_waiting));
        drop(second);
        first.end(sending, 1);
        assert!(is_waiting(&mut fourth), "the quantum is the third's");
        third.leave();
        assert!(is_waiting(&mut fifth), "the quantum is the fourth's");
        drop(quantum(&mut fourth).await);
        drop(quantum(&mut fifth).await);
    }

    #[tokio::test]
    async fn quanta_that_end_together_all_come_back() {
        let queue = SendQueue::new(2);
        let [mut one, mut other] = std::array::from_fn(|_| queue.slot());
        for _ in 0..3 {
            let both = (quantum(&mut one).await, quantum(&mut other).await);
            one.end(both.0, POLL_BYTES);
            other.end(both.1, POLL_BYTES);
        }
    }

    #[tokio::test]
    async fn the_quantum_that_fills_the_bound_waits_for_a_poll() {
        let queue = SendQueue::new(1);
        let [mut one, mut other] = std::array::from_fn(|_| queue.slot());
        let first = quantum(&mut one).await;
        one.end(first, POLL_BYTES - 1);
        let second = poll_fn(|cx| other.poll_quantum(cx)).now_or_never().expect("nothing waits for a poll yet");
        other.end(second, 1);
        assert!(is_waiting(&mut one), "now the quantum does");
        let third = quantum(&mut one).await;
        one.end(third, QUANTUM_BYTES);
        assert!(is_waiting(&mut other));
    }

    #[tokio::test]
    async fn no_slot_has_two_quanta_without_a_poll_between_them() {
        let queue = SendQueue::new(2);
        let [mut one, mut other] = std::array::from_fn(|_| queue.slot());
        let first = quantum(&mut one).await;
        one.end(first, POLL_BYTES);
        assert!(is_waiting(&mut one), "the second quantum is free");
        assert!(!one.is_queued() && !is_waiting(&mut other), "and another may have it");
    }

    #[test]
    fn the_driver_is_polled_between_two_quanta_whatever_the_interval() {
        const ROUNDS: usize = 1000;
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().event_interval(1_000_000).build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let (mut ours, theirs) = pair().await;
            let theirs = Rc::new(theirs.into_std().unwrap());
            // Quanta until now, and their number when the small request was seen.
            let [done, seen_at] = std::array::from_fn(|_| Rc::new(Cell::new(0)));
            let (counter, seen) = (Rc::clone(&done), Rc::clone(&seen_at));
            let small = tokio::task::spawn_local(async move {
                ours.read_u8().await.unwrap();
                seen.set(counter.get());
            });
            let queue = SendQueue::new(1);
            for _ in 0..8 {
                let (mut slot, theirs) = (queue.slot(), Rc::clone(&theirs));
                let done = Rc::clone(&done);
                tokio::task::spawn_local(async move {
                    for _ in 0..ROUNDS {
                        let quantum = quantum(&mut slot).await;
                        done.set(done.get() + 1);
                        if done.get() == ROUNDS {
                            (&*theirs).write_all(b"x").unwrap();
                        }
                        slot.end(quantum, POLL_BYTES);
                    }
                });
            }
            small.await.unwrap();
            let waited = seen_at.get() - ROUNDS;
            assert!(waited <= 2, "a small request waited for {waited} quanta");
        });
    }
}
