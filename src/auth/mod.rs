//! Who asks, and what that user may do. No HTTP server here: the edge hands in header values.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::oci::RepoName;

/// What someone without credentials may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anonymous {
    /// Nothing.
    None,
    /// Pull.
    Pull,
    /// Pull and push, delete, list: the open server.
    Push,
}

/// What a user is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `ro`: pull.
    Ro,
    /// `rw`: pull, push, delete.
    Rw,
    /// `mirror-puller`: pull, catalog.
    MirrorPuller,
    /// `mirror-pusher`: everything.
    MirrorPusher,
}

/// One thing to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read content of a repository.
    Pull,
    /// Write content of a repository.
    Push,
    /// Delete content of a repository.
    Delete,
    /// List the repositories.
    Catalog,
}

/// A user from the configuration file.
#[derive(Clone)]
pub struct UserSpec {
    /// The name.
    pub name: String,
    /// A bcrypt hash.
    pub password_hash: String,
    /// What the user is for.
    pub role: Role,
}

/// The token service's settings.
#[derive(Clone, Debug)]
pub struct TokenOptions {
    /// `None`: on as soon as there are users.
    pub enabled: Option<bool>,
    /// Life of a token.
    pub ttl: Duration,
    /// PEM of the signing key; `None`: one is made and kept in `key_dir`.
    pub signing_key_file: Option<PathBuf>,
    /// PEM of its certificate.
    pub signing_cert_file: Option<PathBuf>,
    /// Where a made key is kept.
    pub key_dir: PathBuf,
}

/// Everything that decides who may do what.
#[derive(Clone)]
pub struct AuthOptions {
    /// Rights without credentials.
    pub anonymous: Anonymous,
    /// Users of the configuration file.
    pub users: Vec<UserSpec>,
    /// A folder of mounted Secrets, one folder a user.
    pub users_dir: Option<PathBuf>,
    /// The token service.
    pub token: TokenOptions,
}

/// Who asks, proven.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The user's name; `None` for anonymous.
    pub user: Option<Arc<str>>,
}

/// Credentials were missing or wrong: status 401. The variant's name is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthFailure {
    /// No credentials, and anonymous may not.
    Missing,
    /// A header that can't be read.
    Malformed,
    /// Unknown user or wrong password.
    WrongPassword,
    /// A token that is not ours, expired, or of a user that is gone.
    BadToken,
    /// Too many wrong passwords are being checked: status 429.
    TooMany,
}

/// The identity is proven and may not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forbidden {
    /// A token without the action: 401 `insufficient_scope` with the scope needed.
    Scope(String),
    /// A user (or anonymous that has no credentials to add) without the right: 403.
    Right,
    /// Anonymous without the right: 401 with the challenge for the scope.
    NeedsCredentials(String),
}

/// An answer of the token service.
#[derive(Clone)]
pub struct IssuedToken {
    /// The JWT.
    pub token: String,
    /// Its life in seconds.
    pub expires_in: u64,
    /// When it was issued.
    pub issued_at: Timestamp,
}

/// The users could not be loaded; a sentence for the administrator.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct AuthError(pub String);

/// Checks credentials and rights; users and keys can be swapped while it works. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator {}

impl Authenticator {
    /// Loads users and keys; blocking.
    ///
    /// # Errors
    /// [`AuthError`] names the file and what is wrong with it.
    pub fn load(options: AuthOptions) -> Result<Self, AuthError> {
        let _ = options;
        todo!()
    }

    /// Loads again with `options` and puts the result into force; on an error everything stays as it was. Blocking.
    ///
    /// # Errors
    /// As [`Authenticator::load`].
    pub fn reload(&self, options: AuthOptions) -> Result<(), AuthError> {
        let _ = options;
        todo!()
    }

    /// Whether users are configured.
    #[must_use]
    pub fn has_users(&self) -> bool {
        todo!()
    }

    /// Whether the token service is on.
    #[must_use]
    pub fn tokens_enabled(&self) -> bool {
        todo!()
    }

    /// Proves who sends this `Authorization` header (its raw bytes; `None`: no header).
    /// Safe to drop: a password check that has begun ends and its verdict is remembered.
    ///
    /// # Errors
    /// [`AuthFailure`].
    pub async fn authenticate(&self, authorization: Option<&[u8]>) -> Result<Identity, AuthFailure> {
        let _ = authorization;
        todo!()
    }

    /// Proves name and password of a form sent to the token service.
    ///
    /// # Errors
    /// [`AuthFailure`].
    pub async fn authenticate_password(&self, user: &str, password: &str) -> Result<Identity, AuthFailure> {
        let _ = (user, password);
        todo!()
    }

    /// Whether the identity may do `action` (on `repo`; none for the catalog).
    ///
    /// # Errors
    /// [`Forbidden`].
    pub fn authorize(&self, who: &Identity, action: Action, repo: Option<&RepoName>) -> Result<(), Forbidden> {
        let _ = (who, action, repo);
        todo!()
    }

    /// A token for the asked scopes (`repository:<name>:<actions>`, `registry:catalog:*`), cut to what the identity may.
    ///
    /// # Errors
    /// [`AuthError`] if the token can't be signed.
    pub fn issue_token(&self, who: &Identity, scopes: &[String], now: Timestamp) -> Result<IssuedToken, AuthError> {
        let _ = (who, scopes, now);
        todo!()
    }
}
