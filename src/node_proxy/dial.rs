//! Connects to a server, and sets its socket so that silence is noticed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};

use crate::values::Target;

/// Longest attempt to connect to one address. Masters are near; the client waits meanwhile.
const CONNECT: Duration = Duration::from_secs(1);
/// Longest look-up of a name.
const LOOKUP: Duration = Duration::from_secs(2);
/// Probes after 3, 5 and 7 s of silence; the fourth would come at 9 s and finds [`SILENCE`] over.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(3)).with_interval(Duration::from_secs(2)).with_retries(3);
/// A server that acknowledges nothing for 8.5 s is gone: TCP_USER_TIMEOUT (RFC 5482) replaces both the count of probes
/// and the quarter of an hour of retransmissions. It also ends a connection whose server took no byte for 8.5 s.
/// A little less than the fourth probe's time, or rounding would leave the matter to the fifth.
const SILENCE: Duration = Duration::from_millis(8500);

/// Connects to the first address of the target that takes it. Safe to drop.
///
/// # Errors
/// The last address's error; `TimedOut` where nothing came.
pub(super) async fn connect(target: &Target) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses(target).await? {
        match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                prepare(&stream)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "no answer to a connection within 1 s"),
        }
    }
    Err(last)
}

async fn addresses(target: &Target) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = target.host().parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, target.port())]);
    }
    let found = tokio::time::timeout(LOOKUP, lookup_host((target.host(), target.port()))).await;
    Ok(found.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the name is not found within 2 s"))??.collect())
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.set_tcp_user_timeout(Some(SILENCE))
}

/// Whether an error of a connection says that its server can't be reached, rather than that it ended this one.
pub(super) fn means_unreachable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable)
}
