//! Reading the tree from its root down: which repositories there are, and what each holds.
//!
//! Never changes anything, and takes no lock: what it yields was there a moment ago. Entries that can't be ours
//! (a file name that is no tag, a folder that is no name) are left out, logged and counted.

use std::collections::VecDeque;
use std::fs::{DirEntry, ReadDir};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::oci::{Algorithm, Digest, RepoName, Tag};
use crate::store::layout::{Layout, Membership};

/// Number of skipped entries that are named in the log; the rest is only counted.
const NAMED: u64 = 20;

/// Entries that a walk came across and could not use.
#[derive(Debug, Default)]
pub(crate) struct SkippedEntries {
    count: AtomicU64,
    /// `None`: they are named in the log.
    kept: Option<Mutex<Vec<(PathBuf, String)>>>,
}

impl SkippedEntries {
    /// For who wants to have them, each with the reason, and no line in the log.
    pub(crate) fn kept() -> Self {
        Self { count: AtomicU64::new(0), kept: Some(Mutex::default()) }
    }

    /// Counts one, and names the first few in the log.
    pub(crate) fn note(&self, path: &Path, reason: &dyn std::fmt::Display) {
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        match &self.kept {
            Some(kept) => {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push((path.to_path_buf(), reason.to_string()));
            }
            None if before < NAMED => {
                tracing::warn!(path = %path.display(), %reason, "an entry of the store can't be used and is left out");
            }
            None => {}
        }
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Those that were kept since the last call.
    pub(crate) fn take(&self) -> Vec<(PathBuf, String)> {
        let kept = self.kept.as_ref().map(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner));
        kept.map(|mut kept| std::mem::take(&mut *kept)).unwrap_or_default()
    }
}

/// All repositories of a tree, parents before children, else in no order. Holds the names of folders still to be
/// read, not of repositories already yielded.
#[derive(Debug)]
pub(crate) struct Repositories<'a> {
    layout: &'a Layout,
    skipped: &'a SkippedEntries,
    /// `None`: the folder of all repositories.
    folders: VecDeque<Option<RepoName>>,
    found: VecDeque<RepoName>,
}

impl<'a> Repositories<'a> {
    /// Begins a walk.
    pub(crate) fn new(layout: &'a Layout, skipped: &'a SkippedEntries) -> Self {
        Self { layout, skipped, folders: VecDeque::from([None]), found: VecDeque::new() }
    }

    fn read_folder(&mut self, parent: Option<&RepoName>) {
        let path = parent.map_or_else(|| self.layout.repositories(), |name| self.layout.repository(name));
        let Some(entries) = open_folder(&path, self.skipped) else { return };
        let mut holds_something = false;
        for entry in readable(entries, &path, self.skipped) {
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b"_") {
                holds_something = true;
                continue;
            }
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.skipped.note(&entry.path(), &"not a folder");
                continue;
            }
            let text = name.to_str().unwrap_or("\u{fffd}");
            let child = match parent {
                Some(parent) => RepoName::parse_stored(&format!("{parent}/{text}")),
                None => RepoName::parse_stored(text),
            };
            match child {
                Ok(child) => self.folders.push_back(Some(child)),
                Err(reason) => self.skipped.note(&entry.path(), &reason),
            }
        }
        if let Some(parent) = parent.filter(|_| holds_something) {
            self.found.push_back(parent.clone());
        }
    }
}

impl Iterator for Repositories<'_> {
    type Item = RepoName;

    fn next(&mut self) -> Option<RepoName> {
        loop {
            if let Some(found) = self.found.pop_front() {
                return Some(found);
            }
            // Depth first: the list stays as short as the tree is wide.
            let folder = self.folders.pop_back()?;
            self.read_folder(folder.as_ref());
        }
    }
}

/// The tags of one repository, in no order.
#[derive(Debug)]
pub(crate) struct Tags<'a> {
    entries: Option<ReadDir>,
    folder: PathBuf,
    skipped: &'a SkippedEntries,
}

