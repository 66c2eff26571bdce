//! Looks through containerd's own configuration for what works against `registry.d`. Reads only, and never shows a value
//! but that of `config_path`.
//!
//! containerd's treatment of imports was seen by `containerd config dump`: 1.6 takes a plugin's table whole from the
//! imported file, 2.x merges key by key. Newer 2.x name `conf.d` among the imports of `containerd config default` and
//! `dump`, and yet read it only where a `config.toml` imports it; seen with 2.4.2 and a running daemon too.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use toml_edit::{Document, Item, TableLike};

use super::plan::names;
use super::settings::{ContainerdVersion, NodeConfig};
use super::{CONTAINERD, Finding, NodeConfigError, REGISTRY_D};

/// The tables that hold registry settings, by the configuration's version that they belong to.
const PLUGINS: [(i64, &str); 3] = [(1, "cri"), (2, "io.containerd.grpc.v1.cri"), (3, "io.containerd.cri.v1.images")];
/// Keys of such a table that are settings of their own beside `config_path`.
const LEGACY: [&str; 4] = ["mirrors", "configs", "auths", "headers"];
/// The beginning that `config_path` has to have.
const WANTED_PATH: &str = "/etc/containerd/registry.d";
/// Deckhouse's agent leaves it where it writes `registry.d` itself.
const AGENT: &str = ".managed-by-agent";
/// The file in which Deckhouse's bashible step notes the hosts that it writes.
const BASHIBLE: &str = "deckhouse_hosts_state.json";

/// All findings, file by file.
pub(super) fn look(root: &Path, wanted: &NodeConfig) -> Result<Vec<Finding>, NodeConfigError> {
    let mut search = Search::new(root, wanted.version);
    let main = PathBuf::from(CONTAINERD).join("config.toml");
    let is_there = search.file(&main, Role::Main)?;
    // Findings about `config.toml` come before those about drop-ins, but may name one of them.
    let place = search.findings.len();
    let drop_ins = PathBuf::from(CONTAINERD).join("conf.d");
    if !search.is_link(&drop_ins) {
        for name in names(&root.join(&drop_ins))?.iter().filter(|name| name.ends_with(".toml")) {
            search.file(&drop_ins.join(name), Role::DropIn)?;
        }
    }
    if let Some(text) = search.unread(is_there) {
        search.findings.insert(place, Finding { file: main.display().to_string(), line: None, text });
    }
    search.other_writers(wanted)?;
    Ok(search.findings)
}

/// Only those about others that write the same folders.
pub(super) fn others(root: &Path, wanted: &NodeConfig) -> Result<Vec<Finding>, NodeConfigError> {
    let mut search = Search::new(root, wanted.version);
    search.other_writers(wanted)?;
    Ok(search.findings)
}

/// The file that was changed last of those that containerd reads.
pub(super) fn changed_last(root: &Path) -> Result<Option<(PathBuf, SystemTime)>, NodeConfigError> {
    let mut search = Search::new(root, None);
    search.file(&PathBuf::from(CONTAINERD).join("config.toml"), Role::Main)?;
    let mut last: Option<(PathBuf, SystemTime)> = None;
    for file in search.seen {
        let path = root.join(&file);
        let changed = match std::fs::metadata(&path).and_then(|metadata| metadata.modified()) {
            Ok(changed) => changed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(NodeConfigError::Read { path, source }),
        };
        if last.as_ref().is_none_or(|(_, before)| *before < changed) {
            last = Some((file, changed));
        }
    }
    Ok(last)
}

/// How a file comes to containerd.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Main,
    Imported,
    /// In `conf.d` and imported by nothing: Deckhouse merges it into `config.toml`.
    DropIn,
}

struct Search<'a> {
    root: &'a Path,
    findings: Vec<Finding>,
    /// Files below the root that were read.
    seen: BTreeSet<PathBuf>,
    generation: Option<ContainerdVersion>,
    /// Which of [`PLUGINS`] is read, from 1.
    plugin: u8,
    /// Whether the table that is read points at `registry.d`.
    points: bool,
    /// Whether a file that could say so was not read.
    hidden: bool,
    /// A drop-in that would point there, if it were read.
    drop_in: Option<PathBuf>,
}

/// The first symbolic link on the way from the root to a file. Below another root than `/` it would be followed in the
/// caller's own.
pub(super) fn link_below(root: &Path, file: &Path) -> Option<PathBuf> {
    if root.canonicalize().is_ok_and(|root| root == Path::new("/")) {
        return None;
    }
    let mut way: Vec<&Path> = file.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
    way.reverse();
    way.into_iter().find(|part| root.join(part).is_symlink()).map(Path::to_owned)
}

impl<'a> Search<'a> {
    const fn new(root: &'a Path, generation: Option<ContainerdVersion>) -> Self {
        Self {
            root,
            findings: Vec::new(),
            seen: BTreeSet::new(),
            generation,
            plugin: 2,
            points: false,
            hidden: false,
            drop_in: None,
        }
    }

