//! The address of an upstream: `host[:port][/path]` as Deckhouse writes it, or a URL on the command line.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use crate::values::host::{bare, implied_port, split_port};
use crate::values::{Address, InvalidValue, Scheme, Secret, Text, read_as_text};

/// The name under which a cluster's clients reach this server.
const OWN_NAME: &str = "registry.d8-system.svc";

/// A repository of an upstream, by the pattern of Deckhouse's ModuleConfig:
/// `^[0-9a-zA-Z\.\-]+(\:[0-9]{1,5})?(\/[0-9a-zA-Z\.\-\_]+)*$`, and with an address of IPv6 in brackets (RFC 3986, 3.2.2).
/// Spaces around it and slashes at its end are dropped.
/// Of what the pattern takes, a port that is none and the components `.` and `..` are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImagesRepo {
    /// `host[:port]`, as written.
    pub(super) host: String,
    /// Without slashes at its ends; may be empty.
    pub(super) path: String,
}

impl FromStr for ImagesRepo {
    type Err = InvalidValue;

    /// The error doesn't show the text: someone may have written a password into it.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let text = text.trim().trim_end_matches('/');
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        let component = |part: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain)
        };
        if is_host(host) && (!text.contains('/') || path.split('/').all(component)) {
            return Ok(Self { host: host.to_owned(), path: path.to_owned() });
        }
        let form = "not of the form host[:port][/path], such as registry.example.com/deckhouse/ee";
        let hint =
            if text.contains("://") { "; write it without https://, upstream.scheme says HTTPS or HTTP" } else { "" };
        Err(InvalidValue(format!("{form}{hint}")))
    }
}

impl fmt::Display for ImagesRepo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}

impl Text for ImagesRepo {
    const EXPECTED: &'static str = "an address of the form host[:port][/path]";
}

/// A host with or without a port, as in `trustedHosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TrustedHost(pub(super) String);

impl FromStr for TrustedHost {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if is_host(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidValue("not of the form host[:port], without scheme and path".to_owned()))
    }
}

impl Text for TrustedHost {
    const EXPECTED: &'static str = "a host, or host:port";
}

read_as_text!(ImagesRepo, TrustedHost);

/// Whether the text is `host`, `host:port`, `[address]` or `[address]:port`.
fn is_host(text: &str) -> bool {
    let (name, port) = split_port(text);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let is_name = match name.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => !name.is_empty() && name.bytes().all(plain),
    };
    is_name && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    (1..=5).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// What `--upstream` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UpstreamUrl {
    pub(super) scheme: Scheme,
    pub(super) images_repo: ImagesRepo,
    /// User and password, if the URL has them.
    pub(super) login: Option<(String, Secret)>,
}

impl UpstreamUrl {
    /// Reads `http[s]://[user:password@]host[:port][/path]`. The error doesn't show the text.
    pub(super) fn parse(url: &Secret) -> Result<Self, String> {
        const FORM: &str = "write http://host:port/path or https://host/path, with user:password@ before the host if \
                            the upstream demands them";
        let (scheme, rest) = url.expose().split_once("://").ok_or_else(|| FORM.to_owned())?;
        let scheme = scheme.parse().map_err(|_| FORM.to_owned())?;
        let authority = rest.find('/').unwrap_or(rest.len());
        let (login, repo) = match rest[..authority].rfind('@') {
            Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
            None => (None, rest),
        };
        let login = login.map(|login| {
            let decode = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned()).ok();
            let (user, password) = login.split_once(':')?;
            let (user, password) = (decode(user)?, decode(password)?);
            (!user.is_empty() && !password.is_empty()).then(|| (user, Secret::new(password)))
        });
        let login = match login {
            Some(None) => return Err("before the @ stand a user and a password, percent-encoded".to_owned()),
            Some(login) => login,
            None => None,
        };
        let images_repo = repo.parse::<ImagesRepo>().map_err(|_| FORM.to_owned())?;
        Ok(Self { scheme, images_repo, login })
    }
}

/// Whether `host[:port]` is this server itself: the name that clients use, or an address it listens on. What other
/// names lead here is not known.
pub(super) fn is_own(host: &str, scheme: Scheme, listen: &[Address]) -> bool {
    let host = host.to_ascii_lowercase();
    let (name, port) = split_port(&host);
    let name = name.strip_suffix('.').unwrap_or(name);
    if name == OWN_NAME || name.strip_prefix(OWN_NAME).is_some_and(|rest| rest.starts_with('.')) {
        return true;
    }
    let port = port.and_then(|port| port.parse::<u16>().ok()).unwrap_or(implied_port(scheme));
    let address = if name == "localhost" { Ok(IpAddr::from([127, 0, 0, 1])) } else { bare(name).parse::<IpAddr>() };
    let Ok(address) = address.map(|address| address.to_canonical()) else { return false };
    listen.iter().any(|own| {
        let ip = own.0.ip().to_canonical();
        let same = ip == address
            || (ip.is_unspecified() && address.is_loopback())
            || (name == "localhost" && ip.is_loopback());
        own.0.port() == port && same
    })
}
