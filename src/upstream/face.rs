//! The face of a registry that is asked: that of its clients, or one that a d8-registry has for its like.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The header that has a d8-registry answer from its own store alone: the question has made its one hop.
pub const HOP: HeaderName = HeaderName::from_static("d8-hop");

/// Its only value.
pub const ONE_HOP: HeaderValue = HeaderValue::from_static("1");

/// Where a d8-registry answers another one of the same cluster; the paths below are those of clients.
pub const PEER_PREFIX: &str = "/-/peer";

/// The face of a registry that is asked.
#[derive(Clone, Debug, Default)]
pub enum Face {
    /// That of its clients.
    #[default]
    Clients,
    /// The same; a d8-registry answers from its own store alone.
    OwnStore,
    /// That of the masters of our cluster, to whom we show who we are. Their authority is the one in `ca`; the system's
    /// prove nothing here.
    Peers(ClientCertificate),
}

/// A certificate that a client shows, and its key. Cheap to clone; `Debug` shows neither.
#[derive(Clone)]
pub struct ClientCertificate {
    shown: Arc<SingleCertAndKey>,
    addresses: Arc<[IpAddr]>,
    /// Seconds since 1970.
    not_after: u64,
}

impl ClientCertificate {
    /// Reads PEM texts: the certificate with its chain, and the key.
    ///
    /// # Errors
    /// A sentence without key material.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.map_err(|error| format!("the certificate is not PEM: {error}"))?;
        if chain.is_empty() {
            return Err("there is no certificate in PEM form".to_owned());
        }
        let (addresses, not_after) = facts(&chain[0]).ok_or("the certificate can't be read")?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "there is no private key in PEM form".to_owned())?;
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
        let certified = certified.map_err(|error| format!("certificate and key can't be used together: {error}"))?;
        Ok(Self { shown: Arc::new(SingleCertAndKey::from(certified)), addresses, not_after })
    }

    /// The addresses among its names.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// When it stops being valid, in seconds since 1970.
    #[must_use]
    pub const fn not_after(&self) -> u64 {
        self.not_after
    }

    pub(super) fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::clone(&self.shown)
    }
}

/// The addresses among the names of a certificate, and its end; `None`: it can't be read.
fn facts(certificate: &CertificateDer<'_>) -> Option<(Arc<[IpAddr]>, u64)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let not_after = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Some((Arc::default(), not_after)) };
    let address = |name: &GeneralName<'_>| match name {
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from),
        },
        _ => None,
    };
    let addresses = names.value.general_names.iter().filter_map(address).map(|address| address.to_canonical());
    Some((addresses.collect(), not_after))
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

impl Face {
    /// The beginning of every path.
    pub(super) const fn prefix(&self) -> &'static str {
        match self {
            Self::Clients | Self::OwnStore => "",
            Self::Peers(_) => PEER_PREFIX,
        }
    }

    /// Whether the own store of whoever answers counts alone.
    pub(super) const fn is_own_store(&self) -> bool {
        match self {
            Self::Clients => false,
            Self::OwnStore | Self::Peers(_) => true,
        }
    }

    /// What we show of ourselves.
    pub(super) const fn certificate(&self) -> Option<&ClientCertificate> {
        match self {
            Self::Clients | Self::OwnStore => None,
            Self::Peers(certificate) => Some(certificate),
        }
    }
}
