//! The latest moment at which another master has said something, as far as this one has heard: what is said here from then on is later,
//! also while what was heard of has not come yet, and if it never does.
//!
//! What counts here stands in the records, and so does its moment. What was only heard of stands in none: a moment that is ahead
//! of the wall is written down by itself, so that a start does not go back behind it. All of it but [`Heard::take_in`] blocks.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::clock::Moment;
use crate::clock::Timestamp;
use crate::fs::{Disk, is_absence};
use crate::store::error::StoreError;
use crate::store::layout::Layout;

/// A moment that is less ahead of the wall is not written down: a start takes longer than that.
const SHORT: Duration = Duration::from_secs(1);

/// By so many milliseconds more than was heard is written down: while much is heard, that is one write in the time.
const MARGIN: u64 = 1000;

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    latest: Mutex<Moment>,
    /// What the file said at the start.
    before: OnceLock<Moment>,
    /// What it says since.
    written: Mutex<Moment>,
}

impl Heard {
    /// Takes a moment in. Says whether it has to be written down. Waits for nothing.
    pub(super) fn take_in(&self, at: Moment, wall: Timestamp) -> bool {
        let mut latest = lock(&self.latest);
        *latest = (*latest).max(at);
        at.wall().since(wall).is_some_and(|ahead| ahead > SHORT)
    }

    /// The latest one; the first of all if nothing was heard. One that is not believed any more, as the clock of the wall was set
    /// back, does not count.
    pub(super) fn latest(&self, layout: &Layout, wall: Timestamp) -> Moment {
        let latest = self.before(layout).max(*lock(&self.latest));
        if latest.is_too_far_ahead(wall) { Moment::default() } else { latest }
    }

    /// Writes it down, unless the file says as much.
    pub(super) fn write(&self, layout: &Layout, disk: &Disk) -> Result<(), StoreError> {
        let mut written = lock(&self.written);
        let latest = *lock(&self.latest);
        if latest <= self.before(layout).max(*written) {
            return Ok(());
        }
        let ahead = Moment::of_wall(Timestamp::from_millis(latest.wall().as_millis().saturating_add(MARGIN)));
        disk.replace(layout.temporary(), &layout.records_heard(), format!("{ahead}\n").as_bytes())?;
        *written = ahead;
        Ok(())
    }

    fn before(&self, layout: &Layout) -> Moment {
        *self.before.get_or_init(|| {
            let path = layout.records_heard();
            match std::fs::read_to_string(&path) {
                Ok(text) => text.trim_end().parse().unwrap_or_default(),
                Err(error) if is_absence(&error) => Moment::default(),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "what other masters had said before the start can't be read");
                    Moment::default()
                }
            }
        })
    }
}

fn lock(moment: &Mutex<Moment>) -> MutexGuard<'_, Moment> {
    moment.lock().unwrap_or_else(PoisonError::into_inner)
}
