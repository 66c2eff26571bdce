//! The configuration's values in the form that each part takes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;

use crate::api::{CopyRules, GateSizes, Settings};
use crate::auth::{AuthOptions, TokenOptions, UserSpec};
use crate::config::{
    self, Config, EndpointSettings, GcSettings, LogSettings, Tls, TokenSwitch, UpstreamCredentials, UpstreamSettings,
};
use crate::mode::{Mapping, ProxySettings};
use crate::replicas::ReplicaFiles;
use crate::retention::{Keep, RetentionOptions, Rule};
use crate::serve::{ConnectionLimits, TlsOptions};
use crate::store::{CollectionOptions, StoreLimits, StoreOptions};
use crate::telemetry::{LogOptions, UpstreamCause};
use crate::upstream::{Credentials, EndpointOptions, Face, ProxyVariables, UpstreamLimits, UpstreamOptions};
use crate::values::{Acceleration, Address, StaleCause};

/// Connections of the admin listener: a scraper, some probes, an administrator.
const ADMIN_CONNECTIONS: usize = 64;

/// Connections of the probe listener: a kubelet, and whoever else asks.
const PROBE_CONNECTIONS: usize = 16;

/// Bounds of connections on the admin listener; those without a key hold for the registry's listener too.
const ADMIN: ConnectionLimits = ConnectionLimits {
    max_connections: ADMIN_CONNECTIONS,
    handshake_timeout: Duration::from_secs(10),
    first_head_timeout: Duration::from_secs(10),
    // Above the 90 s for which Go's clients, Prometheus among them, keep an idle connection.
    header_timeout: Duration::from_secs(100),
    stall_timeout: Duration::from_secs(30),
    max_header_bytes: 64 * 1024,
    max_streams: 200,
    accelerate: true,
    linger_time: Duration::from_secs(5),
};

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

pub(super) fn log(config: &Config) -> LogOptions {
    let LogSettings { format, level, access } = config.log;
    LogOptions { format, level, access }
}

pub(super) fn store(config: &Config) -> StoreOptions {
    let (dir, must_exist) = (config.store.dir.clone(), config.store.must_exist);
    StoreOptions { dir, must_exist, limits: store_limits(config) }
}

pub(super) const fn store_limits(config: &Config) -> StoreLimits {
    StoreLimits {
        max_bytes: config.store.max_bytes,
        reserve: config.store.reserve,
        upload_idle: config.limits.upload_idle,
        write_rate: config.limits.write_rate,
    }
}

pub(super) fn collection(config: &Config) -> CollectionOptions {
    let GcSettings { schedule, grace, untagged_after } = config.gc.clone();
    CollectionOptions { schedule, grace, untagged_after }
}

pub(super) const fn scrub(config: &Config) -> Option<Duration> {
    config.scrub.interval.time()
}

pub(super) fn retention(config: &Config) -> RetentionOptions {
    retention_of(config.retention.clone())
}

/// The rules of a section.
pub(crate) fn retention_of(settings: config::RetentionSettings) -> RetentionOptions {
    let rules = settings.rules.into_iter().map(|rule| Rule {
        repositories: rule.repositories,
        keep: Keep {
            newest: rule.newest,
            pushed_within: rule.pushed_within,
            pulled_within: rule.pulled_within,
            matching: rule.matching,
        },
    });
    RetentionOptions { keep_releases: settings.releases.keep, rules: rules.collect() }
}

pub(super) fn auth(config: &Config, keys: Option<&Path>) -> AuthOptions {
    let settings = &config.auth;
    let users = settings.users.iter().map(|user| UserSpec {
        name: user.name.clone(),
        password_hash: SecretString::from(user.password_hash.expose()),
        role: user.role,
    });
    AuthOptions {
        anonymous: settings.anonymous,
        users: users.collect(),
        users_dir: settings.users_dir.clone(),
        token: TokenOptions {
            enabled: match settings.token.enabled {
                // The upstream's user is one too, which the authenticator learns of later.
                TokenSwitch::WithUsers => config.has_upstream_login().then_some(true),
                TokenSwitch::On => Some(true),
                TokenSwitch::Off => Some(false),
            },
            ttl: settings.token.ttl,
            signing_key_file: settings.token.signing_key_file.clone(),
            signing_cert_file: settings.token.signing_cert_file.clone(),
            key_dir: keys.map(Path::to_path_buf),
        },
    }
}

