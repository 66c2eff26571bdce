//! The server as a whole: starts accept loops, and ends everything in order within a deadline.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::ConnectionLimits;
use super::admission::{Admission, Place};
use super::body::RequestBody;
use super::connection::{self, Context, Ended};
use super::early::EarlyAnswer;
use super::listener::Listener;
use super::receiving::Receiving;
use super::send_queue::SendQueue;
use super::stop::Stop;
use super::tls::Tls;

/// Most addresses of cut connections that are kept; the rest is only counted.
const NAMED: usize = 100;

/// Connections over one or more listeners that live and end together. Cheap to clone.
///
/// The registry and the admin listener are two of these: the latter answers while the former drains.
#[derive(Clone, Debug)]
pub struct Server(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: ArcSwap<ConnectionLimits>,
    admission: Arc<Admission>,
    /// Made with the first listener: a runtime need not exist before.
    send_queue: OnceLock<SendQueue>,
    receiving: Receiving,
    stop: Stop,
    abort: CancellationToken,
    loops: TaskTracker,
    connections: TaskTracker,
    streams: TaskTracker,
    cut: Mutex<Drained>,
}

/// The connections that a drain cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Number of connections that were cut with a request on them.
    pub cut: usize,
    /// Their peers, the first hundred.
    pub peers: Vec<SocketAddr>,
}

impl Server {
    /// A server without listeners.
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Self {
        Self(Arc::new(Inner {
            limits: ArcSwap::from_pointee(limits),
            admission: Arc::new(Admission::new(limits.max_connections)),
            send_queue: OnceLock::new(),
            receiving: Receiving::default(),
            stop: Stop::default(),
            abort: CancellationToken::new(),
            loops: TaskTracker::new(),
            connections: TaskTracker::new(),
            streams: TaskTracker::new(),
            cut: Mutex::new(Drained::default()),
        }))
    }

    /// Puts changed limits into force for connections accepted from now on.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        self.0.limits.store(Arc::new(limits));
        self.0.admission.set_most(limits.max_connections);
    }

    /// Open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.admission.taken()
    }

    /// Serves what comes in on `listener` until [`Server::drain`]. Must be called inside a tokio runtime; returns at
    /// once. A request whose service panics ends its own connection (HTTP/1) or stream (HTTP/2) and nothing else.
    /// `early` answers ahead of the service, on HTTP/1 and under [`ConnectionLimits::accelerate`].
    pub fn listen<S, B>(
        &self,
        listener: Listener,
        tls: Option<Arc<Tls>>,
        service: S,
        early: Option<Arc<dyn EarlyAnswer>>,
    ) where
        S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let inner = Arc::clone(&self.0);
        let workers = || Handle::current().metrics().num_workers();
        let send_queue = inner.send_queue.get_or_init(|| SendQueue::new(workers())).clone();
        self.0.loops.spawn(async move {
            let stop = inner.stop.clone();
            loop {
                let accepted = tokio::select! {
                    biased;
                    () = stop.heard() => return,
                    accepted = inner.accept(&listener) => accepted,
                };
                let (tcp, peer, place) = accepted;
                let context = Context {
                    service: service.clone(),
                    early: early.clone(),
                    tls: tls.clone(),
                    limits: **inner.limits.load(),
                    send_queue: send_queue.clone(),
                    receiving: inner.receiving.clone(),
                    // A child for each connection: every wake-up polls the token, and one token would be one contended lock.
                    stop: inner.stop.child(),
                    abort: inner.abort.child_token(),
                    streams: inner.streams.clone(),
                    guest: Arc::clone(place.guest()),
                };
                let inner = Arc::clone(&inner);
                let connections = inner.connections.clone();
                connections.spawn(async move {
                    // Dropped at once: an orderly close would take the very memory that is needed.
                    tokio::select! {
                        biased;
                        () = place.guest().told_to_leave() => {
                            tracing::debug!(address = %peer, "a connection on which nobody signed in is closed");
                        }
                        ended = connection::serve(tcp, peer, context) => if ended == Ended::Cut {
                            inner.note_cut(peer);
                        }
                    }
                });
            }
        });
    }

    /// Stops accepting, lets running requests end, and after `deadline` cuts what is left. Idle connections are closed
    /// at once. Call it once; safe to drop, but then nothing is cut.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        let inner = &self.0;
        inner.stop.say();
        // First the loops: after them no connection is added.
        inner.loops.close();
        inner.loops.wait().await;
        inner.connections.close();
        inner.streams.close();
        let ended = async {
            inner.connections.wait().await;
            inner.streams.wait().await;
        };
        if tokio::time::timeout(deadline, ended).await.is_err() {
            inner.abort.cancel();
            inner.connections.wait().await;
        }
        inner.cut.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Inner {
    async fn accept(&self, listener: &Listener) -> (tokio::net::TcpStream, SocketAddr, Place) {
        let (tcp, peer) = listener.accept().await;
        let place = self.admission.enter(peer.ip()).await;
        (tcp, peer, place)
    }

    fn note_cut(&self, peer: SocketAddr) {
        let mut drained = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        drained.cut += 1;
        if drained.peers.len() < NAMED {
            drained.peers.push(peer);
        }
    }
}
