//! The list of servers in a file.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::pool::Pool;
use crate::config::watch::Watcher;
use crate::jobs::{self, Job, JobError, Run, Schedule};
use crate::telemetry::with_causes;
use crate::values::{Target, TargetListError};

/// Pause between two looks at the file.
const EVERY: Duration = Duration::from_secs(1);
/// A list can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ListFileError {
    /// It can't be read, or is no UTF-8.
    #[error("can't read it")]
    Read(#[source] io::Error),
    /// It is no list of servers.
    #[error(transparent)]
    List(#[from] TargetListError),
}

/// Reads the list; blocking.
///
/// # Errors
/// [`ListFileError`]; no part of a bad list is used.
pub(super) fn read(path: &Path, backend_tls: bool) -> Result<Vec<Target>, ListFileError> {
    let mut text = String::new();
    let file = File::open(path).map_err(ListFileError::Read)?;
    let most = Target::MAX_LIST_BYTES as u64 + 1;
    file.take(most).read_to_string(&mut text).map_err(ListFileError::Read)?;
    parse(&text, backend_tls)
}

fn parse(text: &str, backend_tls: bool) -> Result<Vec<Target>, ListFileError> {
    Ok(Target::list(text)?.into_iter().map(|target| target.or_tls(backend_tls)).collect())
}

/// Brings a changed list into force. A bad one is refused and the old one stays.
#[derive(Debug)]
pub(super) struct FollowList {
    path: PathBuf,
    backend_tls: bool,
    pool: Arc<Pool>,
    watcher: Arc<Mutex<Watcher>>,
}

impl FollowList {
    /// `watcher`: of `path`, made before the list that is in force was read.
    pub(super) fn new(path: PathBuf, watcher: Watcher, backend_tls: bool, pool: Arc<Pool>) -> Self {
        Self { path, backend_tls, pool, watcher: Arc::new(Mutex::new(watcher)) }
    }
}

impl Job for FollowList {
    const NAME: &'static str = "backends-file";

    fn schedule(&self) -> Schedule {
        Schedule::every(EVERY).not_at_start()
    }

    async fn run(&mut self, _: Run) -> Result<(), JobError> {
        let (watcher, path, backend_tls) = (Arc::clone(&self.watcher), self.path.clone(), self.backend_tls);
        let changed = jobs::blocking(move || {
            let changed = watcher.lock().unwrap_or_else(PoisonError::into_inner).poll_now();
            changed.then(|| read(&path, backend_tls))
        });
        let file = self.path.display();
        match changed.await {
            None => Ok(()),
            Some(Ok(targets)) => {
                tracing::info!(%file, backends = targets.len(), "the list of backends is read again");
                self.pool.replace(targets);
                Ok(())
            }
            Some(Err(error)) => {
                let error = with_causes(&error);
                tracing::error!(%file, error, "the list of backends is refused, the old one stays");
                Err(JobError::logged(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controllers_list_is_read() {
        let endpoints = crate::switch::outputs::masters::endpoints(&["10.0.0.1".to_owned(), "fd00::1".to_owned()]);
        let list = parse(&crate::switch::outputs::masters::list_file(&endpoints), true).unwrap();
        let list: Vec<_> = list.iter().map(ToString::to_string).collect();
        assert_eq!(list, ["https://10.0.0.1:5001", "https://[fd00::1]:5001"]);
    }
}
