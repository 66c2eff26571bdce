//! Contents and their membership in repositories. All of it blocks, except [`Contents::open_now`].
//!
//! A content lies once under `blobs/`; a repository has it through a hard link. Adding, linking and removing a content
//! happen under one lock per first byte of its digest, so bytes can't go between being found and being linked.

use std::collections::VecDeque;
use std::fs::{File, Metadata, ReadDir};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fail::fail_point;
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::{Errno, retry_on_intr};

use super::StoreError;
use super::capacity::{Capacity, FOLDERS, folder_of};
use super::damage::{Condemned, Damage, Found, is_sound};
use super::layout::{Layout, Membership};
use super::manifests::Memory;
use crate::fs::{Disk, Temporary, is_absence, stat};
use crate::oci::{Algorithm, Digest, RepoName};
use crate::telemetry::DamageCause;

/// Names that a count looks at under one lock: a stat of something just looked at each.
const COUNT_BATCH: usize = 256;

#[derive(Debug)]
pub(super) struct Contents {
    /// The data folder, for opening beneath it.
    root: OwnedFd,
    locks: Box<[Mutex<()>]>,
}

/// What looking without waiting found.
#[derive(Debug)]
pub(super) enum Looked {
    Found(File),
    Absent,
    /// The answer is not in memory, or this kernel can't tell: ask [`Contents::open`] from a blocking thread.
    Unknown,
}

/// The parts that an operation on contents needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct ContentOps<'a> {
    pub(super) layout: &'a Layout,
    pub(super) disk: &'a Disk,
    pub(super) capacity: &'a Capacity,
    pub(super) contents: &'a Contents,
    pub(super) damage: &'a Damage,
    pub(super) memory: &'a Memory,
}

impl Contents {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root, locks: (0..FOLDERS).map(|_| Mutex::new(())).collect() }
    }

    /// Opens a repository's content if that needs no disk (`RESOLVE_CACHED`, Linux 5.12).
    pub(super) fn open_now(&self, repo: &RepoName, kind: Membership, digest: &Digest) -> Looked {
        let path = Layout::member_beneath(repo, kind, digest);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::CACHED;
        match untouched(flags, |flags| openat2(&self.root, &path, flags, Mode::empty(), resolve)) {
            Ok(file) => Looked::Found(file.into()),
            Err(Errno::NOENT) => Looked::Absent,
            Err(_) => Looked::Unknown,
        }
    }

    /// Opens a repository's content; `None` if it is not the repository's.
    pub(super) fn open(
        layout: &Layout,
        repo: &RepoName,
        kind: Membership,
        digest: &Digest,
    ) -> Result<Option<File>, StoreError> {
        open_content(&layout.member(repo, kind, digest))
    }

    pub(super) fn lock(&self, digest: &Digest) -> MutexGuard<'_, ()> {
        self.lock_folder(folder_of(digest))
    }

    fn lock_folder(&self, folder: usize) -> MutexGuard<'_, ()> {
        self.locks[folder].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the content, or the membership, at `path`; `None` if there is none. Blocking.
pub(super) fn open_content(path: &Path) -> Result<Option<File>, StoreError> {
    // Nothing of ours is a symlink; one put there could lead anywhere.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let open = |flags| retry_on_intr(|| open(path, flags, Mode::empty()));
    match untouched(flags, open).map_err(io::Error::from) {
        Ok(file) => Ok(Some(file.into())),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(StoreError::io("open", path)(error)),
    }
}

/// Opens so that reading does not set the time of the last access, which costs at each of a file's pieces and means
/// nothing here. Only a file's owner may ask for that (open(2), `O_NOATIME`): a store that another user wrote is read as
/// ever.
fn untouched(flags: OFlags, open: impl Fn(OFlags) -> rustix::io::Result<OwnedFd>) -> rustix::io::Result<OwnedFd> {
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        other => other,
    }
}

