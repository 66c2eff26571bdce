//! Renames, links, unlinks and syncs; no other file does.
//!
//! The order is always: write under a name nobody knows, check, sync the file, rename or link it to its
//! name, sync the directory. All of it blocks.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags, renameat_with, syncfs};
use rustix::io::Errno;

use super::FsError;
use crate::clock::Timestamp;

/// Directories and files are the server's own; the group may read them (backup).
const DIRECTORY_MODE: u32 = 0o750;
const FILE_MODE: u32 = 0o640;

/// Where Linux says its version.
const RELEASE: &str = "/proc/sys/kernel/osrelease";

/// The disk's durable operations.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Held while directories are made and synced into their parents.
    making: Mutex<()>,
    /// Whether a sync of the file system says that bytes of any file there could not be written.
    tells_all: bool,
    /// Syncs of the file system.
    #[cfg(test)]
    pub(crate) whole_syncs: std::sync::atomic::AtomicU64,
    /// Directories whose names were made durable, in order.
    #[cfg(test)]
    pub(crate) synced_directories: Mutex<Vec<PathBuf>>,
}

impl Default for Disk {
    fn default() -> Self {
        static TELLS_ALL: LazyLock<bool> =
            LazyLock::new(|| std::fs::read_to_string(RELEASE).is_ok_and(|release| tells_all(&release)));
        Self {
            making: Mutex::default(),
            tells_all: *TELLS_ALL,
            #[cfg(test)]
            whole_syncs: std::sync::atomic::AtomicU64::default(),
            #[cfg(test)]
            synced_directories: Mutex::default(),
        }
    }
}

/// Whether `syncfs` of that version of Linux says that bytes could not be written: since 5.8 (syncfs(2)).
fn tells_all(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse::<u32>().ok());
    matches!((numbers.next().flatten(), numbers.next().flatten()), (Some(major), Some(minor)) if (major, minor) >= (5, 8))
}

/// A file that goes with this value unless it is renamed to its place first.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: Option<PathBuf>,
}

impl Temporary {
    /// Takes over the file at `path`.
    pub(crate) fn adopt(path: PathBuf) -> Self {
        Self { path: Some(path) }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            // Nothing more can be done here; tmp/ is emptied at the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Disk {
    /// As on a Linux before 5.8.
    #[cfg(test)]
    pub(crate) fn of_old_kernel() -> Self {
        Self { tells_all: false, ..Self::default() }
    }

    /// Makes `directory` and every missing parent; each new one is synced into its parent.
    pub(crate) fn make_directory(&self, directory: &Path) -> Result<(), FsError> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        make_chain(directory)
    }

    /// Sets a directory's time to now: the least that can be written.
    pub(crate) fn touch_directory(&self, directory: &Path) -> Result<(), FsError> {
        let opened = File::open(directory).map_err(FsError::on("open", directory))?;
        set_modified(&opened, crate::clock::now()).map_err(FsError::on("set the time of", directory))
    }

