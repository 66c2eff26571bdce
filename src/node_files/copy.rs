//! A folder of the node that is kept the same as a mounted one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::{NodeFilesError, Owner, Placed};
use crate::store;

/// So much one file may hold: a Secret can't hold more.
pub(super) const MAX_BYTES: u64 = 1 << 20;
/// The mark of a folder that is ours: what else is in it may be removed.
const MARK: &str = ".d8-registry";
/// Passwords and keys are among them.
const FILE_MODE: u32 = 0o600;
/// `users/<secret>/<key>` below a mount; a link that leads back up would never end.
const MAX_DEPTH: usize = 4;

pub(super) fn read(path: &Path) -> Result<Vec<u8>, NodeFilesError> {
    let mut content = Vec::new();
    let file = File::open(path).map_err(NodeFilesError::io("read", path))?;
    file.take(MAX_BYTES + 1).read_to_end(&mut content).map_err(NodeFilesError::io("read", path))?;
    if content.len() as u64 > MAX_BYTES {
        return Err(NodeFilesError::TooLarge { path: path.to_owned() });
    }
    Ok(content)
}

/// Makes the target hold what the source holds, and nothing else; the number of files written, given away or removed.
/// The source is read whole before anything is changed.
pub(super) fn follow(copy: &Placed, owner: Option<Owner>) -> Result<usize, NodeFilesError> {
    let mut wanted = BTreeMap::new();
    collect(&copy.source, Path::new(""), 0, &mut wanted)?;
    claim(&copy.target)?;
    // Folders are made for their owner alone.
    if let Some(owner) = owner {
        owner.give(&copy.target)?;
    }
    let mut changed = 0;
    for (name, source) in &wanted {
        let target = copy.target.join(name);
        let content = read(source)?;
        let mut differs = read(&target).ok().as_ref() != Some(&content);
        if differs {
            store::replace_file(&target, &content, FILE_MODE)?;
        }
        if let Some(owner) = owner {
            differs |= owner.give(&target)?;
            for folder in target.ancestors().skip(1).take_while(|folder| *folder != copy.target) {
                owner.give(folder)?;
            }
        }
        changed += usize::from(differs);
    }
    let mut present = BTreeMap::new();
    collect(&copy.target, Path::new(""), 0, &mut present)?;
    for (name, path) in present {
        if !wanted.contains_key(&name) {
            changed += usize::from(remove_file(&path)?);
            // The folder it was in, if that was its last file.
            if name.parent().is_some_and(|parent| parent != Path::new("")) {
                let _ = path.parent().map(fs::remove_dir);
            }
        }
    }
    Ok(changed)
}

/// Files by their name below the folder; what begins with a dot is Kubernetes' or our own.
fn collect(
    folder: &Path,
    below: &Path,
    depth: usize,
    found: &mut BTreeMap<PathBuf, PathBuf>,
) -> Result<(), NodeFilesError> {
    for entry in fs::read_dir(folder).map_err(NodeFilesError::io("list", folder))? {
        let entry = entry.map_err(NodeFilesError::io("list", folder))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let (path, name) = (entry.path(), below.join(entry.file_name()));
        if !path.is_dir() {
            found.insert(name, path);
        } else if depth < MAX_DEPTH {
            collect(&path, &name, depth + 1, found)?;
        }
    }
    Ok(())
}

/// Marks a new or empty folder as ours.
fn claim(folder: &Path) -> Result<(), NodeFilesError> {
    if is_ours(folder) {
        return Ok(());
    }
    let empty = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(NodeFilesError::io("list", folder)(error)),
    };
    if !empty {
        return Err(NodeFilesError::Foreign { path: folder.to_owned() });
    }
    store::replace_file(&folder.join(MARK), b"", FILE_MODE)?;
    Ok(())
}

fn is_ours(folder: &Path) -> bool {
    folder.join(MARK).exists()
}

/// Whether there was one.
pub(super) fn remove_file(path: &Path) -> Result<bool, NodeFilesError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(NodeFilesError::io("remove", path)(error)),
    }
}

/// Removes a folder of ours; 0 if there is none.
pub(super) fn remove_folder(folder: &Path) -> Result<usize, NodeFilesError> {
    if !folder.exists() {
        return Ok(0);
    }
    if !is_ours(folder) {
        return Err(NodeFilesError::Foreign { path: folder.to_owned() });
    }
    fs::remove_dir_all(folder).map_err(NodeFilesError::io("remove", folder))?;
    Ok(1)
}
