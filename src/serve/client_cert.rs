//! Client certificates: asked for, never required, and good for one thing only: to tell a trusted proxy.
//!
//! A certificate that doesn't verify does not end the handshake; its owner is treated as if it had shown none. So
//! whether a certificate is trusted is decided here, after the handshake, and nowhere else.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use x509_parser::extensions::GeneralName;

use crate::clock::Timestamp;

/// Lets every certificate pass whose owner proves to have its key; see [`ProxyTrust`] for what it is worth.
#[derive(Debug)]
pub(super) struct AskForCertificate(Arc<dyn ClientCertVerifier>);

/// Decides whether a client certificate is one of a trusted proxy.
#[derive(Clone, Debug)]
pub(super) struct ProxyTrust {
    verifier: Arc<dyn ClientCertVerifier>,
    names: Arc<[String]>,
}

/// The two halves for certificates under `roots`.
///
/// # Errors
/// A sentence about the roots.
pub(super) fn ask_for_certificates(
    roots: RootCertStore,
    names: &[String],
    provider: Arc<CryptoProvider>,
) -> Result<(AskForCertificate, ProxyTrust), String> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|error| error.to_string())?;
    Ok((AskForCertificate(Arc::clone(&verifier)), ProxyTrust { verifier, names: names.into() }))
}

impl ProxyTrust {
    /// The same roots, other names.
    pub(super) fn with_names(&self, names: &[String]) -> Self {
        Self { verifier: Arc::clone(&self.verifier), names: names.into() }
    }

    /// Whether `chain` (leaf first) verifies at `now` and its common name or a subject alternative name is trusted.
    pub(super) fn is_trusted(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()));
        match self.verifier.verify_client_cert(leaf, intermediates, now) {
            Ok(_) => {
                names_of(leaf).iter().any(|name| self.names.iter().any(|trusted| trusted.eq_ignore_ascii_case(name)))
            }
            Err(error) => {
                tracing::debug!(%error, "a client certificate does not verify, its owner is not trusted");
                false
            }
        }
    }
}

/// Common names, DNS names, addresses and URIs of a certificate.
fn names_of(certificate: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else { return Vec::new() };
    let mut names: Vec<String> =
        certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok()).map(str::to_owned).collect();
    if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
        names.extend(alternatives.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => None,
        }));
    }
    names
}

fn address(bytes: &[u8]) -> Option<String> {
    <[u8; 4]>::try_from(bytes)
        .map(|v4| std::net::IpAddr::from(v4).to_string())
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(|v6| std::net::IpAddr::from(v6).to_string()))
        .ok()
}

impl ClientCertVerifier for AskForCertificate {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // "Never required": the handshake goes on, `ProxyTrust` decides afterwards.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
