//! A stored file on its way to a client: why it can't be read, wherever that is found out, and when the last of it is gone.
//!
//! The bytes of a large file are handed to the connection before they are read (`sys::sendfile_token`), so the body has ended when
//! the disk fails. What the answer came to is therefore told when the last of its bytes is sent or dropped.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::mode::Mode;
use crate::oci::{Digest, RepoName};
use crate::store::Blob;
use crate::sys::sendfile_token::FileWatch;
use crate::telemetry::Metrics;

/// What is to be done at the end, with why the file could not be read, if it could not.
type End = Box<dyn FnOnce(Option<&str>) + Send>;

/// A stored blob that a client reads. Shared by the body and by what stands for parts of its file.
pub(in crate::api) struct Reading {
    mode: Arc<Mode>,
    metrics: Metrics,
    repo: RepoName,
    digest: Digest,
    /// The blob's place in its file; of one that is being filled all of the file.
    extent: OnceLock<Range<u64>>,
    failure: OnceLock<String>,
    end: Mutex<Option<End>>,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Reading {
    pub(in crate::api) fn new(mode: Arc<Mode>, metrics: Metrics, repo: RepoName, digest: Digest) -> Arc<Self> {
        let (extent, failure) = (OnceLock::new(), OnceLock::new());
        Arc::new(Self { mode, metrics, repo, digest, extent, failure, end: Mutex::new(None) })
    }

    /// Notes where the blob lies in its file. All bodies of an answer read the same blob.
    pub(super) fn lies_at(&self, extent: Range<u64>) {
        self.extent.get_or_init(|| extent);
    }

    /// Notes that a file with a part of the blob can't be opened.
    pub(super) fn unopened(&self, error: &io::Error) {
        if self.failure.set(format!("open: {error}")).is_ok() {
            self.metrics.disk_error();
            let (digest, repository) = (&self.digest, &self.repo);
            tracing::error!(%digest, %repository, cause = %error, "a file of a blob can't be opened, its answer breaks off");
        }
    }

    /// Has `end` called once nobody holds this any more.
    pub(super) fn at_end(&self, end: End) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }
}

impl FileWatch for Reading {
    fn failed(&self, file: &Arc<File>, error: &io::Error) {
        // The name that the system knows it by; it may be gone already.
        let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let path = path.map_or_else(|_| "a stored file".to_owned(), |path| path.display().to_string());
        if self.failure.set(format!("read {path}: {error}")).is_err() {
            return;
        }
        self.metrics.disk_error();
        tracing::error!(
            %path,
            digest = %self.digest,
            repository = %self.repo,
            cause = %error,
            "a stored blob can't be read, its answer breaks off"
        );
        let blob = self.extent.get().and_then(|at| Blob::part_of(Arc::clone(file), at.start, at.end - at.start));
        if let Some(blob) = blob {
            self.mode.note_unreadable(&self.repo, &self.digest, &blob, error);
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let end = self.end.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(end) = end {
            end(self.failure.get().map(String::as_str));
        }
    }
}
