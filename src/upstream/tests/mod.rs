//! Over real sockets of this machine. Small limits stand where a default is seconds; nothing here waits for time to
//! pass but for what is tested to give up.

mod bodies;
mod failures;
mod lists;
mod proxies;
mod quirks;
mod redirects;
mod refused;
mod server;
mod sign_in;
mod tls;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use self::server::{Reply, Request, Server};
use super::proxy::Proxies;
use super::*;
use crate::oci::{Algorithm, Digest, Reference, Tag};
use crate::telemetry::UpstreamCause;

const MANIFEST: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;
const BLOB: &[u8] = b"0123456789";

pub(super) fn no_proxies() -> Proxies {
    Proxies::new(&ProxyVariables::default()).unwrap()
}

/// Far enough for a busy machine.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn limits() -> UpstreamLimits {
    UpstreamLimits { retry_pause: Duration::ZERO, circuit_min_wait: Duration::ZERO, ..UpstreamLimits::default() }
}

fn anonymous(server: &Server) -> EndpointOptions {
    EndpointOptions {
        scheme: server.scheme,
        host: server.host(),
        path: "base".to_owned(),
        ca: None,
        credentials: Credentials::Anonymous,
    }
}

fn with_login(server: &Server) -> EndpointOptions {
    let password = SecretString::from("geheim");
    EndpointOptions { credentials: Credentials::Basic { user: "me".to_owned(), password }, ..anonymous(server) }
}

fn options(endpoints: Vec<EndpointOptions>) -> UpstreamOptions {
    UpstreamOptions {
        endpoints,
        trusted_hosts: Vec::new(),
        proxy: ProxyVariables::default(),
        limits: limits(),
        face: Face::Clients,
    }
}

fn build(options: &UpstreamOptions) -> Upstream {
    Upstream::new(options, Metrics::new().unwrap(), TaskTracker::new()).unwrap()
}

fn upstream(endpoint: EndpointOptions) -> Upstream {
    build(&options(vec![endpoint]))
}

fn sha256(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

fn tag(text: &str) -> Reference {
    Reference::Tag(text.parse().unwrap())
}

fn by_digest(bytes: &[u8]) -> Reference {
    Reference::Digest(sha256(bytes))
}

/// All of a blob, or the error of its head or its body.
async fn read_blob(upstream: &Upstream, range: Option<BlobRange>) -> Result<Vec<u8>, UpstreamError> {
    let mut blob = upstream.blob("app", &sha256(BLOB), range, soon()).await?;
    let mut all = Vec::new();
    while let Some(bytes) = blob.body.chunk().await? {
        all.extend_from_slice(&bytes);
    }
    assert!(matches!(blob.body.chunk().await, Ok(None)), "an end stays one");
    Ok(all)
}

#[test]
fn a_repository_has_a_name_at_the_upstream_also_if_it_is_the_configured_one() {
    let named = |path: &str, child: &str| {
        let (host, path) = ("upstream.invalid".to_owned(), path.to_owned());
        let endpoint =
            EndpointOptions { scheme: Scheme::Http, host, path, ca: None, credentials: Credentials::Anonymous };
        upstream(endpoint).repository(child)
    };
    assert_eq!(named("base", ""), "base");
    assert_eq!(named("base", "app"), "base/app");
    assert_eq!(named("", "app"), "app");
    assert_eq!(named("base", "/other/app"), "other/app");
}

#[test]
fn what_is_handed_out_can_be_sent_between_threads() {
    fn is_send<T: Send + 'static>() {}
    fn future_is_send<T: Send>(_: &T) {}
    is_send::<UpstreamBody>();
    is_send::<UpstreamError>();
    let set_up = || {
        let endpoint = EndpointOptions {
            scheme: Scheme::Http,
            host: "upstream.invalid".to_owned(),
            path: String::new(),
            ca: None,
            credentials: Credentials::Anonymous,
        };
        upstream(endpoint)
    };
    // Outside of a runtime too.
    let upstream = set_up();
    let (digest, tag): (_, Tag) = (sha256(b""), "a".parse().unwrap());
    let reference = Reference::Digest(digest);
    future_is_send(&upstream.manifest("a", &reference, soon()));
    future_is_send(&upstream.resolve("a", &tag, soon()));
    future_is_send(&upstream.blob("a", &digest, None, soon()));
    future_is_send(&upstream.blob_size("a", &digest, soon()));
    future_is_send(&upstream.tags("a", soon()));
    future_is_send(&upstream.referrers("a", &digest, soon()));
    future_is_send(&upstream.probe(None, soon()));
    assert_eq!(upstream.host(), "upstream.invalid");
    assert!(upstream.last_accepted().is_none());
}

#[test]
fn options_that_cannot_work_are_refused_with_a_sentence() {
    let refused = |options: &UpstreamOptions| {
        Upstream::new(options, Metrics::new().unwrap(), TaskTracker::new()).unwrap_err().to_string()
    };
    assert_eq!(refused(&options(Vec::new())), "no upstream is configured");
    for host in ["", "a/b", "me:pw@a", "a:b", "a?x", "a b"] {
        let endpoint = EndpointOptions {
            scheme: Scheme::Https,
            host: host.to_owned(),
            path: String::new(),
            ca: None,
            credentials: Credentials::Anonymous,
        };
        assert!(refused(&options(vec![endpoint])).contains("host:port"), "{host}");
    }
}
