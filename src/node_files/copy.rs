//! A folder of the node that is kept the same as a mounted one. It is never changed: another one takes its place, whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::{NodeFilesError, Owner, Placed};
use crate::fs::{put_directory, replace_file};

/// Largest file in bytes: a Secret can't hold more.
pub(super) const MAX_BYTES: u64 = 1 << 20;
/// The link that the kubelet swaps when a mounted Secret changes.
const DATA: &str = "..data";
/// A Secret that changes faster than it can be read is read as it is.
const TRIES: u32 = 5;
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

/// What a folder is to hold, read whole: content by name.
pub(super) type Wanted = BTreeMap<PathBuf, Vec<u8>>;

/// Reads a mounted folder; at one moment of it, where the kubelet has changed it meanwhile.
pub(super) fn wanted(source: &Path) -> Result<Wanted, NodeFilesError> {
    let mut tries = 0;
    loop {
        let before = fs::read_link(source.join(DATA)).ok();
        let mut found = BTreeMap::new();
        mounted(source, Path::new(""), 0, &mut found)?;
        let content: Result<Wanted, _> =
            found.into_iter().map(|(name, path)| read(&path).map(|content| (name, content))).collect();
        tries += 1;
        if fs::read_link(source.join(DATA)).ok() == before || tries == TRIES {
            return content;
        }
    }
}

/// A folder made ready beside the one whose place it takes.
#[derive(Debug)]
pub(super) struct Ready<'a> {
    target: &'a Path,
    /// `None`: the target holds all of it already.
    staged: Option<PathBuf>,
    changed: usize,
}

/// Makes a folder ready that holds what the source holds, and nothing else. Nothing that is at the target is changed.
pub(super) fn prepare(copy: &Placed, owner: Option<Owner>) -> Result<Ready<'_>, NodeFilesError> {
    let (wanted, target) = (wanted(&copy.source)?, &*copy.target);
    let there = check(target)?;
    let staged = staged_name(target);
    clear(&staged)?;
    let changed = if there { differences(target, &wanted, owner)? } else { wanted.len() };
    if changed == 0 && is_ours(target) {
        return Ok(Ready { target, staged: None, changed });
    }
    replace_file(&staged.join(MARK), b"", FILE_MODE)?;
    for (name, content) in &wanted {
        replace_file(&staged.join(name), content, FILE_MODE)?;
    }
    // It is in a folder of ours until here: nobody else can have put a link in the way.
    if let Some(owner) = owner {
        for name in wanted.keys() {
            for part in name.ancestors().filter(|part| !part.as_os_str().is_empty()) {
                owner.give(&staged.join(part))?;
            }
        }
        // Folders are made for their owner alone.
        owner.give(&staged)?;
    }
    Ok(Ready { target, staged: Some(staged), changed })
}

impl Ready<'_> {
    /// Puts it in its place, at once; the number of files that were written, given away or removed.
    pub(super) fn put(self) -> Result<usize, NodeFilesError> {
        if let Some(staged) = self.staged {
            put_directory(&staged, self.target)?;
            clear(&staged)?;
        }
        Ok(self.changed)
    }
}

/// How many files of the target are not as wanted: of another content, of another owner, missing, or too much.
fn differences(target: &Path, wanted: &Wanted, owner: Option<Owner>) -> Result<usize, NodeFilesError> {
    let mut present = BTreeMap::new();
    placed(target, Path::new(""), &mut present)?;
    let mut count = present.keys().filter(|name| !wanted.contains_key(*name)).count();
    for (name, content) in wanted {
        let path = target.join(name);
        let is_same = present.contains_key(name) && is_file(&path) && read(&path).ok().as_ref() == Some(content);
        let is_given = |path: &Path| owner.is_none_or(|owner| owner.has_path(path));
        let all_given = || name.ancestors().all(|part| is_given(&target.join(part)));
        count += usize::from(!is_same || !all_given());
    }
    Ok(count)
}

/// Where a folder is made ready.
fn staged_name(target: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".new");
    target.with_file_name(name)
}

/// Removes what a killed run left there, or what was replaced.
fn clear(staged: &Path) -> Result<(), NodeFilesError> {
    match kind(staged)? {
        Some(kind) if kind.is_dir() => fs::remove_dir_all(staged).map_err(NodeFilesError::io("remove", staged)),
        Some(_) => remove_file(staged).map(drop),
        None => Ok(()),
    }
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

/// Whether something is at the target that may be replaced; nothing is: `false`.
fn check(folder: &Path) -> Result<bool, NodeFilesError> {
    match kind(folder)? {
        None => Ok(false),
        Some(kind) if !kind.is_dir() => Err(NodeFilesError::NoFolder { path: folder.to_owned() }),
        Some(_) if is_ours(folder) || is_empty(folder)? => Ok(true),
        Some(_) => Err(NodeFilesError::Foreign { path: folder.to_owned() }),
    }
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
    clear(&staged_name(folder))?;
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
