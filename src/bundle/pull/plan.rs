//! What is to be written: archives, their layouts, and of each layout tags and contents. All of it is known before the first blob
//! comes, down to the length of every file.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::error::PullError;
use super::header;
use super::image::Image;
use super::source::Source;
use crate::oci::{Descriptor, Digest, Reference, Tag};

/// Bytes of manifests that are kept until they are written.
const MOST_BYTES: usize = 256 << 20;

/// What an archive's index calls itself: wrongly, and as `d8` does.
const LAYOUT: &str = "application/vnd.oci.image.layout.v1+json";
/// The content of `oci-layout`, byte for byte that of `d8`.
const MARKER: &[u8] = b"{\n    \"imageLayoutVersion\": \"1.0.0\"\n}";

/// All archives, by their names.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) archives: BTreeMap<String, Archive>,
    kept: usize,
}

/// An archive: layouts by their paths.
#[derive(Debug, Default)]
pub(super) struct Archive {
    layouts: BTreeMap<String, Layout>,
}

/// A layout.
#[derive(Debug, Default)]
struct Layout {
    tags: BTreeMap<String, Tagged>,
    contents: BTreeMap<Digest, Content>,
}

/// A line of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tagged {
    digest: Digest,
    size: u64,
    media_type: String,
    is_index: bool,
    /// `org.opencontainers.image.ref.name`.
    name: String,
}

/// A content of a layout.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// A manifest, or a file that is made here.
    Made(Bytes),
    /// A blob that a repository of a source has.
    Blob(Descriptor, Origin),
}

/// A repository of a source.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) source: Arc<Source>,
    pub(super) child: Arc<str>,
}

/// A place in an archive for an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The file.
    pub(super) archive: &'a str,
    /// The layout, which is a repository below Deckhouse's.
    pub(super) path: &'a str,
}

/// A file of an archive.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) content: Content,
}

impl Content {
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Made(bytes) => bytes.len() as u64,
            Self::Blob(blob, _) => blob.size,
        }
    }
}

impl Origin {
    pub(super) fn new(source: &Arc<Source>, child: &str) -> Self {
        Self { source: Arc::clone(source), child: Arc::from(child) }
    }

    pub(super) fn image(&self, reference: &Reference) -> String {
        self.source.image(&self.child, reference)
    }
}

impl Plan {
    /// Puts an image into a layout under the tag by which it was asked for, one that was asked for by its digest under the digits of
    /// that, as `d8` names it.
    ///
    /// # Errors
    /// [`PullError::Unusable`], [`PullError::TooMuch`].
    pub(super) fn add(
        &mut self,
        place: Place<'_>,
        origin: &Origin,
        reference: &Reference,
        image: &Image,
    ) -> Result<(), PullError> {
        let tag = match reference {
            Reference::Tag(tag) => tag.to_string(),
            Reference::Digest(digest) => digest.hex(),
        };
        self.name(place, origin, &tag, image, origin.image(reference))
    }

    /// Puts an image into a layout under another tag than its own.
    ///
    /// # Errors
    /// As of [`Self::add`].
    pub(super) fn alias(
        &mut self,
        place: Place<'_>,
        origin: &Origin,
        tag: &Tag,
        image: &Image,
    ) -> Result<(), PullError> {
        let name = origin.image(&Reference::Tag(tag.clone()));
        self.name(place, origin, tag.as_str(), image, name)
    }

    fn name(
        &mut self,
        place: Place<'_>,
        origin: &Origin,
        tag: &str,
        image: &Image,
        name: String,
    ) -> Result<(), PullError> {
        let archive = self.archives.entry(place.archive.to_owned()).or_default();
        let layout = archive.layouts.entry(place.path.to_owned()).or_default();
        for (digest, bytes) in &image.manifests {
            if let Slot::Vacant(slot) = layout.contents.entry(*digest) {
                self.kept += bytes.len();
                slot.insert(Content::Made(bytes.clone()));
            }
        }
        if self.kept > MOST_BYTES {
            return Err(PullError::TooMuch(MOST_BYTES));
        }
        for blob in &image.blobs {
            let content = layout.contents.entry(blob.digest);
            let content = content.or_insert_with(|| Content::Blob(blob.clone(), origin.clone()));
            if content.length() != blob.size {
                let (one, other) = (content.length(), blob.size);
                let why = format!("blob {} has {one} bytes by one manifest and {other} by another", blob.digest);
                return Err(PullError::unusable(name, why));
            }
        }
        let Image { digest, size, media_type, is_index, .. } = image;
        let tagged = Tagged { digest: *digest, size: *size, media_type: media_type.clone(), is_index: *is_index, name };
        layout.tags.insert(tag.to_owned(), tagged);
        Ok(())
    }

    /// Whether a layout has a tag.
    pub(super) fn has(&self, place: Place<'_>, tag: &str) -> bool {
        let layout = self.archives.get(place.archive).and_then(|archive| archive.layouts.get(place.path));
        layout.is_some_and(|layout| layout.tags.contains_key(tag))
    }
}

impl Archive {
    /// Its files, in the order in which a walk over directories finds them.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (path, layout) in &self.layouts {
            let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            for (digest, content) in &layout.contents {
                let name = below(&format!("blobs/sha256/{}", digest.hex()));
                entries.push(Entry { name, content: content.clone() });
            }
            entries.push(Entry { name: below("index.json"), content: Content::Made(Bytes::from(layout.index())) });
            entries.push(Entry { name: below("oci-layout"), content: Content::Made(Bytes::from_static(MARKER)) });
        }
        entries.sort_by(|one, other| one.name.split('/').cmp(other.name.split('/')));
        entries
    }

    pub(super) fn tags(&self) -> u64 {
        self.layouts.values().map(|layout| layout.tags.len() as u64).sum()
    }
}

/// Bytes of a tar with these entries.
pub(super) fn length(entries: &[Entry]) -> u64 {
    let each = entries.iter().map(|entry| {
        let header = header::of(&entry.name, entry.content.length()).len() as u64;
        header.saturating_add(entry.content.length().checked_next_multiple_of(header::BLOCK).unwrap_or(u64::MAX))
    });
    each.fold(2 * header::BLOCK, u64::saturating_add)
}

// The fields in the order in which Go writes them.

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u64,
    media_type: &'static str,
    manifests: Vec<Line<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    media_type: &'a str,
    size: u64,
    digest: Digest,
    annotations: BTreeMap<&'static str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
}

/// Of an image, which `d8` leaves empty.
#[derive(Serialize)]
struct Platform {
    architecture: &'static str,
    os: &'static str,
}

impl Layout {
    fn index(&self) -> Vec<u8> {
        let mut lines: Vec<(&str, &Tagged)> = self.tags.iter().map(|(tag, tagged)| (tag.as_str(), tagged)).collect();
        lines.sort_by(|(_, one), (_, other)| one.name.cmp(&other.name));
        let lines = lines.into_iter().map(|(tag, tagged)| Line {
            media_type: &tagged.media_type,
            size: tagged.size,
            digest: tagged.digest,
            annotations: BTreeMap::from([
                ("io.deckhouse.image.short_tag", tag),
                ("org.opencontainers.image.ref.name", tagged.name.as_str()),
            ]),
            platform: (!tagged.is_index).then_some(Platform { architecture: "", os: "" }),
        });
        let index = Index { schema_version: 2, media_type: LAYOUT, manifests: lines.collect() };
        // Text and numbers can always be written.
        serde_json::to_vec_pretty(&index).unwrap_or_default()
    }
}
