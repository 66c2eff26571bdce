//! Many contents taken in from elsewhere: another registry's tree, a layout, a registry.
//!
//! Each comes as a file of its own, verified before anybody can find it: written or cloned under `tmp/`, or, from a tree that
//! is given up, moved to `takeover/` under its digest. A batch of them is synced together, by a sync of the whole file system:
//! some writes of its journal for hundreds of contents, where a push has five for one.
//!
//! # Decisions
//!
//! - A piece goes to the disk while the next one is read and hashed: one after the other took 2.5 times as long as a loop that leaves
//!   its bytes to the system. No content is more than two pieces ahead of the disk.
//! - What was moved waits in `takeover/` until its names are durable. Moved straight to `blobs/` it would have no further name
//!   for a moment, and after a kill in that moment the next start would remove the only copy. A kill leaves it under its
//!   digest here, and the next take-over goes on with it unhashed: it was hashed before it was moved.
//! - While it waits, its name there counts as one more in the link count: [`Contents::drop_moved`] takes the name away as soon
//!   as the content has another, at the end of each batch and when the store is opened.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fail::fail_point;
use rustix::fs::{Mode, fchmod, fchown, ioctl_ficlone};
use rustix::process::{getegid, geteuid};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::capacity::Charge;
use super::files::{Contents, Syncs};
use super::pace::TURN_BYTES;
use crate::fs::{Temporary, create, stat};
use crate::oci::{Algorithm, Digest, Hasher};
use crate::store::error::StoreError;

/// As the store's own files are.
const MODE: u32 = 0o640;

/// A content that is being written, hashed on the way.
#[derive(Debug)]
pub struct Incoming<'a> {
    contents: &'a Contents,
    digest: Digest,
    charge: Charge<'a>,
    temporary: Temporary,
    path: PathBuf,
    file: Arc<File>,
    hasher: Hasher,
    written: u64,
    /// Bytes that were sent to the disk.
    on_disk: u64,
    /// The last of them, as long as they may be on their way.
    behind: Option<JoinHandle<io::Result<()>>>,
}

/// A verified content that has no name yet.
#[derive(Debug)]
pub struct Staged<'a> {
    pub(in crate::store) digest: Digest,
    size: u64,
    place: Place,
    _charge: Charge<'a>,
}

#[derive(Debug)]
enum Place {
    /// Written; the file is not synced.
    Written(Temporary, Arc<File>),
    /// To be moved from there, this file.
    Outside(PathBuf, File),
    /// Moved, under its digest.
    Moved,
}

/// What was to be a file of the store's own.
#[derive(Debug)]
pub enum Moved<'a> {
    /// It will be one.
    Staged(Staged<'a>),
    /// It stays where it is: another name leads to it, or it belongs to another user.
    Refused(&'static str),
}

/// How a content gets a further name.
#[derive(Debug)]
pub enum Taken<'a> {
    /// By its file.
    Staged(Staged<'a>),
    /// It is a content already.
    Linked(Digest),
}

impl Staged<'_> {
    /// Its bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }
}

