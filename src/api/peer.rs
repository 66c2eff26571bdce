//! What the connection knows of the other side; put into every request's extensions by `serve`.

use std::net::SocketAddr;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address (IPv4-mapped IPv6 addresses already unmapped).
    pub address: SocketAddr,
    /// Whether the connection is TLS.
    pub tls: bool,
    /// Whether it showed a client certificate of a trusted proxy, whose `X-Forwarded-*` and `X-Request-Id` count.
    pub trusted_proxy: bool,
}
