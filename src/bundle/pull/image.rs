//! An image of a registry: all its manifests, and the descriptors of what they name.

use bytes::Bytes;

use super::error::PullError;
use super::source::Source;
use crate::oci::{Algorithm, Descriptor, Digest, Manifest, Reference};
use crate::release::of_platform;

/// Manifests of one image; more is no image.
const MOST_MANIFESTS: usize = 1000;
/// Indexes within one another.
const DEEPEST: usize = 16;

/// An image, or an index with its images.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// The digest of its manifest.
    pub(super) digest: Digest,
    /// Bytes of that.
    pub(super) size: u64,
    pub(super) media_type: String,
    pub(super) is_index: bool,
    /// Its own manifest, and all below it.
    pub(super) manifests: Vec<(Digest, Bytes)>,
    /// What these name.
    pub(super) blobs: Vec<Descriptor>,
    /// The layers in which its files are looked for: of an index those of the image for Linux.
    pub(super) layers: Vec<Descriptor>,
}

/// Fetches the manifests of an image. `None`: a registry says that there is none.
///
/// # Errors
/// [`PullError`]; a manifest that an index names and that is not there is one.
pub(super) fn fetch(source: &Source, child: &str, reference: &Reference) -> Result<Option<Image>, PullError> {
    let Some(found) = source.manifest(child, reference)? else { return Ok(None) };
    let name = source.image(child, reference);
    let digest = Algorithm::Sha256.digest(&found.bytes);
    if let Reference::Digest(asked) = reference
        && *asked != digest
    {
        return Err(PullError::unusable(name, "bundles hold SHA-256 alone"));
    }
    let mut gathering = Gathering { source, child, name: &name, manifests: Vec::new(), blobs: Vec::new() };
    let manifest = gathering.take(digest, found.bytes.clone(), 0)?;
    let is_index = manifest.kind.is_index();
    let layers = if is_index { gathering.layers_of(&found.bytes)? } else { manifest.layers.clone() };
    let Gathering { manifests, blobs, .. } = gathering;
    let (size, media_type) = (found.bytes.len() as u64, manifest.media_type().into_owned());
    Ok(Some(Image { digest, size, media_type, is_index, manifests, blobs, layers }))
}

struct Gathering<'a> {
    source: &'a Source,
    child: &'a str,
    name: &'a str,
    manifests: Vec<(Digest, Bytes)>,
    blobs: Vec<Descriptor>,
}

impl Gathering<'_> {
    fn take(&mut self, digest: Digest, bytes: Bytes, depth: usize) -> Result<Manifest, PullError> {
        let refused = |why: String| PullError::unusable(self.name, format!("manifest {digest}: {why}"));
        let manifest = Manifest::parse(None, &bytes).map_err(|error| refused(error.to_string()))?;
        let is_other = |named: &Descriptor| named.digest.algorithm() != Algorithm::Sha256;
        if manifest.required_blobs().any(is_other) || manifest.manifests.iter().any(is_other) {
            return Err(refused("it names a digest that is not SHA-256, and bundles hold no other".to_owned()));
        }
        if depth > DEEPEST {
            return Err(refused("it is in too many indexes within one another".to_owned()));
        }
        self.manifests.push((digest, bytes));
        if self.manifests.len() > MOST_MANIFESTS {
            return Err(PullError::unusable(self.name, format!("it has more than {MOST_MANIFESTS} manifests")));
        }
        self.blobs.extend(manifest.required_blobs().cloned());
        for below in &manifest.manifests {
            if self.manifests.iter().any(|(known, _)| *known == below.digest) {
                continue;
            }
            let reference = Reference::Digest(below.digest);
            let found = self.source.manifest(self.child, &reference)?;
            let found = found.ok_or_else(|| PullError::Absent(self.source.image(self.child, &reference)))?;
            if found.bytes.len() as u64 != below.size {
                let (found, said) = (found.bytes.len(), below.size);
                let why = format!("{} has {found} bytes, where its index says {said}", below.digest);
                return Err(PullError::unusable(self.name, why));
            }
            self.take(below.digest, found.bytes, depth + 1)?;
        }
        Ok(manifest)
    }

    /// The layers of the image for Linux that an index names.
    fn layers_of(&self, index: &[u8]) -> Result<Vec<Descriptor>, PullError> {
        let Some(wanted) = of_platform(index) else { return Ok(Vec::new()) };
        let found = self.manifests.iter().find(|(digest, _)| *digest == wanted);
        let Some((_, bytes)) = found else { return Ok(Vec::new()) };
        let manifest = Manifest::parse(None, bytes);
        Ok(manifest.map_err(|error| PullError::unusable(self.name, error.to_string()))?.layers)
    }
}
