//! The files of the group, read again when they change.

use std::sync::Arc;
use std::time::Duration;

use super::group::Group;
use super::{ReplicaFiles, Replicas};
use crate::config::watch::Watcher;
use crate::jobs::{self, Job, JobError, Run, Schedule};
use crate::telemetry::with_causes;

/// From one look at the files to the next.
const LOOK: Duration = Duration::from_secs(1);

/// Which files are followed, and what was seen there last.
#[derive(Debug)]
pub(super) struct Watched {
    files: Option<ReplicaFiles>,
    /// `None`: they were not looked at yet.
    watcher: Option<Watcher>,
}

impl Watched {
    pub(super) const fn of(files: Option<ReplicaFiles>) -> Self {
        Self { files, watcher: None }
    }

    pub(super) const fn files(&self) -> Option<&ReplicaFiles> {
        self.files.as_ref()
    }

    /// Whether the files are others than at the last look.
    fn has_changed(&mut self) -> bool {
        if let Some(watcher) = &mut self.watcher {
            return watcher.poll_now();
        }
        let files = self.files.iter().flat_map(|files| [&files.peers, &files.certificate, &files.key, &files.ca]);
        self.watcher = Some(Watcher::new(files.cloned().collect()));
        true
    }
}

impl Replicas {
    /// Follows other files from now on; they are read within a second.
    pub fn follow(&self, files: Option<ReplicaFiles>) {
        let mut watched = self.lock_watched();
        if watched.files != files {
            *watched = Watched::of(files);
            self.0.changed.notify_one();
        }
    }

    /// Reads the files if they are others than at the last look; says whether the group is another one. Blocking.
    ///
    /// # Errors
    /// A sentence: the group before stays.
    pub(super) fn look(&self) -> Result<bool, String> {
        let mut watched = self.lock_watched();
        if !watched.has_changed() {
            return Ok(false);
        }
        // Read behind the look: what changes from now on is seen by the next one.
        let before = self.0.group.load_full();
        let read = match &watched.files {
            Some(files) => Group::read(files, &before, &self.0.tasks),
            None => Ok(Group::default()),
        };
        let outcome = read.map_err(|error| with_causes(&error));
        let error = outcome.as_ref().err().cloned();
        if let Ok(group) = outcome {
            self.0.group.store(Arc::new(group));
            self.0.followed.notify_one();
        }
        (*self.error()).clone_from(&error);
        drop(watched);
        error.map_or(Ok(true), Err)
    }

    /// As [`Self::look`], told in the log.
    fn look_and_tell(&self) -> Result<(), JobError> {
        match self.look() {
            // Until they can be used no run has done its work.
            Ok(false) => self.error().clone().map_or(Ok(()), |error| Err(JobError::logged(error))),
            Ok(true) => {
                self.tell();
                Ok(())
            }
            Err(error) => {
                tracing::error!(error, "the files of replicas are refused, the masters before stay");
                Err(JobError::logged(error))
            }
        }
    }

    fn tell(&self) {
        let Some(status) = self.status() else { return };
        if let Some(warning) = status.error {
            tracing::warn!(warning, "the list of masters is probably not meant so");
        }
        tracing::info!(peers = ?status.peers, "these masters are asked for what is not stored here");
    }
}

/// Follows the files.
#[derive(Debug)]
pub struct FollowMasters {
    replicas: Replicas,
    /// Whether the first reading was told of.
    told: bool,
}

impl FollowMasters {
    /// Of `replicas`.
    #[must_use]
    pub const fn new(replicas: Replicas) -> Self {
        Self { replicas, told: false }
    }
}

impl Job for FollowMasters {
    const NAME: &'static str = "masters";

    fn schedule(&self) -> Schedule {
        Schedule::every(LOOK)
    }

    async fn run(&mut self, _: Run) -> Result<(), JobError> {
        if !std::mem::replace(&mut self.told, true) {
            self.replicas.tell();
        }
        let replicas = self.replicas.clone();
        jobs::blocking(move || replicas.look_and_tell()).await
    }

    async fn called(&mut self) {
        self.replicas.0.changed.notified().await;
    }
}
