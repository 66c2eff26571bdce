//! Files by digest, and the repositories' names of them.
//!
//! A content's names are counted for some directories of `blobs/` at a time, so that a large store needs little memory and its
//! names are read more than once instead.

use std::collections::HashMap;
use std::fs::Metadata;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::finding::{Mend, Problem};
use super::{Hashed, How, LOOK, Verifier};
use crate::fs::stat;
use crate::oci::{Algorithm, Digest, RepoName};
use crate::store::contents::capacity::FOLDERS;
use crate::store::error::StoreError;
use crate::store::layout::Membership;
use crate::store::repositories::walk::{Members, Repositories, SkippedEntries};
use crate::telemetry::with_causes;

/// Contents whose names are counted at once, 16 to 32 bytes of memory each.
pub(super) const COUNTED_AT_ONCE: usize = 1 << 17;

/// Directories from which the number of contents is guessed.
const SAMPLED: usize = 4;

/// Contents with more names than the store has that are looked at once more under their lock, where all repositories have to
/// be asked.
const MOST_ASKED: u32 = 100;

const KINDS: [Membership; 2] = [Membership::Blob, Membership::Manifest];

const RELINK: How =
    (Mend::Push, "its bytes can be read; push it again in this repository, which leads the name to the content");
const COUNT: How = (
    Mend::Start,
    "stop the server, remove `usage` in the data directory and start it: contents are counted, and this one goes",
);
const KEPT: How = (
    Mend::Push,
    "only snapshots have it, and a restore would lack it: push what needs it again before one, or remove the snapshots",
);
const NAMES: How = (
    Mend::Look,
    "`find / -xdev -samefile` has the other names; as long as they are there a delete frees nothing. Never link a file of the store",
);

