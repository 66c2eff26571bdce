//! A layout's `index.json`: which tag is which manifest. Read as it comes, a piece at a time; of an entry its tag and its digest
//! are kept.

use std::fmt;
use std::io::{self, BufReader, Read};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::finding::{Budget, BundleError};
use super::stream::Stream;
use crate::oci::Digest;

/// Longest `index.json`; the largest known have 1 MiB.
const MOST_BYTES: u64 = 32 << 20;
/// Longest text in it: the parser keeps one whole.
const MOST_TEXT: usize = 64 * 1024;
/// Most characters that are kept of a tag: 128 are the longest that a registry takes.
const MOST_TAG: usize = 130;
/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;
/// The tag that `d8` gives an image at the push. `org.opencontainers.image.ref.name` is not believed: of an alias it names the
/// port of the source.
const SHORT_TAG: &str = "io.deckhouse.image.short_tag";

/// What an entry of a table takes beside its fields.
const ENTRY_BYTES: usize = 64;

/// What an index says.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// In its order.
    pub(super) tags: Vec<(String, Digest)>,
    /// Entries without a tag: nothing is pushed of them.
    pub(super) untagged: u64,
    /// What can't be used of it, sentences without their ends.
    pub(super) wrong: Vec<String>,
}

/// Reads the index that lies at `at` of a stream; what is kept of it is taken from the budget. Blocking.
///
/// # Errors
/// [`BundleError::TooMuch`]. The inner error: the index can't be used, a sentence without its end.
pub(super) fn read(
    stream: &Stream,
    at: u64,
    length: u64,
    budget: &mut Budget,
) -> Result<Result<Index, String>, BundleError> {
    if length > MOST_BYTES {
        return Ok(Err(format!("it has {length} bytes, more than any index of a layout ({MOST_BYTES})")));
    }
    let texts = ShortTexts::new(Content { stream, at, left: length });
    let mut taking = Taking { index: Index::default(), budget, too_much: None };
    let mut json = serde_json::Deserializer::from_reader(BufReader::with_capacity(READ_BYTES, texts));
    let parsed = Top(&mut taking).deserialize(&mut json).and_then(|()| json.end());
    match (taking.too_much, parsed) {
        (Some(error), _) => Err(error),
        (None, Ok(())) => Ok(Ok(taking.index)),
        (None, Err(error)) => Ok(Err(format!("it can't be read: {error}"))),
    }
}

/// What is gathered while it is parsed.
struct Taking<'a> {
    index: Index,
    budget: &'a mut Budget,
    too_much: Option<BundleError>,
}

impl Taking<'_> {
    /// Whether it fits.
    fn take(&mut self, entry: RawEntry) -> bool {
        let RawEntry { digest, annotations } = entry;
        let Some(mut tag) = annotations.and_then(|annotations| annotations.short_tag) else {
            self.index.untagged += 1;
            return true;
        };
        if let Some((cut, _)) = tag.char_indices().nth(MOST_TAG) {
            tag.truncate(cut);
        }
        if let Err(error) = self.budget.take(tag.len() + size_of::<Digest>() + ENTRY_BYTES) {
            self.too_much = Some(error);
            return false;
        }
        match digest.parse() {
            Ok(digest) => self.index.tags.push((tag, digest)),
            Err(error) => self.index.wrong.push(format!("its tag {tag:?} leads to no digest: {error}")),
        }
        true
    }
}

#[derive(Deserialize)]
struct RawEntry {
    digest: String,
    annotations: Option<Annotations>,
}

/// Of annotations the one that counts.
struct Annotations {
    short_tag: Option<String>,
}

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Found;
        impl<'de> Visitor<'de> for Found {
            type Value = Annotations;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("annotations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Annotations, A::Error> {
                let mut short_tag = None;
                while let Some(key) = map.next_key::<String>()? {
                    if key == SHORT_TAG {
                        short_tag = Some(map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Annotations { short_tag })
            }
        }
        from.deserialize_map(Found)
    }
}

/// The index as a whole.
struct Top<'t, 'a>(&'t mut Taking<'a>);

impl<'de> DeserializeSeed<'de> for Top<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an index")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "manifests" {
                map.next_value_seed(Entries(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Its list of manifests, or `null` as an empty layout has it.
struct Entries<'t, 'a>(&'t mut Taking<'a>);

impl<'de> DeserializeSeed<'de> for Entries<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of manifests")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(entry) = list.next_element()? {
            if !self.0.take(entry) {
                return Err(serde::de::Error::custom("there is more than is kept"));
            }
        }
        Ok(())
    }
}

/// JSON whose texts are no longer than [`MOST_TEXT`].
struct ShortTexts<R> {
    inner: R,
    /// Bytes of the text that is read; `None`: outside of one.
    text: Option<usize>,
    is_escaped: bool,
}

impl<R> ShortTexts<R> {
    const fn new(inner: R) -> Self {
        Self { inner, text: None, is_escaped: false }
    }
}

impl<R: Read> Read for ShortTexts<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        for byte in &buffer[..count] {
            self.text = match (self.text, byte) {
                (None, b'"') => Some(0),
                (None, _) => None,
                (Some(_), b'"') if !self.is_escaped => None,
                (Some(MOST_TEXT), _) => {
                    return Err(io::Error::other(format!("a text has more than {MOST_TEXT} bytes")));
                }
                (Some(length), _) => Some(length + 1),
            };
            self.is_escaped = self.text.is_some() && *byte == b'\\' && !self.is_escaped;
        }
        Ok(count)
    }
}

/// A part of a stream, as a reader.
pub(super) struct Content<'a> {
    pub(super) stream: &'a Stream,
    pub(super) at: u64,
    pub(super) left: u64,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.stream.read_at(self.at, &mut buffer[..most])?;
        if count < most {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(text: &str) -> io::Result<usize> {
        io::copy(&mut ShortTexts::new(text.as_bytes()), &mut io::sink()).map(|count| usize::try_from(count).unwrap())
    }

    #[test]
    fn no_text_of_an_index_is_long_and_their_number_does_not_matter() {
        let many = format!("[{}]", r#""a\"b\\","#.repeat(50_000));
        assert_eq!(short(&many).unwrap(), many.len());
        let most = format!("\"{}\"", "x".repeat(MOST_TEXT));
        assert_eq!(short(&most).unwrap(), most.len());
        assert!(short(&format!("\"x{}", &most[1..])).is_err());
        // What looks like the end of a text is none.
        assert!(short(&format!("\"{}", "\\\"".repeat(MOST_TEXT))).is_err());
    }
}
