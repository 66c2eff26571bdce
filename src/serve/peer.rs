//! What the connection knows of the other side; put into every request's extensions.

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
    /// How the bytes of a stored file get to its socket.
    pub body_transport: BodyTransport,
    /// What moves between the two.
    pub stream: Arc<Stream>,
    /// What the connection has to be told of who asks on it.
    pub standing: Standing,
}

/// One exchange at a time on an HTTP/1 connection, or one stream of HTTP/2: when a byte last moved on it, whose turn it
/// is, and the way to end it from outside. Whoever reads nothing is asked for nothing, so nobody inside could end it.
#[derive(Debug, Default)]
pub struct Stream {
    /// Since the machine started, in milliseconds.
    moved: AtomicU64,
    /// The client has to send or take something.
    owed: AtomicBool,
    cut: AtomicBool,
    waker: AtomicWaker,
}

impl Stream {
    /// A byte moved.
    pub(crate) fn moved(&self) {
        self.moved.store(millis(), Ordering::Relaxed);
    }

    /// The next move is the client's.
    pub(crate) fn owed(&self) {
        if !self.owed.swap(true, Ordering::Relaxed) {
            self.moved();
        }
    }

    /// The next move is ours.
    pub(crate) fn works(&self) {
        self.owed.store(false, Ordering::Relaxed);
    }

    /// For how long the client has not done what is its to do.
    pub(crate) fn stands(&self) -> Duration {
        if !self.owed.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        Duration::from_millis(millis().saturating_sub(self.moved.load(Ordering::Relaxed)))
    }

    /// Ends it.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Ready once it is to end. One task waits for that.
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

/// What a connection is told of the requests on it. By that it is decided what it may cost, and which connection goes
/// when there are more than places (`serve::admission`).
pub trait Watch: fmt::Debug + Send + Sync {
    /// The request is `client`'s, for whom a trusted proxy speaks. What the request before had proven counts no more.
    fn speaks_for(&self, client: IpAddr);

    /// Credentials were shown that hold.
    fn signed_in(&self);

    /// A request may do what it asks for, and goes on until [`Watch::let_out`].
    fn let_in(&self);

    /// A request that was let in is over.
    fn let_out(&self);
}

/// Says to a connection who asks on it. Cheap to clone.
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

    /// Credentials were shown that hold.
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
    /// A peer of which nothing is known, so nothing it says counts.
    pub(crate) fn unknown() -> Self {
        Self {
            address: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            tls: false,
            trusted_proxy: false,
            body_transport: BodyTransport::Copy,
            stream: Arc::default(),
            standing: Standing(None),
        }
    }
}
