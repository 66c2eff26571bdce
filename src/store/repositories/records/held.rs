//! The records of a repository held against its tree, once in the life of a process: what was done and not written down, or the
//! other way round. Blocks; to be called with the repository's lock.

use std::collections::HashMap;

use super::clock::Moment;
use super::log::Log;
use super::record::{Record, Register, WriterId};
use crate::clock::Timestamp;
use crate::fs::stat;
use crate::oci::{Digest, Reference, RepoName, Tag};
use crate::store::error::StoreError;
use crate::store::layout::{Layout, Membership};
use crate::store::repositories::tags::read_tag;
use crate::store::repositories::walk::{Members, SkippedEntries, Tags};

/// A wall's clock before this, the beginning of 2026, was never set: no record is judged by it.
const EARLIEST: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// A repository's tree and what is known of it.
struct Held<'a> {
    layout: &'a Layout,
    repo: &'a RepoName,
    writer: WriterId,
    log: Log,
    /// Whether there was no file of records.
    is_first: bool,
    /// The later ones of what is in the tree and was not written down.
    said: Vec<Record>,
    /// What was deleted and is still there.
    undone: Vec<Reference>,
}

/// Holds `log` against the tree (`None`: there is no file). Answers the records that count, and deletions that have to be ended.
/// `is_going`: whether the removal of a manifest was begun and nobody has asked for it since.
pub(super) fn held_against_the_tree(
    layout: &Layout,
    repo: &RepoName,
    writer: WriterId,
    log: Option<Log>,
    is_going: &mut dyn FnMut(&Digest) -> bool,
) -> Result<(Log, Vec<Reference>), StoreError> {
    let is_first = log.is_none();
    let log = log.unwrap_or_else(|| Log::new(repo));
    let mut held = Held { layout, repo, writer, log, is_first, said: Vec::new(), undone: Vec::new() };
    held.say_again_what_is_ahead(crate::clock::now());
    let tags = held.tags()?;
    held.manifests(is_going)?;
    held.drop_lost(&tags)?;
    held.take_in();
    Ok((held.log, held.undone))
}

impl Held<'_> {
    /// What this store said while the clock of the wall was more than 24 h ahead, others refuse for ever: it is said again now.
    fn say_again_what_is_ahead(&mut self, now: Timestamp) {
        let is_ahead = |record: &Record| record.said.writer == self.writer && record.is_too_far_ahead(now);
        let ahead: Vec<Record> = self.log.registers.iter().filter(is_ahead).collect();
        if now < EARLIEST || ahead.is_empty() {
            return;
        }
        tracing::warn!(
            repo = %self.repo,
            records = ahead.len(),
            "the clock was more than 24 hours ahead: what was said then is said again now"
        );
        for Record { of, said } in ahead {
            let at = Moment::of_wall(now);
            let at = if said.at.is_removal() { at.removal() } else { at };
            self.log.change().set(Record { of, said: Register { at, ..said } });
        }
        self.log.begin_again();
    }

    /// What is in the tree and was not written down counts from now on.
    fn take_in(&mut self) {
        for record in std::mem::take(&mut self.said) {
            if let (Reference::Tag(_), Some(to)) = (&record.of, record.said.to) {
                let target = record.about(&to);
                match self.log.registers.get(&target.of).copied() {
                    // It goes with its manifest, which was deleted later than it was moved there.
                    Some(deletion) if self.undone.contains(&target.of) && deletion >= record.said => {
                        self.undone.push(record.of.clone());
                        self.log.change().set(Record { of: record.of, said: deletion });
                        continue;
                    }
                    // Pushed again behind that, and a kill came before it was written down.
                    Some(deletion) if deletion.is_deletion() => self.undone.retain(|of| *of != target.of),
                    Some(_) | None => {}
                }
                // A manifest is there at least since a tag leads to it.
                self.log.change().merge(&target);
            }
            self.log.change().set(record);
        }
    }

    fn say(&mut self, of: Reference, at: Moment, to: Digest) {
        self.said.push(Record { of, said: Register { at, writer: self.writer, to: Some(to) } });
    }

    /// The tags that lead to a manifest.
    fn tags(&mut self) -> Result<HashMap<Tag, Digest>, StoreError> {
        let (skipped, now) = (SkippedEntries::default(), crate::clock::now());
        let mut here = HashMap::new();
        for tag in Tags::new(self.layout, self.repo, &skipped) {
            // One that can't be read leads nowhere: another master may tell where it led.
            let Ok(Some(digest)) = read_tag(self.layout, self.repo, &tag) else { continue };
            let Some(facts) = stat(&self.layout.tag(self.repo, &tag))? else { continue };
            if !self.has(&digest)? {
                continue;
            }
            let moved: Timestamp = facts.modified().map_or(now, Timestamp::from).min(now);
            here.insert(tag.clone(), digest);
            let of = Reference::Tag(tag);
            match self.log.registers.get(&of) {
                Some(known) if known.to == Some(digest) => {}
                // The deletion was said, and a kill came before it was done.
                Some(known) if known.is_deletion() && known.at.wall() >= moved => self.undone.push(of),
                // A kill came before it was written down, or a version that writes none was here.
                Some(_) | None => self.say(of, Moment::of_wall(moved), digest),
            }
        }
        Ok(here)
    }

    fn manifests(&mut self, is_going: &mut dyn FnMut(&Digest) -> bool) -> Result<(), StoreError> {
        let (skipped, now) = (SkippedEntries::default(), crate::clock::now());
        for digest in Members::manifests(self.layout, self.repo, &skipped) {
            let of = Reference::Digest(digest);
            let Some(facts) = stat(&self.layout.member(self.repo, Membership::Manifest, &digest))? else { continue };
            match self.log.registers.get(&of).copied() {
                Some(known) if !known.is_deletion() => {}
                // A removal is said at an old moment: what is on its way out is still suspected.
                Some(known) if known.at.is_removal() && !is_going(&digest) => self.say(of, known.at.behind(), digest),
                // A push by digest that a kill interrupted is none: its client has heard no yes. A tag that is newer tells of one.
                Some(_) => self.undone.push(of),
                None if self.is_first => {
                    let came: Timestamp = facts.modified().map_or(now, Timestamp::from).min(now);
                    self.say(of, Moment::of_wall(came), digest);
                }
                // Fetched for somebody who asked: whatever is said of it counts.
                None => self.say(of, Moment::default(), digest),
            }
        }
        Ok(())
    }

    /// Forgets what is said to be there and is not: others may know of it, and then it comes again.
    fn drop_lost(&mut self, tags: &HashMap<Tag, Digest>) -> Result<(), StoreError> {
        let mut lost = Vec::new();
        for record in self.log.registers.iter().filter(|record| !record.said.is_deletion()) {
            let is_here = match &record.of {
                Reference::Tag(tag) => tags.contains_key(tag),
                Reference::Digest(digest) => self.has(digest)?,
            };
            if !is_here {
                lost.push(record.of);
            }
        }
        for of in &lost {
            self.log.change().remove(of);
        }
        Ok(())
    }

    fn has(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(stat(&self.layout.member(self.repo, Membership::Manifest, digest))?.is_some())
    }
}
