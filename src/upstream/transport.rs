//! One HTTP exchange: the right client for an address, the circuit, the deadline, and what went wrong.
//!
//! Knows nothing of registries, credentials or redirects.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use reqwest::{Client, Url};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::Shared;
use super::address::{AddressClass, check, check_name};
use super::circuit::{Admission, Circuits, Fault, Trial};
use super::dns::{Guard, OwnClass, Resolver};
use super::error::{Facts, UpstreamError, UpstreamSetupError};
use super::failure::{before_answer, cause_of, seconds};
use super::options::{Scheme, UpstreamLimits};
use super::proxy::Proxies;
use super::redirect::host_port;
use super::tls::Trust;
use crate::telemetry::UpstreamCause;

/// Most bytes that an answer of an upstream holds while nobody takes it: as many as hyper reads ahead of HTTP/1
/// (`DEFAULT_MAX_BUFFER_SIZE`, which the client does not let us set). Of a body that is sent on it gathers as many.
pub const TRANSFER_BYTES: u64 = 8192 + 4096 * 100;

/// Idle connections that are kept to a host.
const MAX_IDLE: usize = 32;
/// A half-dead HTTP/2 connection is found out by a ping.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// After a network was away, dead connections are not used for longer than this.
const IDLE: Duration = Duration::from_secs(30);

/// The clients of one endpoint, and where they may go.
pub(super) struct Transport {
    origin: Url,
    own_class: OwnClass,
    /// For the endpoint itself and for trusted hosts.
    own: Clients,
    /// For hosts that the endpoint sent us to: connects only to addresses that it may send us to.
    foreign: Clients,
    /// Through the proxies of the environment.
    proxied: Clients,
    shared: Arc<Shared>,
}

/// HTTP/2 shares one window of a connection among all bodies on it, so that a few readers that pause would starve the
/// rest: blobs go over HTTP/1.1, a connection each.
struct Clients {
    api: Client,
    blobs: Client,
    /// Keeps no connection: whether a host is up is found out by a new one.
    trial: Client,
}

/// A request, whole.
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// A body without bounds may follow.
    pub(super) bulk: bool,
    /// The head of the answer may take longer than usual, up to the deadline, as long as the host answers others.
    pub(super) patient: bool,
    /// What is sent, where it is in memory.
    pub(super) body: Option<Bytes>,
}

/// A body that is sent while it comes.
pub(super) struct OutgoingBody {
    pub(super) stream: reqwest::Body,
    /// Ready when its last byte was taken.
    pub(super) sent: oneshot::Receiver<()>,
}

/// A wait, and its end.
struct Waiting<'a> {
    url: &'a Url,
    host: &'a str,
    /// For finding out whether the host is up.
    trial: &'a Client,
    deadline: Instant,
}

impl Transport {
    pub(super) fn new(origin: Url, trust: &Trust, shared: Arc<Shared>) -> Result<Self, UpstreamSetupError> {
        let host = origin.host_str().unwrap_or_default();
        let own_class = if let Some(address) = literal(&origin) {
            OwnClass::Fixed(AddressClass::of(address))
        } else if shared.proxies.way(&origin).is_some() {
            // Who can be reached only through a proxy is outside.
            OwnClass::Fixed(AddressClass::Public)
        } else {
            OwnClass::Named(host.to_owned(), shared.resolver.clone())
        };
        let guard = Guard { resolver: shared.resolver.clone(), own: own_class.clone() };
        let (free, guard): (Arc<Resolver>, Arc<Guard>) = (Arc::new(shared.resolver.clone()), Arc::new(guard));
        let setup = |make: &dyn Fn() -> reqwest::ClientBuilder, proxies: Option<&Proxies>| {
            Clients::new(make, proxies, trust, &shared.limits).map_err(UpstreamSetupError::Client)
        };
        let with_free = || Client::builder().dns_resolver(Arc::clone(&free));
        let with_guard = || Client::builder().dns_resolver(Arc::clone(&guard));
        let (own, foreign) = (setup(&with_free, None)?, setup(&with_guard, None)?);
        let proxied = setup(&with_free, Some(&shared.proxies))?;
        Ok(Self { origin, own_class, own, foreign, proxied, shared })
    }

