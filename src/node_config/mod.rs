//! What a node's containerd needs to pull from the registry: `d8-registry node-config`.
//!
//! `settings` is what is wanted, `hosts_toml` renders it, `state` remembers what was written, `plan` compares both with
//! the disk, `steps` carries the plan out, `diff` shows it, `preflight` looks for settings that work against it, `way` is how containerd asks then. Files
//! that are not this part's own are never written, moved or removed; containerd's own configuration is only read.
//!
//! # Decisions
//!
//! The configuration is the content of the Secret `registry-bashible-config` as it is. A schema of modes would have to
//! know what the mirrors of a mode are, which whoever renders the Secret knows.
//!
//! What is rendered:
//! - CA files are named in `hosts.toml` without their directory; containerd looks beside the file. Absolute paths are
//!   not true below another `--root`.
//! - A mirror with `http` gets no `skip_verify`: with it containerd tries HTTPS first, unverified.
//! - There is no `server`: after the mirrors containerd asks the host itself. The last mirror as `server` is one
//!   repetition more in containerd 2, and another layout than the one on nodes today.
//! - Plain containerd passes over `auth` and `rewrite` without a word, while the header works with both kinds. So where the
//!   settings don't say which it is and its program does not show it, it counts as plain.
//! - A mirror that rewrites names is left out for plain containerd, with a note: the Secret of mode Direct has one for
//!   Deckhouse's containerd and the registry itself behind it, and is the same for all nodes. A host of which nothing is left
//!   is a finding, as its images would come from nowhere.
//!
//! Whose a file is:
//! - A foreign file in the way stops everything, also the files of other hosts: writing the rest would leave half a
//!   transition with a version hash. There is no `--force`: whoever wants that removes the file.
//! - A changed file of a host that nobody wants any more stays, with the files that it names, and is no finding: the
//!   node has what is wanted.
//! - A file with exactly the wanted content is ours, whoever wrote it: nothing could be done about a finding.
//! - Before files are changed the state holds the old and the new hash of each, afterwards the new one. State last: the
//!   files of a killed run would be foreign. State first: its old files would count as changed by hand.
//! - The version hash covers secrets: without them a rotation would not be seen. A reader of the node's annotation could
//!   try guesses of a password; generated ones can't be guessed.
//! - Below another `--root` than `/` a link is refused. Following it, `--check` would read the caller's own files and a
//!   write would go there. Resolved below the root, the same name would be one file here and another on the node.
//!
//! What `--check` reads:
//! - containerd's files, and not `containerd config dump`: that needs the node's binary below `--root`, and does not say
//!   which file a setting is from.
//! - A drop-in counts where `config.toml` imports it. containerd 2.2 to 2.4 show `conf.d` among the imports, but don't
//!   read it.

mod diff;
mod extensions;
mod hosts_toml;
mod plan;
mod preflight;
mod settings;
mod state;
mod steps;
mod way;

#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

use self::hosts_toml::Rendering;
use self::plan::Plan;
pub use self::settings::{ContainerdVersion, NodeConfig};
use self::state::State;
pub use self::way::{Way, ways};
use crate::config::ConfigError;
use crate::fs::{self, FsError};

/// Directory of containerd's configuration, below the root.
const CONTAINERD: &str = "etc/containerd";
/// Directory of the hosts' directories, below the root.
const REGISTRY_D: &str = "etc/containerd/registry.d";

/// Something that keeps the node from pulling as it should. Names files and keys, never a value that may be secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, below the root.
    pub file: String,
    /// The line in it, from 1.
    pub line: Option<usize>,
    /// The finding, and what to do about it.
    pub text: String,
}

impl fmt::Display for Finding {
    /// `etc/containerd/config.toml:7: …`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.text)
    }
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The hash of all that is wanted; 64 hexadecimal digits.
    pub version: String,
    /// Findings. If there is one, nothing was written.
    pub findings: Vec<Finding>,
    /// Files that were written, removed or kept, a line each.
    pub notes: Vec<String>,
}

