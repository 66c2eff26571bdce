//! Mode Proxy: what was fetched once is kept, and served when the upstream can't be asked.
//!
//! Everything learnt lies in the store under names of that upstream ([`RepoName::cached`]), so nothing learnt from one
//! is ever served for another. `blobs`, `manifests` and `lists` are the three kinds of answers; what they share is here:
//! what counts as fresh, what may be served stale, what is known not to be there.

mod blobs;
mod lists;
mod manifests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quick_cache::sync::Cache;
use tokio_util::task::TaskTracker;

use super::mapping::{Home, Mapping};
use super::{ModeError, Served, ServedManifest};
use crate::clock::{self, Timestamp};
use crate::fetch::{Fills, Flights, Source};
use crate::oci::{Digest, Reference, RepoName, Tag};
use crate::store::{ListKind, Page, Store, StoreError, VerifiedTag};
use crate::telemetry::{CacheOutcome, Metrics, UpstreamCause, with_causes};
use crate::upstream::Upstream;

/// How long the upstream may take where something is stored that can be served instead.
const REVALIDATION: Duration = Duration::from_secs(3);

/// Tags whose state is held in memory; others are looked up in the tree.
const TAGS_IN_MEMORY: usize = 10_000;

/// Answers 404 that are remembered.
const UNKNOWN_IN_MEMORY: usize = 10_000;

/// What the cache believes for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// A tag or list is not asked for again for so long.
    pub tag_ttl: Duration,
    /// A 404 of the upstream is believed for so long.
    pub negative_ttl: Duration,
    /// What was true so long ago at most is served when the upstream can't be asked; `None`: without end.
    pub max_stale: Option<Duration>,
    /// What counts as "can't be asked".
    pub stale_on: Vec<UpstreamCause>,
}

/// Pull-through cache. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Proxy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fills: Fills,
    upstream: Upstream,
    mapping: Mapping,
    settings: ProxySettings,
    metrics: Metrics,
    tags: Cache<(RepoName, Tag), VerifiedTag>,
    unknown: Cache<Asked, Instant>,
    manifests: Flights<(RepoName, Reference), Result<Served<ServedManifest>, ModeError>>,
    lists: Flights<(RepoName, ListKind), Result<Served<Bytes>, ModeError>>,
    /// The manifest that came last from the upstream, for its probe.
    seen: Mutex<Option<(String, Digest)>>,
}

/// What the upstream was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Asked {
    Manifest(RepoName, Reference),
    Blob(RepoName, Digest),
    List(RepoName, ListKind),
}

impl Proxy {
    /// Caches what `mapping` maps to `upstream`, through `fills`; work that outlives its clients is spawned on `tasks`.
    #[must_use]
    pub fn new(
        fills: Fills,
        upstream: Upstream,
        mapping: Mapping,
        settings: ProxySettings,
        metrics: Metrics,
        tasks: TaskTracker,
    ) -> Self {
        let stop = fills.stop().clone();
        Self(Arc::new(Inner {
            fills,
            upstream,
            mapping,
            settings,
            metrics,
            tags: Cache::new(TAGS_IN_MEMORY),
            unknown: Cache::new(UNKNOWN_IN_MEMORY),
            manifests: Flights::new(tasks.clone(), stop.clone()),
            lists: Flights::new(tasks, stop),
            seen: Mutex::new(None),
        }))
    }

    /// The manifest that came last from the upstream: the part of its repository below the upstream's own one, and its
    /// digest.
    #[must_use]
    pub fn last_seen(&self) -> Option<(String, Digest)> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) async fn repositories(&self, last: Option<&str>, limit: usize) -> Result<Page, ModeError> {
        let mapping = &self.0.mapping;
        let Some(place) = mapping.place(last) else { return Ok(Page { entries: Vec::new(), more: false }) };
        let mut page = self.store().cached_repositories(mapping.upstream(), place, limit).await?;
        for child in &mut page.entries {
            *child = mapping.name(child);
        }
        Ok(page)
    }

    fn store(&self) -> &Store {
        self.0.fills.store()
    }

    fn source(&self, home: &Home<'_>) -> Source {
        Source { upstream: self.0.upstream.clone(), child: Arc::from(home.child) }
    }

    /// Whether what was true at `then` is still believed. A clock that went back makes everything old.
    fn is_fresh(&self, then: Timestamp) -> bool {
        clock::now().since(then).is_some_and(|age| age < self.0.settings.tag_ttl)
    }

    /// How old what was true at `then` is, if it may be served because of `error`. Counts the answer.
    fn stale(&self, error: &ModeError, then: Timestamp) -> Option<Served<()>> {
        let cause = match error {
            ModeError::Upstream(error) => error.cause(),
            ModeError::UpstreamTimeout => UpstreamCause::Timeout,
            _ => return None,
        };
        if !self.0.settings.stale_on.contains(&cause) {
            return None;
        }
        let age = clock::now().since(then);
        match (age, self.0.settings.max_stale) {
            (None, Some(_)) => return None,
            (Some(age), Some(most)) if age > most => return None,
            _ => {}
        }
        self.0.metrics.stale_answer(cause);
        let mut served = Served::new((), CacheOutcome::Stale);
        served.how.age = Some(age.unwrap_or_default());
        Some(served)
    }

    /// Whether the upstream said a moment ago that this is not there.
    fn is_unknown(&self, asked: &Asked) -> bool {
        self.0.unknown.get(asked).is_some_and(|since| since.elapsed() < self.0.settings.negative_ttl)
    }

    fn note_unknown(&self, asked: Asked) {
        self.0.unknown.insert(asked, Instant::now());
    }

    fn note_seen(&self, child: &str, digest: Digest) {
        *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some((child.to_owned(), digest));
    }
}

/// Work that ended without an outcome.
fn fault() -> ModeError {
    StoreError::Bug("a request to the upstream ended without an outcome".into()).into()
}

/// What the disk does not give is as good as not there: the upstream has it.
fn missed<T>(error: &StoreError) -> Result<Option<T>, StoreError> {
    if !matches!(error, StoreError::Io { .. }) {
        return Err(error.clone());
    }
    tracing::warn!(error = %with_causes(error), "what is stored can't be read and is fetched again");
    Ok(None)
}

/// Says that something learnt could not be written down: what was asked for is answered all the same. Of a store that takes
/// nothing the metrics and the status tell.
fn unwritten(error: &StoreError, what: &'static str) {
    let cause = with_causes(error);
    if matches!(error, StoreError::Full(_)) {
        tracing::debug!(cause, "{what}");
    } else {
        tracing::warn!(cause, "{what}");
    }
}

/// Who waited for another's fetch was served by it, not by its own.
fn joined<T>(mut served: Served<T>, began: bool) -> Served<T> {
    if !began && served.how.outcome == Some(CacheOutcome::Filled) {
        served.how.outcome = Some(CacheOutcome::Joined);
    }
    served
}
