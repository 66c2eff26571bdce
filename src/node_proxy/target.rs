//! The address of a server. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A server: `HOST:PORT`, `http://HOST:PORT` or `https://HOST:PORT`. HOST is a name, an IPv4 address, or an IPv6 address in
/// brackets. The scheme only says how health is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    host: String,
    port: u16,
    tls: Option<bool>,
}

/// No server can be reached by this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no backend, such as 10.0.0.1:5001, [fd00::1]:5001 or https://master-1:5001")]
pub struct TargetError {
    /// The text.
    pub text: String,
}

impl Target {
    /// The host: a name, or an address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether health is asked for over TLS; not, if neither the scheme nor [`Target::or_tls`] said so.
    #[must_use]
    pub fn tls(&self) -> bool {
        self.tls.unwrap_or(false)
    }

    /// The same server; if it was given without a scheme, it has one now.
    #[must_use]
    pub fn or_tls(self, tls: bool) -> Self {
        Self { tls: self.tls.or(Some(tls)), ..self }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        parse(text).ok_or_else(|| TargetError { text: text.chars().take(200).collect() })
    }
}

fn parse(text: &str) -> Option<Target> {
    let (tls, rest) = match text.split_once("://") {
        Some(("https", rest)) => (Some(true), rest),
        Some(("http", rest)) => (Some(false), rest),
        Some(_) => return None,
        None => (None, text),
    };
    let (host, port) = rest.strip_suffix('/').unwrap_or(rest).rsplit_once(':')?;
    // `parse` would take `+1`.
    let port = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten()?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().ok()?.to_string(),
        None if is_name(host) => host.to_owned(),
        None => return None,
    };
    (port != 0).then_some(Target { host, port, tls })
}

/// A name or an IPv4 address; what only looks like an address is none.
fn is_name(host: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    !host.is_empty() && host.len() <= 253 && host.bytes().all(allowed) && (!numeric || host.parse::<IpAddr>().is_ok())
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.tls {
            Some(true) => "https://",
            Some(false) => "http://",
            None => "",
        };
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}{open}{}{close}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["10.0.0.1:5001", "[fd00::1]:5001", "http://master-1:80", "https://registry.d8-system.svc:5001"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert_eq!("https://a:1/".parse::<Target>().unwrap().to_string(), "https://a:1");
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for text in [
            "",
            "a",
            ":1",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "fd00::1:5001x",
            "::1:5001",
            "[a]:1",
            "[::1]",
            "ftp://a:1",
            "https://a:1/path",
            "user@a:1",
            "10.0.0:1",
            "10.0.0.256:1",
            "a b:1",
            "a:1 ",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_scheme_wins_over_the_default() {
        let tls = |text: &str, default| text.parse::<Target>().unwrap().or_tls(default).tls();
        assert!(tls("a:1", true) && !tls("a:1", false));
        assert!(tls("https://a:1", false) && !tls("http://a:1", true));
    }
}
