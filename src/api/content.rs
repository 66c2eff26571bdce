//! An answer with content: conditional requests, ranges, and the headers every such answer carries.

use axum::body::Body;
use axum::response::Response;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::error::ApiError;
use crate::oci::{ByteRange, Digest, ErrorCode, RangeSpec};

/// `Docker-Content-Digest`.
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What is answered: the facts that decide status and headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) media_type: &'static str,
}

/// What the request's headers make of it.
#[derive(Debug, PartialEq, Eq)]
enum Selection {
    NotModified,
    Whole,
    Part(ByteRange),
}

impl Content {
    /// Answers a GET or HEAD; `body` is asked for the bytes of the range that is sent, and only for a GET.
    ///
    /// # Errors
    /// 416 for a range behind the end (RFC 9110, 15.5.17).
    pub(super) fn respond(
        self,
        method: &Method,
        headers: &HeaderMap,
        body: impl FnOnce(ByteRange) -> Body,
    ) -> Result<Response, ApiError> {
        let etag = format!("\"{}\"", self.digest);
        let selection = self.select(method, headers, &etag)?;
        let (status, range) = match selection {
            Selection::NotModified => (StatusCode::NOT_MODIFIED, None),
            Selection::Whole => (StatusCode::OK, Some(ByteRange::whole(self.size))),
            Selection::Part(range) => (StatusCode::PARTIAL_CONTENT, Some(range)),
        };
        let mut response = Response::new(match range {
            Some(range) if method != Method::HEAD => body(range),
            _ => Body::empty(),
        });
        *response.status_mut() = status;
        let out = response.headers_mut();
        out.insert(ETAG, text(&etag));
        out.insert(CONTENT_DIGEST, text(&self.digest.to_string()));
        out.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(range) = range {
            out.insert(CONTENT_TYPE, HeaderValue::from_static(self.media_type));
            out.insert(CONTENT_LENGTH, HeaderValue::from(range.len()));
            if status == StatusCode::PARTIAL_CONTENT {
                out.insert(CONTENT_RANGE, text(&range.content_range(self.size)));
            }
        }
        Ok(response)
    }

    fn select(self, method: &Method, headers: &HeaderMap, etag: &str) -> Result<Selection, ApiError> {
        if let Some(condition) = headers.get(IF_NONE_MATCH).and_then(|v| v.to_str().ok())
            && names_etag(condition, etag)
        {
            return Ok(Selection::NotModified);
        }
        // A range on HEAD is answered whole: HEAD asks what GET without a range would say (RFC 9110, 14.2).
        let spec = headers.get(RANGE).filter(|_| method == Method::GET);
        let Some(spec) = spec.and_then(|v| v.to_str().ok()).and_then(RangeSpec::parse) else {
            return Ok(Selection::Whole);
        };
        // If-Range takes a strong validator; a date never matches, there is no Last-Modified here.
        if headers.get(IF_RANGE).is_some_and(|validator| validator.as_bytes() != etag.as_bytes()) {
            return Ok(Selection::Whole);
        }
        match spec.resolve(self.size) {
            Ok(Some(range)) => Ok(Selection::Part(range)),
            Ok(None) => Ok(Selection::Whole),
            Err(error) => Err(ApiError::new(ErrorCode::RangeInvalid, error.to_string())
                .with_header(CONTENT_RANGE, text(&format!("bytes */{}", self.size)))
                .with_header(ACCEPT_RANGES, HeaderValue::from_static("bytes"))),
        }
    }
}

/// Whether a list of entity tags names `etag`, by weak comparison (RFC 9110, 13.1.2).
fn names_etag(list: &str, etag: &str) -> bool {
    list.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// A header value of text that is ASCII without control characters by construction.
pub(super) fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn answer(size: u64, method: &Method, headers: &[(HeaderName, &str)]) -> (u16, Option<String>) {
        let map = headers.iter().map(|(name, value)| (name.clone(), text(value))).collect();
        let content = Content { digest: Algorithm::Sha256.digest(b""), size, media_type: "application/octet-stream" };
        match content.respond(method, &map, |_| Body::empty()) {
            Ok(response) => {
                let range = response.headers().get(CONTENT_RANGE).map(|v| v.to_str().unwrap().to_owned());
                (response.status().as_u16(), range)
            }
            Err(error) => (error.status().as_u16(), None),
        }
    }

    #[test]
    fn ranges_and_conditions() {
        let etag = format!("\"{}\"", Algorithm::Sha256.digest(b""));
        let get = |size, headers: &[(HeaderName, &str)]| answer(size, &Method::GET, headers);
        assert_eq!(get(10, &[(RANGE, "bytes=0-")]), (206, Some("bytes 0-9/10".into())));
        assert_eq!(get(10, &[(RANGE, "bytes=-3")]), (206, Some("bytes 7-9/10".into())));
        assert_eq!(get(10, &[(RANGE, "bytes=10-")]), (416, None));
        assert_eq!(get(10, &[(RANGE, "bytes=0-1,3-4")]), (200, None));
        assert_eq!(get(0, &[(RANGE, "bytes=0-")]), (200, None));
        assert_eq!(answer(10, &Method::HEAD, &[(RANGE, "bytes=0-1")]), (200, None));
        assert_eq!(get(10, &[(RANGE, "bytes=0-1"), (IF_RANGE, &etag)]).0, 206);
        assert_eq!(get(10, &[(RANGE, "bytes=0-1"), (IF_RANGE, "\"x\"")]).0, 200);
        assert_eq!(get(10, &[(RANGE, "bytes=0-1"), (IF_RANGE, &format!("W/{etag}"))]).0, 200);
        assert_eq!(get(10, &[(IF_NONE_MATCH, &etag)]).0, 304);
        assert_eq!(get(10, &[(IF_NONE_MATCH, &format!("\"a\", W/{etag}"))]).0, 304);
        assert_eq!(get(10, &[(IF_NONE_MATCH, "*")]).0, 304);
        assert_eq!(get(10, &[(IF_NONE_MATCH, "\"a\"")]).0, 200);
    }
}
