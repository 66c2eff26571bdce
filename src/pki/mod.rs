//! The certificates that the cluster's authority signs: `d8-registry pki issue`.
//!
//! Signs a certificate of a server, or of a program that proves by its URI who it is, and leaves one alone that still fits,
//! so that it can be run at every start. Never changes an authority; makes one for a cluster that has none. The names that every master has are here,
//! others are given. Knows files and bytes; who keeps a certificate elsewhere holds [`Authority::renew`] against it.

mod authority;
mod names;
mod new_authority;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

pub use self::authority::Authority;
pub use self::names::{ClientUri, InvalidClientUri, InvalidSan, San};
pub use self::new_authority::{NewAuthority, new_authority};

use crate::clock::Timestamp;
use crate::fs::{self, FsError};

/// The files of a certificate and of its key.
const FILES: [&str; 2] = ["tls.crt", "tls.key"];
/// Those of a master's certificate for other masters, which lie in the same folder.
const PEER_FILES: [&str; 2] = ["peer.crt", "peer.key"];
/// As the certificates of servers are called that Deckhouse makes itself.
const SERVER: &str = "registry-distribution";
/// As those of programs are called that prove by them who they are. Nothing looks at it.
const CLIENT: &str = "d8-registry";
/// A certificate ends this much before its authority, as Deckhouse's do.
const BEFORE_AUTHORITY: Duration = Duration::from_secs(3600);
/// A certificate begins this much before it is made: clocks differ.
const CLOCKS: Duration = Duration::from_secs(300);
const CERTIFICATE_MODE: u32 = 0o644;
const KEY_MODE: u32 = 0o600;

/// What a certificate is for, and the names in it.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A master's server: names beside those that every master has.
    Server(Vec<San>),
    /// A program that shows it to a server: the URI is its only name.
    Client(ClientUri),
    /// A master that shows it to other masters' servers: [`ClientUri::PEER`], and the master's own names and no others, which
    /// say from where it may come.
    Peer(Vec<San>),
}

impl Subject {
    /// The files of the certificate and of its key.
    const fn files(&self) -> [&'static str; 2] {
        match self {
            Self::Server(_) | Self::Client(_) => FILES,
            Self::Peer(_) => PEER_FILES,
        }
    }
}

