//! A bundle, as a source: what its layouts hold, and the discovery tags that a real push makes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fault::{Fault, SourceError};
use super::listed::{Claim, Listed, ListedTag};
use crate::bundle::{self, Bundle, Found, is_channel, is_of_channels};
use crate::oci::{Algorithm, Digest};
use crate::values::Release;

/// A bundle.
#[derive(Debug)]
pub(super) struct Carried {
    bundle: Bundle,
    path: PathBuf,
    /// Discovery tags, by their repository.
    made: BTreeMap<String, Vec<Made>>,
    /// What these are made of.
    contents: HashMap<Digest, Arc<[u8]>>,
}

/// A discovery tag.
#[derive(Debug)]
struct Made {
    tag: String,
    manifest: Digest,
    /// The repository that it stands for.
    path: String,
}

/// The bytes of a content.
pub(super) enum Content {
    /// They lie in files.
    Found(Found),
    /// Made here.
    Made(Arc<[u8]>),
}

impl Carried {
    /// The bundle in these files and directories; at most about `most` bytes of it are kept in memory.
    pub(super) fn open(paths: &[PathBuf], most: usize, stopped: &dyn Fn() -> bool) -> Result<Self, SourceError> {
        let bundle = bundle::open(paths, most, stopped)?;
        let (mut made, mut contents) = (BTreeMap::new(), HashMap::new());
        for discovery in bundle.discovery()? {
            let manifest = Algorithm::Sha256.digest(&discovery.manifest);
            for bytes in discovery.blobs.into_iter().chain([discovery.manifest]) {
                contents.insert(Algorithm::Sha256.digest(&bytes), Arc::from(bytes));
            }
            let of_repository = made.entry(discovery.repository).or_insert_with(Vec::new);
            of_repository.push(Made { tag: discovery.tag, manifest, path: discovery.path });
        }
        Ok(Self { bundle, path: paths.first().cloned().unwrap_or_default(), made, contents })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How much damage of its files there is beyond what [`Self::damage`] names.
    pub(super) fn more_damage(&self) -> u64 {
        self.bundle.damage() - self.damage().count() as u64
    }

    /// What is wrong with its files: the place, and a sentence without its end.
    pub(super) fn damage(&self) -> impl Iterator<Item = (&str, &str)> {
        let found = self.bundle.findings().iter().filter(|finding| finding.damage);
        found.map(|finding| (finding.place.as_str(), finding.says.as_str()))
    }

    /// The repository whose tags are the names of modules.
    pub(super) fn modules(&self) -> Option<&str> {
        ["modules", ""].into_iter().find(|path| self.made.contains_key(*path))
    }

    /// Those of discovery tags last: they say that the others are there.
    pub(super) fn repositories(&self) -> Vec<String> {
        let made: BTreeSet<&str> = self.made.keys().map(String::as_str).collect();
        let others = self.bundle.repositories().filter(|path| !made.contains(path));
        others.chain(made.iter().copied()).map(str::to_owned).collect()
    }

    pub(super) fn list(&self, name: &str) -> Listed {
        let has_channels = is_of_channels(name);
        let mut listed = Listed::default();
        for (tag, digest) in self.bundle.tags(name) {
            let claim = if has_channels && is_channel(tag) { Claim::Channel } else { Claim::Plain };
            listed.tags.push(ListedTag { tag: tag.to_owned(), target: Ok(digest), at: None, claim });
        }
        for made in self.made.get(name).into_iter().flatten() {
            let claim = Claim::Discovers(made.path.clone());
            listed.tags.push(ListedTag { tag: made.tag.clone(), target: Ok(made.manifest), at: None, claim });
        }
        let mut manifests: Vec<Digest> =
            listed.tags.iter().filter_map(|tag| tag.target.as_ref().ok().copied()).collect();
        manifests.sort_unstable();
        manifests.dedup();
        listed.manifests = manifests;
        listed
    }

    /// The release that a channel's image leads to.
    pub(super) fn release_of(&self, name: &str, digest: &Digest) -> Option<Release> {
        self.bundle.release_of(name, digest)
    }

    pub(super) fn length(&self, name: &str, digest: &Digest) -> Option<u64> {
        let made = self.contents.get(digest).map(|bytes| bytes.len() as u64);
        made.or_else(|| self.bundle.find(name, digest).map(|found| found.length))
    }

    pub(super) fn manifest(&self, name: &str, digest: &Digest, most: u64) -> Result<Vec<u8>, Fault> {
        if let Some(made) = self.contents.get(digest) {
            return Ok(made.to_vec());
        }
        let most = most.min(bundle::MOST_MANIFEST);
        let found = self.bundle.find(name, digest).ok_or(Fault::ManifestMissing(*digest))?;
        if found.length > most {
            return Err(Fault::TooLarge { digest: *digest, bytes: found.length, most });
        }
        found.read(most).map_err(Fault::unreadable(format!("manifest {digest}")))
    }

    /// Its bytes, of which none is read yet; `None`: they are not there.
    pub(super) fn content(&self, name: &str, digest: &Digest) -> Option<Content> {
        let made = self.contents.get(digest).map(|made| Content::Made(Arc::clone(made)));
        made.or_else(|| self.bundle.find(name, digest).map(Content::Found))
    }
}
