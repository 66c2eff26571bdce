//! A snapshot is given back to its repositories: contents that they lack, then manifests, then tags.
//!
//! Nothing is taken away: what came since stays, and a tag that came since too, unless it is asked to go. Each of the three goes
//! through the whole list, so that a tag is there when all repositories have what it may lead to, and what is left half-way is
//! gone on with when it is ordered again. The directories of a repository are synced before the next one is begun.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

use fail::fail_point;

use super::catalog::{Catalog, Entry, read_summary};
use super::giving_back::ReturnedTag;
use super::keeper::Snapshots;
use super::report::{RestoreReport, Restoring, SnapshotError};
use crate::clock::Timestamp;
use crate::oci::{Digest, Reference, RepoName, Tag};
use crate::store::contents::beside::{Beside, ORDERED_RATE};
use crate::store::contents::snapshots::{Examined, Returned};
use crate::store::contents::uncached::Buffer;
use crate::store::error::StoreError;
use crate::store::layout::{Membership, SnapshotFolder};
use crate::store::repositories::collection::ledger::Touch;
use crate::store::repositories::walk::{Repositories, SkippedEntries, Tags};
use crate::store::stored::SnapshotName;
use crate::telemetry::ProgressLog;

/// What is given back in one walk over the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walk {
    Members(Membership),
    Tags,
}

/// The repository that a walk is at.
struct Place {
    repo: RepoName,
    /// No verdict of the collection that was found before counts while this lives.
    _touch: Touch,
    /// To be synced.
    directories: BTreeSet<PathBuf>,
    /// Its tags in the snapshot, in the last walk.
    tags: HashSet<Tag>,
    /// Manifests and tags that it got, to be said to other masters.
    came: Vec<(Reference, Digest)>,
    /// Those that it had: by a restore that was interrupted, perhaps, and then nobody heard of them.
    was: Vec<(Reference, Digest)>,
    /// The times of the tags that it got.
    times: Vec<(Tag, Digest, Timestamp)>,
}

/// A restore that goes on.
struct Restore<'a> {
    snapshots: &'a Snapshots,
    folder: SnapshotFolder,
    how: Restoring,
    report: RestoreReport,
    beside: Beside<'a>,
    buffer: Buffer,
    /// Something was there in the walk that goes on: perhaps by a restore that was killed before its sync.
    was_there: bool,
}

impl Snapshots {
    /// Gives a snapshot back; durable when it answers. What no whole file is left of is counted, and the rest is given back.
    ///
    /// # Errors
    /// [`SnapshotError`]; what was given back until then is there.
    pub(in crate::store) fn restore(
        &self,
        name: &SnapshotName,
        how: Restoring,
    ) -> Result<RestoreReport, SnapshotError> {
        let _operation = self.begin();
        let folder = self.find(name)?;
        let layout = &self.manifests.contents.layout;
        let summary = read_summary(layout, &folder)?;
        let catalog = Catalog::open(layout, &folder, &summary)?;
        if how.exact && summary.left_out > 0 {
            let what = format!(
                "{} of its tags or names could not be read when it was taken, and --exact would remove them",
                summary.left_out
            );
            return Err(SnapshotError::Unfit { name: name.clone(), what });
        }
        let report =
            RestoreReport { dry_run: how.dry_run, repositories: summary.repositories, ..RestoreReport::default() };
        let beside = Beside::new(&self.manifests.contents, Some(ORDERED_RATE));
        let buffer = Buffer::default();
        let mut restore = Restore { snapshots: self, folder, how, report, beside, buffer, was_there: false };
        let progress = ProgressLog::new("restoring a snapshot");
        let (mut done, all) = (0, 3 * (summary.blobs + summary.manifests + summary.tags));
        let mut restored = HashSet::new();
        for walk in [Walk::Members(Membership::Blob), Walk::Members(Membership::Manifest), Walk::Tags] {
            let mut place = None;
            let mut walk_all = || -> Result<(), SnapshotError> {
                for entry in catalog.entries()? {
                    self.go_on()?;
                    match entry? {
                        Entry::Repository(repo) => {
                            restore.leave(walk, place.take())?;
                            restored.insert(repo.clone());
                            place = Some(restore.enter(repo)?);
                        }
                        entry => {
                            let place = place.as_mut().ok_or_else(|| SnapshotError::Unfit {
                                name: name.clone(),
                                what: "its list does not begin with a repository".to_owned(),
                            })?;
                            restore.give_back(walk, place, entry)?;
                        }
                    }
                    done += 1;
                    progress.tick(done, Some(all));
                }
                Ok(())
            };
            if let Err(error) = walk_all() {
                restore.leave_unfinished(place.as_ref());
                return Err(error);
            }
            restore.leave(walk, place)?;
            restore.settle()?;
        }
        restore.look_at_others(&restored)?;
        progress.finish(done);
        Ok(restore.report)
    }
}

