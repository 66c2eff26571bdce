//! What stays in a store, whatever any rule says: the releases and digests that a cluster runs, and when that was written.
//!
//! The controller writes it into the Secret `registry-pins`; an administrator may write the same by hand. Pure.
//!
//! ```yaml
//! writtenAt: "2026-11-29T15:30:00Z"
//! releases: [v1.70.1]
//! images: ["sha256:…"]
//! ```
//!
//! # Decisions
//!
//! - Strict: one digest that can't be read may be the one that runs, so the whole document is refused.
//! - Who writes counts the digests of manifests as the runtime names them; both the index and the image are named then.
//! - A document without any image and release is empty and as good as none: whoever writes it could not look.
//! - A document that is too large for where it is kept is compressed (gzip, RFC 1952): some 37 bytes a digest instead of 76.
//! - A time that lies ahead by more than [`Pins::MAX_AHEAD`] makes a document no good: with it a clock that stood wrong for a
//!   moment would make it good for as long.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde::Deserialize;
use serde_saphyr::{Error, Options};

use super::Release;
use crate::clock::Timestamp;
use crate::oci::Digest;

/// Nodes of the YAML: each digest and release is one.
const MAX_NODES: usize = Pins::MAX_IMAGES + Pins::MAX_RELEASES + 100;

/// What a compressed document begins with; no text does.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// What stays in a store, and since when that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    /// When it was written, by the writer's clock; whole seconds.
    pub written_at: Timestamp,
    /// Release sets that stay; at most [`Pins::MAX_RELEASES`].
    pub releases: BTreeSet<Release>,
    /// Contents that stay in every repository; at most [`Pins::MAX_IMAGES`].
    pub images: BTreeSet<Digest>,
}

/// Why a text is no document of pins.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPins {
    /// Larger than [`Pins::MAX_BYTES`].
    #[error("it is larger than {} bytes", Pins::MAX_BYTES)]
    Size,
    /// It begins as a compressed one and is none.
    #[error("it is compressed and can't be read")]
    Compressed,
    /// Not UTF-8.
    #[error("it is not UTF-8")]
    Utf8,
    /// No YAML, a key that nobody knows or that is missing, or a value that is none.
    #[error("line {line}: {message}")]
    Line {
        /// Which line, from 1.
        line: u64,
        /// What is wrong, a sentence.
        message: String,
    },
    /// More than is looked at.
    #[error("it has more than {0} {1}")]
    Count(usize, &'static str),
}

/// How pins stand to the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// Young enough to go by.
    Fresh(Duration),
    /// Older than [`Pins::MAX_AGE`].
    Old(Duration),
    /// Written at a time that has not come yet.
    Ahead,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Raw {
    written_at: WrittenAt,
    #[serde(default)]
    releases: Vec<Release>,
    #[serde(default)]
    images: Vec<Digest>,
}

struct WrittenAt(Timestamp);

impl<'de> Deserialize<'de> for WrittenAt {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = humantime::parse_rfc3339(&text);
        let time =
            time.map_err(|_| serde::de::Error::custom("expected a time such as 2026-11-29T15:30:00Z, in UTC"))?;
        Ok(Self(time.into()))
    }
}

impl Pins {
    /// Largest document.
    pub const MAX_BYTES: usize = 8 << 20;

    /// Most digests.
    pub const MAX_IMAGES: usize = 100_000;

    /// Most releases.
    pub const MAX_RELEASES: usize = 1000;

    /// Greatest age by which anything is removed.
    pub const MAX_AGE: Duration = Duration::from_secs(86_400);

    /// How far the clocks of writer and reader may differ.
    pub const MAX_AHEAD: Duration = Duration::from_secs(600);

    /// Reads a document, compressed or not.
    ///
    /// # Errors
    /// [`InvalidPins`].
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidPins> {
        if bytes.starts_with(&GZIP) {
            let mut text = Vec::new();
            let most = u64::try_from(Self::MAX_BYTES).unwrap_or(u64::MAX);
            let read = MultiGzDecoder::new(bytes).take(most.saturating_add(1)).read_to_end(&mut text);
            read.map_err(|_| InvalidPins::Compressed)?;
            return Self::parse_text(&text);
        }
        Self::parse_text(bytes)
    }

