//! What goes and what stays. Pure: it is given what was looked at, the pins and the time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::lists::Named;
use super::look::Root;
use super::options::{Keep, Rule};
use super::report::{Going, Staying};
use crate::clock::Timestamp;
use crate::oci::{Algorithm, Digest, Reference, RepoName, Tag};
use crate::release::ReleaseList;
use crate::store::{TagRecord, TagsLook};
use crate::values::{Pins, Release};

/// What a rule comes to.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// In the order in which they go, with the reason.
    pub(super) going: Vec<(RepoName, Tag, Going)>,
    pub(super) staying: Vec<Staying>,
    /// What the sets that stay name in the root.
    pub(super) kept: Arc<HashSet<Digest>>,
}

impl Verdict {
    fn go(&mut self, look: &TagsLook, record: &TagRecord, because: &str) {
        let going = Going {
            repository: look.repo.to_string(),
            tag: record.tag.to_string(),
            digest: record.digest.to_string(),
            because: because.to_owned(),
        };
        self.going.push((look.repo.clone(), record.tag.clone(), going));
    }

    fn stay(&mut self, repo: &RepoName, tag: &Tag, because: &str) {
        let staying = Staying { repository: repo.to_string(), tag: tag.to_string(), because: because.to_owned() };
        self.staying.push(staying);
    }
}

/// The digest that a tag is, where `d8 mirror` tags an image by its own hex digits.
pub(super) fn hex_of(tag: &Tag) -> Option<Digest> {
    Digest::from_hex(Algorithm::Sha256, tag.as_str()).ok()
}

/// Adds the tags of the look that say something about what loses its last tag, or lost it in a run that did not come to them.
fn with_what_is_said(verdict: &mut Verdict, look: &TagsLook, pins: &Pins) {
    let going: HashSet<&Tag> =
        verdict.going.iter().filter(|(repo, ..)| *repo == look.repo).map(|(_, tag, _)| tag).collect();
    let staying: HashSet<Digest> =
        look.tags.iter().filter(|record| !going.contains(&record.tag)).map(|record| record.digest).collect();
    let losing = look.tags.iter().filter(|record| going.contains(&record.tag)).map(|record| record.digest);
    let lost: HashSet<Digest> = losing
        .chain(look.unreached.iter().copied())
        .filter(|digest| !staying.contains(digest) && !verdict.kept.contains(digest) && !pins.images.contains(digest))
        .collect();
    let said = look.tags.iter().filter(|record| record.tag.subject().is_some_and(|about| lost.contains(&about)));
    let said: Vec<&TagRecord> =
        said.filter(|record| !going.contains(&record.tag) && !pins.images.contains(&record.digest)).collect();
    for record in said {
        verdict.go(look, record, "it says something about an image that goes");
    }
}

/// The verdict on the sets of a root; `keep`: that many of the newest stay, `None`: all.
pub(super) fn of_root(root: &Root, keep: Option<u32>, pins: &Pins) -> Verdict {
    let newest = keep.map_or(usize::MAX, |keep| usize::try_from(keep).unwrap_or(usize::MAX));
    let mut staying: BTreeMap<&Release, String> = BTreeMap::new();
    for (place, release) in root.sets.keys().rev().enumerate() {
        let because =
            if place < newest {
                Some(keep.map_or_else(
                    || "no rule lets it go now".to_owned(),
                    |keep| format!("it is among the newest {keep}"),
                ))
            } else if pins.releases.contains(release) {
                Some("it is pinned".to_owned())
            } else {
                root.by_channel.get(release).map(|channel| format!("channel {channel} leads to it"))
            };
        if let Some(because) = because {
            staying.insert(release, because);
        }
    }
    let kept: BTreeSet<&Reference> = staying.keys().flat_map(|release| root.sets[*release].references()).collect();
    let mut verdict = Verdict { kept: Arc::new(digests(&kept)), ..Verdict::default() };
    for (release, because) in &staying {
        verdict.stay(&root.name, release.tag(), because);
    }
    let dropped: Vec<(&Release, &Arc<ReleaseList>)> =
        root.sets.iter().filter(|(release, _)| !staying.contains_key(release)).collect();
    let find = |look: Option<&TagsLook>, tag: &Tag| {
        look.and_then(|look| look.tags.iter().find(|record| record.tag == *tag)).cloned()
    };
    let is_pinned = |record: &TagRecord| pins.images.contains(&record.digest);
    // As long as an image of a set is pinned its list stays, so that the image goes with the pin.
    let mut held: BTreeSet<&Release> = BTreeSet::new();
    // Nobody is told of a release whose images go.
    for (release, _) in &dropped {
        for look in [root.channels.as_ref(), Some(&root.images), root.standalone.as_ref()].into_iter().flatten() {
            match find(Some(look), release.tag()) {
                Some(record) if is_pinned(&record) => {
                    held.insert(*release);
                    verdict.stay(&look.repo, release.tag(), "its image is pinned");
                }
                Some(record) => verdict.go(look, &record, &format!("{release} is older than what stays")),
                None => {}
            }
        }
    }
    let mut named: BTreeMap<&Reference, &Release> = BTreeMap::new();
    for (release, set) in &dropped {
        for reference in set.references().filter(|reference| !kept.contains(reference)) {
            named.entry(reference).or_insert(release);
        }
    }
    for record in &root.images.tags {
        let reference = match hex_of(&record.tag) {
            Some(digest) => Reference::Digest(digest),
            None => Reference::Tag(record.tag.clone()),
        };
        let Some(release) = named.get(&reference) else { continue };
        if is_pinned(record) {
            held.insert(*release);
            verdict.stay(&root.name, &record.tag, "its image is pinned");
        } else if verdict.kept.contains(&record.digest) {
            verdict.stay(&root.name, &record.tag, "a set that stays needs its image");
        } else {
            verdict.go(
                &root.images,
                record,
                &format!("of the sets that need it {release} is the oldest, and none stays"),
            );
        }
    }
    if keep.is_none() {
        return verdict;
    }
    for look in [Some(&root.images), root.channels.as_ref(), root.standalone.as_ref()].into_iter().flatten() {
        with_what_is_said(&mut verdict, look, pins);
    }
    for (release, _) in &dropped {
        if held.contains(release) {
            verdict.stay(&root.install.repo, release.tag(), "an image of its set is pinned");
        } else if let Some(record) = find(Some(&root.install), release.tag()) {
            verdict.go(&root.install, &record, &format!("{release} is older than what stays"));
        }
    }
    with_what_is_said(&mut verdict, &root.install, pins);
    verdict
}