impl Verifier<'_> {
    /// All of them.
    pub(super) fn contents(&mut self) -> Result<(), StoreError> {
        let mut asked = 0;
        for range in self.ranges() {
            self.go_on()?;
            let names = self.members(&range)?;
            for folder in range {
                let first = u8::try_from(folder).unwrap_or(u8::MAX);
                for algorithm in Algorithm::ALL {
                    self.folder(algorithm, first, &names, &mut asked)?;
                }
                self.kept(first)?;
                self.shown.set(folder as u64 + 1, Some(FOLDERS as u64));
            }
        }
        if asked > MOST_ASKED {
            let left = asked - MOST_ASKED;
            self.note(format!("{left} more contents seem to have names outside of the store"));
        }
        Ok(())
    }

    /// Those of one repository.
    pub(super) fn contents_of(&mut self, repo: &RepoName) -> Result<(), StoreError> {
        let layout = self.layout();
        let skipped = SkippedEntries::kept();
        for kind in KINDS {
            for digest in Members::new(layout, repo, kind, &skipped) {
                self.go_on()?;
                let Some(facts) = self.member_facts(repo, kind, &digest)? else { continue };
                self.report.contents += 1;
                let path = self.member(repo, kind, &digest);
                if !self.options.quick && !self.tree().damage.is_listed(&digest, facts.ino()) {
                    self.judge(&digest, &path)?;
                }
            }
        }
        Ok(())
    }

    /// The directories of `blobs/` in parts whose contents' names can be counted at once.
    fn ranges(&self) -> Vec<Range<usize>> {
        let sampled = (0..SAMPLED).map(|folder| {
            let first = u8::try_from(folder).unwrap_or(u8::MAX);
            std::fs::read_dir(self.layout().content_folder(Algorithm::Sha256, first)).map_or(0, Iterator::count)
        });
        let in_one = sampled.sum::<usize>() / SAMPLED;
        let step = (COUNTED_AT_ONCE / in_one.max(1)).clamp(1, FOLDERS);
        (0..FOLDERS).step_by(step).map(|begin| begin..FOLDERS.min(begin + step)).collect()
    }

    /// Looks at the names in repositories of the contents in these directories; says how many lead to each file.
    fn members(&mut self, range: &Range<usize>) -> Result<HashMap<u64, u32>, StoreError> {
        let mut names = HashMap::new();
        let layout = self.layout();
        let skipped = SkippedEntries::kept();
        for repo in Repositories::new(layout, &skipped) {
            self.go_on()?;
            for kind in KINDS {
                for digest in Members::new(layout, &repo, kind, &skipped) {
                    let is_in = digest.as_bytes().first().is_some_and(|first| range.contains(&usize::from(*first)));
                    if is_in && let Some(facts) = self.member_facts(&repo, kind, &digest)? {
                        *names.entry(facts.ino()).or_default() += 1;
                    }
                }
            }
        }
        Ok(names)
    }

    /// What a repository's name leads to; `None`: nothing, or nothing that could be a content. Finds what is wrong with it.
    fn member_facts(
        &mut self,
        repo: &RepoName,
        kind: Membership,
        digest: &Digest,
    ) -> Result<Option<Metadata>, StoreError> {
        let path = self.member(repo, kind, digest);
        let facts = match stat(&path) {
            Ok(Some(facts)) => facts,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.found(Problem::Unreadable, &path, with_causes(&error), LOOK);
                return Ok(None);
            }
        };
        if !facts.is_file() {
            self.foreign(&path, "it is in the place of a content and no file");
            return Ok(None);
        }
        let is_same = |facts: &Metadata, content: &Option<Metadata>| {
            content.as_ref().is_some_and(|content| content.ino() == facts.ino())
        };
        let content_path = self.layout().content(digest);
        if is_same(&facts, &stat(&content_path).unwrap_or(None)) {
            return Ok(Some(facts));
        }
        // Once more, while nobody links or removes it.
        let (now, content) = {
            let _locked = self.tree().lock(digest);
            (stat(&path).unwrap_or(None), stat(&content_path).unwrap_or(None))
        };
        let Some(facts) = now else { return Ok(None) };
        // What is on the list is told as damage; where a whole one is there, the name is led to it.
        if is_same(&facts, &content) || self.tree().damage.is_listed(digest, facts.ino()) {
            return Ok(Some(facts));
        }
        if content.is_none() {
            let what = "the repository has a content that is not in `blobs/`: it is served, and counted nowhere";
            let place = self.found(Problem::NoContent, &path, what, RELINK);
            self.of(place, Some(repo), Some(digest));
            return Ok(Some(facts));
        }
        match self.hash(digest, &path)? {
            Hashed::Sound => {
                let what = "the repository has a copy of the content: it takes its room twice, and is counted once";
                let place = self.found(Problem::Apart, &path, what, RELINK);
                self.of(place, Some(repo), Some(digest));
            }
            Hashed::Wrong { length } => {
                let what = "the bytes are not those of the digest";
                self.bad(Problem::WrongBytes, digest, &path, Some(length), what);
            }
            Hashed::Unreadable(why) => {
                self.bad(Problem::Unreadable, digest, &path, None, &format!("it can't be read: {why}"));
            }
            Hashed::Gone => {}
        }
        Ok(Some(facts))
    }

    fn folder(
        &mut self,
        algorithm: Algorithm,
        first: u8,
        names: &HashMap<u64, u32>,
        asked: &mut u32,
    ) -> Result<(), StoreError> {
        let folder = self.layout().content_folder(algorithm, first);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                self.found(Problem::Unreadable, &folder, format!("the directory can't be read: {error}"), LOOK);
                return Ok(());
            }
        };
        for entry in entries {
            let path = match entry {
                Ok(entry) => entry.path(),
                Err(error) => {
                    self.found(Problem::Unreadable, &folder, format!("the directory can't be read: {error}"), LOOK);
                    return Ok(());
                }
            };
            self.go_on()?;
            let hex = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let digest = Digest::from_hex(algorithm, hex).ok();
            let Some(digest) = digest.filter(|digest| self.layout().content(digest) == path) else {
                self.foreign(&path, "its name is no digest of this directory");
                continue;
            };
            self.content(&digest, &path, names, asked)?;
        }
        Ok(())
    }

    /// What snapshots alone keep of a folder of contents.
    fn kept(&mut self, first: u8) -> Result<(), StoreError> {
        let mut kept = Vec::new();
        let read = self.tree().each_held(first, |digest, path, facts| kept.push((digest, path, facts.ino())));
        if let Err(error) = read {
            self.found(Problem::Unreadable, &self.layout().snapshots(), with_causes(&error), LOOK);
        }
        for (digest, path, inode) in kept {
            self.go_on()?;
            self.report.contents += 1;
            if self.options.quick {
                continue;
            }
            let (problem, what) = match self.hash(&digest, &path)? {
                Hashed::Sound | Hashed::Gone => continue,
                Hashed::Wrong { .. } => (Problem::WrongBytes, "the bytes are not those of the digest".to_owned()),
                Hashed::Unreadable(why) => (Problem::Unreadable, format!("it can't be read: {why}")),
            };
            let breaks = {
                let _locked = self.tree().lock(&digest);
                let is_there = matches!(stat(&path), Ok(Some(at)) if at.ino() == inode);
                if !is_there || self.tree().damage.is_listed(&digest, inode) {
                    continue;
                }
                self.tree().kept_by(&digest, inode)
            };
            let place = self.found(problem, &path, what, KEPT);
            self.of(place, None, Some(&digest));
            if let Some(finding) = place.and_then(|place| self.report.findings.get_mut(place)) {
                finding.breaks = breaks.into_iter().map(|name| format!("snapshot {name}")).collect();
            }
        }
        Ok(())
    }

    fn content(
        &mut self,
        digest: &Digest,
        path: &Path,
        names: &HashMap<u64, u32>,
        asked: &mut u32,
    ) -> Result<(), StoreError> {
        let facts = match stat(path) {
            Ok(Some(facts)) => facts,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.bad(Problem::Unreadable, digest, path, None, &with_causes(&error));
                return Ok(());
            }
        };
        if !facts.is_file() {
            self.foreign(path, "it is in the place of a content and no file");
            return Ok(());
        }
        if self.tree().damage.is_listed(digest, facts.ino()) {
            return Ok(());
        }
        self.report.contents += 1;
        self.content_bytes += facts.len();
        let members = u64::from(names.get(&facts.ino()).copied().unwrap_or(0));
        let known = 1 + members;
        if members == 0 {
            self.nobodys(digest, path);
        } else if facts.nlink() > known && facts.nlink() > known + self.snapshot_links(digest, &facts) {
            *asked += 1;
            if *asked <= MOST_ASKED {
                self.names(digest, path);
            }
        }
        if !self.options.quick {
            self.judge(digest, path)?;
        }
        Ok(())
    }

    /// How many of a file's names are snapshots'.
    fn snapshot_links(&self, digest: &Digest, facts: &Metadata) -> u64 {
        self.tree().snapshot_links(digest, facts.ino()).unwrap_or(0)
    }

    /// A content that no repository was found to have, if none has it while nobody links it.
    fn nobodys(&mut self, digest: &Digest, path: &Path) {
        let is_nobodys = {
            let _locked = self.tree().lock(digest);
            matches!(stat(path), Ok(Some(facts)) if matches!(self.tree().is_linked(digest, &facts), Ok(false)))
        };
        // The count behind an unclean stop removes it.
        if !is_nobodys || (self.is_running && !self.tree().capacity.all_counted()) {
            return;
        }
        let place =
            self.found(Problem::Nobodys, path, "no repository has the content: it takes room for nothing", COUNT);
        self.of(place, None, Some(digest));
    }

    /// A content with more names than were met, if they are no repository's while nobody links it.
    fn names(&mut self, digest: &Digest, path: &Path) {
        let layout = self.layout();
        let locked = self.tree().lock(digest);
        let Ok(Some(facts)) = stat(path) else { return };
        let leads = |path: &Path| matches!(stat(path), Ok(Some(at)) if at.ino() == facts.ino());
        let skipped = SkippedEntries::kept();
        let in_repositories = Repositories::new(layout, &skipped)
            .map(|repo| KINDS.iter().filter(|kind| leads(&layout.member(&repo, **kind, digest))).count() as u64)
            .sum::<u64>();
        let listed = std::fs::read_dir(layout.damaged_of(digest.algorithm()))
            .map_or(0, |entries| entries.flatten().filter(|entry| leads(&entry.path())).count() as u64);
        // Other places of the store that link contents are counted here.
        let moved = u64::from(leads(&layout.moved(digest)));
        let known = 1 + in_repositories + listed + moved + self.snapshot_links(digest, &facts);
        drop(locked);
        if facts.nlink() > known {
            let others = facts.nlink() - known;
            let what = format!("the file has {others} names outside of the store");
            let place = self.found(Problem::ForeignLinks, path, what, NAMES);
            self.of(place, None, Some(digest));
        }
    }

    /// Hashes a file of a content; what is wrong is so while it still has its place.
    pub(super) fn judge(&mut self, digest: &Digest, path: &Path) -> Result<(), StoreError> {
        if self.is_bad(digest) {
            return Ok(());
        }
        let before = stat(path).unwrap_or(None).map(|facts| facts.ino());
        let (problem, length, what) = match self.hash(digest, path)? {
            Hashed::Sound | Hashed::Gone => return Ok(()),
            Hashed::Wrong { length } => {
                (Problem::WrongBytes, Some(length), "the bytes are not those of the digest".to_owned())
            }
            Hashed::Unreadable(why) => (Problem::Unreadable, None, format!("it can't be read: {why}")),
        };
        let is_there = {
            let _locked = self.tree().lock(digest);
            matches!(stat(path), Ok(Some(at)) if Some(at.ino()) == before && !self.tree().damage.is_listed(digest, at.ino()))
        };
        if is_there {
            self.bad(problem, digest, path, length, &what);
        }
        Ok(())
    }
}
