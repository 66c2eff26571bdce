//! Removes all data of a mode that is not used, one name at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fail::fail_point;
use tokio_util::sync::CancellationToken;

use super::count::{DataCount, UnusedData, count};
use super::gate::{Gate, mode_of};
use crate::clock::Timestamp;
use crate::fs::stat;
use crate::jobs::Progress;
use crate::oci::{Algorithm, Digest, Reference, RepoName, Tag};
use crate::store::contents::changes::{blocking, blocking_run};
use crate::store::error::StoreError;
use crate::store::layout::Membership;
use crate::store::repositories::manifests::Manifests;
use crate::store::repositories::walk::{Members, Repositories, SkippedEntries, Tags};
use crate::values::StoringMode;

/// Names of one repository that are read at once.
const BATCH: usize = 1000;

/// Bytes that the removal of a name counts for where writing to the disk has a rate: a name and a directory.
const REMOVAL_BYTES: u64 = 16 << 10;

/// What a drop would free, or has freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Repositories.
    pub repositories: u64,
    /// Blobs and manifests that nothing else had.
    pub contents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of what would be freed: there may be more.
    pub at_least: bool,
    /// Why something is left.
    pub left: Option<Left>,
}

/// Why a drop ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// A mode uses the data again.
    Used,
    /// The process ends.
    Ending,
}

impl Left {
    /// In a word, for JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Ending => "ending",
        }
    }
}

impl Dropped {
    /// In the form that orders are answered in.
    #[must_use]
    pub fn to_json(&self, mode: StoringMode, dry_run: bool) -> serde_json::Value {
        let Self { repositories, contents, bytes, at_least, left } = *self;
        serde_json::json!({
            "mode": mode.as_str(),
            "dryRun": dry_run,
            "repositories": repositories,
            "contents": contents,
            "bytes": bytes,
            "atLeast": at_least,
            "left": left.map(Left::as_str),
        })
    }
}

/// Data of modes: counted, and dropped where it is not used.
#[derive(Debug)]
pub(in crate::store) struct Dropper {
    manifests: Arc<Manifests>,
    pub(in crate::store) gate: Gate,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// Ordered, and not begun.
    wanted: BTreeSet<StoringMode>,
    dropped: BTreeMap<StoringMode, Dropped>,
    /// What the last count found, and when.
    unused: Option<(Vec<UnusedData>, Timestamp)>,
}

/// One name of a repository.
#[derive(Clone, Debug)]
enum Name {
    Tag(Tag),
    Member(Membership, Digest),
}

