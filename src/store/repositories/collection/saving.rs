//! Whatever is asked for or named stays, with all below it: the calls that every answer about a digest passes.

use super::ledger::Saved;
use crate::oci::{Digest, Manifest, RepoName};
use crate::store::repositories::manifests::Manifests;

impl Manifests {
    /// Takes what the repository has under that digest off the list of suspects; with a manifest all that it names, down to
    /// the last child. A look into memory where it is no suspect. Blocking.
    pub(in crate::store) fn save(&self, repo: &RepoName, digest: &Digest) {
        if self.ledger.save(repo, digest) != Saved::Manifest {
            return;
        }
        // Each is read once: a manifest comes off the list once.
        let mut waiting = vec![*digest];
        while let Some(digest) = waiting.pop() {
            // What can't be read names nothing, and keeps its repository from being collected.
            let Ok(Some(stored)) = self.read_manifest(repo, digest) else { continue };
            waiting.extend(named(&stored.manifest).filter(|named| self.ledger.save(repo, named) == Saved::Manifest));
        }
    }

    /// Saves what a manifest names; blocking.
    pub(in crate::store) fn save_named(&self, repo: &RepoName, manifest: &Manifest) {
        named(manifest).for_each(|digest| self.save(repo, &digest));
    }
}

/// The digests that a manifest names.
pub(in crate::store) fn named(manifest: &Manifest) -> impl Iterator<Item = Digest> {
    let all = manifest.config.iter().chain(&manifest.layers).chain(&manifest.manifests).chain(&manifest.subject);
    all.map(|descriptor| descriptor.digest)
}
