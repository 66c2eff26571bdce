//! The list in a release's install image, read from a registry.

use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::archive::ArchiveError;
use super::layer::{Budget, FileInLayer, LayerError, scan};
use super::lists::{InvalidImages, ListFile, ReleaseList};
use crate::oci::{Descriptor, Digest, Manifest, Reference, Tag, is_foreign_layer};
use crate::upstream::{BlobFault, Upstream, UpstreamError};

/// The repository of install images, below that of the release.
const INSTALL: &str = "install";
/// How long a manifest is waited for, tries included.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of an install image's layers as they are stored, together. Real ones have some hundred MiB.
const MOST_STORED_BYTES: u64 = 8 << 30;
/// The bounds of unpacking all layers of one image.
const BUDGET: Budget = Budget { bytes: 16 << 30, entries: 4_000_000 };
/// Layers of an install image; runtimes take 127.
const MOST_LAYERS: usize = 500;
/// Pieces of a layer between the registry and its reader.
const PIECES: usize = 4;

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The registry has no such install image, or did not give it.
    #[error("the install image {image} can't be had")]
    Upstream {
        /// Its repository below the configured one, and tag or digest.
        image: String,
        /// Why.
        #[source]
        error: UpstreamError,
    },
    /// It is no image of which the layers can be read; a sentence.
    #[error("the install image {image} can't be used: {why}")]
    Manifest {
        /// As above.
        image: String,
        /// Why.
        why: String,
    },
    /// A layer did not come, or not as its manifest says.
    #[error("a layer of the install image can't be had")]
    Blob(#[source] BlobFault),
    /// A layer can't be read.
    #[error("the layer {digest} of the install image can't be read")]
    Layer {
        /// Which.
        digest: Digest,
        /// Why.
        #[source]
        error: LayerError,
    },
    /// No layer has a list.
    #[error("the install image has neither {} nor {}", ListFile::Digests.path(), ListFile::Tags.path())]
    NoList,
    /// The list is wrong.
    #[error("{path} of the install image can't be used")]
    List {
        /// Which file.
        path: &'static str,
        /// Why.
        #[source]
        error: InvalidImages,
    },
}

/// Reads what `release` needs from its install image, `install:RELEASE` below the repository of `upstream`. Layers are fetched
/// from the topmost down, as far as it takes, and counted only when their digest was right; what passes is not kept. `passed`
/// hears how many bytes came.
///
/// Holds a list and some pieces of a layer in memory. Safe to drop: ends the requests.
///
/// # Errors
/// [`ReleaseError`].
pub async fn read_install_image(
    upstream: &Upstream,
    release: &Tag,
    passed: &(dyn Fn(u64) + Sync),
) -> Result<ReleaseList, ReleaseError> {
    let manifest = image(upstream, release).await?;
    let (file, json) = list(upstream, &manifest.layers, passed).await?;
    let list = ReleaseList::parse(release.clone(), file, &json);
    list.map_err(|error| ReleaseError::List { path: file.path(), error })
}

/// The manifest of an image, behind an index too.
async fn image(upstream: &Upstream, release: &Tag) -> Result<Manifest, ReleaseError> {
    let (manifest, bytes) = fetch_manifest(upstream, &Reference::Tag(release.clone())).await?;
    if !manifest.kind.is_index() {
        return Ok(manifest);
    }
    let unusable = |why: &str| ReleaseError::Manifest { image: format!("{INSTALL}:{release}"), why: why.to_owned() };
    let child = of_platform(&bytes).ok_or_else(|| unusable("its index has no image for Linux"))?;
    let (manifest, _) = fetch_manifest(upstream, &Reference::Digest(child)).await?;
    if manifest.kind.is_index() {
        return Err(unusable("its index names an index"));
    }
    Ok(manifest)
}

async fn fetch_manifest(upstream: &Upstream, reference: &Reference) -> Result<(Manifest, Bytes), ReleaseError> {
    let mark = if matches!(reference, Reference::Digest(_)) { '@' } else { ':' };
    let image = format!("{INSTALL}{mark}{reference}");
    let fetched = upstream.manifest(INSTALL, reference, Instant::now() + PATIENCE).await;
    let fetched = fetched.map_err(|error| ReleaseError::Upstream { image: image.clone(), error })?;
    match Manifest::parse(None, &fetched.bytes) {
        Ok(manifest) => Ok((manifest, fetched.bytes)),
        Err(error) => Err(ReleaseError::Manifest { image, why: error.to_string() }),
    }
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Child>,
}

