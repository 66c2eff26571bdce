//! Whom we believe, and HTTP/2.

use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::*;

/// What a certificate is made of.
struct Wish {
    names: &'static [&'static str],
    ca: IsCa,
    years: (i32, i32),
    purpose: Option<ExtendedKeyUsagePurpose>,
}

impl Wish {
    fn new(ca: IsCa) -> Self {
        Self { names: &["localhost"], ca, years: (2020, 2120), purpose: None }
    }

    fn params(self) -> CertificateParams {
        let names: Vec<_> = self.names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "localhost");
        params.is_ca = self.ca;
        params.not_before = rcgen::date_time_ymd(self.years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(self.years.1, 1, 1);
        params.extended_key_usages.extend(self.purpose);
        params
    }

    /// A server that shows it, and its PEM text.
    fn self_signed(self) -> (TlsAcceptor, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = self.params().self_signed(&key).unwrap();
        (acceptor(vec![certificate.der().clone()], &key, &[]), certificate.pem())
    }
}

const AUTHORITY: IsCa = IsCa::Ca(BasicConstraints::Unconstrained);

fn acceptor(chain: Vec<CertificateDer<'static>>, key: &KeyPair, protocols: &[&str]) -> TlsAcceptor {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// A server's own certificate, as `openssl req -x509` makes it.
pub(super) fn self_signed(names: &'static [&'static str]) -> (TlsAcceptor, String) {
    Wish { names, ..Wish::new(AUTHORITY) }.self_signed()
}

pub(super) fn any_ca() -> String {
    self_signed(&["somebody"]).1
}

/// Asks a server that shows what `acceptor` has, believing `ca`.
async fn ask(acceptor: TlsAcceptor, ca: String) -> Result<(), UpstreamError> {
    let server = Server::start_tls(acceptor, |_| Reply::ok(MANIFEST)).await;
    let endpoint = EndpointOptions { ca: Some(ca), ..anonymous(&server) };
    upstream(endpoint).manifest("app", &tag("a"), soon()).await.map(|_| ())
}

#[tokio::test]
async fn a_servers_own_certificate_is_believed_if_ca_has_it() {
    for kind in [AUTHORITY, IsCa::ExplicitNoCa, IsCa::NoCa] {
        let (acceptor, pem) = Wish::new(kind).self_signed();
        ask(acceptor.clone(), pem.clone()).await.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        ask(acceptor.clone(), format!("{}{pem}", any_ca())).await.unwrap();
        let error = ask(acceptor, any_ca()).await.unwrap_err();
        assert_eq!(error.cause(), UpstreamCause::Unreachable);
        assert!(error.to_string().contains("ca"), "{kind:?}: {error}");
    }
}

#[tokio::test]
async fn name_dates_and_purpose_of_a_pinned_certificate_count() {
    for (wish, words) in [
        (Wish { names: &["other.test"], ..Wish::new(AUTHORITY) }, "not valid for this name"),
        (Wish { names: &[], ..Wish::new(AUTHORITY) }, "subjectAltName"),
        (Wish { years: (2020, 2021), ..Wish::new(AUTHORITY) }, "expired"),
        (Wish { years: (2110, 2120), ..Wish::new(AUTHORITY) }, "not valid yet"),
        (Wish { purpose: Some(ExtendedKeyUsagePurpose::ClientAuth), ..Wish::new(AUTHORITY) }, "not meant for servers"),
        (Wish { years: (2020, 2021), ..Wish::new(IsCa::ExplicitNoCa) }, "expired"),
    ] {
        let (acceptor, pem) = wish.self_signed();
        let error = ask(acceptor, pem).await.unwrap_err();
        assert_eq!(error.cause(), UpstreamCause::Unreachable);
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
}

#[tokio::test]
async fn authorities_sign_and_pinned_servers_do_not() {
    for (kind, is_good) in [(AUTHORITY, true), (IsCa::ExplicitNoCa, false), (IsCa::NoCa, false)] {
        let issuer_key = KeyPair::generate().unwrap();
        let params = Wish { names: &["issuer.test"], ..Wish::new(kind) }.params();
        let pem = params.self_signed(&issuer_key).unwrap().pem();
        let issuer = Issuer::new(params, issuer_key);
        let key = KeyPair::generate().unwrap();
        let leaf = Wish::new(IsCa::NoCa).params().signed_by(&key, &issuer).unwrap();
        let result = ask(acceptor(vec![leaf.der().clone()], &key, &[]), pem).await;
        assert_eq!(result.is_ok(), is_good, "{kind:?}: {result:?}");
    }
}

#[test]
fn what_cannot_be_used_as_ca_is_refused_with_a_sentence() {
    let (_, without_name) = Wish { names: &[], ..Wish::new(IsCa::ExplicitNoCa) }.self_signed();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (ca, words) in [
        ("", "no certificate"),
        ("nonsense", "no certificate"),
        (broken, "certificate 1"),
        (&format!("{}{broken}", any_ca()), "certificate 2"),
        (&without_name, "subjectAltName"),
    ] {
        let endpoint = EndpointOptions {
            scheme: Scheme::Https,
            host: "registry.test".to_owned(),
            path: String::new(),
            ca: Some(ca.to_owned()),
            credentials: Credentials::Anonymous,
        };
        let error = Upstream::new(&options(vec![endpoint]), Metrics::new().unwrap(), TaskTracker::new()).unwrap_err();
        assert!(error.to_string().contains(words) && error.to_string().contains("registry.test"), "{error}");
    }
}

#[tokio::test]
async fn plain_http_where_tls_is_expected_is_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let tasks = TaskTracker::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 8192]).await;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let endpoint = EndpointOptions {
        scheme: Scheme::Https,
        host,
        path: String::new(),
        ca: Some(any_ca()),
        credentials: Credentials::Anonymous,
    };
    let error = upstream(endpoint).manifest("app", &tag("a"), soon()).await.unwrap_err();
    assert_eq!(error.cause(), UpstreamCause::Unreachable);
    assert!(error.to_string().contains("is its scheme HTTP?"), "{error}");
    // Who closes without a word.
    let server = Server::start(|_| Reply::ok(MANIFEST)).await;
    let endpoint = EndpointOptions { scheme: Scheme::Https, ca: Some(any_ca()), ..anonymous(&server) };
    let error = upstream(endpoint).manifest("app", &tag("a"), soon()).await.unwrap_err();
    assert!(error.to_string().contains("closed during the TLS handshake"), "{error}");
}

