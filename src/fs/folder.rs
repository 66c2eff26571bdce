//! Reading a tree that nobody vouches for: no symbolic link below its root is followed, nothing of it is written, not even the
//! time of its last reading where the system allows that (`O_NOATIME` is its owner's and root's).

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

/// Entries of one directory; a repository with ten times the tags of the largest known has fewer.
const MOST_ENTRIES: usize = 10_000_000;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// The root of a tree: an administrator named it, so a link is followed here.
    pub(crate) fn root(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { fd, path: path.to_path_buf() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A directory below; `None`: there is none of that name.
    pub(crate) fn folder(&self, below: &str) -> io::Result<Option<Self>> {
        let fd = self.open(below, OFlags::DIRECTORY)?;
        Ok(fd.map(|fd| Self { fd, path: self.path.join(below) }))
    }

    /// A regular file below; `None`: there is none of that name.
    pub(crate) fn file(&self, below: &str) -> io::Result<Option<File>> {
        // A pipe must not keep anybody waiting.
        let Some(fd) = self.open(below, OFlags::NONBLOCK)? else { return Ok(None) };
        let file = File::from(fd);
        if file.metadata()?.is_file() { Ok(Some(file)) } else { Err(io::Error::other("it is not a file")) }
    }

    /// The content of a file of at most `most` bytes; `None`: there is none of that name.
    pub(crate) fn read(&self, below: &str, most: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.file(below)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes")));
        }
        Ok(Some(bytes))
    }

    /// The names in it, sorted; those that are no text are left out, no registry writes any.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        self.names_up_to(MOST_ENTRIES)
    }

    /// The same of a directory with at most `most` entries; one with more is an error of kind `QuotaExceeded`.
    pub(crate) fn names_up_to(&self, most: usize) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
            if names.len() > most {
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, format!("it has more than {most} entries")));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Opens what lies below, component by component, and follows no link.
    fn open(&self, below: &str, flags: OFlags) -> io::Result<Option<OwnedFd>> {
        let mut components = below.split('/').filter(|component| !component.is_empty()).peekable();
        let mut at: Option<OwnedFd> = None;
        while let Some(component) = components.next() {
            if component == ".." {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let kind = if components.peek().is_some() { OFlags::DIRECTORY } else { flags };
            let parent = at.as_ref().map_or(self.fd.as_fd(), |fd| fd.as_fd());
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | kind;
            let opened = match openat(parent, component, flags | OFlags::NOATIME, Mode::empty()) {
                Err(Errno::PERM) => openat(parent, component, flags, Mode::empty()),
                opened => opened,
            };
            at = match opened {
                Ok(fd) => Some(fd),
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::LOOP) => return Err(linked()),
                // What the system says of a link where a directory was asked for.
                Err(Errno::NOTDIR) if is_link(parent, component) => return Err(linked()),
                Err(error) => return Err(error.into()),
            };
        }
        match at {
            Some(fd) => Ok(Some(fd)),
            None => Ok(Some(self.fd.try_clone()?)),
        }
    }
}

fn is_link(parent: BorrowedFd<'_>, name: &str) -> bool {
    let facts = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    facts.is_ok_and(|facts| FileType::from_raw_mode(facts.st_mode).is_symlink())
}

fn linked() -> io::Error {
    io::Error::other("a symbolic link is in its place, which is not followed")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_link_below_the_root_is_followed_and_none_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, out) = (dir.path().join("tree"), dir.path().join("out"));
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join("secret"), "s").unwrap();
        std::fs::write(tree.join("a/b/file"), "f").unwrap();
        symlink(out.join("secret"), tree.join("a/file")).unwrap();
        symlink(&out, tree.join("a/folder")).unwrap();
        symlink(&tree, dir.path().join("root")).unwrap();
        let folder = Folder::root(&dir.path().join("root")).unwrap();
        assert_eq!(folder.read("a/b/file", 1).unwrap().as_deref(), Some(&b"f"[..]));
        assert!(folder.read("a/b/file", 0).is_err());
        for below in ["a/file", "a/folder/secret", "../out/secret", "a/../../out/secret"] {
            assert!(folder.read(below, 10).is_err(), "{below}");
        }
        assert!(folder.folder("a/folder").is_err());
        assert!(folder.folder("none").unwrap().is_none() && folder.file("a/none").unwrap().is_none());
        assert!(folder.file("a").is_err(), "a directory is no file");
        let below = folder.folder("a").unwrap().unwrap();
        assert_eq!(below.names_up_to(3).unwrap(), ["b", "file", "folder"]);
        assert!(below.names_up_to(2).is_err());
    }
}
