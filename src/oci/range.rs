//! Byte ranges of downloads and of upload chunks.

/// A `Range` request for one range, not yet held against a length (RFC 9110, 14.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeSpec {
    /// `bytes=first-last`, both inclusive.
    Closed {
        /// First byte.
        first: u64,
        /// Last byte. One below `first` makes a range of nothing, which is unsatisfiable in any content.
        last: u64,
    },
    /// `bytes=first-`.
    From(u64),
    /// `bytes=-length`.
    Suffix(u64),
}

/// A range that lies inside content of known length. Made only by [`RangeSpec::resolve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

/// The range begins behind the content's end: status 416.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the range begins behind the end of the content of {size} bytes")]
pub struct UnsatisfiableRange {
    /// Length of the content in bytes.
    pub size: u64,
}

impl RangeSpec {
    /// Reads a `Range` header. `None` stands for what a server answers whole: another unit, several ranges, or text that
    /// is no range. A range whose end lies before its start may be ignored or refused (RFC 9110, 14.2); it is refused,
    /// which the specification's conformance program expects.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, set) = header.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        Self::parse_one(set.trim())
    }

    /// Reads one range of a header, without its unit.
    pub(super) fn parse_one(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        match (first.trim(), last.trim()) {
            ("", length) => number(length).map(Self::Suffix),
            (first, "") => number(first).map(Self::From),
            (first, last) => Some(Self::Closed { first: number(first)?, last: number(last)? }),
        }
    }

    /// The range inside content of `size` bytes; `None` for empty content, which is answered whole.
    ///
    /// # Errors
    /// [`UnsatisfiableRange`] when not one byte of the content is asked for.
    pub fn resolve(self, size: u64) -> Result<Option<ByteRange>, UnsatisfiableRange> {
        if size == 0 {
            return Ok(None);
        }
        let (start, end) = match self {
            Self::Closed { first, last } => (first, last.saturating_add(1).min(size)),
            Self::From(first) => (first, size),
            Self::Suffix(length) => (size.saturating_sub(length), size),
        };
        if start < end { Ok(Some(ByteRange { start, end })) } else { Err(UnsatisfiableRange { size }) }
    }
}

impl ByteRange {
    /// The whole of content of `size` bytes.
    #[must_use]
    pub const fn whole(size: u64) -> Self {
        Self { start: 0, end: size }
    }

    /// Both, and what lies between them.
    pub(super) fn and(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// Offset of the first byte.
    #[must_use]
    pub const fn start(self) -> u64 {
        self.start
    }

    /// Offset behind the last byte.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Number of bytes.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether there is no byte in it: only the whole of empty content.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The `Content-Range` of an answer 206.
    #[must_use]
    pub fn content_range(self, size: u64) -> String {
        format!("bytes {}-{}/{size}", self.start, self.end.saturating_sub(1))
    }
}

/// The `Content-Range` of an upload's chunk: `first-last`, both inclusive (distribution-spec, "Pushing a
/// blob in chunks"); the form of RFC 9110, `bytes first-last/size`, is read too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadRange {
    /// Offset of the chunk's first byte.
    pub first: u64,
    /// Number of bytes.
    pub len: u64,
}

/// The header is no chunk's range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Content-Range of a chunk is written first-last, both inclusive")]
pub struct InvalidContentRange;

impl std::str::FromStr for UploadRange {
    type Err = InvalidContentRange;

    fn from_str(header: &str) -> Result<Self, InvalidContentRange> {
        let text = header.trim();
        let text = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches([' ', '=']));
        let text = text.split_once('/').map_or(text, |(range, _size)| range);
        let (first, last) = text.split_once('-').ok_or(InvalidContentRange)?;
        let (first, last) = number(first.trim()).zip(number(last.trim())).ok_or(InvalidContentRange)?;
        let len = last.checked_sub(first).and_then(|n| n.checked_add(1)).ok_or(InvalidContentRange)?;
        Ok(Self { first, len })
    }
}

/// A number of decimal digits only: no sign, no blank, no overflow.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn resolves_as_a_slice_does(content in proptest::collection::vec(any::<u8>(), 1..40), a in 0_u64..60, b in 0_u64..60) {
            let size = content.len() as u64;
            let expected = |start: u64, end: u64| content.get(start as usize..end.min(size) as usize).filter(|s| !s.is_empty());
            let taken = |spec: RangeSpec| spec.resolve(size).ok().flatten().map(|r| &content[r.start() as usize..r.end() as usize]);
            prop_assert_eq!(taken(RangeSpec::Closed { first: a, last: b }), expected(a, b + 1));
            prop_assert_eq!(taken(RangeSpec::From(a)), expected(a, size));
            prop_assert_eq!(taken(RangeSpec::Suffix(a)), expected(size.saturating_sub(a), size));
        }

        #[test]
        fn no_header_panics(text in ".{0,40}", first: u64, last: u64) {
            let _ = RangeSpec::parse(&text);
            let _ = text.parse::<UploadRange>();
            if let Some(spec) = RangeSpec::parse(&format!("bytes={first}-{last}")) {
                let _ = spec.resolve(u64::MAX);
            }
            let _ = format!("{first}-{last}").parse::<UploadRange>();
        }
    }

    #[test]
    fn reads_the_forms_that_clients_send() {
        assert_eq!(RangeSpec::parse("bytes=0-"), Some(RangeSpec::From(0)));
        assert_eq!(RangeSpec::parse("bytes=-5"), Some(RangeSpec::Suffix(5)));
        assert_eq!(RangeSpec::parse("Bytes = 1-2"), Some(RangeSpec::Closed { first: 1, last: 2 }));
        for ignored in ["bytes=0-1,3-4", "items=0-1", "bytes=-", "bytes=+1-2", "bytes", "bytes=1-99999999999999999999"]
        {
            assert_eq!(RangeSpec::parse(ignored), None, "{ignored}");
        }
        let backwards = RangeSpec::parse("bytes=2-1").unwrap();
        assert_eq!(backwards.resolve(5), Err(UnsatisfiableRange { size: 5 }));
        assert_eq!(RangeSpec::Suffix(0).resolve(5), Err(UnsatisfiableRange { size: 5 }));
        assert_eq!(RangeSpec::From(0).resolve(0), Ok(None));
        assert_eq!("0-9".parse(), Ok(UploadRange { first: 0, len: 10 }));
        assert_eq!("bytes 5-5/6".parse(), Ok(UploadRange { first: 5, len: 1 }));
        for bad in ["", "-", "5-4", "0-18446744073709551615", "a-b", "1"] {
            assert_eq!(bad.parse::<UploadRange>(), Err(InvalidContentRange), "{bad}");
        }
    }
}