    fn parse_text(bytes: &[u8]) -> Result<Self, InvalidPins> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(InvalidPins::Size);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| InvalidPins::Utf8)?;
        let raw: Raw = serde_saphyr::from_str_with_options(text, options()).map_err(|error| invalid(&error))?;
        let releases: BTreeSet<Release> = raw.releases.into_iter().collect();
        let images: BTreeSet<Digest> = raw.images.into_iter().collect();
        if releases.len() > Self::MAX_RELEASES {
            return Err(InvalidPins::Count(Self::MAX_RELEASES, "releases"));
        }
        if images.len() > Self::MAX_IMAGES {
            return Err(InvalidPins::Count(Self::MAX_IMAGES, "images"));
        }
        Ok(Self { written_at: raw.written_at.0, releases, images })
    }

    /// The document, which [`Pins::parse`] reads back. The time stands in front, so that each writing differs early.
    #[must_use]
    pub fn render(&self) -> String {
        let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.written_at.as_secs()));
        let mut text = format!("writtenAt: \"{time}\"\n");
        list(&mut text, "releases", self.releases.iter());
        list(&mut text, "images", self.images.iter());
        text
    }

    /// The document in `most` bytes or fewer: as text, else compressed. `None`: it has more either way.
    #[must_use]
    pub fn render_within(&self, most: usize) -> Option<Vec<u8>> {
        let text = self.render().into_bytes();
        if text.len() <= most {
            return Some(text);
        }
        let mut compressed = GzEncoder::new(Vec::new(), Compression::default());
        compressed.write_all(&text).ok()?;
        compressed.finish().ok().filter(|bytes| bytes.len() <= most)
    }

    /// Nothing, at this time.
    #[must_use]
    pub const fn none(written_at: Timestamp) -> Self {
        Self { written_at, releases: BTreeSet::new(), images: BTreeSet::new() }
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.releases.is_empty() && self.images.is_empty()
    }

    /// How old it is at `now`.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Age {
        match now.since(self.written_at) {
            Some(age) if age > Self::MAX_AGE => Age::Old(age),
            Some(age) => Age::Fresh(age),
            None if self.written_at.since(now).is_some_and(|ahead| ahead > Self::MAX_AHEAD) => Age::Ahead,
            None => Age::Fresh(Duration::ZERO),
        }
    }
}

fn list<T: std::fmt::Display>(text: &mut String, key: &str, entries: impl ExactSizeIterator<Item = T>) {
    if entries.len() == 0 {
        let _ = writeln!(text, "{key}: []");
        return;
    }
    let _ = writeln!(text, "{key}:");
    for entry in entries {
        let _ = writeln!(text, "- \"{entry}\"");
    }
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES, max_events: 2 * MAX_NODES, max_depth: 4, max_documents: 1
        },
        strict_booleans: true,
        with_snippet: false,
    }
}

