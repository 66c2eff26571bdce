//! Retention in a store that no server has.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::keeper::Retention;
use super::options::RetentionOptions;
use super::report::RetentionReport;
use crate::jobs::Progress;
use crate::oci::Digest;
use crate::store::{CollectionOptions, CollectionReport, FoundPins, Reason, Store, StoreError};

/// A run of retention and of the collection in the store in `dir`, which no server has; with `dry_run` only says what would go.
/// `is_held`: whether collection is held, where this mode file was in force when the server ended; `pins`: as `store.pins` has
/// them. Blocking.
///
/// # Errors
/// [`StoreError::Layout`] with a sentence if `dir` is no store, [`StoreError::InUse`] if a server has it; [`StoreError`] of the disk.
pub fn run_stopped(
    dir: &Path,
    options: CollectionOptions,
    rules: RetentionOptions,
    pins: FoundPins,
    dry_run: bool,
    is_held: impl FnOnce(Option<&[u8]>) -> bool,
) -> Result<(RetentionReport, CollectionReport), StoreError> {
    let store = Store::open_stopped(dir, options, pins, is_held)?;
    let retention = Retention::new(store.clone());
    retention.set_options(rules);
    let reports = Store::runtime()?.block_on(async {
        if dry_run {
            return retention.preview_all().await;
        }
        let stop = CancellationToken::new();
        Ok((retention.run(&stop).await?, store.collect(&stop, &Progress::default()).await?))
    });
    if !dry_run {
        store.close();
    }
    reports
}

/// Why each repository of the store in `dir`, which no server has, keeps a content. Blocking.
///
/// # Errors
/// As [`run_stopped`].
pub fn why_stopped(
    dir: &Path,
    options: CollectionOptions,
    rules: RetentionOptions,
    pins: FoundPins,
    digest: Digest,
    is_held: impl FnOnce(Option<&[u8]>) -> bool,
) -> Result<Vec<Reason>, StoreError> {
    let retention = Retention::new(Store::open_stopped(dir, options, pins, is_held)?);
    retention.set_options(rules);
    Store::runtime()?.block_on(retention.why_kept(digest))
}

/// What retention would do in the store in `dir`, which no server has; changes nothing. Blocking.
///
/// # Errors
/// As [`run_stopped`].
pub fn preview_stopped(
    dir: &Path,
    rules: RetentionOptions,
    pins: FoundPins,
    is_held: impl FnOnce(Option<&[u8]>) -> bool,
) -> Result<RetentionReport, StoreError> {
    let store = Store::open_stopped(dir, CollectionOptions::default(), pins, is_held)?;
    let retention = Retention::new(store);
    retention.set_options(rules);
    Store::runtime()?.block_on(retention.preview())
}
