//! The headers of responses: each is named and decided on here, once for both paths. The slow path fills hyper's map, the
//! fast path writes lines of text.

use http::header::AGE;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::mode::Provenance;
use crate::oci::{EntityTag, ManifestKind};
use crate::telemetry;

/// The media type of every blob: a blob's descriptor says its own.
pub(super) const OCTETS: &str = "application/octet-stream";

/// A header: its name for hyper, and the beginning of its line of text.
pub(super) struct Header {
    pub(super) name: HeaderName,
    line: &'static str,
}

/// A header that always has the same value.
pub(super) struct FixedHeader {
    name: HeaderName,
    value: &'static str,
    line: &'static str,
}

macro_rules! header {
    ($name:literal) => {
        Header { name: HeaderName::from_static($name), line: concat!("\r\n", $name, ": ") }
    };
    ($name:literal, $value:literal) => {
        FixedHeader { name: HeaderName::from_static($name), value: $value, line: concat!("\r\n", $name, ": ", $value) }
    };
}

/// The digest of the content, or of the content that was pushed (OCI distribution-spec, "Pulling manifests").
pub(super) const CONTENT_DIGEST: Header = header!("docker-content-digest");
/// How an answer of modes Direct and Proxy came about; the words are those of the metrics.
pub(super) const CACHE: Header = header!("d8-registry-cache");
/// The mode that answered, told to users who signed in.
const MODE: Header = header!("d8-registry-mode");
/// The request's id, which the log has too.
pub(super) const REQUEST_ID: Header = header!("x-request-id");
const ETAG: Header = header!("etag");
const ACCEPT_RANGES: FixedHeader = header!("accept-ranges", "bytes");
const CONTENT_TYPE: Header = header!("content-type");
const CONTENT_LENGTH: Header = header!("content-length");
const API_VERSION: FixedHeader = header!("docker-distribution-api-version", "registry/2.0");
const NAMESPACE: Header = header!("oci-namespace");

/// A header's value: visible ASCII by construction.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    /// Known when the program is built.
    Fixed(&'static str),
    /// Read of the request, or made for it.
    Ready(&'a HeaderValue),
    /// Made for the response.
    Ascii(&'a [u8]),
}

/// Where a response's headers go.
pub(super) trait Headers {
    /// Sets a header.
    fn set(&mut self, header: Header, value: Value<'_>);

    /// Sets a header to its one value.
    fn set_fixed(&mut self, header: FixedHeader);

    /// Sets a header to a number.
    fn set_number(&mut self, header: Header, value: u64);
}

impl Headers for HeaderMap {
    fn set(&mut self, header: Header, value: Value<'_>) {
        let value = match value {
            Value::Fixed(value) => HeaderValue::from_static(value),
            Value::Ready(value) => value.clone(),
            Value::Ascii(value) => HeaderValue::from_bytes(value).unwrap_or_else(|_| HeaderValue::from_static("")),
        };
        self.insert(header.name, value);
    }

    fn set_fixed(&mut self, header: FixedHeader) {
        self.insert(header.name, HeaderValue::from_static(header.value));
    }

    fn set_number(&mut self, header: Header, value: u64) {
        self.insert(header.name, HeaderValue::from(value));
    }
}

/// Lines of text behind a status line, each begun by its line break.
impl Headers for Vec<u8> {
    fn set(&mut self, header: Header, value: Value<'_>) {
        self.extend_from_slice(header.line.as_bytes());
        self.extend_from_slice(match value {
            Value::Fixed(value) => value.as_bytes(),
            Value::Ready(value) => value.as_bytes(),
            Value::Ascii(value) => value,
        });
    }

    fn set_fixed(&mut self, header: FixedHeader) {
        self.extend_from_slice(header.line.as_bytes());
    }

    fn set_number(&mut self, header: Header, value: u64) {
        self.extend_from_slice(header.line.as_bytes());
        telemetry::decimal(self, value);
    }
}

/// Headers of every response with content, and of a 304. `tag`: the content's. `media_type`: `None` for a 304.
pub(super) fn of_content(out: &mut impl Headers, tag: &EntityTag, media_type: Option<Value<'_>>) {
    out.set(CONTENT_DIGEST, Value::Ascii(tag.digest()));
    out.set(ETAG, Value::Ascii(tag.as_bytes()));
    out.set_fixed(ACCEPT_RANGES);
    if let Some(media_type) = media_type {
        out.set(CONTENT_TYPE, media_type);
    }
}

/// The length of the content.
pub(super) fn of_length(out: &mut impl Headers, bytes: u64) {
    out.set_number(CONTENT_LENGTH, bytes);
}

/// How the answer came about.
pub(super) fn of_provenance(out: &mut impl Headers, provenance: Provenance) {
    if let Some(age) = provenance.age {
        out.set_number(Header { name: AGE, line: "\r\nage: " }, age.as_secs());
    }
    if let Some(outcome) = provenance.outcome {
        out.set(CACHE, Value::Fixed(outcome.as_str()));
    }
}

/// The mode that answered: a header of every response to a user who signed in.
pub(super) fn of_mode(out: &mut impl Headers, mode: &'static str) {
    out.set(MODE, Value::Fixed(mode));
}

/// Headers of every response of the API. `namespace`: that of a mirror's request.
pub(super) fn of_api(out: &mut impl Headers, namespace: Option<&HeaderValue>) {
    out.set_fixed(API_VERSION);
    if let Some(namespace) = namespace {
        out.set(NAMESPACE, Value::Ready(namespace));
    }
}

/// The header of every response.
pub(super) fn of_request(out: &mut impl Headers, id: Value<'_>) {
    out.set(REQUEST_ID, id);
}

/// A media type as a value; the usual ones cost no copy.
pub(super) fn media_type(name: &str) -> Value<'_> {
    let mut usual = ManifestKind::ALL.iter().map(|kind| kind.as_str()).chain([OCTETS]);
    usual.find(|usual| *usual == name).map_or(Value::Ascii(name.as_bytes()), Value::Fixed)
}

/// A header value of text that is visible ASCII by construction.
pub(super) fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::oci::Algorithm;
    use crate::telemetry::CacheOutcome;

    /// Every header of this file, set in both forms.
    fn all(out: &mut impl Headers) {
        of_content(out, &Algorithm::Sha512.digest(b"").entity_tag(), Some(media_type("a/b")));
        of_length(out, 1_234_567);
        of_provenance(out, Provenance { outcome: Some(CacheOutcome::Stale), age: Some(Duration::from_secs(89)) });
        of_mode(out, "Local");
        of_api(out, Some(&HeaderValue::from_static("registry.example:5000")));
        of_request(out, Value::Ascii(b"0a"));
    }

    #[test]
    fn both_forms_say_the_same() {
        let (mut map, mut lines) = (HeaderMap::new(), Vec::new());
        all(&mut map);
        all(&mut lines);
        let text = String::from_utf8(lines).unwrap();
        let mut lines: Vec<_> = text.strip_prefix("\r\n").unwrap().split("\r\n").map(str::to_owned).collect();
        let mut expected: Vec<_> =
            map.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        expected.sort();
        assert_eq!(lines, expected);
        assert_eq!(lines.len(), 11);
    }

    #[test]
    fn usual_media_types_are_not_copied() {
        assert!(matches!(media_type(OCTETS), Value::Fixed(OCTETS)));
        assert!(ManifestKind::ALL.iter().all(|kind| matches!(media_type(kind.as_str()), Value::Fixed(_))));
        assert!(matches!(media_type("a/b"), Value::Ascii(b"a/b")));
    }
}
