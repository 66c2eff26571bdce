//! `check --data-dir`: a store's directory in the place of a registry, with or without its server.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::CheckArguments;
use crate::checker::{Depth, Finding, RegistryReport, Report};
use crate::cli::Failure;
use crate::oci::{Descriptor, Digest, Hasher, Manifest, Reference, RepoName};
use crate::release::RequiredImage;
use crate::store::{StoreError, StoreView};
use crate::telemetry::with_causes;

/// Where a cluster asks for its images.
const REPOSITORY: &str = "system/deckhouse";
/// Manifests of one item; more is no image.
const MAX_MANIFESTS: usize = 1000;
/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

/// What the store in `dir` has of `items`, below the repository of the arguments.
pub(super) fn check(
    dir: &Path,
    arguments: &CheckArguments,
    items: &[RequiredImage],
    depth: Depth,
) -> Result<Report, Failure> {
    let mut look = Look { view: StoreView::open(dir)?, depth, proven: HashSet::new() };
    let mut errors = Vec::new();
    for item in items {
        let root = arguments.repository.as_ref().map_or(REPOSITORY, RepoName::as_str);
        let name = if item.child.is_empty() { root.to_owned() } else { format!("{root}/{}", item.child) };
        let found = match name.parse::<RepoName>() {
            Ok(repo) => look.image(&repo, item),
            Err(_) => Err(format!("{name} is no repository")),
        };
        if let Err(error) = found {
            let mark = if matches!(item.reference, Reference::Digest(_)) { '@' } else { ':' };
            let image = format!("{name}{mark}{}", item.reference);
            errors.push(Finding { source: item.source.clone(), image, error });
        }
    }
    let (name, items) = (dir.display().to_string(), items.len());
    let registry = RegistryReport { name, items, processed: items - errors.len(), errors };
    Ok(Report { mode: arguments.mode, has_run: true, registries: vec![registry] })
}

struct Look {
    view: StoreView,
    depth: Depth,
    /// Blobs by repository that were found good: images share most of theirs.
    proven: HashSet<(RepoName, Digest)>,
}

impl Look {
    /// Whether an item is there; the error is a sentence.
    fn image(&mut self, repo: &RepoName, item: &RequiredImage) -> Result<(), String> {
        let digest = match &item.reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => match self.view.tag(repo, tag).map_err(|error| of_store(&error))? {
                Some(digest) => digest,
                None => return Err("there is no such tag".to_owned()),
            },
        };
        if let Some(expected) = item.expected.filter(|expected| *expected != digest) {
            return Err(format!("the tag names {digest}, where the list has {expected}"));
        }
        let (mut open, mut seen) = (vec![digest], HashSet::from([digest]));
        while let Some(digest) = open.pop() {
            let bytes = self.view.manifest(repo, &digest).map_err(|error| of_store(&error))?;
            let bytes = bytes.ok_or_else(|| format!("the manifest {digest} is not there"))?;
            if digest.algorithm().digest(&bytes) != digest {
                return Err(format!("the manifest {digest} has other bytes than the digest's"));
            }
            if self.depth == Depth::Manifest {
                return Ok(());
            }
            let manifest = Manifest::parse(None, &bytes);
            let manifest = manifest.map_err(|error| format!("the manifest {digest} can't be read: {error}"))?;
            for blob in manifest.required_blobs() {
                self.blob(repo, blob)?;
            }
            open.extend(manifest.manifests.iter().map(|child| child.digest).filter(|child| seen.insert(*child)));
            if seen.len() > MAX_MANIFESTS {
                return Err(format!("it has more than {MAX_MANIFESTS} manifests"));
            }
        }
        Ok(())
    }

    fn blob(&mut self, repo: &RepoName, blob: &Descriptor) -> Result<(), String> {
        let Descriptor { digest, size, .. } = blob;
        let key = (repo.clone(), *digest);
        if self.proven.contains(&key) {
            return Ok(());
        }
        let file = self.view.blob(repo, digest).map_err(|error| of_store(&error))?;
        let file = file.ok_or_else(|| format!("the blob {digest} is not there"))?;
        let read = |error: io::Error| format!("the blob {digest} can't be read: {error}");
        let length = file.metadata().map_err(read)?.len();
        if length != *size {
            return Err(format!("the blob {digest} has {length} bytes, where its manifest says {size}"));
        }
        if self.depth == Depth::Content && hash(file, digest).map_err(read)? != *digest {
            return Err(format!("the blob {digest} has other bytes than the digest's"));
        }
        self.proven.insert(key);
        Ok(())
    }
}

fn hash(mut file: File, digest: &Digest) -> io::Result<Digest> {
    let (mut hasher, mut buffer) = (Hasher::new(digest.algorithm()), vec![0; READ_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn of_store(error: &StoreError) -> String {
    with_causes(error)
}
