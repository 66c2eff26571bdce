//! Making room: what is least recently used goes when the budget or the reserve is reached, and what was not used for
//! long goes with time. What could not be fetched again stays as long as anything else can go.
//!
//! An upstream may say any length, or none. So for what can't fit nothing goes: the length is held against what could be
//! freed before anything is removed. Room is made as bytes come, not for what is promised. And fills whose length no stored
//! manifest gives hold a [`SHARE`] of the cache together at most where others have to go for them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::jobs::{Job, JobError, Run, Schedule};
use crate::store::{Eviction, Refusal, Store, StoreError};
use crate::telemetry::{EvictionCause, Metrics};

/// Pause between two walks for what is too old.
const SWEEP_EVERY: Duration = Duration::from_secs(300);

/// After a walk that found too little, one for as much or more waits so long.
const BARREN: Duration = Duration::from_secs(10);

/// Beyond what is needed at once so much is freed, a part of the budget, so that not every batch walks the tree; never more
/// than the rest of the content takes.
const SLACK: u64 = 64;

/// What lies about lengths cost of the cache at most, together: a third.
const SHARE: u64 = 3;

/// Where inodes are wanted so many contents go.
const INODES: u64 = 64;

/// What room is wanted for, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What comes next.
    pub now: u64,
    /// All that is still to come, as far as that is known: nothing goes for what can't fit whole.
    pub all: u64,
}

impl Wanted {
    /// Room for something that is there.
    #[must_use]
    pub const fn whole(bytes: u64) -> Self {
        Self { now: bytes, all: bytes }
    }
}

/// Makes room in a store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    metrics: Metrics,
    /// Whether what is removed could be fetched again: the last probe of the upstream was good.
    replaceable: AtomicBool,
    /// `proxy.ttl` in seconds; 0: nothing is ever too old.
    ttl: AtomicU64,
    /// One walk at a time.
    walking: tokio::sync::Mutex<()>,
    /// When a walk last found too little, and for how much.
    barren: Mutex<Option<(Instant, u64)>>,
    /// Bytes that fills of unknown length hold, of those for which something had to go.
    staked: AtomicU64,
}

/// What a fill of unknown length holds of the share that all of them have; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Stake {
    room: Room,
    bytes: u64,
}

impl Stake {
    /// Holds `bytes` in all from now on.
    ///
    /// # Errors
    /// [`StoreError::Full`]: others would hold too much with it. What was held before is held still.
    pub(super) async fn raise(&mut self, bytes: u64) -> Result<(), StoreError> {
        let (inner, more) = (&self.room.0, bytes.saturating_sub(self.bytes));
        let share = inner.store.measure() / SHARE;
        let held = inner.staked.fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| {
            held.checked_add(more).filter(|held| *held <= share)
        });
        match held {
            Ok(_) => {
                self.bytes += more;
                Ok(())
            }
            // In the words of the limit that was reached.
            Err(_) => match inner.store.admit(u64::MAX).await {
                Err(error) => Err(error),
                Ok(()) => Err(StoreError::Full(Refusal::ReserveExhausted { reserve: 0, free: 0, wanted: bytes })),
            },
        }
    }
}

