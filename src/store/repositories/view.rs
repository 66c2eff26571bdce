//! Where a repository has its contents, for a reader that holds no store.

use std::path::PathBuf;

use super::walk::{Members, SkippedEntries};
use crate::oci::{Digest, RepoName};
use crate::store::layout::{Layout, Membership};

/// The path of a manifest's name.
pub(in crate::store) fn manifest(layout: &Layout, repo: &RepoName, digest: &Digest) -> PathBuf {
    layout.member(repo, Membership::Manifest, digest)
}

/// The path of a blob's name.
pub(in crate::store) fn blob(layout: &Layout, repo: &RepoName, digest: &Digest) -> PathBuf {
    layout.member(repo, Membership::Blob, digest)
}

/// The manifests of a repository, in no order. Blocking.
pub(in crate::store) fn manifests(layout: &Layout, repo: &RepoName) -> Vec<Digest> {
    Members::manifests(layout, repo, &SkippedEntries::default()).collect()
}
