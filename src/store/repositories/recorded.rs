//! What is done with tags and manifests, written down; and what others have said of them, done. All of it blocks.

mod dropping;
mod removals;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use fail::fail_point;

use self::removals::Removals;
use super::collection::ledger::Taken;
use super::collection::suspects::Suspect;
use super::listings::change::Change;
use super::manifests::Manifests;
use super::records::log::Log;
use super::records::{Record, Sum, lock};
use super::walk::{Repositories, SkippedEntries};
use crate::clock::Timestamp;
use crate::fs::{set_modified, stat};
use crate::oci::{Digest, Reference, RepoName, Tag};
use crate::store::error::StoreError;
use crate::store::layout::Membership;
use crate::telemetry::with_causes;

/// What came of records of another master.
#[derive(Debug, Default)]
pub struct TakenRecords {
    /// Those that count here now.
    pub taken: Vec<Record>,
    /// Their clock is too far ahead.
    pub refused: usize,
    /// The manifest that they name is not here.
    pub lacking: Vec<Record>,
}

/// The records of one repository.
type Entry = Arc<Mutex<Log>>;

impl Manifests {
    /// The records of a repository; `None`: none are kept. To be called with its lock held, which is `_locked`.
    pub(super) fn entry(&self, repo: &RepoName, _locked: &MutexGuard<'_, ()>) -> Result<Option<Entry>, StoreError> {
        if repo.is_cached() || !self.records.are_kept() {
            return Ok(None);
        }
        if let Some(log) = self.records.known(repo)? {
            return Ok(Some(log));
        }
        // What is on its way out is answered of when that is over.
        let mut taken = Vec::new();
        let mut is_going = |digest: &Digest| {
            let suspect = Suspect { repo: repo.clone(), kind: Membership::Manifest, digest: *digest };
            let in_hand = self.ledger.take(&suspect);
            let is_going = in_hand.is_some() || self.ledger.suspected_for(&suspect).is_some();
            taken.extend(in_hand);
            is_going
        };
        let (log, undone) = self.records.read_first(repo, &mut is_going)?;
        if !undone.is_empty() && !self.contents.capacity.is_read_only() {
            self.end_deletions(repo, &undone)?;
            taken.into_iter().for_each(Taken::gone);
        }
        Ok(Some(log))
    }

    /// As [`Self::entry`] for who only asks; `None`: none are kept, or nothing of the repository is here. A name that somebody made up
    /// leaves nothing in memory and on the disk.
    fn entry_if_any(&self, repo: &RepoName, locked: &MutexGuard<'_, ()>) -> Result<Option<Entry>, StoreError> {
        let layout = &self.contents.layout;
        let is_any = self.records.is_known(repo)
            || stat(&layout.repository(repo))?.is_some()
            || stat(&layout.records_of(repo))?.is_some();
        if is_any { self.entry(repo, locked) } else { Ok(None) }
    }

    /// As [`Self::entry`], where what is done counts more than that it is written down: the next reading finds it.
    fn entry_if_readable(&self, repo: &RepoName, locked: &MutexGuard<'_, ()>) -> Option<Entry> {
        self.entry(repo, locked).unwrap_or_else(|error| {
            tracing::warn!(%repo, error = with_causes(&error), "the records of a repository can't be read");
            None
        })
    }

    /// Reads the records of a repository, if they were not yet: before it changes.
    pub(super) fn read_records(&self, repo: &RepoName, locked: &MutexGuard<'_, ()>) {
        self.entry_if_readable(repo, locked);
    }

    /// Writes down that a manifest was stored and tags lead to it.
    ///
    /// # Errors
    /// Of the disk: the others do not hear of it.
    pub(super) fn say_stored(
        &self,
        repo: &RepoName,
        digest: Digest,
        tags: &[Tag],
        locked: &MutexGuard<'_, ()>,
    ) -> Result<(), StoreError> {
        let tags = tags.iter().map(|tag| (Reference::Tag(tag.clone()), digest));
        let came: Vec<_> = std::iter::once((Reference::Digest(digest), digest)).chain(tags).collect();
        self.say_there(repo, &came, &[], locked)
    }

