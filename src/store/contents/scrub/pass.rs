//! Where a pass is: the note in `scrub`, by which a restart goes on and does not begin anew.
//!
//! ```text
//! 1 began=1764400000 ended=1763800000 last=sha256:<hex> bytes=1234 contents=5 found=0
//! ```
//!
//! Seconds since 1970-01-01T00:00:00Z; `ended` is the end of the pass before, 0 without one; `last` the content that was
//! through, `-` at the beginning. A note that is lost or can't be read begins a pass anew. Blocking.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::fs::{Disk, is_absence};
use crate::oci::{Algorithm, Digest};
use crate::store::error::StoreError;
use crate::store::layout::Layout;

/// First word of the note.
const FORMAT: &str = "1";

/// A pass over the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Pass {
    /// When it began.
    pub(in crate::store) began: Timestamp,
    /// When the one before ended.
    pub(in crate::store) ended: Option<Timestamp>,
    /// The last content that is through.
    pub(super) last: Option<Digest>,
    /// Bytes that were read.
    pub(in crate::store) bytes: u64,
    /// Contents that were read.
    pub(in crate::store) contents: u64,
    /// Of those, damaged ones and such that could not be read.
    pub(in crate::store) found: u64,
}

impl Pass {
    /// One that begins now, behind one that ended then.
    pub(super) const fn begin(now: Timestamp, ended: Option<Timestamp>) -> Self {
        Self { began: now, ended, last: None, bytes: 0, contents: 0, found: 0 }
    }

    /// The one of the note, or one that begins now; blocking.
    pub(super) fn open(layout: &Layout, now: Timestamp) -> Self {
        let path = layout.scrub();
        let noted = match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text),
            Err(error) if is_absence(&error) => return Self::begin(now, None),
            Err(_) => None,
        };
        noted.unwrap_or_else(|| {
            tracing::warn!(path = %path.display(), "how far the scrub was can't be read: it begins anew");
            Self::begin(now, None)
        })
    }

    /// Notes it, durably; blocking.
    pub(super) fn note(&self, layout: &Layout, disk: &Disk) -> Result<(), StoreError> {
        Ok(disk.replace(layout.temporary(), &layout.scrub(), self.to_text().as_bytes())?)
    }

    fn to_text(self) -> String {
        let Self { began, ended, last, bytes, contents, found } = self;
        let ended = ended.map_or(0, Timestamp::as_secs);
        let last = last.map_or_else(|| "-".to_owned(), |last| last.to_string());
        let began = began.as_secs();
        format!("{FORMAT} began={began} ended={ended} last={last} bytes={bytes} contents={contents} found={found}\n")
    }

    /// What the text says; `None`: it is no note.
    pub(in crate::store) fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_suffix('\n')?.split(' ');
        if words.next()? != FORMAT {
            return None;
        }
        let mut value = |name: &str| words.next()?.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
        let seconds = |text: String| text.parse::<u64>().ok().map(|seconds| Timestamp::from_millis(seconds * 1000));
        let began = seconds(value("began")?)?;
        let ended = seconds(value("ended")?)?;
        let last = value("last")?;
        let last = if last == "-" { None } else { Some(last.parse().ok()?) };
        let mut number = |name: &str| value(name)?.parse::<u64>().ok();
        let (bytes, contents, found) = (number("bytes")?, number("contents")?, number("found")?);
        let ended = Some(ended).filter(|ended| ended.as_secs() > 0);
        Some(Self { began, ended, last, bytes, contents, found })
    }

    /// When a content of this digest is due.
    pub(super) fn due(&self, digest: &Digest, interval: Duration) -> Timestamp {
        self.behind((u128::from(share(digest)) * interval.as_millis()) >> 64)
    }

    /// When it ends, at the earliest: a store of few contents is not read more often.
    pub(super) fn end(&self, interval: Duration) -> Timestamp {
        self.behind(interval.as_millis())
    }

    fn behind(&self, millis: u128) -> Timestamp {
        Timestamp::from_millis(self.began.as_millis().saturating_add(u64::try_from(millis).unwrap_or(u64::MAX)))
    }

    /// The part of all digests that is through, in thousandths.
    pub(in crate::store) fn permille(&self) -> u64 {
        let part = self.last.as_ref().map_or(0, |last| (u128::from(share(last)) * 1000) >> 64);
        u64::try_from(part).unwrap_or(0)
    }
}

/// The part of all digests that lie before this one, of 2^64.
fn share(digest: &Digest) -> u64 {
    digest.as_bytes().first_chunk::<8>().map_or(0, |first| u64::from_be_bytes(*first))
}

/// The place of a digest in the order of a pass.
pub(super) fn place(digest: &Digest) -> (&[u8], Algorithm) {
    (digest.as_bytes(), digest.algorithm())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digests() -> impl Strategy<Value = Digest> {
        (any::<bool>(), proptest::collection::vec(any::<u8>(), 64)).prop_map(|(long, raw)| {
            let algorithm = if long { Algorithm::Sha512 } else { Algorithm::Sha256 };
            Digest::from_bytes(algorithm, &raw[..algorithm.digest_len()]).unwrap()
        })
    }

    const DAY: Duration = Duration::from_secs(86_400);

    proptest! {
        #[test]
        fn a_note_is_read_as_it_was_written_and_cut_it_is_none(
            began in 0..1_u64 << 40, ended in proptest::option::of(1..1_u64 << 40), last in proptest::option::of(digests()),
            (bytes, contents, found) in any::<(u64, u64, u64)>(), cut in any::<proptest::sample::Index>(),
        ) {
            let seconds = |seconds| Timestamp::from_millis(seconds * 1000);
            let pass = Pass { began: seconds(began), ended: ended.map(seconds), last, bytes, contents, found };
            let text = pass.to_text();
            prop_assert_eq!(Pass::parse(&text), Some(pass));
            prop_assert_eq!(Pass::parse(&text[..cut.index(text.len())]), None);
        }

        #[test]
        fn contents_are_due_in_their_order_within_the_interval(one in digests(), other in digests()) {
            let pass = Pass::begin(Timestamp::from_millis(5_000), None);
            let [first, second] = if place(&one) <= place(&other) { [one, other] } else { [other, one] };
            let [due, later] = [first, second].map(|digest| pass.due(&digest, DAY));
            prop_assert!(pass.began <= due && due <= later);
            prop_assert!(later.since(pass.began).unwrap() < DAY);
        }
    }

    #[test]
    fn the_middle_of_all_digests_is_due_in_the_middle_of_the_interval() {
        let pass = Pass::begin(Timestamp::from_millis(0), None);
        let mut raw = [0; 32];
        raw[0] = 0x80;
        let middle = Digest::from_bytes(Algorithm::Sha256, &raw).unwrap();
        assert_eq!(pass.due(&middle, DAY), Timestamp::from_millis(43_200_000));
        assert_eq!(Pass { last: Some(middle), ..pass }.permille(), 500);
        assert_eq!(pass.permille(), 0);
    }
}
