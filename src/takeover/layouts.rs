//! OCI layouts (image-spec, "OCI Image Layout"): one, or a directory with layouts below, as `d8 mirror` unpacks.
//!
//! The repository of an image is the directory of its layout below the one that is named, and what stands before the last colon
//! of `org.opencontainers.image.ref.name`, without a host. Where Deckhouse's `io.deckhouse.image.short_tag` is, that is the tag
//! and the directory alone is the repository.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::fault::{SourceError, names};
use super::listed::{Claim, Listed, ListedTag};
use crate::fs::Folder;
use crate::oci::{Descriptor, Digest};

const WANTED: &str = "an OCI layout, nor has it any below";
/// Longest `index.json`.
const MOST_INDEX: u64 = 256 << 20;
/// Directories below one another.
const DEEPEST: usize = 16;
/// Directories that are looked into.
const MOST_FOLDERS: usize = 100_000;
const SHORT_TAG: &str = "io.deckhouse.image.short_tag";
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Layouts below one directory.
#[derive(Debug)]
pub(super) struct Layouts {
    root: Folder,
    repositories: BTreeMap<String, Repository>,
}

#[derive(Debug, Default)]
struct Repository {
    /// The directories of layouts that have something of it, `""` for the root.
    folders: Vec<String>,
    images: Vec<(Option<String>, Digest)>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(flatten)]
    descriptor: Descriptor,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Layouts {
    /// The layouts in and below `path`.
    pub(super) fn open(path: &Path) -> Result<Self, SourceError> {
        let root = Folder::root(path).map_err(SourceError::read(path))?;
        let mut layouts = Self { root, repositories: BTreeMap::new() };
        let (mut waiting, mut looked, mut found) = (vec![(String::new(), 0)], 0, 0_usize);
        while let Some((below, depth)) = waiting.pop() {
            let folder = match layouts.root.folder(&below) {
                Ok(Some(folder)) => folder,
                Ok(None) => continue,
                // A file, a link, which is not followed, or a directory that is not for this user.
                Err(error) if !below.is_empty() => {
                    if error.kind() != io::ErrorKind::NotADirectory {
                        let error = crate::telemetry::with_causes(&error);
                        tracing::warn!(path = %path.join(&below).display(), error, "skipped");
                    }
                    continue;
                }
                Err(error) => return Err(SourceError::read(path)(error)),
            };
            looked += 1;
            if looked > MOST_FOLDERS {
                return Err(SourceError::TooMany { path: path.to_path_buf(), most: MOST_FOLDERS });
            }
            let names = names(&folder)?;
            if names.iter().any(|name| name == "oci-layout") && names.iter().any(|name| name == "index.json") {
                layouts.add(&folder, &below)?;
                found += 1;
            }
            let below = |name: String| if below.is_empty() { name } else { format!("{below}/{name}") };
            let deeper = names.into_iter().rev().filter(|name| name != "blobs" && depth < DEEPEST);
            waiting.extend(deeper.map(|name| (below(name), depth + 1)));
        }
        if found == 0 {
            let reason = "there is no oci-layout with an index.json".to_owned();
            return Err(SourceError::Shape { path: path.to_path_buf(), wanted: WANTED, reason });
        }
        Ok(layouts)
    }

    fn add(&mut self, folder: &Folder, below: &str) -> Result<(), SourceError> {
        let wrong = |reason: String| SourceError::Shape {
            path: folder.path().join("index.json"),
            wanted: "the index of a layout",
            reason,
        };
        let read =
            folder.read("index.json", MOST_INDEX).map_err(SourceError::read(folder.path().join("index.json")))?;
        let bytes = read.ok_or_else(|| wrong("it is gone".to_owned()))?;
        let index: Index = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        for Entry { descriptor, annotations } in index.manifests {
            let short = annotations.get(SHORT_TAG).map(String::as_str);
            let (name, tag) = match (short, annotations.get(REF_NAME).map(String::as_str)) {
                (Some(short), _) => ("", Some(short)),
                (None, Some(name)) => split(name),
                (None, None) => ("", None),
            };
            let name = match (below.is_empty(), name.is_empty()) {
                (true, _) => name.to_owned(),
                (false, true) => below.to_owned(),
                (false, false) => format!("{below}/{name}"),
            };
            let repository = self.repositories.entry(name).or_default();
            if repository.folders.last().is_none_or(|last| last != below) {
                repository.folders.push(below.to_owned());
            }
            repository.images.push((tag.map(str::to_owned), descriptor.digest));
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        self.root.path()
    }

    pub(super) fn repositories(&self) -> Vec<String> {
        self.repositories.keys().cloned().collect()
    }

    /// What a repository has. Of a tag that stands in an index more than once the last counts, as for `d8`.
    pub(super) fn list(&self, name: &str) -> Listed {
        let mut listed = Listed::default();
        let Some(repository) = self.repositories.get(name) else { return listed };
        let mut seen = HashSet::new();
        let mut tags = BTreeMap::new();
        for (tag, digest) in &repository.images {
            if seen.insert(*digest) {
                listed.manifests.push(*digest);
            }
            if let Some(tag) = tag {
                tags.insert(tag.clone(), *digest);
            }
        }
        let tags =
            tags.into_iter().map(|(tag, digest)| ListedTag { tag, target: Ok(digest), at: None, claim: Claim::Plain });
        listed.tags = tags.collect();
        listed
    }

    /// Opens a content of a repository's layouts; with its path. `None`: it is not there.
    pub(super) fn open_content(&self, name: &str, digest: &Digest) -> io::Result<Option<(File, PathBuf)>> {
        let folders = self.repositories.get(name).map(|repository| repository.folders.as_slice()).unwrap_or_default();
        for folder in folders {
            let below = format!("{folder}/blobs/{}/{}", digest.algorithm(), digest.hex());
            let below = below.trim_start_matches('/');
            if let Some(file) = self.root.file(below)? {
                return Ok(Some((file, self.root.path().join(below))));
            }
        }
        Ok(None)
    }
}

/// Repository, without a host, and tag of a reference's name: `TAG`, `REPOSITORY:TAG`, `REPOSITORY@DIGEST`.
fn split(name: &str) -> (&str, Option<&str>) {
    if let Some((repository, _)) = name.split_once('@') {
        return (without_host(repository), None);
    }
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (without_host(repository), Some(tag)),
        _ if name.contains('/') => (without_host(name), None),
        _ => ("", Some(name)),
    }
}

fn without_host(repository: &str) -> &str {
    match repository.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => rest,
        _ => repository,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_s_name_is_a_tag_or_has_a_repository() {
        for (name, expected) in [
            ("v1", ("", Some("v1"))),
            ("a:v1", ("a", Some("v1"))),
            ("system/deckhouse:v1", ("system/deckhouse", Some("v1"))),
            ("registry.example.com:5000/a/b:v1", ("a/b", Some("v1"))),
            ("localhost/a:v1", ("a", Some("v1"))),
            ("registry.example.com/a@sha256:00", ("a", None)),
            ("registry.example.com:5000/a", ("a", None)),
            ("a/b", ("a/b", None)),
        ] {
            assert_eq!(split(name), expected, "{name}");
        }
    }
}
