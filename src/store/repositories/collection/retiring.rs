//! Tags go by a rule, and what they led to is given up.
//!
//! A verdict is found on a [`TagsLook`], which knows how the repository's touches stood before it. A tag goes only if nothing
//! touched any repository that the verdict looked at, of which the first sign is counted before the look: as a content in
//! `removal`. So a tag that is moved, or pushed again, stays until the next verdict. A manifest without another tag is given up,
//! durably, before its last tag goes; the verdict itself is not kept: one that was not carried out is found again.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use fail::fail_point;
use tokio_util::sync::CancellationToken;

use super::agreement::{Agreed, RemovalQuestion};
use super::collector::{ATTEMPTS, Collector, NoRoots, REMOVAL_BYTES};
use super::given_up::Lost;
use super::ledger::Touch;
use super::looking::{TagRecord, TagsLook};
use super::mark::{Judgement, Mark};
use super::marking::Found;
use super::report::{CollectionReport, TagName};
use super::settings::Retained;
use crate::fs::stat;
use crate::oci::{Digest, Reference, RepoName, Tag};
use crate::store::contents::changes::blocking;
use crate::store::contents::open::open_content;
use crate::store::error::StoreError;
use crate::store::layout::Membership;
use crate::store::repositories::manifests::Manifests;
use crate::store::repositories::walk::{Members, SkippedEntries};

/// What came of the tags that were to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    /// Tags that went.
    pub removed: Vec<TagName>,
    /// Something changed since the look: the rest needs a verdict anew.
    pub touched: bool,
    /// Why a repository is left alone: nothing went then.
    pub left_alone: Option<(RepoName, String)>,
    /// Tags that are left to a later run: too many manifests would be given up at a time.
    pub waiting: usize,
    /// Why not all other masters could be asked, in a sentence: nothing went then.
    pub masters_away: Option<String>,
    /// Tags that another master needs.
    pub kept_by_masters: usize,
}

/// The tags that go in one run.
struct Fitting {
    /// The first ones.
    count: usize,
    /// What loses its last tag by them.
    lost: HashMap<RepoName, Vec<Lost>>,
}

impl Collector {
    /// Removes tags of the repositories of `looks`, in their order: those whose verdict these looks were found for. Ends early
    /// where something was touched, is damaged, is held, when `stop` is cancelled, or where no more manifests can be given up.
    ///
    /// # Errors
    /// Of the disk: what was done is done.
    pub(in crate::store) async fn retire(
        &self,
        looks: Vec<TagsLook>,
        mut going: Vec<(RepoName, Tag)>,
        stop: &CancellationToken,
    ) -> Result<Retired, StoreError> {
        let mut retired = Retired::default();
        // A root comes before its children.
        let Some(name) = looks.first().map(|look| look.repo.clone()) else { return Ok(retired) };
        let agreed = match self.agreed(RemovalQuestion::ByRule(name)).await {
            Ok(agreed) => Arc::new(agreed),
            Err(why) => {
                retired.masters_away = Some(why);
                return Ok(retired);
            }
        };
        let wanted = going.len();
        going = self.agreed_tags(&agreed, going).await;
        retired.kept_by_masters = wanted - going.len();
        let looks = Arc::new(looks);
        let preparing = Arc::clone(self.ledger());
        self.manifests.contents.change(move || preparing.prepare()).await?;
        let manifests = Arc::clone(&self.manifests);
        let Fitting { count, mut lost } = {
            let (looks, going) = (Arc::clone(&looks), going.clone());
            blocking(move || Ok(manifests.fitting(&looks, &going))).await?
        };
        retired.waiting = going.len() - count;
        if retired.waiting > 0 {
            let tags = retired.waiting;
            tracing::warn!(
                tags,
                "more manifests are to go than are given up at a time: these tags wait for a later run"
            );
            going.truncate(count);
        }
        let repos: HashSet<&RepoName> = going.iter().map(|(repo, _)| repo).collect();
        // Nothing of a repository goes in which something is damaged: first all are looked through.
        for look in looks.iter().filter(|look| repos.contains(&look.repo)) {
            let mut report = CollectionReport::default();
            if self.marked(&look.repo, &NoRoots::given_up(), &mut report, stop).await?.is_none() {
                retired.left_alone = report.left_alone.pop().map(|left| (look.repo.clone(), left.reason));
                retired.touched = retired.left_alone.is_none();
                return Ok(retired);
            }
        }
        for look in looks.iter() {
            let Some(lost) = lost.remove(&look.repo) else { continue };
            let (manifests, looks, repo) = (Arc::clone(&self.manifests), Arc::clone(&looks), look.repo.clone());
            let given_up = self.manifests.contents.change(move || manifests.give_up(&repo, &lost, &looks));
            if !given_up.await? {
                retired.touched = true;
                return Ok(retired);
            }
        }
        for (repo, tag) in going {
            if stop.is_cancelled() || self.ledger().settings.may_not_remove() {
                break;
            }
            let turn = self.manifests.contents.turn(REMOVAL_BYTES).await;
            let (manifests, looks, agreed, named) =
                (Arc::clone(&self.manifests), Arc::clone(&looks), Arc::clone(&agreed), (repo.clone(), tag.clone()));
            let retiring = move || manifests.retire_tag(&named.0, &named.1, &looks, &agreed);
            let went = self.manifests.contents.change(retiring).await?;
            drop(turn);
            if !went {
                retired.touched = true;
                break;
            }
            self.told().removed_tags += 1;
            retired.removed.push(TagName { repository: repo.to_string(), tag: tag.to_string() });
        }
        Ok(retired)
    }

