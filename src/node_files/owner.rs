//! Giving files and folders to the user that the server runs as.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown};
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

impl Owner {
    fn has(self, metadata: &fs::Metadata) -> bool {
        (metadata.uid(), metadata.gid()) == (self.user, self.group)
    }

    /// Gives a file away, unless it is the owner's already.
    pub(super) fn give(self, path: &Path) -> Result<bool, NodeFilesError> {
        let metadata = fs::metadata(path).map_err(NodeFilesError::io("look at", path))?;
        if self.has(&metadata) {
            return Ok(false);
        }
        chown(path, Some(self.user), Some(self.group)).map_err(NodeFilesError::io("give away", path))?;
        Ok(true)
    }
}

/// Makes a folder with mode 0700 if it is missing, and gives it and all below it away; whether there was something to do. What
/// is below is only looked at while the folder itself is another's: the folder comes last, so an interrupted call is
/// made up for by the next. Symbolic links are given away themselves. Blocking.
///
/// # Errors
/// [`NodeFilesError::Io`]; a part may then be given away.
pub fn own_folder(folder: &Path, owner: Owner) -> Result<bool, NodeFilesError> {
    if !folder.exists() {
        fs::create_dir_all(folder).map_err(NodeFilesError::io("make", folder))?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(NodeFilesError::io("make", folder))?;
    }
    let metadata = fs::metadata(folder).map_err(NodeFilesError::io("look at", folder))?;
    if owner.has(&metadata) {
        return Ok(false);
    }
    give_below(folder, owner)?;
    owner.give(folder)
}

fn give_below(folder: &Path, owner: Owner) -> Result<(), NodeFilesError> {
    for entry in fs::read_dir(folder).map_err(NodeFilesError::io("list", folder))? {
        let entry = entry.map_err(NodeFilesError::io("list", folder))?;
        let path = entry.path();
        if entry.file_type().map_err(NodeFilesError::io("look at", &path))?.is_dir() {
            give_below(&path, owner)?;
        }
        lchown(&path, Some(owner.user), Some(owner.group)).map_err(NodeFilesError::io("give away", &path))?;
    }
    Ok(())
}
