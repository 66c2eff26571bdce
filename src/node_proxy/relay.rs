//! One connection: bytes of a client to a server and back, until both are done. The client's side is always closed with
//! FIN after the last byte that came from the server; a reset is never passed on.

use std::io;
use std::net::Shutdown;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::coop;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Held only while bytes come: an idle connection costs no buffer.
const BUFFER: usize = 64 * 1024;
/// A connection on which nothing moves for an hour is closed.
const IDLE: Duration = Duration::from_secs(3600);
/// The same after the server said that it sends no more.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(60);
/// After our FIN a client may send nothing for 5 s before the socket is closed under it, ...
const CLOSE_IDLE: Duration = Duration::from_secs(5);
/// ... and may go on sending for 30 s.
const CLOSE_LIMIT: Duration = Duration::from_secs(30);

/// How a connection came to its end.
#[derive(Debug)]
pub(super) enum Ended {
    /// The server closed it in order.
    ByBackend,
    /// The server reset it, or is silent.
    BackendLost(io::Error),
    /// The client is gone; there is nobody to be told.
    ClientLost,
    /// Nothing moved.
    Idle,
    /// The process ends.
    Hurried,
}

enum PumpError {
    Read(io::Error),
    Write(io::Error),
}

/// Copies both ways until one of the ends in [`Ended`]. What the client still sends then, and its FIN if the server sent none,
/// is for [`close`].
pub(super) async fn relay(client: &TcpStream, backend: &TcpStream, hurry: &CancellationToken) -> Ended {
    let moved = Movement::new();
    let mut up = pin!(pump(client, backend, &moved));
    let mut down = pin!(pump(backend, client, &moved));
    let mut idle = pin!(moved.stopped_for(IDLE));
    let mut up_ended = false;
    let mut lost = None;
    loop {
        tokio::select! {
            ended = &mut down => match ended {
                Ok(()) => break,
                Err(PumpError::Read(error)) => return Ended::BackendLost(error),
                Err(PumpError::Write(_)) => return Ended::ClientLost,
            },
            ended = &mut up, if !up_ended => {
                up_ended = true;
                match ended {
                    Ok(()) => finish(backend),
                    // Bytes that the server sent before may still be here: they are passed on, then comes the end.
                    Err(PumpError::Write(error)) => lost = Some(error),
                    Err(PumpError::Read(_)) => return Ended::ClientLost,
                }
            }
            () = &mut idle => return Ended::Idle,
            () = hurry.cancelled() => return Ended::Hurried,
        }
    }
    if let Some(error) = lost {
        return Ended::BackendLost(error);
    }
    finish(client);
    if !up_ended {
        // Half closed: the client may still send.
        tokio::select! {
            _ = &mut up => finish(backend),
            () = moved.stopped_for(HALF_CLOSED_IDLE) => {}
            () = hurry.cancelled() => {}
        }
    }
    Ended::ByBackend
}

/// Copies until `from` has no more.
async fn pump(from: &TcpStream, to: &TcpStream, moved: &Movement) -> Result<(), PumpError> {
    loop {
        from.readable().await.map_err(PumpError::Read)?;
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            // Neither the other direction nor other connections wait for one that always has bytes.
            coop::consume_budget().await;
            buffer.clear();
            match from.try_read_buf(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => write_all(to, &buffer, moved).await.map_err(PumpError::Write)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(PumpError::Read(error)),
            }
        }
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8], moved: &Movement) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                moved.now();
                bytes = &bytes[written..];
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// FIN, behind what was written. Twice does no harm; a socket that is gone needs none.
fn finish(stream: &TcpStream) {
    let _ = SockRef::from(stream).shutdown(Shutdown::Write);
}

/// Closes a client's connection in order: FIN, then what it still sends is read and thrown away until its own FIN. A socket
/// that is closed with unread bytes sends a reset, which may overtake what the client has not read yet.
pub(super) async fn close(client: &TcpStream) {
    finish(client);
    let drained = async {
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            let Ok(Ok(())) = tokio::time::timeout(CLOSE_IDLE, client.readable()).await else { return };
            coop::consume_budget().await;
            buffer.clear();
            match client.try_read_buf(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => return,
            }
        }
    };
    // Over is over, whoever ended it.
    let _ = tokio::time::timeout(CLOSE_LIMIT, drained).await;
}

/// When bytes last moved, in either direction.
#[derive(Debug)]
struct Movement {
    begin: Instant,
    last_millis: AtomicU64,
}

impl Movement {
    fn new() -> Self {
        Self { begin: Instant::now(), last_millis: AtomicU64::new(0) }
    }

    fn now(&self) {
        let millis = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_millis.store(millis, Ordering::Relaxed);
    }

    /// Ends when nothing moved for `limit`.
    async fn stopped_for(&self, limit: Duration) {
        loop {
            let until = self.begin + Duration::from_millis(self.last_millis.load(Ordering::Relaxed)) + limit;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}