    /// Marks a dirty repository, and gives up what was found on the way: random images of pushes before, and what hangs on
    /// manifests that were given up. Marks it again then, so that the blobs have their verdict with them.
    pub(super) async fn settled(
        &self,
        repo: &RepoName,
        report: &mut CollectionReport,
        stop: &CancellationToken,
    ) -> Result<Option<(Mark, u64)>, StoreError> {
        for _ in 0..2 * ATTEMPTS {
            let marked = self.marked(repo, &NoRoots::given_up(), report, stop).await?;
            let Some((mark, seen, found)) = marked else { return Ok(None) };
            if report.pins_unusable.is_some() {
                return Ok(Some((mark, seen)));
            }
            let look = Arc::new(vec![TagsLook::of_nothing(repo, seen)]);
            let (manifests, named) = (Arc::clone(&self.manifests), repo.clone());
            let Found { tagged, random, write_check } = found;
            let (agreed, write_check) = self.agreed_write_check(repo, write_check).await;
            let giving_up = self.manifests.contents.change(move || {
                let (contents, ledger) = (&manifests.contents, &manifests.ledger);
                ledger.given_up.take_off(&contents.disk, &named, tagged)?;
                let mut new = manifests.to_be_given_up(&named, &mark, random, &HashSet::new());
                // With the tag of a write check goes what it leads to, in the same marking.
                new.extend(write_check.as_ref().map(|(_, target)| *target));
                let again = !new.is_empty();
                let lost: Vec<Lost> = new.into_iter().map(|digest| Lost { digest, had_hex_tag: false }).collect();
                if again && !manifests.give_up(&named, &lost, &look)? {
                    return Ok((mark, true, None));
                }
                let mut removed = None;
                if let Some((tag, _)) = write_check
                    && manifests.retire_tag(&named, &tag, &look, &agreed)?
                {
                    removed = Some(tag);
                }
                Ok((mark, again, removed))
            });
            let (mark, again, removed) = giving_up.await?;
            if let Some(tag) = removed {
                self.told().removed_tags += 1;
                report.write_checks.push(TagName { repository: repo.to_string(), tag: tag.to_string() });
            }
            if !again {
                return Ok(Some((mark, seen)));
            }
        }
        report.busy += 1;
        Ok(None)
    }

    /// The tag of a write check, if all other masters would remove it too.
    async fn agreed_write_check(
        &self,
        repo: &RepoName,
        found: Option<(Tag, Digest)>,
    ) -> (Agreed, Option<(Tag, Digest)>) {
        let Some((tag, target)) = found else { return (Agreed::All, None) };
        let Ok(agreed) = self.agreed(RemovalQuestion::Unreached(repo.clone())).await else {
            return (Agreed::All, None);
        };
        let may = self.agreed_tags(&agreed, vec![(repo.clone(), tag)]).await.pop();
        (agreed, may.map(|(_, tag)| (tag, target)))
    }

    /// As [`Self::settled`], and changes nothing: what would be given up is only taken for it.
    pub(super) async fn looked_through(
        &self,
        repo: &RepoName,
        retained: &Retained,
        report: &mut CollectionReport,
        stop: &CancellationToken,
    ) -> Result<Option<Mark>, StoreError> {
        let mut more = HashSet::new();
        loop {
            let marked = self.marked_by(repo, &NoRoots::GivenUpAnd(more.clone()), retained, report, stop).await?;
            let Some((mark, _, found)) = marked else { return Ok(None) };
            if report.pins_unusable.is_some() {
                return Ok(Some(mark));
            }
            let (manifests, named, known) = (Arc::clone(&self.manifests), repo.clone(), more.clone());
            let looking = blocking(move || {
                let new = manifests.to_be_given_up(&named, &mark, found.random, &known);
                Ok((mark, new, found.write_check))
            });
            let (mark, new, write_check) = looking.await?;
            if new.is_empty() {
                if let Some((tag, _)) = write_check {
                    report.write_checks.push(TagName { repository: repo.to_string(), tag: tag.to_string() });
                }
                return Ok(Some(mark));
            }
            more.extend(new);
        }
    }
}

