//! Making room: what is least recently used goes when the budget or the reserve is reached, and what was not used for
//! long goes with time. What could not be fetched again stays as long as anything else can go.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::store::{Eviction, Store, StoreError};
use crate::telemetry::{EvictionCause, Metrics, with_causes};

/// How often what is too old is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(300);

/// After a walk that freed too little the next one waits so long.
const BARREN: Duration = Duration::from_secs(10);

/// Beyond what is needed so much is freed: a part of the budget, so that not every fill walks the tree.
const SLACK: u64 = 64;

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
    barren: Mutex<Option<Instant>>,
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

    /// Makes room for `bytes`, as far as there is something that may go.
    ///
    /// # Errors
    /// [`StoreError::Full`] if there is no room afterwards, or of the disk.
    pub async fn make(&self, bytes: u64) -> Result<(), StoreError> {
        let _walking = self.0.walking.lock().await;
        let Some(need) = self.missing(bytes) else { return Ok(()) };
        let usage = self.0.store.usage();
        if lock(&self.0.barren).is_some_and(|since| since.elapsed() < BARREN) {
            return self.0.store.admit(bytes).await;
        }
        let slack = usage.budget.unwrap_or(usage.reserve) / SLACK;
        let spare_tagged = !self.0.replaceable.load(Ordering::Relaxed);
        let evicted =
            self.0.store.evict(Eviction { need: need.saturating_add(slack), idle: None, spare_tagged }).await?;
        self.0.metrics.evicted(EvictionCause::Room, evicted.contents, evicted.bytes);
        if evicted.contents > 0 {
            tracing::info!(
                contents = evicted.contents,
                bytes = evicted.bytes,
                "removed what was least recently used to make room"
            );
        }
        let admitted = self.0.store.admit(bytes).await;
        if admitted.is_err() {
            *lock(&self.0.barren) = Some(Instant::now());
        }
        admitted
    }

    /// How many bytes have to go before `bytes` more are taken; `None`: none.
    fn missing(&self, bytes: u64) -> Option<u64> {
        let usage = self.0.store.usage();
        let used = usage.used.unwrap_or(0);
        let over_budget = usage.budget.map_or(0, |budget| used.saturating_add(bytes).saturating_sub(budget));
        let over_reserve = usage.reserve.saturating_add(bytes).saturating_sub(usage.free);
        Some(over_budget.max(over_reserve)).filter(|missing| *missing > 0)
    }

    /// Removes what is too old, again and again, until `stop`.
    pub async fn sweep(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(SWEEP_EVERY) => self.remove_old().await,
            }
        }
    }

    /// Removes what was not used for `proxy.ttl`, if it could be fetched again.
    pub async fn remove_old(&self) {
        let ttl = Duration::from_secs(self.0.ttl.load(Ordering::Relaxed));
        if ttl.is_zero() || !self.0.replaceable.load(Ordering::Relaxed) {
            return;
        }
        let _walking = self.0.walking.lock().await;
        match self.0.store.evict(Eviction { need: 0, idle: Some(ttl), spare_tagged: false }).await {
            Ok(evicted) => {
                self.0.metrics.evicted(EvictionCause::Ttl, evicted.contents, evicted.bytes);
                if evicted.contents > 0 {
                    tracing::info!(
                        contents = evicted.contents,
                        bytes = evicted.bytes,
                        "removed what was not used for proxy.ttl"
                    );
                }
            }
            Err(error) => tracing::error!(error = %with_causes(&error), "what is too old could not be removed"),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
