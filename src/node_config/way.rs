//! How this node's containerd gets at the images of a host by what was written for it.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::settings::{Mirror, NodeConfig};
use super::{NodeConfigError, extensions};
use crate::config::Secret;
use crate::values::Scheme;

/// A mirror as containerd asks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// In clear or over TLS.
    pub scheme: Scheme,
    /// `host[:port]`.
    pub host: String,
    /// PEM of the authorities that its certificate is checked against, beside the system's.
    pub ca: Option<String>,
    /// User and password.
    pub login: Option<(String, Secret)>,
}

/// The mirrors of a host in the order in which containerd asks them. One that rewrites names is none of them: what it is asked
/// for then only containerd's own regular expressions say. Reads the whole of containerd's program where the settings don't say
/// what it can. Blocking.
///
/// # Errors
/// [`NodeConfigError`].
pub fn ways(root: &Path, wanted: &NodeConfig, host: &str) -> Result<Vec<Way>, NodeConfigError> {
    let fitted = extensions::fit(root, wanted)?;
    let mirrors = fitted.wanted.hosts.get(host).into_iter().flatten();
    Ok(mirrors.filter(|mirror| mirror.rewrites.is_empty()).map(way).collect())
}

fn way(mirror: &Mirror) -> Way {
    let login = mirror.login.as_ref().and_then(|login| {
        let decoded = STANDARD.decode(login.expose()).ok().and_then(|bytes| String::from_utf8(bytes).ok())?;
        let (user, password) = decoded.split_once(':')?;
        Some((user.to_owned(), Secret::new(password.to_owned())))
    });
    let scheme = if mirror.scheme == "http" { Scheme::Http } else { Scheme::Https };
    Way { scheme, host: mirror.host.clone(), ca: mirror.ca.clone(), login }
}
