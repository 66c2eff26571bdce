//! What other masters are answered that ask whether tags may go: those that would go here too, by the own rules, pins and uses.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::keeper::{Judged, Retention, Way};
use super::lists::Unread;
use super::look::Repositories;
use crate::jobs;
use crate::oci::{Digest, Reference, RepoName, Tag};
use crate::store::{Record, RemovalQuestion};
use crate::telemetry::with_causes;

impl Retention {
    /// The records of all that a run would remove now of what is asked about, by this store alone. Reads what a run would read;
    /// changes nothing. Safe to drop.
    ///
    /// # Errors
    /// A sentence: nothing goes here now.
    pub async fn removable(&self, question: &RemovalQuestion) -> Result<Vec<(RepoName, Record)>, String> {
        match question {
            RemovalQuestion::Unreached(repo) => {
                let records = self.store().removable(repo, self.kept_in(repo).await?).await?;
                Ok(records.into_iter().map(|record| (repo.clone(), record)).collect())
            }
            RemovalQuestion::ByRule(name) => self.removable_by_rule(name).await,
        }
    }

    /// What stays in a repository by digest, by the lists of the sets that stay there: a run of retention comes before one of the
    /// collection.
    async fn kept_in(&self, repo: &RepoName) -> Result<Option<Arc<HashSet<Digest>>>, String> {
        let (options, has_given_up) = (Arc::new(self.options()), self.has_given_up(repo).await);
        let way = if self.is_root(repo).await {
            (options.keep_releases.is_some() || has_given_up).then_some(Way::Root)
        } else {
            let fits = options.rules.iter().any(|rule| rule.repositories.fits(repo.as_str()));
            fits.then_some(Way::Rules).or_else(|| has_given_up.then_some(Way::Nothing))
        };
        let Some(way) = way else { return Ok(None) };
        match self.judge(repo, way, &options, &CancellationToken::new()).await.0 {
            Ok(judged) => Ok(judged.map(|judged| judged.verdict.kept)),
            Err(Unread(why)) if has_given_up => Err(why),
            Err(_) => Ok(None),
        }
    }

    async fn is_root(&self, name: &RepoName) -> bool {
        let (store, name) = (self.store().clone(), name.clone());
        jobs::blocking(move || Repositories::sort_out(store.local_repositories()).roots.contains(&name)).await
    }

    async fn removable_by_rule(&self, name: &RepoName) -> Result<Vec<(RepoName, Record)>, String> {
        let (options, stop) = (Arc::new(self.options()), CancellationToken::new());
        let way = if self.is_root(name).await { Way::Root } else { Way::Rules };
        let (judged, _) = self.judge(name, way, &options, &stop).await;
        let judged = judged.map_err(|Unread(why)| why)?;
        let Some(Judged { looks, verdict, removes, .. }) = judged else { return Ok(Vec::new()) };
        if !removes {
            return Err(
                "nothing is removed there now: its pins can't be gone by, or another mode is in force".to_owned()
            );
        }
        let mut going: BTreeMap<RepoName, BTreeMap<Tag, Option<Digest>>> = BTreeMap::new();
        for (repo, tag, _) in verdict.going {
            let look = looks.iter().find(|look| look.repo == repo);
            let target = look.and_then(|look| look.tags.iter().find(|record| record.tag == tag));
            going.entry(repo).or_default().insert(tag, target.map(|record| record.digest));
        }
        let mut all = Vec::new();
        for (repo, tags) in going {
            let of = tags.keys().map(|tag| Reference::Tag(tag.clone())).collect();
            let records = self.store().records_of(&repo, of).await.map_err(|error| with_causes(&error))?;
            // What was said since the look has no verdict.
            let is_same = |record: &Record| match record.of() {
                Reference::Tag(tag) => record.target().is_some() && tags.get(tag) == Some(&record.target()),
                Reference::Digest(_) => false,
            };
            all.extend(records.into_iter().filter(is_same).map(|record| (repo.clone(), record)));
        }
        Ok(all)
    }
}