impl ContentOps<'_> {
    /// Makes the synced file behind `temporary`, whose `size` bytes are the digest's, a content and a member of `repo`;
    /// durable when it answers.
    ///
    /// `false`: the content was there already, and the file is gone. What is there is believed only after it was read and
    /// hashed; if it is damaged, the new file takes its place. On an error the file is gone too, and no content of nobody is
    /// left.
    pub(super) fn add(
        &self,
        temporary: Temporary,
        size: u64,
        repo: &RepoName,
        kind: Membership,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        let path = self.layout.content(digest);
        // Before anybody waits for the lock.
        let seen = self.look_at_content(digest, size)?;
        let _locked = self.contents.lock(digest);
        let added = match stat(&path)? {
            None => true,
            Some(found) => {
                let inode = found.ino();
                let is_bad = seen == Found::Bad(inode) || self.damage.is_listed(digest, inode);
                // Who put another one there meanwhile had verified it.
                if is_bad || (seen != Found::Sound(inode) && found.len() != size) {
                    self.give_way(digest, &found, &path, size);
                    true
                } else {
                    false
                }
            }
        };
        if added {
            fail_point!("store::content::before_rename");
            if self.recharge_damaged(digest) {
                self.capacity.remove_content(digest, size);
            }
            self.disk.rename(temporary, &path)?;
            self.capacity.add_content(digest, size);
            fail_point!("store::content::after_rename");
        } else {
            drop(temporary);
        }
        // Also for one that was there: a killed server may have left its name unsynced.
        let linked = self.disk.sync_directory_of(&path).map_err(StoreError::from).and_then(|()| {
            fail_point!("store::content::before_link");
            self.link(&path, repo, kind, digest)
        });
        if let Err(error) = linked {
            // A full disk has room for the content and none for its link: nobody's content must not stay.
            if let Err(kept) = self.reclaim(digest) {
                tracing::warn!(%digest, error = %kept, "a content that no repository has is left until it is counted");
            }
            return Err(error);
        }
        self.capacity.note_tried();
        self.drop_mended(digest, &[]);
        if self.damage.has(digest) {
            // Others still have the damaged file.
            self.damage.call();
        }
        Ok(added)
    }

    /// What stands in the place of verified bytes goes on the list, unless so much does that the disk is at fault: then the
    /// new content takes its place all the same, and whoever else has the old one keeps it. The lock is held.
    fn give_way(&self, digest: &Digest, found: &Metadata, path: &Path, size: u64) {
        if !found.is_file() || self.damage.is_listed(digest, found.ino()) {
            return;
        }
        if self.condemn_locked(digest, found, path, DamageCause::Unreadable) != Condemned::Listed {
            self.capacity.remove_content(digest, size);
        }
    }

    /// Makes a content that is there a member of `to`. `from`: only if it is one of that repository's blobs; `None`: if
    /// any repository has it.
    pub(super) fn mount(&self, from: Option<&RepoName>, to: &RepoName, digest: &Digest) -> Result<bool, StoreError> {
        let _locked = self.contents.lock(digest);
        let content = self.layout.content(digest);
        let whole = |path: &Path| -> Result<Option<Metadata>, StoreError> {
            Ok(stat(path)?.filter(|found| !self.damage.is_listed(digest, found.ino())))
        };
        let source = match from {
            Some(from) => {
                let member = self.layout.member(from, Membership::Blob, digest);
                // The source has it, if only a damaged one: what mends the source does for the target too.
                match stat(&member)? {
                    Some(found) if self.damage.is_listed(digest, found.ino()) => content,
                    _ => member,
                }
            }
            None => content,
        };
        match whole(&source)? {
            Some(found) if from.is_some() || found.nlink() > 1 => {
                // A name and perhaps a folder, no bytes.
                self.capacity.admit(0)?;
                self.link(&source, to, Membership::Blob, digest)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Takes a content out of a repository; the bytes go with the last membership. `false`: it was not a member.
    pub(super) fn remove(&self, repo: &RepoName, kind: Membership, digest: &Digest) -> Result<bool, StoreError> {
        let _locked = self.contents.lock(digest);
        let member = self.layout.member(repo, kind, digest);
        if !self.disk.unlink(&member)? {
            return Ok(false);
        }
        self.disk.sync_directory_of(&member)?;
        fail_point!("store::content::before_reclaim");
        self.reclaim(digest)?;
        Ok(true)
    }

    /// Removes a content that no repository has. Its lock is held.
    fn reclaim(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.layout.content(digest);
        if let Some(found) = stat(&path)?
            && found.nlink() == 1
        {
            self.disk.unlink(&path)?;
            self.capacity.remove_content(digest, found.len());
        }
        self.drop_mended(digest, &[]);
        Ok(())
    }

    /// Gives the file at `source` its name in a repository, durably. Its lock is held.
    fn link(&self, source: &Path, repo: &RepoName, kind: Membership, digest: &Digest) -> Result<(), StoreError> {
        let member = self.layout.member(repo, kind, digest);
        let mut linked = self.disk.link(source, &member);
        if linked.as_ref().is_err_and(is_absence) {
            self.disk.make_directory(&self.layout.members(repo, kind, digest.algorithm()))?;
            linked = self.disk.link(source, &member);
        }
        match linked {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.replace_member(source, &member, digest)?;
            }
            Err(error) if error.kind() == io::ErrorKind::TooManyLinks => self.renew(source, &member, digest)?,
            Err(error) => return Err(StoreError::io("link to", &member)(error)),
        }
        fail_point!("store::content::after_link");
        Ok(self.disk.sync_directory_of(&member)?)
    }

    /// A name that leads to another file than `source` leads to that one afterwards. Not durable before a sync of its
    /// folder. Its lock is held.
    pub(super) fn replace_member(&self, source: &Path, member: &Path, digest: &Digest) -> Result<(), StoreError> {
        if let (Some(content), Some(found)) = (stat(source)?, stat(member)?)
            && (content.dev(), content.ino()) == (found.dev(), found.ino())
        {
            return Ok(());
        }
        let path = self.layout.temporary();
        match self.disk.link(source, &path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::TooManyLinks => self.renew(source, &path, digest)?,
            Err(error) => return Err(StoreError::io("link to", &path)(error)),
        }
        Ok(self.disk.rename(Temporary::adopt(path), member)?)
    }

    /// The content has as many links as the file system allows (ext4: 65,000): a copy takes its place and begins to
    /// count anew; the older memberships keep the older file. A copy that is not the content is none.
    fn renew(&self, source: &Path, member: &Path, digest: &Digest) -> Result<(), StoreError> {
        let content = self.layout.content(digest);
        let temporary = self.layout.temporary();
        let copy = self.disk.copy(source, temporary.clone())?;
        if !is_sound(&temporary, digest)? {
            return Err(StoreError::damaged(source, "the stored content is not what its digest says"));
        }
        self.disk.rename(copy, &content)?;
        // A count that reads the folder just now may not meet the new file.
        if let Some(found) = stat(&content)? {
            self.capacity.see_content(digest, found.len());
        }
        self.disk.sync_directory_of(&content)?;
        self.disk.link(&content, member).map_err(StoreError::io("link to", member))
    }
}

impl<'a> ContentOps<'a> {
    /// Adds up one folder of contents and removes those that no repository has (a crash between rename and link).
    pub(super) fn count_folder(self, folder: usize) -> Result<(), StoreError> {
        let Some(mut counting) = self.begin_count(folder) else { return Ok(()) };
        while counting.step(COUNT_BATCH)? {}
        Ok(())
    }

    /// Begins the count of a folder, or one anew that failed half-way; `None` if it was counted.
    pub(super) fn begin_count(self, folder: usize) -> Option<Counting<'a>> {
        let _locked = self.contents.lock_folder(folder);
        self.capacity.begin_count(folder).then(|| Counting {
            ops: self,
            folder,
            waiting: Algorithm::ALL.into_iter().collect(),
            reading: None,
        })
    }
}

