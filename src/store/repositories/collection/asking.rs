//! The questions of the collector to other masters, and what this store answers to theirs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::agreement::{Agreed, RemovalQuestion};
use super::collector::{Collector, NoRoots, divide, manifests_of};
use super::report::CollectionReport;
use super::settings::Retained;
use super::suspects::Suspect;
use crate::oci::{Reference, RepoName, Tag};
use crate::store::contents::changes::blocking;
use crate::store::layout::Membership;
use crate::store::repositories::records::Record;
use crate::telemetry::with_causes;

impl Collector {
    /// What all other masters would remove too. A store without records has no other masters.
    ///
    /// # Errors
    /// A sentence: not all of them have answered. It is noted.
    pub(super) async fn agreed(&self, question: RemovalQuestion) -> Result<Agreed, String> {
        if !self.manifests.records.are_kept() {
            return Ok(Agreed::All);
        }
        let outcome = match self.masters.way() {
            Some(ask) => ask(question).await,
            None => Err("other masters can be asked by a running server alone".to_owned()),
        };
        outcome.inspect_err(|why| self.masters.note_away(why))
    }

    /// The records of what this store would remove of a repository by itself, where `retained` is what retention keeps: manifests
    /// that nothing reaches and whose grace is over, and the tag of a write check. In no order.
    ///
    /// # Errors
    /// A sentence: nothing goes here now.
    pub(in crate::store) async fn removable(
        &self,
        repo: &RepoName,
        retained: &Retained,
        stop: &CancellationToken,
    ) -> Result<Vec<Record>, String> {
        let settings = &self.ledger().settings;
        if settings.is_held() {
            return Err("nothing is collected there now".to_owned());
        }
        if let Some(fault) = settings.pins_state().fault() {
            return Err(format!("its pins can't be gone by: {fault}"));
        }
        let failed = |error| with_causes(&error);
        let (ledger, named) = (Arc::clone(self.ledger()), repo.clone());
        let due = blocking(move || Ok(ledger.suspects(true).remove(&named).unwrap_or_default()));
        let due = due.await.map_err(failed)?;
        let due: Vec<Suspect> = due.into_iter().filter(|suspect| suspect.kind == Membership::Manifest).collect();
        let mut report = CollectionReport::default();
        let no_roots = NoRoots::GivenUpAmong(manifests_of(&due));
        let marked = self.marked_by(repo, &no_roots, retained, &mut report, stop).await;
        let Some((mark, _, found)) = marked.map_err(failed)? else {
            let left = report.left_alone.pop();
            return Err(left.map_or_else(|| "it is written to".to_owned(), |left| left.reason));
        };
        let (going, _) = divide(&mark, due);
        let going = going.into_iter().map(|suspect| Reference::Digest(suspect.digest));
        let all: Vec<Reference> = going.chain(found.write_check.map(|(tag, _)| Reference::Tag(tag))).collect();
        let (manifests, repo) = (Arc::clone(&self.manifests), repo.clone());
        let known = blocking(move || {
            let _change = manifests.contents.changes.begin()?;
            manifests.records_of(&repo, &all)
        });
        let known = known.await.map_err(failed)?;
        Ok(known.into_iter().filter(|record| record.target().is_some()).collect())
    }

    /// Divides suspects into those that may go now and those that wait for other masters. Blobs are each master's own. What is here
    /// and was never said is said now: the others have to know of it.
    pub(super) async fn agreed_suspects(
        &self,
        repo: &RepoName,
        suspects: Vec<Suspect>,
    ) -> (Agreed, Vec<Suspect>, Vec<Suspect>) {
        let is_manifest = |suspect: &Suspect| suspect.kind == Membership::Manifest;
        if !self.manifests.records.are_kept() || !suspects.iter().any(is_manifest) {
            return (Agreed::All, suspects, Vec::new());
        }
        let agreed = self.agreed(RemovalQuestion::Unreached(repo.clone())).await;
        let (asked, mut may): (Vec<Suspect>, Vec<Suspect>) = suspects.into_iter().partition(is_manifest);
        let Ok(agreed) = agreed else { return (Agreed::Records(HashMap::new()), may, asked) };
        let (manifests, named, known) = (Arc::clone(&self.manifests), repo.clone(), agreed.clone());
        let of: Vec<Reference> = asked.iter().map(|suspect| Reference::Digest(suspect.digest)).collect();
        let told = self.manifests.contents.change(move || {
            manifests.say_what_was_not(&named, &of)?;
            let records = manifests.records_of(&named, &of)?.into_iter();
            Ok(records.filter(|record| known.has(&named, record)).map(|record| record.of).collect::<HashSet<_>>())
        });
        let told = told.await.unwrap_or_else(|error| {
            tracing::warn!(%repo, error = with_causes(&error), "records can't be read: no manifest goes");
            HashSet::new()
        });
        let (go, wait): (Vec<Suspect>, Vec<Suspect>) =
            asked.into_iter().partition(|suspect| told.contains(&Reference::Digest(suspect.digest)));
        self.masters.note_kept(wait.len());
        // Manifests first, as they were.
        may.splice(0..0, go);
        (agreed, may, wait)
    }

    /// Those of the tags that all other masters would remove too, in order.
    pub(super) async fn agreed_tags(&self, agreed: &Agreed, going: Vec<(RepoName, Tag)>) -> Vec<(RepoName, Tag)> {
        if !self.manifests.records.are_kept() {
            return going;
        }
        let (manifests, agreed, count) = (Arc::clone(&self.manifests), agreed.clone(), going.len());
        let told = blocking(move || {
            let _change = manifests.contents.changes.begin()?;
            let mut by_repo: HashMap<&RepoName, Vec<Reference>> = HashMap::new();
            for (repo, tag) in &going {
                by_repo.entry(repo).or_default().push(Reference::Tag(tag.clone()));
            }
            let mut may: HashSet<(RepoName, Reference)> = HashSet::new();
            for (repo, tags) in by_repo {
                let records = manifests.records_of(repo, &tags)?.into_iter();
                may.extend(records.filter(|record| agreed.has(repo, record)).map(|record| (repo.clone(), record.of)));
            }
            let is_agreed = |(repo, tag): &(RepoName, Tag)| may.contains(&(repo.clone(), Reference::Tag(tag.clone())));
            Ok(going.into_iter().filter(is_agreed).collect::<Vec<_>>())
        });
        let told = told.await.unwrap_or_else(|error| {
            tracing::warn!(error = with_causes(&error), "records can't be read: no tag goes");
            Vec::new()
        });
        self.masters.note_kept(count - told.len());
        told
    }
}