impl Incoming<'_> {
    /// Appends bytes: written, hashed, and sent to the disk in turn with others, while the next ones come. Blocking; inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// Of the disk.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(StoreError::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        if self.written - self.on_disk >= TURN_BYTES {
            self.settle()?;
            let (part, runtime) = (self.on_disk..self.written, Handle::current());
            let turn = runtime.block_on(self.contents.turn(part.end - part.start));
            let file = Arc::clone(&self.file);
            self.behind = Some(runtime.spawn_blocking(move || turn.write_back(&file, part)));
            self.on_disk = self.written;
        }
        crate::telemetry::disk_moved();
        Ok(())
    }

    /// Waits for what is on its way to the disk. What went wrong with it is said here alone: the file's next sync knows no more of it.
    fn settle(&mut self) -> Result<(), StoreError> {
        let Some(behind) = self.behind.take() else { return Ok(()) };
        let sent = Handle::current().block_on(behind);
        let sent = sent.map_err(|error| StoreError::Bug(format!("a write-back ended without an outcome: {error}")))?;
        sent.map_err(StoreError::io("write", &self.path))
    }

    /// Shares the bytes of `source` instead of a copy of them, where the file system can do that (`FICLONE`). The answer is
    /// the file that has them, to be read from its beginning to its end, with [`Self::learn`] for each piece; `None`: it
    /// can't, and nothing was done. Blocking.
    ///
    /// # Errors
    /// Of the disk.
    pub fn share(&mut self, source: &File) -> Result<Option<File>, StoreError> {
        if ioctl_ficlone(&self.file, source).is_err() {
            return Ok(None);
        }
        let length = self.file.metadata().map_err(StoreError::io("stat", &self.path))?.len();
        (self.written, self.on_disk) = (length, length);
        self.file.try_clone().map(Some).map_err(StoreError::io("open", &self.path))
    }

    /// Hashes the next bytes of what was shared.
    pub fn learn(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }
}

impl<'a> Incoming<'a> {
    /// The content, if the bytes are its digest's; else what they are, and nothing of them stays. Blocking; inside a tokio runtime.
    ///
    /// # Errors
    /// Of the disk.
    pub fn finish(mut self) -> Result<Result<Staged<'a>, Digest>, StoreError> {
        self.settle()?;
        let found = self.hasher.finish();
        if found != self.digest {
            return Ok(Err(found));
        }
        let place = Place::Written(self.temporary, self.file);
        Ok(Ok(Staged { digest: self.digest, size: self.written, place, _charge: self.charge }))
    }
}

