//! Certificates for both sides of a comparison, and the client's side of TLS: one cipher suite, one key exchange, so
//! that no server wins by having chosen the cheaper one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{CertificateParams, IsCa, KeyPair, SignatureAlgorithm};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

/// The key of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    P256,
    Rsa2048,
}

/// A certificate that signed itself, for 127.0.0.1, as files.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) cert_file: PathBuf,
    pub(crate) key_file: PathBuf,
}

impl Certificate {
    /// Makes one in `dir`.
    pub(crate) fn make(dir: &Path, key: Key) -> Result<Self> {
        let (name, algorithm): (_, &'static SignatureAlgorithm) = match key {
            Key::P256 => ("p256", &rcgen::PKCS_ECDSA_P256_SHA256),
            Key::Rsa2048 => ("rsa2048", &rcgen::PKCS_RSA_SHA256),
        };
        // RSA keys have 2048 bits unless asked for more.
        let pair = KeyPair::generate_for(algorithm)?;
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        params.is_ca = IsCa::ExplicitNoCa;
        let certificate = params.self_signed(&pair)?;
        let made = Self { cert_file: dir.join(format!("{name}.crt")), key_file: dir.join(format!("{name}.key")) };
        fs::write(&made.cert_file, certificate.pem()).context("write the certificate")?;
        fs::write(&made.key_file, pair.serialize_pem()).context("write the key")?;
        Ok(made)
    }

    /// The side of a client that trusts it.
    pub(crate) fn client(&self, resume: bool) -> Result<Arc<ClientConfig>> {
        let mut provider: CryptoProvider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.cert_file).context("read the certificate")?)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = if resume { Resumption::in_memory_sessions(64) } else { Resumption::disabled() };
        Ok(Arc::new(config))
    }
}
