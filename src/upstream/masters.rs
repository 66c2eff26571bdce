//! What masters ask each other beyond reads by digest: of their records, to take up what one of them has, and to delete a blob.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method};
use tokio::time::Instant;

use super::Upstream;
use super::body::{UpstreamBody, announced};
use super::endpoint::{Access, Call};
use super::error::UpstreamError;
use super::face::PEER_PREFIX;
use crate::clock::Timestamp;
use crate::oci::{Digest, RepoName};
use crate::telemetry::UpstreamCause;

/// Longest body of an answer that has none to speak of.
const LITTLE: usize = 1024;

/// The header with the wall's clock of the master that answers, in milliseconds since 1970.
pub const CLOCK: HeaderName = HeaderName::from_static("d8-clock");

/// What a master told.
#[derive(Clone, Debug)]
pub struct Told {
    /// The body.
    pub bytes: Bytes,
    /// Its clock, if it said that.
    pub clock: Option<Timestamp>,
}

impl Upstream {
    /// Asks a master. `path` is below the peers' prefix, `most` the longest answer in bytes. Safe to drop: ends the request.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn told(&self, path: &str, most: usize, deadline: Instant) -> Result<Told, UpstreamError> {
        self.rounds("", deadline, |endpoint, deadline| {
            Box::pin(async move {
                let answer = Box::pin(endpoint.send(&call(Method::GET, path), deadline)).await?;
                let clock = clock(answer.response.headers());
                let bytes = endpoint.whole(answer, most, deadline).await?;
                Ok(Told { bytes, clock })
            })
        })
        .await
    }

    /// As [`Self::told`], where the answer may be longer than there is room for now: one of more than `room` bytes is not read, and its
    /// length comes back, by which it can be asked for again. Safe to drop: ends the request.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn told_within(
        &self,
        path: &str,
        (room, most): (usize, usize),
        deadline: Instant,
    ) -> Result<Result<Told, u64>, UpstreamError> {
        self.rounds("", deadline, |endpoint, deadline| {
            Box::pin(async move {
                let answer = Box::pin(endpoint.send(&call(Method::GET, path), deadline)).await?;
                let headers = answer.response.headers();
                let (clock, length) = (clock(headers), announced(headers));
                if let Some(length) = length.filter(|length| (room as u64 + 1..=most as u64).contains(length)) {
                    return Ok(Err(length));
                }
                let bytes = endpoint.whole(answer, most, deadline).await?;
                Ok(Ok(Told { bytes, clock }))
            })
        })
        .await
    }

    /// Orders a master to do something, which tells how far it is in its answer's body. Safe to drop.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn order(&self, path: &str, deadline: Instant) -> Result<UpstreamBody, UpstreamError> {
        self.rounds("", deadline, |endpoint, deadline| {
            Box::pin(async move {
                let call = Call { bulk: true, ..call(Method::POST, path) };
                let answer = Box::pin(endpoint.send(&call, deadline)).await?;
                Ok(endpoint.body(answer.response, &answer.host))
            })
        })
        .await
    }

    /// Has a master take a blob out of a repository of its own store; gives whether it had it there. Safe to drop: the master may
    /// have done it.
    ///
    /// # Errors
    /// [`UpstreamError`]: it is not known whether it has it still.
    pub async fn delete_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<bool, UpstreamError> {
        let path = format!("/v2/{repo}/blobs/{digest}");
        let deleted = self.rounds("", deadline, |endpoint, deadline| {
            let call = call(Method::DELETE, &path);
            Box::pin(async move {
                let answer = Box::pin(endpoint.send(&call, deadline)).await?;
                endpoint.whole(answer, LITTLE, deadline).await
            })
        });
        match deleted.await {
            Ok(_) => Ok(true),
            Err(error) if error.cause() == UpstreamCause::NotFound && error.is_registrys_own() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn call(method: Method, path: &str) -> Call {
    Call {
        method,
        access: Access::Pull,
        also: None,
        content: None,
        repository: String::new(),
        target: format!("{PEER_PREFIX}{path}"),
        accept: None,
        range: None,
        bulk: false,
        patient: false,
        probe: false,
    }
}

fn clock(headers: &HeaderMap) -> Option<Timestamp> {
    headers.get(CLOCK)?.to_str().ok()?.parse().ok().map(Timestamp::from_millis)
}
