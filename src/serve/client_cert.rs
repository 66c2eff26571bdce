//! Client certificates: asked for, never required, and good for three things only: to tell a trusted proxy, the controller,
//! and another master's server.
//!
//! A certificate that doesn't verify does not end the handshake; its owner is treated as if it had shown none. So
//! whether a certificate is trusted is decided here, after the handshake, and nowhere else.
//!
//! # Decisions
//!
//! - Who showed a certificate gets no ticket, everybody else does. A resumed session shows no certificate anew: one that ended
//!   meanwhile, or that took another's place, would count as it was in the first handshake. Nodes show none and are most of all.
//! - The choice is not by a server name or protocol of the controller's: `curl --cert` asks for the state too, and a proxy in
//!   front has neither.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme};
use x509_parser::extensions::GeneralName;

use crate::clock::Timestamp;

/// The one name of a controller's certificate: a URI among its alternative names.
const CONTROLLER: &str = "d8-registry:controller";

/// The URI of the certificate by which masters' servers know each other; beside it stand the master's addresses.
const PEER: &str = "d8-registry:peer";

/// Lets every certificate pass whose owner proves to have its key; see [`ProxyTrust`], [`ControllerTrust`] and [`PeerTrust`]
/// for what it is worth.
#[derive(Clone, Debug)]
pub(super) struct AskForCertificate {
    /// Any of the verifiers: how signatures are checked depends on no root.
    signatures: Arc<dyn ClientCertVerifier>,
    /// Of all roots.
    hints: Arc<[DistinguishedName]>,
    /// Whether the client of this handshake showed one.
    shown: Arc<AtomicBool>,
}

/// Tickets for a client that shows no certificate.
#[derive(Debug)]
struct TicketsUnlessShown {
    tickets: Arc<dyn ProducesTickets>,
    shown: Arc<AtomicBool>,
}

/// Decides whether a client certificate is one of a trusted proxy.
#[derive(Clone, Debug)]
pub(super) struct ProxyTrust {
    verifier: Arc<dyn ClientCertVerifier>,
    names: Arc<[String]>,
}

/// Decides whether a client certificate is the controller's.
#[derive(Clone, Debug)]
pub(super) struct ControllerTrust(Arc<dyn ClientCertVerifier>);

/// Decides whether a client certificate is that of a master's server.
#[derive(Clone, Debug)]
pub(super) struct PeerTrust(Arc<dyn ClientCertVerifier>);

/// What verifies certificates under `roots`.
///
/// # Errors
/// A sentence about the roots.
fn verifier(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    builder.allow_unauthenticated().build().map_err(|error| error.to_string())
}

impl AskForCertificate {
    /// Asks for certificates under the roots of any; `None`: there are none to ask for.
    pub(super) fn under(
        proxies: Option<&ProxyTrust>,
        controller: Option<&ControllerTrust>,
        peers: Option<&PeerTrust>,
    ) -> Option<Self> {
        let controller = controller.map(|trust| Arc::clone(&trust.0));
        let peers = peers.map(|trust| Arc::clone(&trust.0));
        let proxies = proxies.map(|trust| Arc::clone(&trust.verifier));
        let all: Vec<_> = proxies.into_iter().chain(controller).chain(peers).collect();
        let signatures = Arc::clone(all.first()?);
        let hints = all.iter().flat_map(|verifier| verifier.root_hint_subjects()).cloned().collect();
        Some(Self { signatures, hints, shown: Arc::default() })
    }

    /// The configuration of one handshake. Of `tickets` the client gets one only if it shows no certificate, so that a session
    /// that is resumed never had one.
    ///
    /// # Errors
    /// None that the provider did not have when the first one was made.
    pub(super) fn configuration(
        &self,
        provider: &Arc<CryptoProvider>,
        certificate: Arc<dyn ResolvesServerCert>,
        tickets: Arc<dyn ProducesTickets>,
    ) -> Result<ServerConfig, Error> {
        let shown = Arc::new(AtomicBool::new(false));
        let ask = Self { shown: Arc::clone(&shown), ..self.clone() };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(ask))
            .with_cert_resolver(certificate);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::new(TicketsUnlessShown { tickets, shown });
        Ok(config)
    }
}

