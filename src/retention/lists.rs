//! What images of the store name: the list of a release in its install image, that of a module in the module's image, the
//! version in the image of a channel. Read from the layers and remembered by the digest that a tag leads to. Blocking.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::Hash;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::oci::{Digest, Manifest, Reference, RepoName, Tag};
use crate::release::{ListFile, ReleaseList, first_file, of_platform, version_of};
use crate::store::{Store, StoreError};
use crate::telemetry::with_causes;
use crate::values::Release;

/// A module's list, at the root of its image.
const MODULE_LIST: &str = "images_digests.json";
/// The version that a channel leads to, at the root of its image.
const VERSION_FILE: &str = "version.json";
/// Most lists of releases that are remembered, of some 60 KiB each, and of modules, of some KiB. Of a store with more the rest is read
/// anew in each run.
const MOST_RELEASES: usize = 100;
const MOST_MODULES: usize = 2_000;

/// Why a list is not known, a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread(pub(super) String);

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<StoreError> for Unread {
    fn from(error: StoreError) -> Self {
        Self(with_causes(&error))
    }
}

/// What a module's image names.
pub(super) type Named = Arc<BTreeSet<Reference>>;

/// Reads lists, each once. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lists {
    store: Store,
    releases: Arc<Known<(Tag, Digest), ReleaseList>>,
    modules: Arc<Known<Digest, BTreeSet<Reference>>>,
}

impl Lists {
    /// Of the images in `store`; nothing was read yet.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, releases: Arc::new(Known::of(MOST_RELEASES)), modules: Arc::new(Known::of(MOST_MODULES)) }
    }

    /// The list of the release that has this install image; its images lie in the root.
    ///
    /// # Errors
    /// [`Unread`]: the image is not all there, or has no list that can be used.
    pub fn of_release(&self, install: &RepoName, release: &Tag, digest: Digest) -> Result<Arc<ReleaseList>, Unread> {
        self.releases.get_or((release.clone(), digest), || {
            let paths = ListFile::ALL.map(ListFile::path);
            let (place, json) = self.file(install, digest, &paths)?.ok_or_else(|| {
                Unread(format!("the install image {digest} has neither {} nor {}", paths[0], paths[1]))
            })?;
            let list = ReleaseList::parse(release.clone(), ListFile::ALL[place], &json);
            list.map_err(|error| Unread(format!("the list of {digest} can't be used: {error}")))
        })
    }

    /// The images that this module's image needs, which lie in its repository; none if it has no list.
    pub(super) fn of_module(&self, repo: &RepoName, digest: Digest) -> Result<Named, Unread> {
        self.modules.get_or(digest, || {
            let found = self.file(repo, digest, &[MODULE_LIST])?;
            Ok(found.map(|(_, json)| digests_in(&json)).unwrap_or_default())
        })
    }

    /// The release that a channel's image leads to.
    pub(super) fn of_channel(&self, repo: &RepoName, digest: Digest) -> Result<Release, Unread> {
        let found = self.file(repo, digest, &[VERSION_FILE])?;
        let version = found.and_then(|(_, json)| version_of(&json));
        let release = version.as_ref().and_then(|version| {
            let tag = if version.starts_with('v') { version.clone() } else { format!("v{version}") };
            tag.parse().ok()
        });
        release.ok_or_else(|| Unread(format!("the channel's image {digest} has no {VERSION_FILE} with a release")))
    }

    /// The first of `paths` in an image, behind an index too.
    fn file(&self, repo: &RepoName, digest: Digest, paths: &[&str]) -> Result<Option<(usize, Vec<u8>)>, Unread> {
        let (manifest, bytes) = self.manifest(repo, digest)?;
        let manifest = if manifest.kind.is_index() {
            let child =
                of_platform(&bytes).ok_or_else(|| Unread(format!("the index {digest} has no image for Linux")))?;
            self.manifest(repo, child)?.0
        } else {
            manifest
        };
        let open = |layer: &Digest| {
            let found = self.store.stored_blob(repo, layer).map_err(io::Error::other)?;
            found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        };
        let found = first_file(&manifest.layers, paths, open);
        found.map_err(|error| Unread(format!("the image {digest} can't be read: {}", with_causes(&error))))
    }

    fn manifest(&self, repo: &RepoName, digest: Digest) -> Result<(Manifest, bytes::Bytes), Unread> {
        let stored = self.store.stored_manifest(repo, digest)?;
        let stored = stored.ok_or_else(|| Unread(format!("the manifest {digest} is damaged or gone")))?;
        let manifest = Manifest::parse(None, &stored.bytes);
        let manifest =
            manifest.map_err(|error| Unread(format!("the manifest {digest} can't be understood: {error}")))?;
        Ok((manifest, stored.bytes))
    }
}

/// What was read: at most `most`, then it begins anew.
#[derive(Debug)]
struct Known<K, V> {
    most: usize,
    known: Mutex<HashMap<K, Arc<V>>>,
}

impl<K: Eq + Hash, V> Known<K, V> {
    fn of(most: usize) -> Self {
        Self { most, known: Mutex::default() }
    }

    fn get_or(&self, key: K, read: impl FnOnce() -> Result<V, Unread>) -> Result<Arc<V>, Unread> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = known().get(&key) {
            return Ok(Arc::clone(value));
        }
        let value = Arc::new(read()?);
        let mut known = known();
        if known.len() >= self.most {
            known.clear();
        }
        known.insert(key, Arc::clone(&value));
        Ok(value)
    }
}

/// All digests that stand in a text, as `d8 mirror` finds a module's images.
fn digests_in(text: &[u8]) -> BTreeSet<Reference> {
    const MARK: &[u8] = b"sha256:";
    const LENGTH: usize = MARK.len() + 64;
    let places = (0..text.len().saturating_sub(LENGTH - 1)).filter(|at| text[*at..].starts_with(MARK));
    let digests = places.filter_map(|at| std::str::from_utf8(&text[at..at + LENGTH]).ok()?.parse().ok());
    digests.map(Reference::Digest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn a_module_s_list_is_every_digest_in_it() {
        let (one, two) = (Algorithm::Sha256.digest(b"1"), Algorithm::Sha256.digest(b"2"));
        let json =
            format!("{{\"a\":\"{one}\",\"b\":{{\"c\":\"{two}\"}},\"d\":\"sha256:0\",\"e\":\"sha256:{}", "x".repeat(64));
        assert_eq!(digests_in(json.as_bytes()), BTreeSet::from([one, two].map(Reference::Digest)));
        assert_eq!(digests_in(b"sha256:"), BTreeSet::new());
    }
}
