//! Verification: the whole store, or one repository, looked at without a change: what is wrong, what it breaks, what mends it.
//!
//! Everything is first looked at without a lock, beside pushes and deletes. What seems wrong is then looked at once more while
//! nothing can change it: under the digest's lock (files of contents and the names that lead to them), under the
//! repository's (tags, manifests, what the index says of them), or while no change is made at all (what uploads are charged). So
//! a finding was true at one instant, and work that goes on is none. Nothing is condemned here, nothing is mended: a reader,
//! `scrub` or a push does that.
//!
//! The order of the parts is that of what they need: `contents` (files by digest, and the repositories' names of them),
//! `repository` (tags, manifests, references, lists), `lists` (the index), `places` (all else that lies there), `room` (what is
//! counted as used), then what the damage found breaks (`affected`).

mod contents;
pub(in crate::store) mod finding;
mod lists;
mod places;
mod repository;
mod room;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use self::finding::{Finding, Mend, Problem, VerifyReport};
use super::affected::needs;
use super::index::Index;
use super::manifests::Manifests;
use super::walk::{Repositories, SkippedEntries};
use crate::fs::is_absence;
use crate::jobs::Progress;
use crate::oci::{Digest, RepoName};
use crate::store::contents::beside::{ORDERED_RATE, pause};
use crate::store::contents::files::Contents;
use crate::store::contents::open::open_content;
use crate::store::contents::uncached::{Buffer, Reading};
use crate::store::error::StoreError;
use crate::store::layout::{Layout, Membership};

/// Most contents that are known to be told of already and whose findings are not named, 16 to 32 bytes of memory each. Beyond
/// them a content may be counted once for each repository that has it.
const MOST_TOLD: usize = 1 << 16;

/// Bytes that a verification counts names and keeps findings in, with the images that these break.
pub(in crate::store) const MOST_BYTES: u64 = contents::COUNTED_AT_ONCE as u64 * 32
    + MOST_TOLD as u64 * 32
    + finding::MOST_NAMED as u64 * (finding::FINDING_BYTES + super::affected::NEED_BYTES);

/// Pauses that are owed are made when they come to this.
const LEAST_PAUSE: Duration = Duration::from_millis(4);

/// What is verified, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Blobs are not read: their bytes are believed, unless their length is not that of a descriptor.
    pub quick: bool,
    /// This repository alone.
    pub repository: Option<RepoName>,
    /// Manifests may lack what they name (`manifests.missingReferences: allow`).
    pub allow_missing: bool,
}

/// A content that is not whole, and the finding that says so.
#[derive(Clone, Copy, Debug)]
struct Bad {
    place: usize,
    /// The file's length.
    length: Option<u64>,
}

/// What was read of a file.
enum Hashed {
    Sound,
    Wrong { length: u64 },
    Unreadable(String),
    Gone,
}

/// A verification.
#[derive(Debug)]
pub(in crate::store) struct Verifier<'a> {
    manifests: &'a Manifests,
    options: VerifyOptions,
    /// A server has the store.
    is_running: bool,
    stop: &'a CancellationToken,
    shown: &'a Progress,
    report: VerifyReport,
    /// Of named findings, as many as may be named.
    bad: HashMap<Digest, Bad>,
    /// Contents whose findings are only counted, by the first bytes of their digests.
    told: HashSet<u64>,
    /// Manifests that can't be served in their repository, of named findings.
    unserved: Vec<(RepoName, Digest, usize)>,
    index: Option<Arc<Index>>,
    buffer: Buffer,
    owed: Duration,
    /// Bytes of all contents that were met.
    content_bytes: u64,
}

impl<'a> Verifier<'a> {
    /// Of a store whose parts these are. Blocking, as all of it.
    pub(in crate::store) fn new(
        manifests: &'a Manifests,
        options: VerifyOptions,
        is_running: bool,
        stop: &'a CancellationToken,
        shown: &'a Progress,
    ) -> Self {
        let repository = options.repository.as_ref().map(ToString::to_string);
        let report = VerifyReport { quick: options.quick, repository, ..VerifyReport::default() };
        Self {
            manifests,
            options,
            is_running,
            stop,
            shown,
            report,
            bad: HashMap::new(),
            told: HashSet::new(),
            unserved: Vec::new(),
            index: None,
            buffer: Buffer::default(),
            owed: Duration::ZERO,
            content_bytes: 0,
        }
    }

