//! The tags of a repository: which of them are set, and why others are not.

use std::collections::HashSet;

use super::{BATCH, ImportError, Run};
use crate::bundle::{VERSION, may_have_version, release_of_tag, release_of_version};
use crate::oci::{Digest, RepoName, Tag};
use crate::release::first_file;
use crate::store::{MovedFrom, NotMoved, TagMove};
use crate::takeover::fault::Fault;
use crate::takeover::listed::{Claim, Listed, ListedTag};
use crate::takeover::survey::{Survey, parse};
use crate::values::Release;

/// How often a tag is judged anew that somebody else moves at the same time.
const ROUNDS: usize = 8;

/// A tag that can be set.
enum Judged {
    /// It is to be.
    Set(TagMove),
    /// It leads there, or nowhere worse.
    There,
}

impl Run<'_> {
    pub(super) fn take_tags(
        &mut self,
        name: &str,
        repo: &RepoName,
        listed: &Listed,
        survey: &Survey,
    ) -> Result<(), ImportError> {
        let tagged: HashSet<Digest> =
            listed.tags.iter().filter_map(|entry| entry.target.as_ref().ok().copied()).collect();
        for batch in listed.tags.chunks(BATCH) {
            let mut batch: Vec<&ListedTag> = batch.iter().collect();
            // Each round is over the tags that somebody else moved since they were judged.
            for round in 1.. {
                batch = self.take_batch(name, repo, &batch, survey)?;
                if batch.is_empty() {
                    break;
                }
                if round == ROUNDS {
                    for entry in batch {
                        self.leave_tag(name, &entry.tag, &Fault::MovedMeanwhile);
                    }
                    break;
                }
            }
        }
        let mut untagged: Vec<_> = survey.faults.iter().filter(|(digest, _)| !tagged.contains(digest)).collect();
        untagged.sort_by_key(|(digest, _)| **digest);
        for (digest, fault) in untagged {
            self.report.leave(format!("{name}@{digest}"), fault);
        }
        Ok(())
    }

    /// Judges tags and sets those that are to be; the answer: those that somebody else moved in between.
    fn take_batch<'t>(
        &mut self,
        name: &str,
        repo: &RepoName,
        entries: &[&'t ListedTag],
        survey: &Survey,
    ) -> Result<Vec<&'t ListedTag>, ImportError> {
        let (mut moves, mut moving) = (Vec::new(), Vec::new());
        for entry in entries {
            self.goes_on()?;
            match self.judge_tag(name, repo, entry, survey)? {
                Ok(Judged::Set(tag)) => {
                    moves.push(tag);
                    moving.push(*entry);
                }
                Ok(Judged::There) => self.report.tags.present += 1,
                // It is told, and nothing is missing.
                Err(fault @ Fault::OlderRelease { .. }) => {
                    self.report.tags.present += 1;
                    self.report.leave(format!("{name}:{}", entry.tag), &fault);
                }
                Err(fault) => self.leave_tag(name, &entry.tag, &fault),
            }
        }
        let left = if self.options.dry_run { Vec::new() } else { self.intake.set_tags(repo, &moves)? };
        let mut again = Vec::new();
        for (tag, why) in &left {
            let place = moves.iter().position(|wanted| wanted.tag == *tag);
            let Some((wanted, entry)) = place.and_then(|place| moves.get(place).zip(moving.get(place))) else {
                continue;
            };
            match why {
                NotMoved::ManifestGone => self.leave_tag(name, tag.as_str(), &Fault::DeletedMeanwhile(wanted.digest)),
                NotMoved::MovedMeanwhile => again.push(*entry),
            }
        }
        let taken = (moves.len() - left.len()) as u64;
        self.report.tags.taken += taken;
        self.far.tags += taken;
        (self.told)(self.far);
        Ok(again)
    }

    fn leave_tag(&mut self, name: &str, tag: &str, fault: &Fault) {
        self.report.tags.left += 1;
        self.report.leave(format!("{name}:{tag}"), fault);
    }

    /// Whether a tag has to be set, and from where; or why it stays behind.
    fn judge_tag(
        &self,
        name: &str,
        repo: &RepoName,
        entry: &ListedTag,
        survey: &Survey,
    ) -> Result<Result<Judged, Fault>, ImportError> {
        let digest = match &entry.target {
            Ok(digest) => *digest,
            Err(fault) => return Ok(Err(fault.clone())),
        };
        let tag = match entry.tag.parse::<Tag>() {
            Ok(tag) => tag,
            Err(error) => return Ok(Err(Fault::Name(error.to_string()))),
        };
        if survey.deleted.contains(&digest) {
            return Ok(Err(Fault::ManifestDeleted(digest)));
        }
        if let Some(fault) = survey.faults.get(&digest) {
            return Ok(Err(fault.clone()));
        }
        let found = self.intake.tag(repo, &tag)?;
        let from = match (found, &entry.claim) {
            (Some(found), _) if found == digest => return Ok(Ok(Judged::There)),
            (Some(_), Claim::Discovers(_)) => return Ok(Ok(Judged::There)),
            (None, Claim::Discovers(path)) if !self.options.dry_run && !self.has_any_of(path)? => {
                return Ok(Err(Fault::Undiscovered(path.clone())));
            }
            (Some(found), Claim::Plain | Claim::Channel) if !self.options.overwrite => {
                return Ok(Err(Fault::OtherDigest(found)));
            }
            (Some(found), Claim::Channel) if !self.options.channels_back => {
                let wanted = self.source.release_of(name, &digest);
                match (self.release_in_store(repo, found)?, wanted) {
                    (Some(found), Some(wanted)) if found > wanted => {
                        return Ok(Err(Fault::OlderRelease { found, wanted }));
                    }
                    _ => MovedFrom::Only(Some(found)),
                }
            }
            (_, Claim::Plain) if self.options.overwrite => MovedFrom::Anywhere,
            (_, Claim::Channel) if self.options.channels_back => MovedFrom::Anywhere,
            (found, _) => MovedFrom::Only(found),
        };
        Ok(Ok(Judged::Set(TagMove { tag, digest, at: entry.at, from })))
    }

    /// Whether the store has a tag of a repository of the source that is `path` or below it.
    fn has_any_of(&self, path: &str) -> Result<bool, ImportError> {
        let is_of = |name: &str| name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        for name in self.source.repositories()?.iter().filter(|name| is_of(name)) {
            let Ok(Some(repo)) = self.options.names.name(name) else { continue };
            for entry in self.source.list(name)?.tags {
                let Ok(tag) = entry.tag.parse::<Tag>() else { continue };
                if self.intake.tag(&repo, &tag)?.is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The release that a channel of the store leads to; `None`: neither another tag of its image nor the image says it.
    fn release_in_store(&self, repo: &RepoName, digest: Digest) -> Result<Option<Release>, ImportError> {
        let mut named = None;
        for tag in self.intake.tags(repo) {
            if let Some(release) = release_of_tag(tag.as_str())
                && self.intake.tag(repo, &tag)? == Some(digest)
            {
                named = named.max(Some(release));
            }
        }
        Ok(named.or_else(|| self.release_of_image(repo, digest)))
    }

    fn release_of_image(&self, repo: &RepoName, digest: Digest) -> Option<Release> {
        let stored = self.store.stored_manifest(repo, digest).ok()??;
        let manifest = parse(&stored.bytes, digest).ok()?;
        if !may_have_version(&manifest.layers) {
            return None;
        }
        let open = |layer: &Digest| {
            let found = self.store.stored_blob(repo, layer).map_err(std::io::Error::other)?;
            found.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))
        };
        let (_, json) = first_file(&manifest.layers, &[VERSION], open).ok()??;
        release_of_version(&json)
    }
}
