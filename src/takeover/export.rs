//! The way out: images of a store as an OCI layout (image-spec, "OCI Image Layout"). The store is read without its lock, beside
//! a running server or without one; nothing of it is changed.
//!
//! # Decisions
//!
//! - `org.opencontainers.image.ref.name` is `REPOSITORY:TAG`: one layout takes several repositories, and `skopeo` and `import`
//!   read it so. A manifest without a tag is `REPOSITORY@DIGEST`, as `d8 mirror` writes it.
//! - What refers to an image (signatures, SBOMs) goes with it.
//! - Every byte is hashed on its way out. A blob that lies in the layout with its length was put there whole, by a rename behind
//!   its hash: an export that is run again copies what is missing.
//! - `index.json` is written last, and what it had of other images stays.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::ioctl_ficlone;
use serde_json::{Value, json};

use super::fault::Fault;
use super::layouts::REF_NAME;
use super::report::Left;
use crate::fs::{Disk, FsError, Temporary, create, make_directory, replace_file, stat};
use crate::oci::{Digest, Hasher, Manifest, Reference, RepoName};
use crate::store::{StoreError, StoreView};

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// Indexes within one another.
const DEEPEST: usize = 16;
/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// What is taken of a repository: all of it, or one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The repository.
    pub repository: RepoName,
    /// `None`: all that it has.
    pub reference: Option<Reference>,
}

impl std::str::FromStr for Selection {
    type Err = String;

    /// `REPOSITORY`, `REPOSITORY:TAG` or `REPOSITORY@DIGEST`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, reference) = match text.split_once('@').or_else(|| text.split_once(':')) {
            Some((name, reference)) => (name, Some(reference.parse::<Reference>().map_err(|error| error.to_string())?)),
            None => (text, None),
        };
        Ok(Self { repository: name.parse().map_err(|error| format!("{name}: {error}"))?, reference })
    }
}

/// What is exported, and where to.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The layout; made if it is missing.
    pub dir: PathBuf,
    /// Images; empty: all of the store.
    pub images: Vec<Selection>,
}

/// What an export came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exported {
    /// Tags that the layout has.
    pub tags: u64,
    /// Manifests that it has.
    pub manifests: u64,
    /// Bytes that were copied.
    pub bytes: u64,
    /// Bytes that were there.
    pub present_bytes: u64,
    /// What is not whole in the store, and why.
    pub left: Vec<Left>,
}

/// An export ended before it was through.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The layout.
    #[error(transparent)]
    Layout(#[from] FsError),
    /// What lies in its place.
    #[error("{} is neither empty nor an OCI layout", .0.display())]
    Foreign(PathBuf),
    /// Nothing of that name.
    #[error("the store has no {0}")]
    Unknown(String),
}

/// Copies images into a layout. `told` hears of bytes that are through. Blocking. Ended at any point, another run goes on.
///
/// # Errors
/// [`ExportError`]. An image that is not whole is none: it is named in the answer.
pub fn export(view: &StoreView, options: &ExportOptions, told: &dyn Fn(u64)) -> Result<Exported, ExportError> {
    let mut index = lay_out(&options.dir)?;
    let mut export = Export {
        view,
        dir: &options.dir,
        disk: Disk::default(),
        told,
        done: HashSet::new(),
        said: Exported::default(),
    };
    for repository in export.selected(&options.images)? {
        export.repository(&repository, &mut index)?;
    }
    let bytes = index.render();
    replace_file(&options.dir.join("index.json"), &bytes, 0o644)?;
    Ok(export.said)
}

/// The index of the layout at `dir`, which is made where there is none.
fn lay_out(dir: &Path) -> Result<Index, ExportError> {
    make_directory(dir)?;
    let marker = dir.join("oci-layout");
    if stat(&marker)?.is_none() {
        let mut entries = std::fs::read_dir(dir).map_err(FsError::on("read", dir))?;
        if entries.next().is_some() {
            return Err(ExportError::Foreign(dir.to_path_buf()));
        }
        replace_file(&marker, br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    }
    let path = dir.join("index.json");
    let foreign = || ExportError::Foreign(dir.to_path_buf());
    match std::fs::read(&path) {
        Ok(bytes) => Index::parse(&bytes).ok_or_else(foreign),
        Err(error) if crate::fs::is_absence(&error) => Ok(Index::default()),
        Err(error) => Err(FsError::on("read", &path)(error).into()),
    }
}

/// The descriptors of `index.json`, by name; those without one by digest.
#[derive(Debug, Default)]
struct Index {
    entries: BTreeMap<(String, String), Value>,
}

impl Index {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let read: Value = serde_json::from_slice(bytes).ok()?;
        let mut index = Self::default();
        for entry in read["manifests"].as_array()? {
            let name = entry["annotations"][REF_NAME].as_str().unwrap_or_default();
            let digest = if name.is_empty() { entry["digest"].as_str()? } else { "" };
            index.entries.insert((name.to_owned(), digest.to_owned()), entry.clone());
        }
        Some(index)
    }

    fn put(&mut self, name: String, image: &Image) {
        let mut entry = json!({
            "mediaType": image.media_type,
            "digest": image.digest,
            "size": image.size,
            "annotations": { REF_NAME: name },
        });
        if let Some(artifact) = &image.artifact_type {
            entry["artifactType"] = artifact.as_str().into();
        }
        self.entries.insert((name, String::new()), entry);
    }

    fn render(&self) -> Vec<u8> {
        let manifests: Vec<&Value> = self.entries.values().collect();
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests });
        index.to_string().into_bytes()
    }
}