    /// Writes down that manifests are there, and tags lead to manifests: of those that `came` in any case, of those that were there
    /// before (`was`) only if something else is written down, or nothing since somebody asked for them.
    ///
    /// # Errors
    /// Of the disk: the others do not hear of it. What is known of the repository is held against its tree again.
    pub(super) fn say_there(
        &self,
        repo: &RepoName,
        came: &[(Reference, Digest)],
        was: &[(Reference, Digest)],
        locked: &MutexGuard<'_, ()>,
    ) -> Result<(), StoreError> {
        let Some(log) = self.entry(repo, locked)? else { return Ok(()) };
        let unsaid: Vec<&(Reference, Digest)> = {
            let known = lock(&log);
            let is_said = |(of, digest): &(Reference, Digest)| {
                known.registers.get(of).is_some_and(|said| said.to == Some(*digest) && !said.is_heard_of())
            };
            was.iter().filter(|there| !is_said(there)).collect()
        };
        // A tag is never said without its manifest: who deleted that meanwhile, elsewhere, was earlier.
        let mut all: HashMap<Reference, Digest> = HashMap::new();
        for (of, digest) in came.iter().chain(unsaid) {
            all.insert(Reference::Digest(*digest), *digest);
            all.insert(of.clone(), *digest);
        }
        self.say(repo, &log, all.into_iter().map(|(of, digest)| (of, Some(digest))))
    }

    /// Writes down that something is about to be deleted, with the tags that lead to it. A disk without room for that has it when
    /// what is deleted has gone: `make_room` does so, if it is asked, and says whether it could.
    ///
    /// # Errors
    /// Of the disk: the others do not hear of it, so what is deleted may come back from them.
    pub(in crate::store) fn say_deleted(
        &self,
        repo: &RepoName,
        reference: &Reference,
        locked: &MutexGuard<'_, ()>,
        make_room: impl FnOnce() -> bool,
    ) -> Result<(), StoreError> {
        let Some(log) = self.entry(repo, locked)? else { return Ok(()) };
        let mut all = vec![reference.clone()];
        if let Reference::Digest(digest) = reference {
            all.extend(lock(&log).registers.tags_of(digest).map(|(tag, _)| tag.clone()));
        }
        let records = self.said_now(&log, all.into_iter().map(|of| (of, None)))?;
        self.records.say_or_make_room(repo, &log, &records, make_room)
    }

    /// At one moment, with one sync.
    fn say(
        &self,
        repo: &RepoName,
        log: &Mutex<Log>,
        all: impl Iterator<Item = (Reference, Option<Digest>)>,
    ) -> Result<(), StoreError> {
        let records = self.said_now(log, all)?;
        self.records.say(repo, log, &records)
    }

    /// What is said now, at one moment.
    fn said_now(
        &self,
        log: &Mutex<Log>,
        all: impl Iterator<Item = (Reference, Option<Digest>)>,
    ) -> Result<Vec<Record>, StoreError> {
        let known = lock(log);
        all.map(|(of, to)| self.records.said(&known, of, to)).collect()
    }

    /// Ends deletions that were said and not done.
    fn end_deletions(&self, repo: &RepoName, undone: &[Reference]) -> Result<(), StoreError> {
        tracing::info!(%repo, count = undone.len(), "deletions that a stop interrupted are done now");
        self.contents.changes.forget_note(&self.contents.layout, &self.contents.disk)?;
        let _touch = self.ledger.touch(repo)?;
        let change = self.listings.begin(repo)?;
        let writing = (self.memory.changing(repo), self.memory.deleting(repo));
        let is_known = self.remove_all(repo, undone.iter(), &change)?;
        drop(writing);
        if is_known {
            change.done();
        }
        Ok(())
    }

    /// Refuses a manifest of another master that was deleted here, unless what was `said` of it is later.
    pub(super) fn refuse_deleted(
        &self,
        repo: &RepoName,
        digest: &Digest,
        said: Option<&Record>,
        locked: &MutexGuard<'_, ()>,
    ) -> Result<(), StoreError> {
        let Some(log) = self.entry(repo, locked)? else { return Ok(()) };
        let known = lock(&log).registers.record(&Reference::Digest(*digest));
        let is_deleted = known.is_some_and(|known| {
            known.target().is_none() && said.is_none_or(|said| !said.about(digest).is_later(&known))
        });
        if is_deleted { Err(StoreError::ManifestUnknown) } else { Ok(()) }
    }

    /// What was last said of a tag or a manifest.
    pub(in crate::store) fn record(&self, repo: &RepoName, of: &Reference) -> Result<Option<Record>, StoreError> {
        let locked = self.lock(repo);
        let entry = self.entry_if_any(repo, &locked)?;
        Ok(entry.and_then(|log| lock(&log).registers.record(of)))
    }

