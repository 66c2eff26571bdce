//! The address of a registry: `[NAME=]http[s]://host[:port][/repository]`. Pure.

use std::fmt;
use std::str::FromStr;

use crate::oci::{Reference, RepoName};
use crate::upstream::Scheme;

/// A repository of a registry, as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryAddress {
    /// Its name in messages: a node's name, else the host.
    pub name: String,
    /// In clear or over TLS.
    pub scheme: Scheme,
    /// `host[:port]`.
    pub host: String,
    /// The repository, without slashes at its ends; may be `""`.
    pub path: String,
    /// The tag or digest behind the repository; only where a list comes from.
    pub reference: Option<Reference>,
}

/// Why a text is no address. Never shows the text: someone may have written a password into it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRegistry {
    /// Not a URL.
    #[error("not of the form [NAME=]http[s]://host[:port][/repository]")]
    Form,
    /// With a user.
    #[error(
        "an address with a user name in it can be seen by every user of this machine; use --username and --password-file, or --docker-config"
    )]
    Login,
    /// A path outside the grammar of repository names.
    #[error("its path is not the name of a repository")]
    Repository,
}

impl FromStr for RegistryAddress {
    type Err = InvalidRegistry;

    fn from_str(text: &str) -> Result<Self, InvalidRegistry> {
        let (before, rest) = text.split_once("://").ok_or(InvalidRegistry::Form)?;
        let (name, scheme) = before.rsplit_once('=').map_or((None, before), |(name, scheme)| (Some(name), scheme));
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(InvalidRegistry::Form),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.contains('@') {
            return Err(InvalidRegistry::Login);
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        if host.is_empty() || !host.bytes().all(plain) || name.is_some_and(|name| name.trim().is_empty()) {
            return Err(InvalidRegistry::Form);
        }
        let (path, reference) = split_reference(path.trim_matches('/'))?;
        if !path.is_empty() && path.parse::<RepoName>().is_err() {
            return Err(InvalidRegistry::Repository);
        }
        let name = name.unwrap_or(host).to_owned();
        Ok(Self { name, scheme, host: host.to_owned(), path: path.to_owned(), reference })
    }
}

fn split_reference(path: &str) -> Result<(&str, Option<Reference>), InvalidRegistry> {
    let found = path.split_once('@').or_else(|| path.split_once(':'));
    let Some((path, reference)) = found else { return Ok((path, None)) };
    let reference = reference.parse().map_err(|_| InvalidRegistry::Repository)?;
    Ok((path, Some(reference)))
}

impl fmt::Display for RegistryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.in_url(), self.host)?;
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}
