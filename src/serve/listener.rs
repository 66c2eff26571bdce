//! Listening sockets and the loop that takes connections off them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections the kernel keeps for us while we are busy.
const BACKLOG: i32 = 4096;
/// A peer that vanished without a word is noticed within two minutes.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);
const FIRST_BACK_OFF: Duration = Duration::from_millis(10);
const LAST_BACK_OFF: Duration = Duration::from_secs(1);

/// An address can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl BindError {
    /// Whether somebody else listens there.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

/// A bound socket, not yet accepting.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
}

/// Binds every address, or none. `[::]` takes IPv4 too unless the list has `0.0.0.0` with the same port.
/// Must be called inside a tokio runtime.
///
/// # Errors
/// [`BindError`] for the first address that fails.
pub fn bind(addresses: &[SocketAddr]) -> Result<Vec<Listener>, BindError> {
    addresses.iter().map(|&address| bind_one(address, addresses)).collect()
}

/// Binds one address of those that are to be bound in the end. Must be called inside a tokio runtime.
///
/// # Errors
/// [`BindError`].
pub fn bind_one(address: SocketAddr, among: &[SocketAddr]) -> Result<Listener, BindError> {
    let only_v6 = among
        .iter()
        .any(|other| other.ip() == IpAddr::from([0, 0, 0, 0]) && other.port() == address.port() && address.is_ipv6());
    Listener::bind(address, only_v6).map_err(|source| BindError { address, source })
}

impl Listener {
    fn bind(address: SocketAddr, only_v6: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(only_v6)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let tcp = TcpListener::from_std(socket.into())?;
        let address = tcp.local_addr()?;
        Ok(Self { tcp, address })
    }

    /// The address it is bound to, with the port the system chose if 0 was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection and its peer, ready for use. Errors are waited out here: a process without file
    /// descriptors must not spin. Safe to drop.
    pub(crate) async fn accept(&self) -> (TcpStream, SocketAddr) {
        let mut back_off = FIRST_BACK_OFF;
        loop {
            match self.tcp.accept().await {
                Ok((stream, peer)) => {
                    prepare(&stream);
                    return (stream, unmapped(peer));
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, address = %self.address, "can't accept connections, trying again");
                    tokio::time::sleep(back_off).await;
                    back_off = (back_off * 2).min(LAST_BACK_OFF);
                }
            }
        }
    }
}

/// Failures to set an option are no reason to refuse a connection.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE);
}

fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// An IPv4 peer of a socket for both families is an IPv4 peer.
fn unmapped(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
