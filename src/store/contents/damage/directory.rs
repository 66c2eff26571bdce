//! The list on disk: `damaged/<alg>/<hex>.<anything>`, further names of damaged files. All of it blocks.
//!
//! The names there are the list: a name that an administrator links there is an entry from the next look on, and one that
//! is removed is none. A folder that can't be read is an empty list: what is damaged will be found again.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fail::fail_point;

use super::list::{Entry, MOST_FOUND, MOST_LISTED, WINDOW, lock};
use crate::fs::{is_absence, stat};
use crate::oci::{Algorithm, Digest};
use crate::store::contents::files::Contents;
use crate::store::error::StoreError;

/// What the bytes that only snapshots have are now, as they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Without the files on the list: as they were noted, or not counted yet.
    WithoutListed,
    /// With a file that somebody named on the list just now.
    WithListed,
}

impl Contents {
    /// Reads the list for the start: entries, what they use, and what was found within the last minutes.
    pub(in crate::store) fn load_damaged(&self) {
        self.read_damaged(Held::WithoutListed);
        let now = Instant::now();
        let list = self.damage.list.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut recent: Vec<_> = list
            .values()
            .flatten()
            .filter_map(|entry| {
                // An inode's time of change is when it got its name here.
                let changed = entry.name.as_deref().and_then(|name| stat(name).ok().flatten())?.ctime();
                let age = crate::clock::now().as_secs().checked_sub(u64::try_from(changed).ok()?)?;
                let at = now.checked_sub(Duration::from_secs(age))?;
                (now.saturating_duration_since(at) < WINDOW).then_some((at, entry.inode))
            })
            .collect();
        recent.sort_unstable();
        recent.truncate(MOST_FOUND);
        lock(&self.damage.finds).recent.extend(recent);
    }

    /// Reads the list for who looks at a store that no server has, and changes nothing: neither what is charged nor a name.
    pub(in crate::store) fn look_at_damaged(&self) {
        for algorithm in Algorithm::ALL {
            for entry in std::fs::read_dir(self.layout.damaged_of(algorithm)).into_iter().flatten().flatten() {
                let Some((digest, facts)) = entry_of(&entry, algorithm) else { continue };
                let (inode, bytes) = (facts.ino(), facts.len());
                if !self.damage.is_listed(&digest, inode) {
                    let entry = Entry { inode, bytes, name: Some(entry.path()), unnamed: None, charged: false };
                    self.damage.change(&digest, |entries| entries.push(entry));
                }
            }
        }
    }

    /// Contents of which there are damaged files and no whole one, each with a name of such a file.
    pub(in crate::store) fn unmended(&self) -> Vec<(Digest, PathBuf)> {
        let unmended = |digest: &Digest| {
            let _locked = self.lock(digest);
            let content = self.layout.content(digest);
            let whole = stat(&content).unwrap_or(None).filter(|facts| !self.damage.is_listed(digest, facts.ino()));
            let name = |entries: &[Entry]| entries.first().map(|entry| entry.name.clone().unwrap_or(content.clone()));
            if whole.is_some() { None } else { self.damage.entries(digest, name) }
        };
        self.damage.digests().into_iter().filter_map(|digest| Some((digest, unmended(&digest)?))).collect()
    }

