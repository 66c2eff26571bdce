//! The disk: a directory tree that is the truth, and an index that can be rebuilt from it.
//!
//! Two floors: `contents` has bytes by digest, `repositories` which repository has which of them under what name. Below
//! both: `layout` (every path), `opening` (a directory taken into use), `error`, `options`, `pins`, `stored`. Above: `face`, which
//! puts the parts together, with `reads`, `writes`, `cached` (what Proxy asks), `collection`, `retention` and `expected` (what the parts of
//! those names ask), `records` (what masters compare), `mode_data`, `snapshots`, `verify`, `intake` (what a take-over asks) and `samples` (its numbers as metrics);
//! `view` reads a tree without its lock; `maintenance` runs beside requests. The
//! lower floor never names the upper one, and no part but the face sees all others.

mod cached;
mod collection;
mod contents;
mod error;
mod expected;
mod face;
mod intake;
mod layout;
mod maintenance;
mod mode_data;
mod opening;
mod options;
mod pins;
mod reads;
mod records;
mod repositories;
mod retention;
mod samples;
mod snapshots;
mod stored;
mod verify;
mod view;
mod writes;

pub use contents::beside::Beside;
pub use contents::blob::Blob;
pub use contents::fills::PartialBlob;
pub use contents::intake::{Incoming, Moved, Staged, Taken};
pub use contents::pace::TURN_BYTES;
pub use contents::scrub::scrubber::ScrubStatus;
pub use contents::uploads::table::MOST_UPLOADS;
pub use contents::uploads::upload::UploadPlace;
pub use contents::uses::Lease;
pub use error::{Refusal, StoreError};
pub use face::Store;
pub use intake::{Intake, Presence};
pub use mode_data::drop_stopped;
pub use options::{CollectionOptions, Reserve, StoreLimits, StoreOptions, Usage};
pub use pins::{FoundPins, PinsFault, PinsState};
pub use repositories::blobs::StoredContent;
pub use repositories::broken::BrokenContent;
pub use repositories::collection::agreement::{Agreed, AskMasters, RemovalQuestion};
pub use repositories::collection::estimate::{Estimate, GoingTags};
pub use repositories::collection::ledger::Touch;
pub use repositories::collection::looking::{TagRecord, TagsLook};
pub use repositories::collection::report::{
    CollectedContent, CollectionReport, CollectionStatus, Contents as CollectedContents, LeftAlone, Reason, TagName,
};
pub use repositories::collection::retiring::Retired;
pub use repositories::collection::settings::Retained;
pub use repositories::eviction::{Evicted, Eviction, Spare};
pub use repositories::held::{Held, Lack};
pub use repositories::index::{IndexState, Referrer};
pub use repositories::intake::{MovedFrom, NotMoved, TagMove};
pub use repositories::large::LARGE_MANIFEST_BYTES;
pub use repositories::listings::by_hand::rebuild_index;
pub use repositories::lists::KeptList;
pub use repositories::mode_data::count::{DataCount, UnusedData};
pub use repositories::mode_data::dropper::{Dropped, Left};
pub use repositories::mode_data::gate::UsedData;
pub use repositories::recorded::TakenRecords;
pub use repositories::records::{Arriving, BUCKETS, NoRecord, Record, RepositorySum, Sum};
pub use repositories::references::LONG_WALKS;
pub use repositories::snapshots::report::{
    ListedSnapshot, MissingContent, RemovedSnapshot, RestoreReport, Restoring, SnapshotError, SnapshotSummary,
};
pub use repositories::tags::VerifiedTag;
pub use repositories::upload_session::{UploadSession, most_batch_bytes};
pub use repositories::verify::VerifyOptions;
pub use repositories::verify::finding::{Finding, Mend, Problem, VerifyReport};
pub use snapshots::with_stopped_snapshots;
pub use stored::{InvalidSnapshotName, ListKind, Page, SnapshotName, StoredManifest};
pub use verify::verify_stopped;
pub use view::StoreView;

/// Bytes that the store keeps in memory: the index's pages with what sled needs beside them, manifests with their parsed form,
/// and verdicts.
pub const CACHED_BYTES: u64 = repositories::index::CACHE_BYTES
    + (16 << 20)
    + 2 * repositories::memory::CACHE_BYTES
    + repositories::verdicts::VERDICT_BYTES;

/// Bytes that a scrub and a verification hold: a piece of a file each, and what the latter counts and finds.
pub const LOOKING_BYTES: u64 = 2 * contents::uncached::PIECE_BYTES as u64 + repositories::verify::MOST_BYTES;

/// Bytes that the count of what no mode uses holds.
pub const UNUSED_COUNT_BYTES: u64 = repositories::mode_data::count::COUNT_BYTES;

#[cfg(test)]
pub(crate) mod tests;
