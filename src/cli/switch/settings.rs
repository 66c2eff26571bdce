//! From flags or a file to settings that were checked as the controller checks them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::Failure;
use crate::config;
use crate::switch::inputs::{self, Reading};
use crate::switch::{Settings, Target};

/// The data of Secret `d8-registry-settings`, without base64.
pub(super) type Data = BTreeMap<String, Vec<u8>>;

/// Parameters on the command line.
#[derive(Clone, Debug, clap::Args)]
pub struct ParameterArguments {
    /// The settings in a file: a manifest of ModuleConfig deckhouse, or its section spec.settings.registry.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["images_repo", "scheme", "ca_file", "license_file", "username", "password_file", "ttl", "check_mode"]
    )]
    pub settings: Option<PathBuf>,
    /// The registry with the images of Deckhouse, as host[:port]/path.
    #[arg(long, value_name = "REPO")]
    pub images_repo: Option<String>,
    /// HTTPS or HTTP [default: HTTPS].
    #[arg(long, value_name = "SCHEME")]
    pub scheme: Option<String>,
    /// PEM of the registry's authorities [default: the system's].
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// A file with the license key; the user is then license-token.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["username", "password_file"])]
    pub license_file: Option<PathBuf>,
    /// The registry's user.
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub username: Option<String>,
    /// A file with the user's password.
    #[arg(long, value_name = "FILE", requires = "username")]
    pub password_file: Option<PathBuf>,
    /// How long Proxy keeps what nobody asks for, at least 5m [default: for ever].
    #[arg(long, value_name = "SPAN")]
    pub ttl: Option<String>,
    /// Default: every image of the release has to be there before the switch; Relax: that of Deckhouse alone.
    #[arg(long, value_name = "MODE")]
    pub check_mode: Option<String>,
}

impl ParameterArguments {
    /// The settings for a mode; warnings beside them.
    pub(super) fn read(&self, mode: Target) -> Result<(Settings, Vec<String>), Failure> {
        let Reading { settings, warnings } = match &self.settings {
            Some(file) => from_file(file, mode)?,
            None => inputs::read_secret(&self.data(mode)?).0,
        };
        let settings = settings.map_err(|problems| wrong(&problems))?;
        Ok((settings, warnings))
    }

    fn data(&self, mode: Target) -> Result<Data, Failure> {
        let mut data = Data::from([("mode".to_owned(), mode.as_str().into())]);
        let mut set = |key: &str, value: Option<Vec<u8>>| {
            if let Some(value) = value {
                data.insert(key.to_owned(), value);
            }
        };
        let text = |text: &Option<String>| text.as_ref().map(|text| text.clone().into_bytes());
        set("imagesRepo", text(&self.images_repo));
        // Words of the command line are taken in any case.
        set("scheme", self.scheme.as_ref().map(|scheme| scheme.to_ascii_uppercase().into_bytes()));
        set("username", text(&self.username));
        set("ttl", text(&self.ttl));
        set("checkMode", text(&self.check_mode));
        for (key, file) in [("ca", &self.ca_file), ("license", &self.license_file), ("password", &self.password_file)] {
            set(key, file.as_deref().map(read_file).transpose()?);
        }
        Ok(data)
    }
}

/// Every problem, each on a line.
pub(super) fn wrong(problems: &[String]) -> Failure {
    Failure::usage(format!("the settings are not valid:\n  {}", problems.join("\n  ")))
}

pub(super) fn read_file(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| Failure::usage(format!("{} can't be read: {error}", file.display())))
}

fn from_file(file: &Path, mode: Target) -> Result<Reading, Failure> {
    let document: Value = config::read_yaml(file)?;
    let registry = section(&document).map_err(|message| Failure::usage(format!("{}: {message}", file.display())))?;
    let reading = inputs::read_file(registry);
    match &reading.settings {
        Ok(settings) if settings.params.target() != mode => Err(Failure::usage(format!(
            "{}: the mode there is {}, and {mode} is asked for",
            file.display(),
            settings.params.target()
        ))),
        Ok(_) | Err(_) => Ok(reading),
    }
}

/// The section `registry` of a manifest of ModuleConfig `deckhouse`, or the document itself where it is no manifest.
fn section(document: &Value) -> Result<&Value, &'static str> {
    if document.get("kind").is_none() && document.get("apiVersion").is_none() {
        return Ok(document);
    }
    let is = |pointer: &str, text: &str| document.pointer(pointer).and_then(Value::as_str) == Some(text);
    if !is("/kind", "ModuleConfig") || !is("/metadata/name", "deckhouse") {
        return Err("it is a manifest, and not of ModuleConfig deckhouse");
    }
    document.pointer("/spec/settings/registry").ok_or("there is no spec.settings.registry in it")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_manifest_of_module_config_is_taken_as_it_is_printed() {
        let registry = json!({"mode": "Local"});
        let manifest = json!({
            "apiVersion": "deckhouse.io/v1alpha1",
            "kind": "ModuleConfig",
            "metadata": {"name": "deckhouse"},
            "spec": {"version": 1, "enabled": true, "settings": {"registry": registry}},
        });
        assert_eq!(section(&manifest), Ok(&registry));
        assert_eq!(section(&registry), Ok(&registry));
        let mut other = manifest.clone();
        other["metadata"]["name"] = json!("registry");
        assert_eq!(section(&other), Err("it is a manifest, and not of ModuleConfig deckhouse"));
        let mut empty = manifest;
        empty["spec"] = json!({});
        assert_eq!(section(&empty), Err("there is no spec.settings.registry in it"));
    }
}