#[tokio::test]
async fn from_tls_nothing_leads_into_the_clear() {
    let clear = Server::start(|_| Reply::json(200, r#"{"token":"x"}"#)).await;
    let (acceptor, ca) = self_signed(&["localhost"]);
    let (storage, realm) = (clear.url("/blob?signature=abc"), clear.url("/token"));
    let server = Server::start_tls(acceptor, move |request| match request.target.contains("blobs") {
        true => Reply::with(307, "location", storage.clone()),
        false => Reply::with(401, "www-authenticate", format!(r#"Bearer realm="{realm}""#)),
    })
    .await;
    let endpoint = EndpointOptions { ca: Some(ca), ..with_login(&server) };
    let mut options = options(vec![endpoint]);
    for _ in 0..2 {
        let error = build(&options).manifest("app", &tag("a"), soon()).await.unwrap_err();
        assert_eq!(error.cause(), UpstreamCause::Refused, "{error}");
        assert!(clear.seen().is_empty(), "no trust makes a password go in clear");
        options.trusted_hosts = vec![clear.address.ip().to_string()];
    }
    read_blob(&build(&options), None).await.unwrap();
    options.trusted_hosts.clear();
    let error = read_blob(&build(&options), None).await.unwrap_err();
    assert_eq!(error.cause(), UpstreamCause::Refused, "{error}");
    assert!(!error.to_string().contains("signature"), "{error}");
}

#[tokio::test]
async fn questions_go_over_http2_and_blobs_over_connections_of_their_own() {
    let key = KeyPair::generate().unwrap();
    let certificate = Wish::new(AUTHORITY).params().self_signed(&key).unwrap();
    let acceptor = acceptor(vec![certificate.der().clone()], &key, &["h2", "http/1.1"]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tasks = TaskTracker::new();
    tasks.clone().spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tasks.spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let service = service_fn(async |request: http::Request<Incoming>| {
                    let version = format!(r#"{{"schemaVersion":2,"version":"{:?}"}}"#, request.version());
                    Ok::<_, std::convert::Infallible>(http::Response::new(Full::<bytes::Bytes>::from(version)))
                });
                let io = TokioIo::new(stream);
                let _ = match is_h2 {
                    true => {
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(io, service)
                            .await
                    }
                    false => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await,
                };
            });
        }
    });
    let endpoint = EndpointOptions {
        scheme: Scheme::Https,
        host: format!("localhost:{port}"),
        path: String::new(),
        ca: Some(certificate.pem()),
        credentials: Credentials::Anonymous,
    };
    let upstream = upstream(endpoint);
    let manifest = upstream.manifest("app", &tag("a"), soon()).await.unwrap();
    assert_eq!(manifest.bytes, r#"{"schemaVersion":2,"version":"HTTP/2.0"}"#);
    let blob = read_blob(&upstream, None).await.unwrap();
    assert_eq!(blob, br#"{"schemaVersion":2,"version":"HTTP/1.1"}"#);
}
