//! Who comes after this process at an address, so that there is no moment in which nobody listens there.
//!
//! The holder of an address has a socket in the abstract name space of its network namespace, named after the address. One that
//! waits for the address connects to it, and reads until the end of that connection: it comes when the holder has given the
//! address up, or is gone. Nothing is sent in either direction, so there is nothing to be trusted in it: whoever connects only
//! spares the holder the wait for an heir at its end.

use std::io;
use std::net::SocketAddr as Address;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Heirs that are known at once; one is enough.
const MOST: usize = 8;
/// Pause between two tries to take a name that a process before this one has yet to give up.
const EVERY: Duration = Duration::from_millis(250);

/// Those that wait for an address of ours.
#[derive(Debug)]
pub(super) struct Heirs {
    waiting: watch::Sender<usize>,
    connections: TaskTracker,
    /// The addresses are free.
    given_up: CancellationToken,
}

impl Heirs {
    pub(super) fn new() -> Arc<Self> {
        let (waiting, _) = watch::channel(0);
        Arc::new(Self { waiting, connections: TaskTracker::new(), given_up: CancellationToken::new() })
    }

    /// Knows those that wait for `address` until the stop.
    pub(super) async fn know(self: Arc<Self>, address: Address, stop: CancellationToken) {
        let Some(listener) = stop.run_until_cancelled(named(address)).await else { return };
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, _)) if self.connections.len() < MOST => {
                    self.connections.spawn(self.clone().keep(stream));
                }
                // What is too much is let go, and asks again.
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, %address, "an heir can't be heard");
                    if stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    async fn keep(self: Arc<Self>, mut stream: UnixStream) {
        self.waiting.send_modify(|count| *count += 1);
        tokio::select! {
            () = self.given_up.cancelled() => {}
            _ = stream.read_u8() => {}
        }
        self.waiting.send_modify(|count| *count -= 1);
    }

    /// Ends when somebody waits for an address of ours.
    pub(super) async fn come(&self) {
        // The sender is ours: it can't be gone.
        let _ = self.waiting.subscribe().wait_for(|count| *count > 0).await;
    }

    /// Tells those that wait that the addresses are free.
    pub(super) async fn give_up(&self) {
        self.given_up.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

/// The listener of this name, as soon as nobody else has it.
async fn named(address: Address) -> UnixListener {
    let mut said = false;
    loop {
        match bind(address) {
            Ok(listener) => return listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) if said => drop(error),
            Err(error) => {
                tracing::warn!(%error, %address, "an heir could not make itself known");
                said = true;
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn bind(address: Address) -> io::Result<UnixListener> {
    let listener = StdListener::bind_addr(&name(address)?)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Makes itself known to the holder of an address; `None` where that knows no heirs.
pub(super) fn announce(address: Address) -> Option<UnixStream> {
    // Of one machine: it is there at once or not at all.
    let stream = StdStream::connect_addr(&name(address).ok()?).ok()?;
    stream.set_nonblocking(true).ok()?;
    UnixStream::from_std(stream).ok()
}

/// Ends when the holder has given the address up.
pub(super) async fn is_given_up(holder: &mut UnixStream) {
    let _ = holder.read_u8().await;
}

fn name(address: Address) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("d8-registry/node-proxy/{address}"))
}