impl<'a> Tags<'a> {
    /// Begins to read them.
    pub(crate) fn new(layout: &Layout, repo: &RepoName, skipped: &'a SkippedEntries) -> Self {
        let folder = layout.tags(repo);
        Self { entries: open_folder(&folder, skipped), folder, skipped }
    }
}

impl Iterator for Tags<'_> {
    type Item = Tag;

    fn next(&mut self) -> Option<Tag> {
        loop {
            let entry = next_entry(self.entries.as_mut()?, &self.folder, self.skipped)?;
            match entry.file_name().to_str().unwrap_or("").parse() {
                Ok(tag) => return Some(tag),
                Err(reason) => self.skipped.note(&entry.path(), &reason),
            }
        }
    }
}

/// The manifests, or the blobs, of one repository, in no order.
#[derive(Debug)]
pub(crate) struct Members<'a> {
    layout: &'a Layout,
    repo: RepoName,
    kind: Membership,
    left: &'static [Algorithm],
    current: Option<(Algorithm, PathBuf, ReadDir)>,
    skipped: &'a SkippedEntries,
}

impl<'a> Members<'a> {
    /// Begins to read the manifests.
    pub(crate) fn manifests(layout: &'a Layout, repo: &RepoName, skipped: &'a SkippedEntries) -> Self {
        Self::new(layout, repo, Membership::Manifest, skipped)
    }

    /// Begins to read those of one kind.
    pub(crate) fn new(layout: &'a Layout, repo: &RepoName, kind: Membership, skipped: &'a SkippedEntries) -> Self {
        Self { layout, repo: repo.clone(), kind, left: &Algorithm::ALL, current: None, skipped }
    }
}

impl Iterator for Members<'_> {
    type Item = Digest;

    fn next(&mut self) -> Option<Digest> {
        loop {
            while let Some((algorithm, folder, entries)) = &mut self.current {
                let Some(entry) = next_entry(entries, folder, self.skipped) else {
                    self.current = None;
                    break;
                };
                match Digest::from_hex(*algorithm, entry.file_name().to_str().unwrap_or("")) {
                    Ok(digest) => return Some(digest),
                    Err(reason) => self.skipped.note(&entry.path(), &reason),
                }
            }
            let (&algorithm, left) = self.left.split_first()?;
            self.left = left;
            let folder = self.layout.members(&self.repo, self.kind, algorithm);
            self.current = open_folder(&folder, self.skipped).map(|entries| (algorithm, folder, entries));
        }
    }
}

/// Whether the repository holds a manifest.
pub(crate) fn holds_manifest(layout: &Layout, repo: &RepoName) -> bool {
    Members::manifests(layout, repo, &SkippedEntries::default()).next().is_some()
}

/// Whether the repository holds a manifest, a tag or a blob.
pub(crate) fn holds_anything(layout: &Layout, repo: &RepoName) -> bool {
    let holds_blob = || Members::new(layout, repo, Membership::Blob, &SkippedEntries::default()).next().is_some();
    holds_blob() || holds_manifest(layout, repo) || Tags::new(layout, repo, &SkippedEntries::default()).next().is_some()
}

/// A missing folder is an empty one: it is made with its first entry, and may go with its last.
fn open_folder(path: &Path, skipped: &SkippedEntries) -> Option<ReadDir> {
    match std::fs::read_dir(path) {
        Ok(entries) => Some(entries),
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                skipped.note(path, &error);
            }
            None
        }
    }
}

fn next_entry(entries: &mut ReadDir, folder: &Path, skipped: &SkippedEntries) -> Option<DirEntry> {
    match entries.next()? {
        Ok(entry) => Some(entry),
        Err(error) => {
            // The system may answer the same error for ever.
            skipped.note(folder, &error);
            None
        }
    }
}

fn readable<'a>(
    mut entries: ReadDir,
    folder: &'a Path,
    skipped: &'a SkippedEntries,
) -> impl Iterator<Item = DirEntry> + use<'a> {
    std::iter::from_fn(move || next_entry(&mut entries, folder, skipped))
}
