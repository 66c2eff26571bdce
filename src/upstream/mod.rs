//! The client of an upstream registry: what modes Direct and Proxy ask for, and nothing else.
//!
//! An [`Upstream`] reads manifests, blobs and lists. It signs in (Basic, Bearer), follows redirects to storage, tries
//! mirrors and again, and keeps to a deadline in all of that. It sends our own headers only, and gives our credentials
//! to nobody but the upstream and its token server. It writes to an upstream by `writes` alone, which no mode calls, stores nothing
//! on disk and knows nothing of the store. What a client sends to one master of a cluster and another one has to carry out goes on
//! by `forward`.
//!
//! In reading order: `options` and `error` are plain values; `request` tries endpoints and tries again; `endpoint` asks
//! one, as often as its `gate` lets through and not for what it refused a moment ago (`refusals`), follows redirects
//! (`redirect`) and signs in (`sign_in`, `challenge`, `base_challenge`, `token`, `token_server`); `transport` does one exchange
//! (`circuit`, `failure`) with clients made of `tls`, `proxy`, `dns` and `address`; `manifests`, `blobs`, `lists` and
//! `probe` are what is asked, `writes` what is pushed, `masters` what masters ask each other beside that, `answering_mode` is who answered; `body` is what comes, `verified` a blob of it that is proven; `secrets` is what no error tells, `face` which side of a
//! d8-registry is asked.

mod address;
mod answering_mode;
mod base_challenge;
mod blobs;
mod body;
mod challenge;
mod circuit;
mod dns;
mod endpoint;
mod error;
mod face;
mod failure;
mod forward;
mod gate;
mod lists;
mod manifests;
mod masters;
mod options;
mod probe;
mod proxy;
mod redirect;
mod refusals;
mod request;
mod secrets;
mod sign_in;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod token_server;
mod transport;
mod verified;
mod writes;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::task::TaskTracker;

pub use blobs::{BlobRange, Patience, UpstreamBlob};
pub use body::UpstreamBody;
pub use error::{UpstreamError, UpstreamSetupError};
pub use face::{ClientCertificate, Face, HOP, ONE_HOP, PEER_PREFIX};
pub use forward::{BodySender, Forwarded, ForwardedAnswer, ForwardedBody, NotTaken, forwarded_body};
pub use manifests::{ManifestFacts, Resolved, UpstreamManifest};
pub use masters::{CLOCK, Told};
pub use options::{Credentials, EndpointOptions, MOST_LIST_BYTES, Scheme, UpstreamLimits, UpstreamOptions};
pub use probe::Probe;
pub use proxy::ProxyVariables;
pub use transport::TRANSFER_BYTES;
pub use verified::{BlobFault, VerifiedBlob};
pub use writes::{BegunUpload, Upload};

use self::circuit::Circuits;
use self::dns::Resolver;
use self::endpoint::Endpoint;
use self::proxy::Proxies;
use self::secrets::Secrets;
use self::tls::SystemAuthorities;
use crate::clock::Timestamp;
use crate::telemetry::Metrics;
use crate::values::Mode;

/// First character of a child that is a whole name at the upstream, not one below the configured repository. Mirrors are
/// not asked for it. No client's name begins so.
pub const WHOLE: char = '/';

/// A registry and its mirrors. Cheap to clone; never changes: a change of the configuration makes another one, and
/// requests in flight finish on the old one.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    endpoints: Vec<Arc<Endpoint>>,
    shared: Arc<Shared>,
}

/// Shared by all endpoints.
struct Shared {
    limits: UpstreamLimits,
    metrics: Metrics,
    tasks: TaskTracker,
    circuits: Circuits,
    resolver: Resolver,
    proxies: Proxies,
    secrets: Secrets,
    trusted_hosts: Vec<String>,
    /// The mode of a d8-registry that has to answer.
    mode: Option<&'static str>,
    face: Face,
    /// When an endpoint last gave what it was asked for, in milliseconds; 0: never.
    accepted: AtomicU64,
}

impl Upstream {
    /// Sets an upstream up; asks nobody yet. Blocking: reads the certificates of the system. `tasks` runs look-ups of
    /// tokens and trials of hosts that were down; each ends by itself within seconds.
    ///
    /// # Errors
    /// [`UpstreamSetupError`], a sentence each.
    pub fn new(options: &UpstreamOptions, metrics: Metrics, tasks: TaskTracker) -> Result<Self, UpstreamSetupError> {
        Self::set_up(options, None, metrics, tasks, dns::system())
    }

