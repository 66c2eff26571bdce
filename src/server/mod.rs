//! Puts the parts together: from a configuration to a running server and its orderly end.
//!
//! Only here and in `options` does anyone know all parts. Order of the start: log, store, users, TLS, sockets; nothing is
//! answered before all of it stands. `modes` has the mode and the upstream in force, `jobs` what works beside requests,
//! `snapshot` what is shown of all of it. Order of the end: readiness, listeners, requests, jobs, index.

mod carried;
mod expected;
mod jobs;
mod memory;
mod modes;
pub(crate) mod options;
mod pins;
mod plan;
mod probing;
mod readiness;
mod refetch;
mod reload;
mod replicas;
mod snapshot;
mod state;
mod succession;
mod warnings;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Admin, ConfigStatus, SocketError};
use crate::api::{App, Edge, FastPath};
use crate::auth::{AuthError, Authenticator};
use crate::bundle::{BundleError, Catalog};
use crate::clock;
use crate::comparison::{CompareRecords, DropDeletions};
use crate::config::reload::{Pace, Reloader};
use crate::config::watch::Watcher;
use crate::config::{self, Config, ConfigError, Overrides};
use crate::expected::Expected;
use crate::fetch::{Evictor, FillOptions, Fills};
use crate::jobs::Runner;
use crate::mode::{Bundled, Mode};
use crate::replicas::{FollowMasters, GroupError, Replicas};
use crate::retention::Retention;
use crate::serve::{self, BindError, Server, Tls, TlsError};
use crate::store::{Store, StoreError};
use crate::takeover::{ImportJob, Imports};
use crate::telemetry::{LogError, Logging, Metrics, MetricsError, with_causes};
use crate::upstream::{Upstream, UpstreamSetupError};

pub use self::carried::CarriedBundle;
use self::modes::Modes;
use self::pins::FollowedPins;
use self::readiness::{Readiness, Ready};
use self::snapshot::Observer;

/// The program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Threads for work that waits for the disk. More don't make a disk faster, and each takes memory.
const BLOCKING_THREADS: usize = 64;

/// Idle time after which a blocking thread ends.
const BLOCKING_IDLE: Duration = Duration::from_secs(5);

/// Most tasks that a worker runs between two polls of the network (tokio's `event_interval`). Only small tasks count on it:
/// large sends make their worker poll (`serve::send_queue`).
const EVENT_INTERVAL: u32 = 16;

/// Longest wait for jobs and blocking threads to end after the last request.
const WORKERS_DEADLINE: Duration = Duration::from_secs(10);