    fn find(&mut self, file: &Path, line: Option<usize>, text: String) {
        self.findings.push(Finding { file: file.display().to_string(), line, text });
    }

    /// Whether a symbolic link keeps a file or folder from being looked at, which is a finding.
    fn is_link(&mut self, file: &Path) -> bool {
        let Some(link) = link_below(self.root, file) else { return false };
        if self.seen.insert(link.clone()) {
            let text = "is a symbolic link, which could lead out of --root and is not followed; put what it leads to there, \
                        or run this on the node itself with --root /";
            self.find(&link, None, text.to_owned());
        }
        true
    }

    /// The finding if `registry.d` is not read.
    fn unread(&self, is_there: bool) -> Option<String> {
        if !is_there {
            let wanted = format!("registry.config_path has to be \"{WANTED_PATH}\"");
            return Some(format!("is not there, so {REGISTRY_D} is not read: {wanted}"));
        }
        if self.points || self.hidden {
            return None;
        }
        let (_, plugin) = PLUGINS[usize::from(self.plugin - 1)];
        let mut text = format!(
            "registry.config_path is not set, so {REGISTRY_D} is not read: set config_path = \"{WANTED_PATH}\" in \
             [plugins.\"{plugin}\".registry] and restart containerd",
        );
        if let Some(drop_in) = &self.drop_in {
            text.push_str(&format!("; {} sets it, but is not imported", drop_in.display()));
            if self.generation == Some(ContainerdVersion::V2) {
                text.push_str(&format!(": imports = [\"/{CONTAINERD}/conf.d/*.toml\"] would do too"));
            }
        }
        Some(text)
    }

    /// Looks through a file and what it imports; `false` if there is none.
    fn file(&mut self, file: &Path, role: Role) -> Result<bool, NodeConfigError> {
        if self.is_link(file) {
            self.hidden |= role != Role::DropIn;
            return Ok(true);
        }
        if !self.seen.insert(file.to_owned()) {
            return Ok(true);
        }
        let path = self.root.join(file);
        let text = match std::fs::read(&path) {
            Ok(content) => String::from_utf8_lossy(&content).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(NodeConfigError::Read { path, source }),
        };
        let document = match Document::parse(text.as_str()) {
            Ok(document) => document,
            Err(error) => {
                // The rest of the parser's words would show the line.
                let line = error.span().map(|span| line_of(&text, span.start));
                self.find(file, line, format!("is not TOML, containerd would not start: {}", error.message()));
                return Ok(true);
            }
        };
        let table = document.as_table();
        if role == Role::Main {
            self.version(file, &text, table);
        }
        for (version, plugin) in PLUGINS {
            self.plugin(file, &text, table, version, plugin, role);
        }
        self.imports(file, &text, table, role)?;
        Ok(true)
    }

    /// Takes the configuration's version, which decides which tables are read.
    fn version(&mut self, file: &Path, text: &str, table: &dyn TableLike) {
        let version = table.get("version").and_then(Item::as_integer).unwrap_or(1);
        let line = line_of_key(text, table, "version");
        let generation = if version >= 3 { ContainerdVersion::V2 } else { ContainerdVersion::V1 };
        match (self.generation, version) {
            (Some(ContainerdVersion::V1), 3..) => {
                self.find(file, line, format!("containerd 1 does not read version = {version}"));
            }
            (Some(ContainerdVersion::V2), ..2) => {
                self.find(file, line, "containerd 2 does not read version = 1".to_owned());
            }
            _ => {}
        }
        self.generation = self.generation.or(Some(generation));
        self.plugin = match version {
            3.. => 3,
            2 => 2,
            _ => 1,
        };
    }

    fn plugin(&mut self, file: &Path, text: &str, table: &dyn TableLike, version: i64, plugin: &str, role: Role) {
        let Some(settings) = below(table, "plugins").and_then(|plugins| below(plugins, plugin)) else { return };
        let is_read = version == i64::from(self.plugin);
        let registry = below(settings, "registry");
        let config_path = registry.and_then(|registry| registry.get("config_path")).and_then(Item::as_str);
        let config_path = config_path.filter(|path| !path.is_empty());
        let is_replaced = role == Role::Imported && is_read && self.generation == Some(ContainerdVersion::V1);
        if is_replaced && config_path.is_none() {
            let line = below(table, "plugins").and_then(|plugins| line_of_key(text, plugins, plugin));
            self.find(file, line, format!(
                "[plugins.\"{plugin}\"]: containerd 1 takes the whole table from here and loses that of config.toml, its \
                 registry.config_path too; move these settings to config.toml",
            ));
        }
        let Some(registry) = registry else { return };
        let key = format!("plugins.\"{plugin}\".registry");
        if let Some(path) = config_path {
            let line = line_of_key(text, registry, "config_path");
            let first = path.split(':').next().unwrap_or_default().trim_end_matches('/');
            if first != WANTED_PATH {
                self.find(file, line, format!("{key}.config_path leads to {path}; it has to begin with {WANTED_PATH}"));
            } else if !is_read && role != Role::DropIn {
                self.find(file, line, format!("{key}.config_path is not read in a configuration of this version"));
            } else if role != Role::DropIn {
                self.points = true;
            } else if is_read {
                self.drop_in.get_or_insert_with(|| file.to_owned());
            }
        }
        for legacy in LEGACY {
            self.legacy(file, text, registry, &key, legacy);
        }
    }

