//! Conditions and ranges of a request for a content (RFC 9110, 13 and 14): read once, before it is known what there is.

use http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, Method};

use crate::mode::BlobRequest;
use crate::oci::{ByteRange, Digest, EntityTag, RangeSet, RangeSpec, UnsatisfiableRange};

/// A GET or HEAD of a content whose digest is known, and with it the entity tag.
#[derive(Clone, Debug)]
pub(super) struct Conditions {
    tag: EntityTag,
    is_head: bool,
    is_unchanged: bool,
    ranges: Ranges,
}

/// The bytes that a request names.
#[derive(Clone, Debug)]
enum Ranges {
    /// All, or none that the server has to heed.
    Whole,
    One(RangeSpec),
    Several(RangeSet),
}

impl Conditions {
    /// Reads the headers of a request for the content of `digest`.
    pub(super) fn of(method: &Method, headers: &HeaderMap, digest: &Digest) -> Self {
        let tag = digest.entity_tag();
        let is_unchanged = names_tag(headers, tag.as_str());
        let ranges = range_header(method, headers, &tag).map_or(Ranges::Whole, Ranges::parse);
        Self { tag, is_head: *method == Method::HEAD, is_unchanged, ranges }
    }

    /// The read of a blob that it needs.
    pub(super) const fn blob_request(&self) -> BlobRequest {
        let range = match self.ranges {
            Ranges::One(spec) => Some(spec),
            Ranges::Whole | Ranges::Several(_) => None,
        };
        BlobRequest { head: self.is_head || self.is_unchanged, range }
    }

    /// Whether the request is a HEAD.
    pub(super) const fn is_head(&self) -> bool {
        self.is_head
    }

    /// Whether the client has the content already (`If-None-Match`).
    pub(super) const fn is_unchanged(&self) -> bool {
        self.is_unchanged
    }

    /// The content's entity tag.
    pub(super) const fn tag(&self) -> &EntityTag {
        &self.tag
    }

    /// The ranges of a content of `size` bytes that are to be sent; empty: all of it. Several only of a content that is
    /// `stored`, because only such a one can be read at several places.
    ///
    /// # Errors
    /// [`UnsatisfiableRange`]: not one byte of the content is asked for.
    pub(super) fn ranges(&self, size: u64, stored: bool) -> Result<Vec<ByteRange>, UnsatisfiableRange> {
        match &self.ranges {
            Ranges::One(spec) => Ok(spec.resolve(size)?.into_iter().collect()),
            Ranges::Several(set) if stored => set.resolve(size),
            Ranges::Whole | Ranges::Several(_) => Ok(Vec::new()),
        }
    }
}

impl Ranges {
    fn parse(header: &str) -> Self {
        match RangeSpec::parse(header) {
            Some(spec) => Self::One(spec),
            None => RangeSet::parse(header).map_or(Self::Whole, Self::Several),
        }
    }
}

/// The `Range` header, if it is to be heeded.
fn range_header<'a>(method: &Method, headers: &'a HeaderMap, tag: &EntityTag) -> Option<&'a str> {
    // HEAD ignores it: it asks what GET without a range would say (RFC 9110, 14.2).
    let header = headers.get(RANGE).filter(|_| *method == Method::GET)?.to_str().ok()?;
    // If-Range takes a strong validator; a date never matches, there is no Last-Modified here.
    let outdated = headers.get(IF_RANGE).is_some_and(|validator| validator.as_bytes() != tag.as_bytes());
    (!outdated).then_some(header)
}

/// Whether `If-None-Match` names `own`, by weak comparison (RFC 9110, 13.1.2).
fn names_tag(headers: &HeaderMap, own: &str) -> bool {
    let fields = headers.get_all(IF_NONE_MATCH).iter().filter_map(|field| field.to_str().ok());
    let mut tags = fields.flat_map(|list| list.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == own)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::oci::Algorithm;

    fn conditions(method: &Method, headers: &[(HeaderName, &str)]) -> Conditions {
        let fields = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        Conditions::of(method, &fields.collect(), &Algorithm::Sha256.digest(b""))
    }

    #[test]
    fn a_mode_is_asked_for_what_is_answered() {
        let tag = Algorithm::Sha256.digest(b"").entity_tag();
        let request = |method, headers: &[_]| conditions(method, headers).blob_request();
        let part = Some(RangeSpec::Closed { first: 0, last: 1 });
        let (one, several) = ((RANGE, "bytes=0-1"), (RANGE, "bytes=0-1,3-4"));
        assert_eq!(request(&Method::GET, std::slice::from_ref(&one)), BlobRequest { head: false, range: part });
        assert_eq!(request(&Method::GET, &[several]), BlobRequest { head: false, range: None });
        assert_eq!(
            request(&Method::GET, &[one.clone(), (IF_RANGE, "\"x\"")]),
            BlobRequest { head: false, range: None }
        );
        assert_eq!(request(&Method::HEAD, std::slice::from_ref(&one)), BlobRequest { head: true, range: None });
        // The answer is 304: no bytes are needed.
        assert_eq!(
            request(&Method::GET, &[one, (IF_NONE_MATCH, tag.as_str())]),
            BlobRequest { head: true, range: part }
        );
    }

    #[test]
    fn several_ranges_are_of_stored_content_only() {
        let asked = conditions(&Method::GET, &[(RANGE, "bytes=0-1,3-4")]);
        assert_eq!(asked.ranges(10, true).unwrap().len(), 2);
        assert_eq!(asked.ranges(10, false).unwrap(), []);
        let behind = conditions(&Method::GET, &[(RANGE, "bytes=10-11,13-14")]);
        behind.ranges(10, true).unwrap_err();
        assert_eq!(behind.ranges(10, false).unwrap(), []);
    }
}
