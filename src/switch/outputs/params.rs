//! Modes with their parameters as YAML, as the mode file and the record have them.

use std::time::Duration;

use serde::Deserialize;

use super::reading;
use crate::switch::documents::ServerMode;
use crate::switch::settings::{Login, Params, Target, Upstream};
use crate::values::{ConfigDuration, Scheme, Secret};
use crate::yaml::Yaml;

/// The lines of a mode.
pub(super) fn params_as_yaml(params: &Params) -> Vec<(&'static str, Yaml)> {
    let ttl = match params {
        Params::Proxy { ttl, .. } => Some(*ttl),
        Params::Direct(_) | Params::Local | Params::Unmanaged(_) => None,
    };
    mode_as_yaml(params.target(), params.upstream(), ttl)
}

/// The lines of a mode of the servers.
pub(super) fn server_mode_as_yaml(mode: &ServerMode) -> Vec<(&'static str, Yaml)> {
    let ttl = match mode {
        ServerMode::Proxy { ttl, .. } => Some(*ttl),
        ServerMode::Direct(_) | ServerMode::Local | ServerMode::Unmanaged => None,
    };
    mode_as_yaml(mode.target(), mode.upstream(), ttl)
}

fn mode_as_yaml(mode: Target, upstream: Option<&Upstream>, ttl: Option<Duration>) -> Vec<(&'static str, Yaml)> {
    let mut lines = vec![("mode", Yaml::text(mode.as_str()))];
    if let Some(upstream) = upstream {
        lines.push(("upstream", upstream_as_yaml(upstream)));
    }
    if let Some(ttl) = ttl {
        lines.push(("ttl", Yaml::text(ConfigDuration(ttl).to_string())));
    }
    lines
}

/// An upstream.
pub(super) fn upstream_as_yaml(upstream: &Upstream) -> Yaml {
    let mut lines =
        vec![("imagesRepo", Yaml::text(&upstream.images_repo)), ("scheme", Yaml::text(upstream.scheme.as_str()))];
    if let Some(ca) = &upstream.ca {
        lines.push(("ca", Yaml::text(ca)));
    }
    if let Some(Login { username, password }) = &upstream.login {
        lines.push(("username", Yaml::text(username)));
        lines.push(("password", Yaml::text(password.expose())));
    }
    Yaml::map(lines)
}

/// A mode as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawParams {
    pub(super) mode: String,
    #[serde(default)]
    pub(super) upstream: Option<RawUpstream>,
    #[serde(default)]
    pub(super) ttl: Option<ConfigDuration>,
}

/// An upstream as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawUpstream {
    images_repo: String,
    scheme: Scheme,
    #[serde(default)]
    ca: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<Secret>,
}

impl RawParams {
    pub(super) fn read(self) -> Result<Params, String> {
        let mode = reading::target(&self.mode)?;
        let upstream = self.upstream.map(RawUpstream::read).transpose()?;
        match (mode, upstream, self.ttl) {
            (Target::Direct, Some(upstream), None) => Ok(Params::Direct(upstream)),
            (Target::Proxy, Some(upstream), Some(ttl)) => Ok(Params::Proxy { upstream, ttl: ttl.0 }),
            (Target::Local, None, None) => Ok(Params::Local),
            (Target::Unmanaged, upstream, None) => Ok(Params::Unmanaged(upstream)),
            (Target::Direct | Target::Proxy | Target::Local | Target::Unmanaged, _, _) => {
                Err(format!("mode {mode} has parameters that are not its own, or lacks some"))
            }
        }
    }

    pub(super) fn read_server_mode(self) -> Result<ServerMode, String> {
        let has_upstream = self.upstream.is_some();
        let params = self.read()?;
        if !params.is_managed() && has_upstream {
            return Err("mode Unmanaged of a server has no upstream".to_owned());
        }
        Ok(ServerMode::of(&params))
    }
}

impl RawUpstream {
    pub(super) fn read(self) -> Result<Upstream, String> {
        if self.images_repo.is_empty() {
            return Err("imagesRepo is empty".to_owned());
        }
        let login = match (self.username, self.password) {
            (Some(username), Some(password)) => Some(Login { username, password }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err("username and password go together".to_owned()),
        };
        Ok(Upstream { images_repo: self.images_repo, scheme: self.scheme, ca: self.ca, login })
    }
}