    /// Settings from the time before `hosts.toml`. containerd refuses to start with `mirrors` beside `config_path`, and
    /// takes logins from the others.
    fn legacy(&mut self, file: &Path, text: &str, registry: &dyn TableLike, key: &str, legacy: &str) {
        let Some(settings) = below(registry, legacy) else { return };
        // The empty tables that `containerd config default` prints say nothing.
        for (host, _) in settings.iter() {
            // A URL may have a login in it.
            let shown = host.rsplit('@').next().unwrap_or_default();
            let line = line_of_key(text, settings, host).or_else(|| line_of_key(text, registry, legacy));
            self.find(file, line, format!(
                "{key}.{legacy}.\"{shown}\" is a registry setting of its own; it belongs into {REGISTRY_D}, in a folder of its \
                 host",
            ));
        }
    }

    fn imports(&mut self, file: &Path, text: &str, table: &dyn TableLike, role: Role) -> Result<(), NodeConfigError> {
        let Some(imports) = table.get("imports").and_then(Item::as_array) else { return Ok(()) };
        let line = line_of_key(text, table, "imports");
        // Only the first file's imports are sure to be read.
        let role = if role == Role::DropIn { Role::DropIn } else { Role::Imported };
        for pattern in imports.iter().filter_map(|import| import.as_str()) {
            let folder = file.parent().unwrap_or(Path::new(""));
            let below_root = pattern.trim_start_matches('/');
            let pattern = if below_root == pattern { folder.join(pattern) } else { PathBuf::from(below_root) };
            if pattern.parent().is_some_and(|folder| self.is_link(folder)) {
                self.hidden |= role != Role::DropIn;
                continue;
            }
            let Some(files) = matching(self.root, &pattern)? else {
                self.find(file, line, format!("imports {}, which can't be followed here", pattern.display()));
                continue;
            };
            for imported in files {
                self.file(&imported, role)?;
            }
        }
        Ok(())
    }

    /// Others that write the same folders.
    fn other_writers(&mut self, wanted: &NodeConfig) -> Result<(), NodeConfigError> {
        let folder = PathBuf::from(REGISTRY_D);
        let present = names(&self.root.join(&folder))?;
        if present.iter().any(|name| name == AGENT) {
            self.find(&folder.join(AGENT), None, "Deckhouse's registry agent writes this folder itself".to_owned());
        }
        if present.iter().any(|name| name == BASHIBLE) && !self.is_link(&folder.join(BASHIBLE)) {
            let path = self.root.join(&folder).join(BASHIBLE);
            let content = std::fs::read(&path).map_err(|source| NodeConfigError::Read { path, source })?;
            let hosts: Vec<String> = serde_json::from_slice(&content).unwrap_or_default();
            for host in hosts.iter().filter(|host| wanted.hosts.contains_key(*host)) {
                let text = format!("Deckhouse's bashible step writes the folder of {host} itself");
                self.find(&folder.join(BASHIBLE), None, text);
            }
        }
        Ok(())
    }
}

fn below<'a>(table: &'a dyn TableLike, key: &str) -> Option<&'a dyn TableLike> {
    table.get(key).and_then(Item::as_table_like)
}

/// The line of a key in a table, or of what stands under it.
fn line_of_key(text: &str, table: &dyn TableLike, key: &str) -> Option<usize> {
    let (key, item) = table.get_key_value(key)?;
    let span = key.span().or_else(|| item.span())?;
    Some(line_of(text, span.start))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The files that an import means, below the root; `None` where more than `*` in the file's name stands for anything.
fn matching(root: &Path, pattern: &Path) -> Result<Option<Vec<PathBuf>>, NodeConfigError> {
    let (Some(folder), Some(name)) = (pattern.parent(), pattern.file_name().and_then(|name| name.to_str())) else {
        return Ok(None);
    };
    let is_plain = |text: &str| !text.contains(['*', '?', '[', '\\']);
    let up = folder.components().any(|part| part == std::path::Component::ParentDir);
    if up || !is_plain(&folder.to_string_lossy()) || !is_plain(&name.replacen('*', "", 1)) {
        return Ok(None);
    }
    let Some((before, after)) = name.split_once('*') else { return Ok(Some(vec![pattern.to_owned()])) };
    let long_enough = |found: &String| found.len() >= before.len() + after.len();
    let names = names(&root.join(folder))?;
    let fitting =
        names.into_iter().filter(|found| long_enough(found) && found.starts_with(before) && found.ends_with(after));
    Ok(Some(fitting.map(|found| folder.join(found)).collect()))
}
