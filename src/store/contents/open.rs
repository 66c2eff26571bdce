//! Opening contents, and the names that lead to them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::{Errno, retry_on_intr};

use crate::fs::is_absence;
use crate::store::error::StoreError;

/// The answer of a look that does not wait for the disk.
#[derive(Debug)]
pub(in crate::store) enum Lookup {
    Found(File),
    Absent,
    /// The answer is not in memory, or this kernel can't tell: ask [`open_content`] from a blocking thread.
    Unknown,
}

/// Opens the content at `path` beneath the directory `root` if that needs no disk (`RESOLVE_CACHED`, Linux 5.12).
pub(in crate::store) fn open_now(root: impl AsFd, path: &str) -> Lookup {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::CACHED;
    match untouched(flags, |flags| openat2(&root, path, flags, Mode::empty(), resolve)) {
        Ok(file) => Lookup::Found(file.into()),
        Err(Errno::NOENT) => Lookup::Absent,
        Err(_) => Lookup::Unknown,
    }
}

/// Opens the content that the name `path` leads to; `None` if there is none. Blocking.
pub(in crate::store) fn open_content(path: &Path) -> Result<Option<File>, StoreError> {
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
