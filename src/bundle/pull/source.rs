//! A registry that is asked with patience: what fails for a while is asked for again, what is refused is an error at once, and
//! absent is only what a registry itself says is not there.
//!
//! All of it blocks a thread that is none of the runtime's.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::error::PullError;
use crate::oci::{Descriptor, Reference, Tag};
use crate::telemetry::UpstreamCause;
use crate::upstream::{BlobFault, Upstream, UpstreamError, UpstreamManifest, VerifiedBlob};

/// How long one answer is waited for.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a list may take.
const LIST: Duration = Duration::from_secs(300);
/// The first pause before something is asked for again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest, unless the registry asks for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A registry. Repositories are named by the rest of their path below its own one; a name that begins with
/// [`WHOLE`](crate::upstream::WHOLE) is the whole path.
#[derive(Debug)]
pub struct Source {
    upstream: Upstream,
    /// `host[:port]`.
    host: String,
    /// Its own repository, without slashes at its ends.
    path: String,
    runtime: Handle,
    patience: Duration,
}

impl Source {
    /// `upstream` has to be a client of `path` at `host`. What fails is asked for again until nothing has come for `patience`.
    #[must_use]
    pub fn new(upstream: Upstream, host: &str, path: &str, runtime: Handle, patience: Duration) -> Self {
        Self { upstream, host: host.to_owned(), path: path.to_owned(), runtime, patience }
    }

    /// Its own repository.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// A repository with its host.
    pub(super) fn repository(&self, child: &str) -> String {
        match child.strip_prefix(crate::upstream::WHOLE) {
            Some(whole) => format!("{}/{whole}", self.host),
            None if child.is_empty() => format!("{}/{}", self.host, self.path),
            None if self.path.is_empty() => format!("{}/{child}", self.host),
            None => format!("{}/{}/{child}", self.host, self.path),
        }
    }

    /// An image as it is written.
    pub(super) fn image(&self, child: &str, reference: &Reference) -> String {
        let mark = if matches!(reference, Reference::Digest(_)) { '@' } else { ':' };
        format!("{}{mark}{reference}", self.repository(child))
    }

    /// A manifest; `None`: a registry says that it is not there.
    ///
    /// # Errors
    /// [`PullError::Registry`].
    pub(super) fn manifest(&self, child: &str, reference: &Reference) -> Result<Option<UpstreamManifest>, PullError> {
        self.ask(|| self.image(child, reference), || self.upstream.manifest(child, reference, Instant::now() + ANSWER))
    }

    /// The tags of a repository, sorted; `None`: a registry says that there is no such repository.
    ///
    /// # Errors
    /// [`PullError::Registry`].
    pub(super) fn tags(&self, child: &str) -> Result<Option<Vec<Tag>>, PullError> {
        let what = || format!("the list of tags of {}", self.repository(child));
        let listed = self.ask(what, || self.upstream.tags(child, Instant::now() + LIST))?;
        // What is no tag can't be asked for.
        Ok(listed.map(|tags| tags.iter().filter_map(|tag| tag.parse().ok()).collect()))
    }

    fn ask<T, F: Future<Output = Result<T, UpstreamError>>>(
        &self,
        what: impl Fn() -> String,
        asked: impl Fn() -> F,
    ) -> Result<Option<T>, PullError> {
        let mut retries = self.retries();
        loop {
            let error = match self.runtime.block_on(Box::pin(asked())) {
                Ok(found) => return Ok(Some(found)),
                Err(error) => error,
            };
            if error.cause() == UpstreamCause::NotFound {
                if error.is_registrys_own() {
                    return Ok(None);
                }
                return Err(PullError::Registry { what: what(), error: error.disbelieved() });
            }
            if !retries.wait(&error) {
                return Err(PullError::Registry { what: what(), error });
            }
        }
    }

    /// The bytes of a blob behind what is there of it.
    pub(super) fn blob(&self, child: &str, blob: &Descriptor) -> VerifiedBlob {
        self.upstream.verified_blob(child, blob)
    }

    /// The next piece of a blob.
    pub(super) fn chunk(&self, blob: &mut VerifiedBlob) -> Result<Option<Bytes>, BlobFault> {
        self.runtime.block_on(blob.chunk())
    }

    pub(super) fn retries(&self) -> Retries<'_> {
        Retries { source: self, since: Instant::now(), pause: FIRST_PAUSE }
    }

    /// A layer as it comes, of which nothing is kept. Its reader has to prove it.
    pub(super) fn passing<'a>(&'a self, child: &str, layer: &Descriptor) -> impl Read + use<'a> {
        Passing { source: self, blob: self.blob(child, layer), piece: Bytes::new() }
    }
}

/// Tries of one thing.
#[derive(Debug)]
pub(super) struct Retries<'a> {
    source: &'a Source,
    since: Instant,
    pause: Duration,
}

impl Retries<'_> {
    /// Waits before the next try; `false`: there is to be none.
    pub(super) fn wait(&mut self, error: &UpstreamError) -> bool {
        let pause = error.retry_after().unwrap_or_default().max(self.pause.mul_f64(1.0 + chance()));
        if !error.may_pass() || self.since.elapsed() + pause > self.source.patience {
            return false;
        }
        self.source.runtime.block_on(async { tokio::time::sleep(pause).await });
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        true
    }

    /// Something came.
    pub(super) fn moved(&mut self) {
        self.since = Instant::now();
        self.pause = FIRST_PAUSE;
    }
}

/// A number from 0 to 1, so that those who wait for a registry don't come back together.
fn chance() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

struct Passing<'a> {
    source: &'a Source,
    blob: VerifiedBlob,
    piece: Bytes,
}

impl Read for Passing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            match self.source.chunk(&mut self.blob).map_err(io::Error::other)? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}
