//! Large manifests on their way in and out: what they hold of memory together has bounds.
//!
//! One that is stored goes out from its file. One that is not is shared by all who read it while anybody does.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;
use crate::oci::{Digest, ErrorCode};
use crate::store::Store;

/// Bytes of large manifests that are passed on without being stored, at once; what is more gets 503.
pub const RELAYED_MANIFEST_BYTES: usize = 64 << 20;

/// Bytes of large manifests that come in, at once; what is more waits, and gets 429 when it waited too long.
pub const PUSHED_MANIFEST_BYTES: usize = 32 << 20;

/// Longest wait of a push.
const PATIENCE: Duration = Duration::from_secs(20);

/// What room is counted in.
const UNIT: usize = 1024;

/// Ended entries are looked for when there are more than so many.
const MOST_ENTRIES: usize = 64;

#[derive(Debug)]
pub(super) struct LargeManifests {
    relayed: DashMap<Digest, Weak<Copy>>,
    out: Arc<Semaphore>,
    coming: Arc<Semaphore>,
}

#[derive(Debug)]
struct Copy {
    bytes: Bytes,
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
        let room = |bytes| Arc::new(Semaphore::new(bytes / UNIT));
        Self { relayed: DashMap::new(), out: room(RELAYED_MANIFEST_BYTES), coming: room(PUSHED_MANIFEST_BYTES) }
    }
}

/// What is as large as all the room gets it if it is alone.
fn units(bytes: usize, all: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT).min(all / UNIT)).unwrap_or(u32::MAX)
}

impl LargeManifests {
    /// The bytes of a verified manifest, as one copy for all who send it now.
    ///
    /// # Errors
    /// 503 with `Retry-After` if others hold all the room.
    pub(super) fn share(&self, digest: Digest, bytes: Bytes) -> Result<Bytes, ApiError> {
        if !Store::is_large_manifest(bytes.len()) {
            return Ok(bytes);
        }
        if self.relayed.len() > MOST_ENTRIES {
            self.relayed.retain(|_, copy| copy.strong_count() > 0);
        }
        let entry = self.relayed.entry(digest);
        if let Entry::Occupied(copy) = &entry
            && let Some(copy) = copy.get().upgrade()
        {
            return Ok(Bytes::from_owner(Held(copy)));
        }
        let wanted = units(bytes.len(), RELAYED_MANIFEST_BYTES);
        let room = Arc::clone(&self.out).try_acquire_many_owned(wanted).map_err(|_| {
            ApiError::new(ErrorCode::Unavailable, "too many large manifests are being sent").retry_after(5)
        })?;
        let copy = Arc::new(Copy { bytes, _room: room });
        entry.insert(Arc::downgrade(&copy));
        Ok(Bytes::from_owner(Held(copy)))
    }

    /// Waits for room for a manifest of up to `bytes` that comes in. Safe to drop.
    ///
    /// # Errors
    /// 429 with `Retry-After` if others hold all the room.
    pub(super) async fn admit(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let room = Arc::clone(&self.coming).acquire_many_owned(units(bytes, PUSHED_MANIFEST_BYTES));
        match tokio::time::timeout(PATIENCE, room).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) | Err(_) => {
                Err(ApiError::new(ErrorCode::TooManyRequests, "too many large manifests are being pushed at once")
                    .retry_after(5))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn all_who_read_one_share_a_copy_and_the_copies_have_a_bound() {
        let large = LargeManifests::default();
        let content = |seed: u8| Bytes::from(vec![seed; 4 << 20]);
        let share = |seed: u8| large.share(Algorithm::Sha256.digest(&[seed]), content(seed));
        let first = share(0).unwrap();
        let again: Vec<Bytes> = (0..200).map(|_| share(0).unwrap()).collect();
        assert!(again.iter().all(|bytes| bytes.as_ptr() == first.as_ptr()));
        let others: Vec<Bytes> = (1..16).map(|seed| share(seed).unwrap()).collect();
        assert_eq!(share(16).unwrap_err().status(), 503);
        drop(others);
        share(16).unwrap();
        let small = Bytes::from_static(b"{}");
        assert_eq!(large.share(Algorithm::Sha256.digest(b"{}"), small.clone()).unwrap().as_ptr(), small.as_ptr());
    }
}
