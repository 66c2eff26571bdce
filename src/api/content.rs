//! A response with content: the bytes that are sent, and its headers.

use axum::body::Body;
use axum::response::Response;
use http::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};

use super::body::Parts;
use super::conditions::Conditions;
use super::error::ApiError;
use super::headers::{self, text};
use crate::oci::{ByteRange, ErrorCode};

/// The facts of a content that decide status and headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content<'a> {
    /// Its length in bytes. `None`: nobody knows; it is then answered whole.
    pub(super) size: Option<u64>,
    pub(super) media_type: &'a str,
    /// Its bytes are stored here: several ranges of them can be given at once.
    pub(super) stored: bool,
}

/// The bytes that are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// One range; `None`: all bytes, of which nobody knows how many there are.
    One(Option<ByteRange>),
    Several(Parts),
}

impl Content<'_> {
    /// Answers a GET or HEAD of the content that `conditions` are about; `body` is called only if bytes are sent.
    ///
    /// # Errors
    /// 416 for a range behind the end (RFC 9110, 15.5.17).
    pub(super) fn respond(
        self,
        conditions: &Conditions,
        body: impl FnOnce(Piece) -> Body,
    ) -> Result<Response, ApiError> {
        let (status, piece) = self.select(conditions)?;
        let (range, parts) = match &piece {
            Piece::One(range) => (*range, None),
            Piece::Several(parts) => (None, Some((parts.content_type(), parts.length()))),
        };
        let has_body = !conditions.is_head() && status != StatusCode::NOT_MODIFIED;
        let mut response = Response::new(if has_body { body(piece) } else { Body::empty() });
        *response.status_mut() = status;
        let out = response.headers_mut();
        out.reserve(10);
        let media_type = (status != StatusCode::NOT_MODIFIED).then(|| headers::media_type(self.media_type));
        headers::of_content(out, conditions.tag(), media_type);
        if let Some((content_type, length)) = parts {
            // Each part has its own Content-Range; the answer has none (RFC 9110, 15.3.7.2).
            out.insert(CONTENT_TYPE, text(&content_type));
            headers::of_length(out, length);
        }
        if let (Some(range), Some(size)) = (range, self.size) {
            headers::of_length(out, range.len());
            if status == StatusCode::PARTIAL_CONTENT {
                out.insert(CONTENT_RANGE, text(&range.content_range(size)));
            }
        }
        Ok(response)
    }

    /// Status and bytes of the answer. Parts that would take more bytes than the whole are not made: many small ranges ask
    /// for a header each.
    fn select(self, conditions: &Conditions) -> Result<(StatusCode, Piece), ApiError> {
        let whole = || (StatusCode::OK, Piece::One(self.size.map(ByteRange::whole)));
        if conditions.is_unchanged() {
            return Ok((StatusCode::NOT_MODIFIED, Piece::One(None)));
        }
        let Some(size) = self.size else { return Ok(whole()) };
        let ranges = conditions.ranges(size, self.stored).map_err(|error| {
            ApiError::new(ErrorCode::RangeInvalid, error.to_string())
                .with_header(CONTENT_RANGE, text(&format!("bytes */{size}")))
                .with_header(ACCEPT_RANGES, HeaderValue::from_static("bytes"))
        })?;
        Ok(match ranges.as_slice() {
            [] => whole(),
            [range] => (StatusCode::PARTIAL_CONTENT, Piece::One(Some(*range))),
            _ => {
                let boundary = uuid::Uuid::new_v4().simple().to_string();
                let parts = Parts::new(ranges, size, self.media_type, boundary);
                if parts.length() < size { (StatusCode::PARTIAL_CONTENT, Piece::Several(parts)) } else { whole() }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};
    use http::{HeaderMap, HeaderName, Method};

    use super::*;
    use crate::oci::Algorithm;

    fn answer(size: u64, method: &Method, headers: &[(HeaderName, &str)]) -> (u16, Option<String>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, text(value));
        }
        let digest = Algorithm::Sha256.digest(b"");
        let content = Content { size: Some(size), media_type: headers::OCTETS, stored: true };
        match content.respond(&Conditions::of(method, &map, &digest), |_| Body::empty()) {
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
        assert_eq!(get(10, &[(RANGE, "bytes=0-1,3-4")]), (200, None), "the parts' headers are longer than the whole");
        assert_eq!(get(10_000, &[(RANGE, "bytes=0-1,3-4")]), (206, None));
        assert_eq!(get(10_000, &[(RANGE, "bytes=0-1,20000-")]), (206, Some("bytes 0-1/10000".into())));
        assert_eq!(get(10_000, &[(RANGE, "bytes=20000-,30000-40000")]), (416, None));
        assert_eq!(get(10_000, &[(RANGE, "bytes=0-1,3-4"), (IF_RANGE, "\"x\"")]), (200, None));
        assert_eq!(answer(10_000, &Method::HEAD, &[(RANGE, "bytes=0-1,3-4")]), (200, None));
        let killer: Vec<String> = (0..1000).map(|from| format!("{from}-")).collect();
        let killer = format!("bytes={}", killer.join(","));
        assert_eq!(get(10_000, &[(RANGE, &killer)]), (206, Some("bytes 0-9999/10000".into())));
        assert_eq!(get(0, &[(RANGE, "bytes=0-")]), (200, None));
        assert_eq!(answer(10, &Method::HEAD, &[(RANGE, "bytes=0-1")]), (200, None));
        assert_eq!(get(10, &[(RANGE, "bytes=0-1"), (IF_RANGE, &etag)]).0, 206);
        assert_eq!(get(10, &[(RANGE, "bytes=0-1"), (IF_RANGE, "\"x\"")]).0, 200);
        assert_eq!(get(10, &[(RANGE, "bytes=0-1"), (IF_RANGE, &format!("W/{etag}"))]).0, 200);
        assert_eq!(get(10, &[(IF_NONE_MATCH, &etag)]).0, 304);
        assert_eq!(get(10, &[(IF_NONE_MATCH, &format!("\"a\", W/{etag}"))]).0, 304);
        assert_eq!(get(10, &[(IF_NONE_MATCH, "\"a\""), (IF_NONE_MATCH, &etag)]).0, 304);
        assert_eq!(get(10, &[(IF_NONE_MATCH, "*")]).0, 304);
        assert_eq!(get(10, &[(IF_NONE_MATCH, "\"a\"")]).0, 200);
    }
}
