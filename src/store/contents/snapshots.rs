//! The links of snapshots: names under `snapshots/` that keep the bytes of a content and make it nobody's.
//!
//! A directory of `snapshots/` has at most one link for a digest, so how many of a file's names are snapshots' is asked of the
//! tree: one look for each directory, and only where the link count leaves a doubt. What a snapshot means, and which
//! repositories had its contents, is the business of the floor above. All of it blocks.
//!
//! # Decisions
//! - A file that a snapshot links, that is not in `blobs/` and not on the list of damaged contents is *held*: its bytes are
//!   charged beside all others, once, however many snapshots link it.
//! - A content that was deleted, kept by a snapshot and pushed again lies there twice until the snapshot goes: what was pushed was
//!   verified, and what was kept is read by nobody.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use fail::fail_point;
use rustix::fs::{Advice, fadvise};
use tokio_util::sync::CancellationToken;

use super::beside::Beside;
use super::blob::Blob;
use super::damage::list::Verdict;
use super::files::Contents;
use super::open::open_content;
use super::snapshot_folders::MOST_SNAPSHOTS;
use super::uncached::{Buffer, Reading};
use crate::fs::{is_absence, stat};
use crate::oci::{Algorithm, Digest};
use crate::store::error::StoreError;
use crate::store::layout::SnapshotFolder;

/// What came of linking a content into a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Kept {
    /// It has a link now; its length in bytes.
    Linked(u64),
    /// It had one.
    Known,
    /// The name is gone: the repository does not have it any more.
    Gone,
    /// There is no whole file of it.
    Damaged,
}

/// What came of giving a content back to a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Returned {
    /// The repository has it.
    Was,
    /// It has it again.
    Linked,
    /// Only the snapshot has it, and nobody read it since: [`Contents::examine_kept`] has to.
    Unread,
    /// There is no whole file of it.
    Missing,
}

/// What the bytes are that only a snapshot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Examined {
    /// The digest's, in the file of that inode.
    Sound(u64),
    /// Others, or they can't be read.
    Bad,
    /// They were not read to their end.
    Stopped,
}

impl Contents {
    /// Whether the file with these facts, which is in `blobs/`, has a further name that is no snapshot's. The digest's lock is
    /// held.
    pub(in crate::store) fn is_linked(&self, digest: &Digest, facts: &Metadata) -> Result<bool, StoreError> {
        let further = facts.nlink().saturating_sub(1);
        let folders = self.snapshots.reading();
        if further == 0 || further > folders.len() as u64 {
            return Ok(further > 0);
        }
        Ok(further > self.links_in(&folders, digest, facts.ino())?)
    }

    /// How many snapshots link that file of the digest. Exact while the digest's lock is held.
    pub(in crate::store) fn snapshot_links(&self, digest: &Digest, inode: u64) -> Result<u64, StoreError> {
        self.links_in(&self.snapshots.reading(), digest, inode)
    }

    /// Whether a snapshot links that file of the digest. The digest's lock is held.
    pub(super) fn is_in_snapshot(&self, digest: &Digest, inode: u64) -> Result<bool, StoreError> {
        Ok(self.links_in(&self.snapshots.reading(), digest, inode)? > 0)
    }

    fn links_in(&self, folders: &[SnapshotFolder], digest: &Digest, inode: u64) -> Result<u64, StoreError> {
        let mut links = 0;
        for folder in folders {
            let found = stat(&self.layout.snapshot_content(folder, digest))?;
            links += u64::from(found.is_some_and(|found| found.ino() == inode));
        }
        Ok(links)
    }

    /// The file of the digest lost its place in `blobs/`, to another or to none: if a snapshot links it, that keeps its bytes.
    /// The digest's lock is held.
    pub(super) fn hold_if_kept(&self, digest: &Digest, inode: u64, bytes: u64) -> Result<(), StoreError> {
        if self.is_in_snapshot(digest, inode)? {
            self.capacity.hold(digest, bytes);
        }
        Ok(())
    }

    /// Bytes of one folder of contents that are held. Its lock is held.
    pub(super) fn held_in(&self, folder: usize) -> Result<u64, StoreError> {
        let mut held = 0;
        self.each_held(u8::try_from(folder).unwrap_or(u8::MAX), |_, _, facts| held += facts.len())?;
        Ok(held)
    }

