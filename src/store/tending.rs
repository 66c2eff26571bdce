//! What looks after the store beside requests: the count after an unclean stop, the reaping of uploads and fills, the
//! writing down of uses.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::space::FOLDERS;
use super::{Inner, StoreError, blocking};
use crate::clock::Timestamp;

/// Abandoned uploads are looked for this often.
const REAP_EVERY: Duration = Duration::from_secs(60);

impl Inner {
    /// Removes abandoned uploads and fills; says how many. Blocking.
    pub(super) fn reap(&self, now: Timestamp) -> Result<usize, StoreError> {
        let idle = self.space.limits().upload_idle;
        let (fills, _) = self.fills.reap(self.shelf(), Some(idle), now)?;
        Ok(fills + self.uploads.reap(self.shelf(), idle, now)?)
    }

    /// Adds up all contents, and says so if it takes long. Blocking.
    pub(super) fn count(&self, stop: &CancellationToken) -> Result<(), StoreError> {
        if self.space.all_counted() {
            return Ok(());
        }
        let progress = crate::telemetry::Progress::new("counting the store's content");
        for folder in 0..FOLDERS {
            if stop.is_cancelled() {
                return Ok(());
            }
            self.shelf().count_folder(folder)?;
            progress.tick(folder as u64 + 1, Some(FOLDERS as u64));
        }
        self.space.set_all_counted();
        Ok(())
    }
}

/// Counts what an unclean stop left uncounted; reaps uploads; writes uses down; keeps the index's size in view.
pub(super) async fn tidy(store: Arc<Inner>, stop: CancellationToken) {
    loop {
        let (inner, token) = (Arc::clone(&store), stop.clone());
        let round = blocking(move || {
            let counted = inner.count(&token);
            inner.space.set_index_bytes(inner.listings.size_on_disk());
            // A disk that can't be counted still has uploads to reap.
            let now = crate::clock::now();
            inner.write_uses();
            let reaped = inner.reap(now)?;
            counted.map(|()| reaped)
        });
        match round.await {
            Ok(0) => {}
            Ok(reaped) => tracing::info!(reaped, "abandoned uploads and fills removed"),
            Err(error) => {
                tracing::error!(error = %crate::telemetry::with_causes(&error), "the store could not be tidied");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(REAP_EVERY) => {}
        }
    }
}
