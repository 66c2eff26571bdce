//! A blob read to its end and held against its descriptor, over as many answers as it takes.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{BlobRange, Upstream, UpstreamBlob, UpstreamBody, UpstreamError};
use crate::oci::{Descriptor, Hasher};

/// How long the head of an answer is waited for; a registry may have to fetch the blob itself first.
const PATIENCE: Duration = Duration::from_secs(60);

/// Requests that may end early one after the other without a byte between them.
const BREAKS: usize = 3;

/// Why the bytes of a blob don't count.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BlobFault {
    /// The registry did not give it, or not to its end.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// It gave something else; a sentence that names the blob.
    #[error("{0}")]
    Content(String),
}

/// The bytes of a blob, which count only once [`VerifiedBlob::chunk`] has said that they have ended: until then nobody knows
/// whether they are the right ones. Holds one piece at a time. Dropping it ends the transfer.
#[derive(Debug)]
pub struct VerifiedBlob {
    upstream: Upstream,
    child: String,
    blob: Descriptor,
    /// `None` once all of it was proven.
    hasher: Option<Hasher>,
    /// Bytes hashed.
    read: u64,
    /// `read` when the registry was asked last.
    asked_at: u64,
    breaks: usize,
    body: Option<UpstreamBody>,
    /// Bytes of `body` that were hashed from an answer before it.
    passed: u64,
}

impl Upstream {
    /// The bytes of a blob, to be read to their end. Nothing is asked for yet. `child`: the repository below the configured
    /// one, `""` for itself.
    #[must_use]
    pub fn verified_blob(&self, child: &str, blob: &Descriptor) -> VerifiedBlob {
        VerifiedBlob {
            upstream: self.clone(),
            child: child.to_owned(),
            blob: blob.clone(),
            hasher: Some(Hasher::new(blob.digest.algorithm())),
            read: 0,
            asked_at: 0,
            breaks: 0,
            body: None,
            passed: 0,
        }
    }
}

impl VerifiedBlob {
    /// The same, behind the first `read` bytes, which `hasher` has seen. Before the first piece.
    #[must_use]
    pub fn behind(self, read: u64, hasher: Hasher) -> Self {
        Self { hasher: Some(hasher), read, asked_at: read, ..self }
    }

    /// The next piece; `None` when all of it has come and is what the descriptor says. An answer that breaks off is gone on
    /// with, by a range or by passing over what is known. At most one piece more than the descriptor says is read.
    ///
    /// Safe to drop: no byte is lost. After an error it must not be called again.
    ///
    /// # Errors
    /// [`BlobFault`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BlobFault> {
        while self.hasher.is_some() {
            match self.read_on().await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => self.prove()?,
                // A range behind what is there: the stored file is shorter than its descriptor.
                Err(error) if error.status() == Some(416) && self.read > 0 => self.prove()?,
                Err(error) => {
                    self.body = None;
                    self.breaks = if self.read > self.asked_at { 1 } else { self.breaks + 1 };
                    if self.breaks >= BREAKS || error.status().is_some_and(|status| status < 500) {
                        return Err(error.into());
                    }
                }
            }
        }
        Ok(None)
    }

    /// Reads all of it and keeps nothing. Safe to drop: ends the transfer.
    ///
    /// # Errors
    /// [`BlobFault`].
    pub async fn read_all(mut self) -> Result<(), BlobFault> {
        while self.chunk().await?.is_some() {}
        Ok(())
    }

    /// The next piece of this answer, or of another one; `None` at its end, or where there is more than there should be.
    async fn read_on(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        if self.read > self.blob.size {
            return Ok(None);
        }
        let body = match &mut self.body {
            Some(body) => body,
            None => {
                self.asked_at = self.read;
                let range = (self.read > 0).then_some(BlobRange { from: self.read, to: None });
                let deadline = Instant::now() + PATIENCE;
                let answer = self.upstream.blob(&self.child, &self.blob.digest, range, deadline).await?;
                let UpstreamBlob { offset, body, .. } = answer;
                // A range that was ignored: what was hashed already is passed over.
                self.passed = self.read.saturating_sub(offset);
                self.body.insert(body)
            }
        };
        while let Some(mut bytes) = body.chunk().await? {
            let known = usize::try_from(self.passed).map_or(bytes.len(), |passed| passed.min(bytes.len()));
            self.passed -= known as u64;
            let fresh = bytes.split_off(known);
            if fresh.is_empty() {
                continue;
            }
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&fresh);
            }
            self.read += fresh.len() as u64;
            return Ok(Some(fresh));
        }
        Ok(None)
    }

    /// Holds what came against the descriptor.
    fn prove(&mut self) -> Result<(), BlobFault> {
        let hasher = self.hasher.take();
        let Self { blob, read, .. } = self;
        if *read != blob.size {
            let end = if *read > blob.size { " or more" } else { "" };
            let said = format!("the blob {} has {read} bytes{end}, where its manifest says {}", blob.digest, blob.size);
            return Err(BlobFault::Content(said));
        }
        match hasher.map(Hasher::finish) {
            Some(found) if found != blob.digest => {
                Err(BlobFault::Content(format!("the blob {} is damaged: its bytes have digest {found}", blob.digest)))
            }
            _ => Ok(()),
        }
    }
}
