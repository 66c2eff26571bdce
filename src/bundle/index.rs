//! A layout's `index.json`: which tag is which manifest. Read as it comes, a piece at a time.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};

use serde::Deserialize;

use super::stream::Stream;
use crate::oci::Digest;

/// Longest `index.json`; the largest known have 1 MiB.
const MOST_BYTES: u64 = 32 << 20;
/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;
/// The tag that `d8` gives an image at the push. `org.opencontainers.image.ref.name` is not believed: of an alias it names the
/// port of the source.
const SHORT_TAG: &str = "io.deckhouse.image.short_tag";

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

#[derive(Deserialize)]
struct Raw {
    // `null` in an empty layout.
    manifests: Option<Vec<RawEntry>>,
}

#[derive(Deserialize)]
struct RawEntry {
    digest: String,
    annotations: Option<BTreeMap<String, String>>,
}

/// Reads the index that lies at `at` of a stream. Blocking.
///
/// # Errors
/// A sentence without its end.
pub(super) fn read(stream: &Stream, at: u64, length: u64) -> Result<Index, String> {
    if length > MOST_BYTES {
        return Err(format!("it has {length} bytes, more than any index of a layout ({MOST_BYTES})"));
    }
    let content = BufReader::with_capacity(READ_BYTES, Content { stream, at, left: length });
    let raw: Raw = serde_json::from_reader(content).map_err(|error| format!("it can't be read: {error}"))?;
    let mut index = Index::default();
    for RawEntry { digest, annotations } in raw.manifests.unwrap_or_default() {
        let tag = annotations.and_then(|mut annotations| annotations.remove(SHORT_TAG));
        match (tag, digest.parse()) {
            (None, _) => index.untagged += 1,
            (Some(tag), Ok(digest)) => index.tags.push((tag, digest)),
            (Some(tag), Err(error)) => {
                let tag: String = tag.chars().take(128).collect();
                index.wrong.push(format!("its tag {tag:?} leads to no digest: {error}"));
            }
        }
    }
    Ok(index)
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
