//! The options of an [`Upstream`](super::Upstream): plain values, no defaults that depend on the machine.

use std::time::Duration;

use secrecy::SecretString;

use super::face::Face;
use super::proxy::ProxyVariables;
pub use crate::values::Scheme;

/// Bytes of the pages of one list: hundreds of thousands of tags. A longer one is an error, never cut short.
pub const MOST_LIST_BYTES: usize = 8 << 20;

impl Scheme {
    /// The scheme as it stands in a URL (RFC 3986, 3.1).
    #[must_use]
    pub const fn in_url(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Our credentials for an upstream. `Debug` shows no password.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Nobody.
    Anonymous,
    /// A user with a password or a licence; sent as Basic to the upstream, or to the realm of its Bearer challenge.
    Basic {
        /// User name.
        user: String,
        /// Password.
        password: SecretString,
    },
}

/// One registry: the upstream, or a mirror of it.
#[derive(Clone, Debug)]
pub struct EndpointOptions {
    /// In clear or over TLS.
    pub scheme: Scheme,
    /// `host[:port]`.
    pub host: String,
    /// The repository that everything is below, without slashes at its ends; may be `""`.
    pub path: String,
    /// PEM: authorities, and servers' own certificates, that are trusted beside those of the system.
    pub ca: Option<String>,
    /// Our credentials.
    pub credentials: Credentials,
}

/// An upstream with its mirrors.
#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// The upstream, then its mirrors in the order in which they are tried.
    pub endpoints: Vec<EndpointOptions>,
    /// Hosts, `host` or `host:port`, to which redirects, realms and links may lead whatever their address is.
    pub trusted_hosts: Vec<String>,
    /// The proxies of the environment.
    pub proxy: ProxyVariables,
    /// Times and sizes.
    pub limits: UpstreamLimits,
    /// Which side of the registry is asked.
    pub face: Face,
}

/// Times and sizes of the client. The defaults suit a registry on the other side of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// For the look-up of the name, the connection and the handshake together.
    pub connect: Duration,
    /// From the beginning of a request until the head of its answer.
    pub first_byte: Duration,
    /// Without one byte of a body that is being waited for.
    pub stall: Duration,
    /// How long a looked-up name counts as fresh.
    pub dns_ttl: Duration,
    /// How long a name that is known but not fresh is waited for.
    pub dns_patience: Duration,
    /// Bytes of a manifest.
    pub manifest_bytes: usize,
    /// Bytes of a token server's answer.
    pub token_bytes: usize,
    /// Bytes of all challenges of an answer together.
    pub challenge_bytes: usize,
    /// Bytes of an error's body that are read.
    pub error_bytes: usize,
    /// Bytes of all pages of a list together.
    pub list_bytes: usize,
    /// Pages of a list.
    pub list_pages: usize,
    /// Redirects of one request.
    pub redirects: usize,
    /// How often every endpoint is tried.
    pub attempts: u32,
    /// Pause before the second try, doubled before each further one; up to as much again is added by chance.
    pub retry_pause: Duration,
    /// Failures to connect, one after the other, that open a host's circuit. A time-out opens it at once.
    pub circuit_failures: u32,
    /// A request that was cut off earlier than this says nothing about the host; later, whether it is up is found out.
    pub circuit_min_wait: Duration,
    /// Pause before an open circuit is tried, doubled after each failure.
    pub circuit_pause: Duration,
    /// The longest such pause.
    pub circuit_pause_max: Duration,
    /// How long the request that sets off a trial waits for its end; others don't wait.
    pub circuit_trial_wait: Duration,
    /// Whether all who come while a trial runs wait for it as long: where a no is believed, and nothing else could be given.
    pub circuit_trial_shared: bool,
    /// For how long a refused sign-in is not tried again, doubled each time it is refused.
    pub refused_pause: Duration,
    /// For how long an endpoint that answers 429 and says no time is left alone, doubled likewise.
    pub limited_pause: Duration,
    /// For how long a repository that is refused to us is not asked for, doubled likewise.
    pub denied_pause: Duration,
    /// The longest of these pauses.
    pub refused_pause_max: Duration,
    /// Requests to an endpoint at once, until the head of a blob or the end of anything else has come.
    pub requests: usize,
    /// Requests that wait for a place among them.
    pub queued: usize,
    /// How long each of them waits.
    pub queue_patience: Duration,
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(15),
            stall: Duration::from_secs(60),
            dns_ttl: Duration::from_secs(30),
            dns_patience: Duration::from_secs(1),
            manifest_bytes: 8 << 20,
            token_bytes: 256 << 10,
            challenge_bytes: 8 << 10,
            error_bytes: 8 << 10,
            list_bytes: MOST_LIST_BYTES,
            list_pages: 2000,
            redirects: 5,
            attempts: 3,
            retry_pause: Duration::from_millis(100),
            circuit_failures: 3,
            circuit_min_wait: Duration::from_secs(1),
            circuit_pause: Duration::from_secs(1),
            circuit_pause_max: Duration::from_secs(3),
            circuit_trial_wait: Duration::from_secs(1),
            circuit_trial_shared: false,
            refused_pause: Duration::from_secs(10),
            limited_pause: Duration::from_secs(1),
            denied_pause: Duration::from_secs(30),
            refused_pause_max: Duration::from_secs(300),
            requests: 512,
            queued: 4096,
            queue_patience: Duration::from_secs(10),
        }
    }
}
