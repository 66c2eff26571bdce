//! What the index says, against the tree.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::finding::{Mend, Problem};
use super::{How, Verifier};
use crate::fs::stat;
use crate::oci::{Digest, RepoName, Tag};
use crate::store::error::StoreError;
use crate::store::layout::Membership;
use crate::store::repositories::index::{Index, IndexError};
use crate::store::repositories::walk::holds_manifest;
use crate::telemetry::with_causes;

/// Entries that are read at once.
const PAGE: usize = 1000;

const REBUILD: How = (
    Mend::Start,
    "stop the server and run `d8-registry index rebuild`; pulls, pushes and deletes don't need the index, lists do",
);

/// An entry that is in one of both and not in the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Catalog,
    Tag(Tag),
    Referrer(Digest, Digest),
}

impl Verifier<'_> {
    /// Takes the index, if there is one that can be compared.
    pub(super) fn take_index(&mut self) {
        let listings = &self.manifests.listings;
        let taken = if self.is_running { Ok(listings.serving()) } else { listings.open_sealed() };
        match taken {
            Ok(Some(index)) => self.index = Some(index),
            Ok(None) => self.note("the index was not compared: it is built, or will be at the next start"),
            Err(error) => self.unusable(&error),
        }
    }

    fn unusable(&mut self, error: &IndexError) {
        self.index = None;
        let path = self.layout().index();
        let how = (Mend::Start, "a start of the server builds it anew");
        self.found(Problem::IndexUnusable, &path, format!("it can't be read: {}", with_causes(error)), how);
    }

    /// Compares what the index says of a repository with what its tree was found to have.
    pub(super) fn compare(
        &mut self,
        repo: &RepoName,
        tags: Vec<Tag>,
        referrers: Vec<(Digest, Digest)>,
    ) -> Result<(), StoreError> {
        let Some(index) = self.index.clone() else { return Ok(()) };
        let tree: BTreeSet<Entry> = tags
            .into_iter()
            .map(Entry::Tag)
            .chain(referrers.into_iter().map(|(subject, referrer)| Entry::Referrer(subject, referrer)))
            .chain(holds_manifest(self.layout(), repo).then_some(Entry::Catalog))
            .collect();
        self.go_on()?;
        match said(&index, repo) {
            Ok(said) => self.differences(&index, repo, tree.symmetric_difference(&said)),
            Err(error) => self.unusable(&error),
        }
        Ok(())
    }

    /// Looks for repositories that the index has and the tree has not.
    pub(super) fn repositories_of_the_index(&mut self) -> Result<(), StoreError> {
        let mut last: Option<String> = None;
        while let Some(index) = self.index.clone() {
            self.go_on()?;
            let page = match index.all_repositories(last.as_deref(), PAGE) {
                Ok(page) => page,
                Err(error) => {
                    self.unusable(&error);
                    break;
                }
            };
            for name in &page.entries {
                match RepoName::parse_stored(name) {
                    Ok(repo) if holds_manifest(self.layout(), &repo) => {}
                    Ok(repo) => self.differences(&index, &repo, std::iter::once(&Entry::Catalog)),
                    Err(_) => self.unusable(&IndexError::Entry("repositories")),
                }
            }
            last = page.entries.last().cloned();
            if !page.more {
                break;
            }
        }
        Ok(())
    }

    /// Looks at each difference once more while nothing of the repository changes.
    fn differences<'e>(&mut self, index: &Arc<Index>, repo: &RepoName, entries: impl Iterator<Item = &'e Entry>) {
        let [mut lacks, mut has] = [0_u64; 2];
        let mut example = None;
        for entry in entries {
            let _locked = self.manifests.tree().locks.lock(repo);
            if self.is_running && !self.manifests.listings.has_heard(index, repo) {
                // It is read again, by itself.
                continue;
            }
            let Ok(is_in_index) = is_in_index(index, repo, entry) else { continue };
            match (self.is_in_tree(repo, entry), is_in_index) {
                (true, false) => lacks += 1,
                (false, true) => has += 1,
                (true, true) | (false, false) => continue,
            }
            example.get_or_insert_with(|| entry.clone());
        }
        let Some(example) = example else { return };
        let example = match example {
            Entry::Catalog => "the repository itself".to_owned(),
            Entry::Tag(tag) => format!("tag {tag}"),
            Entry::Referrer(subject, referrer) => format!("referrer {referrer} of {subject}"),
        };
        let what = format!("lists lack {lacks} entries and have {has} too many, such as {example}");
        let path = self.layout().repository(repo);
        if self
            .report
            .findings
            .iter()
            .any(|known| known.problem == Problem::IndexWrong && known.repository.as_deref() == Some(repo.as_str()))
        {
            return;
        }
        let place = self.found(Problem::IndexWrong, &path, what, REBUILD);
        self.of(place, Some(repo), None);
    }

    fn is_in_tree(&self, repo: &RepoName, entry: &Entry) -> bool {
        let is_there = |path| matches!(stat(path), Ok(Some(_)));
        match entry {
            Entry::Catalog => holds_manifest(self.layout(), repo),
            Entry::Tag(tag) => is_there(&self.layout().tag(repo, tag)),
            Entry::Referrer(_, referrer) => is_there(&self.member(repo, Membership::Manifest, referrer)),
        }
    }
}

fn is_in_index(index: &Index, repo: &RepoName, entry: &Entry) -> Result<bool, IndexError> {
    match entry {
        Entry::Catalog => index.has_repository(repo),
        Entry::Tag(tag) => index.has_tag(repo, tag),
        Entry::Referrer(subject, referrer) => index.has_referrer(repo, *subject, *referrer),
    }
}

/// All that the index says of a repository.
fn said(index: &Index, repo: &RepoName) -> Result<BTreeSet<Entry>, IndexError> {
    let mut said = BTreeSet::new();
    let mut last: Option<String> = None;
    loop {
        let page = index.tags(repo, last.as_deref(), PAGE)?;
        for tag in &page.entries {
            said.insert(Entry::Tag(tag.parse().map_err(|_| IndexError::Entry("tags"))?));
        }
        last = page.entries.last().cloned();
        if !page.more {
            break;
        }
    }
    let mut last = None;
    loop {
        let pairs = index.referrer_pairs(repo, last, PAGE)?;
        last = pairs.last().copied();
        said.extend(pairs.into_iter().map(|(subject, referrer)| Entry::Referrer(subject, referrer)));
        if last.is_none() {
            break;
        }
    }
    if index.has_repository(repo)? {
        said.insert(Entry::Catalog);
    }
    Ok(said)
}