#[derive(Deserialize)]
struct Child {
    digest: Digest,
    platform: Option<Platform>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Platform {
    os: String,
    architecture: String,
}

/// The image of an index that is read: the list is the same in all, attestations beside them have none.
#[must_use]
pub fn of_platform(index: &[u8]) -> Option<Digest> {
    let Index { manifests } = serde_json::from_slice(index).ok()?;
    let rank = |child: &Child| match &child.platform {
        Some(Platform { os, architecture }) if os == "linux" && architecture == "amd64" => Some(0),
        Some(Platform { os, .. }) if os == "linux" => Some(1),
        None => Some(2),
        // The builders of `d8 mirror` leave both empty.
        Some(Platform { os, .. }) if os.is_empty() => Some(2),
        Some(_) => None,
    };
    let ranked = manifests.iter().filter_map(|child| Some((rank(child)?, child.digest)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, digest)| digest)
}

/// The list that counts, from the layers of an image.
async fn list(
    upstream: &Upstream,
    layers: &[Descriptor],
    passed: &(dyn Fn(u64) + Sync),
) -> Result<(ListFile, Vec<u8>), ReleaseError> {
    check_layers(layers)?;
    let mut budget = BUDGET;
    // The verdict on each file so far; a layer below can't change one that was found.
    let mut known: [Option<FileInLayer>; 2] = [None, None];
    for layer in layers.iter().rev() {
        let (said, left) = read_layer(upstream, layer, budget, passed).await?;
        budget = left;
        for (known, said) in known.iter_mut().zip(said) {
            if known.is_none() && said != FileInLayer::Unmentioned {
                *known = Some(said);
            }
        }
        if let Some(found) = decided(&known, false) {
            return Ok(found);
        }
    }
    decided(&known, true).ok_or(ReleaseError::NoList)
}

/// Refuses what is too much before any of it is fetched.
fn check_layers(layers: &[Descriptor]) -> Result<(), ReleaseError> {
    let stored = layers.iter().try_fold(0_u64, |sum, layer| sum.checked_add(layer.size));
    let why = if layers.len() > MOST_LAYERS {
        format!("it has more than {MOST_LAYERS} layers")
    } else if stored.is_none_or(|stored| stored > MOST_STORED_BYTES) {
        format!("its layers have more than {MOST_STORED_BYTES} bytes")
    } else if layers.iter().any(|layer| is_foreign_layer(&layer.media_type)) {
        "a layer of it is kept elsewhere".to_owned()
    } else {
        return Ok(());
    };
    Err(ReleaseError::Manifest { image: INSTALL.to_owned(), why })
}

/// The list that counts, once that can be said: the second file does only if the first is in no layer.
fn decided(known: &[Option<FileInLayer>; 2], all_layers_seen: bool) -> Option<(ListFile, Vec<u8>)> {
    for (file, known) in ListFile::ALL.into_iter().zip(known) {
        match known {
            Some(FileInLayer::Content(json)) => return Some((file, json.clone())),
            None if !all_layers_seen => return None,
            Some(FileInLayer::Removed | FileInLayer::Unmentioned) | None => {}
        }
    }
    None
}

/// Tells what a layer says of the lists, once its bytes are proven, and what is left of the budget. A blocking thread unpacks
/// the layer while it comes.
async fn read_layer(
    upstream: &Upstream,
    layer: &Descriptor,
    budget: Budget,
    passed: &(dyn Fn(u64) + Sync),
) -> Result<(Vec<FileInLayer>, Budget), ReleaseError> {
    let (sender, receiver) = mpsc::channel(PIECES);
    let unpacking = tokio::task::spawn_blocking(move || unpack(receiver, budget));
    let mut bytes = upstream.verified_blob(INSTALL, layer);
    while let Some(piece) = bytes.chunk().await.map_err(ReleaseError::Blob)? {
        passed(piece.len() as u64);
        // The thread takes all of it unless it has failed; why is told below.
        if sender.send(piece).await.is_err() {
            break;
        }
    }
    drop(sender);
    let unpacked = unpacking.await.unwrap_or_else(|error| Err(ArchiveError::Read(io::Error::other(error)).into()));
    unpacked.map_err(|error| ReleaseError::Layer { digest: layer.digest, error })
}

fn unpack(receiver: mpsc::Receiver<Bytes>, mut budget: Budget) -> Result<(Vec<FileInLayer>, Budget), LayerError> {
    let mut pieces = Pieces { receiver, piece: Bytes::new() };
    let said = scan(&mut pieces, &ListFile::ALL.map(ListFile::path), &mut budget)?;
    // Bytes behind the archive's end belong to the digest too.
    io::copy(&mut pieces, &mut io::sink()).map_err(ArchiveError::Read)?;
    Ok((said, budget))
}

/// A blocking reader of the pieces that a task sends.
struct Pieces {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}
