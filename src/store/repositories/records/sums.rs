//! What tells in few bytes whether two masters have said the same: the exclusive or of a hash of each record, kept as records
//! come and go. Pure.
//!
//! The hash has the repository's name in it, so that records of one repository never stand for those of another one.

use std::fmt;

use super::record::Record;
use crate::oci::{Algorithm, RepoName};

/// Parts of a repository's records, by the first byte of a hash of what each is about.
pub const BUCKETS: usize = 256;

/// A sum over records; all zero without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum([u8; Sum::LENGTH]);

impl Sum {
    /// Bytes of one.
    pub const LENGTH: usize = 32;

    /// Reads what [`Self::as_bytes`] gave; `None`: the length is another one.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// The sum of what stands under a name; that of nothing is nothing.
    pub(super) fn named(self, repo: &RepoName) -> Self {
        if self == Self::default() {
            return self;
        }
        let mut text = Vec::with_capacity(repo.as_str().len() + 1 + Self::LENGTH);
        text.extend_from_slice(repo.as_str().as_bytes());
        text.push(b'\n');
        text.extend_from_slice(&self.0);
        Self::hash(&text)
    }

    fn hash(text: &[u8]) -> Self {
        Self::of_bytes(Algorithm::Sha256.digest(text).as_bytes()).unwrap_or_default()
    }

    /// Takes another one in, or out again.
    pub(super) fn change(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(byte, other)| *byte ^= other);
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The sums of a repository's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sums {
    repo: RepoName,
    all: Sum,
    buckets: Vec<Sum>,
}

impl Sums {
    /// Of no record.
    pub(super) fn of(repo: &RepoName) -> Self {
        Self { repo: repo.clone(), all: Sum::default(), buckets: vec![Sum::default(); BUCKETS] }
    }

    /// Takes a record in, or out again.
    pub(super) fn change(&mut self, record: &Record) {
        let hash = Sum::hash(format!("{}\n{}", self.repo, record.text()).as_bytes());
        self.all.change(hash);
        if let Some(bucket) = self.buckets.get_mut(usize::from(record.bucket())) {
            bucket.change(hash);
        }
    }

    pub(super) const fn all(&self) -> Sum {
        self.all
    }

    pub(super) fn buckets(&self) -> &[Sum] {
        &self.buckets
    }
}
