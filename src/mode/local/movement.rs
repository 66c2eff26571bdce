//! Whether bytes of a push still move.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// A push is waited for while bytes move; so long without one end the wait.
const STANDSTILL: Duration = Duration::from_secs(20);

/// When a byte moved last.
#[derive(Debug)]
pub(super) struct Movement(Mutex<Instant>);

impl Movement {
    pub(super) fn begun() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    /// Notes that something moved.
    pub(super) fn moved(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// What is left at `now` of a wait for something to move.
    fn left(&self, now: Instant) -> Duration {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        STANDSTILL.saturating_sub(now.saturating_duration_since(last))
    }

    /// Ends when nothing has moved for [`STANDSTILL`]. Safe to drop.
    pub(super) async fn stands_still(&self) {
        loop {
            let left = self.left(Instant::now());
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_lasts_while_something_moves() {
        let (movement, began) = (Movement::begun(), Instant::now());
        let third = STANDSTILL / 3;
        assert!(movement.left(began + third * 2) >= third / 2 && movement.left(began + STANDSTILL * 2).is_zero());
        movement.moved();
        let moved = Instant::now();
        assert!(movement.left(moved + third * 2) >= third / 2 && movement.left(moved + STANDSTILL * 2).is_zero());
    }
}