/// Why nothing could be said or done. No variant shows a secret.
#[derive(Debug, thiserror::Error)]
pub enum NodeConfigError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no such folder.
    #[error("--root {} is no folder", path.display())]
    Root {
        /// Which.
        path: PathBuf,
    },
    /// A symbolic link below another root than `/`.
    #[error("{} is a symbolic link, which could lead out of --root; put a folder there, or run this on the node itself with --root /", path.display())]
    Link {
        /// Which.
        path: PathBuf,
    },
    /// A file or folder of the node can't be read.
    #[error("{} can't be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The state of earlier runs is not known.
    #[error("{} is damaged: {reason}; remove it, then what is as wanted is taken over and the rest is reported", path.display())]
    State {
        /// The state's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another one is at work in the same folder.
    #[error("another node-config is at work in {}", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// A file can't be written or removed.
    #[error("the node's files can't be written")]
    Write(#[from] FsError),
    /// A file's permissions can't be set.
    #[error("the permissions of {} can't be set", path.display())]
    Permissions {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl NodeConfigError {
    /// Whether it is what was asked for that is wrong.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Root { .. })
    }
}

/// Writes what is wanted below `root`, each file whole or not at all. Killed anywhere, the next call finds its own files
/// again and goes on. Blocking.
///
/// # Errors
/// [`NodeConfigError`]; part of the files may then be written.
pub fn apply(root: &Path, wanted: &NodeConfig) -> Result<Outcome, NodeConfigError> {
    let folder = registry_d(root)?;
    fs::make_directory(&folder)?;
    let _held = hold(&folder)?;
    let (rendering, plan) = prepare(root, &folder, wanted)?;
    let mut notes = plan.notes.clone();
    if plan.obstacles.is_empty() {
        for step in steps::of(&plan) {
            notes.extend(steps::carry_out(&folder, &step)?);
        }
    }
    Ok(Outcome { version: rendering.version, findings: plan.obstacles, notes })
}

/// Shows the changes that [`apply`] would make, as a unified diff without secrets. Writes nothing. Blocking.
///
/// # Errors
/// [`NodeConfigError`].
pub fn preview(root: &Path, wanted: &NodeConfig) -> Result<(Outcome, String), NodeConfigError> {
    let folder = registry_d(root)?;
    let (rendering, plan) = prepare(root, &folder, wanted)?;
    let diff = diff::of(&plan);
    Ok((Outcome { version: rendering.version, findings: plan.obstacles, notes: plan.notes }, diff))
}

/// Looks for what would keep containerd from pulling as wanted: own registry settings in its configuration, extensions that it
/// lacks, and files in the way. Writes nothing. Blocking.
///
/// # Errors
/// [`NodeConfigError`].
pub fn check(root: &Path, wanted: &NodeConfig) -> Result<Outcome, NodeConfigError> {
    let folder = registry_d(root)?;
    let (rendering, plan) = prepare(root, &folder, wanted)?;
    let mut findings = preflight::look(root, wanted)?;
    findings.extend(extensions::contradiction(root, wanted)?);
    findings.extend(plan.obstacles);
    Ok(Outcome { version: rendering.version, findings, notes: plan.notes })
}

/// Others that write the folders of `wanted` themselves; where there is one, nothing of ours belongs there. Writes nothing.
/// Blocking.
///
/// # Errors
/// [`NodeConfigError`].
pub fn other_writers(root: &Path, wanted: &NodeConfig) -> Result<Vec<Finding>, NodeConfigError> {
    registry_d(root)?;
    preflight::others(root, wanted)
}

/// Whether files below `root` are there, or may be, that were written by [`apply`]. Blocking.
///
/// # Errors
/// [`NodeConfigError`].
pub fn holds_files(root: &Path) -> Result<bool, NodeConfigError> {
    Ok(!State::read(&registry_d(root)?)?.files.is_empty())
}

/// The file of containerd's own configuration that was changed last, below `root`, and when; `None` if there is none.
/// Blocking.
///
/// # Errors
/// [`NodeConfigError`].
pub fn containerd_changed(root: &Path) -> Result<Option<(PathBuf, SystemTime)>, NodeConfigError> {
    preflight::changed_last(root)
}

/// What of `wanted` this node's containerd can follow, rendered, and the plan for it.
fn prepare(root: &Path, folder: &Path, wanted: &NodeConfig) -> Result<(Rendering, Plan), NodeConfigError> {
    let fitted = extensions::fit(root, wanted)?;
    let rendering = hosts_toml::render(&fitted.wanted);
    let mut plan = plan::make(folder, &rendering)?;
    plan.notes.splice(..0, fitted.notes);
    plan.obstacles.splice(..0, fitted.obstacles);
    Ok((rendering, plan))
}

fn registry_d(root: &Path) -> Result<PathBuf, NodeConfigError> {
    if !root.is_dir() {
        return Err(NodeConfigError::Root { path: root.to_owned() });
    }
    match preflight::link_below(root, Path::new(REGISTRY_D)) {
        Some(link) => Err(NodeConfigError::Link { path: root.join(link) }),
        None => Ok(root.join(REGISTRY_D)),
    }
}

/// Keeps other callers out until the value is dropped.
fn hold(folder: &Path) -> Result<File, NodeConfigError> {
    let file = File::open(folder).map_err(|source| NodeConfigError::Read { path: folder.to_owned(), source })?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| NodeConfigError::Busy { path: folder.to_owned() })?;
    Ok(file)
}