pub(super) fn upstream(settings: &UpstreamSettings) -> UpstreamOptions {
    let endpoints = std::iter::once(&settings.endpoint).chain(&settings.mirrors).map(|endpoint| EndpointOptions {
        scheme: endpoint.scheme,
        host: endpoint.host.clone(),
        path: endpoint.path.clone(),
        ca: endpoint.ca.clone(),
        credentials: match &endpoint.credentials {
            UpstreamCredentials::Anonymous => Credentials::Anonymous,
            UpstreamCredentials::Login { username, password } => {
                Credentials::Basic { user: username.clone(), password: SecretString::from(password.expose()) }
            }
        },
    });
    UpstreamOptions {
        endpoints: endpoints.collect(),
        trusted_hosts: settings.trusted_hosts.clone(),
        proxy: ProxyVariables::from_environment(),
        limits: UpstreamLimits::default(),
        face: Face::Clients,
    }
}

pub(super) fn proxy(config: &Config) -> ProxySettings {
    let proxy = &config.proxy;
    let causes = |cause: StaleCause| -> &'static [UpstreamCause] {
        match cause {
            StaleCause::Unreachable => &[UpstreamCause::Unreachable],
            StaleCause::Timeout => &[UpstreamCause::Timeout],
            StaleCause::ServerError => &[UpstreamCause::ServerError],
            StaleCause::RateLimited => &[UpstreamCause::RateLimited],
            StaleCause::Unauthorized => &[UpstreamCause::Unauthorized],
            StaleCause::Forbidden => &[UpstreamCause::Forbidden],
            // A portal redirects to where an upstream may not send us.
            StaleCause::Invalid => &[UpstreamCause::Invalid, UpstreamCause::Refused],
        }
    };
    ProxySettings {
        tag_ttl: proxy.tag_ttl,
        negative_ttl: proxy.negative_ttl,
        stale_negative: proxy.stale_negative,
        max_stale: proxy.max_stale,
        stale_on: proxy.stale_on.iter().flat_map(causes).copied().collect(),
    }
}

/// The names that clients use and where each leads.
pub(super) fn mapping(config: &Config, upstream: &EndpointSettings) -> Mapping {
    let (host, own) = (&upstream.host, &upstream.path);
    match &config.repositories[..] {
        [] => Mapping::new(config.repository.clone(), host, own),
        names => {
            names.iter().filter(|named| named.leads_to(upstream)).fold(Mapping::empty(host, own), |mapping, named| {
                mapping.and(named.name.clone(), named.path.as_deref().unwrap_or(own))
            })
        }
    }
}

pub(super) fn password_checks(config: &Config) -> usize {
    count(config.limits.password_checks)
}

pub(super) fn tls(config: &Config) -> Option<TlsOptions> {
    match &config.tls {
        Tls::Off { .. } => None,
        Tls::On(files) => Some(TlsOptions {
            cert_file: files.cert_file.clone(),
            key_file: files.key_file.clone(),
            client_ca_file: files.client_ca_file.clone(),
            trusted_proxy_names: files.trusted_proxy_names.clone(),
            controller_ca_file: files.controller_ca_file.clone(),
            peer_ca_file: config.replicas.ca.clone(),
        }),
    }
}

/// The files that say who the other masters are; `None`: there are none.
pub(super) fn replicas(config: &Config) -> Option<ReplicaFiles> {
    let config::ReplicasSettings { peers, certificate, key, ca, .. } = config.replicas.clone();
    Some(ReplicaFiles { peers: peers?, certificate: certificate?, key: key?, ca: ca? })
}

pub(super) fn addresses(listen: &[Address]) -> Vec<SocketAddr> {
    listen.iter().map(|address| address.0).collect()
}

pub(super) fn api(config: &Config) -> Settings {
    let limits = &config.limits;
    Settings {
        manifest_max_bytes: usize::try_from(config.manifests.max_bytes).unwrap_or(usize::MAX),
        gates: GateSizes {
            pulls: count(limits.pulls),
            uploads: count(limits.uploads),
            listings: count(limits.listings),
            queue_wait: limits.queue_wait,
        },
        copies: CopyRules { min: config.replicas.min_copies, when_short: config.replicas.when_short },
    }
}

pub(super) fn connections(config: &Config) -> ConnectionLimits {
    let limits = &config.limits;
    ConnectionLimits {
        max_connections: count(limits.connections),
        handshake_timeout: limits.tls_handshake_timeout,
        header_timeout: limits.request_header_timeout,
        stall_timeout: limits.stall_timeout,
        max_header_bytes: usize::try_from(limits.header_bytes).unwrap_or(usize::MAX),
        accelerate: limits.acceleration == Acceleration::Sendfile,
        ..ADMIN
    }
}

pub(super) const fn probe_connections() -> ConnectionLimits {
    ConnectionLimits { max_connections: PROBE_CONNECTIONS, ..ADMIN }
}

pub(super) const fn admin_connections() -> ConnectionLimits {
    ADMIN
}
