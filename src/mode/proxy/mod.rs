//! Mode Proxy: content that was fetched once is kept, and served when the upstream can't be asked.
//!
//! Everything learnt lies in the store under names of that upstream ([`RepoName::cached`]), so nothing learnt from one
//! is ever served for another. `blobs`, `manifests` and `lists` are the three kinds of answers; what they share is here:
//! what counts as fresh, what may be served stale, what is known not to be there.

mod blobs;
mod lists;
mod manifests;
mod negatives;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio_util::task::TaskTracker;

use self::negatives::{NegativeKey, Negatives};
use super::listing::Listing;
use super::mapping::{Home, Mapping};
use super::{ModeError, Served, ServedManifest};
use crate::clock::{self, Timestamp};
use crate::fetch::{Fills, SingleFlight, Source};
use crate::oci::{Digest, Reference, RepoName, Tag};
use crate::store::{ListKind, Page, Store, StoreError, VerifiedTag};
use crate::telemetry::{CacheOutcome, Metrics, UpstreamCause, with_causes};
use crate::upstream::Upstream;

/// Longest wait for the upstream if something is stored that can be served instead.
const REVALIDATION: Duration = Duration::from_secs(3);

/// Tags whose state is held in memory; others are looked up in the tree.
const TAGS_IN_MEMORY: usize = 10_000;

/// Terms of the cache's belief.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// Time during which a tag or list is not asked for again.
    pub tag_ttl: Duration,
    /// Time during which a 404 of the upstream is believed.
    pub negative_ttl: Duration,
    /// Time during which a 404 of the upstream is repeated while the upstream can't be asked.
    pub stale_negative: Duration,
    /// Largest age of what is served when the upstream can't be asked; `None`: any.
    pub max_stale: Option<Duration>,
    /// The failures that count as "can't be asked".
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
    negatives: Negatives,
    manifests: SingleFlight<(RepoName, Reference), Result<Served<ServedManifest>, ModeError>>,
    lists: Listing<(RepoName, ListKind)>,
    /// The manifest that came last from the upstream, for its probe.
    seen: Mutex<Option<(String, Digest)>>,
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
            negatives: Negatives::new(),
            manifests: SingleFlight::new(tasks.clone(), stop.clone()),
            lists: Listing::new(tasks, stop),
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
        let mut last = last.map(str::to_owned);
        loop {
            let mut page = Page { entries: Vec::new(), more: false };
            // Behind the end of a shelf's page there may be more of it, so that names of others have to wait.
            let mut bound: Option<String> = None;
            for shelf in self.0.mapping.shelves(last.as_deref()) {
                let part = self.store().cached_repositories(shelf.upstream(), shelf.last(), limit).await?;
                let names: Vec<String> = part.entries.iter().map(|child| shelf.name(child)).collect();
                if part.more
                    && let Some(end) = names.last()
                {
                    page.more = true;
                    bound = Some(bound.map_or_else(|| end.clone(), |bound| bound.min(end.clone())));
                }
                page.entries.extend(names.into_iter().filter(|name| shelf.has(name)));
            }
            page.entries.sort_unstable();
            page.entries.dedup();
            if let Some(bound) = &bound {
                page.entries.retain(|name| name <= bound);
            }
            if page.entries.len() > limit {
                page.entries.truncate(limit);
                page.more = true;
            }
            match bound {
                // All of this stretch belongs to longer aliases.
                Some(bound) if page.entries.is_empty() => last = Some(bound),
                _ => return Ok(page),
            }
        }
    }

    fn store(&self) -> &Store {
        self.0.fills.store()
    }

    fn source(&self, home: &Home<'_>) -> Source {
        Source { upstream: self.0.upstream.clone(), child: Arc::from(&*home.child) }
    }

    /// Whether what was true at `then` is still believed. A clock that went back makes everything old.
    fn is_fresh(&self, then: Timestamp) -> bool {
        clock::now().since(then).is_some_and(|age| age < self.0.settings.tag_ttl)
    }

    /// Why the upstream can't be asked, if that is what `error` says and stored content may stand in for it.
    fn outage(&self, error: &ModeError) -> Option<UpstreamCause> {
        let cause = match error {
            ModeError::Upstream(error) => error.cause(),
            ModeError::UpstreamTimeout => UpstreamCause::Timeout,
            _ => return None,
        };
        self.0.settings.stale_on.contains(&cause).then_some(cause)
    }

    /// Marks an answer that was true at `then` with its age, if it may be served because of `error`. Counts the answer.
    fn stale(&self, error: &ModeError, then: Timestamp) -> Option<Served<()>> {
        let cause = self.outage(error)?;
        let age = clock::now().since(then);
        match (age, self.0.settings.max_stale) {
            (None, Some(_)) => return None,
            (Some(age), Some(most)) if age > most => return None,
            _ => {}
        }
        self.0.metrics.stale_answer(cause);
        let mut served = Served::new((), CacheOutcome::Stale);
        served.provenance.age = Some(age.unwrap_or_default());
        Some(served)
    }

    /// Whether the upstream said a moment ago that this is not there.
    fn refuse_unknown(&self, asked: &NegativeKey) -> Result<(), ModeError> {
        self.0.negatives.fresh(asked, self.0.settings.negative_ttl).map_or(Ok(()), Err)
    }

    /// Remembers what the upstream answered to a question about a repository, and repeats an earlier 404 where it gave no
    /// answer. Counts such a repetition.
    fn settle<T>(&self, asked: NegativeKey, fetched: Result<Served<T>, ModeError>) -> Result<Served<T>, ModeError> {
        let negatives = &self.0.negatives;
        match &fetched {
            Ok(served) if served.provenance.outcome == Some(CacheOutcome::Stale) => {
                negatives.unanswered(asked.repository());
            }
            Ok(_) => negatives.answered(asked.repository()),
            Err(error) => {
                if let Some(is_registrys) = negatives::absence(error) {
                    negatives.answered(asked.repository());
                    negatives.note(asked, is_registrys);
                } else if let Some(cause) = self.outage(error) {
                    negatives.unanswered(asked.repository());
                    if let Some(repeated) = negatives.stale(&asked, self.0.settings.stale_negative) {
                        self.0.metrics.stale_answer(cause);
                        return Err(repeated);
                    }
                }
            }
        }
        fetched
    }

    fn note_seen(&self, child: &str, digest: Digest) {
        *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some((child.to_owned(), digest));
    }
}

/// Work that ended without an outcome.
fn fault() -> ModeError {
    StoreError::Bug("a request to the upstream ended without an outcome".into()).into()
}

/// A content that the disk does not give is as good as not there: the upstream has it.
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

/// A client that waited for another one's fetch was served by it, not by its own.
fn joined<T>(mut served: Served<T>, began: bool) -> Served<T> {
    if !began && served.provenance.outcome == Some(CacheOutcome::Filled) {
        served.provenance.outcome = Some(CacheOutcome::Joined);
    }
    served
}
