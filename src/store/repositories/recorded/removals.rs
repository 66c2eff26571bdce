//! What all masters have agreed to remove: said here, and done when another master has said it. All of it blocks.
//!
//! Who has said yes is bound to nothing. A tag that was pushed since has a later record, so the removal is no news. A manifest goes
//! if it is still suspected here: whoever asked for it since, here, took it off the list and was told that it is there, so it stays,
//! and is said anew, later than the removal: then the others take it again. What loses its last tag is given up, as where the
//! rule was carried out.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard};

use crate::oci::{Digest, Reference, RepoName, Tag};
use crate::store::error::StoreError;
use crate::store::layout::Membership;
use crate::store::repositories::collection::agreement::Agreed;
use crate::store::repositories::collection::given_up::Lost;
use crate::store::repositories::collection::ledger::Taken;
use crate::store::repositories::collection::suspects::Suspect;
use crate::store::repositories::manifests::Manifests;
use crate::store::repositories::records::log::Log;
use crate::store::repositories::records::register::Registers;
use crate::store::repositories::records::{Record, lock};

/// What deletions of another master lead to that are removals.
#[derive(Default)]
pub(super) struct Removals<'a> {
    /// Manifests that nobody is answered of until they are gone.
    taken: Vec<Taken<'a>>,
    /// Tags, and where they led.
    tags: Vec<(Tag, Digest)>,
    /// Manifests that somebody asked for meanwhile.
    pub(super) staying: Vec<Digest>,
}

impl<'a> Removals<'a> {
    /// Whether a deletion is to be done, of what was said before.
    pub(super) fn goes(
        &mut self,
        manifests: &'a Manifests,
        repo: &RepoName,
        deletion: &Record,
        known: &Registers,
    ) -> Result<bool, StoreError> {
        let Some(said) = known.get(deletion.of()).filter(|said| deletion.removes(said)) else { return Ok(true) };
        match (deletion.of(), said.to) {
            (Reference::Tag(tag), Some(target)) => self.tags.push((tag.clone(), target)),
            (Reference::Digest(digest), _) => {
                let suspect = Suspect { repo: repo.clone(), kind: Membership::Manifest, digest: *digest };
                match manifests.ledger.take(&suspect) {
                    Some(taken) => self.taken.push(taken),
                    // The collection has it in hand, which waits for the lock.
                    None if manifests.ledger.suspected_for(&suspect).is_some() => {}
                    None if !manifests.has_manifest(repo, digest)? => {}
                    None => {
                        self.staying.push(*digest);
                        return Ok(false);
                    }
                }
            }
            (Reference::Tag(_), None) => {}
        }
        Ok(true)
    }

    /// All that was to go is gone.
    pub(super) fn done(self) {
        self.taken.into_iter().for_each(Taken::gone);
    }
}

impl Manifests {
    /// Gives up what loses its last tag, durably, before that goes.
    pub(super) fn give_up_untagged(
        &self,
        repo: &RepoName,
        removals: &Removals<'_>,
        known: &Registers,
    ) -> Result<(), StoreError> {
        let Removals { tags, .. } = removals;
        if tags.is_empty() {
            return Ok(());
        }
        let going: HashSet<&Tag> = tags.iter().map(|(tag, _)| tag).collect();
        let mut lost: HashSet<Digest> = tags.iter().map(|(_, target)| *target).collect();
        for (_, target) in known.tags().filter(|(tag, _)| !going.contains(tag)) {
            lost.remove(target);
        }
        let had_hex_tag =
            |digest: &Digest| digest.hex().parse().is_ok_and(|tag| known.get(&Reference::Tag(tag)).is_some());
        let room = self.ledger.given_up.room();
        if lost.len() > room {
            tracing::warn!(%repo, manifests = lost.len() - room, "more manifests lose their last tag than are given up at a time: they stay");
        }
        let lost: Vec<Lost> =
            lost.into_iter().take(room).map(|digest| Lost { digest, had_hex_tag: had_hex_tag(&digest) }).collect();
        let (layout, disk) = (&self.contents.layout, &self.contents.disk);
        disk.make_directory(&layout.collection())?;
        self.ledger.given_up.add(layout, disk, repo, &lost)
    }

    /// Says that something is removed that all masters have `agreed` on; `false`: something else was said of it since.
    pub(in crate::store) fn say_removed(
        &self,
        repo: &RepoName,
        reference: &Reference,
        agreed: &Agreed,
        locked: &MutexGuard<'_, ()>,
    ) -> Result<bool, StoreError> {
        let Some(log) = self.entry(repo, locked)? else { return Ok(true) };
        let known = lock(&log).registers.record(reference);
        match known {
            // Said before, and not done.
            Some(known) if known.target().is_none() => Ok(true),
            Some(known) if agreed.has(repo, &known) => {
                self.records.say(repo, &log, &[self.records.removal(&known)?])?;
                Ok(true)
            }
            Some(_) => Ok(false),
            // Nobody has heard of it.
            None => Ok(matches!(agreed, Agreed::All)),
        }
    }

    /// What was last said of these, of those of which anything was.
    pub(in crate::store) fn records_of(&self, repo: &RepoName, all: &[Reference]) -> Result<Vec<Record>, StoreError> {
        let locked = self.lock(repo);
        let Some(log) = self.entry(repo, &locked)? else { return Ok(Vec::new()) };
        let log = lock(&log);
        Ok(all.iter().filter_map(|of| log.registers.record(of)).collect())
    }

    /// Says of manifests that are here and of which nothing was said that they are, before all else: they were fetched for
    /// somebody.
    pub(in crate::store) fn say_what_was_not(&self, repo: &RepoName, all: &[Reference]) -> Result<(), StoreError> {
        let locked = self.lock(repo);
        let Some(log) = self.entry(repo, &locked)? else { return Ok(()) };
        let mut unsaid = Vec::new();
        for of in all {
            if let Reference::Digest(digest) = of
                && lock(&log).registers.get(of).is_none()
                && self.has_manifest(repo, digest)?
            {
                unsaid.push(self.records.never_said(*digest)?);
            }
        }
        self.records.say(repo, &log, &unsaid)
    }

    /// Says anew that manifests are here which were to go.
    pub(super) fn said_anew(&self, log: &Mutex<Log>, staying: &[Digest]) -> Result<Vec<Record>, StoreError> {
        let known = lock(log);
        staying.iter().map(|digest| self.records.said(&known, Reference::Digest(*digest), Some(*digest))).collect()
    }
}
