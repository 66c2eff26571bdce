//! Collection as others order it, ask for it and hold it, and in a store that no server has.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::contents::changes::blocking;
use super::error::StoreError;
use super::face::Store;
use super::options::{CollectionOptions, StoreOptions};
use super::pins::{FoundPins, PinsState};
use super::repositories::collection::agreement::AskMasters;
use super::repositories::collection::report::{CollectionReport, CollectionStatus, Reason};
use super::repositories::collection::settings::Retained;
use super::repositories::records::Record;
use crate::jobs::Progress;
use crate::oci::{Digest, RepoName};

impl Store {
    /// Puts options of the collection into force; without this nothing is collected by itself.
    pub fn set_collection(&self, options: CollectionOptions) {
        self.0.manifests.ledger.settings.set_options(options);
    }

    /// While `held`, nothing is collected: a run ends before its next content, and a look says what would go. For the time in
    /// which the contents of Local are not what clients see, or not yet all there.
    pub fn hold_collection(&self, held: bool) {
        self.0.manifests.ledger.settings.hold(held);
    }

    /// Puts the pins as they were found into force in the place of those before. What is pinned now and was about to go stays.
    /// Blocking.
    pub fn set_pins(&self, found: FoundPins) {
        let manifests = &self.0.manifests;
        manifests.ledger.set_pins(found);
        let pins = manifests.ledger.settings.pins();
        for suspect in manifests.ledger.suspects(false).into_values().flatten() {
            if pins.contains(&suspect.digest) {
                manifests.save(&suspect.repo, &suspect.digest);
            }
        }
    }

    /// What is pinned now: asked anew before each removal that nobody ordered, as pins grow old. Waits for nothing.
    #[must_use]
    pub fn pins(&self) -> PinsState {
        self.0.manifests.ledger.settings.pins_state()
    }

    /// What was found last where `store.pins` points. Waits for nothing.
    #[must_use]
    pub fn found_pins(&self) -> FoundPins {
        self.0.manifests.ledger.settings.found_pins()
    }

    /// What collection is about. Waits for no disk.
    #[must_use]
    pub fn collection(&self) -> CollectionStatus {
        self.0.collector.status()
    }

    /// What the last run came to that ended.
    #[must_use]
    pub fn last_collection(&self) -> CollectionReport {
        self.0.collector.last()
    }

    /// From now on other masters are asked by this way before anything goes that they may need. Without it no manifest and no tag
    /// goes by itself of a store that keeps records.
    pub fn ask_masters_by(&self, ask: AskMasters) {
        self.0.collector.masters.ask_by(ask);
    }

    /// A run of retention and collection begins: what came of the questions of the last one is forgotten.
    pub fn begin_questions(&self) {
        self.0.collector.masters.begin();
    }

    /// The records of the manifests and tags of a repository that a run of the collection would remove now, by this store alone,
    /// where retention keeps what is `kept`. Marks the repository. Safe to drop.
    ///
    /// # Errors
    /// A sentence: nothing of it goes now.
    pub async fn removable(&self, repo: &RepoName, kept: Option<Arc<HashSet<Digest>>>) -> Result<Vec<Record>, String> {
        let mut retained = Retained::default();
        if let Some(kept) = kept {
            retained.note(repo.clone(), Ok(kept));
        }
        self.0.collector.removable(repo, &retained, &CancellationToken::new()).await
    }

    /// One run, for a store that no server has; a running one has a job. `progress`: repositories.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn collect(&self, stop: &CancellationToken, progress: &Progress) -> Result<CollectionReport, StoreError> {
        self.0.collector.run(stop, progress).await
    }

    /// What a run would do now, where `retained` is what retention keeps; changes nothing. Reads the repositories that a run
    /// would read.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn look_at_collection(&self, retained: &Arc<Retained>) -> Result<CollectionReport, StoreError> {
        self.0.collector.look(retained, &CancellationToken::new()).await
    }

    /// Why each repository that has the content keeps it, where `retained` is what retention keeps. Reads all manifests of those
    /// repositories.
    ///
    /// # Errors
    /// [`StoreError::Bug`] only.
    pub async fn why_kept(&self, digest: Digest, retained: &Arc<Retained>) -> Result<Vec<Reason>, StoreError> {
        let (collector, retained) = (Arc::clone(&self.0.collector), Arc::clone(retained));
        blocking(move || Ok(collector.why(&digest, &retained))).await
    }
}

impl Store {
    /// Opens the store in `dir`, which no server has, for a run by hand. `is_held`: whether collection is held, where this mode
    /// file was in force when the server ended; `pins`: as `store.pins` has them. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Layout`] with a sentence if `dir` is no store, [`StoreError::InUse`] if a server has it; [`StoreError`] of the disk.
    pub fn open_stopped(
        dir: &Path,
        options: CollectionOptions,
        pins: FoundPins,
        is_held: impl FnOnce(Option<&[u8]>) -> bool,
    ) -> Result<Self, StoreError> {
        let store = open_stopped(dir, options, pins)?;
        store.hold_collection(is_held(store.kept_mode_file()?.as_deref()));
        Ok(store)
    }

    /// A runtime for a run by hand.
    ///
    /// # Errors
    /// [`StoreError::Bug`]: the system refuses it.
    pub fn runtime() -> Result<Runtime, StoreError> {
        runtime()
    }
}

pub(super) fn open_stopped(dir: &Path, options: CollectionOptions, pins: FoundPins) -> Result<Store, StoreError> {
    let store = Store::open(&StoreOptions { must_exist: true, ..StoreOptions::at(dir) })?;
    store.set_collection(options);
    store.set_pins(pins);
    Ok(store)
}

/// For work on it.
pub(super) fn runtime() -> Result<Runtime, StoreError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_time().build();
    built.map_err(|error| StoreError::Bug(format!("no runtime: {error}")))
}
