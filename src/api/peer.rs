//! What the connection knows of the other side; put into every request's extensions by `serve`.

use std::net::{Ipv4Addr, SocketAddr};

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address (IPv4-mapped IPv6 addresses already unmapped).
    pub address: SocketAddr,
    /// Whether the connection is TLS.
    pub tls: bool,
    /// Whether it showed a client certificate of a trusted proxy, whose `X-Forwarded-*` and `X-Request-Id` count.
    pub trusted_proxy: bool,
    /// Whether the connection sends bytes that stand for a part of a file from the file (`sys::stand_in`).
    pub takes_files: bool,
}

impl Peer {
    /// A peer of which nothing is known, so nothing it says counts.
    pub(super) const fn unknown() -> Self {
        Self {
            address: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            tls: false,
            trusted_proxy: false,
            takes_files: false,
        }
    }
}
