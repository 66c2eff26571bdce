//! Blobs: whole or from some byte on, and their size.

use std::sync::Arc;

use http::header::{CONTENT_RANGE, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::Upstream;
use super::body::{UpstreamBody, announced};
use super::endpoint::{Answer, Endpoint, header};
use super::error::UpstreamError;
use super::manifests::{is_head_refused, told_digest};
use crate::oci::Digest;
use crate::telemetry::UpstreamCause;

/// Where a d8-registry in mode Proxy says where it has an answer from.
const CACHE_WORD: HeaderName = HeaderName::from_static("d8-registry-cache");

/// A part of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRange {
    /// Offset of the first byte.
    pub from: u64,
    /// Offset of the last byte; `None`: to the end.
    pub to: Option<u64>,
}

/// How long a blob or a list is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Until then it is asked, and asked again after a failure.
    pub asking: Instant,
    /// Until then the head of a blob's answer, or all of a list, is waited for behind the usual limit, as long as the
    /// host answers others: a proxy that looks for viruses gives the first byte when it has the last. Of several
    /// endpoints only the last is waited for until then.
    pub answer: Instant,
}

impl From<Instant> for Patience {
    /// The same deadline for both.
    fn from(deadline: Instant) -> Self {
        Self { asking: deadline, answer: deadline }
    }
}

/// A blob whose bytes are to come.
#[derive(Debug)]
pub struct UpstreamBlob {
    /// Whether the upstream sends only the part that was asked for, or the beginning of it.
    pub status_partial: bool,
    /// Offset of the body in the blob: 0 if the range was ignored.
    pub offset: u64,
    /// End of the body in the blob, if the upstream told it. May be before the end that was asked for (RFC 9110,
    /// 15.3.7): the rest has to be asked for.
    pub end: Option<u64>,
    /// Length of the whole blob, if the upstream told it.
    pub length: Option<u64>,
    /// The bytes, not checked against the digest.
    pub body: UpstreamBody,
}

impl Upstream {
    /// Opens a blob. `patience` is for the head of the answer only; the body has its own stall limit.
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
        patience: impl Into<Patience>,
    ) -> Result<UpstreamBlob, UpstreamError> {
        let Patience { asking, answer } = patience.into();
        self.rounds(child, asking, |endpoint, share| {
            Box::pin(endpoint.blob(child, digest, range, Patience { asking: share, answer }))
        })
        .await
    }

    /// The length of a blob, `None` if it is there but its length is not told: by HEAD, by GET of the first byte where
    /// HEAD is refused or tells none, or by the head of a GET where ranges are refused. A page for people is no answer.
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
        self.rounds(child, deadline, |endpoint, deadline| Box::pin(endpoint.blob_size(child, digest, deadline))).await
    }

    /// What a d8-registry says of where it has a blob from, by HEAD: the word of `d8-registry-cache`. `None`: it says nothing of it, as
    /// every other registry.
    ///
    /// Safe to drop: ends the request.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn blob_cache_word(
        &self,
        child: &str,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<Option<String>, UpstreamError> {
        self.rounds(child, deadline, |endpoint, deadline| {
            Box::pin(async move {
                let Answer { response, .. } =
                    endpoint.ask_blob(Method::HEAD, child, digest, None, deadline.into()).await?;
                let word = response.headers().get(CACHE_WORD).and_then(|word| word.to_str().ok());
                Ok(word.map(str::to_owned))
            })
        })
        .await
    }
}

impl Endpoint {
    async fn blob(
        self: &Arc<Self>,
        child: &str,
        digest: &Digest,
        range: Option<BlobRange>,
        patience: Patience,
    ) -> Result<UpstreamBlob, UpstreamError> {
        let Answer { response, host, .. } = self.ask_blob(Method::GET, child, digest, range, patience).await?;
        let length = announced(response.headers());
        let (status_partial, offset, end, length) = match response.status() {
            StatusCode::OK => (false, 0, length, length),
            StatusCode::PARTIAL_CONTENT => {
                let text = header(response.headers(), CONTENT_RANGE);
                let asked = range.unwrap_or(BlobRange { from: 0, to: None });
                let sent = content_range(&text).filter(|sent| fits(*sent, asked, length));
                let (from, last, whole) = sent.ok_or_else(|| {
                    UpstreamError::invalid(&host, format!("sent the range {text:?} where another one was asked for"))
                })?;
                (true, from, Some(last + 1), whole)
            }
            status => {
                return Err(UpstreamError::invalid(&host, format!("answered {status} where a blob was to come")));
            }
        };
        let mut body = self.body(response, &host);
        if let Some(end) = end {
            body.expect(end - offset);
        }
        Ok(UpstreamBlob { status_partial, offset, end, length, body })
    }

