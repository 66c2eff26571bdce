//! Sockets, TLS, connections and their orderly end; knows nothing of registries.
//!
//! A [`Server`] is handed bound [`Listener`]s and a service per listener. It speaks HTTP/1.1 and, where TLS agrees on
//! it, HTTP/2; it puts a [`Peer`] into the extensions of every request. It never looks into a request, never answers one by
//! itself (except with hyper's own 400 and 431 for unreadable heads, and a 400 to clients that ask without TLS), and writes
//! no access log. A listener may be given an [`EarlyAnswer`], which gets heads as they came ahead of the service.

mod admission;
mod body;
mod client_cert;
mod connection;
mod drain;
mod early;
mod file_io;
mod handshake;
mod handshake_failures;
mod http1_state;
mod lingering_close;
mod listener;
pub mod memory;
mod nofile;
mod peer;
mod receiving;
mod requests;
mod send_queue;
mod socket;
mod stall;
mod stop;
mod streams;
mod tls;
mod transport;
mod validity;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use body::{RequestBody, RequestBodyError};
pub use drain::{Drained, Server};
pub use early::{Early, EarlyAnswer, EarlyConnection};
pub use handshake_failures::{HandshakeFailures, ReportFailures};
pub use listener::{BindError, Listener, bind, bind_one};
pub use nofile::{OpenFiles, raise_open_files};
pub use peer::{BodyTransport, LetIn, Peer, Standing, Stream, Watch};
pub use tls::{Tls, TlsChange, TlsError, TlsOptions};
pub use validity::of_authorities;

/// Bounds of every connection. A change holds for connections accepted after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open connections over all listeners of the server. For one more a connection is closed on which nobody signed in
    /// (`admission`); where there is none it waits in the kernel's queue.
    pub max_connections: usize,
    /// From the accepted connection to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// For the first head of a connection, from the end of its handshake; and for the rest of a head, from its first byte, where
    /// nobody signed in yet.
    pub first_head_timeout: Duration,
    /// For the head of a request, counted from the end of the last answer: it is also how long an idle connection is
    /// kept. Clients pool connections for up to 90 s (Go's default), so less than that makes them meet resets.
    pub header_timeout: Duration,
    /// A body, in either direction, that moves no byte for this time is cut; noticing it may take up to twice the time.
    pub stall_timeout: Duration,
    /// Bytes of a request's head.
    pub max_header_bytes: usize,
    /// Requests at once on one HTTP/2 connection.
    pub max_streams: u32,
    /// Whether the kernel sends files over plain connections, and whether an [`EarlyAnswer`] is asked.
    pub accelerate: bool,
    /// Longest time for which input after a refused push is discarded; see `lingering_close`.
    pub linger_time: Duration,
}