impl Dropper {
    pub(in crate::store) fn new(manifests: Arc<Manifests>) -> Self {
        Self { manifests, gate: Gate::default(), told: Mutex::default() }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the last count found, and when; `None` before the first.
    pub(in crate::store) fn unused(&self) -> Option<(Vec<UnusedData>, Timestamp)> {
        self.told().unused.clone()
    }

    /// What the last drop of a mode's data came to.
    pub(in crate::store) fn dropped(&self, mode: StoringMode) -> Option<Dropped> {
        self.told().dropped.get(&mode).copied()
    }

    /// Has the next run drop the mode's data; `false`: it is used.
    pub(in crate::store) fn want(&self, mode: StoringMode) -> bool {
        let is_unused = !self.gate.is_used(mode);
        if is_unused {
            self.told().wanted.insert(mode);
        }
        is_unused
    }

    pub(super) fn take_wanted(&self) -> BTreeSet<StoringMode> {
        std::mem::take(&mut self.told().wanted)
    }

    /// Counts what no mode uses, anew. Reads its part of the tree.
    ///
    /// # Errors
    /// Of the disk.
    pub(in crate::store) async fn count(self: &Arc<Self>, stop: &CancellationToken) -> Result<(), StoreError> {
        let (dropper, stop) = (Arc::clone(self), stop.clone());
        blocking_run(move || {
            let gate = &dropper.gate;
            let found = count(&dropper.manifests.contents.layout, |repo| !gate.is_used_repository(repo), &stop)?;
            if let Some(found) = found {
                dropper.told().unused = Some((found, crate::clock::now()));
            }
            Ok(())
        })
        .await
    }

    /// What a drop of the mode's data would free now; changes nothing. Reads that part of the tree.
    ///
    /// # Errors
    /// Of the disk.
    pub(in crate::store) async fn look(&self, mode: StoringMode) -> Result<Dropped, StoreError> {
        let manifests = Arc::clone(&self.manifests);
        blocking(move || {
            let found = count(&manifests.contents.layout, |repo| mode_of(repo) == mode, &CancellationToken::new())?;
            let all = found.unwrap_or_default().first().map(|data| data.all).unwrap_or_default();
            let DataCount { repositories, contents, bytes, at_least } = all;
            Ok(Dropped { repositories, contents, bytes, at_least, left: None })
        })
        .await
    }

    /// Removes all data of a mode, as long as none of it is used. Ends early, and well, when `stop` is cancelled. `shown`: names.
    ///
    /// # Errors
    /// Of the disk: what was removed is gone.
    pub(in crate::store) async fn drop_data(
        self: &Arc<Self>,
        mode: StoringMode,
        stop: &CancellationToken,
        shown: &Progress,
    ) -> Result<Dropped, StoreError> {
        let mut dropped = Dropped::default();
        let outcome = self.remove_all(mode, &mut dropped, stop, shown).await;
        self.told().dropped.insert(mode, dropped);
        outcome.map(|()| dropped)
    }

    async fn remove_all(
        self: &Arc<Self>,
        mode: StoringMode,
        dropped: &mut Dropped,
        stop: &CancellationToken,
        shown: &Progress,
    ) -> Result<(), StoreError> {
        let manifests = Arc::clone(&self.manifests);
        let (repositories, total) = blocking(move || Ok(manifests.repositories_of(mode))).await?;
        let mut done = 0;
        for repo in repositories {
            loop {
                let (manifests, named) = (Arc::clone(&self.manifests), repo.clone());
                let names = blocking(move || Ok(manifests.some_names(&named))).await?;
                if names.is_empty() {
                    break;
                }
                for name in names {
                    if stop.is_cancelled() {
                        dropped.left = Some(Left::Ending);
                        return Ok(());
                    }
                    let Some(freed) = self.remove(mode, &repo, name).await? else {
                        dropped.left = Some(Left::Used);
                        return Ok(());
                    };
                    dropped.contents += u64::from(freed.is_some());
                    dropped.bytes += freed.unwrap_or_default();
                    done += 1;
                    shown.set(done, Some(total.max(done)));
                }
            }
            if self.tidy(mode, &repo).await?.is_none() {
                dropped.left = Some(Left::Used);
                return Ok(());
            }
            dropped.repositories += 1;
        }
        Ok(())
    }

    /// Takes one name away; says how many bytes that freed, if any content went. `None`: the data is used.
    async fn remove(
        self: &Arc<Self>,
        mode: StoringMode,
        repo: &RepoName,
        name: Name,
    ) -> Result<Option<Option<u64>>, StoreError> {
        let contents = &self.manifests.contents;
        let _turn = contents.turn(REMOVAL_BYTES).await;
        let (dropper, repo) = (Arc::clone(self), repo.clone());
        let remove = move || {
            fail_point!("store::drop::before_name");
            let freed = dropper.gate.unless_used(mode, || dropper.manifests.remove_name(&repo, &name));
            fail_point!("store::drop::after_name");
            freed.transpose()
        };
        contents.change(remove).await
    }

    /// Removes the lists of a repository that has nothing else, and its directories; `None`: the data is used.
    async fn tidy(self: &Arc<Self>, mode: StoringMode, repo: &RepoName) -> Result<Option<()>, StoreError> {
        let contents = &self.manifests.contents;
        let _turn = contents.turn(REMOVAL_BYTES).await;
        let (dropper, repo) = (Arc::clone(self), repo.clone());
        let tidy = move || {
            let tidied = dropper.gate.unless_used(mode, || dropper.manifests.remove_directories(&repo));
            fail_point!("store::drop::after_directories");
            tidied.transpose()
        };
        contents.change(tidy).await
    }
}

impl Manifests {
    /// The repositories of a mode's data, children before their parents, and the number of all their names. Blocking.
    fn repositories_of(&self, mode: StoringMode) -> (Vec<RepoName>, u64) {
        let (layout, skipped) = (&self.contents.layout, SkippedEntries::default());
        let mut found: Vec<RepoName> =
            Repositories::new(layout, &skipped).filter(|repo| mode_of(repo) == mode).collect();
        found.sort_unstable_by(|one, other| other.as_str().cmp(one.as_str()));
        let names = |repo: &RepoName| {
            let members =
                [Membership::Manifest, Membership::Blob].map(|kind| Members::new(layout, repo, kind, &skipped).count());
            Tags::new(layout, repo, &skipped).count() + members.into_iter().sum::<usize>()
        };
        let total = found.iter().map(|repo| names(repo) as u64).sum();
        (found, total)
    }

