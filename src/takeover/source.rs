//! A source of one of the four kinds, as the run asks it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::carried::{Carried, Content};
use super::distribution::Tree;
use super::fault::{Fault, SourceError};
use super::layouts::Layouts;
use super::listed::Listed;
use super::remote::Remote;
use crate::bundle::Found;
use crate::checker::RegistryAddress;
use crate::oci::{Descriptor, Digest};
use crate::telemetry::Metrics;
use crate::upstream::{Credentials, VerifiedBlob};
use crate::values::Release;

/// Longest manifest that is taken: far above every accepted `manifests.maxBytes`, and what the store reads.
pub(super) const MOST_MANIFEST: u64 = 64 << 20;

/// Where images are taken from.
#[derive(Debug)]
pub struct Source(Kind);

#[derive(Debug)]
enum Kind {
    Distribution(Tree),
    Layouts(Layouts),
    Registry(Remote),
    Bundle(Carried),
}

/// The bytes of a blob.
#[derive(Debug)]
pub(super) enum Bytes {
    /// A file that lies there under a path.
    File(File, PathBuf),
    /// Parts of files that lie in a bundle.
    Carried(Found),
    /// Made here.
    Made(Arc<[u8]>),
    /// What a registry sends.
    Sent(Box<VerifiedBlob>),
}

