//! Tokens: signed with our key, checked against it, remembered until they end.
//!
//! The algorithm is that of our key, for signing and for checking; what a token says of it is never asked.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use quick_cache::sync::Cache;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use super::own_key;
use super::rights::Scopes;
use super::{AuthError, IssuedToken, SERVICE, TokenOptions};
use crate::clock::Timestamp;

/// The issuer of tokens, as Deckhouse's registry names it.
const ISSUER: &str = "Registry server";

/// Largest difference between the clocks of a cluster that a token survives, in seconds.
const LEEWAY: u64 = 60;

/// Longest token that is looked at: one with 64 long scopes.
const TOKEN_BYTES: usize = 32 * 1024;

/// Verified tokens that are remembered.
pub(super) const REMEMBERED: usize = 4096;

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
    access: Scopes,
    /// Fingerprint of the password that the token was given for; see [`TokenService::fingerprint`].
    #[serde(default)]
    pwd: String,
}

/// The claims of a valid token.
#[derive(Debug)]
pub(super) struct Verified {
    /// `None`: anonymous.
    pub(super) user: Option<String>,
    pub(super) scopes: Arc<Scopes>,
    pub(super) password: String,
    not_before: u64,
    expires: u64,
}

impl Verified {
    /// From when on [`TokenService::verify`] says no, in seconds since 1970.
    pub(super) const fn holds_until(&self) -> u64 {
        self.expires.saturating_add(LEEWAY)
    }
}

/// Whom a token is for.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) name: &'a str,
    /// Bytes that change with the password.
    pub(super) secret: &'a [u8],
}

pub(super) struct TokenService {
    header: Header,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    fingerprints: hmac::Key,
    ttl: u64,
    verified: Cache<[u8; 32], Arc<Verified>>,
    /// The key, where it is this server's own: it outlives damage to its file.
    own: Option<Arc<SigningKey>>,
}

impl std::fmt::Debug for TokenService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenService").field("algorithm", &self.header.alg).finish_non_exhaustive()
    }
}

/// A private key with its public half, in the forms that jsonwebtoken reads.
pub(super) struct SigningKey {
    algorithm: Algorithm,
    pub(super) private: zeroize::Zeroizing<Vec<u8>>,
    pub(super) public: Vec<u8>,
}

impl TokenService {
    /// Reads the key that is given, or this server's own, which is made where there is none that can be read; blocking.
    /// `before`: the service in force.
    pub(super) fn load(options: &TokenOptions, before: Option<&Self>) -> Result<Self, AuthError> {
        let Some(file) = &options.signing_key_file else {
            let key = own_key::load(options.key_dir.as_deref(), before.and_then(|before| before.own.clone()))?;
            return Ok(Self { own: Some(Arc::clone(&key)), ..Self::new(&key, options.ttl.as_secs()) });
        };
        let pem = zeroize::Zeroizing::new(read("auth.token.signingKeyFile", file)?);
        let key = SigningKey::from_pem(&pem)
            .map_err(|reason| AuthError(format!("auth.token.signingKeyFile {}: {reason}", file.display())))?;
        if let Some(file) = &options.signing_cert_file {
            check_certificate(file, &key)?;
        }
        Ok(Self::new(&key, options.ttl.as_secs()))
    }

    fn new(key: &SigningKey, ttl: u64) -> Self {
        let (encoding, decoding) = match key.algorithm {
            Algorithm::RS256 => (EncodingKey::from_rsa_der(&key.private), DecodingKey::from_rsa_der(&key.public)),
            _ => (EncodingKey::from_ec_der(&key.private), DecodingKey::from_ec_der(&key.public)),
        };
        let mut validation = Validation::new(key.algorithm);
        validation.algorithms = vec![key.algorithm];
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_audience(&[SERVICE]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        let mut header = Header::new(key.algorithm);
        header.kid = Some(URL_SAFE_NO_PAD.encode(digest(&SHA256, &key.public)));
        Self {
            header,
            encoding,
            decoding,
            validation,
            // Derived from the private key: replicas with the same key agree, nobody else can compute it.
            fingerprints: hmac::Key::new(hmac::HMAC_SHA256, digest(&SHA256, &key.private).as_ref()),
            ttl,
            verified: Cache::new(REMEMBERED),
            own: None,
        }
    }

    /// Ties a token to the password of its user: with another password the token is worth nothing.
    pub(super) fn fingerprint(&self, secret: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(&hmac::sign(&self.fingerprints, secret).as_ref()[..12])
    }

    /// Signs a token for a user, or for anonymous.
    pub(super) fn issue(
        &self,
        user: Option<Subject<'_>>,
        scopes: &Scopes,
        now: Timestamp,
    ) -> Result<IssuedToken, AuthError> {
        let issued = now.as_secs();
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: SERVICE.to_owned(),
            sub: user.map(|user| user.name.to_owned()).unwrap_or_default(),
            iat: issued,
            nbf: issued,
            exp: issued + self.ttl,
            jti: uuid::Uuid::new_v4().simple().to_string(),
            access: scopes.clone(),
            pwd: user.map(|user| self.fingerprint(user.secret)).unwrap_or_default(),
        };
        let token = encode(&self.header, &claims, &self.encoding)
            .map_err(|error| AuthError(format!("a token can't be signed: {error}")))?;
        Ok(IssuedToken { token, expires_in: self.ttl, issued_at: now })
    }

