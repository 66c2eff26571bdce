//! Giving files and folders to the user that the server runs as.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::Path;
use std::str::FromStr;

use super::NodeFilesError;

/// A user and a group by their numbers, `UID:GID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub user: u32,
    /// The group.
    pub group: u32,
}

/// No `UID:GID`.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0:?} is not UID:GID, such as 64535:64535")]
pub struct InvalidOwner(String);

impl FromStr for Owner {
    type Err = InvalidOwner;

    fn from_str(text: &str) -> Result<Self, InvalidOwner> {
        let parsed = text.split_once(':').and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
        let (user, group) = parsed.ok_or_else(|| InvalidOwner(text.to_owned()))?;
        Ok(Self { user, group })
    }
}

/// The marker of a store, and what stands in its place while the store is being laid out.
const STORE: [&str; 2] = [".d8-registry", ".d8-registry.new"];
/// Names that may be beside a store, or in a directory that becomes one: the file system's, and another registry's tree.
const LOST_AND_FOUND: &str = "lost+found";
const OTHER_REGISTRY: &str = "docker";

impl Owner {
    fn has(self, metadata: &fs::Metadata) -> bool {
        (metadata.uid(), metadata.gid()) == (self.user, self.group)
    }

    /// Whether it is the owner's; a symbolic link itself.
    pub(super) fn has_path(self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|metadata| self.has(&metadata))
    }

    /// Gives a file away, unless it is the owner's already; a symbolic link itself.
    pub(super) fn give(self, path: &Path) -> Result<bool, NodeFilesError> {
        let metadata = fs::symlink_metadata(path).map_err(NodeFilesError::io("look at", path))?;
        if self.has(&metadata) {
            return Ok(false);
        }
        lchown(path, Some(self.user), Some(self.group)).map_err(NodeFilesError::io("give away", path))?;
        Ok(true)
    }
}

/// Makes a folder with mode 0700 if it is missing, and gives it and all below it away; whether there was something to do.
/// Only a store's folder or an empty one is given away, and the tree of another registry beside the store stays whose it
/// is. What is below is only looked at while the folder itself is another's: the folder comes last, so an interrupted call
/// is made up for by the next. Symbolic links are given away themselves. Blocking.
///
/// # Errors
/// [`NodeFilesError::Foreign`] if it has files and is no store; else [`NodeFilesError::Io`], a part may then be given away.
pub fn own_folder(folder: &Path, owner: Owner) -> Result<bool, NodeFilesError> {
    if !folder.exists() {
        fs::create_dir_all(folder).map_err(NodeFilesError::io("make", folder))?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(NodeFilesError::io("make", folder))?;
    }
    // The folder was named by whoever calls, so a link in that name is meant.
    let folder = &folder.canonicalize().map_err(NodeFilesError::io("look at", folder))?;
    let metadata = fs::metadata(folder).map_err(NodeFilesError::io("look at", folder))?;
    if owner.has(&metadata) {
        return Ok(false);
    }
    let is_file = |name: &&str| fs::symlink_metadata(folder.join(name)).is_ok_and(|metadata| metadata.is_file());
    let is_store = STORE.iter().any(is_file);
    let mut below = Vec::new();
    for entry in fs::read_dir(folder).map_err(NodeFilesError::io("list", folder))? {
        let entry = entry.map_err(NodeFilesError::io("list", folder))?;
        if entry.file_name() == LOST_AND_FOUND || is_store && entry.file_name() == OTHER_REGISTRY {
            continue;
        }
        if !is_store {
            return Err(NodeFilesError::Foreign { path: folder.clone() });
        }
        below.push(entry);
    }
    for entry in &below {
        give_all(entry, owner)?;
    }
    owner.give(folder)
}

fn give_all(entry: &fs::DirEntry, owner: Owner) -> Result<(), NodeFilesError> {
    let path = entry.path();
    if entry.file_type().map_err(NodeFilesError::io("look at", &path))?.is_dir() {
        for entry in fs::read_dir(&path).map_err(NodeFilesError::io("list", &path))? {
            give_all(&entry.map_err(NodeFilesError::io("list", &path))?, owner)?;
        }
    }
    lchown(&path, Some(owner.user), Some(owner.group)).map_err(NodeFilesError::io("give away", &path))
}
