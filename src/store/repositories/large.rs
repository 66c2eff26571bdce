//! Manifests that are too large to be kept in memory: while any reader has one, all others share that copy, and the
//! copies together have a bound.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::manifests::Manifests;
use crate::oci::{Digest, Manifest, RepoName};
use crate::store::contents::changes::blocking;
use crate::store::error::StoreError;
use crate::store::stored::StoredManifest;

/// Most bytes of large manifests in memory at once; a reader that needs more waits until others are done with theirs. The
/// parsed form is about as large again.
pub const LARGE_MANIFEST_BYTES: usize = 32 << 20;

/// Bytes that room is counted in.
const UNIT: usize = 1024;

/// Number of entries above which ended ones are looked for.
const MOST_SLOTS: usize = 64;

#[derive(Debug)]
pub(in crate::store) struct LargeManifests {
    slots: DashMap<Digest, Arc<Slot>>,
    room: Arc<Semaphore>,
}

/// The copy of one manifest, if there is one.
#[derive(Debug, Default)]
struct Slot {
    /// Held while it is read: who asks meanwhile gets that copy.
    reading: tokio::sync::Mutex<()>,
    copy: Mutex<Weak<Copy>>,
}

#[derive(Debug)]
struct Copy {
    bytes: Bytes,
    manifest: Arc<Manifest>,
    _room: OwnedSemaphorePermit,
}

/// Keeps the copy as long as a slice of its bytes is there.
struct Held(Arc<Copy>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Default for LargeManifests {
    fn default() -> Self {
        Self { slots: DashMap::new(), room: Arc::new(Semaphore::new(LARGE_MANIFEST_BYTES / UNIT)) }
    }
}

impl LargeManifests {
    fn slot(&self, digest: Digest) -> Arc<Slot> {
        if self.slots.len() > MOST_SLOTS {
            self.slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.copy().is_some());
        }
        Arc::clone(self.slots.entry(digest).or_default().value())
    }

    /// Waits for room; what is larger than all of it waits for all.
    async fn room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, StoreError> {
        let units = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(UNIT).min(LARGE_MANIFEST_BYTES / UNIT);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(units).await;
        room.map_err(|error| StoreError::Bug(error.to_string()))
    }
}

impl Slot {
    fn copy(&self) -> Option<Arc<Copy>> {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    fn share(copy: Arc<Copy>, digest: Digest) -> StoredManifest {
        let manifest = Arc::clone(&copy.manifest);
        StoredManifest { digest, bytes: Bytes::from_owner(Held(copy)), manifest }
    }

    fn keep(&self, stored: StoredManifest, room: OwnedSemaphorePermit) -> StoredManifest {
        let copy = Arc::new(Copy { bytes: stored.bytes, manifest: stored.manifest, _room: room });
        *self.copy.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&copy);
        Self::share(copy, stored.digest)
    }
}

impl LargeManifests {
    /// A manifest of `size` bytes that was just found in the repository. Safe to drop: another one reads it.
    ///
    /// # Errors
    /// [`StoreError::ManifestUnknown`] if it is gone, or of the disk.
    pub(in crate::store) async fn manifest(
        &self,
        manifests: &Arc<Manifests>,
        repo: &RepoName,
        digest: Digest,
        size: u64,
    ) -> Result<StoredManifest, StoreError> {
        let slot = self.slot(digest);
        let _reading = slot.reading.lock().await;
        if let Some(copy) = slot.copy() {
            return Ok(Slot::share(copy, digest));
        }
        let room = self.room(size).await?;
        let (manifests, repo) = (Arc::clone(manifests), repo.clone());
        let stored =
            blocking(move || manifests.find_manifest(&repo, digest)?.ok_or(StoreError::ManifestUnknown)).await?;
        Ok(slot.keep(stored, room))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn manifest(bytes: &[u8]) -> StoredManifest {
        let text = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
        let manifest = Arc::new(Manifest::parse(None, text).unwrap());
        StoredManifest { digest: Algorithm::Sha256.digest(bytes), bytes: Bytes::copy_from_slice(bytes), manifest }
    }

    #[tokio::test]
    async fn a_copy_and_its_room_live_as_long_as_a_slice_of_it() {
        let large = LargeManifests::default();
        let stored = manifest(&[7; 5000]);
        let slot = large.slot(stored.digest);
        let all = large.room.available_permits();
        let kept = slot.keep(stored, large.room(5000).await.unwrap());
        assert_eq!(large.room.available_permits(), all - 5);
        let shared = Slot::share(slot.copy().unwrap(), kept.digest);
        assert_eq!(kept.bytes.as_ptr(), shared.bytes.as_ptr(), "one copy");
        let slice = shared.bytes.slice(10..11);
        drop((kept, shared));
        assert!(slot.copy().is_some());
        drop(slice);
        assert!(slot.copy().is_none());
        assert_eq!(large.room.available_permits(), all);
    }

    #[tokio::test]
    async fn the_largest_waits_for_all_the_room_and_ended_slots_go() {
        let large = LargeManifests::default();
        let room = large.room(u64::MAX).await.unwrap();
        assert_eq!(large.room.available_permits(), 0);
        drop(room);
        for number in 0..1000_u32 {
            large.slot(Algorithm::Sha256.digest(&number.to_le_bytes()));
        }
        assert!(large.slots.len() <= MOST_SLOTS + 1);
    }
}