    /// Waits until every directory that can be seen now is synced into its parent.
    ///
    /// Another thread may have made the directory that a link of ours stands in and not have synced it yet;
    /// without this the link could be acknowledged and then lost with the directory.
    fn settle(&self) {
        drop(self.making.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Writes a new file, synced; its name is not.
    #[expect(clippy::needless_pass_by_value, reason = "the path is given up to the value that removes it")]
    pub(crate) fn write_temporary(&self, path: PathBuf, content: &[u8]) -> Result<Temporary, FsError> {
        let failed = |operation, path: &Path, error| FsError::on(operation, path)(error);
        let mut file = create(&path)?;
        let temporary = Temporary::adopt(path.clone());
        file.write_all(content).map_err(|e| failed("write", &path, e))?;
        let length = file.metadata().map_err(|e| failed("stat", &path, e))?.len();
        if length != content.len() as u64 {
            let short = io::Error::new(io::ErrorKind::WriteZero, "the file is shorter than what was written");
            return Err(failed("write", &path, short));
        }
        self.sync(&file, &path)?;
        Ok(temporary)
    }

    /// Writes a new file that is not synced, nor its name: see [`Self::sync_file_system`].
    #[expect(clippy::needless_pass_by_value, reason = "the path is given up to the value that removes it")]
    pub(crate) fn write_unsynced(&self, path: PathBuf, content: &[u8]) -> Result<(Temporary, File), FsError> {
        let mut file = create(&path)?;
        let temporary = Temporary::adopt(path.clone());
        file.write_all(content).map_err(FsError::on("write", &path))?;
        Ok((temporary, file))
    }

    /// Makes all files and names durable of the file system that `root`, open since before they were written, is on: one write
    /// of its journal for hundreds of them, where a sync of each has one each. What others have written there goes to the disk
    /// too. An error of any file there since the last call is one of this call.
    ///
    /// A Linux before 5.8 does not say there that bytes could not be written. Then each of `files`, open since before it was
    /// written, is synced behind that, which says so, and each of `directories`.
    pub(crate) fn sync_file_system<'f>(
        &self,
        root: impl AsFd,
        path: &Path,
        files: impl IntoIterator<Item = (&'f File, &'f Path)>,
        directories: impl IntoIterator<Item = &'f Path>,
    ) -> Result<(), FsError> {
        self.settle();
        syncfs(root).map_err(|error| FsError::on("sync the file system of", path)(error.into()))?;
        #[cfg(test)]
        self.whole_syncs.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if self.tells_all {
            return Ok(());
        }
        for (file, path) in files {
            #[expect(clippy::disallowed_methods, reason = "this is the file that syncs")]
            file.sync_data().map_err(FsError::on("sync", path))?;
        }
        let directories: BTreeSet<&Path> = directories.into_iter().collect();
        directories.into_iter().try_for_each(sync_directory)
    }

    /// Moves a file that is not the store's to `target` on the same file system. Not durable before
    /// [`Self::sync_directory_of`].
    ///
    /// The raw error comes back: `EXDEV` and `EACCES` are answers to the caller.
    pub(crate) fn take(&self, from: &Path, target: &Path) -> io::Result<()> {
        #[expect(clippy::disallowed_methods, reason = "this is the file that renames")]
        std::fs::rename(from, target)
    }

    /// Renames a file over `target`. Not durable before [`Self::sync_directory_of`].
    pub(crate) fn rename(&self, mut temporary: Temporary, target: &Path) -> Result<(), FsError> {
        let Some(path) = temporary.path.as_deref() else { return Ok(()) };
        #[expect(clippy::disallowed_methods, reason = "this is the file that renames")]
        std::fs::rename(path, target).map_err(FsError::on("rename to", target))?;
        temporary.path = None;
        Ok(())
    }

    /// Gives the file at `from` the further name `to`. Not durable before [`Self::sync_directory_of`].
    ///
    /// The raw error comes back, because `EEXIST`, `ENOENT` and `EMLINK` are answers to the caller.
    pub(crate) fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    /// Removes a name; `false` if there was none. Not durable before [`Self::sync_directory_of`].
    pub(crate) fn unlink(&self, path: &Path) -> Result<bool, FsError> {
        match std::fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if is_absence(&error) => Ok(false),
            Err(error) => Err(FsError::on("remove", path)(error)),
        }
    }

