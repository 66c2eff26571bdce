//! What an administrator asks of a running server, and orders: apart from the registry's API, and from its clients.
//!
//! Two ways lead here. The admin address, plain HTTP without sign-in, is meant for loopback or the pod's network: it
//! answers GET and HEAD alone and shows no names of repositories and no secrets; the probe address is a part of it. The
//! socket `admin.sock` in the data directory is the only way to give orders, to root and the server's own user.
//!
//! All that is shown is a [`Snapshot`], which the server takes in one place ([`Source::snapshot`]): `snapshot` is its form
//! as JSON, `samples` the same as metrics. `routes` says what is answered where, `socket` is the socket, `client` asks at one.

mod client;
mod routes;
mod samples;
mod snapshot;
mod socket;

use std::future::Future;
use std::sync::Arc;

pub use client::{Answer, ask};
pub use routes::{ADMIN_PATHS, PROBE_PATHS, SOCKET_PATHS, order_router, probe_router, router};
pub use snapshot::{
    CollectionStatus, ComingStatus, ConfigStatus, DamagedContent, ExpectedModeStatus, ExpectedStatus, IndexStatus,
    LeftAlone, MasterStatus, MissingStatus, ModeFileStatus, PinsStatus, ReplicasStatus, RetentionStatus, ScrubStatus,
    Snapshot, StoreStatus, UnusedCacheStatus, UnusedStatus, UpstreamStatus,
};
pub use socket::{Socket, SocketError, socket_path};

use crate::jobs::Runner;
use crate::telemetry::Metrics;
use crate::values::StoringMode;

/// The running server, as its administrator sees it.
pub trait Source: Send + Sync + 'static {
    /// The server at this moment. Must not block.
    fn snapshot(&self) -> Snapshot;

    /// Whether requests can be served now; neither the upstream nor the index counts, as what is stored can be served
    /// without. Answers within 2 s. Safe to drop.
    ///
    /// # Errors
    /// A sentence that says why not.
    fn ready(&self) -> impl Future<Output = Result<(), String>> + Send;

    /// The jobs that an order can have run.
    fn jobs(&self) -> &Runner;

    /// Ends, as by SIGTERM, for another server of the same data directory. Returns at once.
    ///
    /// # Errors
    /// A sentence: it was not started to give way.
    fn give_way(&self) -> Result<(), &'static str>;

    /// Places an order to take images over, for the next run of the job `import`.
    ///
    /// # Errors
    /// A sentence: another is being carried out, or it is none.
    fn place_import(&self, order: serde_json::Value) -> Result<(), String>;

    /// How far an import is, or what the last one came to, as JSON. Waits for nothing.
    fn import(&self) -> serde_json::Value;

    /// What an administrator asks of the collection, as JSON. Changes nothing.
    ///
    /// # Errors
    /// A sentence.
    fn collection(&self, asked: CollectionQuestion) -> impl Future<Output = Result<serde_json::Value, String>> + Send;

    /// What an administrator asks of data that no mode uses, or has the job `unused-data` do; JSON.
    ///
    /// # Errors
    /// [`DropError`].
    fn unused_data(&self, asked: DropQuestion) -> impl Future<Output = Result<serde_json::Value, DropError>> + Send;

    /// Does what an administrator orders about snapshots, and answers with what it came to, as JSON. What was begun goes on if
    /// the caller is dropped.
    ///
    /// # Errors
    /// [`SnapshotRefusal`].
    fn snapshots(
        &self,
        order: SnapshotOrder,
    ) -> impl Future<Output = Result<serde_json::Value, SnapshotRefusal>> + Send;

    /// What is wrong with the store, as JSON. Changes nothing. Dropped, it ends.
    ///
    /// # Errors
    /// A sentence.
    fn verify(&self, asked: VerifyQuestion) -> impl Future<Output = Result<serde_json::Value, String>> + Send;
}

/// A question about a drop of a mode's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropQuestion {
    /// What it would free now.
    Look(StoringMode),
    /// The next run of the job is to drop it.
    Want(StoringMode),
    /// What the last one came to.
    Last(StoringMode),
}

/// Why a drop is not done, or not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DropError {
    /// The mode is in force, or a switch is under way.
    #[error("the data of mode {0} stays: the mode is in force, or a switch is not over")]
    Used(StoringMode),
    /// Of the store.
    #[error("{0}")]
    Failed(String),
}

/// What is ordered about snapshots, or asked. Names are as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotOrder {
    /// List them.
    List,
    /// Take one.
    Create(String),
    /// Remove one.
    Remove(String),
    /// Give one back.
    Restore {
        /// Which one.
        name: String,
        /// Only say what would be done.
        dry_run: bool,
        /// Remove tags that it does not have.
        exact: bool,
    },
}

/// Why an order about snapshots was not carried out; a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotRefusal {
    /// There is no such snapshot.
    Unknown(String),
    /// What was asked for can't be: a name that is none or is taken, too many, one that is not whole.
    Refused(String),
    /// The store failed, or ends.
    Failed(String),
}

/// How the store is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyQuestion {
    /// Blobs are not read.
    pub quick: bool,
    /// One repository alone.
    pub repository: Option<String>,
}

impl VerifyQuestion {
    /// Of a query; `None`: it has something else.
    fn parse(query: &str) -> Option<Self> {
        let mut asked = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "quick" => asked.quick = value.parse().ok()?,
                "repository" => asked.repository = Some(value.into_owned()),
                _ => return None,
            }
        }
        Some(asked)
    }
}

/// A question about the collection of what nothing reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CollectionQuestion {
    /// What the last run came to.
    Last,
    /// What a run would do now.
    Look,
    /// Which tags the rules of retention would remove now, and what stays by which.
    Rules,
    /// Why the content of this digest stays.
    Why(String),
}

/// Where answers come from. Cheap to clone.
#[derive(Debug)]
pub struct Admin<S> {
    source: Arc<S>,
    metrics: Metrics,
}

impl<S> Admin<S> {
    /// Answers of `source`, and the metrics that are counted as things happen.
    #[must_use]
    pub fn new(source: S, metrics: Metrics) -> Self {
        Self { source: Arc::new(source), metrics }
    }
}

impl<S> Clone for Admin<S> {
    fn clone(&self) -> Self {
        Self { source: Arc::clone(&self.source), metrics: self.metrics.clone() }
    }
}

#[cfg(test)]
mod tests;
