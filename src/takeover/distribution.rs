//! The tree of CNCF distribution (`docker/registry/v2`), which Deckhouse's registry module has too, in
//! `/opt/deckhouse/registry/local_data`.
//!
//! ```text
//! blobs/<alg>/<2 hex>/<hex>/data                                  every content
//! repositories/<name…>/_manifests/revisions/<alg>/<hex>/link      a manifest of the repository; without `link` it was deleted
//! repositories/<name…>/_manifests/tags/<tag>/current/link         a tag; without `link` it was deleted
//! repositories/<name…>/_layers/<alg>/<hex>/link                   a blob of the repository
//! repositories/<name…>/_uploads/<uuid>/                           an upload that was not finished
//! ```
//!
//! A pull-through cache has the same, with `scheduler-state.json` beside `docker`: when what is to go. What it holds only a part
//! of, such as an index of which one platform was pulled, is not whole.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::fault::{Fault, SourceError, names};
use super::listed::{Claim, Listed, ListedTag};
use crate::clock::Timestamp;
use crate::fs::Folder;
use crate::oci::{Algorithm, Digest, RepoName};

/// Where the tree is below the directory that is named: distribution's root directory, that of Deckhouse's module, or the tree
/// itself.
const PLACES: [&str; 3] = ["docker/registry/v2", "local_data/docker/registry/v2", ""];

/// A link file has a digest: 71 bytes, 135 for SHA-512.
const MOST_LINK: u64 = 256;

/// A tree.
#[derive(Debug)]
pub(super) struct Tree {
    v2: Folder,
    repositories: Folder,
}

impl Tree {
    /// The tree in or below `path`.
    pub(super) fn open(path: &Path) -> Result<Self, SourceError> {
        let root = Folder::root(path).map_err(SourceError::read(path))?;
        for place in PLACES {
            let below = |name: &str| format!("{place}/{name}");
            let found = root.folder(&below("repositories")).map_err(SourceError::read(path.join(place)))?;
            let Some(repositories) = found else { continue };
            let v2 = root.folder(place).map_err(SourceError::read(path.join(place)))?;
            if let Some(v2) = v2 {
                return Ok(Self { v2, repositories });
            }
        }
        let reason = "there is no docker/registry/v2/repositories".to_owned();
        Err(SourceError::Shape { path: path.to_path_buf(), wanted: "the data of a distribution registry", reason })
    }

    pub(super) fn path(&self) -> &Path {
        self.v2.path()
    }

    /// The names of all repositories, parents before children. A name that is longer than any can be is not gone into.
    pub(super) fn repositories(&self) -> Result<Vec<String>, SourceError> {
        let mut found = Vec::new();
        let mut waiting = vec![String::new()];
        while let Some(name) = waiting.pop() {
            let folder = match self.repositories.folder(&name) {
                Ok(Some(folder)) => folder,
                // A file, or a link: no repository.
                Ok(None) => continue,
                Err(error) if is_no_folder(&error) => continue,
                // What it has is not known: it is named, and asking for it says why.
                Err(_) if !name.is_empty() => {
                    found.push(name);
                    continue;
                }
                Err(error) => return Err(SourceError::read(self.repositories.path())(error)),
            };
            let mut is_repository = false;
            for entry in names(&folder)?.into_iter().rev() {
                if entry.starts_with('_') {
                    is_repository = true;
                } else if name.len() <= RepoName::MAX_LEN {
                    waiting.push(if name.is_empty() { entry } else { format!("{name}/{entry}") });
                }
            }
            if is_repository && !name.is_empty() {
                found.push(name);
            }
        }
        Ok(found)
    }

    /// What a repository has.
    pub(super) fn list(&self, name: &str) -> Result<Listed, SourceError> {
        let mut listed = Listed::default();
        let path = self.repositories.path().join(name);
        self.repositories.folder(name).map_err(SourceError::read(path))?;
        let below = |rest: &str| format!("{name}/{rest}");
        let open = |rest: &str| {
            let path = self.repositories.path().join(below(rest));
            match self.repositories.folder(&below(rest)) {
                Err(error) if is_no_folder(&error) => Ok(None),
                opened => opened.map_err(SourceError::read(path)),
            }
        };
        for algorithm in Algorithm::ALL {
            let Some(folder) = open(&format!("_manifests/revisions/{algorithm}"))? else { continue };
            for hex in names(&folder)? {
                let Ok(digest) = Digest::from_hex(algorithm, &hex) else { continue };
                match read_link(&folder, &format!("{hex}/link")) {
                    Ok(Some(target)) if target == digest => listed.manifests.push(digest),
                    Ok(None) => listed.deleted.push(digest),
                    Ok(Some(target)) => {
                        listed.faults.push((format!("@{digest}"), Fault::Dangling(format!("its link says {target}"))));
                    }
                    Err(fault) => listed.faults.push((format!("@{digest}"), fault)),
                }
            }
        }
        if let Some(folder) = open("_manifests/tags")? {
            for tag in names(&folder)? {
                let place = format!("{tag}/current/link");
                let (target, at) = match read_link(&folder, &place) {
                    Ok(None) => continue,
                    Ok(Some(target)) => (Ok(target), changed(&folder, &place)),
                    Err(fault) => (Err(fault), None),
                };
                listed.tags.push(ListedTag { tag, target, at, claim: Claim::Plain });
            }
        }
        if let Some(folder) = open("_uploads")? {
            listed.uploads = names(&folder)?.len() as u64;
        }
        Ok(listed)
    }

    /// Opens a content; with its path. `None`: it is not there.
    pub(super) fn open_content(&self, digest: &Digest) -> io::Result<Option<(File, PathBuf)>> {
        let hex = digest.hex();
        let below = format!("blobs/{}/{}/{hex}/data", digest.algorithm(), &hex[..2]);
        Ok(self.v2.file(&below)?.map(|file| (file, self.v2.path().join(below))))
    }
}

fn is_no_folder(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotADirectory)
}

/// The digest in a link file; `None`: there is no such file.
fn read_link(folder: &Folder, below: &str) -> Result<Option<Digest>, Fault> {
    let path = || folder.path().join(below).display().to_string();
    let read = match folder.read(below, MOST_LINK) {
        Err(error) if is_no_folder(&error) => return Ok(None),
        read => read.map_err(Fault::unreadable(path()))?,
    };
    let Some(bytes) = read else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    text.trim().parse().map(Some).map_err(|_| Fault::Dangling(format!("{} has no digest", path())))
}

fn changed(folder: &Folder, below: &str) -> Option<Timestamp> {
    let modified = folder.file(below).ok()??.metadata().ok()?.modified().ok()?;
    let since = modified.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok().map(Timestamp::from_millis)
}