    /// Names of a repository: tags while there are any, then manifests, then blobs. Blocking.
    fn some_names(&self, repo: &RepoName) -> Vec<Name> {
        let (layout, skipped) = (&self.contents.layout, SkippedEntries::default());
        let tags: Vec<Name> = Tags::new(layout, repo, &skipped).take(BATCH).map(Name::Tag).collect();
        if !tags.is_empty() {
            return tags;
        }
        let members = [Membership::Manifest, Membership::Blob].into_iter().map(|kind| {
            Members::new(layout, repo, kind, &skipped).take(BATCH).map(|digest| Name::Member(kind, digest)).collect()
        });
        members.into_iter().find(|names: &Vec<Name>| !names.is_empty()).unwrap_or_default()
    }

    /// Takes a name out of its repository; says how many bytes that freed, if a content went with it. Blocking.
    fn remove_name(&self, repo: &RepoName, name: &Name) -> Result<Option<u64>, StoreError> {
        let layout = &self.contents.layout;
        let (kind, digest) = match name {
            Name::Tag(tag) => return self.drop_reference(repo, &Reference::Tag(tag.clone())).map(|()| None),
            Name::Member(kind, digest) => (*kind, digest),
        };
        let path = layout.member(repo, kind, digest);
        let found = stat(&path)?;
        match kind {
            Membership::Manifest => self.drop_reference(repo, &Reference::Digest(*digest))?,
            Membership::Blob => {
                let _touch = self.ledger.touch(repo)?;
                let _deleting = self.memory.deleting(repo);
                self.contents.remove(&path, digest)?;
            }
        }
        let is_kept = stat(&layout.content(digest))?.is_some() || self.contents.damage.has(digest);
        // A further name, that of a snapshot, keeps the bytes.
        let freed = found.filter(|found| !is_kept && found.nlink() <= 2);
        Ok(freed.map(|found| found.len()))
    }

    fn drop_reference(&self, repo: &RepoName, reference: &Reference) -> Result<(), StoreError> {
        match self.drop_manifest(repo, reference) {
            Ok(()) | Err(StoreError::ManifestUnknown) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes what was kept of a repository's lists, and its directories as far as they are empty. Blocking.
    fn remove_directories(&self, repo: &RepoName) -> Result<(), StoreError> {
        let (layout, disk) = (&self.contents.layout, &self.contents.disk);
        crate::store::repositories::lists::forget_all(&self.contents, repo)?;
        // What is said to be here and is not was never heard, when the mode comes back.
        self.records.forget(repo);
        let members = [Membership::Manifest, Membership::Blob].into_iter().flat_map(|kind| {
            let below = Algorithm::ALL.into_iter().map(move |algorithm| layout.members(repo, kind, algorithm));
            let kind = layout.members(repo, kind, Algorithm::Sha256).parent().map(std::path::Path::to_path_buf);
            below.chain(kind)
        });
        let own = members.chain([layout.tags(repo), layout.lists(repo)]);
        for directory in own {
            disk.remove_if_empty(&directory)?;
        }
        let mut directory = layout.repository(repo);
        while directory != layout.repositories() && disk.remove_if_empty(&directory)? && directory.pop() {}
        Ok(())
    }
}
