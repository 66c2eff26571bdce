//! A run of the collection: suspects whose grace is over are marked once more and go, then dirty repositories are marked.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::agreement::Masters;
use super::ledger::Ledger;
use super::mark::{Judgement, Mark};
use super::marking::{Found, Marking, Unfit};
use super::removal::Removal;
use super::report::{CollectionReport, CollectionStatus, LeftAlone};
use super::settings::Retained;
use super::suspects::Suspect;
use crate::jobs::Progress;
use crate::oci::{Digest, RepoName, Tag};
use crate::store::contents::changes::blocking;
use crate::store::error::StoreError;
use crate::store::layout::Membership;
use crate::store::repositories::manifests::Manifests;
use crate::store::repositories::walk::{Repositories, SkippedEntries};

/// Markings of a repository that is written to meanwhile, before it is left to the next run.
pub(super) const ATTEMPTS: usize = 3;

/// Bytes that the removal of a content counts for where writing to the disk has a rate: names and a directory.
pub(super) const REMOVAL_BYTES: u64 = 16 << 10;

/// Collects, and remembers what it came to.
#[derive(Debug)]
pub(in crate::store) struct Collector {
    pub(in crate::store) manifests: Arc<Manifests>,
    /// Asked before anything goes that they may need.
    pub(in crate::store) masters: Masters,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
pub(super) struct Told {
    left_alone: BTreeMap<RepoName, String>,
    /// Blobs, manifests.
    removed: [u64; 2],
    freed_bytes: u64,
    last: CollectionReport,
    /// Tags that went by a rule.
    pub(super) removed_tags: u64,
}

/// Which manifests are no roots for being there, although those without a tag stay.
#[derive(Clone)]
pub(super) enum NoRoots {
    /// All that were given up, and these.
    GivenUpAnd(HashSet<Digest>),
    /// All that were given up, and these, as if these tags were not there.
    Without(Arc<HashSet<Tag>>, HashSet<Digest>),
    /// Those of these that were given up: what is to go now. Others still hold their blobs.
    GivenUpAmong(HashSet<Digest>),
}

impl NoRoots {
    pub(super) fn given_up() -> Self {
        Self::GivenUpAnd(HashSet::new())
    }
}

/// A repository that was marked, or was not.
enum Marked {
    /// While its touches stood at this number.
    Good(Box<Mark>, u64, Found),
    Busy,
    Unfit(Unfit),
    Stopped,
}

impl Collector {
    pub(in crate::store) fn new(manifests: Arc<Manifests>) -> Self {
        Self { manifests, masters: Masters::default(), told: Mutex::default() }
    }

