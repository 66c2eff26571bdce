//! Files of an image whose layers are at hand: read from the topmost layer down, as far as it takes, with every size bounded.

use std::io::{self, Read};

use serde::Deserialize;

use super::archive::ArchiveError;
use super::layer::{Budget, FileInLayer, LayerError, scan};
use crate::oci::{Descriptor, Digest, Hasher, is_foreign_layer};

/// The bounds of unpacking all layers of one image.
const BUDGET: Budget = Budget { bytes: 16 << 30, entries: 4_000_000 };
/// Layers of an image; runtimes take 127.
const MOST_LAYERS: usize = 500;

/// Why a file of an image is not known.
#[derive(Debug, thiserror::Error)]
pub enum StoredImageError {
    /// It has more layers than an image has, or one that is kept elsewhere.
    #[error("its layers can't be read: {0}")]
    Refused(&'static str),
    /// A layer can't be opened.
    #[error("its layer {digest} can't be opened")]
    Open {
        /// Which.
        digest: Digest,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A layer can't be read.
    #[error("its layer {digest} can't be read")]
    Layer {
        /// Which.
        digest: Digest,
        /// Why.
        #[source]
        error: LayerError,
    },
    /// A layer has other bytes than its digest says.
    #[error("its layer {0} is damaged")]
    Damaged(Digest),
}

/// The first of `paths` that the image has, by its place among them, with its content; `None`: it has none. `open` gives the
/// bytes of a layer, which are held against its digest. Blocking.
///
/// # Errors
/// [`StoredImageError`]: what the image has is not known.
pub fn first_file<R: Read>(
    layers: &[Descriptor],
    paths: &[&str],
    mut open: impl FnMut(&Digest) -> io::Result<R>,
) -> Result<Option<(usize, Vec<u8>)>, StoredImageError> {
    if layers.len() > MOST_LAYERS {
        return Err(StoredImageError::Refused("there are too many"));
    }
    if layers.iter().any(|layer| is_foreign_layer(&layer.media_type)) {
        return Err(StoredImageError::Refused("one is kept elsewhere"));
    }
    let mut budget = BUDGET;
    let mut known: Vec<Option<FileInLayer>> = vec![None; paths.len()];
    for layer in layers.iter().rev() {
        let digest = layer.digest;
        let bytes = open(&digest).map_err(|error| StoredImageError::Open { digest, error })?;
        let mut hashed = Hashed { inner: bytes, hasher: Hasher::new(digest.algorithm()) };
        let said = scan(&mut hashed, paths, &mut budget).map_err(|error| StoredImageError::Layer { digest, error })?;
        // Bytes behind the archive's end belong to the digest too.
        io::copy(&mut hashed, &mut io::sink())
            .map_err(|error| StoredImageError::Layer { digest, error: ArchiveError::Read(error).into() })?;
        if hashed.hasher.finish() != digest {
            return Err(StoredImageError::Damaged(digest));
        }
        for (known, said) in known.iter_mut().zip(said) {
            if known.is_none() && said != FileInLayer::Unmentioned {
                *known = Some(said);
            }
        }
        if let Some(found) = decided(&mut known, false) {
            return Ok(Some(found));
        }
    }
    Ok(decided(&mut known, true))
}

/// The file that counts, once that can be said: one does only if those before it are in no layer.
fn decided(known: &mut [Option<FileInLayer>], all_layers_seen: bool) -> Option<(usize, Vec<u8>)> {
    for (place, known) in known.iter_mut().enumerate() {
        match known {
            Some(FileInLayer::Content(content)) => return Some((place, std::mem::take(content))),
            None if !all_layers_seen => return None,
            Some(FileInLayer::Removed | FileInLayer::Unmentioned) | None => {}
        }
    }
    None
}

struct Hashed<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

/// The version in a `version.json`, as an image of a release channel has it; `None`: there is none.
#[must_use]
pub fn version_of(json: &[u8]) -> Option<String> {
    serde_json::from_slice::<Version>(json).ok().map(|found| found.version)
}
