//! Repositories in which something changed since they were marked, in `gc/dirty`: a name a line.
//!
//! A name is there, synced, before its repository is changed. Without the file every repository is dirty: so a store of an
//! older version, and one in which nothing was ever collected, need no list. All of it blocks.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::str::FromStr;

use crate::fs::{Disk, is_absence};
use crate::oci::RepoName;
use crate::store::error::StoreError;
use crate::store::layout::Layout;

#[derive(Debug)]
pub(in crate::store) struct Dirty {
    /// There is no file: every repository is dirty, those in `names` beside.
    all: bool,
    names: HashSet<RepoName>,
    file: Option<(File, u64)>,
    /// The file has names that are clean by now.
    is_worn: bool,
}

impl Dirty {
    /// As the disk has it.
    pub(in crate::store) fn open(layout: &Layout) -> Self {
        let path = layout.dirty();
        let read = std::fs::read_to_string(&path);
        if let Err(error) = &read
            && !is_absence(error)
        {
            tracing::warn!(path = %path.display(), %error, "the list of changed repositories can't be read: all are marked again");
        }
        let Ok(text) = read else {
            return Self { all: true, names: HashSet::new(), file: None, is_worn: false };
        };
        // One that was cut was not synced, so its change has not begun.
        let names = text.lines().filter_map(|line| RepoName::from_str(line).ok()).collect();
        Self { all: false, names, file: None, is_worn: !text.is_empty() && !text.ends_with('\n') }
    }

    /// Whether every repository is.
    pub(in crate::store) const fn is_all(&self) -> bool {
        self.all
    }

    /// Those that are named.
    pub(in crate::store) fn names(&self) -> impl Iterator<Item = &RepoName> {
        self.names.iter()
    }

    /// How many there are; `None`: all.
    pub(in crate::store) fn count(&self) -> Option<usize> {
        (!self.all).then_some(self.names.len())
    }

    /// Notes a repository, durably.
    pub(in crate::store) fn add(&mut self, layout: &Layout, disk: &Disk, repo: &RepoName) -> Result<(), StoreError> {
        if self.names.contains(repo) {
            return Ok(());
        }
        if !self.all
            && let Err(error) = self.append(layout, disk, repo)
        {
            // A delete has to go on a full disk, where a name can be taken away and none added.
            self.set_all(layout, disk).map_err(|_| error)?;
        }
        self.names.insert(repo.clone());
        Ok(())
    }

    /// From now on every repository is dirty.
    pub(in crate::store) fn set_all(&mut self, layout: &Layout, disk: &Disk) -> Result<(), StoreError> {
        let path = layout.dirty();
        self.file = None;
        if disk.unlink(&path)? {
            disk.sync_directory_of(&path)?;
        }
        self.all = true;
        Ok(())
    }

    fn append(&mut self, layout: &Layout, disk: &Disk, repo: &RepoName) -> Result<(), StoreError> {
        if self.is_worn {
            self.write(layout, disk)?;
        }
        let path = layout.dirty();
        let (file, end) = match self.file.take() {
            Some(open) => open,
            None => {
                let file = OpenOptions::new().write(true).open(&path).map_err(StoreError::io("open", &path))?;
                let end = file.metadata().map_err(StoreError::io("stat", &path))?.len();
                (file, end)
            }
        };
        let line = format!("{repo}\n");
        disk.write_at(&file, &path, end, line.as_bytes())?;
        self.file = Some((file, end + line.len() as u64));
        Ok(())
    }

    /// The repository is clean; what the disk has follows with [`Dirty::write`].
    pub(in crate::store) fn remove(&mut self, repo: &RepoName) {
        self.is_worn |= self.names.remove(repo);
    }

    /// Every repository was looked up: `found`, and those that changed meanwhile. Blocking.
    pub(in crate::store) fn name_all(
        &mut self,
        layout: &Layout,
        disk: &Disk,
        found: Vec<RepoName>,
    ) -> Result<(), StoreError> {
        self.names.extend(found);
        self.write(layout, disk)?;
        self.all = false;
        Ok(())
    }

    /// Brings the disk up to what is known, if it is not; blocking.
    pub(in crate::store) fn tidy(&mut self, layout: &Layout, disk: &Disk) -> Result<(), StoreError> {
        if self.is_worn && !self.all { self.write(layout, disk) } else { Ok(()) }
    }

    fn write(&mut self, layout: &Layout, disk: &Disk) -> Result<(), StoreError> {
        let text: String = self.names.iter().flat_map(|name| [name.as_str(), "\n"]).collect();
        disk.replace(layout.temporary(), &layout.dirty(), text.as_bytes())?;
        (self.file, self.is_worn) = (None, false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_on_the_disk_until_it_is_removed_and_without_the_file_all_are() {
        let dir = tempfile::tempdir().unwrap();
        let (layout, disk) = (Layout::new(dir.path()), Disk::default());
        for folder in [layout.collection(), layout.temporaries()] {
            std::fs::create_dir(folder).unwrap();
        }
        let names = |layout: &Layout| {
            let dirty = Dirty::open(layout);
            let mut names: Vec<String> = dirty.names().map(ToString::to_string).collect();
            names.sort_unstable();
            (dirty.is_all(), names.join(" "))
        };
        let mut dirty = Dirty::open(&layout);
        assert_eq!((dirty.is_all(), dirty.count()), (true, None));
        dirty.add(&layout, &disk, &"a".parse().unwrap()).unwrap();
        assert_eq!(names(&layout), (true, String::new()), "no file is made where all are dirty");
        dirty.name_all(&layout, &disk, vec!["b".parse().unwrap(), "c".parse().unwrap()]).unwrap();
        assert_eq!(names(&layout), (false, "a b c".to_owned()));
        dirty.remove(&"b".parse().unwrap());
        assert_eq!(names(&layout), (false, "a b c".to_owned()));
        dirty.add(&layout, &disk, &"d".parse().unwrap()).unwrap();
        assert_eq!(names(&layout), (false, "a c d".to_owned()));
        dirty.add(&layout, &disk, &"e".parse().unwrap()).unwrap();
        dirty.add(&layout, &disk, &"e".parse().unwrap()).unwrap();
        assert_eq!(std::fs::read_to_string(layout.dirty()).unwrap().lines().count(), 4);

        // Cut in a name: the change behind it had not begun. The next name stands on a line of its own.
        let text = std::fs::read_to_string(layout.dirty()).unwrap();
        std::fs::write(layout.dirty(), format!("{text}lib")).unwrap();
        let mut again = Dirty::open(&layout);
        again.add(&layout, &disk, &"f".parse().unwrap()).unwrap();
        assert_eq!(names(&layout), (false, "a c d e f lib".to_owned()));
        again.set_all(&layout, &disk).unwrap();
        assert_eq!(names(&layout), (true, String::new()));
    }
}
