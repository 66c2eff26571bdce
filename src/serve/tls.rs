//! TLS 1.2 and 1.3 of the listeners: certificate, key and client authorities, swapped without dropping a connection.
//!
//! The key of tickets stays for as long as the client authorities do, and the certificate is looked up at every handshake: a
//! new one keeps tickets alive. Where client certificates are asked for, each handshake has a rustls configuration of its own
//! (`client_cert` says why), else all share one.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::client_cert::{AskForCertificate, ControllerTrust, PeerTrust, ProxyTrust};
use super::handshake_failures::HandshakeFailures;
use super::socket::Socket;
use super::validity::{of_authorities, of_chain};
use crate::clock::{self, Timestamp};

/// What rustls may hold back per connection: its default of 64 KiB costs a third more CPU per byte, more is only
/// memory for slow readers.
pub(super) const BUFFER_LIMIT: usize = 128 * 1024;

/// The files a [`Tls`] is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// PEM: the leaf first, then its intermediates.
    pub cert_file: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub key_file: PathBuf,
    /// PEM: authorities of client certificates. `None`: none are asked for.
    pub client_ca_file: Option<PathBuf>,
    /// Common or subject alternative names of proxies whose `X-Forwarded-*` count.
    pub trusted_proxy_names: Vec<String>,
    /// PEM: authorities of the controller's certificate. `None`: there is no controller.
    pub controller_ca_file: Option<PathBuf>,
    /// PEM: authorities of other masters' servers. `None`: there are none.
    pub peer_ca_file: Option<PathBuf>,
}

/// Why files can't be used for TLS. No variant carries key material.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("can't read {path}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file holds none of what is looked for.
    #[error("{path} holds no {wanted} in PEM form")]
    Empty {
        /// Which one.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// The key is not the certificate's.
    #[error("the key in {key_file} does not belong to the certificate in {cert_file}")]
    Mismatch {
        /// The certificate.
        cert_file: PathBuf,
        /// The key.
        key_file: PathBuf,
    },
    /// A certificate or key that can't be used.
    #[error("{path} can't be used: {reason}")]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The TLS library refused its settings.
    #[error("TLS can't be set up")]
    Setup(#[source] rustls::Error),
}

impl TlsError {
    /// Whether files that are being swapped one after the other look like this; worth another try a little later.
    #[must_use]
    pub const fn may_be_swap_in_progress(&self) -> bool {
        !matches!(self, Self::Setup(_))
    }
}

/// What a reload changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsChange {
    /// The certificate or its key.
    pub certificate: bool,
    /// The client authorities: sessions from before can't be resumed.
    pub client_authorities: bool,
    /// The names of trusted proxies.
    pub proxy_names: bool,
}

/// The TLS side of listeners; shared by all of them.
pub struct Tls {
    certificate: Arc<ArcSwap<CertifiedKey>>,
    acceptor: ArcSwap<Acceptor>,
    expiry: ArcSwap<Timestamp>,
    provider: Arc<CryptoProvider>,
    reloading: Mutex<()>,
    failures: Arc<HandshakeFailures>,
}

struct Acceptor {
    tls: Handshakes,
    /// The PEM texts of the client authorities, to see whether they changed.
    authorities: Authorities,
    trust: Option<ProxyTrust>,
    controller: Option<ControllerTrust>,
    peers: Option<PeerTrust>,
    names: Vec<String>,
}

/// How handshakes are configured.
#[derive(Clone)]
enum Handshakes {
    /// All alike.
    Alike(Arc<ServerConfig>),
    /// Clients are asked for a certificate.
    Asking {
        ask: AskForCertificate,
        provider: Arc<CryptoProvider>,
        certificate: Arc<CurrentCertificate>,
        tickets: Arc<dyn ProducesTickets>,
    },
}

impl Handshakes {
    /// The configuration of the next one.
    fn next(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        match self {
            Self::Alike(config) => Ok(Arc::clone(config)),
            Self::Asking { ask, provider, certificate, tickets } => {
                let config =
                    ask.configuration(provider, Arc::<CurrentCertificate>::clone(certificate), Arc::clone(tickets))?;
                Ok(Arc::new(finished(config)))
            }
        }
    }
}

/// The PEM texts of the authorities of client certificates.
#[derive(Clone, PartialEq, Eq)]
struct Authorities {
    proxies: Option<Vec<u8>>,
    controller: Option<Vec<u8>>,
    peers: Option<Vec<u8>>,
}

struct Loaded {
    certified: CertifiedKey,
    expiry: Timestamp,
    authorities: Authorities,
}

/// A TLS connection after its handshake.
pub(super) struct Accepted {
    pub(super) stream: TlsStream<Socket>,
    pub(super) http2: bool,
    pub(super) trusted_proxy: bool,
    pub(super) controller: bool,
    pub(super) master: Option<Arc<[IpAddr]>>,
    /// What the client showed as certificates, and what is kept of the handshake.
    pub(super) certificate_bytes: usize,
}