impl Manifests {
    /// How many of `going` go in one run, and what loses its last tag by them: no more than is given up at a time. Blocking.
    fn fitting(&self, looks: &[TagsLook], going: &[(RepoName, Tag)]) -> Fitting {
        let mut targets: HashMap<(&RepoName, &Tag), Digest> = HashMap::new();
        let mut names: HashMap<(&RepoName, Digest), (usize, bool)> = HashMap::new();
        for look in looks {
            for TagRecord { tag, digest, .. } in &look.tags {
                targets.insert((&look.repo, tag), *digest);
                let (tags, had_hex_tag) = names.entry((&look.repo, *digest)).or_default();
                *tags += 1;
                *had_hex_tag |= tag.as_str() == digest.hex();
            }
        }
        let mut room = self.ledger.given_up.room();
        let before: HashMap<&RepoName, HashSet<Digest>> =
            looks.iter().map(|look| (&look.repo, self.ledger.given_up.of(&look.repo))).collect();
        let mut lost: HashMap<RepoName, Vec<Lost>> = HashMap::new();
        for (count, (repo, tag)) in going.iter().enumerate() {
            let Some(digest) = targets.remove(&(repo, tag)) else { continue };
            let Some((tags, had_hex_tag)) = names.get_mut(&(repo, digest)) else { continue };
            if *tags == 1 {
                let is_known = before.get(repo).is_some_and(|before| before.contains(&digest));
                if !is_known && room == 0 {
                    return Fitting { count, lost };
                }
                room -= usize::from(!is_known);
                lost.entry(repo.clone()).or_default().push(Lost { digest, had_hex_tag: *had_hex_tag });
            }
            *tags -= 1;
        }
        Fitting { count: going.len(), lost }
    }

    /// The file of a blob of the repository; `None`: it is not there. Blocking.
    ///
    /// # Errors
    /// Of the disk.
    pub(in crate::store) fn blob_file(&self, repo: &RepoName, digest: &Digest) -> Result<Option<File>, StoreError> {
        open_content(&self.contents.layout.member(repo, Membership::Blob, digest))
    }

    fn are_untouched(&self, looks: &[TagsLook]) -> bool {
        looks.iter().all(|look| self.ledger.is_untouched(&look.repo, look.seen))
    }

    /// Gives manifests up that lose their last tag; `false`: something changed since the looks, and none is. Blocking.
    fn give_up(&self, repo: &RepoName, lost: &[Lost], looks: &[TagsLook]) -> Result<bool, StoreError> {
        let (contents, ledger) = (&self.contents, &self.ledger);
        let before = ledger.given_up.of(repo);
        fail_point!("store::retention::before_give_up");
        ledger.given_up.add(&contents.layout, &contents.disk, repo, lost)?;
        fail_point!("store::retention::after_give_up");
        // Listed before the look at the touches: who pushes one of them touches first, and takes it off afterwards.
        if self.are_untouched(looks) {
            ledger.make_dirty(repo)?;
            return Ok(true);
        }
        let new = lost.iter().map(|lost| lost.digest).filter(|digest| !before.contains(digest));
        ledger.given_up.take_off(&contents.disk, repo, new)?;
        Ok(false)
    }

    /// Removes a tag, if nothing changed since the looks and all masters have agreed; says whether it did or was gone. Blocking.
    fn retire_tag(&self, repo: &RepoName, tag: &Tag, looks: &[TagsLook], agreed: &Agreed) -> Result<bool, StoreError> {
        self.ledger.make_dirty(repo)?;
        fail_point!("store::retention::before_tag");
        let goes = || Ok(self.are_untouched(looks).then(Touch::none));
        let went = match self.delete_if(repo, &Reference::Tag(tag.clone()), agreed, goes) {
            Err(StoreError::ManifestUnknown) => true,
            went => went?,
        };
        fail_point!("store::retention::after_tag");
        Ok(went)
    }

    /// Takes off what was given up of a repository and is not there. Blocking.
    pub(super) fn strike_what_is_gone(&self, repo: &RepoName) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        for digest in self.ledger.given_up.of(repo) {
            if stat(&self.contents.layout.member(repo, Membership::Manifest, &digest))?.is_none() {
                gone.push(digest);
            }
        }
        self.ledger.given_up.take_off(&self.contents.disk, repo, gone)
    }

    /// Manifests that are as good as given up and were not yet: random images, and what hangs on those that were, which a mark
    /// does not reach for that alone. Blocking.
    pub(super) fn to_be_given_up(
        &self,
        repo: &RepoName,
        mark: &Mark,
        random: Vec<Digest>,
        known: &HashSet<Digest>,
    ) -> Vec<Digest> {
        let given_up = self.ledger.given_up.of(repo);
        let is_new = |digest: &Digest| !given_up.contains(digest) && !known.contains(digest);
        let mut new: Vec<Digest> = random.into_iter().filter(is_new).collect();
        if mark.keeps_untagged() && !(given_up.is_empty() && known.is_empty()) {
            let skipped = SkippedEntries::default();
            let all = Members::manifests(&self.contents.layout, repo, &skipped);
            new.extend(
                all.filter(|digest| is_new(digest) && mark.judge(Membership::Manifest, digest) == Judgement::Unreached),
            );
        }
        // The rest is found again when there is room.
        new.truncate(self.ledger.given_up.room());
        new
    }
}
