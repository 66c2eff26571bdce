//! The node's own address of the registry: a TCP balancer over the masters' servers.
//!
//! Owns the connections of containerd on `127.0.0.1:5001` and spreads them by least connections. TLS is passed through
//! untouched: this part reads no byte of a request and stores nothing. In reading order: `backend` (is it up, how
//! many connections has it), `pool` (who is next), `dial`, `health`, `relay` (one connection from start to end), `list_file` (the list of servers, read again when it changes),
//! `port` (an address that another process may hold), `heirs` (who waits for an address of ours), `status` (health and metrics).
//!
//! containerd counts on this: it asks for the rest of a layer after its connection ended early (its reader then reports
//! an unexpected end), but gives the pull up on a reset. So whatever happens to a backend, the client sees FIN.
//!
//! # Decisions
//!
//! - Where another process holds `127.0.0.1:5001` (bashible's `registry-proxy`, an older pod of this program), this one runs
//!   beside it, ready, and tries again four times a second. Ending with an error would leave the node without a balancer for as
//!   long as the kubelet backs off, up to 5 minutes after the other one is gone.
//! - What is held is never given up: two that hand a port to and fro would cut connections each time. `SO_REUSEPORT` would let
//!   both listen, but nginx does not ask for it, and the kernel would give clients to either.
//! - Only at its end: told to end, it goes on taking connections until another one of its kind waits for the address, for as long
//!   as `hand_over` says. The kubelet ends a pod as soon as another one is to be in its place, which takes seconds to begin; and no
//!   one but the kubelet knows of both. Passing the socket itself on would leave the address no moment without a listener, and
//!   needs one process to trust another: the heir binds within a millisecond of the end.
//! - Waiting is no failure: `/healthz` says it with 200, as a restart would change nothing; `/readyz` is 503.

mod backend;
mod dial;
mod health;
mod heirs;
mod list_file;
mod pool;
mod port;
mod relay;
mod status;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::watch::Watcher;
use crate::health::HealthServer;
use crate::jobs::Runner;
use crate::serve::{self, BindError, Listener};
use crate::telemetry::{AccessMode, Level, LogError, LogFormat, LogOptions, Logging};

pub use crate::values::{Target, TargetError};
pub use list_file::ListFileError;

use health::Prober;
use heirs::Heirs;
use list_file::FollowList;
use pool::Pool;
use port::Port;
use relay::Ended;
use status::Status;

/// Pause between two lines "no backend".
const NO_BACKEND_EVERY: Duration = Duration::from_secs(10);
/// Connections that the drain deadline ends have 5 s to be closed in order.
const LAST_CLOSE: Duration = Duration::from_secs(5);
/// Threads: copying is the kernel's work, and a node has other things to do.
const WORKERS: usize = 2;
/// Threads for what blocks: names are looked up there, and the list is read.
const BLOCKING_THREADS: usize = 8;

/// The source of the list of servers.
#[derive(Clone, Debug)]
pub enum Backends {
    /// From the command line; at least one, or every connection is closed at once.
    Fixed(Vec<Target>),
    /// From a file with one server a line, read again when its content changes.
    File(PathBuf),
}

/// The options of a balancer.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses to listen on, of both families.
    pub listen: Vec<SocketAddr>,
    /// Addresses of health and metrics, in clear and without sign-in.
    pub admin_listen: Vec<SocketAddr>,
    /// The servers.
    pub backends: Backends,
    /// Whether health checks speak HTTPS with servers that are given without a scheme.
    pub backend_tls: bool,
    /// Most connections at once; more wait in the kernel's queue.
    pub max_connections: usize,
    /// How long connections may go on after SIGTERM.
    pub drain_deadline: Duration,
    /// How long after SIGTERM they are still taken while nobody waits for the address; before the drain deadline begins.
    pub hand_over: Duration,
}

