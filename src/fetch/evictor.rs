//! Eviction: the least recently used contents go when the budget or the reserve is reached, and contents that were not
//! used for `proxy.ttl` go with time. A content that could not be fetched again stays as long as another one can go.
//!
//! An upstream may announce any length, or none. Therefore nothing is removed for a content that can't fit: its length is
//! compared with all that could be freed first. Room is made as bytes come, not for a promise. Fills whose length no stored
//! manifest gives hold at most a [`SHARE`] of the cache together, if contents have to go for them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::jobs::{Job, JobError, Run, Schedule};
use crate::store::{Eviction, PinsState, Refusal, Spare, Store, StoreError};
use crate::telemetry::{EvictionCause, Metrics};

/// Pause between two walks for contents that are too old.
const SWEEP_EVERY: Duration = Duration::from_secs(300);

/// Minimum pause after a walk that freed too little, before the next one for as much or more.
const EVICT_BACKOFF: Duration = Duration::from_secs(10);

/// One walk frees this part of the budget beyond the need, so that not every batch walks the tree; never more than the
/// rest of the content takes.
const SLACK: u64 = 64;

/// Fills that lie about their length cost at most a third of the cache, together.
const SHARE: u64 = 3;

/// Contents that go at once when the file system has no inode left.
const INODES: u64 = 64;

/// A demand for room, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// For the bytes that come next.
    pub now: u64,
    /// For all bytes still to come, as far as their number is known: nothing goes for a content that can't fit whole.
    pub all: u64,
}

impl Wanted {
    /// For content whose bytes are all there.
    #[must_use]
    pub const fn whole(bytes: u64) -> Self {
        Self { now: bytes, all: bytes }
    }
}

/// Makes room in a store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Evictor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    metrics: Metrics,
    /// Whether a removed content could be fetched again: the last probe of the upstream was good. Relaxed: no other memory
    /// is published with it, and a walk that sees the value of a moment ago is one that began a moment ago.
    replaceable: AtomicBool,
    /// Whose room a push may take.
    displacing: Mutex<Displacing>,
    /// `proxy.ttl` in seconds; 0: nothing is ever too old. Relaxed, as `replaceable`.
    ttl: AtomicU64,
    /// One walk at a time.
    walking: tokio::sync::Mutex<()>,
    /// When a walk last freed too little, and the bytes it was for.
    failed_walk: Mutex<Option<(Instant, u64)>>,
    /// Bytes held by those fills of unnamed length for which contents had to go.
    staked: AtomicU64,
}

/// Whose room a push may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Displacing {
    /// Nobody's.
    #[default]
    Nothing,
    /// That of caches which modes have and could fill again: of what no pin names, and where no pins are known of what no stored
    /// tag reaches.
    Replaceable,
    /// That of caches which no mode has: of what no pin names.
    Unused,
}

/// What a walk makes room for.
#[derive(Clone, Copy, Debug)]
enum For {
    /// What a cache fetches.
    Fetched,
    /// What a client pushes.
    Push,
}

/// Part of the [`SHARE`] that one fill of unnamed length holds; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Stake {
    evictor: Evictor,
    bytes: u64,
}

impl Stake {
    /// Holds `bytes` in all from now on.
    ///
    /// # Errors
    /// [`StoreError::Full`]: all fills together would hold more than the share. The stake stays as it was.
    pub(super) async fn raise(&mut self, bytes: u64) -> Result<(), StoreError> {
        let (inner, more) = (&self.evictor.0, bytes.saturating_sub(self.bytes));
        let share = inner.store.measure() / SHARE;
        let held = inner.staked.fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| {
            held.checked_add(more).filter(|held| *held <= share)
        });
        match held {
            Ok(_) => {
                self.bytes += more;
                Ok(())
            }
            // The client hears of the limit that was reached, if one was.
            Err(_) => match inner.store.admit(u64::MAX).await {
                Err(error) => Err(error),
                Ok(()) => Err(StoreError::Full(Refusal::ReserveExhausted { reserve: 0, free: 0, wanted: bytes })),
            },
        }
    }
}

