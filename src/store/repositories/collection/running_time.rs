//! The time for which servers have run on a store, in `gc/running-time`: the clock that a suspect's grace is counted by.
//!
//! It grows by what the machine's monotonic clock measures while a server runs, and by nothing else: whoever sets the wall
//! clock, stops the server for a year or puts the disk into another machine makes nothing older. It is noted each minute while
//! there are suspects, so a killed server makes a grace longer by up to a minute, never shorter. A note that is lost or can't
//! be read stands at the youngest verdict.

use std::time::Duration;

#[cfg(not(test))]
use fail::fail_point;

#[cfg(not(test))]
use crate::clock;
use crate::fs::Disk;
use crate::store::error::StoreError;
use crate::store::layout::Layout;

#[derive(Debug)]
pub(in crate::store) struct RunningTime {
    /// Of all servers before.
    before: Duration,
    #[cfg(not(test))]
    begun: Duration,
    #[cfg(test)]
    ahead: std::sync::atomic::AtomicU64,
}

impl RunningTime {
    /// Goes on where the note stands, and behind every verdict; blocking.
    pub(in crate::store) fn open(layout: &Layout, verdicts: impl Iterator<Item = Duration>) -> Self {
        let noted = std::fs::read_to_string(layout.running_time()).ok().and_then(|text| text.trim().parse().ok());
        let noted = Duration::from_millis(noted.unwrap_or(0));
        Self {
            before: verdicts.fold(noted, Duration::max),
            #[cfg(not(test))]
            begun: clock::running(),
            #[cfg(test)]
            ahead: std::sync::atomic::AtomicU64::new(0),
        }
    }

    /// What has passed until now.
    #[cfg(not(test))]
    pub(in crate::store) fn now(&self) -> Duration {
        self.before + clock::running().saturating_sub(self.begun) * pace()
    }

    /// What has passed until now: what a test said, so that no machine is too slow for it.
    #[cfg(test)]
    pub(in crate::store) fn now(&self) -> Duration {
        self.before + Duration::from_millis(self.ahead.load(std::sync::atomic::Ordering::SeqCst))
    }

    /// Notes it, durably; blocking.
    pub(in crate::store) fn note(&self, layout: &Layout, disk: &Disk) -> Result<(), StoreError> {
        let text = format!("{}\n", self.now().as_millis());
        Ok(disk.replace(layout.temporary(), &layout.running_time(), text.as_bytes())?)
    }

    /// Lets time pass.
    #[cfg(test)]
    pub(in crate::store) fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap();
        self.ahead.fetch_add(millis, std::sync::atomic::Ordering::SeqCst);
    }
}

/// How many times as fast as the machine's clock it goes: once. The long tests, which can't wait for a day, say another number.
#[cfg(not(test))]
fn pace() -> u32 {
    fail_point!("store::collection::pace", |pace| pace.and_then(|pace| pace.parse().ok()).unwrap_or(1));
    1
}
