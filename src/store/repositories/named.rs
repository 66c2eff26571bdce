//! Descriptors of one content in the manifests that a repository stores. Blocking: reads them all, for the rare case.

use super::manifests::Manifests;
use super::walk::{Members, SkippedEntries};
use crate::oci::{Digest, RepoName};
use crate::store::error::StoreError;

/// Lengths of one content that manifests may give before no further one is looked for.
const MOST_LENGTHS: usize = 8;

impl Manifests {
    /// Whether a manifest stored in the repository names the content.
    pub(in crate::store) fn is_named(&self, repo: &RepoName, digest: &Digest) -> Result<bool, StoreError> {
        let mut named = false;
        self.named(repo, digest, |_| {
            named = true;
            false
        })?;
        Ok(named)
    }

    /// The lengths that manifests stored in the repository give for the content.
    pub(in crate::store) fn named_lengths(&self, repo: &RepoName, digest: &Digest) -> Result<Vec<u64>, StoreError> {
        let mut lengths = Vec::new();
        self.named(repo, digest, |length| {
            if !lengths.contains(&length) {
                lengths.push(length);
            }
            lengths.len() < MOST_LENGTHS
        })?;
        Ok(lengths)
    }

    /// Calls `each` with the length in every descriptor of the content, until it says `false`.
    fn named(&self, repo: &RepoName, digest: &Digest, mut each: impl FnMut(u64) -> bool) -> Result<(), StoreError> {
        let skipped = SkippedEntries::default();
        for manifest in Members::manifests(&self.contents.layout, repo, &skipped) {
            // A damaged one names nothing that could be believed.
            let Ok(Some(stored)) = self.read_manifest(repo, manifest) else { continue };
            if let Some(blob) = stored.manifest.required_blobs().find(|blob| blob.digest == *digest)
                && !each(blob.size)
            {
                break;
            }
        }
        Ok(())
    }
}
