//! Several byte ranges in one request (RFC 9110, 14.1.2, 14.2 and 15.3.7).

use super::{ByteRange, RangeSpec, UnsatisfiableRange};

/// Most ranges that are read in one request: what containers/image asks for at once of a layer in zstd:chunked. A request
/// for more is answered whole.
pub const MOST_RANGES: usize = 1024;

/// A `Range` request for two or more ranges, not yet held against a length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSet(Vec<RangeSpec>);

impl RangeSet {
    /// Reads a `Range` header. `None`: one range, which [`RangeSpec::parse`] reads, more than [`MOST_RANGES`], another unit,
    /// or text that is no list of ranges.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, set) = header.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") || !set.contains(',') {
            return None;
        }
        let mut specs = Vec::new();
        // An empty element is one too many commas, which a recipient takes (RFC 9110, 5.6.1.2).
        for element in set.split(',').map(str::trim).filter(|element| !element.is_empty()) {
            if specs.len() == MOST_RANGES {
                return None;
            }
            specs.push(RangeSpec::parse_one(element)?);
        }
        (!specs.is_empty()).then_some(Self(specs))
    }

    /// The ranges inside content of `size` bytes, in the order of asking: those with no byte in it are left out, and those that
    /// overlap are put together, at the place of the first. No byte is in two of them, so together they are never longer
    /// than the content. Neighbours stay apart: clients count the parts. Empty for empty content, which is answered whole.
    ///
    /// # Errors
    /// [`UnsatisfiableRange`] when not one byte of the content is asked for.
    pub fn resolve(&self, size: u64) -> Result<Vec<ByteRange>, UnsatisfiableRange> {
        if size == 0 {
            return Ok(Vec::new());
        }
        let mut found: Vec<(usize, ByteRange)> = Vec::with_capacity(self.0.len());
        for (place, spec) in self.0.iter().enumerate() {
            if let Ok(Some(range)) = spec.resolve(size) {
                found.push((place, range));
            }
        }
        if found.is_empty() {
            return Err(UnsatisfiableRange { size });
        }
        found.sort_by_key(|(_, range)| (range.start(), range.end()));
        let mut apart: Vec<(usize, ByteRange)> = Vec::with_capacity(found.len());
        for (place, range) in found {
            match apart.last_mut() {
                Some((first, before)) if range.start() < before.end() => {
                    *first = place.min(*first);
                    *before = before.and(range);
                }
                _ => apart.push((place, range)),
            }
        }
        apart.sort_by_key(|(place, _)| *place);
        Ok(apart.into_iter().map(|(_, range)| range).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_byte_asked_for_comes_once(size in 1_u64..60, asked in proptest::collection::vec((0_u64..70, 0_u64..70), 2..12)) {
            let text: Vec<String> = asked.iter().map(|(first, last)| format!("{first}-{last}")).collect();
            let set = RangeSet::parse(&format!("bytes={}", text.join(","))).unwrap();
            let wanted: Vec<u64> = (0..size).filter(|at| asked.iter().any(|(first, last)| first <= at && at <= last)).collect();
            match set.resolve(size) {
                Ok(ranges) => {
                    let mut got: Vec<u64> = ranges.iter().flat_map(|range| range.start()..range.end()).collect();
                    got.sort_unstable();
                    prop_assert_eq!(got, wanted);
                    // Where nothing overlaps, there is a part for each range that is in the content, in its order.
                    let inside: Vec<_> = asked.iter().filter(|(first, last)| first <= last && *first < size).collect();
                    if ranges.len() == inside.len() {
                        for (range, (first, _)) in ranges.iter().zip(inside) {
                            prop_assert_eq!(range.start(), *first);
                        }
                    }
                }
                Err(_) => prop_assert!(wanted.is_empty()),
            }
        }

        #[test]
        fn no_header_panics(text in "(bytes=)?[-,0-9 ]{0,40}") {
            if let Some(set) = RangeSet::parse(&text) {
                let _ = set.resolve(7);
                let _ = set.resolve(u64::MAX);
            }
        }
    }

    #[test]
    fn reads_what_clients_send_and_no_more_than_it_should() {
        let resolved = |header: &str, size| {
            let ranges = RangeSet::parse(header)?.resolve(size).ok()?;
            Some(ranges.iter().map(|range| (range.start(), range.end())).collect::<Vec<_>>())
        };
        assert_eq!(resolved("bytes=5-6, 0-1,-2", 10), Some(vec![(5, 7), (0, 2), (8, 10)]));
        assert_eq!(resolved("bytes=0-1,2-3", 10), Some(vec![(0, 2), (2, 4)]), "neighbours are two parts");
        assert_eq!(resolved("bytes=4-,0-5", 10), Some(vec![(0, 10)]));
        assert_eq!(resolved("bytes=0-1,,20-30", 10), Some(vec![(0, 2)]));
        assert_eq!(resolved("bytes=20-30,40-", 10), None);
        assert_eq!(resolved("bytes=0-1,2-3", 0), Some(vec![]));
        for ignored in ["bytes=0-1", "items=0-1,2-3", "bytes=0-1,x", "bytes=,", "bytes=0-1,2"] {
            assert_eq!(RangeSet::parse(ignored), None, "{ignored}");
        }
        let many = |count: usize| format!("bytes={}", vec!["0-"; count].join(","));
        assert!(RangeSet::parse(&many(MOST_RANGES)).is_some());
        assert_eq!(RangeSet::parse(&many(MOST_RANGES + 1)), None);
    }
}
