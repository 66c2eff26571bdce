//! The bytes of a bundle held against their digests, and its files against the GOST sums beside them, each file read once from its
//! beginning to its end.
//!
//! Archives are read at the same time, as many as there are processors. Within an archive a content may go over the border of two
//! chunks, so its files are read one after the other.

use std::collections::HashSet;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Advice, fadvise};
use serde::Serialize;

use super::contents::{ArchiveFacts, Bundle, Content};
use super::files::Form;
use super::finding::{BundleError, Finding, Findings, Problem};
use super::gost::{self, GostSum};
use super::reach::reach;
use crate::oci::{Algorithm, Hasher};

/// Bytes read at once, by each of the readers.
const READ_BYTES: usize = 1 << 20;
/// Most readers.
const MOST_READERS: usize = 16;

/// What a verification came to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// Whether no damage was found.
    pub whole: bool,
    /// Files that were read.
    pub files: u64,
    /// Bytes that were read of them.
    pub bytes: u64,
    /// Contents whose digest was compared.
    pub contents: u64,
    /// GOST sums that were compared.
    pub sums: u64,
    /// Tags, which are images of repositories.
    pub tags: u64,
    /// Manifests that tags reach, each once.
    pub images: u64,
    /// What is wrong, or of note.
    pub findings: Vec<Finding>,
    /// How many more of these there are.
    pub more_findings: u64,
    /// How many of all are damage.
    pub damage: u64,
}

/// What the readers found.
#[derive(Debug, Default)]
struct Heard {
    files: u64,
    bytes: u64,
    contents: u64,
    sums: u64,
    bad: HashSet<(u32, u64)>,
    findings: Findings,
}

/// Reads all of a bundle. `told` hears of bytes that are through, from several threads. Blocking.
///
/// # Errors
/// [`BundleError::TooMuch`].
pub fn verify(bundle: &Bundle, told: &(dyn Fn(u64) + Sync)) -> Result<Verification, BundleError> {
    let mut archives: Vec<(u32, &ArchiveFacts)> = (0..).zip(&bundle.archives).collect();
    // The longest first, so that it does not run alone at the end.
    archives.sort_by_key(|(_, archive)| std::cmp::Reverse(archive.bytes()));
    let (next, heard) = (AtomicUsize::new(0), Mutex::new(Heard::default()));
    let readers = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_READERS);
    std::thread::scope(|scope| {
        for _ in 0..readers.min(archives.len()) {
            scope.spawn(|| {
                let mut buffer = vec![0; READ_BYTES];
                while let Some((number, archive)) = archives.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut reading = Reading::new(bundle, *number, archive, told);
                    reading.archive(&mut buffer);
                    reading.heard.join(&mut heard.lock().unwrap_or_else(PoisonError::into_inner));
                }
            });
        }
    });
    let mut heard = heard.into_inner().unwrap_or_else(PoisonError::into_inner);
    let reached = reach(bundle, &heard.bad)?;
    let mut unreached: Vec<_> = heard.bad.iter().filter(|place| !reached.places.contains(place)).collect();
    unreached.sort_unstable();
    for (archive, at) in unreached {
        let (file, byte) = bundle.archives[*archive as usize].stream.place(*at);
        let says = format!("the content at byte {byte} has other bytes than its digest says; no tag reaches it");
        heard.findings.add(Problem::UnreachedBytes, file, says);
    }
    let mut findings = bundle.findings.clone();
    heard.findings.named.sort_by(|one, other| (&one.place, one.problem).cmp(&(&other.place, other.problem)));
    findings.append(&heard.findings);
    findings.append(&reached.findings);
    Ok(Verification {
        whole: findings.damage == 0,
        files: heard.files,
        bytes: heard.bytes,
        contents: heard.contents,
        sums: heard.sums,
        tags: reached.tags,
        images: reached.images,
        more_findings: findings.more(),
        damage: findings.damage,
        findings: findings.named,
    })
}

impl Heard {
    fn join(self, all: &mut Self) {
        all.files += self.files;
        all.bytes += self.bytes;
        all.contents += self.contents;
        all.sums += self.sums;
        all.bad.extend(self.bad);
        all.findings.append(&self.findings);
    }
}

/// One archive, as it is read.
struct Reading<'a> {
    number: u32,
    archive: &'a ArchiveFacts,
    /// Its contents, in the order of their bytes.
    contents: Vec<&'a Content>,
    /// The first of them that is not through.
    next: usize,
    hasher: Option<Hasher>,
    /// Of all chunks together, while all of them could be read: as of old there is one sum for them.
    joined: Option<GostSum>,
    told: &'a (dyn Fn(u64) + Sync),
    heard: Heard,
}