impl Tls {
    /// Loads the files; blocking.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn load(options: &TlsOptions) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let loaded = load(options, &provider)?;
        let certificate = Arc::new(ArcSwap::from_pointee(loaded.certified));
        let acceptor = build_acceptor(options, loaded.authorities, &certificate, &provider)?;
        Ok(Self {
            certificate,
            acceptor: ArcSwap::from_pointee(acceptor),
            expiry: ArcSwap::from_pointee(loaded.expiry),
            provider,
            reloading: Mutex::new(()),
            failures: Arc::default(),
        })
    }

    /// Loads the files again and puts them into force for new handshakes; open connections go on. On an error
    /// everything stays as it was. Blocking; calls wait for each other.
    ///
    /// # Errors
    /// As [`Tls::load`]; see [`TlsError::may_be_swap_in_progress`].
    pub fn reload(&self, options: &TlsOptions) -> Result<TlsChange, TlsError> {
        let _one_at_a_time = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = load(options, &self.provider)?;
        let old = self.acceptor.load_full();
        let current = self.certificate.load_full();
        let change = TlsChange {
            certificate: current.cert != loaded.certified.cert,
            client_authorities: old.authorities != loaded.authorities,
            proxy_names: old.names != options.trusted_proxy_names,
        };
        // Everything that can fail comes before the first swap.
        let acceptor = if change.client_authorities {
            Some(build_acceptor(options, loaded.authorities, &self.certificate, &self.provider)?)
        } else if change.proxy_names {
            Some(Acceptor {
                tls: old.tls.clone(),
                authorities: loaded.authorities,
                controller: old.controller.clone(),
                peers: old.peers.clone(),
                trust: old.trust.as_ref().map(|trust| trust.with_names(&options.trusted_proxy_names)),
                names: options.trusted_proxy_names.clone(),
            })
        } else {
            None
        };
        if change.certificate {
            self.certificate.store(Arc::new(loaded.certified));
            self.expiry.store(Arc::new(loaded.expiry));
        }
        if let Some(acceptor) = acceptor {
            self.acceptor.store(Arc::new(acceptor));
        }
        Ok(change)
    }

    /// What clients will refuse of what is in force; sentences. `options`: what it was loaded from.
    #[must_use]
    pub fn warnings(&self, options: &TlsOptions, now: Timestamp) -> Vec<String> {
        let what = format!("tls.certFile {}", options.cert_file.display());
        let mut found = of_chain(&what, &self.certificate.load().cert, now);
        let authorities = &self.acceptor.load().authorities;
        for (key, file, pem) in [
            ("tls.clientCAFile", &options.client_ca_file, &authorities.proxies),
            ("tls.controllerCAFile", &options.controller_ca_file, &authorities.controller),
            ("replicas.ca", &options.peer_ca_file, &authorities.peers),
        ] {
            if let (Some(path), Some(pem)) = (file, pem) {
                found.extend(of_authorities(&format!("{key} {}", path.display()), pem, now));
            }
        }
        found
    }

    /// When the certificate in force ends being valid.
    #[must_use]
    pub fn expiry(&self) -> Timestamp {
        **self.expiry.load()
    }

    /// Handshakes that came to nothing.
    #[must_use]
    pub const fn failures(&self) -> &Arc<HandshakeFailures> {
        &self.failures
    }

    /// Shakes hands. The caller bounds the time; safe to drop.
    pub(super) async fn accept(&self, socket: Socket) -> std::io::Result<Accepted> {
        let acceptor = self.acceptor.load_full();
        let config = acceptor.tls.next().map_err(std::io::Error::other)?;
        let mut stream = TlsAcceptor::from(config).accept(socket).await?;
        let (_, connection) = stream.get_mut();
        connection.set_buffer_limit(Some(BUFFER_LIMIT));
        let http2 = connection.alpn_protocol() == Some(b"h2");
        let chain = connection.peer_certificates().unwrap_or_default();
        let trusted_proxy = acceptor.trust.as_ref().is_some_and(|trust| trust.is_trusted(chain, clock::now()));
        let controller = acceptor.controller.as_ref().is_some_and(|trust| trust.is_controller(chain, clock::now()));
        let master = acceptor.peers.as_ref().and_then(|trust| trust.addresses(chain, clock::now()));
        let certificate_bytes = chain.iter().map(|der| der.len()).sum();
        Ok(Accepted { stream, http2, trusted_proxy, controller, master, certificate_bytes })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("expiry", &self.expiry()).finish_non_exhaustive()
    }
}

/// Hands out the certificate that is in force at the moment of a handshake.
struct CurrentCertificate(Arc<ArcSwap<CertifiedKey>>);

