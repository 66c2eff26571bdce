//! What a verdict is found on: the repositories of a root with the lists of its releases, or a repository of a rule.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::lists::{Lists, Unread};
use crate::jobs;
use crate::oci::{Digest, RepoName, Tag};
use crate::release::ReleaseList;
use crate::store::{Store, TagsLook};
use crate::values::Release;

/// Children of a root that have tags of its releases.
const INSTALL: &str = "install";
const STANDALONE: &str = "install-standalone";
const CHANNELS: &str = "release-channel";

/// A repository with release sets.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) name: RepoName,
    /// The root itself.
    pub(super) images: TagsLook,
    pub(super) install: TagsLook,
    /// Others with tags of releases: those that go before the images, and those that go after.
    pub(super) channels: Option<TagsLook>,
    pub(super) standalone: Option<TagsLook>,
    /// What each release names in the root.
    pub(super) sets: BTreeMap<Release, Arc<ReleaseList>>,
    /// Releases that channels lead to, with the first channel of each.
    pub(super) by_channel: BTreeMap<Release, Tag>,
}

/// The names of all repositories, sorted out.
#[derive(Debug, Default)]
pub(super) struct Repositories {
    /// Roots, which may turn out to be none.
    pub(super) roots: Vec<RepoName>,
    /// Their children that are looked at with them.
    pub(super) children: Vec<RepoName>,
    /// All that are of no root.
    pub(super) others: Vec<RepoName>,
}

fn child(root: &RepoName, name: &str) -> Option<RepoName> {
    format!("{root}/{name}").parse().ok()
}

impl Repositories {
    /// Of these names. A root has a child `install`; whether that has releases is seen when it is looked at.
    pub(super) fn sort_out(names: Vec<RepoName>) -> Self {
        let all: BTreeSet<RepoName> = names.into_iter().collect();
        let is_root = |repo: &&RepoName| child(repo, INSTALL).is_some_and(|install| all.contains(&install));
        let roots: Vec<RepoName> = all.iter().filter(is_root).cloned().collect();
        let is_root = |repo: &RepoName| roots.binary_search(repo).is_ok();
        let of_roots: BTreeSet<RepoName> = roots
            .iter()
            .flat_map(|root| [INSTALL, STANDALONE, CHANNELS].into_iter().filter_map(|name| child(root, name)))
            .collect();
        let others = all.into_iter().filter(|repo| !is_root(repo));
        let (children, others) = others.partition(|repo| of_roots.contains(repo));
        Self { roots, children, others }
    }
}

impl Root {
    /// Looks at a root; `None`: it has no release, and is none, or `stop` was cancelled. Each list is read for itself, so that it
    /// can be.
    pub(super) async fn look(
        store: &Store,
        lists: &Lists,
        name: &RepoName,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, Unread> {
        // The lists first: what changes behind this makes the verdict worthless.
        let Some(install) = look_at_child(store, name, INSTALL, stop).await? else { return Ok(None) };
        let Some(images) = store.look_at_tags(name, stop).await? else { return Ok(None) };
        let channels = look_at_child(store, name, CHANNELS, stop).await?;
        let standalone = look_at_child(store, name, STANDALONE, stop).await?;
        let mut sets = BTreeMap::new();
        for record in &install.tags {
            let Some(release) = Release::of_tag(&record.tag) else { continue };
            if stop.is_cancelled() {
                return Ok(None);
            }
            let (lists, repo, tag, digest) = (lists.clone(), install.repo.clone(), record.tag.clone(), record.digest);
            let list = jobs::blocking(move || lists.of_release(&repo, &tag, digest)).await;
            let list = list.map_err(|Unread(why)| Unread(format!("what {release} needs is not known: {why}")))?;
            sets.insert(release, list);
        }
        if sets.is_empty() {
            return Ok(None);
        }
        let by_channel = match &channels {
            Some(look) => channels_of(lists, look, stop).await?,
            None => BTreeMap::new(),
        };
        // Before this nothing was left out.
        if stop.is_cancelled() {
            return Ok(None);
        }
        Ok(Some(Self { name: name.clone(), images, install, channels, standalone, sets, by_channel }))
    }

    /// All looks, for the check that nothing changed since.
    pub(super) fn into_looks(self) -> Vec<TagsLook> {
        [Some(self.images), Some(self.install), self.channels, self.standalone].into_iter().flatten().collect()
    }
}

async fn look_at_child(
    store: &Store,
    root: &RepoName,
    name: &str,
    stop: &CancellationToken,
) -> Result<Option<TagsLook>, Unread> {
    let Some(child) = child(root, name) else { return Ok(None) };
    Ok(store.look_at_tags(&child, stop).await?)
}

/// The release that each channel leads to: that of a release's tag of the same image, else what the image says. Not all of them
/// if `stop` is cancelled.
async fn channels_of(
    lists: &Lists,
    look: &TagsLook,
    stop: &CancellationToken,
) -> Result<BTreeMap<Release, Tag>, Unread> {
    let releases = look.tags.iter().filter_map(|record| Some((record.digest, Release::of_tag(&record.tag)?)));
    let by_digest: HashMap<Digest, Release> = releases.collect();
    let mut found = BTreeMap::new();
    for record in &look.tags {
        if Release::of_tag(&record.tag).is_some() || record.tag.subject().is_some() {
            continue;
        }
        if stop.is_cancelled() {
            break;
        }
        let release = match by_digest.get(&record.digest) {
            Some(release) => release.clone(),
            None => {
                let (lists, repo, digest) = (lists.clone(), look.repo.clone(), record.digest);
                jobs::blocking(move || lists.of_channel(&repo, digest))
                    .await
                    .map_err(|Unread(why)| Unread(format!("where channel {} leads is not known: {why}", record.tag)))?
            }
        };
        found.entry(release).or_insert_with(|| record.tag.clone());
    }
    Ok(found)
}
