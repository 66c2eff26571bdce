//! Options and limits of a store, and its use of room.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::Refusal;
use crate::values::Calendar;
pub use crate::values::Reserve;

impl Reserve {
    /// In bytes, on a file system of `total` bytes.
    #[must_use]
    pub fn bytes(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => total / 100 * u64::from(percent),
        }
    }
}

/// Options that a store is opened with.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The data folder.
    pub dir: PathBuf,
    /// Refuse a folder without marker instead of laying it out.
    pub must_exist: bool,
    /// What may be changed later.
    pub limits: StoreLimits,
}

impl StoreOptions {
    /// A store in `dir`, laid out if that is empty, with [`StoreLimits::UNBOUNDED`].
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf(), must_exist: false, limits: StoreLimits::UNBOUNDED }
    }
}

/// Limits that may be changed while the store is open. A new one stands here, with its value in
/// [`StoreLimits::UNBOUNDED`], and in `server/options.rs`, which reads it from the configuration. The code that obeys it asks
/// `contents.capacity.limits()` each time, and has the value in force: nothing is handed on when limits change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Most bytes the store may use, index and uploads counted in; `None`: no budget.
    pub max_bytes: Option<u64>,
    /// Space that every write leaves free on the file system.
    pub reserve: Reserve,
    /// Time without a byte after which an upload is reaped.
    pub upload_idle: Duration,
    /// Most bytes a second that are sent to the disk, of blobs; `None`: as fast as it takes them, one turn at a time.
    pub write_rate: Option<u64>,
}

impl StoreLimits {
    /// No write is refused while the file system has space; an upload without a byte is reaped after an hour. A server's
    /// limits are those of its configuration.
    pub const UNBOUNDED: Self =
        Self { max_bytes: None, reserve: Reserve::Bytes(0), upload_idle: Duration::from_secs(3600), write_rate: None };
}

/// When and what is collected; may be changed while the store is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionOptions {
    /// When by itself.
    pub schedule: Calendar,
    /// Running time between the verdict on a content that nothing reaches and its removal.
    pub grace: Duration,
    /// The same, if it is longer, for manifests that no tag leads to; `None`: they are kept.
    pub untagged_after: Option<Duration>,
}

impl Default for CollectionOptions {
    fn default() -> Self {
        Self { schedule: Calendar::Off, grace: Duration::from_secs(86_400), untagged_after: None }
    }
}

impl CollectionOptions {
    /// How long a suspect waits.
    #[must_use]
    pub(super) fn wait(&self, is_manifest: bool) -> Duration {
        self.untagged_after.filter(|_| is_manifest).map_or(self.grace, |untagged| untagged.max(self.grace))
    }
}

/// The store's room, for `/status` and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use: blobs, those that only snapshots have, uploads and index. `None` until the first count after an unclean stop is through.
    pub used: Option<u64>,
    /// Bytes of it that only snapshots have; `None` as above.
    pub held: Option<u64>,
    /// Snapshots that there are, with those in making or on their way out.
    pub snapshots: usize,
    /// The budget, if one is set.
    pub budget: Option<u64>,
    /// Free bytes of the file system.
    pub free: u64,
    /// Bytes of it that stay free.
    pub reserve: u64,
    /// Uploads that are open.
    pub uploads: usize,
    /// Why a write of one byte would not be taken now; `None`: it would.
    pub refusal: Option<Refusal>,
}
