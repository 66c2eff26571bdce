//! Contents that are read now or were lately: a read costs two looks into memory and no write to the disk.
//!
//! A use is noted here, and now and then written down as the modification time of the content's file, which is where
//! eviction and the next start find it. Entries in memory are no more than contents stored.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use dashmap::DashMap;

use crate::clock::Timestamp;
use crate::fs::set_modified;
use crate::oci::Digest;

#[derive(Debug, Default)]
pub(in crate::store) struct Uses {
    uses: DashMap<Digest, Use>,
}

#[derive(Debug, Default)]
struct Use {
    readers: u32,
    /// The last use since the last writing down.
    noted: Option<Timestamp>,
}

/// Somebody reads the content; nobody evicts it until this is dropped.
#[derive(Debug)]
pub struct Lease {
    uses: Arc<Uses>,
    digest: Digest,
}

impl Lease {
    pub(in crate::store) fn take(uses: &Arc<Uses>, digest: Digest) -> Self {
        let mut entry = uses.uses.entry(digest).or_default();
        entry.readers += 1;
        entry.noted = Some(crate::clock::now());
        drop(entry);
        Self { uses: Arc::clone(uses), digest }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(mut entry) = self.uses.uses.get_mut(&self.digest) {
            entry.readers = entry.readers.saturating_sub(1);
        }
    }
}

impl Uses {
    /// Notes a use.
    pub(in crate::store) fn note(&self, digest: Digest) {
        self.uses.entry(digest).or_default().noted = Some(crate::clock::now());
    }

    /// The last use, if the tree does not know of it yet.
    pub(in crate::store) fn noted(&self, digest: &Digest) -> Option<Timestamp> {
        self.uses.get(digest)?.noted
    }

    /// Whether the content is being read.
    pub(in crate::store) fn is_read(&self, digest: &Digest) -> bool {
        self.uses.get(digest).is_some_and(|entry| entry.readers > 0)
    }

    /// Writes the uses noted since the last time into the files of their contents, which `path_of` names; blocking. A file
    /// that can't be changed is left out: the content is then older than it seems.
    pub(in crate::store) fn write_down(&self, path_of: impl Fn(&Digest) -> PathBuf) {
        let mut noted = Vec::new();
        for mut entry in self.uses.iter_mut() {
            if let Some(used) = entry.noted.take() {
                noted.push((*entry.key(), used));
            }
        }
        for (digest, used) in noted {
            if let Ok(file) = File::open(path_of(&digest)) {
                let _ = set_modified(&file, used);
                crate::telemetry::disk_moved();
            }
            self.uses.remove_if(&digest, |_, entry| entry.readers == 0 && entry.noted.is_none());
        }
    }
}
