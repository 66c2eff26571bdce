//! Manifests and pages as they are read from the store, the kinds of kept lists, and the names of snapshots.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

use crate::oci::{Digest, Manifest};

/// A manifest as stored.
#[derive(Clone, Debug)]
pub struct StoredManifest {
    /// Digest of the bytes.
    pub digest: Digest,
    /// The bytes as they were pushed.
    pub bytes: Bytes,
    /// Their parsed form.
    pub manifest: Arc<Manifest>,
}

/// One page of a sorted list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The entries, in byte order.
    pub entries: Vec<String>,
    /// Whether more follow.
    pub more: bool,
}

/// Which list of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListKind {
    /// Its tags.
    Tags,
    /// The referrers of a manifest.
    Referrers(Digest),
}

impl ListKind {
    /// The list whose file has this name.
    pub(super) fn of_file_name(name: &str) -> Option<Self> {
        if name == "tags" {
            return Some(Self::Tags);
        }
        let (algorithm, hex) = name.strip_prefix("referrers-")?.split_once('-')?;
        Digest::from_hex(algorithm.parse().ok()?, hex).ok().map(Self::Referrers)
    }

    pub(super) fn file_name(self) -> String {
        match self {
            Self::Tags => "tags".into(),
            Self::Referrers(subject) => format!("referrers-{}-{}", subject.algorithm(), subject.hex()),
        }
    }
}

/// The name of a snapshot: `[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}`. It can't begin with a dot and has no slash, so it is safe as the
/// name of a directory. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotName(Arc<str>);

/// The text is not the name of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a snapshot's name is 1 to 64 characters of a-z, A-Z, 0-9, . _ - and begins with a letter or a digit")]
pub struct InvalidSnapshotName;

impl SnapshotName {
    /// Longest name in bytes.
    pub const MAX_LEN: usize = 64;
}

impl FromStr for SnapshotName {
    type Err = InvalidSnapshotName;

    fn from_str(text: &str) -> Result<Self, InvalidSnapshotName> {
        let is_name = text.len() <= Self::MAX_LEN
            && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if is_name { Ok(Self(Arc::from(text))) } else { Err(InvalidSnapshotName) }
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshots_name_is_safe_as_the_name_of_a_directory() {
        for right in ["a", "2026-11-29", "Before.v1.70_1", &"x".repeat(64)] {
            assert_eq!(right.parse::<SnapshotName>().unwrap().to_string(), right);
        }
        for wrong in ["", ".", "..", ".a", "-a", "_a", "a/b", "a b", "a\0", "é", &"x".repeat(65)] {
            assert_eq!(wrong.parse::<SnapshotName>(), Err(InvalidSnapshotName), "{wrong}");
        }
    }
}