    /// Hands over each file that is held of one folder of contents, once, under a link of a snapshot. Exact while the folder's
    /// lock is held.
    pub(in crate::store) fn each_held(
        &self,
        first: u8,
        mut each: impl FnMut(Digest, PathBuf, &Metadata),
    ) -> Result<(), StoreError> {
        let mut seen = HashSet::new();
        for algorithm in Algorithm::ALL {
            let there = entries_below(&self.layout.content_folder(algorithm, first), algorithm)?;
            let there: HashMap<Digest, u64> = there.into_iter().map(|(digest, inode, _)| (digest, inode)).collect();
            for snapshot in self.snapshots.reading().iter() {
                let links = entries_below(&self.layout.snapshot_contents(snapshot, algorithm, first), algorithm)?;
                // Most links lead to what is in blobs/: only the others are looked at.
                for (digest, _, path) in links.into_iter().filter(|(digest, inode, _)| there.get(digest) != Some(inode))
                {
                    let Some(facts) = stat(&path)? else { continue };
                    if self.is_held(&digest, facts.ino())? && seen.insert(facts.ino()) {
                        each(digest, path, &facts);
                    }
                    crate::telemetry::disk_moved();
                }
            }
        }
        Ok(())
    }

    /// The snapshots that are whole and link that file of the digest, by name.
    pub(in crate::store) fn kept_by(&self, digest: &Digest, inode: u64) -> Vec<String> {
        let links = |folder: &&SnapshotFolder| {
            let found = stat(&self.layout.snapshot_content(folder, digest));
            folder.is_whole && found.is_ok_and(|found| found.is_some_and(|found| found.ino() == inode))
        };
        self.snapshots.reading().iter().filter(links).map(|folder| folder.name.to_string()).collect()
    }

    /// Whether that file of the digest, which a snapshot links, is charged as held.
    fn is_held(&self, digest: &Digest, inode: u64) -> Result<bool, StoreError> {
        if self.damage.is_listed(digest, inode) {
            return Ok(false);
        }
        Ok(stat(&self.layout.content(digest))?.is_none_or(|content| content.ino() != inode))
    }

    /// Begins a snapshot: its directory, under the name that says that it is not whole. `false`: there are
    /// [`MOST_SNAPSHOTS`].
    pub(in crate::store) fn begin_snapshot(&self, folder: &SnapshotFolder) -> Result<bool, StoreError> {
        let mut folders = self.snapshots.writing();
        if folders.len() >= MOST_SNAPSHOTS {
            return Ok(false);
        }
        self.disk.make_directory(&self.layout.snapshot(folder))?;
        folders.push(folder.clone());
        folders.sort_unstable();
        Ok(true)
    }

    /// Gives a snapshot's directory the name that it has when it is whole, or takes that from it; durable when it answers.
    pub(in crate::store) fn rename_snapshot(
        &self,
        from: &SnapshotFolder,
        to: &SnapshotFolder,
    ) -> Result<(), StoreError> {
        let mut folders = self.snapshots.writing();
        let moved = self.disk.move_directory(&self.layout.snapshot(from), &self.layout.snapshot(to));
        // One whose sync failed has its new name all the same.
        if moved.is_ok() || stat(&self.layout.snapshot(from))?.is_none() {
            for known in folders.iter_mut().filter(|known| *known == from) {
                known.clone_from(to);
            }
            folders.sort_unstable();
        }
        Ok(moved?)
    }

    /// The directory of a snapshot is gone.
    pub(in crate::store) fn forget_snapshot(&self, folder: &SnapshotFolder) {
        self.snapshots.writing().retain(|known| known != folder);
    }

    /// Counts the links of a directory that somebody put into `snapshots/` while the store was open.
    pub(in crate::store) fn adopt_snapshot(&self, folder: &SnapshotFolder) -> Result<bool, StoreError> {
        {
            let mut folders = self.snapshots.writing();
            if folders.contains(folder) {
                return Ok(true);
            }
            if folders.len() >= MOST_SNAPSHOTS {
                return Ok(false);
            }
            folders.push(folder.clone());
            folders.sort_unstable();
        }
        self.each_link::<StoreError>(folder, |digest, path| {
            let _locked = self.lock(digest);
            let Some(facts) = stat(path)? else { return Ok(()) };
            let first = self.links_in(&self.snapshots.reading(), digest, facts.ino())? == 1;
            if first && self.is_held(digest, facts.ino())? {
                self.capacity.hold(digest, facts.len());
            }
            Ok(())
        })?;
        Ok(true)
    }