impl Source {
    /// The data directory of a distribution registry, or of Deckhouse's module. Blocking.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn distribution(path: &Path) -> Result<Self, SourceError> {
        Tree::open(path).map(Kind::Distribution).map(Self)
    }

    /// An OCI layout, or a directory with layouts below. Blocking.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn layouts(path: &Path) -> Result<Self, SourceError> {
        Layouts::open(path).map(Kind::Layouts).map(Self)
    }

    /// Repositories of registries, with one login for all; of an address without a repository all that it lists. Nobody is asked
    /// yet, and nobody any more once the token is cancelled. Blocking: reads the certificates of the system.
    ///
    /// # Errors
    /// [`SourceError::Registry`], a sentence.
    pub fn registries(
        addresses: Vec<RegistryAddress>,
        credentials: &Credentials,
        ca: Option<&str>,
        with: (&Metrics, &TaskTracker, &CancellationToken),
    ) -> Result<Self, SourceError> {
        Remote::connect(addresses, credentials, ca, with).map(Kind::Registry).map(Self)
    }

    /// The bundle in these files and directories; at most about `most` bytes of it are kept in memory. Blocking: reads headers and
    /// indexes, until `stopped` says otherwise.
    ///
    /// # Errors
    /// [`SourceError::Bundle`].
    pub fn bundle(paths: &[PathBuf], most: usize, stopped: &dyn Fn() -> bool) -> Result<Self, SourceError> {
        Carried::open(paths, most, stopped).map(Kind::Bundle).map(Self)
    }

    /// What is wrong with its files as such: the place, and a sentence without its end. With it how much more there is.
    pub(super) fn damage(&self) -> (Vec<(String, String)>, u64) {
        match &self.0 {
            Kind::Bundle(carried) => {
                let named = carried.damage().map(|(at, says)| (at.to_owned(), says.to_owned()));
                (named.collect(), carried.more_damage())
            }
            Kind::Distribution(_) | Kind::Layouts(_) | Kind::Registry(_) => (Vec::new(), 0),
        }
    }

    /// The release that the image of a channel leads to; `None`: it says none, or this source has no channels.
    pub(super) fn release_of(&self, name: &str, digest: &Digest) -> Option<Release> {
        match &self.0 {
            Kind::Bundle(carried) => carried.release_of(name, digest),
            Kind::Distribution(_) | Kind::Layouts(_) | Kind::Registry(_) => None,
        }
    }

    /// The repository of the modules that it has, by its path there: `modules`, or `""` in a mirror of a `ModuleSource`. `None`: it
    /// has none, or is no bundle.
    #[must_use]
    pub fn modules(&self) -> Option<String> {
        match &self.0 {
            Kind::Bundle(carried) => carried.modules().map(str::to_owned),
            Kind::Distribution(_) | Kind::Layouts(_) | Kind::Registry(_) => None,
        }
    }

    /// The directory that it is in; `None`: it is a registry.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.0 {
            Kind::Distribution(tree) => Some(tree.path()),
            Kind::Layouts(layouts) => Some(layouts.path()),
            Kind::Bundle(carried) => Some(carried.path()),
            Kind::Registry(_) => None,
        }
    }

    /// Whether all its repositories have one copy of a blob.
    pub(super) const fn shares_blobs(&self) -> bool {
        match &self.0 {
            Kind::Distribution(_) => true,
            Kind::Layouts(_) | Kind::Registry(_) | Kind::Bundle(_) => false,
        }
    }

    /// Its repositories; `""` for a layout without a name.
    pub(super) fn repositories(&self) -> Result<Vec<String>, SourceError> {
        match &self.0 {
            Kind::Distribution(tree) => tree.repositories(),
            Kind::Layouts(layouts) => Ok(layouts.repositories()),
            Kind::Registry(remote) => remote.repositories(),
            Kind::Bundle(carried) => Ok(carried.repositories()),
        }
    }

    /// What a repository has.
    pub(super) fn list(&self, name: &str) -> Result<Listed, SourceError> {
        match &self.0 {
            Kind::Distribution(tree) => tree.list(name),
            Kind::Layouts(layouts) => Ok(layouts.list(name)),
            Kind::Registry(remote) => remote.list(name),
            Kind::Bundle(carried) => Ok(carried.list(name)),
        }
    }

    /// The bytes of a manifest, which are its digest's.
    pub(super) fn manifest(&self, name: &str, digest: &Digest) -> Result<Vec<u8>, Fault> {
        let bytes = match self.file(name, digest) {
            None => match &self.0 {
                Kind::Registry(remote) => remote.manifest(name, digest)?,
                Kind::Bundle(carried) => carried.manifest(name, digest, MOST_MANIFEST)?,
                Kind::Distribution(_) | Kind::Layouts(_) => return Err(Fault::ManifestMissing(*digest)),
            },
            Some(opened) => {
                let opened = opened.map_err(Fault::unreadable(format!("manifest {digest}")))?;
                let (file, _) = opened.ok_or(Fault::ManifestMissing(*digest))?;
                read_manifest(&file, digest)?
            }
        };
        if digest.algorithm().digest(&bytes) == *digest { Ok(bytes) } else { Err(Fault::ManifestBytes(*digest)) }
    }

    /// The length of a blob as far as it can be known without fetching it; `None`: it is not there.
    pub(super) fn length(&self, name: &str, blob: &Descriptor) -> Result<Option<u64>, Fault> {
        let what = || format!("blob {}", blob.digest);
        if let Kind::Bundle(carried) = &self.0 {
            return Ok(carried.length(name, &blob.digest));
        }
        match self.file(name, &blob.digest) {
            None => Ok(Some(blob.size)),
            Some(opened) => match opened.map_err(Fault::unreadable(what()))? {
                Some((file, _)) => Ok(Some(file.metadata().map_err(Fault::unreadable(what()))?.len())),
                None => Ok(None),
            },
        }
    }

    /// The bytes of a blob; `None`: it is not there.
    pub(super) fn open(&self, name: &str, blob: &Descriptor) -> Result<Option<Bytes>, Fault> {
        match &self.0 {
            Kind::Registry(remote) => Ok(remote.blob(name, blob).map(|sent| Bytes::Sent(Box::new(sent)))),
            Kind::Bundle(carried) => Ok(carried.content(name, &blob.digest).map(|content| match content {
                Content::Found(found) => Bytes::Carried(found),
                Content::Made(bytes) => Bytes::Made(bytes),
            })),
            Kind::Distribution(_) | Kind::Layouts(_) => match self.file(name, &blob.digest) {
                None => Ok(None),
                Some(opened) => {
                    let opened = opened.map_err(Fault::unreadable(format!("blob {}", blob.digest)))?;
                    Ok(opened.map(|(file, path)| Bytes::File(file, path)))
                }
            },
        }
    }

    /// Opens the file of a content; `None`: this source has no files.
    fn file(&self, name: &str, digest: &Digest) -> Option<io::Result<Option<(File, PathBuf)>>> {
        match &self.0 {
            Kind::Distribution(tree) => Some(tree.open_content(digest)),
            Kind::Layouts(layouts) => Some(layouts.open_content(name, digest)),
            Kind::Registry(_) | Kind::Bundle(_) => None,
        }
    }
}

fn read_manifest(file: &File, digest: &Digest) -> Result<Vec<u8>, Fault> {
    use std::io::Read as _;
    let unreadable = || Fault::unreadable(format!("manifest {digest}"));
    let length = file.metadata().map_err(unreadable())?.len();
    if length > MOST_MANIFEST {
        return Err(Fault::TooLarge { digest: *digest, bytes: length, most: MOST_MANIFEST });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.take(MOST_MANIFEST).read_to_end(&mut bytes).map_err(unreadable())?;
    Ok(bytes)
}