    /// Makes the list in memory that of the folder: takes up names that are new, and drops entries whose name is gone.
    pub(super) fn read_damaged(&self, held: Held) {
        let mut found = Vec::new();
        for algorithm in Algorithm::ALL {
            let folder = self.layout.damaged_of(algorithm);
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if is_absence(&error) => continue,
                Err(error) => {
                    let error = StoreError::io("read", &folder)(error);
                    tracing::error!(
                        error = %crate::telemetry::with_causes(&error),
                        "the list of damaged contents can't be read; what is damaged will have to be found again"
                    );
                    return;
                }
            };
            for entry in entries.flatten() {
                let Some((digest, facts)) = entry_of(&entry, algorithm) else {
                    tracing::warn!(path = %entry.path().display(), "this is no entry of the list of damaged contents");
                    continue;
                };
                if found.len() < MOST_LISTED {
                    found.push((digest, entry.path(), facts));
                }
            }
        }
        self.forget_removed(&found);
        for (digest, path, facts) in found {
            self.take_up(&digest, path, &facts, held);
        }
    }

    /// An entry whose name was taken away is none.
    fn forget_removed(&self, found: &[(Digest, PathBuf, Metadata)]) {
        let known: std::collections::HashSet<&Path> = found.iter().map(|(_, path, _)| path.as_path()).collect();
        for digest in self.damage.digests() {
            let _locked = self.lock(&digest);
            let gone = |entry: &Entry| {
                entry.name.as_deref().is_some_and(|name| !known.contains(name) && matches!(stat(name), Ok(None)))
            };
            let removed =
                self.damage.change(&digest, |entries| entries.extract_if(.., |entry| gone(entry)).collect::<Vec<_>>());
            for entry in removed {
                self.refund(&digest, &entry);
                if !entry.charged
                    && let Err(error) = self.hold_if_kept(&digest, entry.inode, entry.bytes)
                {
                    tracing::warn!(%digest, error = %crate::telemetry::with_causes(&error), "what a snapshot keeps can't be counted");
                }
            }
        }
    }

    fn take_up(&self, digest: &Digest, path: PathBuf, facts: &Metadata, held: Held) {
        let _locked = self.lock(digest);
        let inode = facts.ino();
        if self.damage.is_listed(digest, inode) || !matches!(stat(&path), Ok(Some(_))) {
            return;
        }
        let content = self.layout.content(digest);
        let is_content = matches!(stat(&content), Ok(Some(at)) if at.ino() == inode);
        let charged = is_content && self.capacity.is_charged(digest);
        if !charged {
            self.capacity.charge_damaged(facts.len());
        }
        if held == Held::WithListed && !is_content && self.is_in_snapshot(digest, inode).unwrap_or(false) {
            self.capacity.release(digest, facts.len());
        }
        let entry = Entry { inode, bytes: facts.len(), name: Some(path), unnamed: None, charged };
        self.damage.change(digest, |entries| entries.push(entry));
        self.forget_read();
        if is_content {
            // A killed server, or an administrator, named it here and did not take it off there.
            self.damage.doubtful.store(true, std::sync::atomic::Ordering::Relaxed);
            if let Err(error) = self.disk.unlink(&content) {
                tracing::warn!(%digest, error = %crate::telemetry::with_causes(&error), "a damaged content keeps its place");
            }
        }
        tracing::warn!(%digest, "a content on the list of damaged ones counts as absent");
    }

    /// Gives a damaged file its name on the list, durably, and takes away the content's. `from`: a name of it. The digest's
    /// lock is held.
    pub(super) fn write_down(&self, digest: &Digest, inode: u64, from: &Path) -> Result<(), StoreError> {
        self.disk.make_directory(&self.layout.damaged_of(digest.algorithm()))?;
        let mut name = self.layout.damaged(digest, &inode.to_string());
        fail_point!("store::damage::before_name");
        if matches!(stat(&name)?, Some(at) if at.ino() != inode) {
            // The number is another file's from before the tree was copied.
            name = self.layout.damaged(digest, &crate::oci::UploadId::random().to_string());
        }
        match self.disk.link(from, &name) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(StoreError::io("link to", &name)(error));
            }
            _ => {}
        }
        self.disk.sync_directory_of(&name)?;
        fail_point!("store::damage::after_name");
        self.damage.change(digest, |entries| {
            for entry in entries.iter_mut().filter(|entry| entry.inode == inode) {
                (entry.name, entry.unnamed) = (Some(name.clone()), None);
            }
        });
        let content = self.layout.content(digest);
        if matches!(stat(&content)?, Some(at) if at.ino() == inode) {
            self.disk.unlink(&content)?;
            self.disk.sync_directory_of(&content)?;
        }
        fail_point!("store::damage::after_move");
        Ok(())
    }

    /// Takes entries off the list that no repository links any more, and with them their files. `walked`: no repository was
    /// found to link these inodes, whatever else does. The digest's lock is held.
    pub(in crate::store) fn drop_mended(&self, digest: &Digest, walked: &[u64]) {
        if !self.damage.has(digest) {
            return;
        }
        let content = self.layout.content(digest);
        let is_over = |entry: &Entry| {
            let facts = match &entry.name {
                Some(name) => stat(name),
                None => match &entry.unnamed {
                    Some((_, Some(file))) => Ok(file.metadata().ok()),
                    _ => return false,
                },
            };
            let Ok(facts) = facts else { return false };
            let own = u64::from(entry.name.is_some())
                + u64::from(matches!(stat(&content), Ok(Some(at)) if at.ino() == entry.inode));
            walked.contains(&entry.inode) || facts.is_none_or(|facts| facts.nlink() <= own)
        };
        let over = self
            .damage
            .entries(digest, |entries| entries.iter().filter(|entry| is_over(entry)).cloned().collect::<Vec<_>>());
        for entry in over {
            fail_point!("store::damage::before_drop");
            let mut names = entry.name.iter().map(PathBuf::as_path).collect::<Vec<_>>();
            if matches!(stat(&content), Ok(Some(at)) if at.ino() == entry.inode) {
                names.push(&content);
            }
            if let Some(error) = names.into_iter().find_map(|name| self.disk.unlink(name).err()) {
                tracing::warn!(%digest, error = %crate::telemetry::with_causes(&error), "a mended content stays on the list");
                continue;
            }
            self.damage.change(digest, |entries| entries.retain(|kept| kept.inode != entry.inode));
            self.refund(digest, &entry);
            // What it broke is whole.
            self.damage.call();
            tracing::info!(%digest, "no repository has the damaged content any more; it is off the list");
        }
    }

    fn refund(&self, digest: &Digest, entry: &Entry) {
        if entry.charged {
            self.capacity.remove_content(digest, entry.bytes);
        } else {
            self.capacity.refund_damaged(entry.bytes);
        }
        // What snapshots alone keep is charged as theirs again.
        let is_content = matches!(stat(&self.layout.content(digest)), Ok(Some(at)) if at.ino() == entry.inode);
        if !is_content && self.is_in_snapshot(digest, entry.inode).unwrap_or(false) {
            self.capacity.hold(digest, entry.bytes);
        }
    }
}

/// What an entry of the folder says; `None`: it is none of the list's.
pub(in crate::store) fn entry_of(entry: &std::fs::DirEntry, algorithm: Algorithm) -> Option<(Digest, Metadata)> {
    let name = entry.file_name();
    let (hex, _) = name.to_str()?.split_once('.')?;
    let facts = stat(&entry.path()).ok().flatten().filter(Metadata::is_file)?;
    Some((Digest::from_hex(algorithm, hex).ok()?, facts))
}