impl fmt::Debug for CurrentCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CurrentCertificate")
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn load(options: &TlsOptions, provider: &CryptoProvider) -> Result<Loaded, TlsError> {
    let chain = certificates(&options.cert_file, &read(&options.cert_file)?)?;
    let expiry = expiry(&options.cert_file, &chain[0])?;
    let pem = zeroize::Zeroizing::new(read(&options.key_file)?);
    let is_locked = pem.windows(9).any(|word| word == b"ENCRYPTED");
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        let path = options.key_file.clone();
        if is_locked {
            let reason =
                "the key is encrypted; write it without a passphrase (openssl pkey -in KEY -out PLAIN)".to_owned();
            return TlsError::Unusable { path, reason };
        }
        TlsError::Empty { path, wanted: "private key" }
    })?;
    let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsError::Mismatch { cert_file: options.cert_file.clone(), key_file: options.key_file.clone() }
        }
        rustls::Error::InvalidCertificate(reason) => TlsError::Unusable {
            path: options.cert_file.clone(),
            reason: rustls::Error::InvalidCertificate(reason).to_string(),
        },
        other => TlsError::Unusable { path: options.key_file.clone(), reason: other.to_string() },
    })?;
    let authorities = Authorities {
        proxies: options.client_ca_file.as_deref().map(read).transpose()?,
        controller: options.controller_ca_file.as_deref().map(read).transpose()?,
        peers: options.peer_ca_file.as_deref().map(read).transpose()?,
    };
    Ok(Loaded { certified, expiry, authorities })
}

fn build_acceptor(
    options: &TlsOptions,
    authorities: Authorities,
    certificate: &Arc<ArcSwap<CertifiedKey>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Acceptor, TlsError> {
    let trust = match roots(options.client_ca_file.as_deref(), authorities.proxies.as_deref())? {
        Some((path, roots)) => Some(unusable(path, ProxyTrust::new(roots, &options.trusted_proxy_names, provider))?),
        None => None,
    };
    let controller = match roots(options.controller_ca_file.as_deref(), authorities.controller.as_deref())? {
        Some((path, roots)) => Some(unusable(path, ControllerTrust::new(roots, provider))?),
        None => None,
    };
    let peers = match roots(options.peer_ca_file.as_deref(), authorities.peers.as_deref())? {
        Some((path, roots)) => Some(unusable(path, PeerTrust::new(roots, provider))?),
        None => None,
    };
    let resolver = Arc::new(CurrentCertificate(Arc::clone(certificate)));
    let tickets = aws_lc_rs::Ticketer::new().map_err(TlsError::Setup)?;
    let tls = match AskForCertificate::under(trust.as_ref(), controller.as_ref(), peers.as_ref()) {
        Some(ask) => Handshakes::Asking { ask, provider: Arc::clone(provider), certificate: resolver, tickets },
        None => {
            let builder = ServerConfig::builder_with_provider(Arc::clone(provider));
            let builder = builder.with_safe_default_protocol_versions().map_err(TlsError::Setup)?;
            let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
            config.ticketer = tickets;
            Handshakes::Alike(Arc::new(finished(config)))
        }
    };
    // What can't be configured is an error now, and none of a handshake.
    tls.next().map_err(TlsError::Setup)?;
    Ok(Acceptor { tls, authorities, trust, controller, peers, names: options.trusted_proxy_names.clone() })
}

/// What all configurations have.
fn finished(mut config: ServerConfig) -> ServerConfig {
    config.send_tls13_tickets = 1;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// The authorities in a file that was read, and its path.
fn roots<'a>(path: Option<&'a Path>, pem: Option<&[u8]>) -> Result<Option<(&'a Path, RootCertStore)>, TlsError> {
    let (Some(path), Some(pem)) = (path, pem) else { return Ok(None) };
    let mut roots = RootCertStore::empty();
    for root in certificates(path, pem)? {
        unusable(path, roots.add(root).map_err(|error| error.to_string()))?;
    }
    Ok(Some((path, roots)))
}

fn unusable<T>(path: &Path, outcome: Result<T, String>) -> Result<T, TlsError> {
    outcome.map_err(|reason| TlsError::Unusable { path: path.to_owned(), reason })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

/// At least one certificate, or an error.
fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(TlsError::Empty { path: path.to_owned(), wanted: "certificate" }),
        Err(error) => Err(TlsError::Unusable { path: path.to_owned(), reason: error.to_string() }),
    }
}

fn expiry(path: &Path, leaf: &[u8]) -> Result<Timestamp, TlsError> {
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf)
        .map_err(|error| TlsError::Unusable { path: path.to_owned(), reason: error.to_string() })?;
    let seconds = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    Ok(Timestamp::from_millis(seconds.saturating_mul(1000)))
}
