//! The miss path: what is not stored comes in once, whoever asks and however many.
//!
//! [`Fills`] brings blobs into the store, one detached task per digest; everyone who asks is a [`FillReader`] of the file
//! being written, the first one too. [`Flights`] lets many wait for one answer. [`Room`] makes room. Nothing here knows
//! HTTP answers, names of clients or modes.

mod feed;
mod fill;
mod fills;
mod flights;
mod gather;
mod reader;
mod room;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use feed::Feed;
pub use fills::{FillOptions, Fills, Opened};
pub use flights::Flights;
pub use gather::Gather;
pub use reader::{Beyond, FillReader};
pub use room::Room;

use crate::oci::Digest;
use crate::store::StoreError;
use crate::telemetry::UpstreamCause;
use crate::upstream::{Upstream, UpstreamError};

/// Where a content can be fetched: a repository of an upstream.
#[derive(Clone, Debug)]
pub struct Source {
    /// The upstream.
    pub upstream: Upstream,
    /// The repository below the upstream's own one, `""` for itself.
    pub child: Arc<str>,
}

/// Why a content could not be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FillError {
    /// The upstream did not give it.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The disk failed or is full, or the bytes are not the digest's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The content is being filled for another repository, and nobody vouched for it under this one.
    #[error("content {0} is being filled for another repository")]
    Unvouched(Box<Digest>),
    /// The upstream's answers for one digest can't be put together.
    #[error("the upstream contradicts itself: {0}")]
    Contradiction(&'static str),
    /// So many fills run that this one did not begin.
    #[error("too many blobs are being fetched")]
    Busy,
    /// No byte came in time.
    #[error("no byte came in time")]
    Timeout,
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Stopping,
}

impl FillError {
    /// Whether the upstream says that it has no such content.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Upstream(error) if error.cause() == UpstreamCause::NotFound)
    }
}
