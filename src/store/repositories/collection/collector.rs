//! A run of the collection: suspects whose grace is over are marked once more and go, then dirty repositories are marked.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fail::fail_point;
use tokio_util::sync::CancellationToken;

use super::ledger::{Ledger, Touch};
use super::mark::{Judgement, Mark};
use super::marking::{Marking, Unfit};
use super::report::{CollectedContent, CollectionReport, CollectionStatus, LeftAlone};
use super::suspects::Suspect;
use crate::fs::stat;
use crate::jobs::Progress;
use crate::oci::{Reference, RepoName};
use crate::store::contents::changes::blocking;
use crate::store::error::StoreError;
use crate::store::layout::Membership;
use crate::store::repositories::manifests::Manifests;
use crate::store::repositories::walk::{Members, Repositories, SkippedEntries};

/// Markings of a repository that is written to meanwhile, before it is left to the next run.
const ATTEMPTS: usize = 3;

/// Suspects that are put on the list with one sync.
const BATCH: usize = 1000;

/// Bytes that the removal of a content counts for where writing to the disk has a rate: names and a directory.
const REMOVAL_BYTES: u64 = 16 << 10;

/// Collects, and remembers what it came to.
#[derive(Debug)]
pub(in crate::store) struct Collector {
    pub(in crate::store) manifests: Arc<Manifests>,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    left_alone: BTreeMap<RepoName, String>,
    /// Blobs, manifests.
    removed: [u64; 2],
    freed_bytes: u64,
    last: CollectionReport,
}

/// A repository that was marked, or was not.
enum Marked {
    /// While its touches stood at this number.
    Good(Mark, u64),
    Busy,
    Unfit(Unfit),
    Stopped,
}

/// What came of the removal of one suspect.
enum Removal {
    Gone(Option<CollectedContent>),
    /// The repository was touched: it has to be marked again.
    Touched,
}

impl Collector {
    pub(in crate::store) fn new(manifests: Arc<Manifests>) -> Self {
        Self { manifests, told: Mutex::default() }
    }

    pub(in crate::store) fn ledger(&self) -> &Arc<Ledger> {
        &self.manifests.ledger
    }

    fn told(&self) -> MutexGuard<'_, Told> {
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
        let mut done = 0;
        // What nothing reaches is found all the same: its grace goes on while the pins are being mended.
        let due = if report.pins_unusable.is_some() { BTreeMap::new() } else { ledger.suspects(true) };
        for (repo, suspects) in due {
            self.remove(&repo, suspects.into(), report, stop).await?;
            done += 1;
            shown.set(done, None);
        }
        let dirty = self.dirty(false).await?;
        let total = done + dirty.len() as u64;
        let listed = ledger.suspects(false);
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

