//! Lists through the cache: whole or not at all. What merely happens to be stored is never put together into a list:
//! Deckhouse removes modules that vanish from one.

use std::time::Duration;

use tokio::time::Instant;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{Asked, Proxy, fault, joined, unwritten};
use crate::mode::mapping::Home;
use crate::mode::relay::{cached_error, repository_error};
use crate::mode::{BUDGET, ModeError, Served, lists};
use crate::oci::{Digest, RepoName};
use crate::store::{KeptList, ListKind, Page, Referrer, StoreError};
use crate::telemetry::CacheOutcome;

/// How long a list may take where an older one can be served; it may have many pages.
const LIST_REVALIDATION: Duration = Duration::from_secs(10);

impl Proxy {
    pub(in crate::mode) async fn tags(
        &self,
        repo: &RepoName,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Served<Page>, ModeError> {
        let served = self.list(&self.0.mapping.home(repo)?, ListKind::Tags).await?;
        let tags: Vec<String> = read(&served.value)?;
        Ok(served.map(|_| lists::page(&tags, last, limit)))
    }

    pub(in crate::mode) async fn referrers(
        &self,
        repo: &RepoName,
        subject: Digest,
        last: Option<Digest>,
        limit: usize,
    ) -> Result<Served<Vec<Referrer>>, ModeError> {
        let served = self.list(&self.0.mapping.home(repo)?, ListKind::Referrers(subject)).await?;
        let descriptors: Vec<Box<RawValue>> = read(&served.value)?;
        Ok(served.map(|_| lists::after(lists::referrers(&descriptors), last, limit)))
    }

    /// The whole list, in JSON.
    async fn list(&self, home: &Home<'_>, kind: ListKind) -> Result<Served<Bytes>, ModeError> {
        if let Some(kept) = self.store().kept_list(&home.cached, kind).await?
            && self.is_fresh(kept.kept)
        {
            return Ok(Served::new(kept.bytes, CacheOutcome::Hit));
        }
        self.refuse_unknown(&Asked::List(home.cached.clone(), kind))?;
        let (proxy, child, cached) = (self.clone(), home.child.to_string(), home.cached.clone());
        let fetch = || async move {
            let fetched = proxy.fetch_list(&child, &cached, kind).await;
            proxy.settle(Asked::List(cached, kind), fetched)
        };
        let (outcome, began) = self.0.lists.join((home.cached.clone(), kind), fetch).await;
        Ok(joined(outcome.unwrap_or_else(|| Err(fault()))?, began))
    }

    async fn fetch_list(&self, child: &str, cached: &RepoName, kind: ListKind) -> Result<Served<Bytes>, ModeError> {
        let kept = self.store().kept_list(cached, kind).await?;
        let budget = if kept.is_some() { LIST_REVALIDATION } else { BUDGET };
        let asked = self.ask_for_list(child, kind, Instant::now() + budget).await;
        let asked = asked.map_err(|error| match error {
            ModeError::Upstream(error) if kept.is_some() => cached_error(error, repository_error),
            ModeError::Upstream(error) => repository_error(error),
            other => other,
        });
        match asked {
            Ok(bytes) => {
                let outcome = match self.store().keep_list(cached, kind, bytes.clone()).await {
                    Ok(()) => CacheOutcome::Filled,
                    Err(error) => {
                        unwritten(&error, "a list is passed on and could not be kept");
                        CacheOutcome::Bypassed
                    }
                };
                Ok(Served::new(bytes, outcome))
            }
            Err(ModeError::RepositoryUnknown) => {
                if let Err(error) = self.store().drop_list(cached, kind).await {
                    unwritten(&error, "a list that the upstream has no more could not be removed");
                }
                Err(ModeError::RepositoryUnknown)
            }
            Err(error) => {
                let Some(KeptList { bytes, kept }) = kept else { return Err(error) };
                match self.stale(&error, kept) {
                    Some(stale) => Ok(stale.map(|()| bytes)),
                    None => Err(error),
                }
            }
        }
    }

    async fn ask_for_list(&self, child: &str, kind: ListKind, deadline: Instant) -> Result<Bytes, ModeError> {
        let upstream = &self.0.upstream;
        let written = match kind {
            ListKind::Tags => serde_json::to_vec(&upstream.tags(child, deadline).await?),
            ListKind::Referrers(subject) => serde_json::to_vec(&upstream.referrers(child, &subject, deadline).await?),
        };
        Ok(written.map_err(|error| StoreError::Bug(error.to_string()))?.into())
    }
}

fn read<'a, T: serde::Deserialize<'a>>(json: &'a [u8]) -> Result<T, ModeError> {
    serde_json::from_slice(json).map_err(|_| StoreError::Bug("a kept list can't be read".into()).into())
}
