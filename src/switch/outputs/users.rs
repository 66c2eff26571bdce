//! Secrets `registry-user-*`: who may ask the registry.

use std::collections::BTreeMap;

use super::go_json::sha256_hex;
use super::manifest::{SecretManifest, text_of};
use crate::switch::documents::User;
use crate::values::{Role, Secret};

/// Letters and digits of a password: 142 bits.
const LENGTH: usize = 24;
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// The cost of Deckhouse's hashes.
const COST: u32 = 10;
/// What bcrypt reads of a password.
const BCRYPT_BYTES: usize = 72;

/// A user could not be made.
#[derive(Debug, thiserror::Error)]
pub enum UserError<E> {
    /// There were no random bytes.
    #[error("there are no random bytes")]
    Random(#[source] E),
    /// The password can't be hashed.
    #[error("the password of user {0} can't be hashed: it is longer than 72 bytes, or empty")]
    Hash(&'static str),
}

/// The Secret's name.
#[must_use]
pub fn user_secret(role: Role) -> String {
    format!("registry-user-{role}")
}

/// A user with a new password. `fill` fills its argument with random bytes. Blocking: 70 ms of a core.
///
/// # Errors
/// [`UserError`].
pub fn new_user<E>(
    role: Role,
    mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
) -> Result<SecretManifest, UserError<E>> {
    let mut password = String::with_capacity(LENGTH);
    let mut bytes = zeroize::Zeroizing::new([0_u8; 2 * LENGTH]);
    while password.len() < LENGTH {
        fill(bytes.as_mut_slice()).map_err(UserError::Random)?;
        // 248 is the largest multiple of 62 that a byte holds: below it every letter is as likely.
        let letters = bytes.iter().filter(|byte| **byte < 248).map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        password.extend(letters.take(LENGTH - password.len()));
    }
    user(role, &Secret::new(password), fill)
}

/// The user with a hash that is one of its password. Blocking: 70 ms of a core.
///
/// # Errors
/// [`UserError`].
pub fn user<E>(
    role: Role,
    password: &Secret,
    mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
) -> Result<SecretManifest, UserError<E>> {
    let mut salt = [0; 16];
    fill(&mut salt).map_err(UserError::Random)?;
    let text = password.expose();
    if text.is_empty() || text.len() > BCRYPT_BYTES {
        return Err(UserError::Hash(role.as_str()));
    }
    let hash = bcrypt::hash_with_salt(text, COST, salt).map_err(|_| UserError::Hash(role.as_str()))?;
    let hash = hash.format_for_version(bcrypt::Version::TwoA);
    Ok(SecretManifest::new(user_secret(role), "registry/user")
        .label("type", "registry-user")
        .annotation("helm.sh/resource-policy", "keep")
        .data("name", role.as_str())
        .data("password", text)
        .data("passwordHash", hash))
}

impl User {
    /// Reads the data of the Secret. `fits` says whether a hash is one of a password; [`hash_fits`] computes it.
    ///
    /// # Errors
    /// A sentence without secrets.
    pub fn read(data: &BTreeMap<String, Vec<u8>>, fits: impl FnOnce(&str, &str) -> bool) -> Result<Self, String> {
        let name = text_of(data, "name")?.trim();
        let password = text_of(data, "password")?;
        if name.is_empty() || password.is_empty() {
            return Err("name or password is empty".to_owned());
        }
        let hash = text_of(data, "passwordHash").unwrap_or_default();
        let hash_fits = !hash.is_empty() && fits(password, hash);
        // As a server reads the file.
        let fingerprint = sha256_hex(hash.trim_end_matches(['\n', '\r']).as_bytes());
        Ok(Self { name: name.to_owned(), password: Secret::new(password.to_owned()), fingerprint, hash_fits })
    }
}

/// Whether the hash is one of the password. Blocking: 70 ms of a core at cost 10.
#[must_use]
pub fn hash_fits(password: &str, hash: &str) -> bool {
    bcrypt::verify(password, hash.trim()).unwrap_or(false)
}