    /// Removes a directory that holds nothing; says whether it is gone. Not synced: one that a crash brings back is empty.
    pub(crate) fn remove_if_empty(&self, directory: &Path) -> Result<bool, FsError> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        match std::fs::remove_dir(directory) {
            Ok(()) => Ok(true),
            Err(error) if is_absence(&error) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
            Err(error) => Err(FsError::on("remove", directory)(error)),
        }
    }

    /// Syncs a file's content and length.
    pub(crate) fn sync(&self, file: &File, path: &Path) -> Result<(), FsError> {
        #[expect(clippy::disallowed_methods, reason = "this is the file that syncs")]
        file.sync_all().map_err(FsError::on("sync", path))
    }

    /// Writes into a file that has a name already, durably: bytes that are there are overwritten. A crash may leave a part.
    pub(crate) fn write_at(&self, file: &File, path: &Path, offset: u64, content: &[u8]) -> Result<(), FsError> {
        file.write_all_at(content, offset).map_err(FsError::on("write", path))?;
        #[expect(clippy::disallowed_methods, reason = "this is the file that syncs")]
        file.sync_data().map_err(FsError::on("sync", path))
    }

    /// As [`Self::write_at`], the same bytes at each of these places, with one sync for all.
    pub(crate) fn write_at_each(
        &self,
        file: &File,
        path: &Path,
        offsets: &[u64],
        content: &[u8],
    ) -> Result<(), FsError> {
        for offset in offsets {
            file.write_all_at(content, *offset).map_err(FsError::on("write", path))?;
        }
        #[expect(clippy::disallowed_methods, reason = "this is the file that syncs")]
        file.sync_data().map_err(FsError::on("sync", path))
    }

    /// Makes the names in the directory of `path` durable.
    pub(crate) fn sync_directory_of(&self, path: &Path) -> Result<(), FsError> {
        self.sync_directory(parent(path))
    }

    /// Makes the names in `directory` durable.
    pub(crate) fn sync_directory(&self, directory: &Path) -> Result<(), FsError> {
        self.settle();
        sync_directory(directory)?;
        #[cfg(test)]
        self.synced_directories.lock().unwrap_or_else(PoisonError::into_inner).push(directory.to_owned());
        Ok(())
    }

    /// Writes `content` to `target` whole or not at all, through `temporary`; durable when it answers.
    pub(crate) fn replace(&self, temporary: PathBuf, target: &Path, content: &[u8]) -> Result<(), FsError> {
        let temporary = self.write_temporary(temporary, content)?;
        self.rename(temporary, target)?;
        self.sync_directory_of(target)
    }

    /// Writes `content` to `target` through `temporary`, so that a killed process leaves the old or the new there. Not
    /// synced: after a crash of the machine it may be neither.
    pub(crate) fn replace_unsynced(&self, temporary: PathBuf, target: &Path, content: &[u8]) -> Result<(), FsError> {
        let staged = Temporary::adopt(temporary);
        if let Some(path) = &staged.path {
            std::fs::write(path, content).map_err(FsError::on("write", path))?;
        }
        self.rename(staged, target)
    }

    /// Moves a directory to a name that is free, durably.
    pub(crate) fn move_directory(&self, from: &Path, to: &Path) -> Result<(), FsError> {
        #[expect(clippy::disallowed_methods, reason = "this is the file that renames")]
        std::fs::rename(from, to).map_err(FsError::on("rename to", to))?;
        self.sync_directory_of(to)
    }

    /// Copies the file at `from` into a new synced file.
    #[expect(clippy::needless_pass_by_value, reason = "the path is given up to the value that removes it")]
    pub(crate) fn copy(&self, from: &Path, to: PathBuf) -> Result<Temporary, FsError> {
        let mut source = File::open(from).map_err(FsError::on("open", from))?;
        let mut file = create(&to)?;
        let temporary = Temporary::adopt(to.clone());
        io::copy(&mut source, &mut file).map_err(FsError::on("copy to", &to))?;
        self.sync(&file, &to)?;
        Ok(temporary)
    }
}

/// Puts a file with `mode` at `target`, whole and synced or not at all. Makes missing directories.
/// A second writer at the same moment fails. Blocking.
///
/// # Errors
/// [`FsError`] of the step that failed; what was at `target` is then still there.
pub fn replace_file(target: &Path, content: &[u8], mode: u32) -> Result<(), FsError> {
    let disk = Disk::default();
    disk.make_directory(parent(target))?;
    let staged = staged_name(target);
    // One that a killed process left.
    disk.unlink(&staged)?;
    let mut file = create_with(&staged, mode)?;
    let temporary = Temporary::adopt(staged.clone());
    file.write_all(content).map_err(FsError::on("write", &staged))?;
    disk.sync(&file, &staged)?;
    disk.rename(temporary, target)?;
    disk.sync_directory_of(target)
}

/// Removes a file that [`replace_file`] put there, and the one that a killed process left beside it; durable when it
/// answers. `false`: there was none. Blocking.
///
/// # Errors
/// [`FsError`] of the step that failed.
pub fn remove_file(target: &Path) -> Result<bool, FsError> {
    let disk = Disk::default();
    let staged = disk.unlink(&staged_name(target))?;
    let named = disk.unlink(target)?;
    if named || staged {
        disk.sync_directory_of(target)?;
    }
    Ok(named)
}

/// Makes a directory with every missing parent, durably. Blocking.
///
/// # Errors
/// [`FsError`] of the step that failed.
pub fn make_directory(directory: &Path) -> Result<(), FsError> {
    Disk::default().make_directory(directory)
}

/// Puts a directory in the place of another one, which is then where this one was, or where there is none. Readers see one of the
/// two at any moment, where the file system can exchange names; else none for a moment. Durable when it answers. Blocking.
///
/// # Errors
/// [`FsError`] of the step that failed.
pub(crate) fn put_directory(from: &Path, to: &Path) -> Result<(), FsError> {
    let disk = Disk::default();
    let exchanged = renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE);
    match exchanged {
        Ok(()) => return disk.sync_directory_of(to),
        Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS) => {}
        Err(error) => return Err(FsError::on("put", to)(error.into())),
    }
    let aside = staged_name(from);
    let there = stat(to)?.is_some();
    if there {
        disk.move_directory(to, &aside)?;
    }
    disk.move_directory(from, to)?;
    if there { disk.move_directory(&aside, from) } else { Ok(()) }
}