impl Contents {
    /// Begins a content of about `size` bytes, charged. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Full`], or of the disk.
    pub(in crate::store) fn begin_incoming(&self, digest: Digest, size: u64) -> Result<Incoming<'_>, StoreError> {
        let charge = self.capacity.charge(size)?;
        let path = self.layout.temporary();
        let file = create(&path)?;
        Ok(Incoming {
            contents: self,
            digest,
            charge,
            temporary: Temporary::adopt(path.clone()),
            path,
            file: Arc::new(file),
            hasher: Hasher::new(digest.algorithm()),
            written: 0,
            on_disk: 0,
            behind: None,
        })
    }

    /// A content whose bytes are in memory, and the digest's. Blocking.
    pub(in crate::store) fn stage_bytes(&self, digest: Digest, bytes: &[u8]) -> Result<Staged<'_>, StoreError> {
        let charge = self.capacity.charge(bytes.len() as u64)?;
        let path = self.layout.temporary();
        let (temporary, file) = self.disk.write_unsynced(path, bytes)?;
        let place = Place::Written(temporary, Arc::new(file));
        Ok(Staged { digest, size: bytes.len() as u64, place, _charge: charge })
    }

    /// The file at `path`, open as `file`, whose bytes were hashed and are the digest's, is to be moved out of a tree that is
    /// given up, when it gets its names. Its owner and mode are those of the store's files from now on. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Full`], or of the disk.
    pub(in crate::store) fn move_in(&self, path: &Path, file: &File, digest: Digest) -> Result<Moved<'_>, StoreError> {
        let facts = file.metadata().map_err(StoreError::io("stat", path))?;
        if facts.nlink() != 1 {
            return Ok(Moved::Refused("it has further names"));
        }
        let charge = self.capacity.charge_moved(facts.len())?;
        if facts.uid() != geteuid().as_raw() && fchown(file, Some(geteuid()), Some(getegid())).is_err()
            || fchmod(file, Mode::from_raw_mode(MODE)).is_err()
        {
            return Ok(Moved::Refused("it belongs to another user"));
        }
        let file = file.try_clone().map_err(StoreError::io("open", path))?;
        let place = Place::Outside(path.to_path_buf(), file);
        Ok(Moved::Staged(Staged { digest, size: facts.len(), place, _charge: charge }))
    }

    /// Moves a file to `takeover/`. Its bytes are durable.
    fn take(&self, path: &Path, file: &File, digest: &Digest) -> Result<(), StoreError> {
        let target = self.layout.moved(digest);
        self.disk.make_directory(&self.layout.moved_of(digest.algorithm()))?;
        fail_point!("store::intake::before_move");
        self.disk.take(path, &target).map_err(StoreError::io("move", path))?;
        fail_point!("store::intake::after_move");
        // By its path something else may have been moved than was hashed.
        let hashed = file.metadata().map_err(StoreError::io("stat", path))?;
        if stat(&target)?.is_none_or(|moved| (moved.dev(), moved.ino()) != (hashed.dev(), hashed.ino())) {
            // What lies here under a digest counts as hashed.
            let _ = self.disk.take(&target, path);
            return Err(StoreError::io("move", path)(io::Error::other("it was replaced while it was read")));
        }
        Ok(())
    }

    /// What an earlier take-over moved in and did not come to name; `None`: nothing. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Full`], or of the disk.
    pub(in crate::store) fn moved_before(&self, digest: Digest) -> Result<Option<Staged<'_>>, StoreError> {
        let Some(facts) = stat(&self.layout.moved(&digest))?.filter(std::fs::Metadata::is_file) else {
            return Ok(None);
        };
        let charge = self.capacity.charge_moved(facts.len())?;
        Ok(Some(Staged { digest, size: facts.len(), place: Place::Moved, _charge: charge }))
    }

    /// Gives each content its further name; all of it is durable when it answers. A content that can't be linked because none
    /// has it is one of the answer. After an error some have theirs. Blocking.
    ///
    /// # Errors
    /// Of the disk.
    pub(in crate::store) fn take_in(&self, batch: Vec<(Taken<'_>, PathBuf)>) -> Result<Vec<Digest>, StoreError> {
        let mut unsynced = batch.iter().filter_map(|(taken, name)| match taken {
            Taken::Staged(Staged { place: Place::Written(_, file), .. }) => Some((&**file, name.as_path())),
            Taken::Staged(Staged { place: Place::Outside(_, file), .. }) => Some((file, name.as_path())),
            Taken::Staged(Staged { place: Place::Moved, .. }) | Taken::Linked(_) => None,
        });
        // Bytes before names.
        if let Some(first) = unsynced.next() {
            self.sync_everything(std::iter::once(first).chain(unsynced), [])?;
        }
        let (mut moved, mut is_new) = (Vec::new(), false);
        for (taken, _) in &batch {
            let Taken::Staged(Staged { digest, place, .. }) = taken else { continue };
            match place {
                Place::Written(..) => continue,
                Place::Outside(path, file) => {
                    self.take(path, file, digest)?;
                    is_new = true;
                }
                Place::Moved => {}
            }
            moved.push(*digest);
        }
        if is_new {
            for algorithm in Algorithm::ALL {
                if moved.iter().any(|digest| digest.algorithm() == algorithm) {
                    self.disk.sync_directory(&self.layout.moved_of(algorithm))?;
                }
            }
        }
        let (mut absent, mut directories) = (Vec::new(), BTreeSet::new());
        for (taken, name) in batch {
            directories.extend(name.parent().map(Path::to_path_buf));
            match taken {
                Taken::Linked(digest) => {
                    if !self.mount_as(None, &name, &digest, Syncs::Later)? {
                        absent.push(digest);
                    }
                }
                Taken::Staged(Staged { digest, size, place, _charge }) => {
                    directories.extend(self.layout.content(&digest).parent().map(Path::to_path_buf));
                    let temporary = match place {
                        Place::Written(temporary, _) => temporary,
                        Place::Outside(..) | Place::Moved => {
                            let path = self.layout.temporary();
                            let linked = self.disk.link(&self.layout.moved(&digest), &path);
                            linked.map_err(StoreError::io("link to", &path))?;
                            Temporary::adopt(path)
                        }
                    };
                    self.add_as(temporary, size, &digest, &name, Syncs::Later)?;
                }
            }
        }
        self.sync_everything([], directories.iter().map(PathBuf::as_path))?;
        fail_point!("store::intake::before_release");
        for digest in moved {
            let _locked = self.lock(&digest);
            self.disk.unlink(&self.layout.moved(&digest))?;
            // Its name in the repository may have been deleted meanwhile, while this one kept the bytes.
            self.reclaim(&digest)?;
        }
        Ok(absent)
    }

    /// Takes the names in `takeover/` away whose contents have others; the rest waits for the next take-over. Says how many
    /// wait. Blocking.
    ///
    /// # Errors
    /// Of the disk.
    pub(in crate::store) fn drop_moved(&self) -> Result<u64, StoreError> {
        let mut waiting = 0;
        for algorithm in Algorithm::ALL {
            let path = self.layout.moved_of(algorithm);
            let entries = match std::fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) if crate::fs::is_absence(&error) => continue,
                Err(error) => return Err(StoreError::io("read", &path)(error)),
            };
            for entry in entries {
                let name = entry.map_err(StoreError::io("read", &path))?.file_name();
                let Ok(digest) = Digest::from_hex(algorithm, name.to_str().unwrap_or("")) else { continue };
                let _locked = self.lock(&digest);
                let (moved, content) = (self.layout.moved(&digest), self.layout.content(&digest));
                let ids = |found: &std::fs::Metadata| (found.dev(), found.ino());
                // Here, in `blobs/`, and in a repository: names of snapshots are nobody's.
                let is_named = match (stat(&moved)?, stat(&content)?) {
                    (Some(moved), Some(content)) if ids(&moved) == ids(&content) => {
                        moved.nlink() > 2 + self.snapshot_links(&digest, moved.ino())?
                    }
                    _ => false,
                };
                if is_named {
                    self.disk.unlink(&moved)?;
                } else {
                    waiting += 1;
                }
            }
        }
        Ok(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Disk;
    use crate::store::StoreLimits;
    use crate::store::contents::capacity::{Capacity, Noted};
    use crate::store::contents::snapshot_folders::Folders;
    use crate::store::layout::Layout;
    use crate::store::tests::{quick_dir, store};

    /// A pipe stands for a file whose bytes could not be written: its sync is an error, and that of the file system is none.
    #[test]
    fn a_content_whose_bytes_could_not_be_written_gets_no_name() {
        let dir = quick_dir();
        drop(store(dir.path()));
        let layout = Layout::new(dir.path());
        let root = || File::open(dir.path()).unwrap();
        let capacity = Capacity::new(root(), StoreLimits::UNBOUNDED, Some(Noted::default()), 0);
        let old = Disk::of_old_kernel();
        let contents = Contents::new(layout.clone(), old, root().into(), capacity, Folders::default(), || {});
        let (sound, lost) = (Algorithm::Sha256.digest(b"sound"), Algorithm::Sha256.digest(b"lost"));
        let name = |digest: &Digest| layout.repositories().join("a/_blobs/sha256").join(digest.hex());
        let staged = contents.stage_bytes(sound, b"sound").unwrap();
        assert!(contents.take_in(vec![(Taken::Staged(staged), name(&sound))]).unwrap().is_empty());
        assert!(layout.content(&sound).exists() && name(&sound).exists());
        let mut staged = contents.stage_bytes(lost, b"lost").unwrap();
        let Place::Written(_, file) = &mut staged.place else { panic!("{staged:?}") };
        let (end, _other) = io::pipe().unwrap();
        *file = Arc::new(File::from(std::os::fd::OwnedFd::from(end)));
        contents.take_in(vec![(Taken::Staged(staged), name(&lost))]).unwrap_err();
        assert!(!layout.content(&lost).exists() && !name(&lost).exists());
    }
}