    /// The sums of a repository's buckets.
    pub(in crate::store) fn bucket_sums(&self, repo: &RepoName) -> Result<Vec<Sum>, StoreError> {
        let locked = self.lock(repo);
        let entry = self.entry_if_any(repo, &locked)?;
        Ok(entry.map(|log| lock(&log).registers.buckets().to_vec()).unwrap_or_default())
    }

    /// The records of some buckets of a repository.
    pub(in crate::store) fn records_in(
        &self,
        repo: &RepoName,
        is_in: impl Fn(u8) -> bool,
    ) -> Result<Vec<Record>, StoreError> {
        let locked = self.lock(repo);
        let Some(log) = self.entry_if_any(repo, &locked)? else { return Ok(Vec::new()) };
        let log = lock(&log);
        Ok(log.registers.iter().filter(|record| is_in(record.bucket())).collect())
    }

    /// Those that would count here.
    pub(in crate::store) fn later_ones(
        &self,
        repo: &RepoName,
        records: Vec<Record>,
    ) -> Result<Vec<Record>, StoreError> {
        if !self.records.are_kept() {
            return Ok(Vec::new());
        }
        let locked = self.lock(repo);
        // Of a repository of which nothing is here all would.
        let Some(log) = self.entry_if_any(repo, &locked)? else { return Ok(records) };
        let log = lock(&log);
        Ok(records.into_iter().filter(|record| is_later(&log, record)).collect())
    }

    /// Reads the records of all repositories for the first time, as `go_on` allows; says whether it came to the end.
    pub(in crate::store) fn read_all_records(&self, go_on: impl Fn() -> bool) -> Result<bool, StoreError> {
        let (skipped, forgotten) = (SkippedEntries::default(), self.records.forgotten());
        let in_tree = Repositories::new(&self.contents.layout, &skipped).filter(|repo| !repo.is_cached());
        for repo in in_tree.chain(self.records.repositories()?) {
            if !go_on() {
                return Ok(false);
            }
            if self.records.is_known(&repo) {
                continue;
            }
            // Each by itself: who wants to pause changes waits for one repository at most.
            let _change = self.contents.changes.begin()?;
            let locked = self.lock(&repo);
            self.entry(&repo, &locked)?;
            drop(locked);
            self.records.rest();
        }
        self.records.all_are_known(forgotten);
        Ok(true)
    }

    /// Does what another master said, as far as it counts here: deletions are written down, then done; of the others the manifests
    /// have to be here, tags are moved, then they are written down.
    pub(in crate::store) fn take_records(
        &self,
        repo: &RepoName,
        records: Vec<Record>,
        wall: Timestamp,
    ) -> Result<TakenRecords, StoreError> {
        let touch = self.ledger.touch(repo)?;
        // What is here stays from now on. Not with the lock held: the collection may wait for that, with one of them in hand.
        for record in &records {
            if let (Reference::Tag(_), Some(target)) = (record.of(), record.target()) {
                self.save(repo, &target);
            }
        }
        let locked = self.lock(repo);
        let Some(log) = self.entry(repo, &locked)? else { return Ok(TakenRecords::default()) };
        let mut outcome = TakenRecords::default();
        let (mut deleted, mut there, mut removals) = (Vec::new(), Vec::new(), Removals::default());
        let mut deletions = HashMap::new();
        {
            let known = lock(&log);
            for record in records {
                if record.is_too_far_ahead(wall) {
                    outcome.refused += 1;
                } else if !is_later(&known, &record) {
                } else if let Some(target) = record.target() {
                    there.push((record, target));
                } else if removals.goes(self, repo, &record, &known.registers)? {
                    if let Reference::Digest(digest) = record.of() {
                        deletions.insert(*digest, record.clone());
                    }
                    deleted.push(record);
                }
            }
            let led = known.registers.tags_of_any(&deletions);
            deleted.extend(led.filter_map(|(tag, said, deletion)| deletion.deleting(tag, said)));
        }
        let change = self.listings.begin(repo)?;
        let writing = (self.memory.changing(repo), self.memory.deleting(repo), self.memory.adding(repo));
        self.give_up_untagged(repo, &removals, &lock(&log).registers)?;
        self.records.say(repo, &log, &deleted)?;
        fail_point!("store::record::before_deletion");
        let mut is_known = self.remove_all(repo, deleted.iter().map(Record::of), &change)?;
        outcome.taken = deleted;
        let (mut said, mut inherited, mut has_moved) = (self.said_anew(&log, &removals.staying)?, Vec::new(), false);
        removals.done();
        for (record, target) in there {
            // Its manifest is there since then; a deletion of that which is later took the tag along.
            let of_target = record.about(&target);
            let known = lock(&log).registers.record(of_target.of()).filter(|known| known.is_later(&of_target));
            if let Some(known) = known.as_ref().filter(|known| known.target().is_none()) {
                inherited.extend(known.deleting(record.of(), record.said()));
                continue;
            }
            if !self.has_manifest(repo, &target)? {
                outcome.lacking.push(record);
                continue;
            }
            if let Reference::Tag(tag) = record.of() {
                self.move_tag(repo, tag, &target, record.wall())?;
                change.put_tag(tag);
                has_moved = true;
                said.extend(known.is_none().then_some(of_target));
            }
            said.push(record);
        }
        // Where they lead is durable before it is said.
        if has_moved {
            self.contents.disk.sync_directory(&self.contents.layout.tags(repo))?;
        }
        fail_point!("store::record::before_taking");
        said.extend(inherited.iter().cloned());
        self.records.say(repo, &log, &said)?;
        outcome.taken.extend(said);
        // Such a tag may have led elsewhere here.
        is_known &= self.remove_all(repo, inherited.iter().map(Record::of), &change)?;
        drop(writing);
        if is_known {
            change.done();
        }
        drop(locked);
        drop(touch);
        Ok(outcome)
    }

