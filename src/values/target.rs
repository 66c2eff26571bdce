//! The address of a server that others are sent to, and the list of such servers: the masters of a cluster. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Most servers of a list: each costs health checks.
const MAX_TARGETS: usize = 64;

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

/// A list of servers can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetListError {
    /// It names nobody. A list emptied by mistake must not cut a node off.
    #[error("it names no backend")]
    Empty,
    /// More bytes or servers than a list has.
    #[error("it is too long: at most 64 KiB and {MAX_TARGETS} backends")]
    TooLong,
    /// A line is wrong.
    #[error("line {line}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: TargetError,
    },
}

impl Target {
    /// Longest list, in bytes.
    pub const MAX_LIST_BYTES: usize = 64 * 1024;

    /// The servers of a list: one a line, empty lines and lines that begin with `#` don't count.
    ///
    /// # Errors
    /// [`TargetListError`]; no part of a bad list is used.
    pub fn list(text: &str) -> Result<Vec<Self>, TargetListError> {
        if text.len() > Self::MAX_LIST_BYTES {
            return Err(TargetListError::TooLong);
        }
        let lines = text.lines().map(str::trim).enumerate();
        let targets: Vec<Self> = lines
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(index, line)| line.parse().map_err(|source| TargetListError::Line { line: index + 1, source }))
            .collect::<Result<_, _>>()?;
        match targets.len() {
            0 => Err(TargetListError::Empty),
            1..=MAX_TARGETS => Ok(targets),
            _ => Err(TargetListError::TooLong),
        }
    }

    /// `HOST:PORT`, an address of IPv6 in brackets.
    #[must_use]
    pub fn host_port(&self) -> String {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        format!("{open}{}{close}:{}", self.host, self.port)
    }

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
        write!(f, "{scheme}{}", self.host_port())
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
    fn a_list_is_lines_of_servers() {
        let list = Target::list("# masters\n10.0.0.1:5001\r\n\n  http://10.0.0.2:5001  \n").unwrap();
        let list: Vec<_> = list.iter().map(ToString::to_string).collect();
        assert_eq!(list, ["10.0.0.1:5001", "http://10.0.0.2:5001"]);
    }

    #[test]
    fn a_bad_list_is_refused_whole() {
        assert_eq!(Target::list(""), Err(TargetListError::Empty));
        assert_eq!(Target::list("# none\n\n"), Err(TargetListError::Empty));
        assert!(matches!(Target::list("a:1\n\nb\n"), Err(TargetListError::Line { line: 3, .. })));
        let many = (1..=65).map(|port| format!("a:{port}\n")).collect::<String>();
        assert_eq!(Target::list(&many), Err(TargetListError::TooLong));
        assert_eq!(Target::list(&"#".repeat(Target::MAX_LIST_BYTES + 1)), Err(TargetListError::TooLong));
    }

    #[test]
    fn a_scheme_wins_over_the_default() {
        let tls = |text: &str, default| text.parse::<Target>().unwrap().or_tls(default).tls();
        assert!(tls("a:1", true) && !tls("a:1", false));
        assert!(tls("https://a:1", false) && !tls("http://a:1", true));
    }
}
