//! Lists through the cache: whole or not at all. What merely happens to be stored is never put together into a list:
//! Deckhouse removes modules that vanish from one.

use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{NegativeKey, Proxy, joined, unwritten};
use crate::mode::mapping::Home;
use crate::mode::relay::{cached_error, repository_error};
use crate::mode::{BUDGET, ModeError, Served, listing, lists};
use crate::oci::{Digest, RepoName};
use crate::store::{KeptList, ListKind, Page, Referrer};
use crate::telemetry::CacheOutcome;

/// Longest time for a list if an older one can be served; it may have many pages.
const LIST_REVALIDATION: Duration = Duration::from_secs(10);

impl Proxy {
    pub(in crate::mode) async fn tags(
        &self,
        repo: &RepoName,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Served<Page>, ModeError> {
        let served = self.list(&self.0.mapping.home(repo)?, ListKind::Tags).await?;
        let _room = lists::room().await?;
        let tags: Vec<String> = lists::read(&served.value)?;
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
        let _room = lists::room().await?;
        let descriptors: Vec<Box<RawValue>> = lists::read(&served.value)?;
        Ok(served.map(|_| lists::after(lists::referrers(&descriptors), last, limit)))
    }

    /// The whole list, in JSON.
    async fn list(&self, home: &Home<'_>, kind: ListKind) -> Result<Served<Bytes>, ModeError> {
        let kept = self.store().kept_list(&home.cached, kind).await?;
        if let Some(kept) = &kept
            && self.is_fresh(kept.kept)
        {
            return Ok(Served::new(kept.bytes.clone(), CacheOutcome::Hit));
        }
        self.refuse_unknown(&NegativeKey::List(home.cached.clone(), kind))?;
        let budget = if kept.is_some() { LIST_REVALIDATION } else { BUDGET };
        let (proxy, child, cached) = (self.clone(), home.child.to_string(), home.cached.clone());
        let fetch = || async move {
            let fetched = proxy.fetch_list(&child, &cached, kind).await;
            proxy.settle(NegativeKey::List(cached, kind), fetched)
        };
        match self.0.lists.join((home.cached.clone(), kind), budget, fetch).await {
            Ok((list, began)) => Ok(joined(list, began)),
            // It goes on; until it is there, the one before serves.
            Err(error @ ModeError::UpstreamTimeout) => {
                let stale = kept.and_then(|kept| Some((self.stale(&error, kept.kept)?, kept.bytes)));
                stale.map(|(stale, bytes)| stale.map(|()| bytes)).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn fetch_list(&self, child: &str, cached: &RepoName, kind: ListKind) -> Result<Served<Bytes>, ModeError> {
        let kept = self.store().kept_list(cached, kind).await?;
        let budget = if kept.is_some() { LIST_REVALIDATION } else { BUDGET };
        let asked = lists::ask(&self.0.upstream, child, kind, listing::patience(budget)).await;
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
}
