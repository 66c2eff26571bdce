//! The names of a certificate: which it has to have, and which one has.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use rcgen::SanType;
use rustls_pki_types::DnsName;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

/// A name of a server (RFC 5280, 4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum San {
    /// An address.
    Ip(IpAddr),
    /// A name of DNS in lower case; its first label may be `*`.
    Dns(String),
    /// A URI; compared byte by byte. Not read from text, see [`ClientUri`].
    Uri(String),
}

/// Who a program is, as the certificate that it shows says it: a URI such as `d8-registry:controller`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientUri(String);

impl ClientUri {
    /// The URI in the certificate that a master shows to other masters.
    pub const PEER: &str = "d8-registry:peer";
}

/// The text is no URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a URI, such as d8-registry:controller")]
pub struct InvalidClientUri;

impl FromStr for ClientUri {
    type Err = InvalidClientUri;

    /// A scheme, a colon, and something behind it (RFC 3986, 3), without spaces.
    fn from_str(text: &str) -> Result<Self, InvalidClientUri> {
        let (scheme, rest) = text.split_once(':').ok_or(InvalidClientUri)?;
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(letter);
        if is_scheme && !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidClientUri)
        }
    }
}

impl fmt::Display for ClientUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&ClientUri> for San {
    fn from(uri: &ClientUri) -> Self {
        Self::Uri(uri.0.clone())
    }
}

/// The text is neither an address nor a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither an IP address nor a DNS name")]
pub struct InvalidSan;

impl FromStr for San {
    type Err = InvalidSan;

    fn from_str(text: &str) -> Result<Self, InvalidSan> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let name = text.strip_prefix("*.").unwrap_or(text);
        // A name of digits and dots alone is an address that went wrong.
        let is_name = name.bytes().any(|byte| byte.is_ascii_alphabetic()) && !name.ends_with('.');
        if is_name && DnsName::try_from(name).is_ok() {
            Ok(Self::Dns(text.to_ascii_lowercase()))
        } else {
            Err(InvalidSan)
        }
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Dns(name) => name.fmt(f),
            Self::Uri(uri) => uri.fmt(f),
        }
    }
}

impl San {
    pub(super) fn to_rcgen(&self) -> Result<SanType, rcgen::Error> {
        Ok(match self {
            Self::Ip(address) => SanType::IpAddress(*address),
            Self::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            Self::Uri(uri) => SanType::URI(uri.as_str().try_into()?),
        })
    }
}

/// The given names and those that every master has, sorted.
pub(super) fn all(given: &[San]) -> Vec<San> {
    let own = [
        San::Ip(Ipv4Addr::LOCALHOST.into()),
        San::Ip(Ipv6Addr::LOCALHOST.into()),
        San::Dns("localhost".to_owned()),
        San::Dns("registry.d8-system.svc".to_owned()),
    ];
    let all: BTreeSet<_> = given.iter().cloned().chain(own).collect();
    all.into_iter().collect()
}

/// A master's own names and the URI of a peer, sorted: what every master has would say of no one where he is.
pub(super) fn of_peer(given: &[San]) -> Vec<San> {
    let uri = San::Uri(ClientUri::PEER.to_owned());
    let all: BTreeSet<_> = given.iter().cloned().chain([uri]).collect();
    all.into_iter().collect()
}

/// The names of a certificate, sorted; `None` if it has others than these kinds, or none.
pub(super) fn of(certificate: &X509Certificate<'_>) -> Option<Vec<San>> {
    let names = certificate.subject_alternative_name().ok()??;
    let names = names.value.general_names.iter().map(|name| match name {
        GeneralName::URI(uri) => Some(San::Uri((*uri).to_owned())),
        GeneralName::DNSName(name) => Some(San::Dns(name.to_ascii_lowercase())),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            v4.or(v6).ok().map(San::Ip)
        }
        _ => None,
    });
    let names: BTreeSet<_> = names.collect::<Option<_>>()?;
    Some(names.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_an_address_or_of_dns() {
        let read = |text: &str| text.parse::<San>();
        assert_eq!(read("10.0.0.1"), Ok(San::Ip([10, 0, 0, 1].into())));
        assert_eq!(read("Registry.Example"), Ok(San::Dns("registry.example".to_owned())));
        assert_eq!(read("*.example.com").unwrap().to_string(), "*.example.com");
        assert!(matches!(read("fd00::1"), Ok(San::Ip(IpAddr::V6(_)))));
        for wrong in ["", "10.0.0.256", "a b", "a/b", "*", "a.*.b", "-a", "http://a", "[::1]", "a:1", "a."] {
            assert_eq!(read(wrong), Err(InvalidSan), "{wrong}");
        }
    }

    #[test]
    fn a_programs_name_is_a_uri() {
        assert_eq!("d8-registry:controller".parse::<ClientUri>().unwrap().to_string(), "d8-registry:controller");
        for wrong in ["", "controller", ":controller", "d8-registry:", "8d:x", "a b:c", "a:b c", "a:\u{e4}"] {
            assert_eq!(wrong.parse::<ClientUri>(), Err(InvalidClientUri), "{wrong}");
        }
    }

    #[test]
    fn a_peer_has_its_own_names_and_the_uri() {
        let names = of_peer(&["fd00::1".parse().unwrap(), "10.0.0.1".parse().unwrap()]);
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["10.0.0.1", "fd00::1", "d8-registry:peer"]);
        assert!(ClientUri::PEER.parse::<ClientUri>().is_ok());
    }

    #[test]
    fn every_master_has_the_same_four_and_none_twice() {
        let names = all(&["localhost".parse().unwrap(), "10.0.0.1".parse().unwrap()]);
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["10.0.0.1", "127.0.0.1", "::1", "localhost", "registry.d8-system.svc"]);
    }
}
