//! Finds the verdicts and carries them out, root by root and repository by repository.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::lists::{Lists, Named, Unread};
use super::look::{Repositories, Root};
use super::options::{RetentionOptions, Rule};
use super::report::{Going, LeftAlone, RetentionReport, RetentionStatus};
use super::verdict::{self, Verdict};
use crate::clock::{self, Timestamp};
use crate::jobs;
use crate::oci::{Digest, RepoName, Tag};
use crate::store::{CollectionReport, GoingTags, PinsState, Reason, Retained, Store, StoreError, TagName, TagsLook};
use crate::values::Pins;

/// Verdicts on a root or repository that is written to meanwhile, before it is left to the next run.
const ATTEMPTS: usize = 3;

/// Retention of a store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Retention(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    lists: Lists,
    options: Mutex<RetentionOptions>,
    last: Mutex<RetentionReport>,
}

/// What a verdict is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Release sets.
    Root,
    /// The rules that fit it.
    Rules,
    /// Nothing: all stays. It is asked for what its tags name, as something of it was given up.
    Nothing,
}

/// What a run finds beside its report.
#[derive(Debug, Default)]
struct Found {
    retained: Retained,
    /// Of a look: the tags that would go.
    going: BTreeMap<RepoName, GoingTags>,
}

impl Found {
    fn add(&mut self, looks: &[TagsLook], going: &[(RepoName, Tag, Going)]) {
        let names: HashSet<(&RepoName, &Tag)> = going.iter().map(|(repo, tag, _)| (repo, tag)).collect();
        for look in looks {
            for record in look.tags.iter().filter(|record| names.contains(&(&look.repo, &record.tag))) {
                let of_repo = self.going.entry(look.repo.clone()).or_default();
                of_repo.tags.insert(record.tag.clone());
                of_repo.targets.insert(record.digest);
            }
        }
    }
}

/// A root or repository with the verdict on it.
pub(super) struct Judged {
    name: RepoName,
    pub(super) looks: Vec<TagsLook>,
    pub(super) verdict: Verdict,
    /// Whether anything may go by it.
    pub(super) removes: bool,
}

impl Retention {
    /// Of a store; without options nothing goes.
    #[must_use]
    pub fn new(store: Store) -> Self {
        let lists = Lists::new(store.clone());
        Self(Arc::new(Inner { store, lists, options: Mutex::default(), last: Mutex::default() }))
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Puts options into force.
    pub fn set_options(&self, options: RetentionOptions) {
        *self.0.options.lock().unwrap_or_else(PoisonError::into_inner) = options;
    }

    pub(super) fn options(&self) -> RetentionOptions {
        self.0.options.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn told(&self) -> MutexGuard<'_, RetentionReport> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the last run came to.
    #[must_use]
    pub fn last(&self) -> RetentionReport {
        self.told().clone()
    }

    /// What it is about. Waits for no disk.
    #[must_use]
    pub fn status(&self) -> RetentionStatus {
        let options = self.options();
        let left_alone = self.told().left_alone.clone();
        RetentionStatus { keep_releases: options.keep_releases, rules: options.rules.len(), left_alone }
    }

    /// One run: removes the tags that no rule keeps. Ends early, and well, when `stop` is cancelled. Not to be called while
    /// another one goes on.
    ///
    /// # Errors
    /// Of the disk: what was done is done.
    pub async fn run(&self, stop: &CancellationToken) -> Result<RetentionReport, StoreError> {
        let mut report = RetentionReport::default();
        self.0.store.begin_questions();
        let outcome = self.go(&mut report, stop).await;
        *self.told() = report.clone();
        let retained = outcome?.retained;
        // One that ended early does not know of all repositories.
        if !stop.is_cancelled() {
            self.0.store.set_retained(retained);
        }
        Ok(report)
    }

    /// What a run would do now; changes nothing.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn preview(&self) -> Result<RetentionReport, StoreError> {
        let (mut report, found) = self.look().await?;
        self.estimate(&mut report, found).await?;
        Ok(report)
    }

    /// What a run of retention and of the collection would do now; changes nothing.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn preview_all(&self) -> Result<(RetentionReport, CollectionReport), StoreError> {
        let (mut report, found) = self.look().await?;
        let retained = self.estimate(&mut report, found).await?;
        Ok((report, self.0.store.look_at_collection(&retained).await?))
    }