/// The balancer could not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeProxyError {
    /// The list of servers can't be used.
    #[error("backends file {}", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ListFileError,
    },
    /// An address is not ours to listen on. One that is taken is waited for.
    #[error("listen")]
    Bind(#[from] BindError),
    /// The log can't be set up.
    #[error("log")]
    Log(#[from] LogError),
    /// Health checks over TLS can't be set up.
    #[error("tls of health checks")]
    Tls(#[from] tokio_rustls::rustls::Error),
    /// The system refused threads or signals.
    #[error("the system refused {what}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
}

impl NodeProxyError {
    /// Whether what it was started with has to be changed: exit code 2, otherwise 1.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::List { .. })
    }
}

/// Balances until SIGTERM or SIGINT, then lets connections finish for up to the drain deadline; blocking.
///
/// # Errors
/// [`NodeProxyError`] if it can't start.
pub fn run(options: Options) -> Result<(), NodeProxyError> {
    let log = LogOptions { format: LogFormat::suitable(), level: Level::Info, access: AccessMode::Off };
    let _logging = Logging::start(log)?;
    if let Err(error) = serve::raise_open_files() {
        tracing::warn!(%error, "the limit on open files can't be raised");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("node-proxy")
        .enable_all()
        .build()
        .map_err(|source| NodeProxyError::System { what: "threads", source })?;
    let ended = runtime.block_on(balance(options));
    // A look-up of a name may still wait for its server.
    runtime.shutdown_background();
    ended
}

async fn balance(options: Options) -> Result<(), NodeProxyError> {
    let system = |what| move |source| NodeProxyError::System { what, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(system("SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("SIGINT"))?;
    let (stop, workers) = (CancellationToken::new(), TaskTracker::new());
    let jobs = Runner::new(workers.clone(), stop.clone());
    let pool = Arc::new(Pool::new(Prober::new()?, jobs.clone()));
    match options.backends {
        Backends::Fixed(targets) => {
            pool.replace(targets.into_iter().map(|target| target.or_tls(options.backend_tls)).collect());
        }
        Backends::File(path) => {
            // Before the first reading, so that no change falls between.
            let watcher = Watcher::new(vec![path.clone()]);
            let targets = list_file::read(&path, options.backend_tls)
                .map_err(|source| NodeProxyError::List { path: path.clone(), source })?;
            pool.replace(targets);
            jobs.start(FollowList::new(path, watcher, options.backend_tls, pool.clone()));
        }
    }
    let (ports, admin) = (Port::all(&options.listen), Port::all(&options.admin_listen));
    let listeners = try_all(&ports)?;
    let admin_listeners = try_all(&admin)?;
    let places = Arc::new(Semaphore::new(options.max_connections.min(Semaphore::MAX_PERMITS)));
    let proxy = Arc::new(Proxy {
        pool: pool.clone(),
        connections: TaskTracker::new(),
        stop: stop.clone(),
        hurry: CancellationToken::new(),
        places,
        no_backend: Mutex::default(),
    });
    let heirs = Heirs::new();
    for tried in listeners {
        let (proxy, heirs) = (proxy.clone(), heirs.clone());
        workers.spawn(async move {
            let Some(listener) = tried.held(&proxy.stop).await else { return };
            tracing::info!(address = %listener.address(), "listening");
            let stop = proxy.stop.clone();
            tokio::join!(heirs.know(listener.address(), stop), accept(proxy, listener));
        });
    }
    let ports: Arc<[Arc<Port>]> = ports.into();
    let status = Arc::new(Status { ports: ports.clone(), pool, stop: stop.clone() });
    let server = Arc::new(HealthServer::default());
    for tried in admin_listeners {
        let (status, server, stop) = (status.clone(), server.clone(), stop.clone());
        workers.spawn(async move {
            let Some(listener) = tried.held(&stop).await else { return };
            tracing::info!(address = %listener.address(), "answering for health and metrics");
            server.listen(listener, status);
        });
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    if !options.hand_over.is_zero() && ports.iter().any(|port| port.is_held()) {
        tracing::info!(
            seconds = options.hand_over.as_secs(),
            "to be ended, listening until another one waits for the address"
        );
        tokio::select! {
            () = heirs.come() => {}
            () = tokio::time::sleep(options.hand_over) => {}
            // Who says it again means now.
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    tracing::info!(connections = proxy.connections.len(), "stopping");
    stop.cancel();
    workers.close();
    workers.wait().await;
    // The addresses are free from here on.
    heirs.give_up().await;
    proxy.drain(options.drain_deadline).await;
    server.end().await;
    Ok(())
}

/// An address that was tried once.
struct Tried {
    port: Arc<Port>,
    /// `None`: another process holds it.
    listener: Option<Listener>,
}

/// Takes every address that nobody else holds.
fn try_all(ports: &[Arc<Port>]) -> Result<Vec<Tried>, BindError> {
    let tried = ports.iter().map(|port| Ok(Tried { port: port.clone(), listener: port.take_if_free()? }));
    tried.collect()
}

impl Tried {
    /// The listener, now or when the address is free; `None` at the stop.
    async fn held(self, stop: &CancellationToken) -> Option<Listener> {
        match self.listener {
            Some(listener) => Some(listener),
            None => stop.run_until_cancelled(self.port.take()).await,
        }
    }
}

/// Shared by all connections.
#[derive(Debug)]
struct Proxy {
    pool: Arc<Pool>,
    connections: TaskTracker,
    /// No more connections are taken.
    stop: CancellationToken,
    /// Connections end now, in order.
    hurry: CancellationToken,
    places: Arc<Semaphore>,
    no_backend: Mutex<NoBackend>,
}

/// When a connection was last said to have found no backend, and how many were not mentioned since.
#[derive(Debug, Default)]
struct NoBackend {
    said: Option<Instant>,
    unsaid: u64,
}

/// Takes connections until the stop; what the kernel had accepted by then is served too, as it would be reset otherwise.
async fn accept(proxy: Arc<Proxy>, listener: Listener) {
    loop {
        let (client, peer) = tokio::select! {
            biased;
            () = proxy.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        // One connection a listener waits here, the others in the kernel's queue.
        let place = tokio::select! {
            biased;
            () = proxy.stop.cancelled() => None,
            place = proxy.places.clone().acquire_owned() => place.ok(),
        };
        proxy.connections.spawn(proxy.clone().serve(client, peer, place));
    }
    while let Some((client, peer)) = listener.accept().now_or_never() {
        proxy.connections.spawn(proxy.clone().serve(client, peer, None));
    }
}

impl Proxy {
    /// One client from its first byte to its end.
    async fn serve(self: Arc<Self>, client: TcpStream, peer: SocketAddr, _place: Option<OwnedSemaphorePermit>) {
        let mut tried = Vec::new();
        while let Some(lease) = self.pool.pick(&tried) {
            let backend = lease.backend().clone();
            let stream = match dial::connect(backend.target()).await {
                Ok(stream) => stream,
                Err(error) => {
                    backend.down(&error);
                    tried.push(backend);
                    continue;
                }
            };
            let ended = relay::relay(&client, &stream, &self.hurry).await;
            // The count falls before the client hears of the end: its next connection may be here at once.
            drop(lease);
            match &ended {
                Ended::BackendLost(error) => {
                    tracing::info!(%peer, backend = %backend.target(), %error, "a backend broke a connection");
                    if dial::means_unreachable(error) {
                        backend.down(error);
                    }
                }
                Ended::Idle => tracing::info!(%peer, backend = %backend.target(), "an idle connection is closed"),
                Ended::ByBackend | Ended::ClientLost | Ended::Hurried => {}
            }
            drop(stream);
            if !matches!(ended, Ended::ClientLost) {
                relay::close(&client).await;
            }
            return;
        }
        self.say_no_backend(peer, tried.len());
        relay::close(&client).await;
    }

    fn say_no_backend(&self, peer: SocketAddr, tried: usize) {
        let unsaid = {
            let mut state = self.no_backend.lock().unwrap_or_else(PoisonError::into_inner);
            if state.said.is_some_and(|said| said.elapsed() < NO_BACKEND_EVERY) {
                state.unsaid += 1;
                return;
            }
            state.said = Some(Instant::now());
            std::mem::take(&mut state.unsaid)
        };
        tracing::error!(%peer, tried, unsaid, "no backend takes a connection, the client's is closed");
    }

    /// Waits for connections to end, and ends them in order when the deadline is over.
    async fn drain(&self, deadline: Duration) {
        self.connections.close();
        if tokio::time::timeout(deadline, self.connections.wait()).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "connections are closed: the drain deadline is over");
            self.hurry.cancel();
            let _ = tokio::time::timeout(LAST_CLOSE, self.connections.wait()).await;
        }
        tracing::info!("stopped");
    }
}
