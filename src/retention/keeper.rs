//! Finds the verdicts and carries them out, root by root and repository by repository.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::lists::{Lists, Named, Unread};
use super::look::{Repositories, Root};
use super::options::{RetentionOptions, Rule};
use super::report::{LeftAlone, RetentionReport, RetentionStatus};
use super::verdict::{self, Verdict};
use crate::clock;
use crate::jobs::{self, Progress};
use crate::oci::{Digest, RepoName, Tag};
use crate::store::{
    CollectionOptions, CollectionReport, FoundPins, PinsState, Reason, Retained, Store, StoreError, TagsLook,
};
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

/// A root or repository with the verdict on it.
pub(super) struct Judged {
    name: RepoName,
    pub(super) looks: Vec<TagsLook>,
    pub(super) verdict: Verdict,
    /// Whether anything may go by it.
    removes: bool,
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
        let outcome = self.go(&mut report, stop).await;
        *self.told() = report.clone();
        let retained = outcome?;
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
        self.look().await.map(|(report, _)| report)
    }

    /// What a run of retention and of the collection would do now; changes nothing.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn preview_all(&self) -> Result<(RetentionReport, CollectionReport), StoreError> {
        let (report, retained) = self.look().await?;
        Ok((report, self.0.store.look_at_collection(&Arc::new(retained)).await?))
    }

    /// Why each repository that has the content keeps it, as a run would find it now.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn why_kept(&self, digest: Digest) -> Result<Vec<Reason>, StoreError> {
        let (_, retained) = self.look().await?;
        self.0.store.why_kept(digest, &Arc::new(retained)).await
    }

    async fn look(&self) -> Result<(RetentionReport, Retained), StoreError> {
        let mut report = RetentionReport { dry_run: true, ..RetentionReport::default() };
        let retained = self.go(&mut report, &CancellationToken::new()).await?;
        Ok((report, retained))
    }

    /// Says what is kept by digest, as far as it came.
    async fn go(&self, report: &mut RetentionReport, stop: &CancellationToken) -> Result<Retained, StoreError> {
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
        let mut retained = Retained::default();
        for (name, way) in roots.chain(others) {
            self.one(name, way, &options, &mut retained, report, stop).await?;
        }
        Ok(retained)
    }

    /// The verdict on one root or repository, carried out.
    async fn one(
        &self,
        name: RepoName,
        way: Way,
        options: &Arc<RetentionOptions>,
        retained: &mut Retained,
        report: &mut RetentionReport,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS {
            if stop.is_cancelled() {
                return Ok(());
            }
            let (judged, has_given_up) = self.judge(&name, way, options).await;
            let judged = match judged {
                Ok(Some(judged)) => judged,
                Ok(None) => return Ok(()),
                Err(Unread(reason)) => {
                    if has_given_up {
                        self.note(&name, Err(reason.clone()), retained, report);
                    }
                    self.leave_alone(&name, reason, report);
                    return Ok(());
                }
            };
            let Judged { name, looks, verdict: Verdict { going, staying, kept }, removes } = judged;
            self.note(&name, Ok(kept), retained, report);
            if report.dry_run || !removes || going.is_empty() {
                report.add_staying(staying);
                let going = going.into_iter().filter(|_| removes);
                going.for_each(|(_, _, going)| report.add_going(going));
                return Ok(());
            }
            let order = going.iter().map(|(repo, tag, _)| (repo.clone(), tag.clone())).collect();
            let retired = self.0.store.retire(looks, order, stop).await?;
            let gone = retired.removed.len();
            for (_, _, going) in going.into_iter().take(gone) {
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
        retained: &mut Retained,
        report: &RetentionReport,
    ) {
        if !report.dry_run {
            self.0.store.retain(name.clone(), kept.clone());
        }
        retained.note(name.clone(), kept);
    }

    /// The verdict on a root or repository as it is now, and whether something of it was given up.
    pub(super) async fn judge(
        &self,
        name: &RepoName,
        way: Way,
        options: &Arc<RetentionOptions>,
    ) -> (Result<Option<Judged>, Unread>, bool) {
        let (inner, name, options) = (Arc::clone(&self.0), name.clone(), Arc::clone(options));
        jobs::blocking(move || {
            let judged = match way {
                Way::Root => inner.judge_root(&name, &options),
                Way::Rules | Way::Nothing => inner.judge_repository(&name, way, &options),
            };
            (judged, inner.store.has_given_up(&name))
        })
        .await
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

    fn judge_root(&self, name: &RepoName, options: &RetentionOptions) -> Result<Option<Judged>, Unread> {
        let Some(root) = Root::look(&self.store, &self.lists, name)? else {
            // It may have been one when something of it was given up.
            let is_asked = self.store.has_given_up(name);
            return if is_asked { self.judge_repository(name, Way::Nothing, options) } else { Ok(None) };
        };
        let (pins, removes) = self.terms(options);
        let verdict = verdict::of_root(&root, options.keep_releases.filter(|_| removes), &pins);
        Ok(Some(Judged { name: name.clone(), verdict, looks: root.into_looks(), removes }))
    }

    fn judge_repository(
        &self,
        name: &RepoName,
        way: Way,
        options: &RetentionOptions,
    ) -> Result<Option<Judged>, Unread> {
        let look = self.store.look_at_tags(name)?;
        let fits = |rule: &&Rule| way == Way::Rules && rule.repositories.fits(name.as_str());
        let rules: Vec<&Rule> = options.rules.iter().filter(fits).collect();
        let is_hex = |tag: &Tag| verdict::hex_of(tag).is_some();
        let mut named: BTreeMap<Tag, Named> = BTreeMap::new();
        // The hex tags may have gone whose images a list names that was pushed a moment later.
        if look.lost_hex_tag || look.tags.iter().any(|record| is_hex(&record.tag)) {
            for record in look.tags.iter().filter(|record| !is_hex(&record.tag)) {
                if record.tag.subject().is_none() {
                    named.insert(record.tag.clone(), self.lists.of_module(name, record.digest)?);
                }
            }
        }
        let (pins, removes) = self.terms(options);
        let verdict = verdict::of_rules(&look, &rules, &named, &pins, clock::now());
        Ok(Some(Judged { name: name.clone(), verdict, looks: vec![look], removes }))
    }
}

/// A run of retention and of the collection in the store in `dir`, which no server has; with `dry_run` only says what would go.
/// `is_held`: whether collection is held by a mode file, whose bytes these are, the one that was in force when the server ended;
/// `pins`: as `store.pins` has them. Blocking.
///
/// # Errors
/// [`StoreError::Layout`] with a sentence if `dir` is no store or a server has it; [`StoreError`] of the disk.
pub fn run_stopped(
    dir: &Path,
    options: CollectionOptions,
    rules: RetentionOptions,
    pins: FoundPins,
    dry_run: bool,
    is_held: impl FnOnce(&[u8]) -> bool,
) -> Result<(RetentionReport, CollectionReport), StoreError> {
    let store = Store::open_stopped(dir, options, pins, is_held)?;
    let retention = Retention::new(store.clone());
    retention.set_options(rules);
    let reports = Store::runtime()?.block_on(async {
        if dry_run {
            return retention.preview_all().await;
        }
        let stop = CancellationToken::new();
        Ok((retention.run(&stop).await?, store.collect(&stop, &Progress::default()).await?))
    });
    if !dry_run {
        store.close();
    }
    reports
}

/// Why each repository of the store in `dir`, which no server has, keeps a content. Blocking.
///
/// # Errors
/// As [`run_stopped`].
pub fn why_stopped(
    dir: &Path,
    options: CollectionOptions,
    rules: RetentionOptions,
    pins: FoundPins,
    digest: Digest,
    is_held: impl FnOnce(&[u8]) -> bool,
) -> Result<Vec<Reason>, StoreError> {
    let retention = Retention::new(Store::open_stopped(dir, options, pins, is_held)?);
    retention.set_options(rules);
    Store::runtime()?.block_on(retention.why_kept(digest))
}

/// What retention would do in the store in `dir`, which no server has; changes nothing. Blocking.
///
/// # Errors
/// As [`run_stopped`].
pub fn preview_stopped(
    dir: &Path,
    rules: RetentionOptions,
    pins: FoundPins,
    is_held: impl FnOnce(&[u8]) -> bool,
) -> Result<RetentionReport, StoreError> {
    let store = Store::open_stopped(dir, CollectionOptions::default(), pins, is_held)?;
    let retention = Retention::new(store);
    retention.set_options(rules);
    Store::runtime()?.block_on(retention.preview())
}
