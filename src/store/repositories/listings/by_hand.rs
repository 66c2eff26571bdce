//! The rebuild that an administrator asks for, while no server runs.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Listings;
use crate::store::error::StoreError;
use crate::store::layout::Layout;
use crate::store::opening;
use crate::store::repositories::index::IndexError;
use crate::store::repositories::locks::RepositoryLocks;
use crate::store::repositories::rebuild::Tree;
use crate::telemetry::with_causes;

/// How often the caller hears how far the work is.
const SHOW_EVERY: Duration = Duration::from_millis(100);

/// Builds the index of the store in `dir` anew; blocking. `show` hears the number of tags and manifests that are
/// through, some times a second and once at the end; that number is the answer too.
///
/// # Errors
/// [`StoreError::Layout`] with a sentence for the administrator if `dir` is no store or a server has it open;
/// [`StoreError`] of the disk.
pub fn rebuild_index(dir: &Path, show: impl Fn(u64)) -> Result<u64, StoreError> {
    let layout = Layout::new(dir);
    let _held = opening::hold(&layout)?;
    let locks = RepositoryLocks::default();
    let tree = Tree { layout: &layout, locks: &locks };
    let listings = Listings::new(&layout);
    std::thread::scope(|scope| {
        let (ended, end) = channel::<()>();
        let work = scope.spawn(|| {
            let _ended = ended;
            listings.slot().opened = true;
            listings.replace(tree, &CancellationToken::new()).and_then(|()| listings.seal())
        });
        while end.recv_timeout(SHOW_EVERY) == Err(RecvTimeoutError::Timeout) {
            show(listings.done());
        }
        let result = work.join().map_err(|_| StoreError::Bug("the rebuild panicked".into()))?;
        listings.close();
        result.map_err(|error| match error {
            IndexError::Disk(error) => error,
            other => StoreError::Layout(format!("the index can't be built: {}", with_causes(&other))),
        })
    })?;
    let done = listings.done();
    show(done);
    Ok(done)
}