impl Drop for Stake {
    fn drop(&mut self) {
        self.room.0.staked.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Room {
    /// Over `store`. Until told otherwise nothing counts as replaceable and nothing as too old.
    #[must_use]
    pub fn new(store: Store, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            store,
            metrics,
            replaceable: AtomicBool::new(false),
            ttl: AtomicU64::new(0),
            walking: tokio::sync::Mutex::new(()),
            barren: Mutex::new(None),
            staked: AtomicU64::new(0),
        }))
    }

    /// Says whether what is removed could be fetched again.
    pub fn set_replaceable(&self, replaceable: bool) {
        self.0.replaceable.store(replaceable, Ordering::Relaxed);
    }

    /// Removes what was not used for so long from now on; zero: never.
    pub fn set_ttl(&self, ttl: Duration) {
        self.0.ttl.store(ttl.as_secs(), Ordering::Relaxed);
    }

    /// A stake that holds nothing yet.
    pub(super) fn stake(&self) -> Stake {
        Stake { room: self.clone(), bytes: 0 }
    }

    /// Makes room for what comes now, if all of it can have room. Dropped meanwhile, what is being removed still goes.
    ///
    /// # Errors
    /// [`StoreError::Full`] if there is no room afterwards, or of the disk.
    pub async fn make(&self, wanted: Wanted) -> Result<(), StoreError> {
        let store = &self.0.store;
        let _walking = self.0.walking.lock().await;
        let goal = store.shortfall(wanted.all.max(wanted.now)).await?;
        if goal == 0 {
            return Ok(());
        }
        if lock(&self.0.barren).is_some_and(|(since, for_goal)| goal >= for_goal && since.elapsed() < BARREN) {
            return store.admit(wanted.all.max(wanted.now)).await;
        }
        let need = match store.shortfall(wanted.now).await? {
            0 => 0,
            need => goal.min(need.saturating_add(store.measure() / SLACK)),
        };
        let hopeless = self.evict(Eviction { need, goal, ..Eviction::default() }).await?;
        let admitted = store.admit(if hopeless { wanted.all.max(wanted.now) } else { wanted.now }).await;
        if admitted.is_err() {
            *lock(&self.0.barren) = Some((Instant::now(), goal));
        }
        admitted
    }

    /// Makes what was refused possible, as far as something may go for it; for a content or manifest of `bytes`.
    ///
    /// # Errors
    /// [`StoreError::Full`] if nothing can be made of it, or of the disk.
    pub async fn make_after(&self, refusal: Refusal, bytes: u64) -> Result<(), StoreError> {
        match refusal {
            Refusal::BudgetExhausted { .. } | Refusal::ReserveExhausted { .. } => self.make(Wanted::whole(bytes)).await,
            Refusal::InodesExhausted { .. } => {
                let _walking = self.0.walking.lock().await;
                self.evict(Eviction { contents: INODES, ..Eviction::default() }).await.map(drop)
            }
            Refusal::QuotaExhausted | Refusal::FileTooLong | Refusal::ReadOnly => Err(StoreError::Full(refusal)),
        }
    }

    /// Removes what is least recently used; says whether nothing was because too little can be.
    async fn evict(&self, wanted: Eviction) -> Result<bool, StoreError> {
        let spare_tagged = !self.0.replaceable.load(Ordering::Relaxed);
        let evicted = self.0.store.evict(Eviction { spare_tagged, ..wanted }).await?;
        self.0.metrics.evicted(EvictionCause::Room, evicted.contents, evicted.bytes);
        if evicted.contents > 0 {
            tracing::info!(
                contents = evicted.contents,
                bytes = evicted.bytes,
                "removed what was least recently used to make room"
            );
        }
        Ok(evicted.hopeless)
    }

    /// Removes what was not used for `proxy.ttl`, if it could be fetched again. Dropped meanwhile, what is being removed
    /// still goes.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn remove_old(&self) -> Result<(), StoreError> {
        let ttl = Duration::from_secs(self.0.ttl.load(Ordering::Relaxed));
        if ttl.is_zero() || !self.0.replaceable.load(Ordering::Relaxed) {
            return Ok(());
        }
        let _walking = self.0.walking.lock().await;
        let evicted = self.0.store.evict(Eviction { idle: Some(ttl), ..Eviction::default() }).await?;
        self.0.metrics.evicted(EvictionCause::Ttl, evicted.contents, evicted.bytes);
        if evicted.contents > 0 {
            tracing::info!(
                contents = evicted.contents,
                bytes = evicted.bytes,
                "removed what was not used for proxy.ttl"
            );
        }
        Ok(())
    }
}

/// Removes what is too old.
impl Job for Room {
    const NAME: &'static str = "eviction";

    fn schedule(&self) -> Schedule {
        Schedule::every(SWEEP_EVERY).not_at_start()
    }

    async fn run(&mut self, _: Run) -> Result<(), JobError> {
        self.remove_old().await.map_err(|error| JobError::new("what is too old could not be removed", &error))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
