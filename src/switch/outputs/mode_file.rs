//! Secret `d8-registry-mode`: the file from which the servers on the masters take their modes.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::go_json::sha256_hex;
use super::manifest::{SecretManifest, text_of};
use super::params::{RawParams, RawUpstream, server_mode_as_yaml};
use super::{names, reading};
use crate::switch::documents::{Coming, FoundModeFile, ModeFile, Phase, Plane, ServerMode};
use crate::values::{ConfigDuration, Secret};
use crate::yaml::Yaml;

/// The form of the file.
const VERSION: u64 = 1;

impl ModeFile {
    /// The file's text.
    #[must_use]
    pub fn render(&self) -> Secret {
        let mut lines = vec![("version", Yaml::Number(VERSION)), ("generation", Yaml::Number(self.generation))];
        lines.extend(plane_as_yaml(&self.plane));
        Secret::new(Yaml::map(lines).render())
    }

    /// What a server says of this file once it holds it: SHA-256 of its bytes, in hexadecimal.
    #[must_use]
    pub fn hash(&self) -> String {
        sha256_hex(self.render().expose().as_bytes())
    }

    /// The Secret.
    #[must_use]
    pub fn to_secret(&self) -> SecretManifest {
        SecretManifest::ours(names::MODE_FILE, "Opaque")
            .label("app", "d8-registry")
            .annotation("helm.sh/resource-policy", "keep")
            .data(names::MODE_FILE_KEY, self.render().expose())
    }
}

impl FoundModeFile {
    /// Reads the data of the Secret, which the chart may have written too.
    ///
    /// # Errors
    /// A sentence without secrets.
    pub fn read(data: &BTreeMap<String, Vec<u8>>) -> Result<Self, String> {
        let text = text_of(data, names::MODE_FILE_KEY)?;
        let raw: Raw = reading::yaml(text)?;
        if raw.version != VERSION {
            return Err(format!("version {} is not known", raw.version));
        }
        let file = ModeFile { generation: raw.generation, plane: raw.plane.read()? };
        Ok(Self { file, hash: sha256_hex(text.as_bytes()) })
    }
}

/// The lines of what servers hold.
pub(super) fn plane_as_yaml(plane: &Plane) -> Vec<(&'static str, Yaml)> {
    let mut lines = vec![("inForce", Yaml::map(server_mode_as_yaml(&plane.in_force)))];
    if let Some(Coming { mode, phase }) = &plane.coming {
        let mut coming = server_mode_as_yaml(mode);
        coming.push(("phase", Yaml::text(phase.as_str())));
        lines.push(("coming", Yaml::map(coming)));
    }
    if !plane.previous.is_empty() {
        let previous = plane.previous.iter().map(|mode| Yaml::map(server_mode_as_yaml(mode))).collect();
        lines.push(("previous", Yaml::List(previous)));
    }
    lines
}

#[derive(Deserialize)]
struct Raw {
    version: u64,
    generation: u64,
    #[serde(flatten)]
    plane: RawPlane,
}

/// What servers hold, as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawPlane {
    in_force: RawParams,
    #[serde(default)]
    coming: Option<RawComing>,
    #[serde(default)]
    previous: Vec<RawParams>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawComing {
    mode: String,
    #[serde(default)]
    upstream: Option<RawUpstream>,
    #[serde(default)]
    ttl: Option<ConfigDuration>,
    phase: String,
}

impl RawPlane {
    pub(super) fn read(self) -> Result<Plane, String> {
        let in_force = self.in_force.read_server_mode()?;
        let coming = self.coming.map(RawComing::read).transpose()?;
        let previous = self.previous.into_iter().map(RawParams::read_server_mode).collect::<Result<Vec<_>, _>>()?;
        if previous.len() > Plane::MAX_PREVIOUS || previous.contains(&ServerMode::Unmanaged) {
            return Err("there are too many previous modes, or one of them is Unmanaged".to_owned());
        }
        Ok(Plane { in_force, coming, previous })
    }
}

impl RawComing {
    fn read(self) -> Result<Coming, String> {
        let Self { mode, upstream, ttl, phase } = self;
        let phase = match phase.as_str() {
            "filling" => Phase::Filling,
            "ready" => Phase::Ready,
            _ => return Err("the coming mode has a phase that is not known".to_owned()),
        };
        let mode = RawParams { mode, upstream, ttl }.read_server_mode()?;
        if mode == ServerMode::Unmanaged {
            return Err("the coming mode is Unmanaged".to_owned());
        }
        Ok(Coming { mode, phase })
    }
}
