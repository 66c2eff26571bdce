//! The tags of a repository, behind all that they lead to. A registry compares nothing for us: between the look at a tag and its
//! move somebody else may move it.

use super::asking::soon;
use super::{Failed, Push, State, in_parallel};
use crate::oci::{Digest, Reference, Tag};
use crate::takeover::fault::Fault;
use crate::takeover::listed::{Claim, Listed, ListedTag};
use crate::takeover::survey::Survey;

impl Push<'_> {
    pub(super) async fn tags(&self, name: &str, listed: &Listed, survey: &Survey) -> Result<(), Failed> {
        in_parallel(&listed.tags, |entry| async move {
            match self.tag(name, entry, survey).await {
                Err(Failed::Content(fault)) => {
                    let report = &mut self.state.borrow_mut().report;
                    // It is told, and nothing is missing.
                    let is_older = matches!(fault, Fault::OlderRelease { .. });
                    *(if is_older { &mut report.tags.present } else { &mut report.tags.left }) += 1;
                    report.leave(format!("{name}:{}", entry.tag), &fault);
                    Ok(())
                }
                done => done,
            }
        })
        .await
    }

    async fn tag(&self, name: &str, entry: &ListedTag, survey: &Survey) -> Result<(), Failed> {
        let content = Failed::Content;
        let digest = *entry.target.as_ref().map_err(|fault| content(fault.clone()))?;
        let tag = entry.tag.parse::<Tag>().map_err(|error| content(Fault::Name(error.to_string())))?;
        if survey.deleted.contains(&digest) {
            return Err(content(Fault::ManifestDeleted(digest)));
        }
        if let Some(fault) = survey.faults.get(&digest) {
            return Err(content(fault.clone()));
        }
        let (upstream, reference) = (&self.target.upstream, Reference::Tag(tag));
        let found = self.ask(|| upstream.has_manifest(name, &reference, soon())).await?;
        let is_set = match (found, &entry.claim) {
            (Some(found), _) if found == digest => false,
            (Some(_), Claim::Discovers(_)) => false,
            (None, Claim::Discovers(path)) if !self.options.dry_run && !self.has_any_of(path) => {
                return Err(content(Fault::Undiscovered(path.clone())));
            }
            (Some(found), Claim::Plain | Claim::Channel) if !self.options.overwrite => {
                return Err(content(Fault::OtherDigest(found)));
            }
            (Some(found), Claim::Channel) if !self.options.channels_back => {
                self.compare(name, found, digest).await?;
                true
            }
            _ => true,
        };
        if is_set && !self.options.dry_run {
            let manifest = self.content(name, digest).map_err(content)?;
            self.put(name, &reference, (&manifest, digest)).await?;
        }
        let State { report, far, tagged, .. } = &mut *self.state.borrow_mut();
        *(if is_set { &mut report.tags.taken } else { &mut report.tags.present }) += 1;
        far.tags += 1;
        if !tagged.contains(name) {
            tagged.insert(name.to_owned());
        }
        Ok(())
    }

    /// Whether the registry has a tag of a repository of the source that is `path` or below it.
    fn has_any_of(&self, path: &str) -> bool {
        let is_of =
            |name: &String| name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.state.borrow().tagged.iter().any(is_of)
    }

    /// Refuses to move a channel from a release to an older one, as far as both are known.
    async fn compare(&self, name: &str, found: Digest, wanted: Digest) -> Result<(), Failed> {
        let Some(wanted) = self.source.release_of(name, &wanted) else { return Ok(()) };
        let found = match self.source.release_of(name, &found) {
            Some(found) => Some(found),
            None => self.ask(|| self.target.release_of(name, found)).await?,
        };
        match found {
            Some(found) if found > wanted => Err(Failed::Content(Fault::OlderRelease { found, wanted })),
            Some(_) | None => Ok(()),
        }
    }
}
