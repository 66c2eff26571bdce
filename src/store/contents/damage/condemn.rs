//! Putting a file on the list, and what is charged for it.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::list::{Condemned, Entry, MOST_LISTED, lock};
use crate::fs::stat;
use crate::oci::Digest;
use crate::store::contents::files::Contents;
use crate::telemetry::DamageCause;

impl Contents {
    /// Puts the file with these `facts`, which was found under the name `path`, on the list. When it answers
    /// [`Condemned::Listed`], nobody finds it any more: what was in memory is forgotten, and an entry that could not be
    /// written down yet counts all the same. Not to be called with the digest's lock held.
    pub(in crate::store) fn condemn(
        &self,
        digest: &Digest,
        facts: &Metadata,
        path: &Path,
        cause: DamageCause,
    ) -> Condemned {
        let _locked = self.lock(digest);
        self.condemn_locked(digest, facts, path, cause)
    }

    /// As [`Self::condemn`], with the digest's lock held.
    pub(in crate::store) fn condemn_locked(
        &self,
        digest: &Digest,
        facts: &Metadata,
        path: &Path,
        cause: DamageCause,
    ) -> Condemned {
        let inode = facts.ino();
        if self.damage.is_listed(digest, inode) {
            return Condemned::Listed;
        }
        let content = self.layout.content(digest);
        let leads = |name: &Path| stat(name).is_ok_and(|at| at.is_some_and(|at| at.ino() == inode));
        let is_content = leads(&content);
        let name = match (is_content, leads(path)) {
            (true, _) => &content,
            (false, true) => path,
            (false, false) => return Condemned::Gone,
        };
        self.damage.count(cause);
        let full = self.damage.listed.load(Ordering::Relaxed) >= MOST_LISTED;
        if full || !lock(&self.damage.finds).admit(inode, Instant::now()) {
            tracing::error!(
                path = %path.display(), %digest, cause = cause.as_str(),
                "a stored content is damaged, and so many were found within ten minutes that the disk is at fault: it stays as it is"
            );
            return Condemned::DiskFault;
        }
        let entry = Entry {
            inode,
            bytes: facts.len(),
            name: None,
            unnamed: Some((name.to_path_buf(), File::open(name).ok().map(Arc::new))),
            charged: is_content && self.capacity.is_charged(digest),
        };
        if !entry.charged {
            self.capacity.charge_damaged(entry.bytes);
        }
        if !is_content && self.is_in_snapshot(digest, inode).unwrap_or(false) {
            self.capacity.release(digest, entry.bytes);
        }
        self.damage.doubtful.store(true, Ordering::Relaxed);
        // First the list, then the memory: what is read in between is not believed.
        self.damage.change(digest, |entries| entries.push(entry));
        self.forget_read();
        tracing::error!(
            path = %path.display(), %digest, bytes = facts.len(), cause = cause.as_str(),
            "a stored content is damaged and counts as absent until it is pushed or fetched again"
        );
        if let Err(error) = self.write_down(digest, inode, name) {
            tracing::warn!(
                %digest, error = %crate::telemetry::with_causes(&error),
                "a damaged content can't be noted on the disk yet; a restart would have to find it again"
            );
        }
        // What it breaks is to be told.
        self.damage.call();
        Condemned::Listed
    }

    /// Charges as damaged what a damaged content of the digest was charged as the digest's, because a new one takes its
    /// place. Says whether there was any. The digest's lock is held.
    pub(in crate::store) fn recharge_damaged(&self, digest: &Digest) -> bool {
        if !self.damage.has(digest) {
            return false;
        }
        self.damage.change(digest, |entries| {
            let mut any = false;
            for entry in entries.iter_mut().filter(|entry| entry.charged) {
                entry.charged = false;
                any = true;
                self.capacity.charge_damaged(entry.bytes);
            }
            any
        })
    }
}
