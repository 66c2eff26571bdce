//! Bytes that pass through without being stored are compared with their digest.

use super::Source;
use crate::oci::{Digest, Hasher};

/// The bytes that passed are not the digest's.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the upstream's bytes are not {expected}: their digest is {actual}")]
pub struct Unproven {
    expected: Box<Digest>,
    actual: Box<Digest>,
}

/// A running proof that what passes is the content of a digest, from its first byte on.
pub struct Proof {
    digest: Digest,
    source: Source,
    hasher: Hasher,
}

impl Proof {
    /// Nothing has passed yet. `source`: where it comes from, for the log.
    #[must_use]
    pub fn new(digest: Digest, source: Source) -> Self {
        Self::behind(Hasher::new(digest.algorithm()), digest, source)
    }

    /// The bytes that `hasher` has seen have passed.
    pub(super) const fn behind(hasher: Hasher, digest: Digest, source: Source) -> Self {
        Self { digest, source, hasher }
    }

    /// Takes in the bytes that pass next.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Whether all that passed is the content; says in the log if it is not.
    ///
    /// # Errors
    /// [`Unproven`].
    pub fn check(self) -> Result<(), Unproven> {
        let actual = self.hasher.finish();
        if actual == self.digest {
            return Ok(());
        }
        tracing::warn!(
            digest = %self.digest,
            %actual,
            repository = self.source.repository(),
            upstream = self.source.upstream.host(),
            "the upstream gave other bytes than the digest's; the answer is broken off"
        );
        Err(Unproven { expected: Box::new(self.digest), actual: Box::new(actual) })
    }
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proof").field("digest", &self.digest).finish_non_exhaustive()
    }
}
