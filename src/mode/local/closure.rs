//! What a push names and this master lacks: it is fetched from the others before the push is answered.
//!
//! A client that pushes through a balancer put each blob somewhere, and another master has said that it is there. The bytes come
//! by the same fills as for pulls, a few contents at a time, as long as they move.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::timeout;

use super::Local;
use super::movement::Movement;
use super::read_through::may_be_elsewhere;
use crate::mode::ModeError;
use crate::oci::{Digest, Reference, RepoName};
use crate::store::{StoreError, StoredManifest};
use crate::telemetry::with_causes;

/// Longest wait of a mount: whoever hears no uploads the blob.
const MOUNT_PATIENCE: Duration = Duration::from_secs(20);

/// Contents that one push fetches at once.
const AT_ONCE: usize = 4;

impl Local {
    /// Fetches what a manifest references, the repository lacks and another master has. Safe to drop: what is being fetched comes all
    /// the same.
    ///
    /// # Errors
    /// Of the store, or why something did not come that another master has.
    pub(super) async fn bring_references(&self, repo: &RepoName, stored: &StoredManifest) -> Result<(), ModeError> {
        if self.beyond().is_none() {
            return Ok(());
        }
        let missing = self.store.missing_references(repo, stored).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let movement = Movement::begun();
        tokio::select! {
            brought = self.bring_all(repo, stored, missing, &movement) => brought,
            () = movement.stands_still() => Err(ModeError::UpstreamTimeout),
        }
    }

    async fn bring_all(
        &self,
        repo: &RepoName,
        stored: &StoredManifest,
        mut missing: Vec<Digest>,
        movement: &Movement,
    ) -> Result<(), ModeError> {
        let (mut tried, mut why) = (HashSet::new(), None);
        loop {
            let next: Vec<_> = missing.iter().copied().filter(|digest| tried.insert(*digest)).collect();
            if next.is_empty() {
                return why.map_or(Ok(()), Err);
            }
            let is_blob = |digest| stored.manifest.required_blobs().any(|blob| blob.digest == digest);
            let fetches: Vec<_> =
                next.into_iter().map(|digest| self.bring(repo, digest, is_blob(digest), movement)).collect();
            let mut running = stream::iter(fetches).buffer_unordered(AT_ONCE);
            while let Some(brought) = running.next().await {
                movement.moved();
                if let Err(error) = brought {
                    why.get_or_insert(error);
                }
            }
            drop(running);
            missing = self.store.missing_references(repo, stored).await?;
            if missing.is_empty() {
                return Ok(());
            }
        }
    }

    /// Fetches one content; ends when it is stored or could not be had. `false`: no other master has it.
    async fn bring(
        &self,
        repo: &RepoName,
        digest: Digest,
        is_blob: bool,
        movement: &Movement,
    ) -> Result<bool, ModeError> {
        // An index may list content of any kind, and what a child names may be a child too.
        let is_here = !is_blob && self.bring_content(repo, digest, true, movement).await?;
        Ok(is_here || self.bring_content(repo, digest, false, movement).await?)
    }

    /// Fetches a content from another master; ends when it is stored or could not be had. `false`: no other master has it.
    ///
    /// # Errors
    /// Why it did not come.
    pub(super) async fn bring_content(
        &self,
        repo: &RepoName,
        digest: Digest,
        is_manifest: bool,
        movement: &Movement,
    ) -> Result<bool, ModeError> {
        let Some(through) = self.beyond() else { return Ok(false) };
        let outcome = if is_manifest {
            match self.store.manifest(repo, &Reference::Digest(digest)).await {
                // It is there also while something that it names is not.
                Ok(_) => Ok(()),
                Err(lack) if may_be_elsewhere(&lack) => through.manifest(repo, digest, lack).await.map(drop),
                Err(error) => Err(error.into()),
            }
        } else {
            through.store_blob(repo, digest, |_| movement.moved()).await
        };
        match outcome {
            Ok(()) => Ok(true),
            Err(ModeError::Store(StoreError::BlobUnknown | StoreError::ManifestUnknown)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Fetches a blob from another master for a mount; ends when it is stored, could not be had, or after 20 s. Says whether it
    /// may be here now. Safe to drop: it comes all the same.
    pub async fn bring_for_mount(&self, repo: &RepoName, digest: Digest) -> bool {
        let movement = Movement::begun();
        match timeout(MOUNT_PATIENCE, self.bring_content(repo, digest, false, &movement)).await {
            Ok(Ok(is_here)) => is_here,
            Ok(Err(error)) => {
                let error = with_causes(&error);
                tracing::info!(%digest, %repo, error, "a blob to be mounted did not come from another master");
                false
            }
            Err(_) => false,
        }
    }
}