impl Restore<'_> {
    fn enter(&self, repo: RepoName) -> Result<Place, SnapshotError> {
        let ledger = &self.snapshots.manifests.ledger;
        let touch = if self.how.dry_run { Touch::none() } else { ledger.touch(&repo)? };
        Ok(Place {
            repo,
            _touch: touch,
            directories: BTreeSet::new(),
            tags: HashSet::new(),
            came: Vec::new(),
            was: Vec::new(),
            times: Vec::new(),
        })
    }

    fn give_back(&mut self, walk: Walk, place: &mut Place, entry: Entry) -> Result<(), SnapshotError> {
        match (walk, entry) {
            (Walk::Members(walked), Entry::Member(kind, digest)) if walked == kind => self.member(place, kind, digest),
            (Walk::Tags, Entry::Tag(tag, digest, time)) => self.tag(place, tag, digest, time),
            _ => Ok(()),
        }
    }

    fn member(&mut self, place: &mut Place, kind: Membership, digest: Digest) -> Result<(), SnapshotError> {
        let manifests = &self.snapshots.manifests;
        let contents = &manifests.contents;
        let member = contents.layout.member(&place.repo, kind, &digest);
        let mut returned = contents.can_give_back(&self.folder, &member, &digest)?;
        if returned == Returned::Linked && !self.how.dry_run {
            returned = self.content(&place.repo, kind, &digest)?;
            let names = [member, contents.layout.content(&digest)];
            place.directories.extend(names.iter().filter_map(|name| name.parent()).map(PathBuf::from));
        }
        match (returned, kind) {
            // It may be a suspect: what names it comes back behind it.
            (Returned::Was, kind) if !self.how.dry_run => {
                self.was_there = true;
                manifests.save(&place.repo, &digest);
                if kind == Membership::Manifest {
                    place.was.push((Reference::Digest(digest), digest));
                }
            }
            (Returned::Was, _) => {}
            (Returned::Linked, Membership::Blob) => self.report.blobs += 1,
            (Returned::Linked, Membership::Manifest) => {
                self.report.manifests += 1;
                if !self.how.dry_run {
                    place.came.push((Reference::Digest(digest), digest));
                }
            }
            (Returned::Missing | Returned::Unread, kind) => self.report.lacks(&place.repo, Some(kind), &digest),
        }
        fail_point!("store::snapshot::after_member");
        Ok(())
    }

    /// Gives a content back, read before if only the snapshot has it.
    fn content(&mut self, repo: &RepoName, kind: Membership, digest: &Digest) -> Result<Returned, SnapshotError> {
        let Self { snapshots, folder, beside, buffer, .. } = self;
        let manifests = &snapshots.manifests;
        let mut sound = None;
        loop {
            let returned = match kind {
                Membership::Blob => manifests.give_blob_back(folder, repo, (digest, sound))?,
                Membership::Manifest => manifests.give_manifest_back(folder, repo, (digest, sound))?,
            };
            if returned != Returned::Unread {
                return Ok(returned);
            }
            match manifests.contents.examine_kept(folder, digest, beside, (&mut *buffer, snapshots.stopping()))? {
                Examined::Sound(inode) => sound = Some(inode),
                Examined::Bad => return Ok(Returned::Missing),
                Examined::Stopped => return Err(SnapshotError::Stopped),
            }
        }
    }

    /// Ends a walk: what was there is as durable as what it gave back.
    fn settle(&mut self) -> Result<(), SnapshotError> {
        if std::mem::take(&mut self.was_there) {
            self.snapshots.manifests.contents.sync_everything([], [])?;
        }
        Ok(())
    }

    fn tag(&mut self, place: &mut Place, tag: Tag, digest: Digest, time: Timestamp) -> Result<(), SnapshotError> {
        let manifests = &self.snapshots.manifests;
        let layout = &manifests.contents.layout;
        let returned = if self.how.dry_run {
            let member = layout.member(&place.repo, Membership::Manifest, &digest);
            let target = manifests.contents.can_give_back(&self.folder, &member, &digest)?;
            manifests.would_give_tag_back(&place.repo, &tag, &digest, target != Returned::Missing)?
        } else {
            place.directories.insert(layout.tags(&place.repo));
            manifests.give_tag_back(&place.repo, &tag, &digest)?
        };
        match returned {
            ReturnedTag::Was => {}
            ReturnedTag::Added => self.report.tags_added += 1,
            ReturnedTag::Moved => self.report.tags_moved += 1,
            ReturnedTag::Missing => self.report.lacks(&place.repo, None, &tag),
        }
        fail_point!("store::snapshot::after_tag");
        match returned {
            _ if self.how.dry_run => {}
            ReturnedTag::Added | ReturnedTag::Moved => {
                place.came.push((Reference::Tag(tag.clone()), digest));
                place.times.push((tag.clone(), digest, time));
            }
            ReturnedTag::Was => place.was.push((Reference::Tag(tag.clone()), digest)),
            ReturnedTag::Missing => {}
        }
        place.tags.insert(tag);
        Ok(())
    }

    /// Ends with a repository: what it got is durable, and its newer tags are looked at.
    fn leave(&mut self, walk: Walk, place: Option<Place>) -> Result<(), SnapshotError> {
        let Some(place) = place else { return Ok(()) };
        let synced = self.sync(&place);
        self.say(&place)?;
        synced?;
        if walk == Walk::Tags { self.newer(&place.repo, &place.tags) } else { Ok(()) }
    }

    fn sync(&self, place: &Place) -> Result<(), StoreError> {
        let disk = &self.snapshots.manifests.contents.disk;
        for directory in &place.directories {
            match disk.sync_directory(directory) {
                // No tag had to be written.
                Err(error) if crate::fs::is_absence(&error.source) => {}
                synced => synced?,
            }
        }
        Ok(())
    }

    /// What was given back until something failed counts all the same.
    fn leave_unfinished(&self, place: Option<&Place>) {
        if let Some(place) = place
            && let Err(error) = self.say(place)
        {
            let error = crate::telemetry::with_causes(&error);
            tracing::warn!(repo = %place.repo, error, "what was given back is not written down for other masters");
        }
    }

    /// Writes down what a repository has now; then its tags get the times that they had.
    fn say(&self, place: &Place) -> Result<(), StoreError> {
        if place.came.is_empty() && place.was.is_empty() {
            return Ok(());
        }
        let manifests = &self.snapshots.manifests;
        let locked = manifests.lock(&place.repo);
        manifests.say_there(&place.repo, &place.came, &place.was, &locked)?;
        for (tag, digest, time) in &place.times {
            manifests.age_tag(&place.repo, (tag, digest), *time, &locked)?;
        }
        Ok(())
    }

    /// The tags of a repository that the snapshot does not have.
    fn newer(&mut self, repo: &RepoName, known: &HashSet<Tag>) -> Result<(), SnapshotError> {
        let manifests = &self.snapshots.manifests;
        let skipped = SkippedEntries::default();
        for tag in Tags::new(&manifests.contents.layout, repo, &skipped) {
            self.snapshots.go_on()?;
            if known.contains(&tag) {
                continue;
            }
            if !self.how.exact {
                self.report.tags_newer += 1;
                continue;
            }
            if !self.how.dry_run {
                match manifests.delete_manifest(repo, &Reference::Tag(tag)) {
                    Ok(()) | Err(StoreError::ManifestUnknown) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.report.tags_removed += 1;
        }
        Ok(())
    }

    /// Repositories that the snapshot does not have.
    fn look_at_others(&mut self, restored: &HashSet<RepoName>) -> Result<(), SnapshotError> {
        let skipped = SkippedEntries::default();
        let others = Repositories::new(&self.snapshots.manifests.contents.layout, &skipped);
        for repo in others.filter(|repo| !repo.is_cached() && !restored.contains(repo)) {
            self.newer(&repo, &HashSet::new())?;
        }
        Ok(())
    }
}
