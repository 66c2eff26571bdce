//! The authority that signs: read, held against its key, and asked whether a certificate is its own.

use std::fmt;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, Issuer, KeyPair, PublicKeyData as _, RsaKeySize, SignatureAlgorithm};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::PkiError;
use crate::clock::Timestamp;

/// An authority with its key.
pub struct Authority {
    path: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, then those above it.
    chain: Vec<CertificateDer<'static>>,
    is_root: bool,
    pub(super) not_before: u64,
    pub(super) not_after: u64,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads an authority from PEM files and holds the key against the certificate; blocking.
    ///
    /// # Errors
    /// [`PkiError::Read`]; [`PkiError::Authority`] if it can't sign now.
    pub fn read(certificate: &Path, key: &Path, now: Timestamp) -> Result<Self, PkiError> {
        let load = |path: &Path| {
            let read = std::fs::read(path).map(Zeroizing::new);
            read.map_err(|source| PkiError::Read { path: path.to_owned(), source })
        };
        let wrong =
            |path: &Path, reason: &str| PkiError::Authority { path: path.to_owned(), reason: reason.to_owned() };
        let text = load(certificate)?;
        let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|_| wrong(certificate, "it is not PEM"))?;
        let Some(first) = chain.first() else { return Err(wrong(certificate, "it holds no certificate in PEM form")) };
        let (_, parsed) = X509Certificate::from_der(first).map_err(|_| wrong(certificate, "it is no certificate"))?;
        if !matches!(parsed.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca) {
            return Err(wrong(certificate, "it is no authority's certificate (basicConstraints without CA:TRUE)"));
        }
        if matches!(parsed.key_usage(), Ok(Some(usage)) if !usage.value.key_cert_sign()) {
            return Err(wrong(certificate, "its key is not for signing certificates (keyUsage)"));
        }
        let seconds = |time: i64| u64::try_from(time).unwrap_or_default();
        let not_before = seconds(parsed.validity().not_before.timestamp());
        let not_after = seconds(parsed.validity().not_after.timestamp());
        if now.as_secs() < not_before || now.as_secs() >= not_after {
            return Err(wrong(certificate, "it has expired or is not valid yet, or the clock here is wrong"));
        }
        let private =
            PrivateKeyDer::from_pem_slice(&load(key)?).map_err(|_| wrong(key, "it holds no key in PEM form"))?;
        let pair = KeyPair::try_from(&private).map_err(|_| wrong(key, "the key is of no known kind"))?;
        if pair.subject_public_key_info() != parsed.public_key().raw {
            return Err(wrong(key, "the key is not that of the certificate"));
        }
        let is_root = parsed.subject() == parsed.issuer();
        let issuer = Issuer::from_ca_cert_der(first, pair)?;
        Ok(Self { path: certificate.to_owned(), issuer, is_root, not_before, not_after, chain })
    }

    /// PEM of the authority's own certificate, for those who are to trust it.
    #[must_use]
    pub fn certificate(&self) -> String {
        self.chain.first().map(pem).unwrap_or_default()
    }

    pub(super) fn cannot_sign(&self, reason: &str) -> PkiError {
        PkiError::Authority { path: self.path.clone(), reason: reason.to_owned() }
    }

    pub(super) fn is_rsa(&self) -> bool {
        self.algorithm() == &rcgen::PKCS_RSA_SHA256
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.issuer.key().algorithm()
    }

    /// A key of the authority's kind; P-256 where that is one that few clients know.
    pub(super) fn new_key(&self) -> Result<KeyPair, rcgen::Error> {
        if self.is_rsa() {
            return KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048);
        }
        let algorithm = self.algorithm();
        let kept = if algorithm == &rcgen::PKCS_ECDSA_P384_SHA384 { algorithm } else { &rcgen::PKCS_ECDSA_P256_SHA256 };
        KeyPair::generate_for(kept)
    }

    /// Certificates that a server has to show above its own: none where clients know the authority itself.
    pub(super) fn above(&self) -> &[CertificateDer<'static>] {
        if self.is_root { &[] } else { &self.chain }
    }

    /// Signs; PEM of the certificate and of what is above it.
    pub(super) fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Result<String, rcgen::Error> {
        let mut text = params.signed_by(key, &self.issuer)?.pem();
        for above in self.above() {
            text.push_str(&pem(above));
        }
        Ok(text)
    }

    /// Whether `certificate` was signed by this authority.
    pub(super) fn has_signed(&self, certificate: &X509Certificate<'_>) -> bool {
        let Some(Ok((_, own))) = self.chain.first().map(|own| X509Certificate::from_der(own)) else { return false };
        certificate.issuer() == own.subject() && certificate.verify_signature(Some(own.public_key())).is_ok()
    }
}

/// PEM (RFC 7468) of a certificate.
fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for (index, letter) in text.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            pem.push('\n');
        }
        pem.push(letter);
    }
    pem.push_str("\n-----END CERTIFICATE-----\n");
    pem
}