impl<'a> Reading<'a> {
    fn new(bundle: &'a Bundle, number: u32, archive: &'a ArchiveFacts, told: &'a (dyn Fn(u64) + Sync)) -> Self {
        let all = bundle.layouts.values().flat_map(|layout| &layout.contents);
        let mut contents: Vec<&Content> = all.filter(|content| content.archive == number).collect();
        contents.sort_by_key(|content| (content.at, content.length));
        let is_joined = archive.form == Form::Chunks && archive.sums.contains(&archive.stream.name);
        let joined = (is_joined && archive.loose.is_empty()).then(GostSum::default);
        Self { number, archive, contents, next: 0, hasher: None, joined, told, heard: Heard::default() }
    }

    fn archive(&mut self, buffer: &mut [u8]) {
        for part in self.archive.stream.parts() {
            self.file(&part.below, Some(part.start), part.length, buffer);
        }
        for (name, length) in &self.archive.loose {
            self.file(name, None, *length, buffer);
        }
        if let Some(sum) = self.joined.take() {
            self.compare(&self.archive.stream.name, sum);
        }
    }

    /// Holds the sum of a file, or of all chunks of one, against the one that lies beside it.
    fn compare(&mut self, name: &str, sum: GostSum) {
        let says = match gost::beside(self.archive.stream.folder(), name) {
            Ok(expected) => {
                self.heard.sums += 1;
                let found = sum.finish();
                if found == expected {
                    return;
                }
                format!("its GOST sum is {found}, where {name}{} says {expected}: it was changed", gost::SUFFIX)
            }
            Err(error) => format!("{name}{} can't be read: {error}", gost::SUFFIX),
        };
        self.heard.findings.add(Problem::Sum, name, says);
    }

    /// Reads a file that begins at `start` of the archive's bytes; `None`: nobody knows where.
    fn file(&mut self, name: &str, start: Option<u64>, length: u64, buffer: &mut [u8]) {
        let folder = self.archive.stream.folder();
        let file = match folder.file(name).and_then(|file| file.ok_or_else(|| std::io::ErrorKind::NotFound.into())) {
            Ok(file) => file,
            Err(error) => return self.unreadable(name, start, length, 0, &error),
        };
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        self.heard.files += 1;
        let mut sum = self.archive.sums.contains(name).then(GostSum::default);
        let mut at = 0;
        while at < length {
            let most = usize::try_from(length - at).unwrap_or(usize::MAX).min(buffer.len());
            let piece = &mut buffer[..most];
            if let Err(error) = file.read_exact_at(piece, at) {
                return self.unreadable(name, start, length, at, &error);
            }
            if let Some(start) = start {
                self.contents(start + at, piece);
            }
            for sum in [&mut sum, &mut self.joined].into_iter().flatten() {
                sum.update(piece);
            }
            at += most as u64;
            self.heard.bytes += most as u64;
            (self.told)(most as u64);
        }
        if let Some(start) = start {
            self.contents(start + length, &[]);
        }
        if let Some(sum) = sum {
            self.compare(name, sum);
        }
    }

    /// Hashes what of the archive's bytes, which `piece` are from `from` on, is of contents.
    fn contents(&mut self, from: u64, piece: &[u8]) {
        let end = from + piece.len() as u64;
        while let Some(content) = self.contents.get(self.next).copied() {
            let (first, behind) = (content.at.max(from), (content.at + content.length).min(end));
            if content.at > end || (content.at == end && content.length > 0) {
                return;
            }
            let hasher = self.hasher.get_or_insert_with(|| Hasher::new(Algorithm::Sha256));
            if first < behind {
                let inside = |at: u64| usize::try_from(at - from).unwrap_or(usize::MAX);
                hasher.update(&piece[inside(first)..inside(behind)]);
            }
            if content.at + content.length > end {
                return;
            }
            self.next += 1;
            self.heard.contents += 1;
            let found = self.hasher.take().map(Hasher::finish);
            if found != Some(content.digest()) {
                self.heard.bad.insert((self.number, content.at));
            }
        }
    }

    fn unreadable(&mut self, name: &str, start: Option<u64>, length: u64, at: u64, error: &std::io::Error) {
        self.heard.findings.add(Problem::Unreadable, name, format!("it can't be read at byte {at}: {error}"));
        self.joined = None;
        let Some(start) = start else { return };
        // What it has of contents is not known to be right.
        self.hasher = None;
        while let Some(content) = self.contents.get(self.next).filter(|content| content.at < start + length) {
            self.heard.bad.insert((self.number, content.at));
            self.next += 1;
        }
    }
}