    /// Why each repository that has the content keeps it, as a run would find it now.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn why_kept(&self, digest: Digest) -> Result<Vec<Reason>, StoreError> {
        let (_, found) = self.look().await?;
        self.0.store.why_kept(digest, &Arc::new(found.retained)).await
    }

    async fn look(&self) -> Result<(RetentionReport, Found), StoreError> {
        let mut report = RetentionReport { dry_run: true, ..RetentionReport::default() };
        let found = self.go(&mut report, &CancellationToken::new()).await?;
        Ok((report, found))
    }

    /// Adds to a look about how much would go with its tags; says what is kept by digest.
    async fn estimate(&self, report: &mut RetentionReport, found: Found) -> Result<Arc<Retained>, StoreError> {
        let Found { retained, going } = found;
        report.estimate = Some(self.0.store.estimate(going, &retained).await?);
        Ok(Arc::new(retained))
    }

    /// Says what it found, as far as it came.
    async fn go(&self, report: &mut RetentionReport, stop: &CancellationToken) -> Result<Found, StoreError> {
        let options = Arc::new(self.options());
        report.held = self.0.store.collection().held;
        report.pins_unusable = self.0.pins(&options).1;
        let inner = Arc::clone(&self.0);
        let (names, given_up) = jobs::blocking(move || {
            let given_up: HashSet<RepoName> = inner.store.given_up_repositories().into_iter().collect();
            (Repositories::sort_out(inner.store.local_repositories()), given_up)
        })
        .await;
        // What was given up in a repository may be named by what stays there, whatever the rules are now.
        let way =
            |repo: &RepoName, by_rule: Option<Way>| by_rule.or_else(|| given_up.contains(repo).then_some(Way::Nothing));
        let roots = names.roots.into_iter().filter_map(|root| {
            let is_asked = options.keep_releases.is_some() || given_up.contains(&root);
            is_asked.then_some((root, Way::Root))
        });
        let children = names.children.into_iter().filter_map(|repo| Some((way(&repo, None)?, repo)));
        let others = names.others.into_iter().filter_map(|repo| {
            let fits = options.rules.iter().any(|rule| rule.repositories.fits(repo.as_str()));
            Some((way(&repo, fits.then_some(Way::Rules))?, repo))
        });
        let others = children.chain(others).map(|(way, repo)| (repo, way));
        let mut found = Found::default();
        for (name, way) in roots.chain(others) {
            self.one(name, way, &options, &mut found, report, stop).await?;
        }
        Ok(found)
    }

    /// The verdict on one root or repository, carried out.
    async fn one(
        &self,
        name: RepoName,
        way: Way,
        options: &Arc<RetentionOptions>,
        found: &mut Found,
        report: &mut RetentionReport,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS {
            if stop.is_cancelled() {
                return Ok(());
            }
            let (judged, has_given_up) = self.judge(&name, way, options, stop).await;
            let judged = match judged {
                Ok(Some(judged)) => judged,
                Ok(None) => return Ok(()),
                Err(Unread(reason)) => {
                    if has_given_up {
                        self.note(&name, Err(reason.clone()), found, report);
                    }
                    self.leave_alone(&name, reason, report);
                    return Ok(());
                }
            };
            let Judged { name, looks, verdict: Verdict { going, staying, kept }, removes } = judged;
            self.note(&name, Ok(kept), found, report);
            if report.dry_run || !removes || going.is_empty() {
                report.add_staying(staying);
                if removes {
                    found.add(&looks, &going);
                    going.into_iter().for_each(|(_, _, going)| report.add_going(going));
                }
                return Ok(());
            }
            let order = going.iter().map(|(repo, tag, _)| (repo.clone(), tag.clone())).collect();
            let retired = self.0.store.retire(looks, order, stop).await?;
            let gone: HashSet<TagName> = retired.removed.into_iter().collect();
            let name = |(repo, tag): (&RepoName, &Tag)| TagName { repository: repo.to_string(), tag: tag.to_string() };
            for (_, _, going) in going.into_iter().filter(|(repo, tag, _)| gone.contains(&name((repo, tag)))) {
                tracing::info!(
                    repository = going.repository,
                    tag = going.tag,
                    digest = going.digest,
                    because = going.because,
                    "a tag went by a rule of retention"
                );
                report.add_going(going);
            }
            report.waiting += retired.waiting as u64;
            report.kept_by_masters += retired.kept_by_masters as u64;
            if let Some(why) = retired.masters_away {
                report.masters_away = Some(why);
                return Ok(());
            }
            if let Some((repo, reason)) = retired.left_alone {
                self.leave_alone(&repo, reason, report);
                return Ok(());
            }
            if !retired.touched {
                report.add_staying(staying);
                return Ok(());
            }
        }
        report.busy += 1;
        Ok(())
    }

    /// Notes what is kept of a repository, and puts it into force: the collection of what goes next goes by it.
    fn note(
        &self,
        name: &RepoName,
        kept: Result<Arc<HashSet<Digest>>, String>,
        found: &mut Found,
        report: &RetentionReport,
    ) {
        if !report.dry_run {
            self.0.store.retain(name.clone(), kept.clone());
        }
        found.retained.note(name.clone(), kept);
    }

    /// The verdict on a root or repository as it is now, and whether something of it was given up.
    pub(super) async fn judge(
        &self,
        name: &RepoName,
        way: Way,
        options: &Arc<RetentionOptions>,
        stop: &CancellationToken,
    ) -> (Result<Option<Judged>, Unread>, bool) {
        let judged = match way {
            Way::Root => self.judge_root(name, options, stop).await,
            Way::Rules | Way::Nothing => self.judge_repository(name, way, options, stop).await,
        };
        (judged, self.has_given_up(name).await)
    }

    pub(super) async fn has_given_up(&self, name: &RepoName) -> bool {
        let (inner, name) = (Arc::clone(&self.0), name.clone());
        jobs::blocking(move || inner.store.has_given_up(&name)).await
    }

    /// `None`: it is no root, or `stop` was cancelled.
    async fn judge_root(
        &self,
        name: &RepoName,
        options: &Arc<RetentionOptions>,
        stop: &CancellationToken,
    ) -> Result<Option<Judged>, Unread> {
        let Some(root) = Root::look(&self.0.store, &self.0.lists, name, stop).await? else {
            // It may have been one when something of it was given up.
            let is_asked = self.has_given_up(name).await;
            return if is_asked { self.judge_repository(name, Way::Nothing, options, stop).await } else { Ok(None) };
        };
        let (inner, name, options) = (Arc::clone(&self.0), name.clone(), Arc::clone(options));
        let judge = move || {
            let (pins, removes) = inner.terms(&options);
            let verdict = verdict::of_root(&root, options.keep_releases.filter(|_| removes), &pins);
            Judged { name, verdict, looks: root.into_looks(), removes }
        };
        Ok(Some(jobs::blocking(judge).await))
    }

    /// `None`: `stop` was cancelled.
    async fn judge_repository(
        &self,
        name: &RepoName,
        way: Way,
        options: &Arc<RetentionOptions>,
        stop: &CancellationToken,
    ) -> Result<Option<Judged>, Unread> {
        let Some(look) = self.0.store.look_at_tags(name, stop).await? else { return Ok(None) };
        let fits = |rule: &&Rule| way == Way::Rules && rule.repositories.fits(name.as_str());
        let rules: Vec<Rule> = options.rules.iter().filter(fits).cloned().collect();
        let is_hex = |tag: &Tag| verdict::hex_of(tag).is_some();
        // The hex tags may have gone whose images a list names that was pushed a moment later.
        let has_lists = look.lost_hex_tag || look.tags.iter().any(|record| is_hex(&record.tag));
        let needs_uses = rules.iter().any(|rule| rule.keep.pulled_within.is_some());
        let mut named: BTreeMap<Tag, Named> = BTreeMap::new();
        let mut used: HashMap<Digest, Timestamp> = HashMap::new();
        let judged = look.tags.iter().filter(|record| !is_hex(&record.tag) && record.tag.subject().is_none());
        for record in judged.filter(|_| has_lists || needs_uses) {
            if stop.is_cancelled() {
                return Ok(None);
            }
            let (inner, name, digest) = (Arc::clone(&self.0), name.clone(), record.digest);
            let (list, last) = jobs::blocking(move || {
                let list = has_lists.then(|| inner.lists.of_module(&name, digest)).transpose()?;
                let last = if needs_uses { inner.store.last_use(&digest)? } else { None };
                Ok::<_, Unread>((list, last))
            })
            .await?;
            named.extend(list.map(|list| (record.tag.clone(), list)));
            used.extend(last.map(|last| (digest, last)));
        }
        let (inner, name, options) = (Arc::clone(&self.0), name.clone(), Arc::clone(options));
        let judge = move || {
            let (pins, removes) = inner.terms(&options);
            let verdict = verdict::of_rules(&look, &rules, &named, &used, &pins, clock::now());
            Judged { name, verdict, looks: vec![look], removes }
        };
        Ok(Some(jobs::blocking(judge).await))
    }

    fn leave_alone(&self, repo: &RepoName, reason: String, report: &mut RetentionReport) {
        let left = LeftAlone { repository: repo.to_string(), reason };
        if !report.dry_run && !self.told().left_alone.contains(&left) {
            tracing::warn!(
                repository = left.repository,
                reason = left.reason,
                "no rule of retention removes anything here"
            );
        }
        report.left_alone.push(left);
    }
}

impl Inner {
    /// The pins as they are now, and why nothing may go by them.
    fn pins(&self, options: &RetentionOptions) -> (Arc<Pins>, Option<String>) {
        let none = || Arc::new(Pins::none(clock::now()));
        match self.store.pins() {
            PinsState::Usable(pins) => (pins, None),
            PinsState::Absent => (none(), (!options.is_off()).then(|| "store.pins is not set".to_owned())),
            PinsState::Unusable(fault) => (none(), Some(fault.to_string())),
        }
    }

    /// The pins, and whether anything may go. Asked behind the look at the tags: pins that come later count as a touch of them.
    fn terms(&self, options: &RetentionOptions) -> (Arc<Pins>, bool) {
        let (pins, fault) = self.pins(options);
        (pins, fault.is_none() && !self.store.may_not_remove())
    }
}