    /// All of it. Changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Layout`] if it was stopped, or there is no such repository. What can't be read is a finding.
    pub(in crate::store) fn run(mut self) -> Result<VerifyReport, StoreError> {
        self.take_index();
        match self.options.repository.clone() {
            Some(repo) if !self.has_repository(&repo) => {
                return Err(StoreError::Layout(format!("the store has no repository {repo}")));
            }
            Some(repo) => {
                self.contents_of(&repo)?;
                self.damaged();
                self.repository(&repo)?;
            }
            None => {
                self.contents()?;
                self.damaged();
                let skipped = SkippedEntries::kept();
                let layout = self.layout().clone();
                for repo in Repositories::new(&layout, &skipped) {
                    self.repository(&repo)?;
                }
                self.skipped(&skipped);
                self.repositories_of_the_index()?;
                self.places();
                self.room()?;
            }
        }
        if self.told.len() >= MOST_TOLD {
            self.note("so much is wrong that some contents are counted once for each repository that has them");
        }
        self.tell_what_breaks();
        self.report.findings.sort_by(|one, other| (&one.path, one.problem).cmp(&(&other.path, other.problem)));
        self.report.whole = self.report.findings.is_empty() && self.report.more == 0;
        Ok(self.report)
    }

    fn tree(&self) -> &'a Contents {
        &self.manifests.contents
    }

    fn layout(&self) -> &'a Layout {
        &self.manifests.contents.layout
    }

    fn go_on(&self) -> Result<(), StoreError> {
        crate::telemetry::disk_moved();
        if self.stop.is_cancelled() {
            return Err(StoreError::Layout("the verification was stopped before its end".to_owned()));
        }
        Ok(())
    }

    fn note(&mut self, sentence: impl Into<String>) {
        self.report.notes.push(sentence.into());
    }

    /// A finding with what every kind has.
    fn found(
        &mut self,
        problem: Problem,
        path: &Path,
        what: impl Into<String>,
        (mend, how): (Mend, &str),
    ) -> Option<usize> {
        let path = path.strip_prefix(self.layout().root()).unwrap_or(path).display().to_string();
        self.report.add(Finding {
            problem,
            path,
            repository: None,
            digest: None,
            what: what.into(),
            breaks: Vec::new(),
            breaks_more: 0,
            mend,
            how: how.to_owned(),
        })
    }

    /// Says whose a finding is.
    fn of(&mut self, place: Option<usize>, repo: Option<&RepoName>, digest: Option<&Digest>) {
        if let Some(finding) = place.and_then(|place| self.report.findings.get_mut(place)) {
            finding.repository = repo.map(ToString::to_string);
            finding.digest = digest.map(ToString::to_string);
        }
    }

    /// A content that is not whole; the first finding counts.
    fn bad(&mut self, problem: Problem, digest: &Digest, path: &Path, length: Option<u64>, what: &str) {
        if self.is_bad(digest) {
            return;
        }
        // What mends it is known when it is known who needs it.
        let place = self.found(problem, path, what, PUSH);
        self.of(place, None, Some(digest));
        if let Some(place) = place {
            self.bad.insert(*digest, Bad { place, length });
        } else if self.told.len() < MOST_TOLD {
            self.told.insert(print(digest));
        }
    }

    /// Whether a finding says already that the content is not whole.
    fn is_bad(&self, digest: &Digest) -> bool {
        self.bad.contains_key(digest) || self.told.contains(&print(digest))
    }

    /// A manifest that can't be served in its repository, as the finding says.
    fn unserved(&mut self, repo: &RepoName, digest: &Digest, place: Option<usize>) {
        if let Some(place) = place {
            self.unserved.push((repo.clone(), *digest, place));
        }
    }

    /// Whether there is anything of a repository, in the tree or in the index.
    fn has_repository(&self, repo: &RepoName) -> bool {
        let has_parts = match std::fs::read_dir(self.layout().repository(repo)) {
            Ok(mut entries) => entries.any(|entry| {
                entry.is_ok_and(|entry| entry.file_name().to_str().is_some_and(Layout::is_part_of_a_repository))
            }),
            Err(error) => !is_absence(&error),
        };
        has_parts || self.index.as_ref().is_some_and(|index| index.has_repository(repo).unwrap_or(true))
    }

    /// Reads the file of a content that the name `path` leads to, and hashes it.
    fn hash(&mut self, digest: &Digest, path: &Path) -> Result<Hashed, StoreError> {
        let file = match open_content(path) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(Hashed::Gone),
            Err(error) => return Ok(Hashed::Unreadable(crate::telemetry::with_causes(&error))),
        };
        let mut reading = Reading::begin(file, *digest);
        let mut length = 0;
        loop {
            self.go_on()?;
            let begun = Instant::now();
            match reading.piece(&mut self.buffer) {
                Ok(0) => break,
                Ok(read) => {
                    length += read as u64;
                    self.report.hashed_bytes += read as u64;
                    self.rest(read as u64, begun.elapsed());
                }
                Err(error) => return Ok(Hashed::Unreadable(error.to_string())),
            }
        }
        let (_, actual): (File, Digest) = reading.finish();
        Ok(if actual == *digest { Hashed::Sound } else { Hashed::Wrong { length } })
    }

    /// Leaves the disk to the others of a running server, as a scrub by order does.
    fn rest(&mut self, bytes: u64, taken: Duration) {
        if !self.is_running {
            return;
        }
        self.owed += pause(bytes, taken, ORDERED_RATE);
        if self.owed >= LEAST_PAUSE {
            std::thread::sleep(std::mem::take(&mut self.owed));
        }
    }

    /// Entries that no walk could use.
    fn skipped(&mut self, skipped: &SkippedEntries) {
        for (path, reason) in skipped.take() {
            let is_folder = std::fs::symlink_metadata(&path).is_ok_and(|facts| facts.is_dir());
            if is_folder && let Err(error) = std::fs::read_dir(&path) {
                self.found(Problem::Unreadable, &path, format!("the directory can't be read: {error}"), LOOK);
            } else {
                self.foreign(&path, &reason);
            }
        }
    }

    fn foreign(&mut self, path: &Path, why: &str) {
        self.found(Problem::Foreign, path, format!("it is not the store's: {why}"), REMOVE);
    }

    /// Fills in which images each finding breaks, and what mends it.
    fn tell_what_breaks(&mut self) {
        let mut wanted: HashSet<Digest> = self.bad.keys().copied().collect();
        wanted.extend(self.unserved.iter().map(|(_, manifest, _)| *manifest));
        let needs = needs(self.layout(), &wanted, self.options.repository.as_ref(), self.stop);
        for (digest, Bad { place, length }) in &self.bad {
            let Some(finding) = self.report.findings.get_mut(*place) else { continue };
            let Some(need) = needs.get(digest) else { continue };
            (finding.breaks, finding.breaks_more) = (need.names(None), need.more);
            if finding.problem == Problem::WrongBytes
                && let (Some(length), Some(size)) = (length, need.size)
                && *length != size
            {
                finding.problem = Problem::WrongLength;
                finding.what = format!("the file has {length} bytes, and a manifest says {size}");
            }
            let is_cached = !need.members.is_empty() && need.members.iter().all(|(repo, _)| repo.is_cached());
            let (mend, how) = if is_cached { FETCH } else { PUSH };
            (finding.mend, finding.how) = (mend, how.to_owned());
        }
        for (repo, manifest, place) in &self.unserved {
            let Some(finding) = self.report.findings.get_mut(*place) else { continue };
            finding.breaks = needs.get(manifest).map(|need| need.names(Some(repo))).unwrap_or_default();
        }
    }

    /// The name of a content in a repository.
    fn member(&self, repo: &RepoName, kind: Membership, digest: &Digest) -> std::path::PathBuf {
        self.layout().member(repo, kind, digest)
    }
}

/// The first 64 bits of a digest.
fn print(digest: &Digest) -> u64 {
    digest.as_bytes().first_chunk::<8>().map_or(0, |first| u64::from_be_bytes(*first))
}

/// What mends a finding, in a word and in a sentence.
type How = (Mend, &'static str);

const PUSH: How = (
    Mend::Push,
    "push the image again, which sends what is missing or damaged, or delete it; `d8-registry scrub` takes out of use what is damaged",
);
const FETCH: How =
    (Mend::Fetch, "Proxy fetches it again as soon as it counts as absent, which `d8-registry scrub` sees to");
const REMOVE: How = (Mend::Remove, "nothing of the store needs it: look what it is, then remove it");
const LOOK: How = (Mend::Look, "look at the file system and the kernel's log");
