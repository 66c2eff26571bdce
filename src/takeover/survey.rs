//! What of a repository is whole: its manifests read, children before those that name them, and held against what is there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::fault::Fault;
use super::listed::Listed;
use super::source::Source;
use crate::oci::{Descriptor, Digest, Manifest};

/// The manifests of a repository that could be read, and why the others could not.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Children first.
    pub(super) nodes: Vec<Node>,
    pub(super) faults: HashMap<Digest, Fault>,
    /// Of the tags' manifests, those that the source has deleted, though their bytes may be there.
    pub(super) deleted: HashSet<Digest>,
    /// The repository has more than was to be kept in memory, and was not read to its end.
    pub(super) is_too_large: bool,
}

/// About what a tag of a list, and a manifest that can't be taken, take in memory.
const ENTRY_BYTES: usize = 256;

/// What a manifest names.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) digest: Digest,
    pub(super) blobs: Box<[Blob]>,
    children: Box<[Digest]>,
}

/// A blob that a manifest names, without its media type: there are millions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl Blob {
    /// The first 64 bits of its digest.
    pub(super) fn print(self) -> u64 {
        self.digest.as_bytes().iter().take(8).fold(0, |print, byte| print << 8 | u64::from(*byte))
    }

    pub(super) fn descriptor(self) -> Descriptor {
        Descriptor { media_type: String::new(), digest: self.digest, size: self.size }
    }
}

impl Survey {
    /// Reads the manifests of `name` and all that they name. `goes_on` is asked before each. Of what the repository has at most
    /// `most` bytes are kept in memory, as far as these can be counted.
    pub(super) fn of(source: &Source, name: &str, listed: &Listed, most: usize, goes_on: &dyn Fn() -> bool) -> Self {
        let deleted: HashSet<Digest> = listed.deleted.iter().copied().collect();
        let mut survey = Self::default();
        let mut seen = HashSet::new();
        let mut bytes = listed.tags.len() * ENTRY_BYTES + listed.manifests.len() * size_of::<Digest>();
        let tagged = listed.tags.iter().filter_map(|tag| tag.target.as_ref().ok());
        let (gone, tagged): (Vec<Digest>, Vec<Digest>) = tagged.copied().partition(|digest| deleted.contains(digest));
        survey.deleted.extend(gone);
        for root in listed.manifests.iter().chain(&tagged) {
            // Digests make no circles, so each waits once; its node is made when all its children have theirs.
            let mut waiting = vec![(*root, None::<Node>)];
            while let Some((digest, read)) = waiting.pop() {
                if let Some(node) = read {
                    survey.nodes.push(node);
                    continue;
                }
                if !seen.insert(digest) || !goes_on() {
                    continue;
                }
                if bytes > most {
                    survey.is_too_large = true;
                    return survey;
                }
                match Node::read(source, name, digest) {
                    Ok(node) => {
                        bytes += node.bytes();
                        let children: Vec<_> = node.children.iter().map(|child| (*child, None)).collect();
                        waiting.push((digest, Some(node)));
                        waiting.extend(children);
                    }
                    Err(Fault::ManifestMissing(_)) if deleted.contains(&digest) => {
                        survey.faults.insert(digest, Fault::ManifestDeleted(digest));
                    }
                    Err(fault) => {
                        bytes += ENTRY_BYTES;
                        survey.faults.insert(digest, fault);
                    }
                }
            }
        }
        survey
    }

    /// Finds the manifests that lack something: `fault` says it of a blob.
    pub(super) fn judge(&mut self, fault: &mut dyn FnMut(Blob) -> Option<Fault>) {
        for node in &self.nodes {
            let of_child = || {
                let broken = node.children.iter().find_map(|child| self.faults.get(child).map(|cause| (*child, cause)));
                broken.map(|(child, cause)| Fault::Child { child, cause: Arc::new(cause.clone()) })
            };
            let found = of_child().or_else(|| node.blobs.iter().find_map(|blob| fault(*blob)));
            if let Some(found) = found {
                self.faults.insert(node.digest, found);
            }
        }
    }

    /// The manifests without a fault, children first.
    pub(super) fn whole(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !self.faults.contains_key(&node.digest))
    }
}

impl Node {
    /// What it takes in memory, with its digest among those that were seen.
    fn bytes(&self) -> usize {
        size_of::<Self>() + 2 * size_of::<Digest>() + size_of_val(&*self.blobs) + size_of_val(&*self.children)
    }

    /// Whether it names no other manifest.
    pub(super) const fn is_leaf(&self) -> bool {
        self.children.is_empty()
    }

    fn read(source: &Source, name: &str, digest: Digest) -> Result<Self, Fault> {
        let bytes = source.manifest(name, &digest)?;
        let manifest = parse(&bytes, digest)?;
        let blobs = manifest.required_blobs().map(|blob| Blob { digest: blob.digest, size: blob.size });
        let children = manifest.manifests.iter().map(|child| child.digest);
        Ok(Self { digest, blobs: blobs.collect(), children: children.collect() })
    }
}

/// A manifest as a push would take it.
pub(super) fn parse(bytes: &[u8], digest: Digest) -> Result<Manifest, Fault> {
    Manifest::parse(None, bytes).map_err(|cause| Fault::Invalid { digest, cause })
}
