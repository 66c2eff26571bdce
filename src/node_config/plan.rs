//! Compares the wanted files, those that we wrote before and those that are there. Reads, and writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::hosts_toml::{HOSTS_TOML, Rendered, Rendering, sha256};
use super::state::{STATE_FILE, State};
use super::{Finding, NodeConfigError, REGISTRY_D};
use crate::config::Secret;

/// Files of the node have less than 1 MiB; of a larger one only the first MiB counts.
const MAX_BYTES: u64 = 1 << 20;

/// A file to write.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) path: String,
    /// The present content, for the diff.
    pub(super) before: Option<Secret>,
    pub(super) after: Rendered,
}

/// A file to remove.
#[derive(Debug)]
pub(super) struct Removal {
    pub(super) path: String,
    /// What is there; `None`: nothing but what a killed run may have left beside it.
    pub(super) before: Option<Secret>,
}

/// The steps that have to be done.
#[derive(Debug)]
pub(super) struct Plan {
    /// In the order in which it is done: `hosts.toml` after what it names.
    pub(super) writes: Vec<Write>,
    /// `hosts.toml` before what it names.
    pub(super) removals: Vec<Removal>,
    /// Folders that are to go if they are empty then.
    pub(super) folders: BTreeSet<String>,
    /// Findings that stop the plan.
    pub(super) obstacles: Vec<Finding>,
    /// Files that are kept as they are.
    pub(super) notes: Vec<String>,
    /// The state before and after.
    pub(super) before: State,
    pub(super) after: State,
}

/// A path's content.
pub(super) enum Found {
    Nothing,
    /// No plain file: a folder, a symbolic link.
    Other,
    File {
        content: Vec<u8>,
        mode: u32,
    },
}

/// Looks at a path, without following a symbolic link at its end.
pub(super) fn look_at(path: &Path) -> Result<Found, NodeConfigError> {
    let failed = |source| NodeConfigError::Read { path: path.to_owned(), source };
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Found::Nothing);
        }
        Err(error) => return Err(failed(error)),
    };
    if !metadata.is_file() {
        return Ok(Found::Other);
    }
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_BYTES).read_to_end(&mut content).map_err(failed)?;
    Ok(Found::File { content, mode: metadata.mode() & 0o7777 })
}

/// Makes the plan for `registry.d` at `folder`.
pub(super) fn make(folder: &Path, rendering: &Rendering) -> Result<Plan, NodeConfigError> {
    let before = State::read(folder)?;
    let hosts: BTreeSet<&str> = rendering.files.keys().map(|path| host_of(path)).collect();
    let applied = (!rendering.files.is_empty()).then(|| rendering.version.clone());
    let mut plan = Plan {
        writes: Vec::new(),
        removals: Vec::new(),
        folders: BTreeSet::new(),
        obstacles: Vec::new(),
        notes: Vec::new(),
        after: State { applied, files: BTreeMap::new(), ..before.clone() },
        before,
    };
    for (path, file) in &rendering.files {
        plan.want(folder, path, file)?;
    }
    plan.writes.sort_by_key(|write| write.path.ends_with(HOSTS_TOML));
    plan.let_go(folder, rendering, &hosts)?;
    plan.removals.sort_by_key(|removal| !removal.path.ends_with(HOSTS_TOML));
    plan.name_foreign(folder, rendering, &hosts)?;
    Ok(plan)
}

/// The first component of a path below `registry.d`.
fn host_of(path: &str) -> &str {
    path.split_once('/').map_or(path, |(host, _)| host)
}

/// Whether the name is one under which a file is written before it is renamed to its place.
fn is_staged(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".new")
}

fn text_of(content: &[u8]) -> Secret {
    Secret::new(String::from_utf8_lossy(content).into_owned())
}

