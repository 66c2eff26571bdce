//! Filling an index from the tree, while the tree goes on changing.
//!
//! Why the result is right although writes go on: whoever changes a repository holds its lock, changes the tree and
//! then tells the index that is being filled. Here names are read without the lock, and each is checked again and
//! entered while it is held, some hundred at a time. So for every name one of both holds: the change came first, then
//! the check sees the tree as the change left it; or it came after, then it reached the index after our entry.
//! The lock is held for a chunk, never for a repository, however large.
//!
//! A manifest's bytes can't change under its name, so they are read and parsed without the lock.

use std::fs::File;
use std::io::Read as _;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::index::{Index, IndexError};
use super::locks::RepositoryLocks;
use super::walk::{Members, Repositories, SkippedEntries, Tags, holds_manifest};
use crate::oci::{Digest, Manifest, RepoName, Tag};
use crate::store::layout::{Layout, Membership};
use crate::store::stored::StoredManifest;

/// Names a worker takes at once; bounds how long a repository is locked (a stat and an entry each, about 5 ms).
const CHUNK: usize = 256;

/// More threads than this wait for each other in sled.
const MAX_THREADS: usize = 4;

/// Longest file that is read as a manifest: far above every accepted `manifests.maxBytes`.
const MAX_MANIFEST: u64 = 64 << 20;

/// A progress line comes this often, and not at all for work that is done sooner.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// The tree as a rebuild sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree<'a> {
    /// The paths.
    pub(crate) layout: &'a Layout,
    /// The locks that writers hold.
    pub(crate) locks: &'a RepositoryLocks,
}

/// How far a rebuild is; shared with whoever wants to show it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    tags: AtomicU64,
    manifests: AtomicU64,
    skipped: SkippedEntries,
}

impl Progress {
    /// Tags and manifests entered so far.
    pub(crate) fn done(&self) -> u64 {
        self.tags.load(Ordering::Relaxed) + self.manifests.load(Ordering::Relaxed)
    }

    /// Entries of the tree that could not be used.
    pub(crate) fn unusable(&self) -> u64 {
        self.skipped.count()
    }
}

/// Enters everything the tree holds into `index`, which must be empty but for what writers tell it meanwhile.
/// Blocks until it is done or `stop` is cancelled. Entries that can't be used are logged, counted and left out.
///
/// # Errors
/// [`IndexError::Cancelled`], or the first failure of the index.
pub(crate) fn rebuild(
    tree: Tree<'_>,
    index: &Index,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<(), IndexError> {
    let units = Mutex::new(Units::new(tree.layout, &progress.skipped));
    let run = Run { tree, index, progress, units: &units, failed: AtomicBool::new(false), stop };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(|| run.work(None))).collect();
        let mut result = run.work(Some(ProgressLine::new(progress)));
        for helper in helpers {
            let ended = helper.join().unwrap_or_else(|_| {
                Err(IndexError::Panicked { operation: "rebuild", message: "a thread of the rebuild panicked".into() })
            });
            // A thread that stopped because another failed says so less well than the other.
            if matches!(result, Ok(()) | Err(IndexError::Cancelled)) && ended.is_err() {
                result = ended;
            }
        }
        result
    })
}

/// Makes `index` agree with the tree on one repository, whatever it said before.
///
/// # Errors
/// The first failure of the index.
pub(crate) fn reread(tree: Tree<'_>, index: &Index, repo: &RepoName) -> Result<(), IndexError> {
    let progress = Progress::default();
    let chunk = Chunk { tree, index, progress: &progress, repo };
    let mut last: Option<String> = None;
    loop {
        let page = index.tags(repo, last.as_deref(), CHUNK)?;
        let tags = page.entries.iter().map(|text| text.parse()).collect::<Result<Vec<Tag>, _>>();
        chunk.tags(&tags.map_err(|_| IndexError::Entry("tags"))?)?;
        if !page.more {
            break;
        }
        last = page.entries.last().cloned();
    }
    let mut last = None;
    loop {
        let pairs = index.referrer_pairs(repo, last, CHUNK)?;
        let _locked = tree.locks.lock(repo);
        for &(subject, referrer) in &pairs {
            if !tree.layout.member(repo, Membership::Manifest, &referrer).exists() {
                index.remove_manifest(repo, referrer, Some(subject))?;
            }
        }
        last = pairs.last().copied();
        if last.is_none() {
            break;
        }
    }
    for tags in chunked(Tags::new(tree.layout, repo, &progress.skipped)) {
        chunk.tags(&tags)?;
    }
    for digests in chunked(Members::manifests(tree.layout, repo, &progress.skipped)) {
        chunk.manifests(&digests)?;
    }
    chunk.catalog()
}

/// A piece of the walk, for one thread.
enum Unit {
    Tags(RepoName, Vec<Tag>),
    Manifests(RepoName, Vec<Digest>),
    Catalog(RepoName),
}

/// The walk, cut into pieces that fit a lock, so a tree of one large repository keeps all threads busy too.
struct Units<'a> {
    layout: &'a Layout,
    skipped: &'a SkippedEntries,
    repositories: Repositories<'a>,
    current: Option<Current<'a>>,
}

struct Current<'a> {
    repo: RepoName,
    tags: Tags<'a>,
    manifests: Members<'a>,
}

impl<'a> Units<'a> {
    fn new(layout: &'a Layout, skipped: &'a SkippedEntries) -> Self {
        Self { layout, skipped, repositories: Repositories::new(layout, skipped), current: None }
    }
}

