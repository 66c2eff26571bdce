//! The files of contents: one per digest under `blobs/`, with a further name for each repository that has it.
//!
//! Which names those are is the caller's: here they are paths. Adding, linking and removing a content happen under one
//! lock per first byte of its digest, so bytes can't go between being found and being linked. All of it blocks, except
//! [`Contents::open_now`], [`Contents::change`] and [`Contents::turn`].

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fail::fail_point;

use super::capacity::{Capacity, FOLDERS, folder_of};
use super::changes::{Changes, blocking};
use super::damage::list::{Condemned, Damage, Found};
use super::hashing::is_sound;
use super::open::{Lookup, open_now};
use super::pace::{Pace, Turn};
use super::snapshot_folders::Folders;
use crate::fs::{Disk, Temporary, is_absence, stat};
use crate::oci::Digest;
use crate::store::error::StoreError;
use crate::store::layout::Layout;
use crate::telemetry::DamageCause;

/// The contents on the disk, and what every operation on them needs.
pub(in crate::store) struct Contents {
    pub(in crate::store) layout: Layout,
    pub(in crate::store) disk: Disk,
    pub(in crate::store) capacity: Capacity,
    pub(in crate::store) damage: Damage,
    pub(in crate::store) changes: Changes,
    pub(in crate::store) snapshots: Folders,
    pace: Pace,
    /// The data directory, for opening beneath it.
    root: OwnedFd,
    locks: Box<[Mutex<()>]>,
    on_damage: Box<dyn Fn() + Send + Sync>,
}

/// When new names are made durable.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum Syncs {
    /// Before the call answers.
    AtOnce,
    /// By [`Contents::sync_everything`], for many contents in one go.
    Later,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").field("dir", &self.layout.root()).finish_non_exhaustive()
    }
}