impl ProducesTickets for TicketsUnlessShown {
    fn enabled(&self) -> bool {
        self.tickets.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.tickets.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        // A ticket is made behind the client's last flight, which has its certificate. Relaxed: one task works on a handshake.
        if self.shown.load(Ordering::Relaxed) { None } else { self.tickets.encrypt(plain) }
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.tickets.decrypt(cipher)
    }
}

impl ControllerTrust {
    /// Trusts certificates under `roots`.
    ///
    /// # Errors
    /// A sentence about the roots.
    pub(super) fn new(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        verifier(roots, provider).map(Self)
    }

    /// Whether `chain` (leaf first) verifies at `now` and has the controller's name, letter for letter, as a URI.
    pub(super) fn is_controller(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> bool {
        is_verified(&self.0, chain, now) && chain.first().is_some_and(|leaf| has_uri(leaf, CONTROLLER))
    }
}

impl PeerTrust {
    /// Trusts certificates under `roots`.
    ///
    /// # Errors
    /// A sentence about the roots.
    pub(super) fn new(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        verifier(roots, provider).map(Self)
    }

    /// The addresses of the master whose server shows `chain` (leaf first); `None`: it does not verify at `now`, or has not the
    /// peers' name, letter for letter, as a URI. Whether the addresses are those of a master is for the list to say.
    pub(super) fn addresses(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Option<Arc<[IpAddr]>> {
        let leaf = chain.first()?;
        (is_verified(&self.0, chain, now) && has_uri(leaf, PEER)).then(|| addresses_of(leaf))
    }
}

impl ProxyTrust {
    /// Trusts certificates under `roots` that have one of `names`.
    ///
    /// # Errors
    /// A sentence about the roots.
    pub(super) fn new(roots: RootCertStore, names: &[String], provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        Ok(Self { verifier: verifier(roots, provider)?, names: names.into() })
    }

    /// The same roots, other names.
    pub(super) fn with_names(&self, names: &[String]) -> Self {
        Self { verifier: Arc::clone(&self.verifier), names: names.into() }
    }

    /// Whether `chain` (leaf first) verifies at `now` and its common name or a subject alternative name is trusted.
    pub(super) fn is_trusted(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> bool {
        let is_named = |leaf| {
            names_of(leaf).iter().any(|name| self.names.iter().any(|trusted| trusted.eq_ignore_ascii_case(name)))
        };
        is_verified(&self.verifier, chain, now) && chain.first().is_some_and(|leaf| is_named(leaf))
    }
}

/// Whether `chain` (leaf first) verifies at `now`.
fn is_verified(verifier: &Arc<dyn ClientCertVerifier>, chain: &[CertificateDer<'_>], now: Timestamp) -> bool {
    let Some((leaf, intermediates)) = chain.split_first() else { return false };
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()));
    match verifier.verify_client_cert(leaf, intermediates, now) {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(%error, "a client certificate does not verify, its owner is not trusted");
            false
        }
    }
}

/// Whether a certificate has this URI among its alternative names.
fn has_uri(certificate: &[u8], uri: &str) -> bool {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return false };
    alternatives.value.general_names.iter().any(|name| matches!(name, GeneralName::URI(found) if *found == uri))
}

/// The addresses among a certificate's alternative names.
fn addresses_of(certificate: &[u8]) -> Arc<[IpAddr]> {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else { return Arc::default() };
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return Arc::default() };
    let names = alternatives.value.general_names.iter();
    names.filter_map(|name| if let GeneralName::IPAddress(bytes) = name { address(bytes) } else { None }).collect()
}

/// Common names, DNS names, addresses and URIs of a certificate.
fn names_of(certificate: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else { return Vec::new() };
    let mut names: Vec<String> =
        certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok()).map(str::to_owned).collect();
    if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
        names.extend(alternatives.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
            _ => None,
        }));
    }
    names
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

impl ClientCertVerifier for AskForCertificate {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.shown.store(true, Ordering::Relaxed);
        // "Never required": the handshake goes on, what trusts it decides afterwards.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_verify_schemes()
    }
}
