//! Reads what one layer of an image says of some files. Pure: it sees bytes only.
//!
//! A layer is a tar that is laid over the layers below it (image-spec, "Image Layer Filesystem Changeset"): a file in it
//! replaces what is below, `.wh.NAME` removes `NAME`, `.wh..wh..opq` removes all that its directory has below. Both hold for
//! the layers below alone, wherever they stand in the tar.

use std::io::{self, Cursor, Read};

use flate2::read::MultiGzDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

use super::archive::{ArchiveError, Bounded, Entry, Kind, each_entry};

/// Bytes of a file that is read. A release's list has some 100 KiB.
const MOST_FILE_BYTES: u64 = 4 << 20;

/// Largest window of a zstd frame, as a power of 2: 128 MiB, the format's recommendation for decoders (RFC 8878, 3.1.1.1.2,
/// asks for 8 MiB at least).
const ZSTD_WINDOW_LOG: u32 = 27;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Begins names that some layer stores keep for themselves.
const META: &[u8] = b".wh..wh.";

/// The bounds of reading an image's layers that are left for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes, unpacked.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

/// The word of a layer on a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileInLayer {
    /// Nothing: the layer below counts.
    Unmentioned,
    /// It is there.
    Content(Vec<u8>),
    /// It is removed, or something else has its place.
    Removed,
}

/// Why a layer can't be read.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The file, or a directory on the way to it, is a link. Where that leads depends on all layers.
    #[error("{0} is a link there, or behind one")]
    Link(String),
    /// The file is larger than any list.
    #[error("{path} has {size} bytes, more than {MOST_FILE_BYTES}")]
    FileSize {
        /// Its path.
        path: String,
        /// Its bytes.
        size: u64,
    },
}

/// Reads a layer to its end, plain or compressed with gzip or zstd, which its first bytes tell: media types differ. Gives what
/// it says of each of `files`, paths without a slash in front, and takes what that costs from `budget`. Holds the files and
/// some buffers in memory. Blocking.
///
/// # Errors
/// [`LayerError`].
pub fn scan(layer: impl Read, files: &[&str], budget: &mut Budget) -> Result<Vec<FileInLayer>, LayerError> {
    let mut bytes = Bounded::new(decoder(layer).map_err(ArchiveError::Read)?, budget.bytes);
    let mut wanted: Vec<Wanted<'_>> = files.iter().map(|path| Wanted::new(path)).collect();
    let seen =
        each_entry(&mut bytes, budget.entries, |mut entry| wanted.iter_mut().try_for_each(|file| file.see(&mut entry)));
    *budget = Budget { bytes: bytes.left(), entries: budget.entries.saturating_sub(seen?) };
    Ok(wanted.into_iter().map(Wanted::end).collect())
}

fn decoder<'a>(mut layer: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::with_capacity(4);
    layer.by_ref().take(4).read_to_end(&mut magic)?;
    let (gzip, zstd) = (magic.starts_with(&[0x1f, 0x8b]), is_zstd(&magic));
    let whole = Cursor::new(magic).chain(layer);
    if gzip {
        return Ok(Box::new(MultiGzDecoder::new(whole)));
    }
    if zstd {
        let mut decoder = ZstdDecoder::new(whole)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(whole))
}

/// A frame, or one that decoders pass over (RFC 8878, 3.1).
fn is_zstd(magic: &[u8]) -> bool {
    matches!(magic, [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18])
}

/// A file that is looked for.
struct Wanted<'a> {
    path: &'a str,
    parts: Vec<&'a [u8]>,
    /// The layer's last entry in its place.
    here: Option<FileInLayer>,
    /// The layer removes it from the layers below.
    removed_below: bool,
}

impl<'a> Wanted<'a> {
    fn new(path: &'a str) -> Self {
        Self { path, parts: path.split('/').map(str::as_bytes).collect(), here: None, removed_below: false }
    }

    fn see(&mut self, entry: &mut Entry<'_>) -> Result<(), LayerError> {
        let Some((name, directory)) = entry.path.split_last() else { return Ok(()) };
        if name == OPAQUE {
            self.removed_below |= directory.len() < self.parts.len() && self.is_on_the_way(directory.iter());
        } else if name.starts_with(META) {
            // Nothing of the image.
        } else if let Some(removed) = name.strip_prefix(WHITEOUT) {
            self.removed_below |= self.is_on_the_way(directory.iter().map(Vec::as_slice).chain([removed]));
        } else if self.is_on_the_way(entry.path.iter()) {
            self.take(entry)?;
        }
        Ok(())
    }

    /// Whether the file, or a directory on the way to it, has this path.
    fn is_on_the_way(&self, path: impl Iterator<Item: AsRef<[u8]>>) -> bool {
        let mut parts = self.parts.iter();
        path.into_iter().all(|part| parts.next().is_some_and(|mine| *mine == part.as_ref()))
    }

    /// The file itself, or something on the way to it.
    fn take(&mut self, entry: &mut Entry<'_>) -> Result<(), LayerError> {
        let is_it = entry.path.len() == self.parts.len();
        self.here = match entry.kind {
            Kind::Link => return Err(LayerError::Link(self.path.to_owned())),
            Kind::File if is_it => {
                if entry.size > MOST_FILE_BYTES {
                    return Err(LayerError::FileSize { path: self.path.to_owned(), size: entry.size });
                }
                let mut content = Vec::new();
                entry.content.read_to_end(&mut content).map_err(ArchiveError::Read)?;
                Some(FileInLayer::Content(content))
            }
            // Directories of several layers are one.
            Kind::Directory if !is_it => return Ok(()),
            Kind::File | Kind::Directory | Kind::Other => Some(FileInLayer::Removed),
        };
        Ok(())
    }

    fn end(self) -> FileInLayer {
        let below = if self.removed_below { FileInLayer::Removed } else { FileInLayer::Unmentioned };
        self.here.unwrap_or(below)
    }
}