    /// Hands over every link of a snapshot, in no order.
    pub(in crate::store) fn each_link<E: From<StoreError>>(
        &self,
        folder: &SnapshotFolder,
        mut each: impl FnMut(&Digest, &Path) -> Result<(), E>,
    ) -> Result<(), E> {
        for algorithm in Algorithm::ALL {
            for first in 0..=u8::MAX {
                let links = links_below(&self.layout.snapshot_contents(folder, algorithm, first), algorithm)?;
                for (digest, path) in links {
                    each(&digest, &path)?;
                }
            }
        }
        Ok(())
    }

    /// Gives a content, which a repository has under the name `member`, its link in a snapshot. Not durable before
    /// [`Self::sync_snapshot`].
    pub(in crate::store) fn keep(
        &self,
        folder: &SnapshotFolder,
        member: &Path,
        digest: &Digest,
    ) -> Result<Kept, StoreError> {
        let link = self.layout.snapshot_content(folder, digest);
        let _locked = self.lock(digest);
        let whole = |path: &Path| -> Result<Option<Metadata>, StoreError> {
            Ok(stat(path)?.filter(|found| found.is_file() && !self.damage.is_listed(digest, found.ino())))
        };
        if stat(member)?.is_none() {
            return Ok(Kept::Gone);
        }
        // What is in blobs/ is what others are led to.
        let content = self.layout.content(digest);
        let (source, facts) = match (whole(&content)?, whole(member)?) {
            (Some(facts), _) => (content.as_path(), facts),
            (None, Some(facts)) => (member, facts),
            (None, None) => return Ok(Kept::Damaged),
        };
        let mut linked = self.disk.link(source, &link);
        if linked.as_ref().is_err_and(is_absence)
            && let Some(directory) = link.parent()
        {
            self.disk.make_directory(directory)?;
            linked = self.disk.link(source, &link);
        }
        match linked {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Kept::Known),
            Err(error) if error.kind() == io::ErrorKind::TooManyLinks => self.renew(source, &link, digest)?,
            Err(error) => return Err(StoreError::io("link to", &link)(error)),
        }
        // A file that is not in blobs/, as behind a crash, is charged by nobody else.
        let kept = stat(&link)?.map_or(facts.ino(), |kept| kept.ino());
        if self.is_held(digest, kept)? && self.links_in(&self.snapshots.reading(), digest, kept)? == 1 {
            self.capacity.hold(digest, facts.len());
        }
        Ok(Kept::Linked(facts.len()))
    }

    /// Makes the links of a snapshot durable.
    pub(in crate::store) fn sync_snapshot(&self, folder: &SnapshotFolder) -> Result<(), StoreError> {
        for algorithm in Algorithm::ALL {
            for first in 0..=u8::MAX {
                let path = self.layout.snapshot_contents(folder, algorithm, first);
                if stat(&path)?.is_some() {
                    self.disk.sync_directory(&path)?;
                    crate::telemetry::disk_moved();
                }
            }
        }
        Ok(())
    }

    /// Takes a link of a snapshot away; says how many bytes that freed.
    pub(in crate::store) fn let_go(
        &self,
        folder: &SnapshotFolder,
        digest: &Digest,
        path: &Path,
    ) -> Result<u64, StoreError> {
        let _locked = self.lock(digest);
        let Some(facts) = stat(path)? else { return Ok(0) };
        let is_only = {
            let folders = self.snapshots.reading();
            let others: Vec<SnapshotFolder> = folders.iter().filter(|other| *other != folder).cloned().collect();
            facts.nlink() == 1 || self.links_in(&others, digest, facts.ino())? == 0
        };
        let was_held = self.is_held(digest, facts.ino())?;
        self.disk.unlink(path)?;
        if is_only && was_held {
            self.capacity.release(digest, facts.len());
        }
        if facts.nlink() > 2 {
            return Ok(0);
        }
        // A killed server may have left it in blobs/ although nobody else had it, and a damaged one is off the list now.
        let is_there = || -> Result<bool, StoreError> {
            Ok(stat(&self.layout.content(digest))?.is_some_and(|content| content.ino() == facts.ino()))
        };
        let was_there = is_there()?;
        self.reclaim(digest)?;
        let is_gone = facts.nlink() == 1 || (was_there && !is_there()?);
        Ok(if is_gone { facts.len() } else { 0 })
    }

    /// Whether [`Self::give_back`] would find the content: what it would read and hash is believed here.
    pub(in crate::store) fn can_give_back(
        &self,
        folder: &SnapshotFolder,
        member: &Path,
        digest: &Digest,
    ) -> Result<Returned, StoreError> {
        let whole = |path: &Path| -> Result<bool, StoreError> {
            Ok(stat(path)?.is_some_and(|found| !self.damage.is_listed(digest, found.ino())))
        };
        let is_in_place = whole(&self.layout.content(digest))?;
        if is_in_place && whole(member)? {
            return Ok(Returned::Was);
        }
        let found = is_in_place || whole(member)? || whole(&self.layout.snapshot_content(folder, digest))?;
        Ok(if found { Returned::Linked } else { Returned::Missing })
    }

    /// Gives a content of a snapshot the further name `member`. What is in `blobs/` is linked as it is, unless it is on the list
    /// of damaged contents. What only a snapshot has gets its place in `blobs/` again if it is the file of the inode `sound`, which
    /// was read. Durable when the directories of both names were synced.
    pub(in crate::store) fn give_back(
        &self,
        folder: &SnapshotFolder,
        member: &Path,
        digest: &Digest,
        sound: Option<u64>,
    ) -> Result<Returned, StoreError> {
        let _locked = self.lock(digest);
        let whole = |path: &Path| -> Result<Option<Metadata>, StoreError> {
            Ok(stat(path)?.filter(|found| !self.damage.is_listed(digest, found.ino())))
        };
        let content = self.layout.content(digest);
        if let Some(facts) = whole(member)? {
            // A crash may have left it without its place in blobs/.
            if stat(&content)?.is_none() {
                self.give_name(member, &content, digest)?;
                if self.is_in_snapshot(digest, facts.ino())? {
                    self.capacity.release(digest, facts.len());
                }
                self.capacity.add_content(digest, facts.len());
            }
            return Ok(Returned::Was);
        }
        if whole(&content)?.is_some() {
            self.give_name(&content, member, digest)?;
            self.damage.call_for(digest);
            return Ok(Returned::Linked);
        }
        let kept = self.layout.snapshot_content(folder, digest);
        let Some(facts) = whole(&kept)? else { return Ok(Returned::Missing) };
        if sound != Some(facts.ino()) {
            return Ok(Returned::Unread);
        }
        if self.recharge_damaged(digest) {
            self.capacity.remove_content(digest, facts.len());
        }
        self.give_name(&kept, &content, digest)?;
        self.capacity.release(digest, facts.len());
        self.capacity.add_content(digest, facts.len());
        fail_point!("store::snapshot::after_return");
        self.give_name(&content, member, digest)?;
        self.damage.call_for(digest);
        Ok(Returned::Linked)
    }

    /// Reads what a snapshot keeps of the digest, from the disk and beside others.
    pub(in crate::store) fn examine_kept(
        &self,
        folder: &SnapshotFolder,
        digest: &Digest,
        beside: &mut Beside<'_>,
        (buffer, stop): (&mut Buffer, &CancellationToken),
    ) -> Result<Examined, StoreError> {
        let path = self.layout.snapshot_content(folder, digest);
        let Some(file) = open_content(&path)? else { return Ok(Examined::Bad) };
        let facts = file.metadata().map_err(StoreError::io("stat", &path))?;
        let mut reading = Reading::begin(file, *digest);
        loop {
            match beside.piece(stop, || reading.piece(buffer)) {
                None => return Ok(Examined::Stopped),
                Some(Ok(0)) => break,
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    self.suspect(digest, &Blob::whole(reading.finish().0, facts.len()), &path, &error);
                    return Ok(Examined::Bad);
                }
            }
        }
        let (file, actual) = reading.finish();
        if actual == *digest {
            return Ok(Examined::Sound(facts.ino()));
        }
        // Once more, as any reader would, from the disk: one judgement for all.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
        let verdict = self.examine(digest, &Blob::whole(file, facts.len()), &path);
        Ok(if verdict == Verdict::Sound { Examined::Sound(facts.ino()) } else { Examined::Bad })
    }
}

/// The links in one directory of a snapshot. What has no digest's name is left out.
fn links_below(folder: &Path, algorithm: Algorithm) -> Result<Vec<(Digest, PathBuf)>, StoreError> {
    Ok(entries_below(folder, algorithm)?.into_iter().map(|(digest, _, path)| (digest, path)).collect())
}

/// The same with the inodes that the directory says.
fn entries_below(folder: &Path, algorithm: Algorithm) -> Result<Vec<(Digest, u64, PathBuf)>, StoreError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_absence(&error) => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("read", folder)(error)),
    };
    let mut links = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StoreError::io("read", folder))?;
        let digest = entry.file_name().to_str().and_then(|hex| Digest::from_hex(algorithm, hex).ok());
        links.extend(digest.map(|digest| (digest, entry.ino(), entry.path())));
    }
    Ok(links)
}
