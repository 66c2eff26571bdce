//! Blobs: whole or from some byte on, and their size.

use std::sync::Arc;

use http::header::CONTENT_RANGE;
use http::{HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::Upstream;
use super::body::{UpstreamBody, announced};
use super::endpoint::{Answer, Endpoint, header};
use super::error::UpstreamError;
use super::manifests::is_head_refused;
use crate::oci::Digest;

/// A part of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRange {
    /// Offset of the first byte.
    pub from: u64,
    /// Offset of the last byte; `None`: to the end.
    pub to: Option<u64>,
}

/// A blob whose bytes are to come.
#[derive(Debug)]
pub struct UpstreamBlob {
    /// Whether the upstream sends only the part that was asked for.
    pub status_partial: bool,
    /// Where the body begins in the blob: 0 if the range was ignored.
    pub offset: u64,
    /// Length of the whole blob, if the upstream told it.
    pub length: Option<u64>,
    /// The bytes, not checked against the digest.
    pub body: UpstreamBody,
}

impl Upstream {
    /// Opens a blob. `deadline` is for the head of the answer only; the body has its own stall limit.
    ///
    /// Safe to drop: ends the request.
    ///
    /// # Errors
    /// [`UpstreamError`]; a range behind the blob's end is `Invalid` with status 416.
    pub async fn blob(
        &self,
        child: &str,
        digest: &Digest,
        range: Option<BlobRange>,
        deadline: Instant,
    ) -> Result<UpstreamBlob, UpstreamError> {
        self.rounds(deadline, |endpoint, deadline| Box::pin(endpoint.blob(child, digest, range, deadline))).await
    }

    /// The length of a blob, `None` if it is there but its length is not told: by HEAD, or by GET of the first byte
    /// where HEAD is refused or tells none.
    ///
    /// Safe to drop: ends the request.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn blob_size(
        &self,
        child: &str,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<Option<u64>, UpstreamError> {
        self.rounds(deadline, |endpoint, deadline| Box::pin(endpoint.blob_size(child, digest, deadline))).await
    }
}

impl Endpoint {
    async fn blob(
        self: &Arc<Self>,
        child: &str,
        digest: &Digest,
        range: Option<BlobRange>,
        deadline: Instant,
    ) -> Result<UpstreamBlob, UpstreamError> {
        let answer = self.ask_blob(Method::GET, child, digest, range, deadline).await?;
        let Answer { response, host } = answer;
        let length = announced(response.headers());
        let (status_partial, offset, length) = match (response.status(), range) {
            (StatusCode::OK, _) => (false, 0, length),
            (StatusCode::PARTIAL_CONTENT, Some(range)) => {
                let text = header(response.headers(), CONTENT_RANGE);
                let sent = content_range(&text).filter(|sent| fits(*sent, range, length));
                let (from, _, whole) = sent.ok_or_else(|| {
                    UpstreamError::invalid(&host, format!("sent the range {text:?} where another one was asked for"))
                })?;
                (true, from, whole)
            }
            (status, _) => {
                return Err(UpstreamError::invalid(&host, format!("answered {status} where a blob was to come")));
            }
        };
        Ok(UpstreamBlob { status_partial, offset, length, body: self.body(response, &host) })
    }

    async fn blob_size(
        self: &Arc<Self>,
        child: &str,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<Option<u64>, UpstreamError> {
        match self.ask_blob(Method::HEAD, child, digest, None, deadline).await {
            Ok(answer) => {
                if let Some(length) = announced(answer.response.headers()) {
                    return Ok(Some(length));
                }
            }
            Err(error) if is_head_refused(&error) => {}
            Err(error) => return Err(error),
        }
        let first = BlobRange { from: 0, to: Some(0) };
        match self.blob(child, digest, Some(first), deadline).await {
            Ok(blob) => Ok(blob.length),
            // There is no first byte.
            Err(error) if error.status() == Some(416) => Ok(Some(0)),
            Err(error) => Err(error),
        }
    }

    async fn ask_blob(
        self: &Arc<Self>,
        method: Method,
        child: &str,
        digest: &Digest,
        range: Option<BlobRange>,
        deadline: Instant,
    ) -> Result<Answer, UpstreamError> {
        let mut call = self.call(method, child, &format!("blobs/{digest}"));
        call.range = range.and_then(|range| {
            let to = range.to.map(|to| to.to_string()).unwrap_or_default();
            HeaderValue::from_str(&format!("bytes={}-{to}", range.from)).ok()
        });
        call.bulk = true;
        Box::pin(self.send(&call, deadline)).await
    }
}

/// `bytes first-last/length`, the length possibly `*` (RFC 9110, 14.4).
fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, length) = text.trim().strip_prefix("bytes")?.trim_start_matches([' ', '=']).split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let length = match length.trim() {
        "*" => None,
        number => Some(number.parse().ok()?),
    };
    (first <= last && length.is_none_or(|length| last < length)).then_some((first, last, length))
}

/// Whether what was sent is the part that was asked for, and as many bytes as were announced.
fn fits(sent: (u64, u64, Option<u64>), asked: BlobRange, announced: Option<u64>) -> bool {
    let (first, last, length) = sent;
    let end = match (asked.to, length) {
        (Some(to), Some(length)) => Some(to.min(length.saturating_sub(1))),
        (None, Some(length)) => Some(length.saturating_sub(1)),
        (_, None) => None,
    };
    first == asked.from
        && end.is_none_or(|end| end == last)
        && announced.is_none_or(|announced| announced == last - first + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_to_be_the_one_that_was_asked_for() {
        let ok = |text: &str, from, to, announced| {
            content_range(text).is_some_and(|sent| fits(sent, BlobRange { from, to }, announced))
        };
        assert!(ok("bytes 5-9/10", 5, None, Some(5)));
        assert!(ok("bytes 5-9/10", 5, Some(99), None));
        assert!(ok("bytes 5-6/*", 5, Some(6), Some(2)));
        for (text, from, to, announced) in [
            ("bytes 0-9/10", 5, None, Some(10)),
            ("bytes 5-8/10", 5, None, Some(4)),
            ("bytes 5-9/10", 5, None, Some(6)),
            ("bytes 5-9/9", 5, None, None),
            ("bytes 9-5/10", 9, None, None),
            ("bytes */10", 5, None, None),
            ("", 5, None, None),
        ] {
            assert!(!ok(text, from, to, announced), "{text}");
        }
    }
}
