//! From what is in force and a few flags to the settings with another upstream. Pure, but for the files that flags name.

use std::path::PathBuf;

use super::super::super::Failure;
use super::super::settings::{Data, read_file, wrong};
use crate::switch::inputs;
use crate::switch::outputs::InCluster;
use crate::switch::{CheckMode, DeckhouseRegistry, Login, Params, Record, Settings};

/// Flags that say which upstream.
#[derive(Clone, Debug, clap::Args)]
pub struct UpstreamParameters {
    /// The registry with the images of Deckhouse, as host[:port]/path [default: the one in force].
    #[arg(long, value_name = "REPO")]
    pub images_repo: Option<String>,
    /// HTTPS or HTTP [default: as it is for the same host, else HTTPS].
    #[arg(long, value_name = "SCHEME")]
    pub scheme: Option<String>,
    /// PEM of the registry's authorities [default: as it is for the same host, else the system's].
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// A file with the license key; the user is then license-token [default: as it is for the same host, else nobody signs in].
    #[arg(long, value_name = "FILE", conflicts_with_all = ["username", "password_file"])]
    pub license_file: Option<PathBuf>,
    /// The registry's user.
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub username: Option<String>,
    /// A file with the user's password.
    #[arg(long, value_name = "FILE", requires = "username")]
    pub password_file: Option<PathBuf>,
    /// Default: every image of the release has to be there; Relax: that of Deckhouse alone [default: as it is].
    #[arg(long, value_name = "MODE")]
    pub check_mode: Option<String>,
}

impl UpstreamParameters {
    /// Whether nothing is said.
    pub(super) const fn is_empty(&self) -> bool {
        let Self { images_repo, scheme, ca_file, license_file, username, password_file, check_mode } = self;
        images_repo.is_none()
            && scheme.is_none()
            && ca_file.is_none()
            && license_file.is_none()
            && username.is_none()
            && password_file.is_none()
            && check_mode.is_none()
    }

    /// The settings in force with what is said here in its place, and warnings. What is known of a host is kept for the same host
    /// and taken along to no other.
    pub(super) fn over(&self, params: &Params, check_mode: CheckMode) -> Result<(Settings, Vec<String>), Failure> {
        let before = inputs::to_secret(&Settings { params: params.clone(), check_mode });
        let repo = self.images_repo.as_deref().or_else(|| before.get("imagesRepo").map(|repo| repo.expose()));
        let repo = repo.unwrap_or_default().trim();
        let host = repo.split('/').next().unwrap_or_default();
        let is_same_host = params.upstream().is_some_and(|upstream| upstream.host().eq_ignore_ascii_case(host));
        let of_host = ["scheme", "ca", "username", "password"];
        let kept = before.iter().filter(|(key, _)| is_same_host || !of_host.contains(key));
        let mut data: Data = kept.map(|(key, value)| ((*key).to_owned(), value.expose().into())).collect();
        data.insert("imagesRepo".to_owned(), repo.into());
        let mut set = |key: &str, value: Vec<u8>| data.insert(key.to_owned(), value);
        if let Some(scheme) = &self.scheme {
            set("scheme", scheme.to_ascii_uppercase().into());
        }
        if let Some(check_mode) = &self.check_mode {
            set("checkMode", check_mode.clone().into());
        }
        if let Some(file) = &self.ca_file {
            set("ca", read_file(file)?);
        }
        if let Some(username) = &self.username {
            set("username", username.clone().into());
        }
        if let Some(file) = &self.password_file {
            set("password", read_file(file)?);
        }
        if let Some(file) = &self.license_file {
            set("license", read_file(file)?);
            data.retain(|key, _| key != "username" && key != "password");
        }
        if data.get("scheme").is_some_and(|scheme| scheme == b"HTTP") && self.ca_file.is_none() {
            data.remove("ca");
        }
        let reading = inputs::read_secret(&data).0;
        let settings = reading.settings.map_err(|problems| wrong(&problems))?;
        Ok((settings, reading.warnings))
    }
}

/// What gets another upstream: the mode that is wanted, with its parameters. Those of bare Unmanaged are what `registry`, the
/// data of Secret `deckhouse-registry`, names, which nodes and Deckhouse follow there: it becomes an Unmanaged with a registry.
///
/// # Errors
/// Why it has none, and what to do instead.
pub(super) fn in_force(record: &Record, registry: Option<&Data>) -> Result<Params, String> {
    match &record.target {
        params @ (Params::Direct(_) | Params::Proxy { .. } | Params::Unmanaged(Some(_))) => Ok(params.clone()),
        Params::Local => {
            Err("the mode is Local: the masters have every image and ask nobody, so there is no upstream to \
             change, and no licence that expires. Images come by `d8 mirror push`"
                .to_owned())
        }
        Params::Unmanaged(None) => {
            let data = registry.ok_or("the mode is Unmanaged, and there is no Secret deckhouse-registry")?;
            let named = DeckhouseRegistry::read(data).and_then(|registry| registry.upstream());
            match named.map_err(|why| format!("Secret deckhouse-registry can't be used: {why}"))? {
                Some(upstream) => Ok(Params::Unmanaged(Some(upstream))),
                None => Err("the mode is Unmanaged, and Secret deckhouse-registry names the cluster's own address: \
                     `d8-registry switch mode Unmanaged --images-repo ...` names a registry"
                    .to_owned()),
            }
        }
    }
}

/// Whether nodes, servers and Deckhouse's Secret have all been given `wanted`.
pub(super) fn is_written(record: &Record, found: Option<&DeckhouseRegistry>, wanted: &Params) -> bool {
    let ro = |password: &crate::values::Secret| Login { username: "ro".to_owned(), password: password.clone() };
    let known = record.ca.clone().zip(record.ro.as_ref().map(ro));
    let in_cluster = known.map(|(ca, ro)| InCluster { ca, ro });
    let registry = DeckhouseRegistry::of(wanted, in_cluster.as_ref());
    record.target == *wanted
        && record.deckhouse_registry.as_ref() == Some(wanted)
        && registry.is_some()
        && found == registry.as_ref()
}

#[cfg(test)]
mod tests;