/// A manifest of the layout, as its index names it.
struct Image {
    digest: Digest,
    size: usize,
    media_type: String,
    /// Of what refers to another.
    artifact_type: Option<String>,
    children: Vec<Digest>,
}

/// What of a repository is exported.
struct Selected {
    repo: RepoName,
    tags: BTreeMap<String, Digest>,
    /// Asked for by their digests.
    picked: BTreeSet<Digest>,
    digests: Vec<Digest>,
}

struct Export<'a> {
    view: &'a StoreView,
    dir: &'a Path,
    disk: Disk,
    told: &'a dyn Fn(u64),
    /// Contents that the layout has.
    done: HashSet<Digest>,
    said: Exported,
}

impl Export<'_> {
    fn selected(&self, images: &[Selection]) -> Result<Vec<Selected>, ExportError> {
        let mut found: BTreeMap<RepoName, Selected> = BTreeMap::new();
        let all: Vec<Selection>;
        let is_all = images.is_empty();
        let images = if is_all {
            let whole = |repository| Selection { repository, reference: None };
            all = self.view.repositories().into_iter().map(whole).collect();
            &all
        } else {
            images
        };
        for Selection { repository: repo, reference } in images {
            let selected = found.entry(repo.clone()).or_insert_with(|| Selected {
                repo: repo.clone(),
                tags: BTreeMap::new(),
                picked: BTreeSet::new(),
                digests: Vec::new(),
            });
            match reference {
                Some(Reference::Tag(tag)) => {
                    let digest = self.view.tag(repo, tag)?;
                    let digest = digest.ok_or_else(|| ExportError::Unknown(format!("{repo}:{tag}")))?;
                    selected.tags.insert(tag.to_string(), digest);
                    selected.digests.push(digest);
                }
                Some(Reference::Digest(digest)) => {
                    selected.picked.insert(*digest);
                    selected.digests.push(*digest);
                }
                None => {
                    let tags = self.view.tags(repo)?;
                    let manifests = self.view.manifests(repo);
                    if tags.is_empty() && manifests.is_empty() && !is_all {
                        return Err(ExportError::Unknown(repo.to_string()));
                    }
                    selected.digests.extend(&manifests);
                    selected.tags.extend(tags.into_iter().map(|(tag, digest)| (tag.to_string(), digest)));
                }
            }
        }
        Ok(found.into_values().collect())
    }

    /// Exports what is selected of a repository, with what refers to it.
    fn repository(&mut self, selected: &Selected, index: &mut Index) -> Result<(), ExportError> {
        let repo = &selected.repo;
        let referrers = self.referrers(repo)?;
        let (mut taken, mut children) = (BTreeMap::new(), HashSet::<Digest>::new());
        let mut waiting: BTreeSet<Digest> = selected.digests.iter().copied().collect();
        while let Some(digest) = waiting.pop_first() {
            if taken.contains_key(&digest) {
                continue;
            }
            let image = match self.image(repo, digest, 0)? {
                Ok(image) => image,
                Err(fault) => {
                    let tags = selected.tags.iter().filter(|(_, target)| **target == digest);
                    let mut names: Vec<_> = tags.map(|(tag, _)| format!("{repo}:{tag}")).collect();
                    if names.is_empty() {
                        names.push(format!("{repo}@{digest}"));
                    }
                    self.said.left.extend(names.into_iter().map(|image| Left { image, reason: fault.to_string() }));
                    continue;
                }
            };
            children.extend(&image.children);
            // For what refers to them.
            waiting.extend(&image.children);
            waiting.extend(referrers.get(&digest).into_iter().flatten());
            taken.insert(digest, image);
        }
        for (tag, digest) in &selected.tags {
            if let Some(image) = taken.get(digest) {
                index.put(format!("{repo}:{tag}"), image);
                self.said.tags += 1;
            }
        }
        let tagged: HashSet<&Digest> = selected.tags.values().collect();
        for (digest, image) in &taken {
            // A child is found by its parent, unless it was asked for.
            let by_parent = children.contains(digest) && !selected.picked.contains(digest);
            if !tagged.contains(digest) && !by_parent {
                index.put(format!("{repo}@{digest}"), image);
            }
        }
        Ok(())
    }

    /// The manifests of a repository that refer to others, by their subject.
    fn referrers(&self, repo: &RepoName) -> Result<HashMap<Digest, Vec<Digest>>, ExportError> {
        let mut found: HashMap<Digest, Vec<Digest>> = HashMap::new();
        for digest in self.view.manifests(repo) {
            let Some(bytes) = self.view.manifest(repo, &digest)? else { continue };
            if let Some(subject) = Manifest::kept(&bytes).ok().and_then(|manifest| manifest.subject) {
                found.entry(subject.digest).or_default().push(digest);
            }
        }
        Ok(found)
    }

    /// Copies a manifest with all that it names, itself last.
    fn image(&mut self, repo: &RepoName, digest: Digest, depth: usize) -> Result<Result<Image, Fault>, ExportError> {
        let Some(bytes) = self.view.manifest(repo, &digest)? else { return Ok(Err(Fault::ManifestMissing(digest))) };
        if digest.algorithm().digest(&bytes) != digest {
            return Ok(Err(Fault::ManifestBytes(digest)));
        }
        let manifest = match Manifest::kept(&bytes) {
            Ok(manifest) => manifest,
            Err(cause) => return Ok(Err(Fault::Invalid { digest, cause })),
        };
        for blob in manifest.required_blobs() {
            if let Err(fault) = self.blob(repo, &blob.digest)? {
                return Ok(Err(fault));
            }
        }
        for child in &manifest.manifests {
            if !self.done.contains(&child.digest)
                && let Err(fault) = self.below(repo, child.digest, depth + 1)?
            {
                return Ok(Err(Fault::Child { child: child.digest, cause: std::sync::Arc::new(fault) }));
            }
        }
        if self.done.insert(digest) {
            let path = self.path(&digest);
            if stat(&path)?.is_none_or(|found| found.len() != bytes.len() as u64) {
                replace_file(&path, &bytes, 0o644)?;
            }
            self.said.manifests += 1;
        }
        let media_type = manifest.media_type().into_owned();
        let artifact_type = manifest.artifact_type.filter(|_| manifest.subject.is_some());
        let children = manifest.manifests.iter().map(|child| child.digest).collect();
        Ok(Ok(Image { digest, size: bytes.len(), media_type, artifact_type, children }))
    }

    /// A child of an index, unless indexes stand in one another deeper than any that is meant.
    fn below(&mut self, repo: &RepoName, child: Digest, depth: usize) -> Result<Result<Image, Fault>, ExportError> {
        if depth > DEEPEST { Ok(Err(Fault::TooDeep(child))) } else { self.image(repo, child, depth) }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    fn blob(&mut self, repo: &RepoName, digest: &Digest) -> Result<Result<(), Fault>, ExportError> {
        if self.done.contains(digest) {
            return Ok(Ok(()));
        }
        let Some(file) = self.view.blob(repo, digest)? else { return Ok(Err(Fault::BlobMissing(*digest))) };
        let path = self.path(digest);
        let facts = match file.metadata() {
            Ok(facts) => facts,
            Err(error) => return Ok(Err(Fault::unreadable(format!("blob {digest}"))(error))),
        };
        if stat(&path)?.is_some_and(|found| found.is_file() && found.len() == facts.len()) {
            self.said.present_bytes += facts.len();
            (self.told)(facts.len());
        } else if let Err(fault) = self.copy(&file, &path, digest)? {
            return Ok(Err(fault));
        } else {
            self.said.bytes += facts.len();
        }
        self.done.insert(*digest);
        Ok(Ok(()))
    }

    fn copy(&self, source: &File, path: &Path, digest: &Digest) -> Result<Result<(), Fault>, ExportError> {
        if let Some(directory) = path.parent() {
            make_directory(directory)?;
        }
        let staged = path.with_extension("new");
        // One that a killed export left.
        self.disk.unlink(&staged)?;
        let mut target = create(&staged)?;
        let temporary = Temporary::adopt(staged.clone());
        let shares = ioctl_ficlone(&target, source).is_ok();
        let mut reader = if shares { &target } else { source };
        let (mut hasher, mut buffer) = (Hasher::new(digest.algorithm()), vec![0; READ_BYTES]);
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => &buffer[..read],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Err(Fault::unreadable(format!("blob {digest}"))(error))),
            };
            hasher.update(read);
            (self.told)(read.len() as u64);
            if !shares {
                let mut writer = &target;
                writer.write_all(read).map_err(FsError::on("write", &staged))?;
            }
        }
        let found = hasher.finish();
        if found != *digest {
            return Ok(Err(Fault::BlobBytes { expected: *digest, found: Box::new(found) }));
        }
        self.disk.sync(&target, &staged)?;
        target.flush().map_err(FsError::on("write", &staged))?;
        self.disk.rename(temporary, path)?;
        self.disk.sync_directory_of(path)?;
        Ok(Ok(()))
    }
}