impl Iterator for Units<'_> {
    type Item = Unit;

    fn next(&mut self) -> Option<Unit> {
        if let Some(current) = &mut self.current {
            let tags: Vec<Tag> = current.tags.by_ref().take(CHUNK).collect();
            if !tags.is_empty() {
                return Some(Unit::Tags(current.repo.clone(), tags));
            }
            let manifests: Vec<Digest> = current.manifests.by_ref().take(CHUNK).collect();
            if !manifests.is_empty() {
                return Some(Unit::Manifests(current.repo.clone(), manifests));
            }
        }
        let repo = self.repositories.next()?;
        self.current = Some(Current {
            tags: Tags::new(self.layout, &repo, self.skipped),
            manifests: Members::manifests(self.layout, &repo, self.skipped),
            repo: repo.clone(),
        });
        Some(Unit::Catalog(repo))
    }
}

struct Run<'a> {
    tree: Tree<'a>,
    index: &'a Index,
    progress: &'a Progress,
    units: &'a Mutex<Units<'a>>,
    failed: AtomicBool,
    stop: &'a CancellationToken,
}

impl Run<'_> {
    fn work(&self, mut line: Option<ProgressLine<'_>>) -> Result<(), IndexError> {
        loop {
            if self.stop.is_cancelled() || self.failed.load(Ordering::Relaxed) {
                return Err(IndexError::Cancelled);
            }
            let Some(unit) = self.units.lock().unwrap_or_else(PoisonError::into_inner).next() else { return Ok(()) };
            if let Err(error) = self.enter(&unit) {
                self.failed.store(true, Ordering::Relaxed);
                return Err(error);
            }
            if let Some(line) = &mut line {
                line.tick();
            }
        }
    }

    fn enter(&self, unit: &Unit) -> Result<(), IndexError> {
        let (Unit::Tags(repo, _) | Unit::Manifests(repo, _) | Unit::Catalog(repo)) = unit;
        let chunk = Chunk { tree: self.tree, index: self.index, progress: self.progress, repo };
        match unit {
            Unit::Tags(_, tags) => chunk.tags(tags),
            Unit::Manifests(_, digests) => chunk.manifests(digests),
            Unit::Catalog(_) => chunk.catalog(),
        }
    }
}

/// The entering of some names of one repository.
struct Chunk<'a> {
    tree: Tree<'a>,
    index: &'a Index,
    progress: &'a Progress,
    repo: &'a RepoName,
}

impl Chunk<'_> {
    fn tags(&self, tags: &[Tag]) -> Result<(), IndexError> {
        let _locked = self.tree.locks.lock(self.repo);
        for tag in tags {
            if self.tree.layout.tag(self.repo, tag).exists() {
                self.index.put_tag(self.repo, tag)?;
            } else {
                self.index.remove_tag(self.repo, tag)?;
            }
        }
        self.progress.tags.fetch_add(tags.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn manifests(&self, digests: &[Digest]) -> Result<(), IndexError> {
        let referrers: Vec<StoredManifest> = digests.iter().filter_map(|&digest| self.read_referrer(digest)).collect();
        if !referrers.is_empty() {
            let _locked = self.tree.locks.lock(self.repo);
            for stored in &referrers {
                if self.tree.layout.member(self.repo, Membership::Manifest, &stored.digest).exists() {
                    self.index.put_manifest(self.repo, stored)?;
                }
            }
        }
        self.progress.manifests.fetch_add(digests.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// The manifest, if it is still there, can be read and names a subject.
    fn read_referrer(&self, digest: Digest) -> Option<StoredManifest> {
        let path = self.tree.layout.member(self.repo, Membership::Manifest, &digest);
        let bytes = match read_file(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    self.progress.skipped.note(&path, &error);
                }
                return None;
            }
        };
        match Manifest::kept(&bytes) {
            Ok(manifest) => {
                manifest.subject.as_ref()?;
                if digest.algorithm().digest(&bytes) != digest {
                    self.progress.skipped.note(&path, &"not what its digest says");
                    return None;
                }
                Some(StoredManifest { digest, bytes: bytes.into(), manifest: Arc::new(manifest) })
            }
            Err(error) => {
                self.progress.skipped.note(&path, &error);
                None
            }
        }
    }

    fn catalog(&self) -> Result<(), IndexError> {
        let _locked = self.tree.locks.lock(self.repo);
        if holds_manifest(self.tree.layout, self.repo) {
            self.index.put_repository(self.repo)
        } else {
            self.index.remove_repository(self.repo)
        }
    }
}

/// The bytes of a manifest's file, whatever they are. Blocking.
pub(in crate::store) fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    if size > MAX_MANIFEST {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{size} bytes are no manifest")));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(MAX_MANIFEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn chunked<T>(mut names: impl Iterator<Item = T>) -> impl Iterator<Item = Vec<T>> {
    std::iter::from_fn(move || Some(names.by_ref().take(CHUNK).collect::<Vec<T>>()).filter(|chunk| !chunk.is_empty()))
}

/// Says in the log how far the work is, once it takes long enough for someone to ask.
struct ProgressLine<'a> {
    progress: &'a Progress,
    started: Instant,
    last: Instant,
}

impl<'a> ProgressLine<'a> {
    fn new(progress: &'a Progress) -> Self {
        let now = Instant::now();
        Self { progress, started: now, last: now }
    }

    fn tick(&mut self) {
        if self.last.elapsed() < PROGRESS_EVERY {
            return;
        }
        self.last = Instant::now();
        let done = self.progress.done();
        let seconds = self.started.elapsed().as_secs().max(1);
        tracing::info!(objects = done, per_second = done / seconds, "rebuilding the index from the tree");
    }
}

#[cfg(test)]
pub(in crate::store) mod tests;
