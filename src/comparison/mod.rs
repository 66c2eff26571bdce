//! The records of this master and those of the others, brought to the same.
//!
//! Each master asks each other one every 10 s for the sum over all its records. Where the sums differ it asks for those of the
//! repositories, then of the buckets of one that differs, then for the records of buckets that differ, fetches what those name
//! and takes them. So all that is moved goes from who has it to who lacks it, and who asks decides. What is pushed or deleted is
//! told to the others at once as well: they are asked to take it, and tell how far they are.
//!
//! In reading order: `text` (what is said on the wire), `state` (what is known of each master), `lacking` (what one says is there
//! and is not), `taking` (records and what they name, brought here), `round` (one comparison with one master), `telling` (another
//! master is asked to take something), `agreeing` (all are asked before something goes by itself), `dropping` (deletions that all
//! know of), `job`.
//! The answers to questions are in `api/peers`; which of two records counts, and what is done with it, is the store's.
//!
//! # Decisions
//!
//! - A master pulls and is never pushed to: what it takes it has asked for, with its own bounds.
//! - What is heard moves the clock at once, before what it names has come: what is said here from then on is later.
//! - While mode Local is neither in force nor coming nor before, its records rest: nobody is asked and nobody answered.

mod agreeing;
mod dropping;
mod job;
mod lacking;
mod round;
mod state;
mod taking;
mod telling;
mod text;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use agreeing::RemovableSource;
pub use dropping::DropDeletions;
pub use job::CompareRecords;
pub use state::{ComparedMaster, ComparisonStatus};
pub use taking::{Taking, TakingState};
pub use telling::NotTaken;
pub use text::{buckets_of, lines_of, order_of, removable_lines, repository_lines};

use self::lacking::Lacking;
use self::state::Masters;
use crate::mode::{Local, ManifestRoom};
use crate::replicas::Replicas;
use crate::store::Store;
use crate::upstream::Upstream;

/// Gives mode Local while it is in force, coming or before; else its records rest.
pub type LocalSource = Arc<dyn Fn() -> Option<Local> + Send + Sync>;

/// The comparison with the other masters. Cheap to clone.
#[derive(Clone)]
pub struct Comparison(Arc<Inner>);

struct Inner {
    store: Store,
    replicas: Replicas,
    local: LocalSource,
    masters: Masters,
    /// Something calls for a comparison before its time.
    wake: Notify,
    taken: AtomicU64,
    refused: AtomicU64,
    bytes: AtomicU64,
    /// Places of orders to other masters.
    orders: Arc<Semaphore>,
    removable: RemovableSource,
    /// What others say is there and do not have.
    lacking: Lacking,
    /// Of the manifests that are taken, by order or by comparison.
    room: ManifestRoom,
    /// Another master is told what would go here.
    answering: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl fmt::Debug for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Comparison").finish_non_exhaustive()
    }
}

impl Comparison {
    /// Of the records of `store` with those of `replicas`; `removable` says what would go here. Work that outlives its caller is
    /// spawned on `tasks` and ends when `stop` is cancelled.
    #[must_use]
    pub fn new(
        store: Store,
        replicas: Replicas,
        local: LocalSource,
        removable: RemovableSource,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            replicas,
            local,
            masters: Masters::default(),
            wake: Notify::new(),
            taken: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            orders: Arc::new(Semaphore::new(telling::ORDERS)),
            removable,
            lacking: Lacking::default(),
            room: ManifestRoom::default(),
            answering: tokio::sync::Mutex::default(),
            tasks,
            stop,
        }))
    }

    /// The way to the master that has one of these addresses; `None`: it is no other one of the list in force.
    #[must_use]
    pub fn peer_at(&self, addresses: &[IpAddr]) -> Option<Upstream> {
        self.0.replicas.peer_at(addresses)
    }

    /// What is known of the comparison with each master of the list in force; with none while mode Local rests.
    #[must_use]
    pub fn status(&self) -> ComparisonStatus {
        let peers = if (self.0.local)().is_some() { self.0.replicas.peers() } else { Vec::new() };
        let hosts: Vec<String> = peers.iter().map(|peer| peer.host().to_owned()).collect();
        ComparisonStatus {
            masters: self.0.masters.of(&hosts),
            taken: self.0.taken.load(Ordering::Relaxed),
            refused: self.0.refused.load(Ordering::Relaxed),
            bytes: self.0.bytes.load(Ordering::Relaxed),
        }
    }
}