/// The server could not start, or failed while it ran.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Users or keys can't be loaded.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Certificates can't be loaded.
    #[error("tls")]
    Tls(#[from] TlsError),
    /// The upstream can't be asked as configured.
    #[error("upstream")]
    Upstream(#[from] UpstreamSetupError),
    /// The files of other masters can't be used.
    #[error("replicas")]
    Replicas(#[from] GroupError),
    /// The data folder can't be used.
    #[error("store")]
    Store(#[from] StoreError),
    /// The bundle can't be served.
    #[error("bundle")]
    Bundle(#[from] BundleError),
    /// An address is taken or not ours.
    #[error("listen")]
    Bind(#[from] BindError),
    /// The log can't be set up.
    #[error("log")]
    Log(#[from] LogError),
    /// The metrics can't be set up.
    #[error("metrics")]
    Metrics(#[from] MetricsError),
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

impl ServerError {
    /// Whether the configuration, or a file it names, has to be changed: exit code 2, otherwise 1.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Config(_)
                | Self::Auth(_)
                | Self::Tls(_)
                | Self::Upstream(_)
                | Self::Replicas(_)
                | Self::Bundle(BundleError::Read { .. } | BundleError::Nothing(_))
        )
    }
}

/// What a configuration was read from, to read it again.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// The flags.
    pub overrides: Overrides,
}

/// How a server is run, beside its configuration.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Mode Local is these files of a bundle, read only.
    pub bundle: Option<CarriedBundle>,
    /// It ends for another server that wants its data directory.
    pub gives_way: bool,
    /// How long another process that has the data directory and does not give way is waited for.
    pub patience: Duration,
}

/// Runs a server until SIGTERM or SIGINT, or until it has to give way; blocking. Where another server has the data directory
/// and gives way, its end is waited for first.
///
/// # Errors
/// [`ServerError`] if it can't start.
pub fn run(config: Config, source: Source, how: &RunOptions) -> Result<(), ServerError> {
    // Kept until all threads have ended: what they say last is written too.
    let logging = Arc::new(Logging::start(options::log(&config))?);
    if let Err(error) = serve::raise_open_files() {
        tracing::warn!(%error, "the limit on open files can't be raised");
    }
    let bundle = how.bundle.as_ref().map(CarriedBundle::open).transpose()?;
    let watcher = Watcher::new(config.watched_paths(source.file.as_deref()));
    let store = succession::open(&options::store(&config), how.patience)?;
    store.set_collection(options::collection(&config));
    store.set_scrub(options::scrub(&config));
    // Until the modes are known.
    store.hold_collection(true);
    let pins = FollowedPins::new(store.clone(), config.store.pins.clone());
    let expected = Expected::new(config.store.expected.clone());
    let retention = Retention::new(store.clone());
    retention.set_options(options::retention(&config));
    // Only tokens depend on it, and they live for minutes: no reason not to start.
    let keys = store.key_folder().inspect_err(|error| {
        let error = with_causes(error);
        tracing::warn!(error, "the folder for the server's own keys can't be used: tokens end with this process");
    });
    let keys = keys.ok();
    let auth = Authenticator::load(&options::auth(&config, keys.as_deref()), options::password_checks(&config))?;
    let tls = options::tls(&config).map(|files| Tls::load(&files)).transpose()?.map(Arc::new);
    announce(&config, &auth, bundle.is_some());
    let mut said = Vec::new();
    warnings::log(warnings::of(&config, &auth, tls.as_deref(), clock::now()), &mut said);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(usize::try_from(config.limits.worker_threads).unwrap_or(1))
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(BLOCKING_IDLE)
        .thread_name("worker")
        .event_interval(EVENT_INTERVAL)
        .enable_all()
        .build()
        .map_err(|source| ServerError::System { what: "threads", source })?;
    let logging = Arc::clone(&logging);
    let gives_way = how.gives_way.then(CancellationToken::new);
    let parts =
        Parts { config, source, keys, logging, store, bundle, pins, expected, retention, auth, tls, said, gives_way };
    let ended = runtime.block_on(serve(parts, watcher));
    runtime.shutdown_timeout(WORKERS_DEADLINE);
    ended
}

/// Looks whether users, keys and certificates that the configuration names can be used. What can be used and is probably
/// not meant so comes back in sentences. Changes nothing; blocking.
///
/// # Errors
/// [`ServerError`] as at a start.
pub fn check(config: &Config) -> Result<Vec<String>, ServerError> {
    let mut auth = options::auth(config, None);
    if auth.token.signing_key_file.is_none() {
        // A start would make a key in the data folder.
        auth.token.enabled = Some(false);
    }
    let auth = Authenticator::load(&auth, options::password_checks(config))?;
    let tls = options::tls(config).map(|files| Tls::load(&files)).transpose()?;
    if let Some(files) = options::replicas(config) {
        files.check()?;
    }
    let dir = &config.store.dir;
    if std::fs::metadata(dir).is_ok_and(|found| !found.is_dir()) {
        return Err(StoreError::Layout(format!("store.dir {} is no folder", dir.display())).into());
    }
    let of_file = config.mode_file.as_ref().and_then(config::ModeFileKey::read);
    let of_file = of_file.into_iter().flat_map(|file| file.modes().filter_map(config::ModeSpec::upstream));
    for upstream in config.upstream.iter().chain(of_file) {
        Upstream::new(&options::upstream(upstream), Metrics::new()?, TaskTracker::new())?;
    }
    Ok(warnings::of(config, &auth, tls.as_ref(), clock::now()))
}

struct Parts {
    config: Config,
    source: Source,
    keys: Option<PathBuf>,
    logging: Arc<Logging>,
    store: Store,
    bundle: Option<Catalog>,
    pins: FollowedPins,
    expected: Expected,
    retention: Retention,
    auth: Authenticator,
    tls: Option<Arc<Tls>>,
    /// What was said at the start of what is probably not meant so.
    said: Vec<String>,
    /// Cancelled, the server ends; `None`: it does not give way.
    gives_way: Option<CancellationToken>,
}

/// What an administrator should know of this start.
fn announce(config: &Config, auth: &Authenticator, has_bundle: bool) {
    let of_bundle = if has_bundle { memory::BUNDLE_BYTES } else { 0 };
    if config.is_open() && config.mode_file.is_none() {
        match config.mode {
            config::Mode::Local if has_bundle => {
                tracing::info!("no users are configured: everyone on this machine may pull");
            }
            config::Mode::Local => {
                tracing::info!("no users are configured: everyone on this machine may pull, push and delete");
            }
            config::Mode::Direct | config::Mode::Proxy => {
                tracing::info!("no users are configured: everyone on this machine may pull");
            }
        }
    }
    tracing::info!(
        version = VERSION,
        mode = config.mode_name(),
        users = auth.user_count(),
        store = %config.store.dir.display(),
        most_memory_mib = (memory::most_bytes(config) + of_bundle) >> 20,
        "starting"
    );
}

async fn serve(mut parts: Parts, watcher: Watcher) -> Result<(), ServerError> {
    let system = |what| move |source| ServerError::System { what, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(system("SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("SIGINT"))?;
    let reloader = Reloader::new(Pace::default()).map_err(system("SIGHUP"))?;
    let registry_sockets = serve::bind(&options::addresses(&parts.config.listen))?;
    let admin_sockets = serve::bind(&options::addresses(&parts.config.admin_listen))?;
    let probe_sockets = serve::bind(&options::addresses(&parts.config.probe_listen))?;

    let (stop, draining, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
    let metrics = Metrics::new()?;
    let evictor = Evictor::new(parts.store.clone(), metrics.clone());
    let fills = Fills::new(
        parts.store.clone(),
        evictor.clone(),
        metrics.clone(),
        FillOptions::default(),
        tasks.clone(),
        stop.clone(),
    );
    replicas::keep_records(&parts.store, &parts.config);
    let replicas = Replicas::new(options::replicas(&parts.config), metrics.clone(), tasks.clone(), stop.clone());
    let made_of = plan::Parts {
        fills,
        bundled: parts.bundle.take().map(|catalog| Bundled::new(catalog, tasks.clone())),
        replicas: replicas.clone(),
        metrics: metrics.clone(),
        tasks: tasks.clone(),
    };
    let modes = Modes::new(&parts.config, made_of, parts.auth.clone())?;
    let app = App::new(
        // The modes as they are follow before anybody can ask.
        Mode::Unmanaged,
        parts.auth.clone(),
        options::api(&parts.config),
        metrics.clone(),
        parts.logging.access(),
        draining.clone(),
    );
    modes.attach(app.clone());
    let comparison = replicas::comparison(&parts, &replicas, &modes, (tasks.clone(), stop.clone()));
    app.answer_masters(replicas.clone(), comparison.clone());
    warnings::log_room(&modes.transition(), &parts.store.usage());
    let readiness = Readiness::new(parts.store.clone(), tasks.clone(), stop.clone());
    let ready = Ready { readiness, modes: modes.clone(), draining: draining.clone() };
    app.tell_state(state::source(modes.clone(), parts.auth.clone(), ready.clone(), metrics.clone(), clock::now()));
    let registry = Server::new(options::connections(&parts.config));
    let admin = Server::new(options::admin_connections());
    let probes = Server::new(options::probe_connections());
    let state = Arc::new(ArcSwap::from_pointee(ConfigStatus::in_force(clock::now())));
    let jobs = Runner::new(tasks.clone(), stop.clone());
    let socket = admin::Socket::bind(&parts.config.store.dir);
    let imports = Imports::default();
    let observer = Observer {
        started: Instant::now(),
        modes: modes.clone(),
        store: parts.store.clone(),
        retention: parts.retention.clone(),
        expected: parts.expected.clone(),
        auth: parts.auth.clone(),
        registry: registry.clone(),
        tls: parts.tls.clone(),
        config: Arc::clone(&state),
        jobs: jobs.clone(),
        imports: imports.clone(),
        replicas: replicas.clone(),
        comparison: comparison.clone(),
        logging: Arc::clone(&parts.logging),
        metrics: metrics.clone(),
        ready,
        takes_orders: socket.is_ok(),
        verifying: tokio::sync::Mutex::default(),
        gives_way: parts.gives_way.clone(),
        draining: draining.clone(),
    };
    let seen = Admin::new(observer, metrics.clone());
    if let Some(tls) = &parts.tls {
        tls.failures().count_in(metrics.clone());
    }
    jobs::start(&jobs, &parts, evictor, &modes);
    jobs.start(FollowMasters::new(replicas.clone()));
    jobs.start(CompareRecords::new(comparison.clone()));
    jobs.start(DropDeletions::new(comparison));
    jobs.start(ImportJob::new(parts.store.clone(), imports, metrics.clone(), tasks.clone()));
    take_orders(socket, seen.clone(), &tasks, &stop);
    for socket in registry_sockets {
        tracing::info!(listener = "registry", address = %socket.address(), tls = parts.tls.is_some(), "listening");
        let early = Arc::new(FastPath::new(app.clone()));
        registry.listen(socket, parts.tls.clone(), Edge::new(app.clone()), Some(early));
    }
    for socket in admin_sockets {
        tracing::info!(listener = "admin", address = %socket.address(), tls = false, "listening");
        admin.listen(socket, None, admin::router(seen.clone()), None);
    }
    for socket in probe_sockets {
        tracing::info!(listener = "probe", address = %socket.address(), tls = false, "listening");
        probes.listen(socket, None, admin::probe_router(seen.clone()), None);
    }
    let (store, deadline) = (parts.store.clone(), reload::Deadline::new(parts.config.limits.drain_deadline));
    let gives_way = parts.gives_way.clone().unwrap_or_default();
    let reloads = reload::Reloads::new(parts, app, modes, registry.clone(), metrics, state, deadline.clone());
    jobs.start(reloader.job(watcher, reloads));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = gives_way.cancelled() => {}
    }
    draining.cancel();
    end(&registry, &[admin, probes], &tasks, &stop, store, deadline.load()).await;
    Ok(())
}

/// Answers at the socket for orders. A server without it serves: only nobody can give it any.
fn take_orders(
    socket: Result<admin::Socket, SocketError>,
    seen: Admin<Observer>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    match socket {
        Ok(socket) => {
            tracing::info!(path = %socket.path().display(), "orders are taken");
            tasks.spawn(socket.serve(admin::order_router(seen), tasks.clone(), stop.clone()));
        }
        Err(error) => tracing::warn!(error = with_causes(&error), "no orders can be given: there is no admin socket"),
    }
}

/// Lets what runs end, in order, and closes the store.
async fn end(
    registry: &Server,
    asked_about_it: &[Server],
    tasks: &TaskTracker,
    stop: &CancellationToken,
    store: Store,
    deadline: Duration,
) {
    tracing::info!(connections = registry.connections(), seconds = deadline.as_secs(), "shutting down");
    let drained = registry.drain(deadline).await;
    if drained.cut > 0 {
        tracing::warn!(cut = drained.cut, peers = ?drained.peers, "requests were still running at the deadline and were cut");
    }
    // Health and metrics answer to the last.
    for server in asked_about_it {
        server.drain(Duration::from_secs(1)).await;
    }
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(WORKERS_DEADLINE, tasks.wait()).await.is_err() {
        tracing::warn!("background work did not end in time");
    }
    if let Err(error) = tokio::task::spawn_blocking(move || store.close()).await {
        tracing::error!(%error, "the store was not closed well");
    }
    tracing::info!("ended");
}