impl Drop for Stake {
    fn drop(&mut self) {
        self.evictor.0.staked.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Evictor {
    /// Makes room in `store`. Until told otherwise no content counts as replaceable and none as too old.
    #[must_use]
    pub fn new(store: Store, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            store,
            metrics,
            replaceable: AtomicBool::new(false),
            displacing: Mutex::default(),
            ttl: AtomicU64::new(0),
            walking: tokio::sync::Mutex::new(()),
            failed_walk: Mutex::new(None),
            staked: AtomicU64::new(0),
        }))
    }

    /// Says whether a removed content could be fetched again.
    pub fn set_replaceable(&self, replaceable: bool) {
        self.0.replaceable.store(replaceable, Ordering::Relaxed);
    }

    /// Says whose room a push may take from now on.
    pub fn set_displacing(&self, displacing: Displacing) {
        *lock(&self.0.displacing) = displacing;
    }

    /// Whether it may take anybody's.
    #[must_use]
    pub fn is_displacing(&self) -> bool {
        *lock(&self.0.displacing) != Displacing::Nothing
    }

    /// Makes room for `bytes` of a push that the store refused, if cached contents may go for it. Safe to drop: the walk goes on.
    ///
    /// # Errors
    /// [`StoreError::Full`] if it can't or may not, or of the disk.
    pub async fn displace(&self, refusal: Refusal, bytes: u64) -> Result<(), StoreError> {
        if !self.is_displacing() {
            return Err(StoreError::Full(refusal));
        }
        self.room_after(refusal, bytes, For::Push).await
    }

    /// Removes contents that were not used for `ttl` from now on; zero: never.
    pub fn set_ttl(&self, ttl: Duration) {
        self.0.ttl.store(ttl.as_secs(), Ordering::Relaxed);
    }

    /// A stake that holds nothing yet.
    pub(super) fn stake(&self) -> Stake {
        Stake { evictor: self.clone(), bytes: 0 }
    }

    /// Makes room for the bytes that come now, if all of the content can have room. Safe to drop: the walk goes on.
    ///
    /// # Errors
    /// [`StoreError::Full`] if there is no room afterwards, or of the disk.
    pub async fn make_room(&self, wanted: Wanted) -> Result<(), StoreError> {
        self.room(wanted, For::Fetched).await
    }

    /// What an eviction leaves; `None`: nothing may go. Asked by who has the walk: it may have waited long for that, and the
    /// upstream or the mode be another one.
    fn spare(&self, whom: For) -> Option<Spare> {
        match (whom, *lock(&self.0.displacing), self.0.store.pins()) {
            (For::Fetched, ..) if self.0.replaceable.load(Ordering::Relaxed) => Some(Spare::Nothing),
            (For::Fetched, ..) => Some(Spare::Tagged),
            (For::Push, Displacing::Nothing, _) => None,
            (For::Push, Displacing::Replaceable | Displacing::Unused, PinsState::Usable(_)) => Some(Spare::Pinned),
            // Pins that there are and that can't be gone by may name what a tag reaches.
            (For::Push, Displacing::Replaceable | Displacing::Unused, PinsState::Unusable(_))
            | (For::Push, Displacing::Replaceable, PinsState::Absent) => Some(Spare::Tagged),
            (For::Push, Displacing::Unused, PinsState::Absent) => Some(Spare::Nothing),
        }
    }

    async fn room(&self, wanted: Wanted, whom: For) -> Result<(), StoreError> {
        let store = &self.0.store;
        let _walking = self.0.walking.lock().await;
        let goal = store.shortfall(wanted.all.max(wanted.now)).await?;
        if goal == 0 {
            return Ok(());
        }
        if lock(&self.0.failed_walk)
            .is_some_and(|(since, for_goal)| goal >= for_goal && since.elapsed() < EVICT_BACKOFF)
        {
            return store.admit(wanted.all.max(wanted.now)).await;
        }
        let need = match store.shortfall(wanted.now).await? {
            0 => 0,
            need => goal.min(need.saturating_add(store.measure() / SLACK)),
        };
        let Some(spare) = self.spare(whom) else { return store.admit(wanted.now).await };
        let hopeless = self.evict(Eviction { need, goal, spare, ..Eviction::default() }).await?;
        let admitted = store.admit(if hopeless { wanted.all.max(wanted.now) } else { wanted.now }).await;
        if admitted.is_err() {
            *lock(&self.0.failed_walk) = Some((Instant::now(), goal));
        }
        admitted
    }

    /// Makes room for a content or manifest of `bytes` that the store refused, if eviction can help. Safe to drop: the walk
    /// goes on.
    ///
    /// # Errors
    /// [`StoreError::Full`] if it can't, or of the disk.
    pub async fn make_room_after(&self, refusal: Refusal, bytes: u64) -> Result<(), StoreError> {
        self.room_after(refusal, bytes, For::Fetched).await
    }

    async fn room_after(&self, refusal: Refusal, bytes: u64, whom: For) -> Result<(), StoreError> {
        match refusal {
            Refusal::BudgetExhausted { .. } | Refusal::ReserveExhausted { .. } => {
                self.room(Wanted::whole(bytes), whom).await
            }
            Refusal::InodesExhausted { .. } => {
                let _walking = self.0.walking.lock().await;
                let Some(spare) = self.spare(whom) else { return Err(StoreError::Full(refusal)) };
                self.evict(Eviction { contents: INODES, spare, ..Eviction::default() }).await.map(drop)
            }
            Refusal::QuotaExhausted | Refusal::FileTooLong | Refusal::ReadOnly => Err(StoreError::Full(refusal)),
        }
    }

    /// Removes the least recently used contents. `true`: none was, because all that may go would free too little.
    async fn evict(&self, wanted: Eviction) -> Result<bool, StoreError> {
        let evicted = self.0.store.evict(wanted).await?;
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

    /// Removes contents that were not used for `proxy.ttl`, if they could be fetched again. Safe to drop: the walk goes on.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn remove_old(&self) -> Result<(), StoreError> {
        let ttl = Duration::from_secs(self.0.ttl.load(Ordering::Relaxed));
        let _walking = self.0.walking.lock().await;
        if ttl.is_zero() || !self.0.replaceable.load(Ordering::Relaxed) {
            return Ok(());
        }
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

/// Removes contents that are too old.
impl Job for Evictor {
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
