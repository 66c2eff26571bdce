//! Whom we believe: the authorities of the system, those of `ca`, and single certificates pinned by `ca`.
//!
//! As Go's clients do, a server may show its own self-signed certificate if `ca` has exactly these bytes; WebPKI rules
//! alone refuse that (a certificate with CA:TRUE is no server's, one without is no authority). Name and dates are
//! checked all the same.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::face::ClientCertificate;

/// The authorities of the system.
#[derive(Debug)]
pub(super) struct SystemAuthorities {
    store: RootCertStore,
    /// Why there are none.
    pub(super) problem: Option<String>,
}

impl SystemAuthorities {
    /// As if there were none.
    pub(super) fn none() -> Self {
        Self { store: RootCertStore::empty(), problem: Some("they are not asked".to_owned()) }
    }

    /// Reads them; `SSL_CERT_FILE` and `SSL_CERT_DIR` replace those of the system. Blocking.
    pub(super) fn load() -> Self {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        let (added, ignored) = store.add_parsable_certificates(found.certs);
        let problem = (added == 0).then(|| match found.errors.first() {
            Some(error) => error.to_string(),
            None if ignored > 0 => "none of them can be read".to_owned(),
            None => "none found".to_owned(),
        });
        Self { store, problem }
    }
}

/// Makes the settings of a client.
pub(super) struct Trust {
    verifier: Arc<Verifier>,
    provider: Arc<CryptoProvider>,
    shown: Option<ClientCertificate>,
    /// Whether any server at all could be believed.
    pub(super) is_empty: bool,
}

impl Trust {
    /// From the system's authorities and the PEM text `ca`; `shown`: what servers are shown of us. Errors are sentences.
    pub(super) fn new(
        system: &SystemAuthorities,
        ca: Option<&str>,
        shown: Option<&ClientCertificate>,
    ) -> Result<Self, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut store = system.store.clone();
        let mut pinned = Vec::new();
        if let Some(pem) = ca {
            add(pem, &mut store, &mut pinned)?;
        }
        let is_empty = store.is_empty() && pinned.is_empty();
        let authorities = if store.is_empty() {
            None
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider));
            Some(builder.build().map_err(|error| error.to_string())?)
        };
        let verifier = Arc::new(Verifier { authorities, pinned, provider: Arc::clone(&provider) });
        Ok(Self { verifier, provider, shown: shown.cloned(), is_empty })
    }

    /// Settings of a client that offers `protocols`.
    pub(super) fn config(&self, protocols: &[&str]) -> Result<ClientConfig, String> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.verifier) as Arc<dyn ServerCertVerifier>);
        let mut config = match &self.shown {
            Some(shown) => builder.with_client_cert_resolver(shown.resolver()),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(config)
    }
}

/// Sorts the certificates of `ca` in: every one is pinned, those of authorities may also sign others.
fn add(pem: &str, store: &mut RootCertStore, pinned: &mut Vec<CertificateDer<'static>>) -> Result<(), String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|error| format!("it is not PEM: {error}"))?;
    if found.is_empty() {
        return Err("it holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)".to_owned());
    }
    for (index, der) in found.into_iter().enumerate() {
        let number = index + 1;
        let (_, parsed) = X509Certificate::from_der(&der)
            .map_err(|error| format!("certificate {number} of it can't be read: {error}"))?;
        let subject = parsed.subject().to_string();
        if may_sign(&parsed) {
            let added = store.add(der.clone());
            added.map_err(|error| format!("certificate {number} of it ({subject}) is no usable authority: {error}"))?;
        } else {
            if !matches!(parsed.subject_alternative_name(), Ok(Some(_))) {
                return Err(format!(
                    "certificate {number} of it ({subject}) is neither an authority's nor has it a subjectAltName, without which no server's certificate is valid; issue it again with one"
                ));
            }
            ParsedCertificate::try_from(&der)
                .map_err(|error| format!("certificate {number} of it ({subject}) can't be used: {error}"))?;
        }
        pinned.push(der);
    }
    Ok(())
}

/// Whether a certificate is an authority's. Without this check any server of `ca` could sign for every name.
fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    match certificate.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.ca,
        // Version 1 knows no constraints; such roots exist.
        _ => certificate.version().0 == 0 && certificate.subject() == certificate.issuer(),
    }
}

#[derive(Debug)]
struct Verifier {
    authorities: Option<Arc<WebPkiServerVerifier>>,
    pinned: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pinned.iter().any(|pinned| pinned == end_entity) {
            return verify_pinned(end_entity, server_name, now);
        }
        match &self.authorities {
            Some(known) => known.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The bytes are known; what they say about names, dates and purpose still counts.
fn verify_pinned(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| Error::from(CertificateError::BadEncoding))?;
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if seconds < parsed.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if seconds > parsed.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    if let Ok(Some(purposes)) = parsed.extended_key_usage()
        && !(purposes.value.any || purposes.value.server_auth)
    {
        return Err(CertificateError::InvalidPurpose.into());
    }
    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
    Ok(ServerCertVerified::assertion())
}

/// The meaning of a failed handshake, for an administrator.
pub(super) fn words(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(reason) => certificate_words(reason),
        Error::InvalidMessage(_) => "it does not speak TLS; is its scheme HTTP?".to_owned(),
        Error::AlertReceived(alert) => format!("it ended the handshake ({alert:?})"),
        other => format!("the TLS handshake failed: {other}"),
    }
}

fn certificate_words(reason: &CertificateError) -> String {
    match reason {
        CertificateError::UnknownIssuer => {
            "its certificate is from an authority that is not known here; put that authority's certificate, or the server's own, into ca".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired, or the clock here is wrong".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet, or the clock here is wrong".to_owned()
        }
        CertificateError::NotValidForName => "its certificate is not valid for this name; names count only in subjectAltName".to_owned(),
        CertificateError::NotValidForNameContext { presented, .. } => {
            let mut names = presented.clone();
            names.truncate(5);
            if names.is_empty() {
                "its certificate has no subjectAltName, and a common name does not count".to_owned()
            } else {
                format!("its certificate is not valid for this name, only for {}", names.join(", "))
            }
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not meant for servers (extendedKeyUsage)".to_owned()
        }
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "its certificate is an authority's own, which counts only if exactly this certificate stands in ca".to_owned()
        }
        other => format!("its certificate can't be accepted: {other}"),
    }
}
