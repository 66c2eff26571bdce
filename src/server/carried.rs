//! A bundle that is served as it is: opened at the start, and what is wrong with it said.

use std::path::PathBuf;

use crate::bundle::{self, BundleError, Catalog};
use crate::oci::RepoName;

/// Most findings that are lines of the log.
const MOST_LOGGED: usize = 100;

/// A bundle, as it is named on the command line.
#[derive(Clone, Debug)]
pub struct CarriedBundle {
    /// Its files and directories.
    pub paths: Vec<PathBuf>,
    /// The repository of its root.
    pub repository: RepoName,
}

impl CarriedBundle {
    /// Opens it, and says in the log what is wrong with it. Blocking: reads headers and manifests.
    ///
    /// # Errors
    /// [`BundleError`]: there is no bundle, or it can't be read.
    pub(super) fn open(&self) -> Result<Catalog, BundleError> {
        let catalog = Catalog::of(bundle::open(&self.paths, bundle::MOST_BYTES, &|| false)?, &self.repository)?;
        for finding in catalog.damage().take(MOST_LOGGED) {
            tracing::warn!(place = finding.place, finding = finding.says, "the bundle is damaged or not all there");
        }
        tracing::info!(
            repositories = catalog.repository_count(),
            tags = catalog.tag_count(),
            left_out = catalog.left_out(),
            mib = catalog.bytes() >> 20,
            "a bundle is served, read only; images that are not whole are left out"
        );
        Ok(catalog)
    }
}
