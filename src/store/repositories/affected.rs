//! Which images need certain contents: for whoever has to say what damage breaks. Reads every manifest, without a lock: what
//! it finds was there a moment ago. Judges nothing: a manifest that can't be read or parsed names nothing. Blocking.

use std::collections::{BTreeSet, HashMap, HashSet};

use tokio_util::sync::CancellationToken;

use super::rebuild::read_file;
use super::tags::read_tag;
use super::walk::{Members, Repositories, SkippedEntries, Tags};
use crate::fs::stat;
use crate::oci::{Digest, Manifest, RepoName};
use crate::store::layout::{Layout, Membership};

/// Most images that are named for one content, and most repositories.
const MOST_NAMED: usize = 20;

/// About what one [`Need`] takes, with names of usual length.
pub(super) const NEED_BYTES: u64 = 4096;

/// What needs a content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Need {
    /// Images by repository, as `repository:tag`, or `repository@digest` for one without a tag: the first by name.
    pub(in crate::store) images: BTreeSet<(RepoName, String)>,
    /// Further ones.
    pub(in crate::store) more: u64,
    /// Repositories that have the content: the first that were met.
    pub(in crate::store) members: Vec<(RepoName, Membership)>,
    /// Its length, as a descriptor says it.
    pub(in crate::store) size: Option<u64>,
}

impl Need {
    fn add(&mut self, repo: &RepoName, image: String) {
        if self.images.insert((repo.clone(), image)) && self.images.len() > MOST_NAMED {
            self.images.pop_last();
            self.more += 1;
        }
    }

    /// The images' names, of one repository or of all.
    pub(in crate::store) fn names(&self, of: Option<&RepoName>) -> Vec<String> {
        let images = self.images.iter().filter(|(repo, _)| of.is_none_or(|of| of == repo));
        images.map(|(_, name)| name.clone()).collect()
    }
}

/// What needs each of these contents, in all repositories or in one. Ends early, with what it has, when `stop` is cancelled.
pub(in crate::store) fn needs(
    layout: &Layout,
    wanted: &HashSet<Digest>,
    only: Option<&RepoName>,
    stop: &CancellationToken,
) -> HashMap<Digest, Need> {
    let skipped = SkippedEntries::kept();
    let mut found: HashMap<Digest, Need> = wanted.iter().map(|digest| (*digest, Need::default())).collect();
    if wanted.is_empty() {
        return found;
    }
    match only {
        Some(repo) => in_repository(layout, repo, &mut found),
        None => {
            for repo in Repositories::new(layout, &skipped) {
                if stop.is_cancelled() {
                    break;
                }
                in_repository(layout, &repo, &mut found);
            }
        }
    }
    found
}

fn in_repository(layout: &Layout, repo: &RepoName, found: &mut HashMap<Digest, Need>) {
    let skipped = SkippedEntries::kept();
    for (digest, need) in found.iter_mut().filter(|(_, need)| need.members.len() < MOST_NAMED) {
        for kind in [Membership::Blob, Membership::Manifest] {
            if matches!(stat(&layout.member(repo, kind, digest)), Ok(Some(_))) {
                need.members.push((repo.clone(), kind));
            }
        }
    }
    // Which of the contents each manifest needs, and who lists it.
    let mut needed_by: HashMap<Digest, BTreeSet<Digest>> = HashMap::new();
    let mut parents: HashMap<Digest, Vec<Digest>> = HashMap::new();
    for digest in Members::manifests(layout, repo, &skipped) {
        crate::telemetry::disk_moved();
        if found.contains_key(&digest) {
            needed_by.entry(digest).or_default().insert(digest);
        }
        let bytes = read_file(&layout.member(repo, Membership::Manifest, &digest));
        let Some(manifest) = bytes.ok().and_then(|bytes| Manifest::kept(&bytes).ok()) else { continue };
        for named in manifest.required_blobs().chain(&manifest.manifests) {
            if let Some(need) = found.get_mut(&named.digest) {
                need.size = Some(named.size);
                needed_by.entry(digest).or_default().insert(named.digest);
            }
        }
        for child in &manifest.manifests {
            parents.entry(child.digest).or_default().push(digest);
        }
    }
    if needed_by.is_empty() {
        return;
    }
    let mut waiting: Vec<Digest> = needed_by.keys().copied().collect();
    while let Some(child) = waiting.pop() {
        let Some(needs) = needed_by.get(&child).cloned() else { continue };
        for parent in parents.get(&child).into_iter().flatten() {
            let known = needed_by.entry(*parent).or_default();
            let before = known.len();
            known.extend(&needs);
            if known.len() > before {
                waiting.push(*parent);
            }
        }
    }
    let mut tagged = HashSet::new();
    for tag in Tags::new(layout, repo, &skipped) {
        let Ok(Some(target)) = read_tag(layout, repo, &tag) else { continue };
        for digest in needed_by.get(&target).into_iter().flatten() {
            tagged.insert(target);
            if let Some(need) = found.get_mut(digest) {
                need.add(repo, format!("{repo}:{tag}"));
            }
        }
    }
    let roots = needed_by.iter().filter(|(manifest, _)| !tagged.contains(manifest) && !parents.contains_key(manifest));
    for (manifest, needs) in roots {
        for digest in needs {
            if let Some(need) = found.get_mut(digest) {
                need.add(repo, format!("{repo}@{manifest}"));
            }
        }
    }
}
