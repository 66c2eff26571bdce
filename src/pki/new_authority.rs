//! A new authority, for a cluster that has none: what Secret `registry-pki` holds.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, RsaKeySize,
};
use zeroize::Zeroizing;

use super::{BEFORE_AUTHORITY, CLOCKS, Pair, PkiError};
use crate::clock::Timestamp;

/// As Deckhouse's authority is called.
const AUTHORITY: &str = "registry-ca";
/// As the certificate of the tokens' key is called there.
const TOKEN: &str = "registry-auth-token";
/// The life of Deckhouse's authorities.
const LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);

/// An authority, and the key that signs tokens with its certificate.
#[derive(Debug)]
pub struct NewAuthority {
    /// Its own certificate and key: P-256, ten years.
    pub authority: Pair,
    /// RSA-2048, as clients of Deckhouse's registry know it.
    pub token: Pair,
}

/// Makes an authority; blocking: an RSA key takes up to a second.
///
/// # Errors
/// [`PkiError::Make`].
pub fn new_authority(now: Timestamp) -> Result<NewAuthority, PkiError> {
    let begin = Duration::from_secs(now.as_secs()).saturating_sub(CLOCKS);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut authority = parameters(AUTHORITY, begin, LIFE);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let certificate = authority.self_signed(&key)?.pem();
    let token_key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048)?;
    let mut token = parameters(TOKEN, begin, LIFE.saturating_sub(BEFORE_AUTHORITY));
    token.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    token.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let signed = token.signed_by(&token_key, &Issuer::from_params(&authority, &key))?.pem();
    let pem = |key: &KeyPair| Zeroizing::new(key.serialize_pem());
    Ok(NewAuthority {
        authority: Pair { certificate, key: pem(&key) },
        token: Pair { certificate: signed, key: pem(&token_key) },
    })
}

fn parameters(name: &str, begin: Duration, life: Duration) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    parameters.distinguished_name = distinguished;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_before = epoch + begin;
    parameters.not_after = epoch + begin + life;
    parameters
}

#[cfg(test)]
mod tests {
    use super::super::{Authority, Order, San, Subject, issue};
    use super::*;
    use crate::clock;

    #[test]
    fn a_new_authority_signs_certificates_of_servers() {
        let directory = tempfile::tempdir().unwrap();
        let made = new_authority(clock::now()).unwrap();
        let (ca_cert, ca_key) = (directory.path().join("ca.crt"), directory.path().join("ca.key"));
        std::fs::write(&ca_cert, &made.authority.certificate).unwrap();
        std::fs::write(&ca_key, made.authority.key.as_bytes()).unwrap();
        assert!(Authority::read(&ca_cert, &ca_key, clock::now()).is_ok());
        let subject = Subject::Server(vec!["10.0.0.1".parse::<San>().unwrap()]);
        let order = Order { ca_cert, ca_key, subject, out: directory.path().to_owned(), life: None };
        assert!(issue(&order, clock::now()).unwrap().reason.is_some());
        assert!(made.token.certificate.contains("BEGIN CERTIFICATE") && made.token.key.contains("PRIVATE KEY"));
        assert!(!format!("{made:?}").contains("PRIVATE"));
    }
}
