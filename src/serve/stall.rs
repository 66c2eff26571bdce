//! Notices that something waited for does not move. One timer per watched thing, made at its first wait and never
//! touched while bytes flow: a byte costs a store to a bool.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Watches one direction of one stream.
#[derive(Debug)]
pub(super) struct Stall {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    moved: bool,
}

impl Stall {
    /// A watch that calls it a stall when nothing moves for `limit` (and at most twice that) while it is waited for.
    pub(super) const fn new(limit: Duration) -> Self {
        Self { limit, timer: None, moved: false }
    }

    /// The limit.
    pub(super) const fn limit(&self) -> Duration {
        self.limit
    }

    /// Something moved.
    pub(super) const fn moved(&mut self) {
        self.moved = true;
    }

    /// To be polled whenever the watched thing is pending; ready when it stalled.
    pub(super) fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        loop {
            ready!(timer.as_mut().poll(cx));
            // The timer ran out, but it may have been armed for an earlier wait, which ended well.
            if !std::mem::take(&mut self.moved) {
                return Poll::Ready(());
            }
            timer.as_mut().reset(Instant::now() + limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_wait_without_movement_is_a_stall_and_not_before_the_limit() {
        let mut stall = Stall::new(LIMIT);
        let begin = Instant::now();
        poll_fn(|cx| stall.poll_stalled(cx)).await;
        assert!(begin.elapsed() >= LIMIT);
    }

    #[tokio::test]
    async fn movement_gives_another_limit() {
        let mut stall = Stall::new(LIMIT);
        let begin = Instant::now();
        poll_fn(|cx| {
            assert!(stall.poll_stalled(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        stall.moved();
        poll_fn(|cx| stall.poll_stalled(cx)).await;
        assert!(begin.elapsed() >= LIMIT * 2);
    }
}