impl Plan {
    fn want(&mut self, folder: &Path, path: &str, file: &Rendered) -> Result<(), NodeConfigError> {
        let hash = sha256(file.content.expose().as_bytes());
        self.after.files.insert(path.to_owned(), vec![hash.clone()]);
        let host = folder.join(host_of(path));
        let is_other = std::fs::symlink_metadata(&host).is_ok_and(|metadata| !metadata.is_dir());
        let found = if is_other { Found::Other } else { look_at(&folder.join(path))? };
        let before = match found {
            Found::Nothing => None,
            Found::Other => {
                self.in_the_way(path, "is, or is in, no plain folder or file; move it away");
                return Ok(());
            }
            Found::File { content, mode } => {
                let there = sha256(&content);
                if there != hash && !self.before.knows(path, &there) {
                    let text = if self.before.files.contains_key(path) {
                        "was changed since it was written; take the change into the configuration and remove the file"
                    } else {
                        "was not written by node-config; move it away"
                    };
                    self.in_the_way(path, text);
                    return Ok(());
                }
                if there == hash && mode == file.mode && !self.before.is_interrupted(path) {
                    return Ok(());
                }
                Some(text_of(&content))
            }
        };
        self.writes.push(Write { path: path.to_owned(), before, after: file.clone() });
        Ok(())
    }

    fn in_the_way(&mut self, path: &str, text: &str) {
        self.obstacles.push(Finding { file: format!("{REGISTRY_D}/{path}"), line: None, text: text.to_owned() });
    }

    /// What we wrote and nobody wants any more. The files of a host stay together if one of them was changed.
    fn let_go(&mut self, folder: &Path, rendering: &Rendering, wanted: &BTreeSet<&str>) -> Result<(), NodeConfigError> {
        let mut changed = BTreeSet::new();
        let mut removals = Vec::new();
        for path in self.before.files.keys().filter(|path| !rendering.files.contains_key(*path)) {
            let host = host_of(path);
            let is_folder = std::fs::symlink_metadata(folder.join(host)).is_ok_and(|metadata| metadata.is_dir());
            match if is_folder { look_at(&folder.join(path))? } else { Found::Nothing } {
                Found::Nothing if is_folder => removals.push(Removal { path: path.clone(), before: None }),
                Found::Nothing => {}
                Found::File { content, .. } if self.before.knows(path, &sha256(&content)) => {
                    removals.push(Removal { path: path.clone(), before: Some(text_of(&content)) });
                }
                Found::File { .. } | Found::Other => {
                    self.notes.push(format!("{REGISTRY_D}/{path} was changed and is let be, though nothing wants it"));
                    changed.insert(host.to_owned());
                }
            }
        }
        removals.retain(|removal| {
            let host = host_of(&removal.path);
            let goes = wanted.contains(host) || !changed.contains(host);
            if goes && !wanted.contains(host) {
                self.folders.insert(host.to_owned());
            }
            goes
        });
        self.removals = removals;
        Ok(())
    }

    /// Names what is there and not ours.
    fn name_foreign(
        &mut self,
        folder: &Path,
        rendering: &Rendering,
        wanted: &BTreeSet<&str>,
    ) -> Result<(), NodeConfigError> {
        let ours: BTreeSet<String> = self.before.files.keys().map(|path| host_of(path).to_owned()).collect();
        for name in names(folder)? {
            if name == STATE_FILE || is_staged(&name) {
                continue;
            }
            if !wanted.contains(name.as_str()) {
                if !ours.contains(&name) {
                    self.notes.push(format!("{REGISTRY_D}/{name} is not of node-config and is let be"));
                }
                continue;
            }
            for file in names(&folder.join(&name))? {
                let path = format!("{name}/{file}");
                let known = rendering.files.contains_key(&path) || self.before.files.contains_key(&path);
                if !known && !is_staged(&file) {
                    self.notes.push(format!("{REGISTRY_D}/{path} is not of node-config and is let be"));
                }
            }
        }
        Ok(())
    }
}

/// Names in a directory, sorted; none if there is no directory.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, NodeConfigError> {
    let failed = |source| NodeConfigError::Read { path: folder.to_owned(), source };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