    async fn blob_size(
        self: &Arc<Self>,
        child: &str,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<Option<u64>, UpstreamError> {
        match self.ask_blob(Method::HEAD, child, digest, None, deadline.into()).await {
            Ok(Answer { response, host, .. }) => {
                if is_page(response.headers(), digest) {
                    return Err(UpstreamError::invalid(&host, "shows a page for people where a blob was asked for"));
                }
                if let Some(length) = announced(response.headers()) {
                    return Ok(Some(length));
                }
            }
            Err(error) if is_head_refused(&error) => {}
            Err(error) => return Err(error),
        }
        let first = BlobRange { from: 0, to: Some(0) };
        match self.blob(child, digest, Some(first), deadline.into()).await {
            Ok(UpstreamBlob { length: Some(length), .. }) => return Ok(Some(length)),
            Ok(_) => {}
            Err(error) if error.is_about_the_range() => {}
            Err(error) => return Err(error),
        }
        // Of this only the head is needed: dropping the body ends the transfer.
        match self.blob(child, digest, None, deadline.into()).await {
            Ok(blob) => Ok(blob.length),
            // There is no first byte, nor any other.
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
        patience: Patience,
    ) -> Result<Answer, UpstreamError> {
        let mut call = self.call(method, child, &format!("blobs/{digest}"));
        call.range = range.and_then(|range| {
            let to = range.to.map(|to| to.to_string()).unwrap_or_default();
            HeaderValue::from_str(&format!("bytes={}-{to}", range.from)).ok()
        });
        call.bulk = true;
        call.patient = self.is_last && call.method == Method::GET;
        let deadline = if call.patient { patience.asking.max(patience.answer) } else { patience.asking };
        Box::pin(self.send(&call, deadline)).await
    }
}

impl UpstreamError {
    /// Whether the same may be given if another part of it, or the whole, is asked for: the range was refused (416, and
    /// what registries, filters and storages say instead), or the part that came does not fit.
    #[must_use]
    pub fn is_about_the_range(&self) -> bool {
        match self.cause() {
            UpstreamCause::Invalid | UpstreamCause::Forbidden => true,
            UpstreamCause::ServerError => matches!(self.status(), Some(401 | 403 | 501 | 505)),
            _ => false,
        }
    }
}

/// Whether an answer to HEAD is that of a portal or a login page, which has the length of the page. A registry that
/// labels its blobs so names the digest beside it. Of a GET the bytes are judged and not the label.
pub(super) fn is_page(headers: &HeaderMap, digest: &Digest) -> bool {
    header(headers, CONTENT_TYPE).trim_start().to_ascii_lowercase().starts_with("text/html")
        && told_digest(headers).is_none_or(|told| told != *digest)
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
    (first <= last && last < length.unwrap_or(u64::MAX)).then_some((first, last, length))
}

/// Whether what was sent is the part that was asked for, or the beginning of it, and as many bytes as were announced.
fn fits(sent: (u64, u64, Option<u64>), asked: BlobRange, announced: Option<u64>) -> bool {
    let (first, last, _) = sent;
    first == asked.from
        && asked.to.is_none_or(|to| last <= to)
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
        assert!(ok("bytes 5-8/10", 5, None, Some(4)), "the beginning of it");
        for (text, from, to, announced) in [
            ("bytes 0-9/10", 5, None, Some(10)),
            ("bytes 5-8/10", 5, Some(7), Some(4)),
            ("items 5-9/10", 5, None, Some(5)),
            ("bytes 5-18446744073709551615/*", 5, None, None),
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