    /// Whether `url` is at the endpoint's own scheme, host and port.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.origin.origin()
    }

    /// Whether the configuration names the host.
    pub(super) fn is_trusted(&self, url: &Url) -> bool {
        self.shared.trusted_hosts.iter().any(|name| names(name, url))
    }

    /// Sends `outgoing` and waits for the head of the answer, whatever its status, not longer than until `deadline`.
    /// Safe to drop: ends the request.
    pub(super) async fn exchange(
        &self,
        outgoing: Outgoing,
        deadline: Instant,
    ) -> Result<reqwest::Response, UpstreamError> {
        let host = host_port(&outgoing.url);
        let late = || UpstreamError::timeout(&host, "was not asked, no time was left");
        let proxy = self.shared.proxies.way(&outgoing.url);
        let clients =
            timeout_at(deadline, self.clients(&outgoing.url, proxy.is_some())).await.map_err(|_| late())??;
        self.pass_circuit(&outgoing.url, &clients.trial, deadline).await?;
        let Outgoing { bulk, patient, .. } = outgoing;
        let client = if bulk { &clients.blobs } else { &clients.api };
        let key = Circuits::key(&outgoing.url);
        let with_credentials = outgoing.headers.contains_key(AUTHORIZATION);
        let url = outgoing.url.clone();
        let began = Instant::now();
        if deadline <= began {
            return Err(late());
        }
        let limits = &self.shared.limits;
        let request = client.request(outgoing.method, outgoing.url).headers(outgoing.headers);
        let request = match outgoing.body {
            Some(body) => request.body(body).send(),
            None => request.send(),
        };
        let result = if patient {
            self.patiently(request, Waiting { url: &url, host: &host, trial: &clients.trial, deadline }).await
        } else {
            timeout_at(deadline.min(began + limits.first_byte), request).await.ok()
        };
        let taken = began.elapsed();
        let (error, fault) = match result {
            Some(Ok(response)) => {
                self.shared.circuits.answered(&key);
                self.shared.metrics.upstream_request(outcome(response.status(), with_credentials), taken);
                return Ok(response);
            }
            Some(Err(error)) => before_answer(&host, proxy.as_deref(), &error, limits.connect),
            None => {
                let error = UpstreamError::timeout(&host, format!("gave no answer within {}", seconds(taken)));
                let fault = match taken {
                    // One blob or list may take long where others don't.
                    _ if taken >= limits.first_byte && !bulk && !patient => Fault::Slow,
                    _ if taken >= limits.circuit_min_wait => Fault::CutOff,
                    _ => Fault::Other,
                };
                (error, fault)
            }
        };
        Err(self.failed((&url, &clients.trial), began, error, fault))
    }

    /// Sends a request to the endpoint itself, with a body that takes as long as it takes, and waits for the head of the answer,
    /// whatever its status: from the body's end not longer than `patience`, and only while the host is found to be up. Safe to
    /// drop: ends the request, and its connection.
    pub(super) async fn forward(
        &self,
        outgoing: Outgoing,
        body: Option<OutgoingBody>,
        patience: Duration,
    ) -> Result<reqwest::Response, UpstreamError> {
        let Outgoing { method, url, headers, .. } = outgoing;
        let (host, key, limits) = (host_port(&url), Circuits::key(&url), &self.shared.limits);
        let proxy = self.shared.proxies.way(&url);
        let clients = if proxy.is_some() { &self.proxied } else { &self.own };
        self.pass_circuit(&url, &clients.trial, Instant::now() + limits.connect).await?;
        let began = Instant::now();
        let request = clients.blobs.request(method, url.clone()).headers(headers);
        let (request, sent) = match body {
            Some(OutgoingBody { stream, sent }) => (request.body(stream), Some(sent)),
            None => (request, None),
        };
        let mut request = pin!(request.send());
        let mut answer = None;
        if let Some(sent) = sent {
            tokio::select! {
                biased;
                early = request.as_mut() => answer = Some(early),
                // Whoever gives the body lets go of it at its end.
                _ = sent => {}
            }
        }
        if answer.is_none() {
            let deadline = Instant::now() + patience;
            answer = self.patiently(request, Waiting { url: &url, host: &host, trial: &clients.trial, deadline }).await;
        }
        let taken = began.elapsed();
        let (error, fault) = match answer {
            Some(Ok(response)) => {
                self.shared.circuits.answered(&key);
                self.shared.metrics.upstream_request(outcome(response.status(), false), taken);
                return Ok(response);
            }
            Some(Err(error)) => before_answer(&host, proxy.as_deref(), &error, limits.connect),
            None => (UpstreamError::timeout(&host, format!("gave no answer within {}", seconds(taken))), Fault::Other),
        };
        Err(self.failed((&url, &clients.trial), began, error, fault))
    }

    /// Takes in that a request that began at `began` failed before it was answered.
    fn failed(
        &self,
        (url, trial): (&Url, &Client),
        began: Instant,
        error: UpstreamError,
        fault: Fault,
    ) -> UpstreamError {
        let limits = &self.shared.limits;
        if fault != Fault::Other {
            self.shared.resolver.expire(url.host_str().unwrap_or_default());
        }
        if let Some(begun) = self.shared.circuits.failed(&Circuits::key(url), began, fault, &error) {
            let limit = limits.connect.min(limits.first_byte);
            self.shared.tasks.spawn(try_host(trial.clone(), self.trial_target(url), begun, limit));
        }
        self.shared.metrics.upstream_request(Err(error.cause()), began.elapsed());
        error
    }

    /// Waits for an answer until the deadline, as long as the host is found to be up each time that the usual limit is
    /// over; `None`: it gave none. Safe to drop: ends the request.
    async fn patiently<R: Future>(&self, request: R, waiting: Waiting<'_>) -> Option<R::Output> {
        let Waiting { url, host, trial: client, deadline } = waiting;
        let (limits, circuits, key) = (&self.shared.limits, &self.shared.circuits, Circuits::key(url));
        let mut request = pin!(request);
        loop {
            let since = Instant::now();
            let until = deadline.min(since + limits.first_byte);
            if let Ok(answer) = timeout_at(until, request.as_mut()).await {
                return Some(answer);
            }
            if until == deadline {
                return None;
            }
            let silent = UpstreamError::timeout(host, format!("gave no answer within {}", seconds(limits.first_byte)));
            if let Some(trial) = circuits.failed(&key, since, Fault::CutOff, &silent) {
                let limit = limits.connect.min(limits.first_byte);
                let trial = self.shared.tasks.spawn(try_host(client.clone(), self.trial_target(url), trial, limit));
                tokio::select! {
                    answer = request.as_mut() => return Some(answer),
                    _ = trial => {}
                }
            }
            if circuits.is_open(&key) {
                return None;
            }
        }
    }

    /// The clients that may go to `url`.
    async fn clients(&self, url: &Url, proxied: bool) -> Result<&Clients, UpstreamError> {
        let known = self.is_own(url) || self.is_trusted(url);
        if !known {
            let class = self.own_class.find().await;
            let checked = match literal(url) {
                Some(address) => check(address, class),
                None => check_name(url.host_str().unwrap_or_default(), class),
            };
            checked.map_err(|refused| UpstreamError::refused(&host_port(url), format!("is not gone to: {refused}")))?;
        }
        Ok(match (proxied, known) {
            (true, _) => &self.proxied,
            (false, true) => &self.own,
            (false, false) => &self.foreign,
        })
    }

    /// Answers at once while the host is down. Who comes first after a pause sets off a trial and waits a moment for
    /// its end; of masters all who come meanwhile wait for it.
    async fn pass_circuit(&self, url: &Url, client: &Client, deadline: Instant) -> Result<(), UpstreamError> {
        let (circuits, key) = (&self.shared.circuits, Circuits::key(url));
        let wait = self.shared.limits.circuit_trial_wait.min(deadline.saturating_duration_since(Instant::now()));
        let (trial, error) = match circuits.admit(&key) {
            Admission::Closed => return Ok(()),
            Admission::Tried(ended, error) if self.shared.limits.circuit_trial_shared => {
                let mut ended = std::pin::pin!(ended.notified());
                ended.as_mut().enable();
                // It may have ended in between.
                if circuits.is_open(&key) {
                    let _in_time = timeout(wait, ended).await;
                }
                return if circuits.is_open(&key) { Err(error) } else { Ok(()) };
            }
            Admission::Open(error) | Admission::Tried(_, error) => return Err(error),
            Admission::Trial(trial, error) => (trial, error),
        };
        let target = self.trial_target(url);
        let limit = self.shared.limits.first_byte;
        let trial = self.shared.tasks.spawn(try_host(client.clone(), target, trial, limit));
        match timeout(wait, trial).await {
            Ok(Ok(true)) => Ok(()),
            _ => Err(error),
        }
    }
}

