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
    /// How a stored file is best handed to the connection.
    pub file_way: FileWay,
}

/// How a stored file is handed to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileWay {
    /// Read into buffers.
    Read,
    /// By bytes that stand for parts of the file, which the connection sends from the file (`sys::stand_in`).
    StandIn,
    /// As mapped memory, for a connection that encrypts (`sys::mapping`).
    Map,
}

impl Peer {
    /// A peer of which nothing is known, so nothing it says counts.
    pub(super) const fn unknown() -> Self {
        Self {
            address: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            tls: false,
            trusted_proxy: false,
            file_way: FileWay::Read,
        }
    }
}