impl Contents {
    /// Of the tree in `layout`, whose directory is open as `root`. `on_damage` is called whenever a file goes on the list of
    /// damaged ones, behind that: nothing that was read of contents before may be believed then. It must not call back.
    pub(in crate::store) fn new(
        layout: Layout,
        disk: Disk,
        root: OwnedFd,
        capacity: Capacity,
        snapshots: Folders,
        on_damage: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            changes: Changes::new(&layout),
            layout,
            disk,
            capacity,
            damage: Damage::default(),
            snapshots,
            pace: Pace::default(),
            root,
            locks: (0..FOLDERS).map(|_| Mutex::new(())).collect(),
            on_damage: Box::new(on_damage),
        }
    }

    /// Nothing that was read of contents before is believed any more.
    pub(in crate::store) fn forget_read(&self) {
        (self.on_damage)();
    }

    /// Runs work that changes the tree, on a blocking thread; it ends by itself even if the caller is dropped. Closing the
    /// store waits for it. Why the system writes nothing is called by its name.
    pub(in crate::store) async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let contents = Arc::clone(self);
        blocking(move || contents.change_here(work)).await
    }

    /// As [`Contents::change`], on this thread. Blocking.
    pub(in crate::store) fn change_here<T>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _change = self.changes.begin()?;
        self.changes
            .forget_note(&self.layout, &self.disk)
            .and_then(|()| work())
            .map_err(|error| self.capacity.explain(error))
    }

    /// Waits for the turn to send `bytes` to the disk.
    pub(in crate::store) async fn turn(&self, bytes: u64) -> Turn {
        self.pace.turn(bytes, self.capacity.limits().write_rate).await
    }

    /// The turn, if it need not be waited for.
    pub(in crate::store) fn turn_now(&self, bytes: u64) -> Option<Turn> {
        self.pace.turn_now(bytes, self.capacity.limits().write_rate)
    }

    /// Opens the content that a name, relative to the data directory, leads to, if that needs no disk.
    pub(in crate::store) fn open_now(&self, name: &str) -> Lookup {
        open_now(&self.root, name)
    }

    pub(in crate::store) fn lock(&self, digest: &Digest) -> MutexGuard<'_, ()> {
        self.lock_folder(folder_of(digest))
    }

    pub(in crate::store) fn lock_folder(&self, folder: usize) -> MutexGuard<'_, ()> {
        self.locks[folder].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the synced file behind `temporary`, whose `size` bytes are the digest's, a content, and gives it the further
    /// name `name`; durable when it answers.
    ///
    /// `false`: the content was there already, and the file is gone. What is there is believed only after it was read and
    /// hashed; if it is damaged, the new file takes its place. On an error the file is gone too, and no content without a
    /// further name is left.
    pub(in crate::store) fn add(
        &self,
        temporary: Temporary,
        size: u64,
        digest: &Digest,
        name: &Path,
    ) -> Result<bool, StoreError> {
        self.add_as(temporary, size, digest, name, Syncs::AtOnce)
    }

    /// As [`Contents::add`]; with [`Syncs::Later`] it is durable after [`Contents::sync_everything`].
    pub(in crate::store) fn add_as(
        &self,
        temporary: Temporary,
        size: u64,
        digest: &Digest,
        name: &Path,
        syncs: Syncs,
    ) -> Result<bool, StoreError> {
        let path = self.layout.content(digest);
        // Before anybody waits for the lock.
        let seen = self.look_at_content(digest, size)?;
        let _locked = self.lock(digest);
        let added = match stat(&path)? {
            None => true,
            Some(found) => {
                let inode = found.ino();
                let is_bad = seen == Found::Bad(inode) || self.damage.is_listed(digest, inode);
                // Another one there was put in place meanwhile, by somebody who had verified it.
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
        let linked = self.settle(&path, syncs).and_then(|()| {
            fail_point!("store::content::before_link");
            self.link(&path, name, digest, syncs)
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

    /// The file in the place of verified bytes goes on the list, unless the disk is at fault: then the new content takes its
    /// place all the same, and the old file keeps its further names. The lock is held.
    fn give_way(&self, digest: &Digest, found: &Metadata, path: &Path, size: u64) {
        if !found.is_file() || self.damage.is_listed(digest, found.ino()) {
            return;
        }
        if self.condemn_locked(digest, found, path, DamageCause::Unreadable) != Condemned::Listed {
            if let Err(error) = self.hold_if_kept(digest, found.ino(), found.len()) {
                tracing::warn!(%digest, error = %crate::telemetry::with_causes(&error), "what a snapshot keeps can't be counted");
            }
            self.capacity.remove_content(digest, size);
        }
    }

    /// Gives a content that is there the further name `to`. `from`: only if that name leads to it; `None`: if any further
    /// name does. `false`: it is not there so.
    pub(in crate::store) fn mount(&self, from: Option<&Path>, to: &Path, digest: &Digest) -> Result<bool, StoreError> {
        self.mount_as(from, to, digest, Syncs::AtOnce)
    }

    /// As [`Contents::mount`]; with [`Syncs::Later`] it is durable after [`Contents::sync_everything`].
    pub(in crate::store) fn mount_as(
        &self,
        from: Option<&Path>,
        to: &Path,
        digest: &Digest,
        syncs: Syncs,
    ) -> Result<bool, StoreError> {
        let _locked = self.lock(digest);
        let content = self.layout.content(digest);
        let content = content.as_path();
        let whole = |path: &Path| -> Result<Option<Metadata>, StoreError> {
            Ok(stat(path)?.filter(|found| !self.damage.is_listed(digest, found.ino())))
        };
        let source = match from {
            // The source has it, if only a damaged one: what mends the source does for the target too.
            Some(from) => match stat(from)? {
                Some(found) if self.damage.is_listed(digest, found.ino()) => content,
                _ => from,
            },
            None => content,
        };
        match whole(source)? {
            // What only snapshots have is nobody's.
            Some(found) if from.is_some() || self.is_linked(digest, &found)? => {
                // A name and perhaps a directory, no bytes.
                self.capacity.admit(0)?;
                self.link(source, to, digest, syncs)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Takes a further name away from a content, durably; the bytes go with the last one. `false`: there was no such name.
    pub(in crate::store) fn remove(&self, name: &Path, digest: &Digest) -> Result<bool, StoreError> {
        let _locked = self.lock(digest);
        if !self.disk.unlink(name)? {
            return Ok(false);
        }
        self.disk.sync_directory_of(name)?;
        fail_point!("store::content::before_reclaim");
        self.reclaim(digest)?;
        Ok(true)
    }

    /// Removes a content that has no further name but those of snapshots, which keep the bytes. Its lock is held.
    pub(super) fn reclaim(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.layout.content(digest);
        if let Some(found) = stat(&path)?
            && !self.is_linked(digest, &found)?
        {
            self.disk.unlink(&path)?;
            self.left(digest, &found);
        }
        self.drop_mended(digest, &[]);
        Ok(())
    }

    /// The new name at `path` is made durable now, unless that is for later.
    fn settle(&self, path: &Path, syncs: Syncs) -> Result<(), StoreError> {
        match syncs {
            Syncs::AtOnce => Ok(self.disk.sync_directory_of(path)?),
            Syncs::Later => Ok(()),
        }
    }

    /// Makes all durable that was written and named until now, by one sync of the file system. `files`: those that were
    /// written, with the paths that an error is to have; `directories`: where names came.
    pub(in crate::store) fn sync_everything<'f>(
        &self,
        files: impl IntoIterator<Item = (&'f File, &'f Path)>,
        directories: impl IntoIterator<Item = &'f Path>,
    ) -> Result<(), StoreError> {
        Ok(self.disk.sync_file_system(&self.root, self.layout.root(), files, directories)?)
    }

    /// The file with these facts lost its name in `blobs/`, and no repository has it. Its lock is held.
    pub(super) fn left(&self, digest: &Digest, facts: &Metadata) {
        if facts.nlink() > 1 {
            self.capacity.hold(digest, facts.len());
        }
        self.capacity.remove_content(digest, facts.len());
    }

    /// Gives the file at `source` the further name `name`. Its lock is held.
    fn link(&self, source: &Path, name: &Path, digest: &Digest, syncs: Syncs) -> Result<(), StoreError> {
        self.give_name(source, name, digest)?;
        fail_point!("store::content::after_link");
        self.settle(name, syncs)
    }

    /// As [`Self::link`], not durable before a sync of the name's directory.
    pub(super) fn give_name(&self, source: &Path, name: &Path, digest: &Digest) -> Result<(), StoreError> {
        let mut linked = self.disk.link(source, name);
        if linked.as_ref().is_err_and(is_absence)
            && let Some(directory) = name.parent()
        {
            self.disk.make_directory(directory)?;
            linked = self.disk.link(source, name);
        }
        match linked {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.replace_name(source, name, digest),
            Err(error) if error.kind() == io::ErrorKind::TooManyLinks => self.renew(source, name, digest),
            Err(error) => Err(StoreError::io("link to", name)(error)),
        }
    }

    /// A name that leads to another file than `source` leads to that one afterwards. Not durable before a sync of its
    /// directory. Its lock is held.
    pub(in crate::store) fn replace_name(&self, source: &Path, name: &Path, digest: &Digest) -> Result<(), StoreError> {
        if let (Some(content), Some(found)) = (stat(source)?, stat(name)?)
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
        Ok(self.disk.rename(Temporary::adopt(path), name)?)
    }

    /// The content has as many names as the file system allows (ext4: 65,000): a copy takes its place and begins to
    /// count anew; the older names keep the older file. A copy that is not the content is none.
    pub(super) fn renew(&self, source: &Path, name: &Path, digest: &Digest) -> Result<(), StoreError> {
        let content = self.layout.content(digest);
        let temporary = self.layout.temporary();
        let copy = self.disk.copy(source, temporary.clone())?;
        if !is_sound(&temporary, digest)? {
            return Err(StoreError::damaged(source, "the stored content is not what its digest says"));
        }
        let before = stat(&content)?;
        self.disk.rename(copy, &content)?;
        if let Some(before) = before {
            self.hold_if_kept(digest, before.ino(), before.len())?;
        }
        // A count that reads the folder just now may not meet the new file.
        if let Some(found) = stat(&content)? {
            self.capacity.see_content(digest, found.len());
        }
        self.disk.sync_directory_of(&content)?;
        self.disk.link(&content, name).map_err(StoreError::io("link to", name))
    }
}