fn digests(references: &BTreeSet<&Reference>) -> HashSet<Digest> {
    let digests = references.iter().filter_map(|reference| match reference {
        Reference::Digest(digest) => Some(*digest),
        Reference::Tag(_) => None,
    });
    digests.collect()
}

/// Why a tag stays by a rule.
fn kept_by(keep: &Keep, record: &TagRecord, used: Option<Timestamp>, place: usize, now: Timestamp) -> Option<String> {
    if let Some(pattern) = keep.matching.iter().find(|pattern| pattern.fits(record.tag.as_str())) {
        return Some(format!("it fits {pattern}"));
    }
    if let Some(newest) = keep.newest.filter(|newest| place < usize::try_from(*newest).unwrap_or(usize::MAX)) {
        return Some(format!("it is among the newest {newest}"));
    }
    // A time to come is a clock that was wrong: it stays, and so does what has no time.
    let is_within =
        |at: Option<Timestamp>, within: &Duration| at.and_then(|at| now.since(at)).is_none_or(|age| age <= *within);
    let because = |what: &str, within: Duration| format!("it was {what} within {}", humantime::format_duration(within));
    let pushed = keep.pushed_within.filter(|within| is_within(Some(record.pushed), within));
    let pulled = || keep.pulled_within.filter(|within| is_within(used, within));
    pushed.map(|within| because("pushed", within)).or_else(|| pulled().map(|within| because("pulled", within)))
}

/// The verdict on a repository by the rules that fit it, all of which stays if none does; `named` are the images that each tag's
/// own needs there, `used` when each image was used last. Hex tags go first: as long as the tags whose images name them are
/// there, those of a run that ended early are known.
pub(super) fn of_rules(
    look: &TagsLook,
    rules: &[Rule],
    named: &BTreeMap<Tag, Named>,
    used: &HashMap<Digest, Timestamp>,
    pins: &Pins,
    now: Timestamp,
) -> Verdict {
    let mut verdict = Verdict::default();
    let mut judged: Vec<&TagRecord> =
        look.tags.iter().filter(|record| hex_of(&record.tag).is_none() && record.tag.subject().is_none()).collect();
    judged.sort_by(|one, other| other.pushed.cmp(&one.pushed).then_with(|| other.tag.cmp(&one.tag)));
    let names = |record: &TagRecord| named.get(&record.tag).into_iter().flat_map(|named| named.iter());
    let (mut kept, mut dropped) = (BTreeSet::new(), Vec::new());
    for (place, record) in judged.into_iter().enumerate() {
        if rules.is_empty() {
            kept.extend(names(record));
            continue;
        }
        let pinned = pins.images.contains(&record.digest).then(|| "its image is pinned".to_owned());
        let used = used.get(&record.digest).copied();
        let because = pinned.or_else(|| rules.iter().find_map(|rule| kept_by(&rule.keep, record, used, place, now)));
        match because {
            Some(because) => {
                kept.extend(names(record));
                verdict.stay(&look.repo, &record.tag, &because);
            }
            None => dropped.push(record),
        }
    }
    verdict.kept = Arc::new(digests(&kept));
    if rules.is_empty() {
        return verdict;
    }
    let mut named_by: BTreeMap<&Reference, &Tag> = BTreeMap::new();
    for record in &dropped {
        for reference in names(record).filter(|reference| !kept.contains(reference)) {
            named_by.entry(reference).or_insert(&record.tag);
        }
    }
    // As long as an image is pinned a tag whose image names it stays, so that it goes with the pin.
    let mut held: BTreeSet<&Tag> = BTreeSet::new();
    for record in &look.tags {
        let Some(digest) = hex_of(&record.tag) else { continue };
        let Some(tag) = named_by.get(&Reference::Digest(digest)) else { continue };
        if pins.images.contains(&record.digest) {
            held.insert(tag);
            verdict.stay(&look.repo, &record.tag, "its image is pinned");
        } else {
            verdict.go(look, record, "no tag that stays needs it");
        }
    }
    for record in dropped {
        if held.contains(&record.tag) {
            verdict.stay(&look.repo, &record.tag, "an image that it needs is pinned");
        } else {
            verdict.go(look, record, "no rule keeps it");
        }
    }
    with_what_is_said(&mut verdict, look, pins);
    verdict
}
