//! The other end of a connection, as requests see it: every request has a [`Peer`] in its extensions.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;

use crate::clock;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address (IPv4-mapped IPv6 addresses already unmapped).
    pub address: SocketAddr,
    /// Whether the connection is TLS.
    pub tls: bool,
    /// Whether it showed a client certificate of a trusted proxy, whose `X-Forwarded-*` and `X-Request-Id` count.
    pub trusted_proxy: bool,
    /// Whether it showed a client certificate of the controller.
    pub controller: bool,
    /// The addresses in the certificate of another master's server, if it showed one.
    pub master: Option<Arc<[IpAddr]>>,
    /// How the bytes of a stored file get to its socket.
    pub body_transport: BodyTransport,
    /// When bytes last moved, and the way to cut the exchange.
    pub stream: Arc<Stream>,
    /// Tells the connection of the requests on it.
    pub standing: Standing,
}

/// One exchange: an HTTP/1 connection, which has one at a time, or one stream of HTTP/2. Knows when a byte last moved, which
/// side has the next move, and can be cut from outside: a body whose client reads nothing is not polled, so it could not
/// end itself.
///
/// The fields are independent, and a time that is a moment old decides nothing, so they are relaxed. Only `cut` is not: it
/// is stored before the wake-up and read after the waker is registered, so one of the two sides sees the other.
#[derive(Debug, Default)]
pub struct Stream {
    /// Milliseconds since the machine started.
    moved: AtomicU64,
    /// The client has the next move: to send or to take something.
    owed: AtomicBool,
    cut: AtomicBool,
    waker: AtomicWaker,
}

impl Stream {
    /// Notes that a byte moved.
    pub(crate) fn moved(&self) {
        self.moved.store(millis(), Ordering::Relaxed);
    }

    /// Notes that the client has the next move.
    pub(crate) fn owed(&self) {
        if !self.owed.swap(true, Ordering::Relaxed) {
            self.moved();
        }
    }

    /// Notes that we have the next move.
    pub(crate) fn works(&self) {
        self.owed.store(false, Ordering::Relaxed);
    }

    /// Time since the client has had the next move and has not made it; zero if it is ours.
    pub(crate) fn stands(&self) -> Duration {
        if !self.owed.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        Duration::from_millis(millis().saturating_sub(self.moved.load(Ordering::Relaxed)))
    }

    /// Cuts it.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Ready once it is cut. One task may wait at a time.
    pub(crate) fn poll_cut(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if self.cut.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    #[cfg(test)]
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    #[cfg(test)]
    pub(crate) fn stand_since(&self, age: Duration) {
        self.owed.store(true, Ordering::Relaxed);
        let age = u64::try_from(age.as_millis()).unwrap();
        self.moved.store(millis().checked_sub(age).expect("the machine runs for longer"), Ordering::Relaxed);
    }
}

fn millis() -> u64 {
    u64::try_from(clock::running().as_millis()).unwrap_or(u64::MAX)
}

/// How the bytes of a stored file get to a connection's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyTransport {
    /// Read into buffers and written from there.
    Copy,
    /// By tokens (`sys::sendfile_token`) for parts of the file, which the connection sends with `sendfile`.
    Sendfile,
}

/// Hears of the requests on a connection. That decides what the connection may cost, and which one is closed when places
/// run out (`serve::admission`).
pub trait Watch: fmt::Debug + Send + Sync {
    /// The request is `client`'s, for whom a trusted proxy speaks. Credentials of the request before count no more.
    fn speaks_for(&self, client: IpAddr);

    /// Valid credentials were shown.
    fn signed_in(&self);

    /// A request may do what it asks for, and goes on until [`Watch::let_out`].
    fn let_in(&self);

    /// A request that was let in is over.
    fn let_out(&self);
}

/// Tells a connection of the requests on it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Standing(Option<Arc<dyn Watch>>);

/// A request that was let in, until this is dropped.
#[derive(Debug)]
pub struct LetIn(Standing);

impl Standing {
    /// Tells `watch`.
    pub fn new(watch: Arc<dyn Watch>) -> Self {
        Self(Some(watch))
    }

    /// The request is `client`'s, for whom a trusted proxy speaks.
    pub fn speaks_for(&self, client: IpAddr) {
        if let Some(watch) = &self.0 {
            watch.speaks_for(client);
        }
    }

    /// Valid credentials were shown.
    pub fn signed_in(&self) {
        if let Some(watch) = &self.0 {
            watch.signed_in();
        }
    }

    /// A request may do what it asks for.
    #[must_use]
    pub fn let_in(&self) -> LetIn {
        if let Some(watch) = &self.0 {
            watch.let_in();
        }
        LetIn(self.clone())
    }
}

impl Drop for LetIn {
    fn drop(&mut self) {
        if let Some(watch) = &self.0.0 {
            watch.let_out();
        }
    }
}

impl Peer {
    /// A peer of which nothing is known, so nothing that it claims counts.
    pub(crate) fn unknown() -> Self {
        Self {
            address: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            tls: false,
            trusted_proxy: false,
            controller: false,
            master: None,
            body_transport: BodyTransport::Copy,
            stream: Arc::default(),
            standing: Standing(None),
        }
    }
}
