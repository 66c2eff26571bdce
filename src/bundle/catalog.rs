//! What a registry serves of a bundle: its repositories with their tags, and where each of their contents lies.
//!
//! Of each layout there is what its tags reach, and of the tags those whose image is whole: one that lacks something is no tag.
//! Discovery tags are added as a push makes them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::ops::Bound;

use super::contents::{Bundle, Found};
use super::finding::{Budget, BundleError, Finding, Findings};
use super::reach::Walk;
use super::version::MOST_MANIFEST;
use crate::oci::{Algorithm, Digest, RepoName};

/// The repositories of a bundle. Keeps no content in memory but those of discovery tags.
#[derive(Debug)]
pub struct Catalog {
    bundle: Bundle,
    repositories: BTreeMap<String, Repository>,
    findings: Findings,
    /// Tags that are served.
    tags: u64,
    /// Tags whose image is not whole.
    left_out: u64,
}

#[derive(Debug, Default)]
struct Repository {
    /// Its layout.
    path: String,
    tags: BTreeMap<String, Digest>,
    manifests: HashSet<Digest>,
    blobs: HashSet<Digest>,
    /// By their subject.
    referrers: HashMap<Digest, Vec<Digest>>,
    /// Contents of discovery tags.
    made: HashMap<Digest, Vec<u8>>,
}

/// Where bytes are.
#[derive(Debug)]
pub enum Bytes<'a> {
    /// In memory.
    Made(&'a [u8]),
    /// In files.
    Carried(Places<'a>),
}

/// Where a content may lie.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    bundle: &'a Bundle,
    path: &'a str,
    digest: Digest,
}

impl Places<'_> {
    /// Places that say that they have it. The layout's own come first.
    #[must_use]
    pub fn all(&self) -> Vec<Found> {
        self.bundle.places(self.path, &self.digest)
    }
}

impl Catalog {
    /// What is served of `bundle`; its root is the repository `root`. Keeps as much in memory as the bundle itself may. Blocking: reads
    /// the manifests.
    ///
    /// # Errors
    /// [`BundleError::TooMuch`].
    pub fn of(bundle: Bundle, root: &RepoName) -> Result<Self, BundleError> {
        let mut budget = Budget::new(bundle.most);
        let mut findings = bundle.findings.clone();
        let (mut repositories, mut left_out, unread) = (BTreeMap::new(), 0, HashSet::new());
        for (path, layout) in &bundle.layouts {
            let mut walk = Walk::new(&bundle, path, &unread, &mut budget);
            let mut repository = Repository { path: path.clone(), ..Repository::default() };
            for (tag, digest) in &layout.tags {
                match walk.image(*digest)? {
                    Ok(()) => {
                        repository.tags.insert(tag.clone(), *digest);
                    }
                    Err((problem, says)) => {
                        left_out += 1;
                        findings.add(problem, format!("{path}:{tag}"), says);
                    }
                }
            }
            let reached = walk.into_reached();
            repository.referrers = reached.subjects;
            (repository.manifests, repository.blobs) = (reached.manifests, reached.blobs);
            repositories.insert(name(root, path), repository);
        }
        for discovery in bundle.discovery()? {
            let path = discovery.repository.clone();
            let repository =
                repositories.entry(name(root, &path)).or_insert_with(|| Repository { path, ..Repository::default() });
            let manifest = Algorithm::Sha256.digest(&discovery.manifest);
            // What the bundle itself has under that name counts.
            repository.tags.entry(discovery.tag).or_insert(manifest);
            repository.manifests.insert(manifest);
            repository.made.insert(manifest, discovery.manifest);
            for bytes in discovery.blobs {
                let digest = Algorithm::Sha256.digest(&bytes);
                repository.blobs.insert(digest);
                repository.made.insert(digest, bytes);
            }
        }
        repositories.retain(|_, repository| !repository.tags.is_empty());
        let tags = repositories.values().map(|repository| repository.tags.len() as u64).sum();
        Ok(Self { bundle, repositories, findings, tags, left_out })
    }

    /// How many repositories there are.
    #[must_use]
    pub fn repository_count(&self) -> usize {
        self.repositories.len()
    }