/// The wanted certificate in files.
#[derive(Clone, Debug)]
pub struct Order {
    /// PEM of the authority's certificate, and of those above it.
    pub ca_cert: PathBuf,
    /// PEM of the authority's key: PKCS #8, SEC1 or PKCS #1.
    pub ca_key: PathBuf,
    /// Whom it is for.
    pub subject: Subject,
    /// The folder of `tls.crt` and `tls.key`; of a peer's `peer.crt` and `peer.key`.
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

/// A certificate and its key, as PEM.
pub struct Pair {
    /// The certificate, then those above it.
    pub certificate: String,
    /// Its key, PKCS #8; wiped when it is dropped.
    pub key: Zeroizing<String>,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

/// Whether a certificate that is there can stay.
#[derive(Debug)]
pub enum Renewal {
    /// It fits.
    Fits {
        /// Its end, in seconds since 1970.
        not_after: u64,
    },
    /// A new one takes its place.
    Made {
        /// The new one.
        pair: Pair,
        /// Why the one before did not fit; the end of a sentence.
        reason: String,
        /// The new one's end, in seconds since 1970.
        not_after: u64,
    },
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
    let [certificate, key] = order.subject.files().map(|file| order.out.join(file));
    let present = read_if_there(&certificate)?.zip(read_if_there(&key)?);
    let present = present.as_ref().map(|(certificate, key)| (certificate.as_slice(), key.as_slice()));
    match authority.renew(&order.subject, order.life, present, now)? {
        Renewal::Fits { not_after } => {
            restrict(&key)?;
            Ok(Issued { certificate, reason: None, not_after })
        }
        Renewal::Made { pair, reason, not_after } => {
            fs::replace_file(&key, pair.key.as_bytes(), KEY_MODE)?;
            fs::replace_file(&certificate, pair.certificate.as_bytes(), CERTIFICATE_MODE)?;
            Ok(Issued { certificate, reason: Some(reason), not_after })
        }
    }
}

impl Authority {
    /// Holds `present`, certificate and key as PEM, against what is wanted, and makes another pair if it does not fit. A
    /// third of its life before its end a certificate no longer fits.
    ///
    /// # Errors
    /// [`PkiError`] if the authority ends within the hour, or can't sign.
    pub fn renew(
        &self,
        subject: &Subject,
        life: Option<Duration>,
        present: Option<(&[u8], &[u8])>,
        now: Timestamp,
    ) -> Result<Renewal, PkiError> {
        let names = match subject {
            Subject::Server(given) => names::all(given),
            Subject::Client(uri) => vec![San::from(uri)],
            Subject::Peer(given) => names::of_peer(given),
        };
        let reason = match self.fits(present, &names, now) {
            Ok(not_after) => return Ok(Renewal::Fits { not_after }),
            Err(reason) => reason.to_owned(),
        };
        let end = self.not_after.saturating_sub(BEFORE_AUTHORITY.as_secs());
        let end = life.map_or(end, |life| end.min(now.as_secs().saturating_add(life.as_secs())));
        if end <= now.as_secs() {
            return Err(self.cannot_sign("it ends within the hour"));
        }
        let begin = now.as_secs().saturating_sub(CLOCKS.as_secs()).max(self.not_before);
        let key = self.new_key()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.iter().map(San::to_rcgen).collect::<Result<_, _>>()?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        let (common_name, usage) = match subject {
            Subject::Server(_) => (SERVER, ExtendedKeyUsagePurpose::ServerAuth),
            Subject::Client(_) | Subject::Peer(_) => (CLIENT, ExtendedKeyUsagePurpose::ClientAuth),
        };
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if self.is_rsa() {
            // TLS 1.2 without forward secrecy; some clients look for it.
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + Duration::from_secs(begin);
        params.not_after = epoch + Duration::from_secs(end);
        let certificate = self.sign(&params, &key)?;
        let pair = Pair { certificate, key: Zeroizing::new(key.serialize_pem()) };
        Ok(Renewal::Made { pair, reason, not_after: end })
    }

    /// Whether the certificate that is there still fits: its end, or why not.
    fn fits(&self, present: Option<(&[u8], &[u8])>, names: &[San], now: Timestamp) -> Result<u64, &'static str> {
        let (text, key) = present.ok_or("there was none")?;
        let ders: Vec<_> = CertificateDer::pem_slice_iter(text).filter_map(Result::ok).collect();
        let (leaf, above) = ders.split_first().ok_or("it could not be read")?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| "it could not be read")?;
        let pair = PrivateKeyDer::from_pem_slice(key).ok().and_then(|key| rcgen::KeyPair::try_from(&key).ok());
        let public = pair.map(|pair| rcgen::PublicKeyData::subject_public_key_info(&pair));
        if public.as_deref() != Some(parsed.public_key().raw) {
            return Err("its key was another one's");
        }
        if !self.has_signed(&parsed) || self.above() != above {
            return Err("the chain no longer fitted");
        }
        if names::of(&parsed).as_deref() != Some(names) {
            return Err("the names no longer fitted");
        }
        let seconds = |time: i64| u64::try_from(time).unwrap_or_default();
        let begin = seconds(parsed.validity().not_before.timestamp());
        let end = seconds(parsed.validity().not_after.timestamp());
        let left = end.saturating_sub(now.as_secs());
        if now.as_secs() < begin || end > self.not_after || left < end.saturating_sub(begin) / 3 {
            return Err("less than a third of its life was left, or its time does not fit the authority's");
        }
        Ok(end)
    }
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
