//! Why a content stays. Reads the manifests of each repository that has it, as often as the way to a root is long: for the
//! rare question. Blocking.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use super::collector::Collector;
use super::ledger::ANSWER_TIME;
use super::marking::{Marking, Unfit, read};
use super::report::Reason;
use super::saving::named;
use super::settings::Retained;
use super::suspects::Suspect;
use crate::fs::stat;
use crate::oci::{Digest, RepoName, Tag};
use crate::store::layout::Membership;
use crate::store::repositories::manifests::Manifests;
use crate::store::repositories::tags::read_tag;
use crate::store::repositories::walk::{Members, Repositories, SkippedEntries, Tags};

impl Collector {
    /// Why each repository that has the content keeps it, where `retained` is what retention keeps.
    pub(in crate::store) fn why(&self, digest: &Digest, retained: &Retained) -> Vec<Reason> {
        let skipped = SkippedEntries::default();
        let mut reasons = Vec::new();
        for repo in Repositories::new(&self.manifests.contents.layout, &skipped) {
            for kind in [Membership::Manifest, Membership::Blob] {
                let suspect = Suspect { repo: repo.clone(), kind, digest: *digest };
                let path = self.manifests.contents.layout.member(&repo, kind, digest);
                if !matches!(stat(&path), Ok(None)) {
                    let (stays, because) = self.why_in(&suspect, retained);
                    reasons.push(Reason { repository: repo.to_string(), kind: kind.word(), stays, because });
                }
            }
        }
        reasons
    }

    fn why_in(&self, suspect: &Suspect, retained: &Retained) -> (bool, String) {
        let Suspect { repo, kind, digest } = suspect;
        if repo.is_cached() {
            return (true, "it was learnt from an upstream: eviction is responsible".to_owned());
        }
        let (ledger, options) = (self.ledger(), self.ledger().settings.options());
        let judges_untagged = options.untagged_after.is_some();
        // As a run would: what it leaves alone stays.
        let (given_up, roots) = (ledger.given_up.of(repo), ledger.settings.roots(repo, retained));
        let is_given_up = given_up.contains(digest);
        let known = retained.unknown.get(repo).map_or(Ok(()), |why| Err(Unfit(why.clone())));
        let fit = known
            .and_then(|()| Marking::begin(&self.manifests, repo, judges_untagged, given_up, &roots, &HashSet::new()));
        let way = fit.and_then(|_| way_up(&self.manifests, repo, *digest));
        let way = match way {
            Ok(way) => way,
            Err(Unfit(reason)) => {
                return (true, format!("its repository is not collected until it is mended: {reason}"));
            }
        };
        let holds = ledger.settings.pins();
        match way {
            _ if holds.contains(digest) => (true, "it is pinned".to_owned()),
            _ if roots.kept.as_ref().is_some_and(|kept| kept.contains(digest)) => {
                (true, "a release set that stays names it".to_owned())
            }
            Way::Tag(text) => (true, text),
            Way::Untagged(text) if !judges_untagged && !is_given_up => {
                (true, format!("{text}; manifests without a tag are kept (gc.untaggedAfter)"))
            }
            Way::Untagged(text) if *kind == Membership::Blob => (true, format!("{text}, which goes first")),
            Way::Untagged(_) | Way::None => match ledger.suspected_for(suspect) {
                Some(waited) => {
                    let wait = options.wait(*kind == Membership::Manifest && !is_given_up) + ANSWER_TIME;
                    let left = wait.saturating_sub(waited).as_secs();
                    (false, format!("nothing reaches it: it goes when the server has run for {left} s more"))
                }
                None => (false, "nothing reaches it: it becomes a suspect in the next run".to_owned()),
            },
        }
    }
}

/// The way from a root to a content, in words.
enum Way {
    Tag(String),
    /// It begins with a manifest that has no tag.
    Untagged(String),
    None,
}

fn way_up(manifests: &Manifests, repo: &RepoName, digest: Digest) -> Result<Way, Unfit> {
    let layout = &manifests.contents.layout;
    let skipped = SkippedEntries::default();
    let tags: HashMap<Digest, Tag> = Tags::new(layout, repo, &skipped)
        .filter_map(|tag| read_tag(layout, repo, &tag).ok().flatten().map(|target| (target, tag)))
        .collect();
    // Each content by whom it is held, nearest first.
    let mut held_by: HashMap<Digest, Option<Digest>> = HashMap::from([(digest, None)]);
    let mut edge = vec![digest];
    let mut last = None;
    while !edge.is_empty() {
        if let Some(root) = edge.iter().find(|held| tags.contains_key(held)) {
            return Ok(Way::Tag(format!("tag {} leads to {}", tags[root], words(*root, &held_by))));
        }
        let mut next = Vec::new();
        for holder in Members::manifests(layout, repo, &skipped) {
            let (_, manifest) = read(manifests, repo, holder)?;
            let subject = manifest.subject.as_ref().map(|subject| subject.digest);
            if let Some(subject) = subject.filter(|_| edge.contains(&holder)) {
                // A referrer is held by its subject.
                held_by.entry(subject).or_insert_with(|| {
                    next.push(subject);
                    Some(holder)
                });
            }
            if let Some(held) = named(&manifest).find(|named| edge.contains(named)) {
                held_by.entry(holder).or_insert_with(|| {
                    next.push(holder);
                    last = Some(holder);
                    Some(held)
                });
            }
        }
        edge = next;
    }
    let own = Members::manifests(layout, repo, &skipped).any(|manifest| manifest == digest).then_some(digest);
    Ok(match last.or(own) {
        Some(root) => Way::Untagged(format!("a manifest without a tag is {}", words(root, &held_by))),
        None => Way::None,
    })
}

/// The way down from `root`.
fn words(root: Digest, held_by: &HashMap<Digest, Option<Digest>>) -> String {
    let mut text = root.to_string();
    let mut at = root;
    while let Some(Some(held)) = held_by.get(&at) {
        let _ = write!(text, ", which names {held}");
        at = *held;
    }
    text
}