    /// Deletes what another master has `told` of and is not here, as if it were: later than that was said.
    ///
    /// # Errors
    /// [`StoreError::ManifestUnknown`]: something later is known of it, or no records are kept. Of the disk.
    pub(in crate::store) fn delete_told(&self, repo: &RepoName, told: &Record) -> Result<(), StoreError> {
        let locked = self.lock(repo);
        let log = self.entry(repo, &locked)?.ok_or(StoreError::ManifestUnknown)?;
        let deletion = {
            let log = lock(&log);
            if !is_later(&log, told) && log.registers.record(told.of()).as_ref() != Some(told) {
                return Err(StoreError::ManifestUnknown);
            }
            self.records.deleted_behind(&log, told)?
        };
        drop(locked);
        let taken = self.take_records(repo, vec![deletion], crate::clock::now())?;
        if taken.taken.is_empty() { Err(StoreError::ManifestUnknown) } else { Ok(()) }
    }

    /// Lets a tag lead to a manifest, since `at`. Not durable before a sync of the tags' directory.
    fn move_tag(&self, repo: &RepoName, tag: &Tag, digest: &Digest, at: Timestamp) -> Result<(), StoreError> {
        let (layout, disk) = (&self.contents.layout, &self.contents.disk);
        disk.make_directory(&layout.tags(repo))?;
        let path = layout.temporary();
        let (temporary, file) = disk.write_unsynced(path.clone(), format!("{digest}\n").as_bytes())?;
        set_modified(&file, at).map_err(StoreError::io("set the time of", &path))?;
        disk.sync(&file, &path)?;
        disk.rename(temporary, &layout.tag(repo, tag))?;
        Ok(())
    }

    /// Removes tags, and manifests with the tags that lead to them, as far as they are there. The files of tags are read once, for
    /// however many manifests. `false`: the index does not know all of it.
    fn remove_all<'a>(
        &self,
        repo: &RepoName,
        all: impl Iterator<Item = &'a Reference>,
        change: &Change<'_>,
    ) -> Result<bool, StoreError> {
        let layout = &self.contents.layout;
        let (mut tags, mut digests) = (BTreeSet::new(), BTreeSet::new());
        for reference in all {
            match reference {
                Reference::Tag(tag) if stat(&layout.tag(repo, tag))?.is_some() => {
                    tags.insert(tag.clone());
                }
                Reference::Digest(digest) if stat(&layout.member(repo, Membership::Manifest, digest))?.is_some() => {
                    digests.insert(*digest);
                }
                Reference::Tag(_) | Reference::Digest(_) => {}
            }
        }
        tags.extend(self.tags_to(repo, &digests));
        // Tags first: a crash between leaves a manifest without a tag, never a tag without a manifest.
        if !tags.is_empty() {
            self.remove_tags(repo, &tags.into_iter().collect::<Vec<_>>(), change)?;
        }
        let mut is_known = true;
        for digest in &digests {
            is_known &= self.remove_untagged(repo, digest, change)?;
        }
        Ok(is_known)
    }
}

fn is_later(log: &Log, record: &Record) -> bool {
    log.registers.record(record.of()).is_none_or(|known| record.is_later(&known))
}
