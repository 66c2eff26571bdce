//! A folder of the node that is kept the same as a mounted one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::{NodeFilesError, Owner, Placed};
use crate::fs::replace_file;

/// Largest file in bytes: a Secret can't hold more.
pub(super) const MAX_BYTES: u64 = 1 << 20;
/// The mark of a folder that is ours, an empty file: what else is in the folder may be removed. The marker of a store has
/// the same name, but is not empty.
const MARK: &str = ".d8-registry";
/// What a kill leaves of the mark: [`replace_file`] writes it under this name.
const MARK_IN_MAKING: &str = "..d8-registry.new";
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
    mounted(&copy.source, Path::new(""), 0, &mut wanted)?;
    claim(&copy.target)?;
    // Folders are made for their owner alone.
    if let Some(owner) = owner {
        owner.give(&copy.target)?;
    }
    let mut changed = 0;
    for (name, source) in &wanted {
        let target = copy.target.join(name);
        let content = read(source)?;
        changed += make_way(&copy.target, name)?;
        let mut differs = !is_file(&target) || read(&target).ok().as_ref() != Some(&content);
        if differs {
            replace_file(&target, &content, FILE_MODE)?;
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
    placed(&copy.target, Path::new(""), &mut present)?;
    for (name, path) in present {
        if !wanted.contains_key(&name) {
            changed += usize::from(remove_file(&path)?);
            // The folders it was in, if that was their last file.
            for folder in path.ancestors().skip(1).take_while(|folder| *folder != copy.target) {
                let _ = fs::remove_dir(folder);
            }
        }
    }
    Ok(changed)
}

/// Files by their name below a mounted folder, behind whatever links the kubelet made; what begins with a dot is
/// Kubernetes'.
fn mounted(
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
            mounted(&path, &name, depth + 1, found)?;
        }
    }
    Ok(())
}

/// All files by their name below a folder of ours, but for the mark. A symbolic link is one of them, wherever it leads.
fn placed(folder: &Path, below: &Path, found: &mut BTreeMap<PathBuf, PathBuf>) -> Result<(), NodeFilesError> {
    for entry in fs::read_dir(folder).map_err(NodeFilesError::io("list", folder))? {
        let entry = entry.map_err(NodeFilesError::io("list", folder))?;
        let (path, name) = (entry.path(), below.join(entry.file_name()));
        if entry.file_type().map_err(NodeFilesError::io("look at", &path))?.is_dir() {
            placed(&path, &name, found)?;
        } else if name != Path::new(MARK) {
            found.insert(name, path);
        }
    }
    Ok(())
}

/// Removes what stands where a file of ours and the folders above it are to be; the number of things that were removed.
fn make_way(target: &Path, name: &Path) -> Result<usize, NodeFilesError> {
    let mut removed = 0;
    let mut path = target.to_owned();
    let mut parts = name.components().peekable();
    while let Some(part) = parts.next() {
        path.push(part);
        let Some(kind) = kind(&path)? else { break };
        match (parts.peek().is_some(), kind.is_dir()) {
            (true, false) => removed += usize::from(remove_file(&path)?),
            (false, true) => {
                fs::remove_dir_all(&path).map_err(NodeFilesError::io("remove", &path))?;
                removed += 1;
            }
            _ => {}
        }
    }
    Ok(removed)
}

/// Kind of the file at a path, without following a symbolic link; `None`: nothing is there.
fn kind(path: &Path) -> Result<Option<fs::FileType>, NodeFilesError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata.file_type())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(NodeFilesError::io("look at", path)(error)),
    }
}

fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// Marks a new or empty folder as ours.
fn claim(folder: &Path) -> Result<(), NodeFilesError> {
    match kind(folder)? {
        Some(kind) if !kind.is_dir() => return Err(NodeFilesError::NoFolder { path: folder.to_owned() }),
        Some(_) if is_ours(folder) => return Ok(()),
        Some(_) if !is_empty(folder)? => return Err(NodeFilesError::Foreign { path: folder.to_owned() }),
        _ => {}
    }
    // What a killed run left of it goes with this.
    replace_file(&folder.join(MARK), b"", FILE_MODE)?;
    Ok(())
}

fn is_ours(folder: &Path) -> bool {
    fs::symlink_metadata(folder.join(MARK)).is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0)
}

/// Whether nothing is in the folder but what a kill left of our mark.
fn is_empty(folder: &Path) -> Result<bool, NodeFilesError> {
    for entry in fs::read_dir(folder).map_err(NodeFilesError::io("list", folder))? {
        let entry = entry.map_err(NodeFilesError::io("list", folder))?;
        if entry.file_name() != MARK_IN_MAKING || !is_file(&entry.path()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether there was one.
pub(super) fn remove_file(path: &Path) -> Result<bool, NodeFilesError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(NodeFilesError::io("remove", path)(error)),
    }
}

/// Removes a folder of ours; 0 if there is none. The mark goes last, so that what a killed call left is still ours.
pub(super) fn remove_folder(folder: &Path) -> Result<usize, NodeFilesError> {
    let Some(kind) = kind(folder)? else { return Ok(0) };
    if !kind.is_dir() {
        return Err(NodeFilesError::NoFolder { path: folder.to_owned() });
    }
    // Without a mark and empty it is what a call left that was killed after the mark.
    if !is_ours(folder) && !is_empty(folder)? {
        return Err(NodeFilesError::Foreign { path: folder.to_owned() });
    }
    for entry in fs::read_dir(folder).map_err(NodeFilesError::io("list", folder))? {
        let entry = entry.map_err(NodeFilesError::io("list", folder))?;
        let path = entry.path();
        if entry.file_type().map_err(NodeFilesError::io("look at", &path))?.is_dir() {
            fs::remove_dir_all(&path).map_err(NodeFilesError::io("remove", &path))?;
        } else if entry.file_name() != MARK {
            remove_file(&path)?;
        }
    }
    crate::fs::remove_file(&folder.join(MARK))?;
    fs::remove_dir(folder).map_err(NodeFilesError::io("remove", folder))?;
    Ok(1)
}