    /// The same for a d8-registry of which only the answers of `mode` count: one of another mode, or one that does not say
    /// its mode, is an error with cause `Invalid`.
    ///
    /// # Errors
    /// [`UpstreamSetupError`], a sentence each.
    pub fn in_mode(
        mode: Mode,
        options: &UpstreamOptions,
        metrics: Metrics,
        tasks: TaskTracker,
    ) -> Result<Self, UpstreamSetupError> {
        Self::set_up(options, Some(mode.as_str()), metrics, tasks, dns::system())
    }

    #[cfg(test)]
    fn with_lookup(
        options: &UpstreamOptions,
        metrics: Metrics,
        tasks: TaskTracker,
        lookup: dns::Lookup,
    ) -> Result<Self, UpstreamSetupError> {
        Self::set_up(options, None, metrics, tasks, lookup)
    }

    fn set_up(
        options: &UpstreamOptions,
        mode: Option<&'static str>,
        metrics: Metrics,
        tasks: TaskTracker,
        lookup: dns::Lookup,
    ) -> Result<Self, UpstreamSetupError> {
        let limits = options.limits.clone();
        let proxies = Proxies::new(&options.proxy)?;
        let pairs = options.endpoints.iter().filter_map(|endpoint| secrets::pair(&endpoint.credentials));
        let shared = Arc::new(Shared {
            secrets: Secrets::new(pairs.chain(proxies.logins())),
            circuits: Circuits::new(&limits, metrics.clone()),
            resolver: Resolver::new(lookup, limits.dns_ttl, limits.dns_patience),
            proxies,
            trusted_hosts: options.trusted_hosts.clone(),
            mode,
            face: options.face.clone(),
            accepted: AtomicU64::new(0),
            limits,
            metrics,
            tasks,
        });
        let system = match options.face {
            Face::Clients | Face::OwnStore => SystemAuthorities::load(),
            Face::Peers(_) => SystemAuthorities::none(),
        };
        let last = options.endpoints.len().saturating_sub(1);
        let endpoints = options.endpoints.iter().enumerate().map(|(index, endpoint)| {
            Endpoint::new(endpoint, index == last, &system, Arc::clone(&shared)).map(Arc::new)
        });
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(UpstreamSetupError::NoEndpoint);
        }
        Ok(Self(Arc::new(Inner { endpoints, shared })))
    }

    /// `host[:port]` of the upstream itself, as configured.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.endpoints.first().map_or("", |endpoint| endpoint.host.as_str())
    }

    /// The name at the upstream itself of the repository `child`, `""` for the configured one.
    #[must_use]
    pub fn repository(&self, child: &str) -> String {
        self.0.endpoints.first().map_or_else(String::new, |endpoint| endpoint.repository(child))
    }

    /// Whether `other` is the same one: the same addresses, paths and generation of credentials. The name of a host is
    /// not enough for that.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// When the upstream, or a mirror, last gave what it was asked for.
    #[must_use]
    pub fn last_accepted(&self) -> Option<Timestamp> {
        match self.0.shared.accepted.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(Timestamp::from_millis(millis)),
        }
    }
}

impl Upstream {
    /// Whether another upstream waits to take the place of this one: its sign-in, once refused, is not tried then, so
    /// that it does not lock the account against the new password.
    pub fn hold_refused(&self, held: bool) {
        self.0.endpoints.iter().for_each(|endpoint| endpoint.refusals.hold(held));
    }

    /// How long the next probe has to wait at least, so that a sign-in that is refused does not lock the account.
    #[must_use]
    pub fn probe_pause(&self) -> Option<Duration> {
        self.0.endpoints.first().and_then(|endpoint| endpoint.refusals.left_for_probe())
    }

    /// For how long the upstream itself is left alone, because it refused our sign-in or is asked too often; `None`:
    /// it is not.
    #[must_use]
    pub fn left_alone(&self) -> Option<Duration> {
        self.0.endpoints.first().and_then(|endpoint| endpoint.refusals.left())
    }
}

impl Shared {
    fn accepted(&self, now: Timestamp) {
        self.accepted.fetch_max(now.as_millis(), Ordering::Relaxed);
        self.metrics.upstream_accepted(now);
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("host", &self.host()).finish_non_exhaustive()
    }
}
