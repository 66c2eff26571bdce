//! A response with content: conditional requests and ranges.

use axum::body::Body;
use axum::response::Response;
use http::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::body::Parts;
use super::error::ApiError;
use super::headers::{self, text};
use crate::mode::Want;
use crate::oci::{ByteRange, Digest, ErrorCode, RangeSet, RangeSpec};

/// The part of a content that a request asks for, before it is known whether there is any.
pub(super) fn want(method: &Method, headers: &HeaderMap, digest: &Digest) -> Want {
    let tag = digest.entity_tag();
    let etag = tag.as_str();
    Want { head: method == Method::HEAD || is_unchanged(headers, etag), range: wanted_range(method, headers, etag) }
}

/// The facts of a content that decide status and headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content<'a> {
    pub(super) digest: Digest,
    /// `None`: nobody knows; it is then answered whole.
    pub(super) size: Option<u64>,
    pub(super) media_type: &'a str,
    /// Its bytes are stored here: several ranges of them can be given at once.
    pub(super) stored: bool,
}

/// Which bytes are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// These; `None`: all, of which nobody knows how many there are.
    One(Option<ByteRange>),
    Several(Parts),
}

/// What the request's headers make of it.
#[derive(Debug, PartialEq, Eq)]
enum Selection {
    NotModified,
    Whole,
    Part(ByteRange),
    Parts(Parts),
}

impl Content<'_> {
    /// Answers a GET or HEAD; `body` is asked for the bytes that are sent, and only for a GET.
    ///
    /// # Errors
    /// 416 for a range behind the end (RFC 9110, 15.5.17).
    pub(super) fn respond(
        self,
        method: &Method,
        asked: &HeaderMap,
        body: impl FnOnce(Piece) -> Body,
    ) -> Result<Response, ApiError> {
        let selection = self.select(method, asked, self.digest.entity_tag().as_str())?;
        let (status, piece) = match selection {
            Selection::NotModified => (StatusCode::NOT_MODIFIED, Piece::One(None)),
            Selection::Whole => (StatusCode::OK, Piece::One(self.size.map(ByteRange::whole))),
            Selection::Part(range) => (StatusCode::PARTIAL_CONTENT, Piece::One(Some(range))),
            Selection::Parts(parts) => (StatusCode::PARTIAL_CONTENT, Piece::Several(parts)),
        };
        let (range, parts) = match &piece {
            Piece::One(range) => (*range, None),
            Piece::Several(parts) => (None, Some((parts.content_type(), parts.length()))),
        };
        let has_body = method != Method::HEAD && status != StatusCode::NOT_MODIFIED;
        let mut response = Response::new(if has_body { body(piece) } else { Body::empty() });
        *response.status_mut() = status;
        let out = response.headers_mut();
        out.reserve(10);
        let media_type = (status != StatusCode::NOT_MODIFIED).then(|| headers::media_type(self.media_type));
        headers::of_content(out, &self.digest, media_type);
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

    fn select(self, method: &Method, headers: &HeaderMap, etag: &str) -> Result<Selection, ApiError> {
        if is_unchanged(headers, etag) {
            return Ok(Selection::NotModified);
        }
        let (Some(header), Some(size)) = (range_header(method, headers, etag), self.size) else {
            return Ok(Selection::Whole);
        };
        let resolved = match (RangeSpec::parse(header), RangeSet::parse(header).filter(|_| self.stored)) {
            (Some(spec), _) => spec.resolve(size).map(Vec::from_iter),
            (None, Some(set)) => set.resolve(size),
            (None, None) => return Ok(Selection::Whole),
        };
        match resolved {
            Ok(ranges) => Ok(self.selected(ranges, size)),
            Err(error) => Err(ApiError::new(ErrorCode::RangeInvalid, error.to_string())
                .with_header(CONTENT_RANGE, text(&format!("bytes */{size}")))
                .with_header(ACCEPT_RANGES, HeaderValue::from_static("bytes"))),
        }
    }
}

impl Content<'_> {
    /// What is left of the ranges that were asked for. Parts that would take more bytes than the whole are not made: many small
    /// ranges ask for a header each.
    fn selected(self, ranges: Vec<ByteRange>, size: u64) -> Selection {
        match ranges.as_slice() {
            [] => Selection::Whole,
            [range] => Selection::Part(*range),
            _ => {
                let boundary = uuid::Uuid::new_v4().simple().to_string();
                let parts = Parts::new(ranges, size, self.media_type, boundary);
                if parts.length() < size { Selection::Parts(parts) } else { Selection::Whole }
            }
        }
    }
}

/// Whether the client has the content already.
fn is_unchanged(headers: &HeaderMap, etag: &str) -> bool {
    let mut fields = headers.get_all(IF_NONE_MATCH).iter().filter_map(|field| field.to_str().ok());
    fields.any(|condition| names_etag(condition, etag))
}

/// The one range that is asked for, if it is to be heeded.
fn wanted_range(method: &Method, headers: &HeaderMap, etag: &str) -> Option<RangeSpec> {
    range_header(method, headers, etag).and_then(RangeSpec::parse)
}

/// The `Range` header, if it is to be heeded.
fn range_header<'a>(method: &Method, headers: &'a HeaderMap, etag: &str) -> Option<&'a str> {
    // A range on HEAD is answered whole: HEAD asks what GET without a range would say (RFC 9110, 14.2).
    let header = headers.get(RANGE).filter(|_| method == Method::GET)?.to_str().ok()?;
    // If-Range takes a strong validator; a date never matches, there is no Last-Modified here.
    let outdated = headers.get(IF_RANGE).is_some_and(|validator| validator.as_bytes() != etag.as_bytes());
    (!outdated).then_some(header)
}

/// Whether a list of entity tags names `etag`, by weak comparison (RFC 9110, 13.1.2).
fn names_etag(list: &str, etag: &str) -> bool {
    list.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;
    use crate::oci::Algorithm;

    fn answer(size: u64, method: &Method, headers: &[(HeaderName, &str)]) -> (u16, Option<String>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, text(value));
        }
        let digest = Algorithm::Sha256.digest(b"");
        let content = Content { digest, size: Some(size), media_type: "application/octet-stream", stored: true };
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