    /// Whom a token of ours was given to, whether or not it still holds; for the log.
    pub(super) fn signed_for(&self, token: &str) -> Option<String> {
        if token.len() > TOKEN_BYTES {
            return None;
        }
        let mut validation = self.validation.clone();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        decode::<Claims>(token, &self.decoding, &validation).ok().map(|token| token.claims.sub)
    }

    /// The claims of the token, if it is ours and holds now.
    pub(super) fn verify(&self, token: &str, now: Timestamp) -> Option<Arc<Verified>> {
        if token.len() > TOKEN_BYTES {
            return None;
        }
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let seconds = now.as_secs();
        let known = self.verified.get(&key);
        let verified = match known {
            Some(verified) => verified,
            None => {
                let claims = decode::<Claims>(token, &self.decoding, &self.validation).ok()?.claims;
                let verified = Arc::new(Verified {
                    user: (!claims.sub.is_empty()).then_some(claims.sub),
                    scopes: Arc::new(claims.access),
                    password: claims.pwd,
                    not_before: claims.nbf,
                    expires: claims.exp,
                });
                self.verified.insert(key, Arc::clone(&verified));
                verified
            }
        };
        let holds = seconds + LEEWAY >= verified.not_before && seconds < verified.holds_until();
        holds.then_some(verified)
    }
}

impl SigningKey {
    /// RSA of at least 2048 bits, or P-256; PKCS#1, PKCS#8 or SEC1.
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, &'static str> {
        const KINDS: &str = "is neither an RSA key (of 2048 to 8192 bits) nor a P-256 key";
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| "holds no private key in PEM")?;
        match &der {
            PrivateKeyDer::Pkcs1(key) => {
                RsaKeyPair::from_der(key.secret_pkcs1_der()).map_err(|_| KINDS).and_then(|pair| Self::rsa(&pair, pem))
            }
            PrivateKeyDer::Pkcs8(key) => match RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()) {
                Ok(pair) => Self::rsa(&pair, pem),
                Err(_) => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der())
                    .map_err(|_| KINDS)
                    .and_then(|pair| Self::ec(&pair)),
            },
            PrivateKeyDer::Sec1(key) => {
                EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_sec1_der())
                    .map_err(|_| KINDS)
                    .and_then(|pair| Self::ec(&pair))
            }
            _ => Err(KINDS),
        }
    }

    fn rsa(pair: &RsaKeyPair, pem: &[u8]) -> Result<Self, &'static str> {
        if pair.public_modulus_len() < 256 {
            return Err("is an RSA key of less than 2048 bits");
        }
        // jsonwebtoken signs with the PKCS#1 form, which it takes out of either PEM.
        let encoding = EncodingKey::from_rsa_pem(pem).map_err(|_| "can't be decoded")?;
        let private = zeroize::Zeroizing::new(encoding.as_bytes().to_vec());
        Ok(Self { algorithm: Algorithm::RS256, private, public: pair.public_key().as_ref().to_vec() })
    }

    pub(super) fn ec(pair: &EcdsaKeyPair) -> Result<Self, &'static str> {
        let document = pair.to_pkcs8v1().map_err(|_| "can't be encoded")?;
        let private = zeroize::Zeroizing::new(document.as_ref().to_vec());
        Ok(Self { algorithm: Algorithm::ES256, private, public: pair.public_key().as_ref().to_vec() })
    }
}

fn read(key: &str, file: &Path) -> Result<Vec<u8>, AuthError> {
    std::fs::read(file).map_err(|error| AuthError(format!("{key} {}: {error}", file.display())))
}

/// The certificate is of the key, or the configuration mixes two pairs.
fn check_certificate(file: &Path, key: &SigningKey) -> Result<(), AuthError> {
    let wrong = |reason: &str| AuthError(format!("auth.token.signingCertFile {}: {reason}", file.display()));
    let pem = read("auth.token.signingCertFile", file)?;
    let der = CertificateDer::from_pem_slice(&pem).map_err(|_| wrong("holds no certificate in PEM"))?;
    let (_, certificate) =
        x509_parser::parse_x509_certificate(&der).map_err(|_| wrong("holds no certificate that can be read"))?;
    if certificate.public_key().subject_public_key.data.as_ref() == key.public {
        Ok(())
    } else {
        Err(wrong("is not the certificate of auth.token.signingKeyFile"))
    }
}

#[cfg(test)]
mod tests;
