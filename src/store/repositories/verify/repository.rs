//! One repository: its directories, tags, manifests with what they name, and kept lists.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::finding::{Mend, Problem};
use super::{How, LOOK, PUSH, Verifier};
use crate::fs::{is_absence, stat};
use crate::oci::{Algorithm, Descriptor, Digest, Manifest, RepoName, Tag};
use crate::store::error::StoreError;
use crate::store::layout::{Layout, Membership};
use crate::store::repositories::rebuild::read_file;
use crate::store::repositories::tags::read_tag;
use crate::store::repositories::walk::{Members, SkippedEntries, Tags};
use crate::store::stored::ListKind;

const PUSH_TAG: How = (Mend::Push, "push the tag again, or delete it");
const ASK_AGAIN: How = (Mend::Fetch, "Proxy asks the upstream for it again");

impl Verifier<'_> {
    /// All of it but the bytes of its blobs.
    pub(super) fn repository(&mut self, repo: &RepoName) -> Result<(), StoreError> {
        self.go_on()?;
        self.report.repositories += 1;
        self.directories(repo);
        let skipped = SkippedEntries::kept();
        let mut referrers = Vec::new();
        for digest in Members::manifests(self.layout(), repo, &skipped) {
            self.go_on()?;
            self.report.manifests += 1;
            if let Some(manifest) = self.manifest(repo, &digest) {
                referrers.extend(manifest.subject.as_ref().map(|subject| (subject.digest, digest)));
                if !repo.is_cached() && !self.options.allow_missing {
                    self.references(repo, &digest, &manifest)?;
                }
            }
        }
        // For names that are none, once: other walks of the blobs have no eyes for them.
        Members::new(self.layout(), repo, Membership::Blob, &skipped).for_each(drop);
        let mut tags = Vec::new();
        for tag in Tags::new(self.layout(), repo, &skipped) {
            self.report.tags += 1;
            self.tag(repo, &tag);
            tags.push(tag);
        }
        self.skipped(&skipped);
        self.kept_lists(repo);
        self.compare(repo, tags, referrers)
    }

    /// Directories and files that a repository does not have.
    fn directories(&mut self, repo: &RepoName) {
        let folder = self.layout().repository(repo);
        for (name, path) in self.entries(&folder).into_iter().filter(|(name, _)| name.starts_with('_')) {
            if !Layout::is_part_of_a_repository(&name) {
                self.foreign(&path, "a repository has no such part");
            } else if !path.is_dir() {
                self.foreign(&path, "it is in the place of a directory");
            }
        }
        for kind in [Membership::Blob, Membership::Manifest] {
            let [known, of] = Algorithm::ALL.map(|algorithm| self.layout().members(repo, kind, algorithm));
            let Some(folder) = known.parent() else { continue };
            for (_, path) in self.entries(folder) {
                if path != known && path != of {
                    self.foreign(&path, "it is no directory of an algorithm");
                }
            }
        }
    }

    /// Names and paths in a directory; one that is missing has none.
    pub(super) fn entries(&mut self, folder: &Path) -> Vec<(String, std::path::PathBuf)> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                if !is_absence(&error) {
                    self.found(Problem::Unreadable, folder, format!("the directory can't be read: {error}"), LOOK);
                }
                return Vec::new();
            }
        };
        let named = |entry: std::fs::DirEntry| (entry.file_name().to_string_lossy().into_owned(), entry.path());
        entries.flatten().map(named).collect()
    }

    /// A manifest that could be read and understood.
    fn manifest(&mut self, repo: &RepoName, digest: &Digest) -> Option<Manifest> {
        let path = self.member(repo, Membership::Manifest, digest);
        let facts = stat(&path).unwrap_or(None).filter(std::fs::Metadata::is_file)?;
        if self.is_bad(digest) || self.tree().damage.is_listed(digest, facts.ino()) {
            return None;
        }
        let bytes = match read_file(&path) {
            Ok(bytes) => bytes,
            Err(error) if is_absence(&error) => return None,
            Err(error) => {
                let name = self.name_of(digest, &path);
                self.bad(Problem::Unreadable, digest, &name, None, &format!("it can't be read: {error}"));
                return None;
            }
        };
        self.report.hashed_bytes += bytes.len() as u64;
        if digest.algorithm().digest(&bytes) != *digest {
            let is_there = {
                let _locked = self.tree().lock(digest);
                matches!(stat(&path), Ok(Some(at)) if at.ino() == facts.ino())
                    && !self.tree().damage.is_listed(digest, facts.ino())
            };
            if is_there {
                let name = self.name_of(digest, &path);
                let length = Some(bytes.len() as u64);
                self.bad(Problem::WrongBytes, digest, &name, length, "the bytes are not those of the digest");
            }
            return None;
        }
        // As a pull of it, or the collection, reads it.
        let read = if repo.is_cached() {
            Manifest::kept(&bytes).map_err(|error| error.to_string())
        } else {
            Manifest::parse(None, &bytes).map_err(|error| error.to_string())
        };
        match read {
            Ok(manifest) => Some(manifest),
            Err(error) => {
                let place = self.found(
                    Problem::ManifestUnreadable,
                    &path,
                    format!("it can't be understood: {error}"),
                    (
                        Mend::Push,
                        "delete it, or the image that needs it; nothing of the repository is collected before",
                    ),
                );
                self.of(place, Some(repo), Some(digest));
                self.unserved(repo, digest, place);
                None
            }
        }
    }

    /// The content's own name, if the other one leads to the same file.
    fn name_of(&self, digest: &Digest, path: &Path) -> std::path::PathBuf {
        let content = self.layout().content(digest);
        let inode = |path: &Path| stat(path).unwrap_or(None).map(|facts| facts.ino());
        if inode(&content) == inode(path) { content } else { path.to_path_buf() }
    }

    /// Whether all that a manifest names is in its repository.
    fn references(&mut self, repo: &RepoName, digest: &Digest, manifest: &Manifest) -> Result<(), StoreError> {
        let mut seen = HashSet::new();
        for Descriptor { digest: named, size, .. } in manifest.required_blobs().chain(&manifest.manifests) {
            if !seen.insert(*named) {
                continue;
            }
            match self.has(repo, named) {
                Some((path, length)) => {
                    if length != *size {
                        // Whether the file or the manifest is wrong, the hash says.
                        let path = self.name_of(named, &path);
                        self.judge(named, &path)?;
                    }
                }
                None => self.missing(repo, digest, named),
            }
        }
        Ok(())
    }

    /// The name by which a repository has a content, and the file's length.
    fn has(&self, repo: &RepoName, digest: &Digest) -> Option<(std::path::PathBuf, u64)> {
        [Membership::Blob, Membership::Manifest].into_iter().find_map(|kind| {
            let path = self.member(repo, kind, digest);
            // What can't be looked at is told elsewhere.
            stat(&path).map_or_else(|_| Some((path.clone(), 0)), |facts| facts.map(|facts| (path.clone(), facts.len())))
        })
    }

    /// A manifest that lacks something, if it does while no manifest of the repository comes or goes.
    fn missing(&mut self, repo: &RepoName, digest: &Digest, named: &Digest) {
        let path = self.member(repo, Membership::Manifest, digest);
        let lacks = {
            let _locked = self.manifests.tree().locks.lock(repo);
            matches!(stat(&path), Ok(Some(_))) && self.has(repo, named).is_none()
        };
        if lacks {
            let what = format!("it names {named}, which its repository does not have");
            let place = self.found(Problem::ReferenceMissing, &path, what, PUSH);
            self.of(place, Some(repo), Some(digest));
            self.unserved(repo, digest, place);
        }
    }

    fn tag(&mut self, repo: &RepoName, tag: &Tag) {
        if self.wrong_tag(repo, tag).is_none() {
            return;
        }
        let wrong = {
            let _locked = self.manifests.tree().locks.lock(repo);
            self.wrong_tag(repo, tag)
        };
        let Some((problem, what)) = wrong else { return };
        let path = self.layout().tag(repo, tag);
        if problem == Problem::Foreign {
            return self.foreign(&path, &what);
        }
        let how = if repo.is_cached() { ASK_AGAIN } else { PUSH_TAG };
        let place = self.found(problem, &path, what, how);
        self.of(place, Some(repo), None);
        if let Some(finding) = place.and_then(|place| self.report.findings.get_mut(place)) {
            finding.breaks.push(format!("{repo}:{tag}"));
        }
    }

    /// What is wrong with a tag.
    fn wrong_tag(&self, repo: &RepoName, tag: &Tag) -> Option<(Problem, String)> {
        let facts = stat(&self.layout().tag(repo, tag)).unwrap_or(None)?;
        if !facts.is_file() {
            return Some((Problem::Foreign, "it is in the place of a tag and no file".to_owned()));
        }
        match read_tag(self.layout(), repo, tag) {
            Ok(Some(target)) => {
                let member = stat(&self.member(repo, Membership::Manifest, &target)).unwrap_or(None);
                let what = || format!("it leads to {target}, which its repository does not have");
                member.is_none().then(|| (Problem::TagLeadsNowhere, what()))
            }
            Ok(None) => None,
            Err(error) => Some((Problem::TagUnreadable, crate::telemetry::with_causes(&error))),
        }
    }

    /// Lists of an upstream's.
    fn kept_lists(&mut self, repo: &RepoName) {
        let folder = self.layout().lists(repo);
        for (name, path) in self.entries(&folder) {
            if ListKind::of_file_name(&name).is_none() || !path.is_file() {
                self.foreign(&path, "no list has this name");
                continue;
            }
            let Ok(bytes) = std::fs::read(&path) else { continue };
            if serde_json::from_slice::<Vec<&serde_json::value::RawValue>>(&bytes).is_err() {
                let how = (Mend::Remove, "it is asked for again; remove the file where it stays");
                let place = self.found(Problem::ListUnreadable, &path, "the file does not hold a list", how);
                self.of(place, Some(repo), None);
            }
        }
    }
}
