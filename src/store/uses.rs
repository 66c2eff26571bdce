//! What is being read and what was read lately: a read costs two looks into memory and no write to the disk.
//!
//! A use is noted here, and now and then written down as the modification time of the content's file, which is where
//! eviction and the next start find it. What is held in memory is bounded by what is stored.

use std::fs::File;
use std::sync::Arc;

use dashmap::DashMap;

use super::Inner;
use crate::clock::Timestamp;
use crate::fs::set_modified;
use crate::oci::Digest;

#[derive(Debug, Default)]
pub(super) struct Uses {
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
    store: Arc<Inner>,
    digest: Digest,
}

impl Lease {
    pub(super) fn take(store: &Arc<Inner>, digest: Digest) -> Self {
        let mut entry = store.uses.uses.entry(digest).or_default();
        entry.readers += 1;
        entry.noted = Some(crate::clock::now());
        drop(entry);
        Self { store: Arc::clone(store), digest }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(mut entry) = self.store.uses.uses.get_mut(&self.digest) {
            entry.readers = entry.readers.saturating_sub(1);
        }
    }
}

impl Uses {
    /// Notes a use.
    pub(super) fn note(&self, digest: Digest) {
        self.uses.entry(digest).or_default().noted = Some(crate::clock::now());
    }

    /// The last use, if the tree does not know of it yet.
    pub(super) fn noted(&self, digest: &Digest) -> Option<Timestamp> {
        self.uses.get(digest)?.noted
    }

    /// Whether the content is being read.
    pub(super) fn is_read(&self, digest: &Digest) -> bool {
        self.uses.get(digest).is_some_and(|entry| entry.readers > 0)
    }
}

impl Inner {
    /// Writes the uses noted since the last time into the tree; blocking. A file that can't be changed is left out: the
    /// content is then older than it seems.
    pub(super) fn write_uses(&self) {
        let mut noted = Vec::new();
        for mut entry in self.uses.uses.iter_mut() {
            if let Some(used) = entry.noted.take() {
                noted.push((*entry.key(), used));
            }
        }
        for (digest, used) in noted {
            if let Ok(file) = File::open(self.layout.content(&digest)) {
                let _ = set_modified(&file, used);
                crate::telemetry::disk_moved();
            }
            self.uses.uses.remove_if(&digest, |_, entry| entry.readers == 0 && entry.noted.is_none());
        }
    }
}