fn invalid(error: &Error) -> InvalidPins {
    let line = error.location().map_or(1, |location| location.line().max(1));
    let message = match error.without_snippet() {
        Error::Budget { .. } => return InvalidPins::Count(Pins::MAX_IMAGES, "images, or is nested"),
        Error::Message { msg, .. } => msg.clone(),
        Error::SerdeUnknownField { expected, .. } => {
            format!("a key that nobody knows; known are {}", expected.join(", "))
        }
        Error::SerdeMissingField { field, .. } => format!("the key {field} is missing"),
        Error::DuplicateMappingKey { .. } => "a key is there twice".to_owned(),
        _ => "not valid here: expected writtenAt, a list of releases and a list of images".to_owned(),
    };
    InvalidPins::Line { line, message }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    const TIME: Timestamp = Timestamp::from_millis(1_795_966_200_000);

    fn digest(number: u32) -> Digest {
        Algorithm::Sha256.digest(&number.to_le_bytes())
    }

    #[test]
    fn a_document_is_read_as_it_is_written() {
        let text = format!(
            "writtenAt: \"2026-11-29T15:30:00Z\"\nreleases: [v1.70.1]\nimages: [\"{}\", {}]\n",
            digest(1),
            digest(2)
        );
        let pins = Pins::parse(text.as_bytes()).unwrap();
        assert_eq!(pins.written_at, TIME);
        assert_eq!(pins.releases, BTreeSet::from(["v1.70.1".parse().unwrap()]));
        assert_eq!(pins.images, BTreeSet::from([digest(1), digest(2)]));
        let bare = Pins::parse(b"writtenAt: 2026-11-29T15:30:00Z\n").unwrap();
        assert!(bare.is_empty() && !pins.is_empty());
    }

    #[test]
    fn what_is_wrong_in_one_place_is_refused_with_its_line() {
        let time = "writtenAt: \"2026-11-29T15:30:00Z\"\n";
        for (text, line, words) in [
            (format!("{time}image: []\n"), 2, "known are"),
            (format!("{time}images:\n- \"{}\"\n- sha256:0\n", digest(1)), 4, "hex"),
            (format!("{time}images: []\nreleases:\n- stable\n"), 4, "is no release"),
            ("images: []\n".to_owned(), 1, "writtenAt"),
            ("writtenAt: yesterday\n".to_owned(), 1, "expected a time"),
            ("writtenAt: \"2026-11-29T15:30:00+03:00\"\n".to_owned(), 1, "in UTC"),
            (format!("{time}images: []\nimages: []\n"), 3, "twice"),
            (String::new(), 1, ""),
            ("[]".to_owned(), 1, ""),
        ] {
            match Pins::parse(text.as_bytes()) {
                Err(InvalidPins::Line { line: found, message }) => {
                    assert_eq!(found, line, "{text}: {message}");
                    assert!(message.contains(words), "{text}: {message}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        assert_eq!(Pins::parse(&[0xff]), Err(InvalidPins::Utf8));
    }

    #[test]
    fn it_is_bounded() {
        assert_eq!(Pins::parse(&vec![b' '; Pins::MAX_BYTES + 1]), Err(InvalidPins::Size));
        let mut pins = Pins { written_at: TIME, releases: BTreeSet::new(), images: (0..100_000).map(digest).collect() };
        let text = pins.render();
        assert!(text.len() < Pins::MAX_BYTES);
        assert_eq!(Pins::parse(text.as_bytes()).unwrap(), pins);
        pins.images.insert(digest(100_000));
        assert!(matches!(Pins::parse(pins.render().as_bytes()), Err(InvalidPins::Count(..))));
        let deep = format!("writtenAt: {}{}", "[".repeat(10), "]".repeat(10));
        assert!(Pins::parse(deep.as_bytes()).is_err());
    }

    #[test]
    fn what_is_too_large_as_text_is_compressed_and_nothing_is_left_out() {
        let pins = |count| Pins {
            written_at: TIME,
            releases: BTreeSet::from(["v1.70.1".parse().unwrap()]),
            images: (0..count).map(digest).collect(),
        };
        let text = pins(100).render_within(1 << 20).unwrap();
        assert_eq!(text, pins(100).render().into_bytes());
        let many = pins(25_000);
        let compressed = many.render_within(1 << 20).unwrap();
        assert!(compressed.starts_with(&GZIP) && compressed.len() < 25_000 * 40, "{}", compressed.len());
        assert_eq!(Pins::parse(&compressed), Ok(many));
        assert_eq!(pins(40_000).render_within(1 << 20), None);
        assert_eq!(Pins::parse(&compressed[..compressed.len() / 2]), Err(InvalidPins::Compressed));
        assert_eq!(Pins::parse(&GZIP), Err(InvalidPins::Compressed));
        // What is small and becomes large.
        let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
        bomb.write_all(&vec![b' '; Pins::MAX_BYTES + 1]).unwrap();
        assert_eq!(Pins::parse(&bomb.finish().unwrap()), Err(InvalidPins::Size));
    }

    #[test]
    fn a_day_is_the_greatest_age_and_ten_minutes_ahead_are_a_wrong_clock() {
        let pins = Pins { written_at: TIME, releases: BTreeSet::new(), images: BTreeSet::new() };
        let at = |seconds: i64| {
            pins.age(Timestamp::from_millis(TIME.as_millis().checked_add_signed(seconds * 1000).unwrap()))
        };
        assert_eq!(at(0), Age::Fresh(Duration::ZERO));
        assert_eq!(at(86_400), Age::Fresh(Pins::MAX_AGE));
        assert_eq!(at(86_401), Age::Old(Pins::MAX_AGE + Duration::from_secs(1)));
        assert_eq!(at(-600), Age::Fresh(Duration::ZERO));
        assert_eq!(at(-601), Age::Ahead);
    }

    proptest! {
        #[test]
        fn what_is_rendered_reads_back(seconds in 0_u64..4_000_000_000, images in proptest::collection::btree_set(0_u32..50, 0..9), patches in proptest::collection::btree_set(0_u32..50, 0..5)) {
            let pins = Pins {
                written_at: Timestamp::from_millis(seconds * 1000),
                releases: patches.into_iter().map(|patch| format!("v1.70.{patch}").parse().unwrap()).collect(),
                images: images.into_iter().map(digest).collect(),
            };
            prop_assert_eq!(Pins::parse(pins.render().as_bytes()), Ok(pins));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = Pins::parse(text.as_bytes());
        }
    }
}
