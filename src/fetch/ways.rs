//! Asking for a part of a blob in the way that the upstream answers.
//!
//! Some registries refuse a range without an end, some storages and filters refuse any range, some answer with another
//! part than was asked for. So there are three ways, from what costs least: to the blob's end, to the last byte by its
//! number, and the whole, of which the beginning is skipped.

use super::Source;
use crate::oci::Digest;
use crate::telemetry::UpstreamCause;
use crate::upstream::{BlobRange, Patience, UpstreamBlob, UpstreamError};

/// Range Not Satisfiable (RFC 9110, 15.5.17).
const UNSATISFIABLE: u16 = 416;

/// The form of a request for a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Way {
    /// The range as it is wanted, without an end if it reaches the blob's.
    #[default]
    Open,
    /// The range with the number of its last byte.
    Closed,
    /// No range: the whole.
    Whole,
}

impl Way {
    /// The way that costs more and is refused by fewer.
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Open => Self::Closed,
            Self::Closed | Self::Whole => Self::Whole,
        }
    }
}

/// A part of a blob that is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Which.
    pub range: BlobRange,
    /// Length of the whole blob in bytes, if it is known.
    pub length: Option<u64>,
    /// Whether the beginning of the part is welcome too.
    pub(super) slices: bool,
}

/// The upstream's answer to a request for a part.
#[derive(Debug)]
pub enum PartAnswer {
    /// The part, or the whole blob: `offset` says where the bytes begin.
    Blob(UpstreamBlob),
    /// The blob ends before the part; this is its length in bytes.
    Behind(u64),
}

impl Part {
    /// That part, or more; never less.
    #[must_use]
    pub const fn of(range: BlobRange) -> Self {
        Self { range, length: None, slices: false }
    }

    /// The range to ask for; `None`: the whole.
    fn asked(&self, way: Way) -> Option<BlobRange> {
        let BlobRange { from, to } = self.range;
        let last = self.length.map(|length| length.saturating_sub(1));
        let closed = to.map_or(last, |to| Some(last.map_or(to, |last| to.min(last))));
        match way {
            _ if from == 0 && to.is_none() => None,
            Way::Open => Some(self.range),
            Way::Closed => closed.map(|to| BlobRange { from, to: Some(to) }),
            Way::Whole => None,
        }
    }

    /// Whether a part that came can be gone on with.
    fn takes(&self, blob: &UpstreamBlob) -> bool {
        if !blob.status_partial {
            return true;
        }
        let Some(length) = blob.length.or(self.length) else { return false };
        let whole = self.length.is_none_or(|known| known == length);
        let wanted = self.range.to.map_or(length, |to| length.min(to.saturating_add(1)));
        whole && (self.slices || blob.end == Some(wanted))
    }
}

impl Source {
    /// Asks for a part of a blob, in as many ways as it takes. Safe to drop: ends the request.
    ///
    /// # Errors
    /// [`UpstreamError`]: the whole is not given either.
    pub async fn part(
        &self,
        digest: &Digest,
        part: Part,
        patience: impl Into<Patience>,
    ) -> Result<PartAnswer, UpstreamError> {
        self.part_by(digest, part, &mut Way::default(), patience.into()).await
    }

    /// The same, in `way` first, which becomes the way that was answered.
    pub(super) async fn part_by(
        &self,
        digest: &Digest,
        mut part: Part,
        way: &mut Way,
        patience: Patience,
    ) -> Result<PartAnswer, UpstreamError> {
        let Self { upstream, child } = self;
        loop {
            let asked = part.asked(*way);
            let refused = match upstream.blob(child, digest, asked, patience).await {
                Ok(blob) if part.takes(&blob) => {
                    let length = blob.length.or(part.length);
                    return Ok(PartAnswer::Blob(UpstreamBlob { length, ..blob }));
                }
                Ok(_) if asked.is_some() => None,
                Ok(blob) => return Ok(PartAnswer::Blob(blob)),
                // The blob is known to be there: "not found" is said of the range.
                Err(error)
                    if asked.is_some()
                        && (error.is_about_the_range()
                            || part.length.is_some() && error.cause() == UpstreamCause::NotFound) =>
                {
                    Some(error)
                }
                Err(error) => return Err(error),
            };
            let unsatisfiable = refused.and_then(|error| error.status()) == Some(UNSATISFIABLE);
            if part.length.is_none() && (unsatisfiable || part.range.to.is_none()) {
                // Best effort: the whole tells its length too.
                part.length = upstream.blob_size(child, digest, patience.asking).await.unwrap_or(None);
            }
            if let Some(length) = part.length.filter(|length| part.range.from >= *length) {
                return Ok(PartAnswer::Behind(length));
            }
            let before = asked;
            *way = way.next();
            if *way == Way::Closed && (part.asked(*way) == before || part.asked(*way).is_none()) {
                *way = Way::Whole;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(from: u64, to: Option<u64>, length: Option<u64>) -> Part {
        Part { range: BlobRange { from, to }, length, slices: false }
    }

    fn asked(part: Part, way: Way) -> Option<(u64, Option<u64>)> {
        part.asked(way).map(|range| (range.from, range.to))
    }

    #[test]
    fn each_way_asks_for_all_that_is_wanted() {
        assert_eq!(asked(part(5, None, None), Way::Open), Some((5, None)));
        assert_eq!(asked(part(5, None, Some(10)), Way::Closed), Some((5, Some(9))));
        assert_eq!(asked(part(5, Some(7), Some(10)), Way::Closed), Some((5, Some(7))));
        assert_eq!(asked(part(5, Some(99), Some(10)), Way::Closed), Some((5, Some(9))));
        assert_eq!(asked(part(5, None, None), Way::Closed), None, "nobody knows the last byte");
        for way in [Way::Open, Way::Closed, Way::Whole] {
            assert_eq!(asked(part(0, None, Some(10)), way), None);
        }
        assert_eq!(asked(part(5, Some(7), Some(10)), Way::Whole), None);
    }
}