/// The name under which [`replace_file`] writes.
fn staged_name(target: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".new");
    target.with_file_name(name)
}

/// Sets a file's modification time; not synced.
pub(crate) fn set_modified(file: &File, time: Timestamp) -> io::Result<()> {
    file.set_modified(UNIX_EPOCH + Duration::from_millis(time.as_millis()))
}

/// The facts of what is at `path`, not of what a link there leads to; `None` if there is nothing.
pub(crate) fn stat(path: &Path) -> Result<Option<Metadata>, FsError> {
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(FsError::on("stat", path)(error)),
    }
}

/// Whether the error says that there is nothing of that name.
pub(crate) fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Makes a file that must be new.
pub(crate) fn create(path: &Path) -> Result<File, FsError> {
    create_with(path, FILE_MODE)
}

fn create_with(path: &Path, mode: u32) -> Result<File, FsError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(mode);
    options.open(path).map_err(FsError::on("create", path))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn sync_directory(directory: &Path) -> Result<(), FsError> {
    let opened = File::open(directory).map_err(FsError::on("open", directory))?;
    #[expect(clippy::disallowed_methods, reason = "this is the file that syncs")]
    opened.sync_all().map_err(FsError::on("sync", directory))
}

/// Depth is bounded by the length of a repository's name.
fn make_chain(directory: &Path) -> Result<(), FsError> {
    let made = DirBuilder::new().mode(DIRECTORY_MODE).create(directory);
    match made {
        Ok(()) => {
            let synced = sync_directory(parent(directory));
            if synced.is_err() {
                // The next caller must not take an unsynced directory for a durable one.
                let _ = std::fs::remove_dir(directory);
            }
            synced
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && directory.parent().is_some() => {
            make_chain(parent(directory))?;
            make_chain(directory)
        }
        Err(error) => Err(FsError::on("make folder", directory)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_file_goes_with_its_value() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::default();
        let path = dir.path().join("t");
        drop(disk.write_temporary(path.clone(), b"x").unwrap());
        assert!(!path.exists());
        let target = dir.path().join("named");
        disk.rename(disk.write_temporary(path.clone(), b"x").unwrap(), &target).unwrap();
        assert!(!path.exists());
        assert_eq!(std::fs::read(target).unwrap(), b"x");
    }

    #[test]
    fn linux_says_since_5_8_that_bytes_could_not_be_written() {
        for tells in ["6.18.44-fc", "5.8.0-1-amd64\n", "5.10.0", "10.0.1"] {
            assert!(tells_all(tells), "{tells}");
        }
        for silent in ["5.7.19", "4.18.0-553.el8_10.x86_64", "3.10.0", "", "5", "x.y", "-5.8"] {
            assert!(!tells_all(silent), "{silent}");
        }
    }

    /// A pipe stands for a file whose bytes could not be written: its own sync is an error.
    #[test]
    fn where_a_sync_of_the_file_system_does_not_tell_each_file_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        let (end, _other) = std::io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(end));
        let synced = |tells_all: bool, directory: &Path| {
            let disk = Disk { tells_all, ..Disk::default() };
            disk.sync_file_system(&root, dir.path(), [(&root, dir.path())], [directory])?;
            disk.sync_file_system(&root, dir.path(), [(&pipe, Path::new("the pipe"))], [directory])
        };
        synced(true, &dir.path().join("gone")).unwrap();
        assert_eq!(synced(false, dir.path()).unwrap_err().path, Path::new("the pipe"));
        assert!(is_absence(&synced(false, &dir.path().join("gone")).unwrap_err().source));
    }

    #[test]
    fn a_failed_rename_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::default();
        let path = dir.path().join("t");
        let temporary = disk.write_temporary(path.clone(), b"x").unwrap();
        disk.rename(temporary, &dir.path().join("missing/named")).unwrap_err();
        assert!(!path.exists());
    }

    #[test]
    fn chains_of_directories_are_made_by_many_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::default();
        std::thread::scope(|scope| {
            for i in 0..8 {
                let (disk, dir) = (&disk, dir.path());
                scope.spawn(move || disk.make_directory(&dir.join(format!("a/b/c/{}", i % 2))).unwrap());
            }
        });
        assert!(dir.path().join("a/b/c/0").is_dir() && dir.path().join("a/b/c/1").is_dir());
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), b"").unwrap();
        let disk = Disk::default();
        assert!(matches!(disk.make_directory(&dir.path().join("a")), Err(FsError { .. })));
        assert!(matches!(disk.make_directory(&dir.path().join("a/b")), Err(FsError { .. })));
    }
}
