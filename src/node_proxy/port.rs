//! An address to listen on, which another process may hold: where bashible runs its own balancer it is
//! `127.0.0.1:5001`. Then it is waited for, and taken over when it is free. Once held it is given up with the process only, so
//! it never changes hands because of us.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::heirs;
use crate::serve::{self, BindError, Listener};
use crate::telemetry::with_causes;

/// Pause between two tries. Only a holder of our own kind tells when an address becomes free; a try is three system calls.
const EVERY: Duration = Duration::from_millis(250);

/// One address.
#[derive(Debug)]
pub(super) struct Port {
    wanted: SocketAddr,
    /// All that are listened on for the same purpose.
    among: Arc<[SocketAddr]>,
    /// What was bound, with the port that the system chose if 0 was wanted.
    held: OnceLock<SocketAddr>,
}

impl Port {
    /// The addresses of one purpose, none of them held yet.
    pub(super) fn all(addresses: &[SocketAddr]) -> Vec<Arc<Self>> {
        let among: Arc<[SocketAddr]> = addresses.into();
        let port = |&wanted| Arc::new(Self { wanted, among: Arc::clone(&among), held: OnceLock::new() });
        addresses.iter().map(port).collect()
    }

    /// The address, as it was bound if it was.
    pub(super) fn address(&self) -> SocketAddr {
        self.held.get().copied().unwrap_or(self.wanted)
    }

    /// Whether it is ours.
    pub(super) fn is_held(&self) -> bool {
        self.held.get().is_some()
    }

    /// Takes it, if nobody else has it. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`] for an address that nobody holds and that can't be listened on all the same.
    pub(super) fn take_if_free(&self) -> Result<Option<Listener>, BindError> {
        match self.bind() {
            Ok(listener) => Ok(Some(listener)),
            Err(error) if error.is_taken() => {
                tracing::warn!(address = %self.wanted, "another process holds the address, waiting beside it");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes it as soon as it is free. Safe to drop: nothing is taken then.
    pub(super) async fn take(&self) -> Listener {
        let began = Instant::now();
        let mut said = None;
        let mut holder = None;
        loop {
            holder = holder.or_else(|| heirs::announce(self.wanted));
            match &mut holder {
                Some(stream) => {
                    if tokio::time::timeout(EVERY, heirs::is_given_up(stream)).await.is_ok() {
                        holder = None;
                    }
                }
                None => tokio::time::sleep(EVERY).await,
            }
            match self.bind() {
                Ok(listener) => {
                    tracing::info!(address = %self.wanted, waited_seconds = began.elapsed().as_secs(), "the address is free");
                    return listener;
                }
                Err(error) if error.is_taken() => {}
                Err(error) => {
                    let error = with_causes(&error);
                    if said.as_ref() != Some(&error) {
                        tracing::error!(address = %self.wanted, error, "the address can't be taken, trying again");
                        said = Some(error);
                    }
                }
            }
        }
    }

    fn bind(&self) -> Result<Listener, BindError> {
        let listener = serve::bind_one(self.wanted, &self.among)?;
        self.held.get_or_init(|| listener.address());
        Ok(listener)
    }
}