    /// What a run would do now; changes nothing.
    ///
    /// # Errors
    /// Of the disk.
    pub(in crate::store) async fn look(&self, stop: &CancellationToken) -> Result<CollectionReport, StoreError> {
        let ledger = self.ledger();
        let mut report = CollectionReport { dry_run: true, ..self.report() };
        let due = if report.pins_unusable.is_some() { BTreeMap::new() } else { ledger.suspects(true) };
        for (repo, suspects) in due {
            let Some((mark, _)) = self.marked(&repo, &mut report, stop).await? else { continue };
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
            let Some((mark, _)) = self.marked(&repo, &mut report, stop).await? else { continue };
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
    async fn mark(&self, repo: &RepoName, stop: &CancellationToken) -> Result<Marked, StoreError> {
        let judges_untagged = self.ledger().settings.options().untagged_after.is_some();
        for _ in 0..ATTEMPTS {
            let seen = self.ledger().stable(repo);
            let (manifests, named, pins) = (Arc::clone(&self.manifests), repo.clone(), self.ledger().settings.pins());
            let mut marking = blocking(move || Ok(Marking::begin(&manifests, &named, judges_untagged, pins))).await?;
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
                    Ok(marking) => Marked::Good(marking.close(), seen),
                    Err(unfit) => Marked::Unfit(unfit),
                });
            }
        }
        Ok(Marked::Busy)
    }

    /// As [`Self::mark`]; what came of it stands in the report.
    async fn marked(
        &self,
        repo: &RepoName,
        report: &mut CollectionReport,
        stop: &CancellationToken,
    ) -> Result<Option<(Mark, u64)>, StoreError> {
        match self.mark(repo, stop).await? {
            Marked::Good(mark, seen) => {
                report.marked += 1;
                self.told().left_alone.remove(repo);
                Ok(Some((mark, seen)))
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

    /// Marks a repository once more and removes what its roots still do not reach, one content at a time.
    async fn remove(
        &self,
        repo: &RepoName,
        mut left: VecDeque<Suspect>,
        report: &mut CollectionReport,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let contents = &self.manifests.contents;
        for _ in 0..ATTEMPTS {
            let Some((mark, seen)) = self.marked(repo, report, stop).await? else { return Ok(()) };
            let (going, back) = divide(&mark, left);
            drop(mark);
            report.cleared += back.len() as u64;
            let ledger = Arc::clone(self.ledger());
            contents.change(move || ledger.drop_if_untouched(&back, seen)).await?;
            left = going;
            while let Some(suspect) = left.front().cloned() {
                if stop.is_cancelled() || self.ledger().settings.may_not_remove() {
                    return Ok(());
                }
                let turn = contents.turn(REMOVAL_BYTES).await;
                let (manifests, is_manifest) = (Arc::clone(&self.manifests), suspect.kind == Membership::Manifest);
                let removal = contents.change(move || manifests.remove_suspect(&suspect, seen)).await;
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
        let Some((mark, seen)) = self.marked(repo, report, stop).await? else { return Ok(()) };
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

/// Those that are still not reached, and the others.
fn divide(mark: &Mark, suspects: impl IntoIterator<Item = Suspect>) -> (VecDeque<Suspect>, Vec<Suspect>) {
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

impl Manifests {
    /// What a suspect is on the disk; `None`: its repository does not have it. Blocking.
    fn content_of(&self, suspect: &Suspect) -> Result<Option<CollectedContent>, StoreError> {
        let found = stat(&self.contents.layout.member(&suspect.repo, suspect.kind, &suspect.digest))?;
        Ok(found.map(|found| CollectedContent {
            repository: suspect.repo.to_string(),
            kind: suspect.kind.word(),
            digest: suspect.digest.to_string(),
            // Its own name and this one.
            bytes: if found.nlink() <= 2 { found.len() } else { 0 },
        }))
    }

    /// Hands over what the mark does not reach, some at a time, until `each` says `false`; says whether it never did.
    /// Blocking.
    fn unreached(
        &self,
        repo: &RepoName,
        mark: &Mark,
        mut each: impl FnMut(Vec<Suspect>) -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        let skipped = SkippedEntries::default();
        let mut found = Vec::new();
        for kind in [Membership::Manifest, Membership::Blob] {
            for digest in Members::new(&self.contents.layout, repo, kind, &skipped) {
                if mark.judge(kind, &digest) != Judgement::Unreached {
                    continue;
                }
                found.push(Suspect { repo: repo.clone(), kind, digest });
                if found.len() >= BATCH && !each(std::mem::take(&mut found))? {
                    return Ok(false);
                }
            }
        }
        each(found)
    }

    /// Takes a suspect out of its repository, if nothing touched that since `seen`: tags, name, and at the last name the bytes.
    /// Blocking.
    fn remove_suspect(&self, suspect: &Suspect, seen: u64) -> Result<Removal, StoreError> {
        let Suspect { repo, kind, digest } = suspect;
        let Some(taken) = self.ledger.take(suspect) else { return Ok(Removal::Gone(None)) };
        let content = self.content_of(suspect)?;
        fail_point!("store::collection::before_unlink");
        let went = match kind {
            _ if content.is_none() => true,
            Membership::Blob => {
                // Counted before the look at the touches: who touches from now on believes no verdict of before.
                let _deleting = self.memory.deleting(repo);
                if self.ledger.is_untouched(repo, seen) {
                    self.contents.remove(&self.contents.layout.member(repo, *kind, digest), digest)?;
                    true
                } else {
                    false
                }
            }
            Membership::Manifest => {
                // What it named has a verdict of its own then.
                self.ledger.make_dirty(repo)?;
                let goes = || Ok(self.ledger.is_untouched(repo, seen).then(Touch::none));
                match self.delete_if(repo, &Reference::Digest(*digest), goes) {
                    Err(StoreError::ManifestUnknown) => true,
                    went => went?,
                }
            }
        };
        if !went {
            return Ok(Removal::Touched);
        }
        fail_point!("store::collection::after_unlink");
        taken.gone();
        Ok(Removal::Gone(content))
    }
}