impl Transport {
    /// Something small at the same host, without a secret.
    fn trial_target(&self, url: &Url) -> Url {
        let mut target = url.clone();
        target.set_path(if self.is_own(url) { "/v2/" } else { "/" });
        target.set_query(None);
        target
    }
}

/// Asks for anything; every answer means that the host is back.
async fn try_host(client: Client, url: Url, trial: Trial, limit: Duration) -> bool {
    match timeout(limit, client.get(url).send()).await {
        Ok(Ok(_)) => {
            trial.succeeded();
            true
        }
        _ => false,
    }
}

impl Clients {
    fn new(
        make: &dyn Fn() -> reqwest::ClientBuilder,
        proxies: Option<&Proxies>,
        trust: &Trust,
        limits: &UpstreamLimits,
    ) -> Result<Self, String> {
        let builder = |protocols: &[&str]| {
            let mut builder = make()
                .tls_backend_preconfigured(trust.config(protocols)?)
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                // What is not asked for can't be decoded behind our back either.
                .no_gzip()
                .no_brotli()
                .no_zstd()
                .no_deflate()
                .no_proxy()
                .user_agent(concat!("d8-registry/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(limits.connect)
                .pool_max_idle_per_host(MAX_IDLE)
                .pool_idle_timeout(IDLE)
                .http2_keep_alive_interval(PING_INTERVAL)
                .http2_keep_alive_timeout(PING_TIMEOUT);
            if let Some(proxies) = proxies.filter(|proxies| !proxies.is_empty()) {
                for proxy in proxies.for_client().map_err(|error| error.without_url().to_string())? {
                    builder = builder.proxy(proxy);
                }
            }
            Ok::<_, String>(builder)
        };
        let built = |builder: reqwest::ClientBuilder| builder.build().map_err(|error| error.to_string());
        Ok(Self {
            api: built(builder(&["h2", "http/1.1"])?)?,
            blobs: built(builder(&["http/1.1"])?.http1_only())?,
            trial: built(builder(&["h2", "http/1.1"])?.pool_max_idle_per_host(0))?,
        })
    }
}

/// The address that a host is, if it is no name.
fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

/// The outcome of an answer for the metrics. The challenge that tells us how to sign in is no failure.
fn outcome(status: StatusCode, with_credentials: bool) -> Result<(), UpstreamCause> {
    let challenge = status == StatusCode::UNAUTHORIZED && !with_credentials;
    if status.as_u16() < 400 || challenge { Ok(()) } else { Err(cause_of(status)) }
}

/// The address of an endpoint without its path.
pub(super) fn origin(scheme: Scheme, host: &str) -> Result<Url, UpstreamSetupError> {
    let wrong = || UpstreamSetupError::Host { host: host.to_owned() };
    let url = Url::parse(&format!("{}://{host}/", scheme.in_url())).map_err(|_| wrong())?;
    let plain = url.username().is_empty() && url.password().is_none() && url.path() == "/";
    if !plain || url.query().is_some() || url.fragment().is_some() || host.contains(['/', '@', '?', '#']) {
        return Err(wrong());
    }
    Ok(url)
}

/// Whether `name`, `host` or `host:port`, is the host of `url`: an address in whatever form, a name with or without the dot
/// that ends it.
fn names(name: &str, url: &Url) -> bool {
    // The parser of URLs puts both into one form.
    let Ok(named) = Url::parse(&format!("{}://{name}/", url.scheme())) else { return false };
    let whole = |url: &Url| url.host_str().map(|host| host.strip_suffix('.').unwrap_or(host).to_owned());
    // A port that is the scheme's own is not kept by the parser, so whether there is one is read from the text.
    let has_port = name.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok() && !name.ends_with(']'));
    let same_port = !has_port || named.port_or_known_default() == url.port_or_known_default();
    whole(&named).is_some() && whole(&named) == whole(url) && same_port
}

/// A fault of the answer that another try may not meet.
pub(super) fn failed_answer(host: &str, status: StatusCode, what: String) -> Facts {
    let mut facts = Facts::new(cause_of(status), host, what).status(status);
    facts.proxy_refused = status == StatusCode::PROXY_AUTHENTICATION_REQUIRED;
    if matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504) { facts.again() } else { facts }
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_trusted_host_is_one_host_however_it_is_written() {
        let is = |name: &str, url: &str| names(name, &url.parse().unwrap());
        assert!(is("s3.example", "https://S3.example/x") && is("s3.example", "https://s3.example:9000/x"));
        assert!(is("s3.example.", "http://s3.example/") && is("s3.example", "http://s3.example./"));
        assert!(is("[0:0::1]", "https://[::1]:9000/") && is("[::1]:9000", "https://[0::1]:9000/"));
        assert!(is("s3.example:443", "https://s3.example/") && is("s3.example:80", "http://s3.example/"));
        assert!(!is("s3.example:443", "http://s3.example/") && !is("s3.example:9000", "http://s3.example/"));
        assert!(!is("[::1]:9000", "https://[::1]/") && !is("s3", "https://s3.example/"));
    }
}
