//! `host[:port]` as it is written in many ways.

use std::net::Ipv6Addr;

use super::Scheme;

/// Splits `host[:port]`; the brackets of an IPv6 address stay.
pub(crate) fn split_port(text: &str) -> (&str, Option<&str>) {
    let from = text.rfind(']').unwrap_or_default();
    match text[from..].find(':') {
        Some(colon) => (&text[..from + colon], Some(&text[from + colon + 1..])),
        None => (text, None),
    }
}

/// `host[:port]` in lower case, without the port that the scheme implies and without the dot that ends a whole name; an IPv6
/// address in its shortest form.
pub(crate) fn canonical_host(host: &str, scheme: Scheme) -> String {
    let host = host.to_ascii_lowercase();
    let (name, port) = split_port(&host);
    let name = match bare(name).parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => name.strip_suffix('.').unwrap_or(name).to_owned(),
    };
    match port.filter(|port| port.parse() != Ok(implied_port(scheme))) {
        Some(port) => format!("{name}:{port}"),
        None => name,
    }
}

/// The port that a URL of the scheme does not name.
pub(crate) const fn implied_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Https => 443,
        Scheme::Http => 80,
    }
}

/// A host without the brackets of an IPv6 address.
pub(crate) fn bare(name: &str) -> &str {
    name.trim_start_matches('[').trim_end_matches(']')
}
