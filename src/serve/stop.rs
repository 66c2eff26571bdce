//! The word to end, as connections hear it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use tokio_util::sync::CancellationToken;

/// Said once, heard by all. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop {
    said: Arc<AtomicBool>,
    token: CancellationToken,
}

impl Stop {
    /// The same for one connection: wakes of one don't meet those of another at its token.
    pub(super) fn child(&self) -> Self {
        Self { said: Arc::clone(&self.said), token: self.token.child_token() }
    }

    /// Says it.
    pub(super) fn say(&self) {
        self.said.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Waits until it is said. To be polled by one task only. A connection asks at each of its wakes, and the token
    /// answers under a lock: so it is asked once, and again only after the word was said.
    pub(super) async fn heard(&self) {
        let mut cancelled = pin!(self.token.cancelled());
        let mut waits = false;
        poll_fn(|cx| {
            if waits && !self.said.load(Ordering::Acquire) {
                return Poll::Pending;
            }
            waits = true;
            cancelled.as_mut().poll(cx)
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn who_waits_is_woken_and_who_comes_later_need_not_wait() {
        let stop = Stop::default();
        let child = stop.child();
        let mut heard = pin!(child.heard());
        assert!(poll!(heard.as_mut()).is_pending() && poll!(heard.as_mut()).is_pending());
        let ((), ()) = tokio::join!(heard, async {
            tokio::task::yield_now().await;
            stop.say();
        });
        assert!(poll!(pin!(stop.child().heard())).is_ready());
    }
}
