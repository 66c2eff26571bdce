//! The certificates of the masters: `d8-registry pki issue`.
//!
//! Signs a server's certificate with the cluster's authority and leaves one alone that still fits, so that it can be run
//! at every start. Never makes or changes an authority. The names that every master has are here, others are given.

mod authority;
mod names;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

pub use names::{InvalidSan, San};

use self::authority::Authority;
use crate::clock::Timestamp;
use crate::fs::{self, FsError};

/// The certificate's file.
const CERTIFICATE: &str = "tls.crt";
/// Its key's file.
const KEY: &str = "tls.key";
/// As the certificates are called that Deckhouse makes itself.
const COMMON_NAME: &str = "registry-distribution";
/// A certificate ends this much before its authority, as Deckhouse's do.
const BEFORE_AUTHORITY: Duration = Duration::from_secs(3600);
/// A certificate begins this much before it is made: clocks differ.
const CLOCKS: Duration = Duration::from_secs(300);
const CERTIFICATE_MODE: u32 = 0o644;
const KEY_MODE: u32 = 0o600;

/// The wanted certificate.
#[derive(Clone, Debug)]
pub struct Order {
    /// PEM of the authority's certificate, and of those above it.
    pub ca_cert: PathBuf,
    /// PEM of the authority's key: PKCS #8, SEC1 or PKCS #1.
    pub ca_key: PathBuf,
    /// Names beside those that every master has.
    pub sans: Vec<San>,
    /// The folder of `tls.crt` and `tls.key`.
    pub out: PathBuf,
    /// The longest life; `None`: until an hour before the authority's end.
    pub life: Option<Duration>,
}

/// The result.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate's file.
    pub certificate: PathBuf,
    /// Why a new one was made; `None`: the one that is there still fits and was not touched.
    pub reason: Option<String>,
    /// The certificate's end, in seconds since 1970.
    pub not_after: u64,
}

/// Why there is no certificate. No variant shows a key.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file can't be read.
    #[error("{} can't be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The authority can't sign; a sentence.
    #[error("{} can't sign: {reason}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The files can't be written.
    #[error("the certificate can't be written")]
    Write(#[from] FsError),
    /// The key's permissions can't be set.
    #[error("the permissions of {} can't be set", path.display())]
    Permissions {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The cryptography failed.
    #[error("the certificate can't be made")]
    Make(#[from] rcgen::Error),
}

impl PkiError {
    /// Whether it is what was asked for that is wrong.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Authority { .. })
    }
}

/// Makes a certificate, or leaves the one that fits. The key is written first and the certificate last: a pair of two
/// makes, left by a crash between them, is found out and made anew. Blocking.
///
/// # Errors
/// [`PkiError`]; the files are then what they were, or a pair that the next call makes anew.
pub fn issue(order: &Order, now: Timestamp) -> Result<Issued, PkiError> {
    let authority = Authority::read(&order.ca_cert, &order.ca_key, now)?;
    let names = names::all(&order.sans);
    let (certificate, key) = (order.out.join(CERTIFICATE), order.out.join(KEY));
    let reason = match present(&certificate, &key, &authority, &names, now)? {
        Ok(not_after) => {
            restrict(&key)?;
            return Ok(Issued { certificate, reason: None, not_after });
        }
        Err(reason) => reason,
    };
    let end = authority.not_after.saturating_sub(BEFORE_AUTHORITY.as_secs());
    let end = order.life.map_or(end, |life| end.min(now.as_secs().saturating_add(life.as_secs())));
    if end <= now.as_secs() {
        let reason = "it ends within the hour".to_owned();
        return Err(PkiError::Authority { path: order.ca_cert.clone(), reason });
    }
    let begin = now.as_secs().saturating_sub(CLOCKS.as_secs()).max(authority.not_before);
    let pair = authority.new_key()?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.iter().map(San::to_rcgen).collect::<Result<_, _>>()?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, COMMON_NAME);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if authority.is_rsa() {
        // TLS 1.2 without forward secrecy; some clients look for it.
        params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(begin);
    params.not_after = epoch + Duration::from_secs(end);
    let text = authority.sign(&params, &pair)?;
    let private = Zeroizing::new(pair.serialize_pem());
    fs::replace_file(&key, private.as_bytes(), KEY_MODE)?;
    fs::replace_file(&certificate, text.as_bytes(), CERTIFICATE_MODE)?;
    Ok(Issued { certificate, reason: Some(reason), not_after: end })
}

/// Whether the certificate that is there still fits: its end, or why not.
fn present(
    certificate: &Path,
    key: &Path,
    authority: &Authority,
    names: &[San],
    now: Timestamp,
) -> Result<Result<u64, String>, PkiError> {
    let (Some(text), Some(key)) = (read_if_there(certificate)?, read_if_there(key)?) else {
        return Ok(Err("there was none".to_owned()));
    };
    let ders: Vec<_> = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok).collect();
    let Some((leaf, above)) = ders.split_first() else { return Ok(Err("it could not be read".to_owned())) };
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else { return Ok(Err("it could not be read".to_owned())) };
    let pair = PrivateKeyDer::from_pem_slice(&key).ok().and_then(|key| rcgen::KeyPair::try_from(&key).ok());
    let fits = pair.is_some_and(|pair| rcgen::PublicKeyData::subject_public_key_info(&pair) == parsed.public_key().raw);
    if !fits {
        return Ok(Err("its key was another one's".to_owned()));
    }
    if !authority.has_signed(&parsed) || authority.above() != above {
        return Ok(Err("the chain no longer fitted".to_owned()));
    }
    if names::of(&parsed).as_deref() != Some(names) {
        return Ok(Err("the names no longer fitted".to_owned()));
    }
    let seconds = |time: i64| u64::try_from(time).unwrap_or_default();
    let begin = seconds(parsed.validity().not_before.timestamp());
    let end = seconds(parsed.validity().not_after.timestamp());
    let left = end.saturating_sub(now.as_secs());
    if now.as_secs() < begin || end > authority.not_after || left < end.saturating_sub(begin) / 3 {
        return Ok(Err("less than a third of its life was left, or its time does not fit the authority's".to_owned()));
    }
    Ok(Ok(end))
}

fn read_if_there(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, PkiError> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(Zeroizing::new(content))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Read { path: path.to_owned(), source }),
    }
}

/// Takes a key from everybody else.
fn restrict(key: &Path) -> Result<(), PkiError> {
    let failed = |source| PkiError::Permissions { path: key.to_owned(), source };
    let mode = std::fs::metadata(key).map_err(failed)?.permissions().mode() & 0o777;
    if mode == KEY_MODE {
        return Ok(());
    }
    std::fs::set_permissions(key, std::fs::Permissions::from_mode(KEY_MODE)).map_err(failed)
}