    pub(in crate::store) fn ledger(&self) -> &Arc<Ledger> {
        &self.manifests.ledger
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the last run came to.
    pub(in crate::store) fn last(&self) -> CollectionReport {
        self.told().last.clone()
    }

    pub(in crate::store) fn status(&self) -> CollectionStatus {
        let (suspects, dirty) = self.ledger().counts();
        let told = self.told();
        let left_alone = told.left_alone.iter();
        CollectionStatus {
            schedule: self.ledger().settings.options().schedule.to_string(),
            held: self.ledger().settings.is_held(),
            suspects: suspects as u64,
            dirty: dirty.map(|count| count as u64),
            left_alone: left_alone
                .map(|(repo, reason)| LeftAlone { repository: repo.to_string(), reason: reason.clone() })
                .collect(),
            removed: told.removed,
            freed_bytes: told.freed_bytes,
            given_up: self.ledger().given_up.count() as u64,
            removed_tags: told.removed_tags,
            masters_away: self.masters.told().away,
            kept_by_masters: self.masters.told().kept,
        }
    }

    /// Of what is about to begin.
    fn report(&self) -> CollectionReport {
        let settings = &self.ledger().settings;
        CollectionReport {
            held: settings.is_held(),
            pins_unusable: settings.pins_state().fault().map(ToString::to_string),
            ..CollectionReport::default()
        }
    }

    /// One run; ends early, and well, when `stop` is cancelled. `shown`: repositories, of all that are dirty or have suspects to
    /// go. Not to be called while another one goes on.
    ///
    /// # Errors
    /// Of the disk: what was done is done.
    pub(in crate::store) async fn run(
        &self,
        stop: &CancellationToken,
        shown: &Progress,
    ) -> Result<CollectionReport, StoreError> {
        let mut report = self.report();
        let outcome = if report.held { Ok(()) } else { self.collect(&mut report, stop, shown).await };
        let masters = self.masters.told();
        (report.masters_away, report.kept_by_masters) = (masters.away, masters.kept);
        let mut told = self.told();
        told.removed[0] += report.removed.blobs;
        told.removed[1] += report.removed.manifests;
        told.freed_bytes += report.removed.bytes;
        told.last = report.clone();
        outcome.map(|()| report)
    }

    async fn collect(
        &self,
        report: &mut CollectionReport,
        stop: &CancellationToken,
        shown: &Progress,
    ) -> Result<(), StoreError> {
        let (manifests, ledger) = (&self.manifests, self.ledger());
        let preparing = Arc::clone(ledger);
        manifests.contents.change(move || preparing.prepare()).await?;
        // What a kill left of manifests that are gone.
        let listed = Arc::clone(ledger);
        for repo in blocking(move || Ok(listed.given_up.repositories())).await? {
            if stop.is_cancelled() {
                return Ok(());
            }
            let manifests = Arc::clone(manifests);
            manifests.contents.clone().change(move || manifests.strike_what_is_gone(&repo)).await?;
        }
        let mut done = 0;
        // What nothing reaches is found all the same: its grace goes on while the pins are being mended.
        for (repo, suspects) in self.due(report).await? {
            self.remove(&repo, suspects, report, stop).await?;
            done += 1;
            shown.set(done, None);
        }
        let dirty = self.dirty(false).await?;
        let total = done + dirty.len() as u64;
        let listing = Arc::clone(ledger);
        let listed = blocking(move || Ok(listing.suspects(false))).await?;
        for repo in dirty {
            if stop.is_cancelled() || ledger.settings.is_held() {
                break;
            }
            self.judge(&repo, listed.get(&repo).cloned().unwrap_or_default(), report, stop).await?;
            done += 1;
            shown.set(done, Some(total));
        }
        let tidying = Arc::clone(ledger);
        manifests.contents.change(move || tidying.prepare()).await
    }

    /// Suspects to go, by repository: none while the pins can't be gone by.
    async fn due(&self, report: &CollectionReport) -> Result<BTreeMap<RepoName, Vec<Suspect>>, StoreError> {
        if report.pins_unusable.is_some() {
            return Ok(BTreeMap::new());
        }
        // Whoever has the lists locked may wait for the disk.
        let ledger = Arc::clone(self.ledger());
        blocking(move || Ok(ledger.suspects(true))).await
    }

    /// What a run would do now, where `retained` is what retention keeps; changes nothing.
    ///
    /// # Errors
    /// Of the disk.
    pub(in crate::store) async fn look(
        &self,
        retained: &Arc<Retained>,
        stop: &CancellationToken,
    ) -> Result<CollectionReport, StoreError> {
        let mut report = CollectionReport { dry_run: true, ..self.report() };
        for (repo, suspects) in self.due(&report).await? {
            let no_roots = NoRoots::GivenUpAmong(manifests_of(&suspects));
            let marked = self.marked_by(&repo, &no_roots, retained, &mut report, stop).await?;
            let Some((mark, ..)) = marked else { continue };
            let (going, back) = divide(&mark, suspects);
            report.cleared += back.len() as u64;
            for suspect in going {
                let manifests = Arc::clone(&self.manifests);
                let looked = blocking(move || {
                    let found = manifests.content_of(&suspect)?;
                    Ok(found.map(|found| (found, suspect.kind == Membership::Manifest)))
                });
                if let Some((content, is_manifest)) = looked.await? {
                    report.removed.add(content, is_manifest);
                }
            }
        }
        for repo in self.dirty(true).await? {
            let looked = self.looked_through(&repo, retained, &mut report, stop).await?;
            let Some(mark) = looked else { continue };
            let manifests = Arc::clone(&self.manifests);
            let found = blocking(move || {
                let mut found = Vec::new();
                manifests.unreached(&repo, &mark, |suspects| {
                    for suspect in suspects {
                        if manifests.ledger.suspected_for(&suspect).is_none()
                            && let Some(content) = manifests.content_of(&suspect)?
                        {
                            found.push((content, suspect.kind == Membership::Manifest));
                        }
                    }
                    Ok(true)
                })?;
                Ok(found)
            });
            for (content, is_manifest) in found.await? {
                report.suspected.add(content, is_manifest);
            }
        }
        Ok(report)
    }

    /// Dirty repositories; where all are, the tree is asked.
    async fn dirty(&self, is_dry: bool) -> Result<Vec<RepoName>, StoreError> {
        if let Some(dirty) = self.ledger().dirty_repositories() {
            return Ok(dirty);
        }
        let manifests = Arc::clone(&self.manifests);
        let all = move || {
            let skipped = SkippedEntries::default();
            let all = Repositories::new(&manifests.contents.layout, &skipped).filter(|repo| !repo.is_cached());
            let all: Vec<RepoName> = all.collect();
            if !is_dry {
                manifests.ledger.name_all(all.clone())?;
            }
            Ok(all)
        };
        if is_dry { blocking(all).await } else { self.manifests.contents.change(all).await }
    }

    /// Marks a repository while nothing touches it.
    async fn mark(
        &self,
        repo: &RepoName,
        no_roots: &NoRoots,
        retained: &Retained,
        stop: &CancellationToken,
    ) -> Result<Marked, StoreError> {
        if let Some(why) = retained.unknown.get(repo) {
            return Ok(Marked::Unfit(Unfit(why.clone())));
        }
        let judges_untagged = self.ledger().settings.options().untagged_after.is_some();
        for _ in 0..ATTEMPTS {
            let seen = self.ledger().stable(repo);
            let (manifests, named, no_roots) = (Arc::clone(&self.manifests), repo.clone(), no_roots.clone());
            let roots = self.ledger().settings.roots(repo, retained);
            let begin = move || {
                // Whoever has the list locked may wait for the disk.
                let mut given_up = manifests.ledger.given_up.of(&named);
                let mut without = Arc::default();
                match no_roots {
                    NoRoots::GivenUpAnd(more) => given_up.extend(more),
                    NoRoots::Without(tags, more) => {
                        without = tags;
                        given_up.extend(more);
                    }
                    NoRoots::GivenUpAmong(going) => given_up.retain(|digest| going.contains(digest)),
                }
                Ok(Marking::begin(&manifests, &named, judges_untagged, given_up, &roots, &without))
            };
            let mut marking = blocking(begin).await?;
            let mut left = 1;
            while left > 0
                && let Ok(mut going) = marking
            {
                if stop.is_cancelled() {
                    return Ok(Marked::Stopped);
                }
                let manifests = Arc::clone(&self.manifests);
                (marking, left) = blocking(move || {
                    Ok(match going.step(&manifests) {
                        Ok(left) => (Ok(going), left),
                        Err(unfit) => (Err(unfit), 0),
                    })
                })
                .await?;
            }
            // What could not be read may have been on its way out.
            if self.ledger().is_untouched(repo, seen) {
                return Ok(match marking {
                    Ok(marking) => {
                        let (mark, found) = marking.close();
                        Marked::Good(Box::new(mark), seen, found)
                    }
                    Err(unfit) => Marked::Unfit(unfit),
                });
            }
        }
        Ok(Marked::Busy)
    }

    /// As [`Self::mark`], by what retention keeps now; what came of it stands in the report.
    pub(super) async fn marked(
        &self,
        repo: &RepoName,
        no_roots: &NoRoots,
        report: &mut CollectionReport,
        stop: &CancellationToken,
    ) -> Result<Option<(Mark, u64, Found)>, StoreError> {
        let retained = self.ledger().settings.retained();
        self.marked_by(repo, no_roots, &retained, report, stop).await
    }

    /// As [`Self::marked`], where `retained` is what retention keeps.
    pub(super) async fn marked_by(
        &self,
        repo: &RepoName,
        no_roots: &NoRoots,
        retained: &Retained,
        report: &mut CollectionReport,
        stop: &CancellationToken,
    ) -> Result<Option<(Mark, u64, Found)>, StoreError> {
        match self.mark(repo, no_roots, retained, stop).await? {
            Marked::Good(mark, seen, found) => {
                report.marked += 1;
                self.told().left_alone.remove(repo);
                Ok(Some((*mark, seen, found)))
            }
            Marked::Busy => {
                report.busy += 1;
                Ok(None)
            }
            Marked::Unfit(Unfit(reason)) => {
                let known = self.told().left_alone.insert(repo.clone(), reason.clone());
                if known.as_ref() != Some(&reason) {
                    tracing::warn!(repository = %repo, reason, "a repository is not collected until it is mended");
                }
                let left = LeftAlone { repository: repo.to_string(), reason };
                if !report.left_alone.contains(&left) {
                    report.left_alone.push(left);
                }
                Ok(None)
            }
            Marked::Stopped => Ok(None),
        }
    }

    /// Marks a repository once more and removes what its roots still do not reach, one content at a time. Manifests go if all other
    /// masters would remove them too.
    async fn remove(
        &self,
        repo: &RepoName,
        suspects: Vec<Suspect>,
        report: &mut CollectionReport,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let contents = &self.manifests.contents;
        let (agreed, left, waiting) = self.agreed_suspects(repo, suspects).await;
        let (agreed, mut left) = (Arc::new(agreed), VecDeque::from(left));
        for _ in 0..ATTEMPTS {
            let no_roots = NoRoots::GivenUpAmong(manifests_of(&left));
            let Some((mark, seen, _)) = self.marked(repo, &no_roots, report, stop).await? else { return Ok(()) };
            let (going, back) = divide(&mark, left);
            drop(mark);
            // What a manifest names that waits for other masters goes with it: it stays a suspect.
            if waiting.is_empty() {
                report.cleared += back.len() as u64;
                let ledger = Arc::clone(self.ledger());
                contents.change(move || ledger.drop_if_untouched(&back, seen)).await?;
            }
            left = going;
            while let Some(suspect) = left.front().cloned() {
                if stop.is_cancelled() || self.ledger().settings.may_not_remove() {
                    return Ok(());
                }
                let turn = contents.turn(REMOVAL_BYTES).await;
                let (manifests, is_manifest) = (Arc::clone(&self.manifests), suspect.kind == Membership::Manifest);
                let agreed = Arc::clone(&agreed);
                let removal = contents.change(move || manifests.remove_suspect(&suspect, seen, &agreed)).await;
                drop(turn);
                match removal? {
                    Removal::Gone(content) => {
                        left.pop_front();
                        if let Some(content) = content {
                            report.removed.add(content, is_manifest);
                        }
                    }
                    Removal::Touched => break,
                }
            }
            if left.is_empty() {
                return Ok(());
            }
        }
        report.busy += 1;
        Ok(())
    }

    /// Marks a dirty repository and puts on the list what its roots do not reach.
    async fn judge(
        &self,
        repo: &RepoName,
        listed: Vec<Suspect>,
        report: &mut CollectionReport,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let Some((mark, seen)) = self.settled(repo, report, stop).await? else { return Ok(()) };
        let (manifests, repo) = (Arc::clone(&self.manifests), repo.clone());
        let judged = self.manifests.contents.change(move || {
            let ledger = &manifests.ledger;
            let (_, back) = divide(&mark, listed);
            let (mut found, mut all) = (Vec::new(), true);
            ledger.drop_if_untouched(&back, seen)?;
            let untouched = manifests.unreached(&repo, &mark, |suspects| {
                let new: Vec<Suspect> =
                    suspects.into_iter().filter(|suspect| ledger.suspected_for(suspect).is_none()).collect();
                let Some(count) = ledger.list(seen, &new)? else { return Ok(false) };
                all &= count == new.len();
                for suspect in &new[..count] {
                    if let Some(content) = manifests.content_of(suspect)? {
                        found.push((content, suspect.kind == Membership::Manifest));
                    }
                }
                Ok(all)
            })?;
            let clean = all && untouched && ledger.clean(&repo, seen);
            Ok((found, back.len(), clean || !all))
        });
        let (found, back, is_quiet) = judged.await?;
        report.cleared += back as u64;
        report.busy += u64::from(!is_quiet);
        for (content, is_manifest) in found {
            report.suspected.add(content, is_manifest);
        }
        Ok(())
    }
}

/// The manifests among suspects.
pub(super) fn manifests_of<'a>(suspects: impl IntoIterator<Item = &'a Suspect>) -> HashSet<Digest> {
    let manifests = suspects.into_iter().filter(|suspect| suspect.kind == Membership::Manifest);
    manifests.map(|suspect| suspect.digest).collect()
}

/// Those that are still not reached, and the others.
pub(super) fn divide(mark: &Mark, suspects: impl IntoIterator<Item = Suspect>) -> (VecDeque<Suspect>, Vec<Suspect>) {
    let (mut going, mut back) = (VecDeque::new(), Vec::new());
    for suspect in suspects {
        if mark.judge(suspect.kind, &suspect.digest) == Judgement::Unreached {
            going.push_back(suspect);
        } else {
            back.push(suspect);
        }
    }
    (going, back)
}
