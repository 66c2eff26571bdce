//! The memory of what was written before: which files are ours, and what they held.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::NodeConfigError;
use super::plan::{Found, look_at};
use super::settings::is_host;

/// The state's file in `registry.d`; containerd only looks into folders there.
pub(super) const STATE_FILE: &str = "d8-registry-state.json";
/// The form of the file.
const FORM: u32 = 1;

/// Files of ours by their path below `registry.d`, each with the hashes that it may have. More than one says that a
/// change was under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) form: u32,
    /// The version that was applied last, whole; `None`: none, or one without files.
    pub(super) applied: Option<String>,
    pub(super) files: BTreeMap<String, Vec<String>>,
}

impl Default for State {
    fn default() -> Self {
        Self { form: FORM, applied: None, files: BTreeMap::new() }
    }
}

impl State {
    /// Reads the state; none is an empty one.
    pub(super) fn read(folder: &Path) -> Result<Self, NodeConfigError> {
        let path = folder.join(STATE_FILE);
        let damaged = |reason: &str| NodeConfigError::State { path: path.clone(), reason: reason.to_owned() };
        let content = match look_at(&path)? {
            Found::Nothing => return Ok(Self::default()),
            Found::Other => return Err(damaged("it is no file")),
            Found::File { content, .. } => content,
        };
        // The parser's words could hold pieces of the file; where it stopped is enough.
        let state: Self = serde_json::from_slice(&content)
            .map_err(|error| damaged(&format!("line {}, column {}", error.line(), error.column())))?;
        if state.form != FORM {
            return Err(damaged("it was written by another version of this program"));
        }
        let plain = |path: &String| {
            path.split_once('/').is_some_and(|(host, file)| is_host(host) && !file.contains('/') && file != "..")
        };
        if !state.files.keys().all(plain) {
            return Err(damaged("it names files elsewhere"));
        }
        Ok(state)
    }

    /// As the file has it.
    pub(super) fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Whether a file with this hash was written by us.
    pub(super) fn knows(&self, path: &str, hash: &str) -> bool {
        self.files.get(path).is_some_and(|hashes| hashes.iter().any(|known| known == hash))
    }

    /// Whether a change of the file was under way.
    pub(super) fn is_interrupted(&self, path: &str) -> bool {
        self.files.get(path).is_some_and(|hashes| hashes.len() > 1)
    }
}
