//! How much is read at once of a request's body.
//!
//! A read hands the body over in one piece, and each piece goes through hyper, the service and the store by itself: with
//! pieces of 1 MiB instead of 256 KiB a push costs a tenth less CPU. Each also waits in memory, so of many bodies at once
//! less is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is read of one body at once: what the store takes in one go, less [`SLACK_BYTES`].
pub(super) const MOST_BYTES: usize = 1 << 20;

/// However many bodies come in: less makes a push dearer.
pub(super) const LEAST_BYTES: usize = 256 << 10;

/// What may be read at once without asking how many bodies there are.
pub(super) const LEAST_READ_BYTES: usize = LEAST_BYTES - SLACK_BYTES;

/// What is read of all of them together, until it can't be less.
pub(super) const ALL_BYTES: usize = 8 << 20;

/// A read that fills hyper's buffer makes the next one twice as large; one that is bounded here must not.
const SLACK_BYTES: usize = 4 << 10;

/// The request bodies that come in over all HTTP/1 connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Receiving(Arc<AtomicUsize>);

/// A body that comes in, until this is dropped.
#[derive(Debug)]
pub(super) struct OneBody(Receiving);

impl Receiving {
    /// A body begins.
    pub(super) fn begin(&self) -> OneBody {
        self.0.fetch_add(1, Ordering::Relaxed);
        OneBody(self.clone())
    }

    /// How much to read at once, now.
    pub(super) fn read_bytes(&self) -> usize {
        (ALL_BYTES / self.0.load(Ordering::Relaxed).max(1)).clamp(LEAST_BYTES, MOST_BYTES) - SLACK_BYTES
    }
}

impl Drop for OneBody {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_bodies_less_is_read_at_once_until_some_have_ended() {
        let receiving = Receiving::default();
        assert_eq!(receiving.read_bytes(), MOST_BYTES - SLACK_BYTES);
        let mut bodies: Vec<_> = (0..8).map(|_| receiving.begin()).collect();
        assert_eq!(receiving.read_bytes(), MOST_BYTES - SLACK_BYTES);
        bodies.extend((0..8).map(|_| receiving.begin()));
        assert_eq!(receiving.read_bytes(), MOST_BYTES / 2 - SLACK_BYTES);
        bodies.extend((0..100).map(|_| receiving.begin()));
        assert_eq!(receiving.read_bytes(), LEAST_BYTES - SLACK_BYTES);
        bodies.truncate(8);
        assert_eq!(receiving.read_bytes(), MOST_BYTES - SLACK_BYTES);
    }
}
