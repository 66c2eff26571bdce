//! Addresses to listen on, one or a list as the command line has it. The file has lists of its own.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde_json::{Value as Json, json};

use super::{InvalidValue, Text, read_as_text};

read_as_text!(Address);

/// An address to listen on: a literal IP address and a port; port 0 lets the system choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(pub SocketAddr);

impl Address {
    /// The address of this machine alone (IPv4) with `port`.
    #[must_use]
    pub const fn loopback(port: u16) -> Self {
        Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
    }

    /// Whether only this machine can reach it; an IPv4 loopback written as IPv6 (`::ffff:127.0.0.1`) counts.
    #[must_use]
    pub fn is_loopback(self) -> bool {
        self.0.ip().to_canonical().is_loopback()
    }
}

impl FromStr for Address {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        let hint = match text.rsplit_once(':') {
            Some(("", port)) => format!("; for every interface write 0.0.0.0:{port} or [::]:{port}"),
            Some(("localhost", port)) => format!("; write 127.0.0.1:{port} or [::1]:{port}"),
            None if text.parse::<u16>().is_ok() => format!("; for this port write 127.0.0.1:{text} or 0.0.0.0:{text}"),
            _ => String::new(),
        };
        Err(InvalidValue(format!("{text:?} is no IP address with a port, such as 127.0.0.1:5001 or [::1]:5001{hint}")))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Text for Address {
    const EXPECTED: &'static str = "an IP address with a port, such as 127.0.0.1:5001 or \"[::]:5001\" (in quotes)";

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^(?:[0-9.]+|\\[[0-9A-Fa-f:.]+\\]):[0-9]{1,5}$" })
    }
}

/// Addresses of one port, `10.0.0.1,fd00::1:5001`: IPs separated by commas as Kubernetes' `status.hostIPs`
/// has them, then the port. One address as [`Address`] has it is such a list too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(pub Vec<Address>);

impl FromStr for Addresses {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let one = text.parse().map(|address| Self(vec![address]));
        let Some((ips, port)) = text.rsplit_once(':').filter(|_| one.is_err()) else { return one };
        let Ok(port) = port.parse() else { return one };
        let ips: Result<Vec<IpAddr>, _> = ips.split(',').map(str::parse).collect();
        match ips {
            Ok(ips) => Ok(Self(ips.into_iter().map(|ip| Address(SocketAddr::new(ip, port))).collect())),
            Err(_) => one,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_literal() {
        for (text, loopback) in [
            ("127.0.0.1:5001", true),
            ("127.8.8.8:0", true),
            ("[::1]:5001", true),
            ("[::ffff:127.0.0.1]:5001", true),
            ("0.0.0.0:5001", false),
            ("[::]:5001", false),
            ("10.0.0.1:5001", false),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.is_loopback(), loopback, "{text}");
            assert_eq!(address.to_string(), text);
        }
        let error = |text: &str| text.parse::<Address>().unwrap_err().to_string();
        assert!(error(":5001").contains("0.0.0.0:5001 or [::]:5001"));
        assert!(error("localhost:5001").contains("127.0.0.1:5001"));
        for text in ["", "5001", "::1:5001:", "127.0.0.1", "127.0.0.1:70000", "registry:5001"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
