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
use crate::oci::{RepoName, Tag};
use crate::store::{CollectionOptions, CollectionReport, FoundPins, PinsState, Retained, Store, StoreError, TagsLook};
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

/// What a run goes by.
struct Terms {
    options: RetentionOptions,
    pins: Arc<Pins>,
    /// Whether anything may go.
    removes: bool,
    dry_run: bool,
}

impl Terms {
    /// The number of release sets that stay; `None`: all.
    fn keep(&self) -> Option<u32> {
        self.options.keep_releases.filter(|_| self.removes)
    }
}

/// A root or repository with the verdict on it.
struct Judged {
    name: RepoName,
    looks: Vec<TagsLook>,
    verdict: Verdict,
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

    fn options(&self) -> RetentionOptions {
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
        outcome.map(|()| report)
    }

    /// What a run would do now; changes nothing.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn preview(&self) -> Result<RetentionReport, StoreError> {
        let mut report = RetentionReport { dry_run: true, ..RetentionReport::default() };
        self.go(&mut report, &CancellationToken::new()).await?;
        Ok(report)
    }

    fn terms(&self, report: &mut RetentionReport) -> Terms {
        let (options, store) = (self.options(), &self.0.store);
        report.held = store.collection().held;
        let none = || Arc::new(Pins::none(clock::now()));
        let pins = match store.pins() {
            PinsState::Usable(pins) => pins,
            PinsState::Absent => {
                report.pins_unusable = (!options.is_off()).then(|| "store.pins is not set".to_owned());
                none()
            }
            PinsState::Unusable(fault) => {
                report.pins_unusable = Some(fault.to_string());
                none()
            }
        };
        Terms { removes: !report.held && report.pins_unusable.is_none(), options, pins, dry_run: report.dry_run }
    }

    async fn go(&self, report: &mut RetentionReport, stop: &CancellationToken) -> Result<(), StoreError> {
        let terms = Arc::new(self.terms(report));
        let inner = Arc::clone(&self.0);
        let (names, given_up) = jobs::blocking(move || {
            let given_up: HashSet<RepoName> = inner.store.given_up_repositories().into_iter().collect();
            (Repositories::sort_out(inner.store.local_repositories()), given_up)
        })
        .await;
        let mut retained = Retained::default();
        let is_asked = |root: &RepoName| terms.options.keep_releases.is_some() || given_up.contains(root);
        for root in names.roots.into_iter().filter(is_asked) {
            let has_given_up = given_up.contains(&root) && terms.options.keep_releases.is_some();
            self.one(root, has_given_up, &terms, &mut retained, report, stop, Self::judge_root).await?;
        }
        for repo in names.others {
            if terms.options.rules.iter().any(|rule| rule.repositories.fits(repo.as_str())) {
                self.one(repo, false, &terms, &mut retained, report, stop, Self::judge_repository).await?;
            }
        }
        if !terms.dry_run {
            self.0.store.set_retained(retained);
        }
        Ok(())
    }

    /// The verdict on one root or repository, carried out.
    #[expect(clippy::too_many_arguments, reason = "one step of one run, called twice")]
    async fn one(
        &self,
        name: RepoName,
        has_given_up: bool,
        terms: &Arc<Terms>,
        retained: &mut Retained,
        report: &mut RetentionReport,
        stop: &CancellationToken,
        judge: fn(&Inner, &RepoName, &Terms) -> Result<Option<Judged>, Unread>,
    ) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS {
            if stop.is_cancelled() {
                return Ok(());
            }
            let (inner, repo, by) = (Arc::clone(&self.0), name.clone(), Arc::clone(terms));
            let judged = match jobs::blocking(move || judge(&inner, &repo, &by)).await {
                Ok(Some(judged)) => judged,
                Ok(None) => return Ok(()),
                Err(Unread(reason)) => {
                    if has_given_up {
                        retained.unknown.insert(name.clone(), reason.clone());
                    }
                    self.leave_alone(&name, reason, report);
                    return Ok(());
                }
            };
            let Judged { name, looks, verdict: Verdict { going, staying, kept } } = judged;
            retained.kept.insert(name.clone(), kept);
            if terms.dry_run || !terms.removes || going.is_empty() {
                report.add_staying(staying);
                let going = going.into_iter().filter(|_| terms.removes);
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

    fn judge_root(inner: &Inner, name: &RepoName, terms: &Terms) -> Result<Option<Judged>, Unread> {
        let Some(root) = Root::look(&inner.store, &inner.lists, name)? else { return Ok(None) };
        let verdict = verdict::of_root(&root, terms.keep(), &terms.pins);
        Ok(Some(Judged { name: name.clone(), verdict, looks: root.into_looks() }))
    }

    fn judge_repository(inner: &Inner, name: &RepoName, terms: &Terms) -> Result<Option<Judged>, Unread> {
        let look = inner.store.look_at_tags(name)?;
        let rules: Vec<&Rule> =
            terms.options.rules.iter().filter(|rule| rule.repositories.fits(name.as_str())).collect();
        let is_hex = |tag: &Tag| verdict::hex_of(tag).is_some();
        let mut named: BTreeMap<Tag, Named> = BTreeMap::new();
        if look.tags.iter().any(|record| is_hex(&record.tag)) {
            for record in look.tags.iter().filter(|record| !is_hex(&record.tag)) {
                if record.tag.subject().is_none() {
                    named.insert(record.tag.clone(), inner.lists.of_module(name, record.digest)?);
                }
            }
        }
        let verdict = verdict::of_rules(&look, &rules, &named, &terms.pins, clock::now());
        Ok(Some(Judged { name: name.clone(), verdict, looks: vec![look] }))
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
            return Ok((retention.preview().await?, store.look_at_collection().await?));
        }
        let stop = CancellationToken::new();
        Ok((retention.run(&stop).await?, store.collect(&stop, &Progress::default()).await?))
    });
    if !dry_run {
        store.close();
    }
    reports
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