    /// How many tags there are.
    #[must_use]
    pub const fn tag_count(&self) -> u64 {
        self.tags
    }

    /// How many tags are not served, because their image is not whole.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Bytes of the bundle's files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bundle.bytes()
    }

    /// What is wrong with the bundle.
    pub fn damage(&self) -> impl Iterator<Item = &Finding> {
        self.findings.named.iter().filter(|finding| finding.damage)
    }

    /// Whether there is such a repository.
    #[must_use]
    pub fn has(&self, repo: &RepoName) -> bool {
        self.repositories.contains_key(repo.as_str())
    }

    /// Where a tag leads.
    #[must_use]
    pub fn tag(&self, repo: &RepoName, tag: &str) -> Option<Digest> {
        self.repositories.get(repo.as_str())?.tags.get(tag).copied()
    }

    /// The bytes of a manifest of a repository.
    #[must_use]
    pub fn manifest(&self, repo: &RepoName, digest: &Digest) -> Option<Bytes<'_>> {
        let repository = self.repositories.get(repo.as_str())?;
        repository.manifests.contains(digest).then(|| self.bytes_of(repository, digest))
    }

    /// The bytes of a blob of a repository.
    #[must_use]
    pub fn blob(&self, repo: &RepoName, digest: &Digest) -> Option<Bytes<'_>> {
        let repository = self.repositories.get(repo.as_str())?;
        repository.blobs.contains(digest).then(|| self.bytes_of(repository, digest))
    }

    fn bytes_of<'a>(&'a self, repository: &'a Repository, digest: &Digest) -> Bytes<'a> {
        match repository.made.get(digest) {
            Some(made) => Bytes::Made(made),
            None => Bytes::Carried(Places { bundle: &self.bundle, path: &repository.path, digest: *digest }),
        }
    }

    /// Tags of a repository in byte order, after `last`, at most `limit`, and whether more follow. `None`: there is no such
    /// repository.
    #[must_use]
    pub fn tags(&self, repo: &RepoName, last: Option<&str>, limit: usize) -> Option<(Vec<String>, bool)> {
        Some(page(&self.repositories.get(repo.as_str())?.tags, last, limit))
    }

    /// Repositories in byte order, as [`Catalog::tags`].
    #[must_use]
    pub fn repositories(&self, last: Option<&str>, limit: usize) -> (Vec<String>, bool) {
        page(&self.repositories, last, limit)
    }

    /// The manifests of a repository whose subject is `subject`, in order of digest, after `last`, at most `limit`.
    #[must_use]
    pub fn referrers(&self, repo: &RepoName, subject: &Digest, last: Option<Digest>, limit: usize) -> Vec<Digest> {
        let found = self.repositories.get(repo.as_str()).and_then(|repository| repository.referrers.get(subject));
        let after = found.into_iter().flatten().filter(|digest| last.is_none_or(|last| **digest > last));
        after.take(limit).copied().collect()
    }
}

/// The bytes of a manifest, of the first place that has them. Blocking. `None`: no place has.
///
/// # Errors
/// Of the disk, where no place that can be read has them.
pub fn read_manifest(places: &[Found], digest: &Digest) -> io::Result<Option<Vec<u8>>> {
    let mut failed = None;
    for place in places {
        match place.read(MOST_MANIFEST) {
            Ok(bytes) if digest.algorithm().digest(&bytes) == *digest => return Ok(Some(bytes)),
            Ok(_) => {}
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(None), Err)
}

/// The name of the repository of a layout.
fn name(root: &RepoName, path: &str) -> String {
    if path.is_empty() { root.as_str().to_owned() } else { format!("{root}/{path}") }
}

fn page<T>(entries: &BTreeMap<String, T>, last: Option<&str>, limit: usize) -> (Vec<String>, bool) {
    let from = last.map_or(Bound::Unbounded, Bound::Excluded);
    let mut after = entries.range::<str, _>((from, Bound::Unbounded)).map(|(name, _)| name.clone());
    let names = after.by_ref().take(limit).collect();
    (names, after.next().is_some())
}
