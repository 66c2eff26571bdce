//! The miss path: a content that is not stored comes in once, however many ask for it.
//!
//! [`Fills`] brings blobs into the store, one detached task per digest; everyone who asks is a [`FillReader`] of the file
//! being written, the first one too. [`SingleFlight`] lets many wait for one answer. [`Evictor`] makes room. Nothing here
//! knows HTTP answers, names of clients or modes.

mod evictor;
mod feed;
mod fill;
mod filler;
mod fills;
mod gather;
mod proof;
mod reader;
mod singleflight;
mod ways;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use evictor::{Displacing, Evictor, Wanted};
pub use feed::Feed;
pub use filler::BATCH_BYTES as FILL_BYTES;
pub use fills::{FillOptions, Fills, Opened};
pub use gather::Gather;
pub use proof::{Proof, Unproven};
pub use reader::{Beyond, FillReader, Relayed};
pub use singleflight::SingleFlight;
pub use ways::{Part, PartAnswer};

use crate::oci::Digest;
use crate::store::StoreError;
use crate::upstream::{Upstream, UpstreamError};

/// A source of contents: a repository of an upstream.
#[derive(Clone, Debug)]
pub struct Source {
    /// The upstream.
    pub upstream: Upstream,
    /// The repository below the upstream's own one, `""` for itself.
    pub child: Arc<str>,
}

impl Source {
    /// The repository's whole name at the upstream.
    #[must_use]
    pub fn repository(&self) -> String {
        self.upstream.repository(&self.child)
    }

    /// Whether `other` leads to the same repository of the same upstream. Upstreams are compared by identity: two of one
    /// host may differ in path and credentials, and the one may give what the other refuses.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.child == other.child && self.upstream.is(&other.upstream)
    }
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
    /// The stored bytes are not the content, by the upstream's own later answers.
    #[error("the upstream contradicts itself: {0}")]
    Contradiction(&'static str),
    /// An answer does not fit what came before it; which of both is wrong is not known.
    #[error("the upstream contradicts itself: {0}")]
    Unfit(&'static str),
    /// As many fills run as may; this one did not begin.
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
    /// Whether it says something of the asked repository only: another upstream, or another repository, may give the
    /// content all the same.
    pub(crate) const fn is_of_the_source(&self) -> bool {
        match self {
            Self::Upstream(_) | Self::Contradiction(_) | Self::Unfit(_) | Self::Timeout => true,
            Self::Store(error) => matches!(error, StoreError::DigestMismatch { .. }),
            Self::Unvouched(_) | Self::Busy | Self::Stopping => false,
        }
    }
}