/// The count of one folder, some names at a time; the folder's lock is held for a batch only.
///
/// A name that is there all the time is met by reading the folder; one that comes or goes meanwhile is charged or
/// refunded by whoever changes it. What was met or charged is remembered until the end, so nothing counts twice.
#[derive(Debug)]
pub(super) struct Counting<'a> {
    ops: ContentOps<'a>,
    folder: usize,
    waiting: VecDeque<Algorithm>,
    reading: Option<(Algorithm, ReadDir)>,
}

impl Counting<'_> {
    /// Counts up to `limit` names; `false`: there are no more, the folder is counted.
    pub(super) fn step(&mut self, limit: usize) -> Result<bool, StoreError> {
        let batch = self.batch(limit)?;
        crate::telemetry::disk_moved();
        for (_, path) in &batch {
            // A disk that has to look for them does so before anybody waits for the lock.
            let _ = stat(path);
        }
        let _locked = self.ops.contents.lock_folder(self.folder);
        for (digest, path) in &batch {
            let Some(facts) = stat(path)? else { continue };
            if self.ops.damage.is_listed(digest, facts.ino()) {
                // Charged as damaged.
                continue;
            }
            if facts.nlink() == 1 && facts.is_file() {
                match self.ops.disk.unlink(path) {
                    Ok(_) => {
                        self.ops.capacity.remove_content(digest, facts.len());
                        continue;
                    }
                    // It takes its room until it is counted after another unclean stop.
                    Err(error) if error.is_read_only() => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.ops.capacity.see_content(digest, facts.len());
        }
        if batch.is_empty() {
            self.ops.capacity.end_count(self.folder);
        }
        Ok(!batch.is_empty())
    }

    /// The next names; none at the end.
    fn batch(&mut self, limit: usize) -> Result<Vec<(Digest, PathBuf)>, StoreError> {
        let mut batch = Vec::new();
        while batch.len() < limit {
            let (algorithm, entries) = match &mut self.reading {
                Some((algorithm, entries)) => (*algorithm, entries),
                None => {
                    let Some(algorithm) = self.waiting.pop_front() else { break };
                    let path = self.path(algorithm);
                    let entries = std::fs::read_dir(&path).map_err(StoreError::io("read", &path))?;
                    self.reading = Some((algorithm, entries));
                    continue;
                }
            };
            match entries.next() {
                Some(entry) => {
                    let entry = entry.map_err(StoreError::io("read", &self.path(algorithm)))?;
                    let digest = entry.file_name().to_str().and_then(|hex| Digest::from_hex(algorithm, hex).ok());
                    // What has another name is not ours: neither counted nor removed.
                    batch.extend(digest.map(|digest| (digest, entry.path())));
                }
                None => self.reading = None,
            }
        }
        Ok(batch)
    }

    fn path(&self, algorithm: Algorithm) -> PathBuf {
        self.ops.layout.content_folder(algorithm, u8::try_from(self.folder).unwrap_or(u8::MAX))
    }
}

/// Longest blob that is kept in memory, in bytes.
pub(super) const SMALL: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_users_file_is_opened_as_ever() {
        let (dir, calls) = (tempfile::tempdir().unwrap(), std::cell::RefCell::new(Vec::new()));
        let refuse_noatime = |flags: OFlags| {
            calls.borrow_mut().push(flags);
            if flags.contains(OFlags::NOATIME) { Err(Errno::PERM) } else { open(dir.path(), flags, Mode::empty()) }
        };
        untouched(OFlags::RDONLY, refuse_noatime).unwrap();
        assert_eq!(*calls.borrow(), [OFlags::RDONLY | OFlags::NOATIME, OFlags::RDONLY]);
        // No other failure is tried twice.
        let absent = untouched(OFlags::RDONLY, |flags| open(dir.path().join("absent"), flags, Mode::empty()));
        assert_eq!(absent.unwrap_err(), Errno::NOENT);
    }
}
